"""How long it takes to prove the books: `tallystick audit` over a million orders.

A network with a program of each kind of plan (percent, graduated in two versions, volume, status,
budget, a publisher's cap) books its orders,
refunds, cancellations, holds and lock dates by the functions that book them anywhere, one order in
twenty being refunded or cancelled. Then its programs are copied with
all that was booked, under other ids, until there are as many orders as were asked for, and the
audit runs as a process of its own. The baseline, in the same run, is a bare driver that reads the
same rows in the same order and computes nothing.

`python benchmarks/audit.py [ORDERS] [FOLDER]`: with a folder the database is kept there and used
again.
"""

import random
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlmodel import Session

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from commissions import accruals
from commissions.accruals import Task
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

ORDERS = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
BASE_ORDERS = 50_000
BATCH, PUBLISHERS, DAYS = 1_000, 25, 180
START = datetime(2026, 1, 1, tzinfo=UTC)
REPOSITORY = Path(__file__).resolve().parent.parent
RESULT = REPOSITORY / "benchmarks" / "results" / "audit.txt"
MARK = "-0000-"


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
    held = "fraud_suspected" if number % 200 == 7 else ""
    tasks = [Task(accruals.ACCRUE, identity, held)]
    if held:
        tasks.append(Task(accruals.RELEASE, identity, actor="usr_1"))
    change = None
    if number % 20 == 3:
        kind = ChangeKind.CANCEL if number % 40 == 3 else ChangeKind.REFUND
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


def copy(connection: Connection, times: int, say: Any = print) -> None:
    """All that is there once more under other ids, so many times."""
    for number in range(1, times + 1):
        for name in COPIED:
            table = metadata.tables[name]
            columns = ", ".join(f'"{one.name}"' for one in table.columns)
            values = ", ".join(_copied(one, number) for one in table.columns)
            first = _first(table)
            connection.exec_driver_sql(
                f'INSERT INTO "{name}" ({columns}) SELECT {values} FROM "{name}" WHERE {first}'  # noqa: S608 - our own names
            )
        say(f"copied {number} of {times}", flush=True)


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


def build(url: str, count: int) -> None:
    migrate.upgrade(url)
    engine = connect(url)
    base = min(count, BASE_ORDERS)
    started = time.perf_counter()
    book(engine, base)
    print(f"booked {base} orders in {time.perf_counter() - started:.0f} s", flush=True)
    started = time.perf_counter()
    with unit_of_work(engine) as session:
        copy(session.connection(), max(count // base - 1, 0))
        total = session.execute(sa.select(sa.func.count()).select_from(Conversion)).scalar_one()
        position = {"journal_id": "j-1", "segment": 1, "offset": 1, "conversions": total}
        session.add(JournalPosition(**position, updated_at=START))
    checkpoint(engine)
    print(f"copied them to {total} in {time.perf_counter() - started:.0f} s", flush=True)
    if engine.dialect.name == "sqlite":
        with engine.connect() as connection:
            connection.exec_driver_sql("ANALYZE")
    engine.dispose()


def main() -> None:
    folder = Path(sys.argv[2])
    folder.mkdir(parents=True, exist_ok=True)
    build(f"sqlite:///{folder / 'tallystick.db'}", ORDERS)


if __name__ == "__main__":
    main()
