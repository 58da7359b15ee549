"""How fast clicks become rows that can be queried: from the journal, looked up and counted.

In each round the clicks of a day are shipped, and the very rows that this made are given to the
bare driver: the same table with the same index, the same batches, each synced. SQLModel objects
are the straightforward way beside both. On PostgreSQL the same, with COPY, when it can be reached.

    python benchmarks/ingest.py [clicks a round] [rounds]
"""

import gc
import os
import platform
import random
import sqlite3
import statistics
import sys
import tempfile
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import psycopg
import sqlalchemy as sa
from sqlalchemy.engine import Engine, make_url
from sqlmodel import Session, select

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kernel import clock
from kernel.database import connect, reading, unit_of_work
from kernel.keys import load as load_keys
from kernel.settings import Settings
from network import programs, publishers
from server import migrate
from tracker import click_days, day_files, day_partitions, events, journal, shipper
from tracker.click_ids import ClickIdSigner
from tracker.day_files import COLUMNS
from tracker.geo import GeoResolver
from tracker.models import Click
from tracker.node import click_id_signer

CLICKS, ROUNDS, BATCH, OBJECTS = 100_000, 3, 10_000, 10_000
FIRST_DAY = datetime(2026, 3, 2, tzinfo=UTC)
POSTGRES_URL = os.environ.get(
    "TALLYSTICK_TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/postgres"
)
RESULT = Path(__file__).resolve().parent / "results" / "ingest.txt"
_T = TypeVar("_T")
AGENT = "Mozilla/5.0 ({}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{}.0.0.0 Safari/537.36"
# What a step of the shipper ends, by the name it is called with.
PARTS = {
    "read": "read and decode",
    "built": "look up and make rows",
    "day files": "insert",
    "rows": "insert",
    "clicks": "roll-ups",
    "committed": "commit",
}
SYSTEMS = ("Windows NT 10.0; Win64; x64", "X11; Linux x86_64", "Macintosh; Intel Mac OS X 10_15_7")


@dataclass(frozen=True)
class Timed:
    rows: int
    wall_s: float
    cpu_s: float

    def __str__(self) -> str:
        return f"{self.rows / self.wall_s:8.0f} rows/s {self.rows / self.cpu_s:8.0f} rows/CPU-s"


def timed(work: Callable[[], int]) -> Timed:
    cpu, wall = time.process_time(), time.perf_counter()
    rows = work()
    return Timed(rows, time.perf_counter() - wall, time.process_time() - cpu)


