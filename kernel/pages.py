"""Cursors: where a list goes on, opaque to the caller, stable while rows are added."""

import base64
import json
from typing import Any

from kernel.errors import invalid


def encode(*position: int | str) -> str:
    """The cursor for the sort values of the last row shown."""
    return base64.urlsafe_b64encode(json.dumps(position).encode()).rstrip(b"=").decode()


def decode(cursor: str, *kinds: type) -> list[Any]:
    """The sort values in a cursor of ours; anything else is InvalidInput on `cursor`."""
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        position = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, RecursionError) as error:
        raise _wrong() from error
    if not isinstance(position, list) or [type(part) for part in position] != list(kinds):
        raise _wrong()
    # A number beyond 64 bits is none of ours, and the database drivers would fail on it.
    if any(isinstance(part, int) and abs(part) >= 2**63 for part in position):
        raise _wrong()
    return position


def _wrong() -> Exception:
    return invalid("cursor", "cursor", "is not a cursor that this list gave out")
