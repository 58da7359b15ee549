"""Signed notes of C2SP (`signed-note`), as transparency logs sign their checkpoints. Ed25519.

A note is text that ends with a newline, an empty line, and signature lines; a verifier key names
who may sign it. https://c2sp.org/signed-note
"""

import base64
import binascii
import hashlib
from dataclasses import dataclass

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

_ED25519 = 0x01
_KEY_BYTES = 32
_ID_BYTES = 4
_LINES_MAX = 100


class NoteError(ValueError):
    """The key or the note is not of this form; the message says where."""


@dataclass(frozen=True, slots=True)
class VerifierKey:
    """Who signs: a name and an Ed25519 key, with the four bytes that say so in a signature."""

    name: str
    id: bytes
    public: bytes


def read_key(text: str) -> VerifierKey:
    """The key in `name+hash+base64`; NoteError where its hash is not that of name and key."""
    name, _, rest = text.partition("+")
    hashed, _, encoded = rest.partition("+")
    if not name or any(sign.isspace() for sign in name) or len(hashed) != 2 * _ID_BYTES:
        raise NoteError("a verifier key is name+hash+key")
    raw = _decoded(encoded)
    if len(raw) != 1 + _KEY_BYTES or raw[0] != _ED25519:
        raise NoteError("the verifier key is not an Ed25519 key")
    key_id = hashlib.sha256(name.encode() + b"\n" + raw).digest()[:_ID_BYTES]
    if key_id.hex() != hashed:
        raise NoteError("the verifier key's hash is not that of its name and key")
    return VerifierKey(name, key_id, raw[1:])


def is_signed(note: str, key: VerifierKey) -> bool:
    """Whether the note carries a signature of the key that holds; NoteError for a broken note."""
    text, separator, signatures = note.rpartition("\n\n")
    lines = signatures.split("\n")
    if not separator or lines.pop() or not 0 < len(lines) <= _LINES_MAX:
        raise NoteError("a note is text, an empty line and signature lines")
    signed = False
    for line in lines:
        mark, _, rest = line.partition(" ")
        name, _, encoded = rest.partition(" ")
        if mark != "\N{EM DASH}" or not name or not encoded:
            raise NoteError("a signature line is a dash, a name and a signature")
        raw = _decoded(encoded)
        if name == key.name and raw[:_ID_BYTES] == key.id:
            # One that does not hold spoils the note, whatever the others say.
            if not _holds(key.public, raw[_ID_BYTES:], (text + "\n").encode()):
                return False
            signed = True
    return signed


def _holds(public: bytes, signature: bytes, text: bytes) -> bool:
    try:
        Ed25519PublicKey.from_public_bytes(public).verify(signature, text)
    except InvalidSignature:
        return False
    return True


def _decoded(encoded: str) -> bytes:
    try:
        return base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError) as error:
        raise NoteError("not base64") from error
