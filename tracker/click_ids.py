"""Click ids that carry their own facts and prove who wrote them.

An id is 39 bytes in base64url, always 52 characters and never padded:

    version 1 | key id 1 | time ms 6 | program 4 | publisher 4 | flags 1 | random 10 | MAC 12

All numbers are big-endian. The MAC is keyed blake2b over the 27 bytes before it, so that a sale can
be attributed although its click row is late or lost, and an altered or invented id is refused.
39 bytes are exactly 52 sextets: there are no spare bits, hence one spelling for each id.
"""

import base64
import hmac
import os
import re
import secrets
from binascii import b2a_base64
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import blake2b
from struct import Struct
from typing import Final, Literal

from kernel.errors import FieldProblem, InvalidInput

CLICK_ID_LENGTH: Final = 52
RANDOM_BYTES: Final = 10
FLAG_IMPORTED: Final = 1
FLAG_NOT_BILLABLE: Final = 2

ClickIdProblem = Literal["malformed", "unknown_key", "forged"]

_VERSION: Final = 1
_KNOWN_FLAGS: Final = FLAG_IMPORTED | FLAG_NOT_BILLABLE
_MAC_BYTES: Final = 12
_KEY_BYTES_MIN: Final = 16
_U8_MAX: Final = 0xFF
_U32_MAX: Final = 0xFFFF_FFFF
# The 48-bit time is packed as its upper 16 and lower 32 bits.
_BODY: Final = Struct(">BBHIIIB10s")
_SHAPE: Final = re.compile(rf"[A-Za-z0-9_-]{{{CLICK_ID_LENGTH}}}", re.ASCII)
_URL_SAFE: Final = bytes.maketrans(b"+/", b"-_")
_IDS_A_BLOCK: Final = 400
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND: Final = timedelta(milliseconds=1)
# Keeps a key that is by mistake used elsewhere too from lending its MACs to click ids.
_PERSON: Final = b"tallystick-click"

_MESSAGES: Final[Mapping[ClickIdProblem, str]] = {
    "malformed": "This is not a click id.",
    "unknown_key": "This click id was signed with a key that is not in use here.",
    "forged": "This click id was altered or not issued here.",
}


class ClickIdError(InvalidInput):
    """A text that is no click id of ours; `reason` is 'malformed', 'unknown_key' or 'forged'."""

    code = "invalid_click_id"
    title = "The click id is not valid"

    def __init__(self, reason: ClickIdProblem) -> None:
        super().__init__([FieldProblem("click_id", reason, _MESSAGES[reason])])
        self.reason: ClickIdProblem = reason


@dataclass(frozen=True, slots=True)
class ClickFacts:
    """What a genuine click id says: UTC time to the millisecond, program and publisher numbers."""

    at: datetime
    program_number: int
    publisher_number: int
    imported: bool
    billable: bool


