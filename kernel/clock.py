"""The one place that reads the wall clock. Domain functions take `now` instead of calling this."""

from datetime import UTC, datetime, timedelta
from time import time_ns
from typing import Final

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_last: tuple[int, datetime] = (0, _EPOCH)


def now() -> datetime:
    """The present instant, aware, in UTC, cut to milliseconds (what every store of ours keeps)."""
    global _last  # noqa: PLW0603 - replaced as a whole: a thread sees the old pair or the new one
    milliseconds = time_ns() // 1_000_000
    last = _last
    if last[0] != milliseconds:
        # Under load many clicks fall into one millisecond, and reading a number is cheaper.
        last = _last = (milliseconds, _EPOCH + timedelta(milliseconds=milliseconds))
    return last[1]


def to_rfc3339(instant: datetime) -> str:
    """`2026-03-01T12:00:00.250Z`: UTC, milliseconds, always the same width."""
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
