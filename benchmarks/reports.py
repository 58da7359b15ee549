"""Reports from roll-ups against the same sums read from the click table, on SQLite.

Three million clicks of thirty days, two hundred publishers and forty countries (Zipf), are put into
the files of their days with their indexes and, in batches as the shipper makes them, into the
roll-ups. Both
answers are compared before anything is timed. The upkeep is what the roll-ups add to a batch,
measured beside the insertion of the same rows into those files.
"""

import json
import os
import platform
import random
import sqlite3
import statistics
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kernel.database import checkpoint, connect, reading, unit_of_work
from kernel.settings import Settings
from network import programs, publishers
from network.access import Actor
from network.models import Role
from server import migrate
from tests import make
from tracker import click_days, day_files, reports
from tracker.day_files import COLUMNS
from tracker.models import Click
from tracker.reports import Question

CLICKS = int(sys.argv[1]) if len(sys.argv) > 1 else 3_000_000
DAYS, PUBLISHERS, PROGRAMS, COUNTRIES = 30, 200, 4, 40
BATCHES = (500, 10_000)
END = datetime(2026, 3, 31, tzinfo=UTC)
AGENTS = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605 Mobile/15E148",
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
)
RESULT = Path(__file__).resolve().parent / "results" / "reports.txt"


def parties(session: Session) -> tuple[list[str], list[str]]:
    """Ids of programs and publishers."""
    advertiser = programs.add_advertiser(session, name="Shop", now=END)
    made = [
        programs.add(
            session,
            advertiser_id=advertiser.id,
            code=f"shop-{number}",
            name=f"Shop {number}",
            currency="EUR",
            landing_url="https://shop.example/",
            now=END,
        ).id
        for number in range(PROGRAMS)
    ]
    sites = [
        publishers.add(session, code=f"site-{number}", name=f"Site {number}", now=END).id
        for number in range(PUBLISHERS)
    ]
    return made, sites


def rows(made: list[str], sites: list[str], size: int) -> Iterator[list[dict[str, Any]]]:
    """Batches of clicks in the order of time."""
    dice = random.Random(3)  # noqa: S311 - not for secrets
    step = timedelta(days=DAYS) / CLICKS
    zipf_sites = [1 / rank for rank in range(1, PUBLISHERS + 1)]
    zipf_countries = [1 / rank for rank in range(1, COUNTRIES + 1)]
    countries = [f"{chr(65 + n // 26)}{chr(65 + n % 26)}" for n in range(COUNTRIES)]
    for start in range(0, CLICKS, size):
        count = min(size, CLICKS - start)
        who = dice.choices(sites, zipf_sites, k=count)
        where = dice.choices(countries, zipf_countries, k=count)
        yield [
            {
                "id": f"c{start + at:09d}",
                "at": END - timedelta(days=DAYS) + (start + at) * step,
                "program_id": made[(start + at) % PROGRAMS],
                "publisher_id": who[at],
                "imported": False,
                "unbillable_reason": "" if at % 20 else "prefetch",
                "landing_url": "https://shop.example/",
                "sub_ids": {"s1": f"slot-{at % 12}"} if at % 2 else {},
                "parameters": {},
                "address": "192.0.2.0/24",
                "visitor_key": f"{dice.getrandbits(64):032x}",
                "user_agent": AGENTS[at % 2],
                "agent_class": "browser",
                "referrer": "",
                "accept_language": "en",
                "country": where[at],
                "country_source": "x",
                "is_hosting": False,
                "duplicates": 0,
            }
            for at in range(count)
        ]


def fill(engine: Engine, size: int) -> tuple[list[str], float, float]:
    """Publishers, and seconds in the click table and in the roll-ups."""
    with unit_of_work(engine) as session:
        made, sites = parties(session)
    inserting, rolling = 0.0, 0.0
    for batch in rows(made, sites, size):
        stored = by_day(batch)
        start = time.perf_counter()
        places = click_days.open_days(engine, list(stored), now=END)
        for day, of_day in stored.items():
            click_days.write_file(engine, places[day], of_day)
        with unit_of_work(engine) as session:
            added = {day: (len(of_day), END) for day, of_day in stored.items()}
            click_days.added(session, added, places)
        inserting += time.perf_counter() - start
        with unit_of_work(engine) as session:
            start = time.perf_counter()
            make.count_clicks(session, batch)
        rolling += time.perf_counter() - start
    checkpoint(engine)
    return sites, inserting, rolling