def visits(signer: ClickIdSigner, start: datetime, count: int) -> Iterator[events.ClickSeen]:
    """Clicks of a day as they come: 60,000 visitors, 300 agents, a fifth with ids of their own."""
    chance = random.Random(start.isoformat())  # noqa: S311 - traffic, not secrets
    agents = [AGENT.format(system, 40 + number) for number in range(100) for system in SYSTEMS]
    people = [
        (f"{chance.choice((91, 77, 2, 185))}.{one % 251}.{one // 251}.9", chance.choice(agents))
        for one in range(60_000)
    ]
    for number in range(count):
        at = start + timedelta(milliseconds=number * 80_000_000 // count)
        program, publisher = chance.randint(1, 5), chance.randint(1, 40)
        address, agent = chance.choice(people)
        kind = chance.random()
        query = "" if kind < 0.3 else f"s1=blog-{chance.randint(1, 500)}&s2=top"  # noqa: PLR2004 - of ten
        if kind > 0.8:  # noqa: PLR2004 - of ten
            query += f"&gclid={chance.getrandbits(120):x}&utm_source=news&utm_campaign=spring"
        yield events.ClickSeen(
            id=signer.mint(at=at, program_number=program, publisher_number=publisher),
            at=at,
            program_number=program,
            publisher_number=publisher,
            page="https://shop.example/welcome?campaign=spring",
            query=query,
            address=address,
            user_agent=agent,
            referrer=f"https://blog.example/posts/{chance.randint(1, 5000)}",
            accept_language="de-DE,de;q=0.9,en;q=0.8",
            sec_fetch_dest="document",
            sec_fetch_mode="navigate",
            sec_fetch_user="?1",
        )


def network(engine: Engine) -> None:
    now = clock.now()
    with unit_of_work(engine) as session:
        for number in range(1, 6):
            owner = programs.add_advertiser(session, name=f"Shop {number}", now=now)
            programs.add(
                session,
                advertiser_id=owner.id,
                code=f"shop-{number}",
                name=owner.name,
                currency="EUR",
                landing_url="https://shop.example/",
                now=now,
            )
        for number in range(1, 41):
            publishers.add(session, code=f"site-{number}", name=f"Site {number}", now=now)


class Bench:
    def __init__(self, url: str, folder: Path, clicks: int) -> None:
        self.folder, self.clicks = folder, clicks
        self.settings = Settings(data_dir=folder, database_url=url)
        migrate.upgrade(self.settings.database)
        self.engine = connect(self.settings.database)
        network(self.engine)
        self.keys = load_keys(self.settings)
        self.geo = GeoResolver(None)
        self.is_sqlite = self.engine.dialect.name == "sqlite"
        self.parts: defaultdict[str, float] = defaultdict(float)

    def journaled(self, start: datetime) -> Path:
        path = self.folder / f"journal-{start:%d}"
        opened = journal.open_journal(
            path,
            segment_bytes_max=self.settings.journal_segment_bytes_max,
            journal_bytes_max=self.settings.journal_bytes_max,
            record_bytes_max=self.settings.journal_record_bytes_max,
        )
        some: list[bytes] = []
        for click in visits(click_id_signer(self.keys), start, self.clicks):
            some.append(events.encode(click))
            if len(some) == BATCH:
                opened.sync_append_many(some)
                some.clear()
        if some:
            opened.sync_append_many(some)
        opened.sync_close()
        return path

    def ship(self, path: Path) -> int:
        shipped = 0
        last = time.perf_counter()

        def step(name: str) -> None:
            nonlocal last
            now = time.perf_counter()
            self.parts[name] += now - last
            last = now

        while one := shipper.ship_once(
            self.engine,
            path,
            keys=self.keys,
            geo=self.geo,
            settings=self.settings,
            now=clock.now(),
            step=step,
        ):
            shipped += one.clicks
        return shipped

    def shares(self) -> str:
        """Where the time of `ship` went, by the steps that it says are done."""
        total = sum(self.parts.values())
        named: defaultdict[str, float] = defaultdict(float)
        for step, seconds in self.parts.items():
            named[PARTS.get(step, "the rest")] += seconds
        return ", ".join(f"{part} {seconds / total:.0%}" for part, seconds in named.items())

    def rows(self, start: datetime) -> list[tuple[Any, ...]]:
        """The rows that shipping made, as the driver stores them."""
        names = ", ".join(COLUMNS)
        query = f"SELECT {names} FROM click WHERE at >= '{start:%Y-%m-%d}'"  # noqa: S608 - our own columns
        with reading(self.engine) as session:
            row = click_days.known(session, [start.date()])[start.date()]
            with click_days.reading_day(session, row) as of_day:
                found = there(of_day).connection().exec_driver_sql(query)
                rows = [tuple(one) for one in found]
        texts = [COLUMNS.index(name) for name in ("sub_ids", "parameters")]
        if not self.is_sqlite:
            # The driver decodes documents; they went in as text.
            rows = [
                tuple(
                    msgspec.json.encode(value).decode() if at in texts else value
                    for at, value in enumerate(one)
                )
                for one in rows
            ]
        return rows

    def bare(self, rows: list[tuple[Any, ...]]) -> int:
        return self._bare_sqlite(rows) if self.is_sqlite else self._bare_postgres(rows)

    def _bare_sqlite(self, rows: list[tuple[Any, ...]]) -> int:
        path = self.folder / "bare.db"
        with day_files.beside(self.engine).writing(day_files.Place(FIRST_DAY.date())) as made:
            ddl = made.exec_driver_sql(
                "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"
            ).scalars()
            statements = list(ddl)
        connection = sqlite3.connect(path, isolation_level=None)
        for said in ("PRAGMA journal_mode = WAL", "PRAGMA synchronous = FULL", *statements):
            connection.execute(said)
        insert = f"INSERT INTO click VALUES ({', '.join('?' * len(COLUMNS))})"  # noqa: S608 - our own columns
        for batch in batches(rows):
            connection.execute("BEGIN IMMEDIATE")
            connection.executemany(insert, batch)
            connection.execute("COMMIT")
        connection.close()
        for one in self.folder.glob("bare.db*"):
            one.unlink()
        return len(rows)

    def _bare_postgres(self, rows: list[tuple[Any, ...]]) -> int:
        url = self.settings.database
        names = ", ".join(COLUMNS)
        with psycopg.connect(url) as connection:
            connection.execute("CREATE TABLE bare (LIKE click INCLUDING ALL)")  # its index, its key
            connection.commit()
            for batch in batches(rows):
                with (
                    connection.cursor() as cursor,
                    cursor.copy(f"COPY bare ({names}) FROM STDIN (FORMAT BINARY)") as stream,
                ):
                    stream.set_types(day_partitions.WIRE_TYPES)
                    for row in batch:
                        stream.write_row(row)
                connection.commit()
        return len(rows)

    def drop_bare(self) -> None:
        if not self.is_sqlite:
            with self.engine.begin() as connection:
                connection.exec_driver_sql("DROP TABLE bare")

    def objects(self, start: datetime) -> tuple[list[Click], Callable[[list[Click]], int]]:
        """Clicks as objects, made anew, and what stores them in an empty day."""
        day = start.date() - timedelta(days=100)
        with reading(self.engine) as session:
            row = click_days.known(session, [start.date()])[start.date()]
            with click_days.reading_day(session, row) as of_day:
                found = there(of_day).exec(select(Click).limit(OBJECTS)).all()
        dumped = [one.model_dump() for one in found]

        def store(clicks: list[Click]) -> int:
            made = [Click(**(one | {"at": one["at"] - timedelta(days=100)})) for one in dumped]
            if self.is_sqlite:
                engine = self.empty_file(day_files.Place(day))
            else:
                click_days.open_days(self.engine, [day], now=clock.now())
                engine = self.engine
            for batch in batches(made):
                with Session(engine) as session:
                    session.add_all(batch)
                    session.commit()
            clicks.clear()
            return len(made)

        return list(found), store

    def empty_file(self, place: day_files.Place) -> Engine:
        files = day_files.beside(self.engine)
        with files.writing(place):
            pass
        return there(files.reader(place))


def there(found: _T | None) -> _T:
    if found is None:
        raise RuntimeError("the day that was just written has no place")
    return found


def batches(rows: list[Any]) -> Iterator[list[Any]]:
    return (rows[at : at + BATCH] for at in range(0, len(rows), BATCH))


def measure(name: str, bench: Bench, rounds: int) -> Iterator[str]:
    # As the shipper's process does, see server.children.
    gc.freeze()
    gc.set_threshold(1_000_000, 50, 100)
    shipped: list[Timed] = []
    bare: list[Timed] = []
    for number in range(rounds + 1):
        start = FIRST_DAY + timedelta(days=2 * number)
        path = bench.journaled(start)
        ship = timed(lambda path=path: bench.ship(path))  # type: ignore[misc]  # mypy cannot infer a lambda's default
        rows = bench.rows(start)
        if not ship.rows == len(rows) == bench.clicks:
            raise RuntimeError(f"{ship.rows} shipped, {len(rows)} stored, not {bench.clicks}")
        floor = timed(lambda rows=rows: bench.bare(rows))  # type: ignore[misc]  # as above
        bench.drop_bare()
        # The first round warms what a running shipper has warm, and is not counted.
        if number:
            shipped.append(ship)
            bare.append(floor)
        else:
            bench.parts.clear()
    given, store = bench.objects(FIRST_DAY)
    objects = timed(lambda: store(given))
    best = max(shipped, key=lambda one: one.rows / one.wall_s)
    yield f"{name}, {rounds} rounds of {bench.clicks} clicks, batches of {BATCH}"
    yield f"  journal to rows   {middle(shipped)}"
    yield f"  bare driver       {middle(bare)}"
    yield f"  SQLModel objects  {objects}"
    wall = [one.wall_s for one in bare], [one.wall_s for one in shipped]
    cpu = [one.cpu_s for one in bare], [one.cpu_s for one in shipped]
    yield (
        f"  of the bare driver {ratio(*wall):.2f} in time, {ratio(*cpu):.2f} in CPU"
        "  (target: at least 0.60)"
    )
    took = objects.wall_s / objects.rows, objects.cpu_s / objects.rows
    rate = [one.rows / one.wall_s for one in shipped]
    rate_cpu = [one.rows / one.cpu_s for one in shipped]
    yield (
        f"  of SQLModel objects {statistics.median(rate) * took[0]:.1f}x in time, "
        f"{statistics.median(rate_cpu) * took[1]:.1f}x in CPU  (target: at least 15x)"
    )
    yield f"  best round        {best}"
    yield f"  of its time       {bench.shares()}"


def middle(found: list[Timed]) -> Timed:
    return sorted(found, key=lambda one: one.wall_s)[len(found) // 2]


def ratio(ours: list[float], theirs: list[float]) -> float:
    """The median over the rounds: what ran side by side is compared."""
    return statistics.median(one / other for one, other in zip(ours, theirs, strict=True))


@contextmanager
def postgres() -> Iterator[str | None]:
    """A database of its own on PostgreSQL; None when there is none."""
    url = make_url(POSTGRES_URL)
    name = f"tallystick_bench_{uuid.uuid4().hex[:12]}"
    admin = sa.create_engine(
        url.set(drivername="postgresql+psycopg"),
        isolation_level="AUTOCOMMIT",
        connect_args={"connect_timeout": 3},
    )
    try:
        with admin.connect() as connection:
            connection.exec_driver_sql(f"CREATE DATABASE {name}")
    except sa.exc.OperationalError:
        yield None
        return
    try:
        yield url.set(database=name).render_as_string(hide_password=False)
    finally:
        with admin.connect() as connection:
            connection.exec_driver_sql(f"DROP DATABASE {name} WITH (FORCE)")
        admin.dispose()


def main(clicks: int, rounds: int) -> Iterator[str]:
    yield f"date      {clock.now():%Y-%m-%d %H:%M} UTC"
    yield f"machine   {platform.machine()}, {platform.system()}, {os.cpu_count()} cores"
    yield f"load      {os.getloadavg()[0]:.1f}"
    yield f"python    {platform.python_version()}, SQLite {sqlite3.sqlite_version}"
    with tempfile.TemporaryDirectory() as made:
        bench = Bench("", Path(made), clicks)
        yield from measure("SQLite", bench, rounds)
        bench.engine.dispose()
    with tempfile.TemporaryDirectory() as made, postgres() as url:
        if url is None:
            yield "PostgreSQL cannot be reached: not measured"
            return
        bench = Bench(url, Path(made), clicks)
        yield from measure("PostgreSQL", bench, rounds)
        bench.engine.dispose()


if __name__ == "__main__":
    given = [int(text) for text in sys.argv[1:]] + [CLICKS, ROUNDS][len(sys.argv) - 1 :]
    lines = []
    for line in main(*given[:2]):
        print(line, flush=True)
        lines.append(line)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text("\n".join(lines) + "\n")
