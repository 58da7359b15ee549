"""What it costs to book attributed conversions and post them to the ledger, on SQLite, in batches.

Orders are recorded and attributed, and then booked with `accruals.book` as the pipeline does it,
under a plan that pays a percentage and under one with graduated tiers; every tenth order is shared
by publishers. What is measured is everything from the conversion to the balance of the account:
reading the order, choosing rules, pricing, commission, booking, step, ledger transaction, posting.
Left out is what other packages do beside it: attribution, fraud and the roll-ups of reports.

The baseline is the floor below it, in the same run: the very rows that were written, inserted by
the bare driver in transactions of the same size, with all constraints and indexes, nothing decided.
"""

import gc
import os
import platform
import shutil
import sqlite3
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Engine

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from commissions import accruals
from commissions.accruals import Task
from kernel import clock, ids
from kernel.database import checkpoint, connect, unit_of_work
from server import migrate
from tests import make
from tracker import rollup_orders

ORDERS = 10_000
BATCH = 500
PUBLISHERS = 20
ROUNDS = 3
TARGET = 5_000
RESULT = Path(__file__).resolve().parent / "results" / "posting.txt"
TABLES = ("account", "commission", "booking", "commission_step", "ledger_transaction", "posting")
LEVELS = [{"from": 0, "percent": "5"}, {"from": 5_000_000, "percent": "6"}]
GRADUATED = {
    "mode": "graduated",
    "measure": "sales",
    "window": "calendar_month",
    "levels": LEVELS,
}
PLANS: dict[str, list[dict[str, Any]]] = {
    "percent": [
        {"id": "all", "pay": {"percent": "5"}},
        {"id": "de", "when": {"country": ["DE"]}, "pay": {"percent": "7.5"}},
    ],
    "graduated": [{"id": "all", "tiers": GRADUATED}],
}


def prepare(path: Path, rules: list[dict[str, Any]]) -> list[Task]:
    """A database with attributed orders for which nothing is booked yet."""
    url = f"sqlite:///{path}"
    migrate.upgrade(url)
    engine = connect(url)
    tasks = []
    with unit_of_work(engine) as session:
        program = make.program(session)
        who = [make.publisher(session) for _ in range(PUBLISHERS)]
        make.plan(session, program, *rules)
        for number in range(ORDERS):
            one, other = who[number % PUBLISHERS], who[(number + 1) % PUBLISHERS]
            amount_minor = 1_000 + 37 * (number % 500)
            items = [{"amount_minor": amount_minor - 500}, {"amount_minor": 500}]
            made = make.conversion(
                session,
                program,
                one,
                # As in a running network, where ids are hashes and come in no order.
                id=ids.derived_id("cnv", bytes(32), str(number)),
                shares=[(other, 1, 3), (one, 2, 3)] if number % 10 == 0 else (),
                items=items if number % 2 else (),
                amount_minor=amount_minor,
                country="DE" if number % 3 else "FR",
            )
            tasks.append(Task(accruals.ACCRUE, made.id))
            if number % BATCH == 0:
                session.expunge_all()
    checkpoint(engine)
    engine.dispose()
    return tasks


@contextmanager
def without_rollups() -> Iterator[None]:
    """Nothing is counted for reports meanwhile."""
    refresh = rollup_orders.refresh
    rollup_orders.refresh = lambda *_args, **_options: None
    try:
        yield
    finally:
        rollup_orders.refresh = refresh


def book(engine: Engine, tasks: list[Task]) -> None:
    """As the outbox does it: a transaction for each batch, and no collector during one."""
    for start in range(0, len(tasks), BATCH):
        gc.disable()
        with unit_of_work(engine) as session:
            accruals.book(session, tasks[start : start + BATCH], now=make.NOW)
        gc.enable()


def timed(work: Callable[[], None]) -> tuple[float, float]:
    """(CPU seconds, seconds)."""
    cpu, wall = time.process_time(), time.perf_counter()
    work()
    return time.process_time() - cpu, time.perf_counter() - wall


def rows_of(path: Path) -> list[tuple[str, list[tuple[Any, ...]]]]:
    """What was written, table by table."""
    connection = sqlite3.connect(path)
    found = []
    for table in TABLES:
        cursor = connection.execute(f"SELECT * FROM {table} ORDER BY rowid")  # noqa: S608 - our own names
        marks = ", ".join("?" for _ in cursor.description)
        found.append((f"INSERT INTO {table} VALUES ({marks})", cursor.fetchall()))  # noqa: S608 - our own names
    connection.close()
    return found


def insert(path: Path, rows: list[tuple[str, list[tuple[Any, ...]]]]) -> None:
    """The rows once more, by the bare driver, in as many transactions."""
    connection = sqlite3.connect(path, isolation_level=None)
    for pragma in ("journal_mode = WAL", "synchronous = FULL", "foreign_keys = ON"):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute("PRAGMA cache_size = -32768")
    batches = ORDERS // BATCH
    for number in range(batches):
        connection.execute("BEGIN IMMEDIATE")
        for statement, all_of_it in rows:
            # Accounts come into being with the first orders.
            size = len(all_of_it) if "account" in statement else -(-len(all_of_it) // batches)
            connection.executemany(statement, all_of_it[number * size : (number + 1) * size])
        connection.execute("COMMIT")
    connection.close()


def measure(folder: Path, name: str) -> str:
    """One line about a kind of plan."""
    empty = folder / f"{name}.db"
    tasks = prepare(empty, PLANS[name])
    found = []
    for number in range(ROUNDS):
        path = folder / f"{name}{number}.db"
        shutil.copyfile(empty, path)
        engine = connect(f"sqlite:///{path}")
        with without_rollups():
            found.append(timed(partial(book, engine, tasks)))
        engine.dispose()
    bare = folder / f"{name}-bare.db"
    shutil.copyfile(empty, bare)
    rows = rows_of(folder / f"{name}0.db")
    floor, _ = timed(lambda: insert(bare, rows))
    cpu, wall = min(found)
    each, least = 1000 * cpu / ORDERS, 1000 * floor / ORDERS
    return (
        f"{name:9} {ORDERS / wall:.0f} conversions/s, {each:.3f} ms CPU each; "
        f"the same rows by the bare driver {least:.3f} ms; {cpu / floor:.1f} times"
    )


def main() -> None:
    with tempfile.TemporaryDirectory() as made:
        lines = [measure(Path(made), name) for name in PLANS]
    found = "\n".join(
        (
            f"date      {clock.now():%Y-%m-%d %H:%M} UTC",
            f"machine   {platform.machine()}, {platform.system()}, {os.cpu_count()} cores",
            f"load      {os.getloadavg()[0]:.1f}",
            f"python    {platform.python_version()}, SQLite {sqlite3.sqlite_version}",
            f"work      {ORDERS} orders, {BATCH} a transaction, one in ten shared by two",
            *lines,
            f"target    {TARGET} conversions/s",
        )
    )
    print(found)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(found + "\n")


if __name__ == "__main__":
    main()
