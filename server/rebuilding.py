"""`tallystick rollups rebuild`: the sums of whole days made again, one day after the other."""

from collections.abc import Callable, Sequence
from datetime import date, timedelta

from sqlalchemy.engine import Engine

from kernel.settings import Settings
from tracker import rollup_checks

DAYS_MAX = 3_660


def days(first: str, last: str) -> list[date]:
    """The days from the first to the last, both included; ValueError that says what is wrong."""
    try:
        start, end = date.fromisoformat(first), date.fromisoformat(last)
    except ValueError as error:
        raise ValueError(f"a day looks like 2026-03-01: {error}") from error
    count = (end - start).days + 1
    if not 1 <= count <= DAYS_MAX:
        raise ValueError(f"from {start} to {end} are not 1 to {DAYS_MAX} days")
    return [start + timedelta(days=number) for number in range(count)]


def run(
    engine: Engine,
    settings: Settings,
    wanted: Sequence[date],
    *,
    accept_fewer: bool,
    say: Callable[[str], object],
) -> bool:
    """Rebuild the days and say what changed; False when a day was left as it was.

    A day is left when its clicks are gone, and stops no other.
    """
    complete = True
    for number, day in enumerate(wanted, start=1):
        try:
            made = rollup_checks.rebuild(
                engine, day, values_max=settings.rollup_values_max, accept_fewer=accept_fewer
            )
        except rollup_checks.FactsGone as error:
            complete = False
            say(f"left {error.message}; nothing changed")
            continue
        say(f"{number}/{len(wanted)} {day}: {made.rows} rows changed, {made.clicks:+d} clicks")
    return complete
