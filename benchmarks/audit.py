"""How long it takes to prove the books: `tallystick audit` over a million orders, on SQLite.

A network with a program of each kind of plan (percent, graduated in two versions, volume, status,
budget, a publisher's cap) books its orders, refunds, cancellations, holds and lock dates by the
functions that book them anywhere, one order in twenty being refunded or cancelled. Then its
programs are copied with all that was booked, under other ids, until there are as many orders as
were asked for. The audit runs as a process of its own, at a tenth of the orders and at all of them,
so that time and memory of both can be compared. The baseline, in the same run, is the bare driver
reading what a replay reads, in the same order, and computing nothing.

`python benchmarks/audit.py [ORDERS] [FOLDER]`: with a folder the database is kept there, and used
again when it has as many orders or fewer.
"""

import os
import platform
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlmodel import Session

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from commissions import accruals
from commissions.accruals import Task
from kernel import clock
from kernel.database import checkpoint, connect, unit_of_work
from server import migrate
from server.tables import metadata
from tests import make
from tracker.models import (
    Attribution,
    AttributionShare,
    ChangeKind,
    Conversion,
    ConversionChange,
    ConversionItem,
    JournalPosition,
)

ORDERS = int(sys.argv[1]) if sys.argv[1:] and sys.argv[1].isdigit() else 1_000_000
RECORDED_ORDERS = 1_000_000
BASE_ORDERS = 50_000
BATCH, PUBLISHERS, DAYS = 1_000, 25, 180
START = datetime(2026, 1, 1, tzinfo=UTC)
REPOSITORY = Path(__file__).resolve().parent.parent
RESULT = REPOSITORY / "benchmarks" / "results" / "audit.txt"
MARK = "-0000-"
# Which orders are held at first, and which are refunded or cancelled.
HELD, CHANGED = 7, 3


def _tiers(mode: str, measure: str, first: int, second: int) -> dict[str, Any]:
    levels = [{"from": first, "percent": "5"}, {"from": second, "percent": "6.5"}]
    window = "calendar_month"
    return {"tiers": {"mode": mode, "measure": measure, "window": window, "levels": levels}}


GRADUATED = _tiers("graduated", "sales", 0, 300_000)
KINDS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "percent": ({"pay": {"percent": "5"}}, {}),
    "graduated": (GRADUATED, {}),
    "volume": (_tiers("volume", "count", 1, 40), {}),
    "status": (_tiers("status", "sales", 0, 300_000), {}),
    "budget": ({"pay": {"percent": "5"}}, {"caps": {"budget_minor": 10**9}}),
    "cap": (
        {"pay": {"percent": "5"}},
        {"caps": {"per_publisher_window_minor": 20_000, "window": "calendar_month"}},
    ),
}
# How many of twenty orders come under each.
WEIGHTS = {"percent": 6, "graduated": 7, "volume": 3, "status": 1, "budget": 1, "cap": 2}


class Made(NamedTuple):
    """An order with what else is stored of it before it is booked, and what happens to it later."""

    rows: list[Any]
    change: ConversionChange | None
    tasks: list[Task]


def order(dice: random.Random, number: int, at: datetime, program: Any, publisher_id: str) -> Made:
    # Ids of orders are hashes, so neighbours in time are no neighbours in an index.
    identity = f"cnv_{dice.getrandbits(48):012x}{MARK}{number:08d}"
    amounts = [dice.randrange(500, 30_000) for _ in range(1 + (number % 3 == 0))]
    facts: dict[str, Any] = {"occurred_at": at, "received_at": at, "currency": program.currency}
    rows: list[Any] = [
        Conversion(
            id=identity,
            seq=number,
            program_id=program.id,
            order_id=f"order-{number}",
            event="sale",
            amount_minor=sum(amounts),
            country=dice.choice(("DE", "FR", "GB", "US")),
            content_hash=f"hash-{number}",
            channel="api",
            **facts,
        )
    ]
    rows += [
        ConversionItem(conversion_id=identity, line=line, amount_minor=amount_minor, sku=f"s{line}")
        for line, amount_minor in enumerate(amounts)
    ]
    party: dict[str, Any] = {"conversion_id": identity, "publisher_id": publisher_id}
    rows.append(Attribution(**party, source="click", reason="last_click", decided_at=at))
    rows.append(AttributionShare(**party, position=0, numerator=1, denominator=1, role="converter"))
    held = "fraud_suspected" if number % 200 == HELD else ""
    tasks = [Task(accruals.ACCRUE, identity, held)]
    if held:
        tasks.append(Task(accruals.RELEASE, identity, actor="usr_1"))
    change = None
    if number % 20 == CHANGED:
        kind = ChangeKind.CANCEL if number % 40 == CHANGED else ChangeKind.REFUND
        later = at + timedelta(days=9)
        change = ConversionChange(
            id=f"chg_{number:012d}{MARK}",
            key=f"change-{number}{MARK}",
            conversion_id=identity,
            kind=kind,
            amount_minor=amounts[0] // 2 if kind is ChangeKind.REFUND else 0,
            content_hash=f"hash-{number}",
            occurred_at=later,
            received_at=later,
        )
        tasks.append(Task(accruals.CHANGES, identity))
    return Made(rows, change, tasks)


