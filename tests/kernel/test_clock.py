"""One clock: aware, UTC, whole milliseconds, one spelling."""

from datetime import UTC, datetime, timedelta, timezone

import pytest

from kernel import clock


def test_now_is_aware_utc_and_cut_to_milliseconds() -> None:
    before = datetime.now(UTC)
    instant = clock.now()
    after = datetime.now(UTC)

    assert instant.tzinfo is UTC
    assert instant.microsecond % 1000 == 0
    assert before - timedelta(milliseconds=1) < instant <= after


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (datetime(2026, 3, 1, 12, 0, 0, 250_000, UTC), "2026-03-01T12:00:00.250Z"),
        (datetime(2026, 3, 1, 12, tzinfo=UTC), "2026-03-01T12:00:00.000Z"),
        (datetime(2026, 3, 1, 1, tzinfo=timezone(timedelta(hours=2))), "2026-02-28T23:00:00.000Z"),
        (datetime(2026, 3, 1, 12, 0, 0, 999, UTC), "2026-03-01T12:00:00.000Z"),
    ],
)
def test_times_are_written_in_utc_and_always_as_wide(instant: datetime, text: str) -> None:
    assert clock.to_rfc3339(instant) == text