def by_day(batch: list[dict[str, Any]]) -> dict[date, list[tuple[Any, ...]]]:
    """Finished rows, as the shipper makes them, under their days."""
    found: dict[date, list[tuple[Any, ...]]] = {}
    for number, row in enumerate(batch):
        facts = row | {
            "at": row["at"].isoformat(" ", "microseconds")[:26],
            "sub_ids": json.dumps(row["sub_ids"]),
            "parameters": "{}",
            "carried_clicks": 0,
            "origin": number,
        }
        made = tuple((day_files.EMPTY | facts)[name] for name in COLUMNS)
        found.setdefault(click_days.day_of(row["at"]), []).append(made)
    return found


def best(function: Callable[[], Any], times: int = 5) -> float:
    """Median seconds."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def scan(engine: Engine, publisher_id: str | None, key: Any) -> dict[Any, int]:
    """Clicks that may earn by a key, from the click table."""
    table = Click.metadata.tables["click"]
    query = (
        sa.select(key, sa.func.count())
        .where(table.c.at >= END - timedelta(days=DAYS), table.c.unbillable_reason == "")
        .group_by(key)
    )
    if publisher_id is not None:
        query = query.where(table.c.publisher_id == publisher_id)
    found: Counter[Any] = Counter()
    with reading(engine) as session:
        for day in click_days.kept(session):
            with click_days.reading_day(session, day) as of_day:
                if of_day is not None:
                    found.update({row[0]: row[1] for row in of_day.execute(query)})
    return dict(found)


def report(engine: Engine, actor: Actor, groups: tuple[str, ...]) -> reports.Report:
    """The same from the roll-ups, as the API reads it."""
    question = Question(groups=groups, start=END - timedelta(days=DAYS), end=END)
    with reading(engine) as session:
        return reports.run(session, actor, question, rows_max=50_000)


def compare(engine: Engine, sites: list[str]) -> list[str]:
    """A line for each question, after both answers were found equal."""
    table = Click.metadata.tables["click"]
    day = sa.func.date(table.c.at)
    manager = Actor(id="m", role=Role.MANAGER, party_id="", name="m")
    lines = []
    for name, who, group, key in (
        ("largest publisher by day", sites[0], "day", day),
        ("middling publisher by day", sites[PUBLISHERS // 4], "day", day),
        ("largest publisher by country", sites[0], "country", table.c.country),
        ("network by day", None, "day", day),
        ("network by country", None, "country", table.c.country),
    ):
        actor = Actor(id="p", role=Role.PUBLISHER, party_id=who, name="p") if who else manager
        found = report(engine, actor, (group,))
        scanned = scan(engine, who, key)
        counted = {
            f"{reports.start_of('day', int(line.keys[0])):%Y-%m-%d}"
            if group == "day"
            else line.keys[0]: line.clicks
            for line in found.lines
        }
        if counted != scanned:
            sys.exit(f"{name}: the two answers differ")
        slow = best(partial(scan, engine, who, key), 3)
        fast = best(partial(report, engine, actor, (group,)))
        lines.append(
            f"{name:<30} {1000 * slow:>9.1f} ms {1000 * fast:>8.2f} ms {slow / fast:>8.0f} x"
        )
    return lines


def sizes(engine: Engine) -> str:
    """Rows of the tables."""
    with reading(engine) as session:
        counts = {
            name: session.execute(sa.text(f"SELECT count(*) FROM {name}")).scalar_one()  # noqa: S608
            for name in ("rollup_hour", "rollup_day", "rollup_visitor")
        }
    return ", ".join(f"{name} {count:,}" for name, count in counts.items())


def main() -> None:
    lines = [
        f"date      {datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        f"machine   {platform.machine()}, {platform.system()}, {os.cpu_count()} cores",
        f"load      {os.getloadavg()[0]:.1f}",
        f"python    {platform.python_version()}, SQLite {sqlite3.sqlite_version}",
        f"{CLICKS:,} clicks, {DAYS} days, {PUBLISHERS} publishers, {COUNTRIES} countries",
    ]
    for size in BATCHES:
        with tempfile.TemporaryDirectory() as folder:
            settings = Settings(data_dir=Path(folder))
            migrate.upgrade(settings.database)
            engine = connect(settings.database)
            sites, inserting, rolling = fill(engine, size)
            lines += [
                "",
                f"batches of {size:,}",
                (
                    f"  click rows {1e6 * inserting / CLICKS:.1f} us a click, "
                    f"roll-ups {1e6 * rolling / CLICKS:.1f} us a click "
                    f"({rolling / inserting:.2f} of the insertion)"
                ),
                f"  rows: {sizes(engine)}",
            ]
            if size == BATCHES[-1]:
                lines += ["", f"{'':<30} {'clicks':>12} {'roll-ups':>11} {'ratio':>10}"]
                lines += compare(engine, sites)
            engine.dispose()
    text = "\n".join(lines) + "\n"
    print(text, end="")
    if len(sys.argv) == 1:
        RESULT.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
