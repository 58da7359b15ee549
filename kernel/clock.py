"""The one place that reads the wall clock. Domain functions take `now` instead of calling this."""

from datetime import UTC, datetime


def now() -> datetime:
    """The present instant, aware, in UTC, cut to milliseconds (what every store of ours keeps)."""
    instant = datetime.now(UTC)
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)


def to_rfc3339(instant: datetime) -> str:
    """`2026-03-01T12:00:00.250Z`: UTC, milliseconds, always the same width."""
    return instant.astimezone(UTC).isoformat(timespec="milliseconds").removesuffix("+00:00") + "Z"
