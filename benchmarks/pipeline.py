"""What a conversion costs on its way from the outbox to the ledger, on SQLite.

The demo network with its history is loaded, eight more months of its clicks, orders and refunds
are shipped, and the outbox is drained: attribute, assess, accrue, and the changes that follow. The
baseline is the floor below it, measured in the same run: the very statements of that drain, given
to the bare SQLite driver on a copy of the same database, with nothing decided in between. Last,
what an order costs to book under plans of each kind.
"""

import os
import platform
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from commissions import accruals
from commissions.accruals import Task
from kernel import clock, outbox
from kernel.database import checkpoint, connect, reading, unit_of_work
from kernel.keys import Keys
from kernel.keys import load as load_keys
from kernel.settings import Settings
from server import chores, demo, demo_history, migrate, pipeline
from tests import make
from tracker import day_files, journal, shipper
from tracker.geo import GeoResolver

DAYS = 240
# So that some ten thousand orders come of it.
CLICKS_A_DAY = 74
KIND_ORDERS = 2_000
KIND_BATCH = 250
LIMITS = outbox.Limits(batch_milliseconds=500, attempts_max=1, lease_seconds=60)
RESULT = Path(__file__).resolve().parent / "results" / "pipeline.txt"

Statement = tuple[str, Any, bool]
"""(SQL, parameters, whether they are many sets of them)."""


def prepare(settings: Settings, keys: Keys) -> tuple[Path, datetime]:
    """A database with a backlog in its outbox, and the time at which it is to be worked."""
    migrate.upgrade(settings.database)
    demo.load(settings)
    start = clock.now().replace(hour=0, minute=0, second=0, microsecond=0)
    end = start + timedelta(days=DAYS)
    engine = connect(settings.database)
    with reading(engine) as session:
        scene = demo_history.scene(session, keys)
    folder = settings.data_dir / "benchmark-journal"
    opened = journal.open_journal(
        folder,
        segment_bytes_max=settings.journal_segment_bytes_max,
        journal_bytes_max=settings.journal_bytes_max,
        record_bytes_max=settings.journal_record_bytes_max,
    )
    opened.sync_append_many(
        demo_history.events_between(scene, start, end, clicks_a_day=CLICKS_A_DAY)
    )
    geo = GeoResolver(settings.geoip_dir)
    while shipper.ship_once(engine, folder, keys=keys, geo=geo, settings=settings, now=end):
        pass
    opened.sync_close()
    checkpoint(engine)
    engine.dispose()
    return Path(settings.database.removeprefix("sqlite:///")), end


def clicks_of(database: Path) -> Path:
    """The folder of a database's click days."""
    return day_files.folder_of(sa.make_url(f"sqlite:///{database}"))


def timed(work: Callable[[], int]) -> tuple[int, float, float]:
    """(what it returned, CPU seconds, seconds)."""
    cpu, wall = time.process_time(), time.perf_counter()
    count = work()
    return count, time.process_time() - cpu, time.perf_counter() - wall


def drain(engine: Engine, keys: Keys, now: datetime) -> int:
    handlers = pipeline.handlers(keys)
    return outbox.drain(engine, handlers, owner="benchmark", limits=LIMITS, clock=lambda: now)


def statements_of(engine: Engine, work: Callable[[], int]) -> list[Statement]:
    """Every statement that the work gives to the driver, with its parameters."""
    said: list[Statement] = []

    def note(_c: Any, _cursor: Any, statement: str, given: Any, _x: Any, many: bool) -> None:  # noqa: FBT001 - the event's own signature
        said.append((statement, given, many))

    sa.event.listen(engine, "before_cursor_execute", note)
    # The driver ends transactions without a statement.
    sa.event.listen(engine, "commit", lambda _c: said.append(("COMMIT", (), False)))
    sa.event.listen(engine, "rollback", lambda _c: said.append(("ROLLBACK", (), False)))
    work()
    return said