def orders(session: Session, count: int) -> Iterator[Made]:
    """Orders of all programs in the order of time."""
    dice = random.Random(4)  # noqa: S311 - not for secrets
    parties = []
    for kind, (rule, document) in KINDS.items():
        advertiser = make.advertiser(session, id=f"adv_{kind}{MARK}")
        program = make.program(session, id=f"prg_{kind}{MARK}", of=advertiser)
        plan = {"id": "all", **rule}
        make.plan(session, program, plan, **document)
        if kind == "graduated":
            again = plan | _tiers("graduated", "sales", 0, 200_000)
            make.plan(session, program, again, effective_from=START + timedelta(days=DAYS // 2))
        ids = [f"pub_{kind}{at}{MARK}" for at in range(PUBLISHERS)]
        for one in ids:
            make.publisher(session, id=one)
        parties.append((program, ids))
    weights = [WEIGHTS[kind] for kind in KINDS]
    often = [1 / rank for rank in range(1, PUBLISHERS + 1)]
    for number in range(1, count + 1):
        ((program, publishers),) = dice.choices(parties, weights)
        (publisher_id,) = dice.choices(publishers, often)
        at = START + timedelta(days=DAYS) * number / count
        yield order(dice, number, at, program, publisher_id)


def book(engine: Engine, count: int) -> None:
    """Orders booked as they are anywhere, with what follows them."""
    with unit_of_work(engine) as session:
        made = list(orders(session, count))
    for start in range(0, count, BATCH):
        some = made[start : start + BATCH]
        with unit_of_work(engine) as session:
            # Without relationships nothing says which rows come first.
            for first in (True, False):
                session.add_all(
                    [row for one in some for at, row in enumerate(one.rows) if (at == 0) is first]
                )
                session.flush()
            session.add_all([one.change for one in some if one.change])
            session.flush()
            tasks = [task for one in some for task in one.tasks]
            accruals.book(session, tasks, now=START + timedelta(days=DAYS))
    while True:
        with unit_of_work(engine) as session:
            due = START + timedelta(days=DAYS * 3 // 4)
            if not accruals.sweep(session, now=due, rows_max=5_000):
                break


# In an order in which every row finds what it refers to.
COPIED = (
    *("advertiser", "program", "publisher", "plan_version", "conversion", "conversion_item"),
    *("conversion_change", "attribution", "attribution_share", "commission", "booking"),
    *("commission_step", "account", "balance", "ledger_transaction", "posting"),
)
# Not made of ids of ours.
SUFFIXED = {
    *("program.code", "publisher.code", "plan_version.id", "commission.plan_version_id"),
    *("commission.id", "booking.id", "ledger_transaction.key"),
}
SHIFTED = {
    *("program.number", "publisher.number", "conversion.seq", "conversion_change.seq"),
    *("commission.seq", "booking.seq", "commission_step.seq", "account.id", "balance.account_id"),
    *("ledger_transaction.id", "posting.transaction_id", "posting.debit_id", "posting.credit_id"),
}
SHIFT = 10_000_000


def copy(connection: Connection, number: int) -> None:
    """All that was booked once more, under ids with that number."""
    for name in COPIED:
        table = metadata.tables[name]
        columns = ", ".join(f'"{one.name}"' for one in table.columns)
        values = ", ".join(_copied(one, number) for one in table.columns)
        connection.exec_driver_sql(
            f'INSERT INTO "{name}" ({columns}) SELECT {values} FROM "{name}" '  # noqa: S608 - our own names
            f"WHERE {_first(table)}"
        )


def _copied(column: sa.Column[Any], number: int) -> str:
    name = f"{column.table.name}.{column.name}"
    quoted = f'"{column.name}"'
    if name in SHIFTED:
        return f"{quoted} + {number * SHIFT}"
    if not isinstance(getattr(column.type, "impl", column.type), sa.String):
        return quoted
    replaced = f"replace({quoted}, '{MARK}', '-{number:04d}-')"
    return f"{replaced} || '-{number:04d}'" if name in SUFFIXED else replaced


def _first(table: sa.Table) -> str:
    """Which rows are not copies."""
    for column in table.columns:
        if f"{table.name}.{column.name}" in SHIFTED:
            return f'"{column.name}" < {SHIFT}'
    name = "id" if "id" in table.columns else "conversion_id"
    if table.name == "plan_version":
        name = "program_id"
    return f"\"{name}\" LIKE '%{MARK}%'"


def grow(url: str, count: int) -> int:
    """Have as many orders in the database, or as many as make whole copies; how many those are."""
    engine = connect(url)
    base = min(count, BASE_ORDERS)
    with unit_of_work(engine) as session:
        there = session.execute(COUNT).scalar_one()
    if not there:
        started = time.perf_counter()
        book(engine, base)
        there = base
        print(f"booked {base} orders in {time.perf_counter() - started:.0f} s", flush=True)
    for number in range(there // base, count // base):
        with unit_of_work(engine) as session:
            copy(session.connection(), number)
        checkpoint(engine)
    with unit_of_work(engine) as session:
        total: int = session.execute(COUNT).scalar_one()
        position = session.get(JournalPosition, "j-1") or JournalPosition(
            journal_id="j-1", segment=1, offset=1, updated_at=START
        )
        position.conversions = total
        session.add(position)
    with engine.begin() as connection:
        connection.exec_driver_sql("ANALYZE")
    checkpoint(engine)
    engine.dispose()
    return total


COUNT = sa.select(sa.func.count()).select_from(Conversion)
# What a replay reads of every order, by the keys by which it reads it.
BARE = (
    """SELECT c.conversion_id, c.publisher_id, c.plan_version_id, c.amount_minor, v.occurred_at,
    v.received_at, v.currency, v.amount_minor, v.country, v.coupon, a.click_country,
    (SELECT min(seq) FROM booking b WHERE b.conversion_id = c.conversion_id)
    FROM commission c JOIN conversion v ON v.id = c.conversion_id
    LEFT JOIN attribution a ON a.conversion_id = c.conversion_id
    WHERE c.program_id = ? ORDER BY 12""",
    """SELECT i.conversion_id, i.line, i.amount_minor, i.quantity, i.category, i.sku
    FROM commission c JOIN conversion_item i ON i.conversion_id = c.conversion_id
    WHERE c.program_id = ?""",
    """SELECT b.conversion_id, b.kind FROM commission c
    JOIN booking b ON b.conversion_id = c.conversion_id WHERE c.program_id = ?""",
)


def read_bare(path: Path) -> int:
    """Read what a replay reads; how many rows."""
    connection = sqlite3.connect(path)
    programs = connection.execute("SELECT id FROM program").fetchall()
    rows = 0
    for program in programs:
        for query in BARE:
            rows += sum(1 for _ in connection.execute(query, program))
    connection.close()
    return rows


class Taken(NamedTuple):
    """Seconds, CPU seconds of all processes, and the peak of the largest process in MB."""

    wall: float
    cpu: float
    peak_mb: int


def run(work: Sequence[str], folder: Path) -> Taken:
    """A process of its own, which waits for the processes that it starts."""
    environment = {**os.environ, "TALLYSTICK_DATA_DIR": str(folder), "PYTHONPATH": str(REPOSITORY)}
    measured = (
        "import resource, subprocess, sys; code = subprocess.call(sys.argv[1:]); "
        "used = resource.getrusage(resource.RUSAGE_CHILDREN); "
        "print(used.ru_utime + used.ru_stime, used.ru_maxrss // 1024); sys.exit(code)"
    )
    started = time.perf_counter()
    done = subprocess.run(  # noqa: S603 - our own interpreter and modules
        [sys.executable, "-c", measured, sys.executable, *work],
        cwd=REPOSITORY,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        check=False,
    )
    wall = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(done.stdout)
    cpu, peak = done.stdout.splitlines()[-1].split()
    return Taken(wall, float(cpu), int(peak))


def measure(folder: Path, count: int) -> Iterator[str]:
    """A line for the baseline, the replay and the audit each."""
    path = folder / "tallystick.db"
    total = grow(f"sqlite:///{path}", count)
    yield f"{total} orders, {path.stat().st_size / 1e9:.2f} GB"
    bare = run([__file__, "--bare", str(path)], folder)
    yield _line("bare driver", bare, total)
    for name, options in (
        ("audit --replay", ["--replay"]),
        ("audit", []),
        ("audit, 1 process", ["--processes", "1"]),
    ):
        taken = run(["-m", "server", "audit", *options], folder)
        yield f"{_line(name, taken, total)}  {taken.cpu / bare.cpu:.1f} times the bare driver's CPU"


def _line(name: str, taken: Taken, total: int) -> str:
    return (
        f"  {name:16} {taken.wall:6.1f} s  {total / taken.wall:7.0f} orders/s  "
        f"{taken.cpu:6.1f} s CPU  largest process {taken.peak_mb} MB"
    )


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    migrate.upgrade(f"sqlite:///{folder / 'tallystick.db'}")
    lines = [
        f"date      {clock.now():%Y-%m-%d %H:%M} UTC",
        f"machine   {platform.machine()}, {platform.system()}, {os.cpu_count()} cores",
        f"load      {os.getloadavg()[0]:.1f}",
        f"python    {platform.python_version()}, SQLite {sqlite3.sqlite_version}",
    ]
    print("\n".join(lines), flush=True)
    for count in dict.fromkeys((max(ORDERS // 10, min(ORDERS, BASE_ORDERS)), ORDERS)):
        for line in measure(folder, count):
            lines.append(line)
            print(line, flush=True)
    if ORDERS >= RECORDED_ORDERS:
        RESULT.parent.mkdir(exist_ok=True)
        RESULT.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--bare"]:
        read_bare(Path(sys.argv[2]))
    elif sys.argv[2:]:
        main(Path(sys.argv[2]))
    else:
        with tempfile.TemporaryDirectory() as made:
            main(Path(made))