class ClickIdSigner:
    """Issues click ids under one key and reads those of every key it is given.

    `keys` maps key ids (0 to 255) to secrets of 16 to 64 bytes, `current` is the id that signs.
    To rotate: add a key, make it current, and keep the old one while its clicks may be attributed.
    """

    def __init__(self, keys: Mapping[int, bytes], current: int) -> None:
        if current not in keys:
            raise ValueError(f"the current key {current} is not among the keys")
        for key_id, key in keys.items():
            if not 0 <= key_id <= _U8_MAX:
                raise ValueError(f"key id {key_id} is not in 0..255")
            if not _KEY_BYTES_MIN <= len(key) <= blake2b.MAX_KEY_SIZE:
                raise ValueError(f"key {key_id} must be 16 to 64 bytes long")
        # A keyed hash costs a block to set up; a copy of a prepared one does not.
        self._macs = {
            key_id: blake2b(key=key, digest_size=_MAC_BYTES, person=_PERSON)
            for key_id, key in keys.items()
        }
        self._current = current
        self._last = (_EPOCH, 0)

    def mint(
        self,
        *,
        at: datetime,
        program_number: int,
        publisher_number: int,
        flags: int = 0,
        random_bytes: bytes | None = None,
    ) -> str:
        """A new id. `at` is aware, 1970 or later, and is cut (not rounded) to the millisecond.

        An import passes its own 10 `random_bytes`, derived from the imported row, so that the same
        row gets the same id again under the same key. ValueError when a number, the time, a flag or
        the length of `random_bytes` does not fit.
        """
        last_at, time_ms = self._last
        if last_at is not at:
            # Clicks of one millisecond share the instant that the clock gave them.
            time_ms = (at - _EPOCH) // _MILLISECOND
            if time_ms < 0:
                raise ValueError("a click id cannot carry a time before 1970")
            self._last = (at, time_ms)
        if not (0 <= program_number <= _U32_MAX and 0 <= publisher_number <= _U32_MAX):
            raise ValueError("program and publisher numbers must fit 32 bits")
        if flags & ~_KNOWN_FLAGS:
            raise ValueError(f"unknown click id flags {flags:#x}")
        if random_bytes is None:
            random_bytes = _take_random()
        elif len(random_bytes) != RANDOM_BYTES:
            raise ValueError(f"random_bytes must be {RANDOM_BYTES} bytes long")
        body = _BODY.pack(
            _VERSION,
            self._current,
            time_ms >> 32,
            time_ms & _U32_MAX,
            program_number,
            publisher_number,
            flags,
            random_bytes,
        )
        # base64.urlsafe_b64encode, without its two look-ups of a table and a copy.
        signed = b2a_base64(body + self._mac(self._current, body), newline=False)
        return signed.translate(_URL_SAFE).decode("ascii")

    def read(self, text: str) -> ClickFacts:
        """The facts of a genuine id; ClickIdError for every other text, whatever it holds."""
        # The pattern comes first because base64 decoding in Python skips what it does not know,
        # which would give one id many spellings.
        if _SHAPE.fullmatch(text) is None:
            raise ClickIdError("malformed")
        raw = base64.urlsafe_b64decode(text)
        body, mac = raw[: _BODY.size], raw[_BODY.size :]
        version, key_id, time_high, time_low, program, publisher, flags, _ = _BODY.unpack(body)
        if version != _VERSION:
            raise ClickIdError("malformed")
        if key_id not in self._macs:
            raise ClickIdError("unknown_key")
        if not hmac.compare_digest(mac, self._mac(key_id, body)):
            raise ClickIdError("forged")
        # Signed by us with a bit this version does not know: written by a later release.
        if flags & ~_KNOWN_FLAGS:
            raise ClickIdError("malformed")
        return ClickFacts(
            at=_EPOCH + (time_high << 32 | time_low) * _MILLISECOND,
            program_number=program,
            publisher_number=publisher,
            imported=bool(flags & FLAG_IMPORTED),
            billable=not flags & FLAG_NOT_BILLABLE,
        )

    def _mac(self, key_id: int, body: bytes) -> bytes:
        mac = self._macs[key_id].copy()
        mac.update(body)
        return mac.digest()


# The operating system's random bytes for ids to come, read for many at a time: a system call for
# each costs as much as the rest of an id. A forked process begins with a block of its own.
_random_pieces: list[bytes] = []
os.register_at_fork(after_in_child=_random_pieces.clear)


def _take_random() -> bytes:
    try:
        # One step for the interpreter: no two threads get the same piece.
        return _random_pieces.pop()
    except IndexError:
        block = secrets.token_bytes(RANDOM_BYTES * _IDS_A_BLOCK)
        piece, *rest = (block[at : at + RANDOM_BYTES] for at in range(0, len(block), RANDOM_BYTES))
        _random_pieces.extend(rest)
        return piece


def time_of(text: str) -> datetime | None:
    """The time that an id states, believed by nobody: to find its row. None for no id of ours."""
    if _SHAPE.fullmatch(text) is None:
        return None
    raw = base64.urlsafe_b64decode(text[:12])
    try:
        return _EPOCH + int.from_bytes(raw[2:8], "big") * _MILLISECOND
    except OverflowError:
        return None