def repeat(path: Path, said: list[Statement]) -> int:
    """The same statements without anything around them; how many."""
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "cache_size = -32768"):
        connection.execute(f"PRAGMA {pragma}")
    for statement, given, many in said:
        # An insert that returns its keys is one statement with the values of all rows.
        if many and isinstance(given[0], tuple | list):
            connection.executemany(statement, given)
        elif not (statement in {"COMMIT", "ROLLBACK"} and not connection.in_transaction):
            connection.execute(statement, given).fetchall()
    connection.close()
    return len(said)


def _tiers(mode: str, measure: str) -> dict[str, Any]:
    levels = [{"from": 1, "percent": "5"}, {"from": KIND_ORDERS // 10, "percent": "6"}]
    window = "calendar_month"
    return {"tiers": {"mode": mode, "measure": measure, "window": window, "levels": levels}}


KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "percent": ({"pay": {"percent": "5"}}, {}),
    "graduated": (_tiers("graduated", "sales"), {}),
    "volume": (_tiers("volume", "count"), {}),
    "status": (_tiers("status", "sales"), {}),
    "budget": ({"pay": {"percent": "5"}}, {"caps": {"budget_minor": 10**9}}),
}


def cost_of_kind(folder: Path, name: str) -> str:
    """CPU milliseconds an order takes from its attribution to its booking, under such a plan."""
    rule, document = KINDS[name]
    url = f"sqlite:///{folder / name}.db"
    migrate.upgrade(url)
    engine = connect(url)
    with unit_of_work(engine) as session:
        program = make.program(session)
        publishers = [make.publisher(session) for _ in range(5)]
        make.plan(session, program, {"id": "all", **rule}, **document)
        tasks = [
            Task(accruals.ACCRUE, make.conversion(session, program, publishers[number % 5]).id)
            for number in range(KIND_ORDERS)
        ]

    def book() -> int:
        for start in range(0, len(tasks), KIND_BATCH):
            with unit_of_work(engine) as session:
                accruals.book(session, tasks[start : start + KIND_BATCH], now=make.NOW)
        return len(tasks)

    count, cpu, _ = timed(book)
    engine.dispose()
    return f"{name} {1000 * cpu / count:.2f}"


def measure(folder: Path) -> str:
    settings = Settings(data_dir=folder)
    keys = load_keys(settings)
    backlog, now = prepare(settings, keys)
    noted, bare, whole = (folder / f"{name}.db" for name in ("noted", "bare", "whole"))
    for copy in (noted, bare, whole):
        shutil.copyfile(backlog, copy)
        # The clicks stand beside the database, by the day.
        shutil.copytree(clicks_of(backlog), clicks_of(copy))

    # The first drain also warms every cache that a running worker has warm.
    engine = connect(f"sqlite:///{noted}")
    said = statements_of(engine, lambda: drain(engine, keys, now))
    engine.dispose()
    statements, bare_cpu, _ = timed(lambda: repeat(bare, said))
    engine = connect(f"sqlite:///{whole}")
    rows, cpu, wall = timed(lambda: drain(engine, keys, now))
    swept, sweep_cpu, _ = timed(lambda: chores.sweep(engine, owner="benchmark", now=now))
    engine.dispose()
    kinds = ", ".join(cost_of_kind(folder, name) for name in KINDS)
    return "\n".join(
        (
            f"date      {clock.now():%Y-%m-%d %H:%M} UTC",
            f"machine   {platform.machine()}, {platform.system()}, {os.cpu_count()} cores",
            f"load      {os.getloadavg()[0]:.1f}",
            f"python    {platform.python_version()}, SQLite {sqlite3.sqlite_version}",
            f"work      {rows} conversions and changes, {statements / rows:.2f} statements each",
            f"pipeline  {rows / wall:.0f} conversions/s, {1000 * cpu / rows:.2f} ms CPU each",
            f"baseline  {1000 * bare_cpu / rows:.2f} ms CPU each: the same statements, bare driver",
            f"ratio     {cpu / bare_cpu:.1f} times the baseline",
            f"booking   ms CPU each by kind of plan: {kinds}",
            f"sweep     {swept} commissions, {1000 * sweep_cpu / max(swept, 1):.2f} ms CPU each",
        )
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        found = measure(Path(made))
    print(found)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(found + "\n")
