"""Adding to a day and letting one go, with millions of clicks in the days before and with none.

Two databases, one empty and one with many full days, get the same clicks in a new day, in turn.
Then a day with a thousand clicks and one with all that a day has are let go.

    python benchmarks/partitions.py [stored clicks] [clicks a day]
"""

import os
import platform
import secrets
import sqlite3
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.ingest import postgres
from kernel import clock
from kernel.database import checkpoint, connect, unit_of_work
from server import migrate
from tracker import click_days, day_files, day_partitions
from tracker.day_files import COLUMNS

STORED, A_DAY, ROUNDS, BATCH, SMALL = 1_000_000, 100_000, 5, 10_000, 1_000
FIRST = date(2025, 1, 1)
RESULT = Path(__file__).resolve().parent / "results" / "partitions.txt"
FACTS: dict[str, Any] = {
    "program_id": "prg_01m80t2mp26n5pjz68178debzv",
    "publisher_id": "pub_01m80t49gj3nv5pvgq9xe8bpbs",
    "imported": False,
    "landing_url": "https://shop.example/",
    "sub_ids": '{"s1":"blog"}',
    "parameters": '{"s1":"blog"}',
    "address": "91.0.0.0/24",
    "user_agent": "Mozilla/5.0 Gecko/",
    "agent_class": "browser",
    "country": "DE",
    "country_source": "registry",
    "is_hosting": False,
    "duplicates": 0,
    "carried_clicks": 0,
}


class Days:
    """A database that is filled by the day, as the shipper does."""

    def __init__(self, url: str) -> None:
        migrate.upgrade(url)
        self.engine = connect(url)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self.now = clock.now()

    def rows(self, day: date, count: int) -> list[tuple[Any, ...]]:
        start = datetime(day.year, day.month, day.day, tzinfo=UTC)
        made = []
        for number in range(count):
            at: Any = start + timedelta(milliseconds=number * 86_000_000 // count)
            facts = FACTS | {
                "id": f"{day:%j}{number:09d}{secrets.token_urlsafe(30)}",
                "at": at.isoformat(" ", "microseconds")[:26] if self.is_sqlite else at,
                "visitor_key": secrets.token_hex(16),
                "origin": number,
            }
            made.append(tuple((day_files.EMPTY | facts)[name] for name in COLUMNS))
        return made

    def add(self, day: date, rows: list[tuple[Any, ...]]) -> int:
        places = click_days.open_days(self.engine, [day], now=self.now)
        latest = datetime(day.year, day.month, day.day, 23, tzinfo=UTC)
        for at in range(0, len(rows), BATCH):
            batch = rows[at : at + BATCH]
            if self.is_sqlite:
                click_days.write_file(self.engine, places[day], batch)
            with unit_of_work(self.engine) as session:
                if not self.is_sqlite:
                    day_partitions.copy(session.connection(), batch)
                click_days.added(session, {day: (len(batch), latest)}, places)
        return len(rows)

    def retire(self, day: date) -> None:
        """Let this day go and no other: it is the only one that is old enough."""
        with unit_of_work(self.engine) as session:
            row = click_days.known(session, [day])[day]
            row.opened_at = datetime(2020, 1, 1, tzinfo=UTC)
            session.add(row)
        if click_days.retire(self.engine, keep_days=1, now=self.now) != 1:
            raise RuntimeError("one day was to be let go")


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measure(name: str, empty: Days, full: Days, stored: int, a_day: int) -> Iterator[str]:
    days = max(1, stored // a_day)
    took = 0.0
    for number in range(days):
        day = FIRST + timedelta(days=number)
        rows = full.rows(day, a_day)
        took += seconds(lambda day=day, rows=rows: full.add(day, rows))  # type: ignore[misc]  # mypy cannot infer a lambda's default
    small = FIRST - timedelta(days=1)
    full.add(small, full.rows(small, SMALL))
    rates: dict[bool, list[float]] = {False: [], True: []}
    for number in range(2 * ROUNDS):
        is_full = number % 2 == 1
        day = FIRST + timedelta(days=days + number)
        where = full if is_full else empty
        rows = where.rows(day, a_day)
        spent = seconds(lambda day=day, rows=rows, where=where: where.add(day, rows))  # type: ignore[misc]  # as above
        rates[is_full].append(a_day / spent)
        checkpoint(where.engine)
    pairs = [there / none for none, there in zip(rates[False], rates[True], strict=True)]
    gone_small = seconds(lambda: full.retire(small))
    gone_large = [seconds(lambda day=day: full.retire(day)) for day in some_days(days)]  # type: ignore[misc]  # as above
    stored_rate, ratio = days * a_day / took, statistics.median(pairs)
    none, every = (statistics.median(rates[is_full]) for is_full in (False, True))
    yield f"{name}: {days * a_day} clicks in {days} days, stored at {stored_rate:.0f} a second"
    yield f"  a new day of {a_day}, with none stored  {none:8.0f} a second"
    yield f"  a new day of {a_day}, with all stored   {every:8.0f} a second"
    yield f"  ratio {ratio:.2f}  (median of {ROUNDS} pairs in turn; target: about 1)"
    yield (
        f"  letting a day go: {1000 * gone_small:.0f} ms with {SMALL} clicks, "
        f"{1000 * statistics.median(gone_large):.0f} ms with {a_day}  (median of {len(gone_large)})"
    )


def some_days(days: int) -> list[date]:
    return [FIRST + timedelta(days=number) for number in range(min(days, 5))]


def main(stored: int, a_day: int) -> Iterator[str]:
    yield f"date      {clock.now():%Y-%m-%d %H:%M} UTC"
    yield f"machine   {platform.machine()}, {platform.system()}, {os.cpu_count()} cores"
    yield f"load      {os.getloadavg()[0]:.1f}"
    yield f"python    {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    with tempfile.TemporaryDirectory() as made:
        empty, full = (Days(f"sqlite:///{made}/{name}.db") for name in ("empty", "full"))
        yield from measure("SQLite", empty, full, stored, a_day)
        size = sum(path.stat().st_size for path in Path(made).rglob("*") if path.is_file())
        yield f"  on disk {size / 1e6:.0f} MB"
        for one in (empty, full):
            one.engine.dispose()
    with postgres() as first, postgres() as second:
        if first is None or second is None:
            yield "PostgreSQL cannot be reached: not measured"
            return
        empty, full = Days(first), Days(second)
        yield from measure("PostgreSQL", empty, full, stored, a_day)
        for one in (empty, full):
            one.engine.dispose()


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:]] + [STORED, A_DAY][len(sys.argv) - 1 :]
    lines = []
    for line in main(*given[:2]):
        print(line, flush=True)
        lines.append(line)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text("\n".join(lines) + "\n")
