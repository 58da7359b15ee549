"""Public ids: a prefix that says what it is, and 26 characters that say nothing else.

`new_id` is time-ordered (48 bits of milliseconds, 80 random bits). `derived_id` is a keyed hash
of the facts that make a thing the same thing, so that a repeat gives the same id without asking
a database; the key keeps outsiders from computing ids of orders they do not own.
"""

import hashlib
import secrets
from datetime import UTC, datetime, timedelta
from functools import lru_cache

from kernel import clock

_ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"  # Crockford base32, lower case
# Any byte as one of the characters, each as often as every other.
_CHARACTERS = (_ALPHABET * 8).encode()
_RANDOM_CHARS = 16
_PAIRS = [high + low for high in _ALPHABET for low in _ALPHABET]
_SHIFTS = range(120, -10, -10)  # 26 characters
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MILLISECOND = timedelta(milliseconds=1)


def new_id(prefix: str, *, at: datetime | None = None) -> str:
    """A fresh id such as `pub_01k...`; ids made later sort later, to the millisecond."""
    rest = secrets.token_bytes(_RANDOM_CHARS).translate(_CHARACTERS).decode()
    return _beginning(prefix, at or clock.now()) + rest


# A batch of rows carries one instant.
@lru_cache(maxsize=64)
def _beginning(prefix: str, at: datetime) -> str:
    milliseconds = (at - _EPOCH) // _MILLISECOND
    return f"{prefix}_{_encode(milliseconds << 80)[:-_RANDOM_CHARS]}"


def derived_id(prefix: str, key: bytes, *parts: str) -> str:
    """The id of (key, parts): equal for equal parts, unguessable without the 32-byte key."""
    digest = hashlib.blake2b(digest_size=16, key=key)
    for part in parts:
        encoded = part.encode()
        # The length goes first so that ("a", "bc") and ("ab", "c") stay different.
        digest.update(len(encoded).to_bytes(4, "big"))
        digest.update(encoded)
    return f"{prefix}_{_encode(int.from_bytes(digest.digest(), 'big'))}"


def _encode(number: int) -> str:
    # Two characters a step: ids are made for every row that is written.
    return "".join([_PAIRS[number >> bits & 1023] for bits in _SHIFTS])
