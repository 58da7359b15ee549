"""One master secret, and a key of its own for each purpose.

Every key is derived with HKDF-SHA256 from the master secret, so a node needs one value to mint
click ids, sign receipts and tokens, and name conversions exactly as every other node does.
"""

import os
import secrets
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from kernel.settings import Settings


class SecretFileError(Exception):
    """The secret file exists but other users may read it, or it is too short to be one."""


@dataclass(frozen=True, slots=True)
class Keys:
    """Keys derived from the master secret; purposes are never shared between uses."""

    master: bytes

    def derive(self, purpose: str) -> bytes:
        """32 bytes for this purpose; the same secret and purpose always give the same bytes."""
        return HKDF(
            algorithm=hashes.SHA256(), length=32, salt=b"tallystick", info=purpose.encode()
        ).derive(self.master)

    def signing_key(self, purpose: str) -> Ed25519PrivateKey:
        """The Ed25519 key for this purpose. Its signatures are deterministic."""
        return Ed25519PrivateKey.from_private_bytes(self.derive(purpose))


def load(settings: Settings) -> Keys:
    """The keys of this installation; makes `data_dir/secret` (mode 600) on the first call."""
    if settings.secret is not None:
        return Keys(settings.secret.get_secret_value().encode())
    return Keys(_read_or_create(settings.data_dir / "secret"))


def _read_or_create(path: Path) -> bytes:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        _create(path)
    return _read(path)


def _create(path: Path) -> None:
    # Written whole under another name (mkstemp: mode 600) and then linked: of processes that start
    # together one wins, and none ever reads a file that is half written.
    descriptor, draft = tempfile.mkstemp(dir=path.parent, prefix=".secret-")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(secrets.token_urlsafe(48))
            file.flush()
            os.fsync(file.fileno())
        with suppress(FileExistsError):
            os.link(draft, path)
    finally:
        Path(draft).unlink()
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _read(path: Path) -> bytes:
    if path.stat().st_mode & 0o077:
        raise SecretFileError(f"{path} must be readable by its owner only (chmod 600)")
    content = path.read_bytes().strip()
    if len(content) < 32:  # noqa: PLR2004 - 256 bits, the rule itself
        raise SecretFileError(f"{path} holds less than 32 characters; it is not a whole secret")
    return content
