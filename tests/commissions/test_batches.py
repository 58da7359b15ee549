"""Events booked together give exactly what they give one by one."""

import shutil
import tempfile
import threading
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Engine
from sqlmodel import Session, col

from commissions import accruals, fx_rates, plans, replays
from commissions.accruals import Task
from commissions.checks import check
from commissions.fx_rates import Quote
from commissions.models import Commission
from commissions.reasons import Reason
from kernel import outbox
from kernel.database import connect, unit_of_work
from kernel.outbox import FollowUp, Limits
from network.models import Program, Publisher
from tests import make
from tests.make import NOW
from tracker.models import ChangeKind

START = NOW - timedelta(days=40)
BOOKED_AT = NOW + timedelta(days=20)
LEVELS = [{"from": 0, "percent": "5"}, {"from": 15_000, "percent": "10"}]
STEPS = [{"from": 1, "percent": "5"}, {"from": 3, "percent": "10", "flat_minor": 50}]


def tiers(mode: str, measure: str, levels: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    found = {"mode": mode, "measure": measure, "window": "calendar_month", "levels": levels}
    return {"id": mode, "tiers": found | more}


FLAT = {"id": "flat", "pay": {"percent": "3.33"}}
GERMANY = {"id": "de", "when": {"country": ["DE"]}, "pay": {"fixed_minor": 70, "per": "order"}}
FIRST = {"id": "first", "kind": "bonus", "pay": {"fixed_minor": 77, "once_per_publisher": True}}
REACHED = {
    "id": "reached",
    "kind": "bonus",
    "pay": {
        "fixed_minor": 99,
        "threshold_minor": 9_000,
        "window": "calendar_month",
        "once_per_publisher": True,
    },
}
CAMPAIGN = {
    "window": "campaign",
    "start": (START + timedelta(days=10)).isoformat(),
    "end": (NOW + timedelta(days=5)).isoformat(),
}
ORDER = tiers("order", "order_total", LEVELS, window="order")
PLANS: dict[str, tuple[list[dict[str, Any]], dict[str, Any]]] = {
    "flat": ([FLAT, GERMANY], {}),
    "graduated": ([tiers("graduated", "sales", LEVELS), GERMANY], {}),
    "graduated, whole orders": ([tiers("graduated", "sales", LEVELS, boundary="after")], {}),
    "graduated by units": ([tiers("graduated", "units", STEPS)], {}),
    "graduated, approved": ([tiers("graduated", "sales", LEVELS, counts="approved")], {}),
    "graduated, frozen": ([tiers("graduated", "sales", LEVELS, freeze_days=0)], {}),
    "volume": ([tiers("volume", "count", STEPS), GERMANY], {}),
    "volume by sales": ([tiers("volume", "sales", LEVELS)], {}),
    "volume of all": ([tiers("volume", "count", STEPS, scope=["program"])], {}),
    "volume, approved": ([tiers("volume", "count", STEPS, counts="approved")], {}),
    "status": ([tiers("status", "sales", LEVELS)], {}),
    "status of days": ([tiers("status", "sales", LEVELS, window="rolling_20d")], {}),
    "order": ([ORDER], {}),
    "bonus": ([tiers("graduated", "sales", LEVELS), FIRST], {}),
    "budget": ([FLAT], {"caps": {"budget_minor": 900}}),
    "cap": ([FLAT], {"caps": {"per_publisher_window_minor": 500, "window": "calendar_month"}}),
    "coupons": ([tiers("graduated", "sales", LEVELS)], {"suppressed_coupons": ["STAFF"]}),
    "graduated of days": ([tiers("graduated", "units", STEPS, window="rolling_20d")], {}),
    "campaign": ([FLAT, tiers("volume", "count", STEPS, **CAMPAIGN) | {"priority": 1}], {}),
    "bonus by levels": ([FLAT, tiers("graduated", "sales", LEVELS) | {"kind": "bonus"}], {}),
    "bonus by volume": ([FLAT, tiers("volume", "count", STEPS) | {"kind": "bonus"}], {}),
    "cap of orders": (
        [tiers("graduated", "sales", LEVELS)],
        {"caps": {"per_publisher_window_count": 2, "window": "calendar_month"}},
    ),
    "by approval": (
        [
            FLAT | {"priority": 1, "effective_to": (NOW - timedelta(days=15)).isoformat()},
            tiers("graduated", "units", STEPS),
        ],
        {"rate_clock": "approved"},
    ),
    "first to reach": ([FLAT, REACHED], {}),
    "bonus by status": ([FLAT, tiers("status", "sales", LEVELS) | {"kind": "bonus"}], {}),
    "budget of orders": (
        [FLAT, tiers("status", "count", STEPS) | {"priority": 1}],
        {"caps": {"budget_count": 3}, "rate_clock": "approved"},
    ),
    "graduated, later other levels": ([tiers("graduated", "sales", LEVELS)], {}),
    "graduated, later volume": ([tiers("graduated", "sales", LEVELS)], {}),
    "volume, later graduated": ([tiers("volume", "count", STEPS)], {}),
    "graduated, later approved": ([tiers("graduated", "sales", LEVELS)], {}),
    "graduated, later any country": ([GERMANY, tiers("graduated", "units", STEPS)], {}),
}
# Rules of a second version, so that windows hold orders of both.
HIGHER = [{"from": 0, "percent": "4"}, {"from": 9_000, "percent": "12.5"}]
LATER: dict[str, list[dict[str, Any]]] = {
    "volume": [FLAT],
    "flat": [tiers("volume", "count", STEPS)],
    "graduated, later other levels": [tiers("graduated", "sales", HIGHER)],
    "graduated, later volume": [tiers("volume", "sales", LEVELS)],
    "volume, later graduated": [tiers("graduated", "sales", LEVELS)],
    "graduated, later approved": [tiers("graduated", "sales", LEVELS, counts="approved")],
    "graduated, later any country": [tiers("graduated", "units", STEPS)],
}

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            (
                *("sale", "sale", "sale", "sale", "sale", "sale", "held", "approved", "declined"),
                *("refund", "refund", "part", "cancel", "decline", "approve", "release", "void"),
                *("rates", "rated", "rated"),
            )
        ),
        st.integers(0, 11),
        st.integers(1, 12_000),
    ),
    min_size=2,
    max_size=24,
)


class _History:
    """Facts as they stand before anything is booked for them, and the rows to be worked."""

    def __init__(self, session: Session, name: str) -> None:
        rules, document = PLANS[name]
        self.session = session
        self.program: Program = make.program(session)
        self.publishers: list[Publisher] = [make.publisher(session) for _ in range(2)]
        self.third = make.publisher(session)
        make.plan(session, self.program, *rules, **document)
        if name in LATER:
            make.plan(session, self.program, *LATER[name], effective_from=NOW - timedelta(days=15))
        self.sales: list[Any] = []
        self.rows: list[Task] = []

    def tell(self, events: Sequence[tuple[str, int, int]]) -> None:
        self._tell(events)
        # Nothing is left to a second delivery that could be booked by the first.
        self.rows += [Task("rated", sale.id) for sale in self.sales]

    def _tell(self, events: Sequence[tuple[str, int, int]]) -> None:
        for at, (what, which, amount_minor) in enumerate(events):
            now = START + timedelta(days=2 * at, hours=which)
            if what == "rates":
                self.rows.append(Task("rates", str(which)))
            elif what in {"sale", "held", "approved", "declined"}:
                self._sell(what, which, amount_minor, now)
            elif self.sales:
                sale = self.sales[which % len(self.sales)]
                if what in {"release", "void", "rated"}:
                    reason = Reason.FRAUD_CONFIRMED if what == "void" else ""
                    self.rows.append(Task(what, sale.id, reason, "usr_1"))
                    continue
                kind = ChangeKind.REFUND if what == "part" else ChangeKind(what)
                facts: dict[str, Any] = {}
                if kind is ChangeKind.REFUND:
                    facts = {"amount_minor": amount_minor}
                if what == "part":
                    facts["line"] = 0
                make.change(self.session, sale, kind, received_at=now, **facts)
                self.rows.append(Task("changes", sale.id))

    def _sell(self, what: str, which: int, amount_minor: int, now: datetime) -> None:
        items = [{"amount_minor": amount_minor}, {"amount_minor": which}] if which % 2 else []
        first, second = self.publishers
        shares = {
            3: [(first, 1, 3), (second, 2, 3)],
            4: [(first, 3, 7), (self.third, 2, 7), (second, 2, 7)],
            9: [(self.third, 1, 6), (second, 5, 6)],
        }
        sale = make.conversion(
            self.session,
            self.program,
            self.publishers[which % 2] if which else None,
            shares=shares.get(which, ()),
            items=items,
            amount_minor=amount_minor + (which if items else 0),
            # Some come in late, some are taken over with the history of another network.
            occurred_at=now - timedelta(days=which),
            received_at=now,
            imported=which == 7,
            country="DE" if which == 5 else "FR",
            coupon="STAFF" if which == 9 else None,
            currency="USD" if which == 11 else "EUR",
            reported_status=what if what in {"approved", "declined"} else "",
        )
        self.sales.append(sale)
        held = Reason.FRAUD_SUSPECTED if what == "held" else ""
        self.rows.append(Task("accrue", sale.id, held))


def perform(session: Session, tasks: Sequence[Task], now: datetime) -> None:
    """Book the tasks together, but for rates, which are published between them."""
    some: list[Task] = []
    for task in tasks:
        if task.kind != "rates":
            some.append(task)
            continue
        accruals.book(session, some, now=now)
        some = []
        # Of one day of every ten, so that there are orders without a rate for long.
        day = (START + timedelta(days=10 * (int(task.conversion_id) % 6) - 10)).date()
        rate = f"1.{1 + int(task.conversion_id)}"
        fx_rates.record(session, "ecb", [Quote(day, "EUR", "USD", rate)], actor="t", now=now)
    accruals.book(session, some, now=now)


def work(session: Session, rows: Sequence[Task], sizes: Sequence[int]) -> None:
    """Book the rows in order, so many together."""
    start = at = 0
    while start < len(rows):
        size = sizes[at % len(sizes)]
        perform(session, rows[start : start + size], BOOKED_AT)
        start, at = start + size, at + 1


def books(session: Session) -> dict[str, list[Any]]:
    """Everything that was written, in the order in which it was, but for what is random."""
    tables = Commission.metadata.tables
    account, balance = tables["account"], tables["balance"]
    transaction, posting = tables["ledger_transaction"], tables["posting"]
    debit, credit = account.alias("debit"), account.alias("credit")
    queries: dict[str, sa.Select[Any]] = {
        "commissions": _all("commission", "seq", "id").order_by(tables["commission"].c.part),
        "bookings": _all("booking", "seq", "id", "seq"),
        "steps": _all("commission_step", "seq", "seq"),
        "postings": sa.select(
            *_columns("ledger_transaction", "id"),
            posting.c.line,
            debit.c.path,
            credit.c.path,
            posting.c.amount_minor,
        )
        .join(posting, posting.c.transaction_id == transaction.c.id)
        .join(debit, debit.c.id == posting.c.debit_id)
        .join(credit, credit.c.id == posting.c.credit_id)
        .order_by(transaction.c.id, posting.c.line),
        "balances": sa.select(account.c.path, balance.c.debits_minor, balance.c.credits_minor)
        .join(balance, balance.c.account_id == account.c.id)
        .order_by(account.c.path),
    }
    return {name: [tuple(row) for row in session.execute(q)] for name, q in queries.items()}


def _columns(table: str, *without: str) -> list[sa.Column[Any]]:
    return [one for one in Commission.metadata.tables[table].c if one.name not in without]


def _all(table: str, order: str, *without: str) -> sa.Select[Any]:
    return sa.select(*_columns(table, *without)).order_by(
        Commission.metadata.tables[table].c[order]
    )


def compare(engine: Engine, name: str, events: Any, sizes: list[int]) -> None:
    with Session(engine, expire_on_commit=False) as session:
        history = _History(session, name)
        history.tell(events)
        one_by_one = session.begin_nested()
        work(session, history.rows, [1])
        assert list(check(session)) == []
        expected = books(session)
        one_by_one.rollback()

        work(session, history.rows, sizes)

        found = books(session)
        for part, rows in expected.items():
            assert found[part] == rows, part
        assert list(check(session)) == []
        # A second delivery finds everything booked.
        work(session, history.rows, sizes)
        assert books(session) == found
        session.rollback()


SIZES = st.lists(st.integers(1, 12), min_size=1, max_size=4)


@pytest.mark.parametrize("name", PLANS)
@settings(max_examples=10, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS, sizes=SIZES)
def test_batches_of_any_size_book_what_single_events_book(
    sqlite_engine: Engine, name: str, events: list[tuple[str, int, int]], sizes: list[int]
) -> None:
    compare(sqlite_engine, name, events, sizes)


@pytest.mark.parametrize("name", ["graduated", "volume", "status", "bonus", "budget"])
@settings(max_examples=2, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS, sizes=SIZES)
def test_batches_book_the_same_on_either_database(
    engine: Engine, name: str, events: list[tuple[str, int, int]], sizes: list[int]
) -> None:
    compare(engine, name, events, sizes)


def _announced(session: Session) -> int:
    """Follow-ups of published rates; the tasks say here who is tried again, and when."""
    query = sa.select(sa.func.count()).where(col(outbox.OutboxRow.kind) == fx_rates.PUBLISHED)
    return int(session.execute(query).scalar_one())


def _nothing(_session: Session, _rows: Sequence[FollowUp], _now: datetime) -> None:
    pass


def backlog(url: str, name: str, events: Any) -> dict[str, Task]:
    """Leave a history with its follow-ups in the database; the task of each of those."""
    engine = connect(url)
    tasks = {}
    with unit_of_work(engine) as session:
        history = _History(session, name)
        history.tell(events)
        for number, task in enumerate(history.rows):
            # The kind tells the tasks of an order apart, whose rows come in their order.
            kind = f"{number}:{task.kind}"
            tasks[kind] = task
            outbox.append(session, kind, task.conversion_id, lane=history.program.id, now=BOOKED_AT)
    engine.dispose()
    return tasks


def drained(url: str, tasks: Mapping[str, Task], milliseconds: int) -> dict[str, list[Any]]:
    """The books after a worker has worked the backlog in transactions of that length."""

    def book(session: Session, rows: Sequence[FollowUp], now: datetime) -> None:
        perform(session, [tasks[row.kind] for row in rows], now)

    engine = connect(url)
    limits = Limits(batch_milliseconds=milliseconds, attempts_max=1, lease_seconds=600)
    handlers = {**dict.fromkeys(tasks, (book,)), fx_rates.PUBLISHED: (_nothing,)}
    worked = outbox.drain(engine, handlers, owner="w", limits=limits, clock=lambda: BOOKED_AT)
    with Session(engine) as session:
        assert worked == len(tasks) + _announced(session)
        assert outbox.pending(session) == 0
        assert list(check(session)) == []
        found = books(session)
    engine.dispose()
    return found


@pytest.mark.parametrize("name", LATER)
@settings(max_examples=8)
@given(events=EVENTS)
def test_a_backlog_is_booked_alike_in_short_and_in_long_transactions(
    sqlite_template: Path, name: str, events: list[tuple[str, int, int]]
) -> None:
    with tempfile.TemporaryDirectory() as folder:
        short, long = Path(folder, "short.db"), Path(folder, "long.db")
        shutil.copyfile(sqlite_template, short)
        tasks = backlog(f"sqlite:///{short}", name, events)
        shutil.copyfile(short, long)

        one_by_one = drained(f"sqlite:///{short}", tasks, 1)
        together = drained(f"sqlite:///{long}", tasks, 60_000)

        for part, rows in one_by_one.items():
            assert together[part] == rows, part


def test_batches_booked_at_the_same_time_leave_what_a_fold_of_them_gives(engine: Engine) -> None:
    """Workers that meet at one counter and one budget: real transactions, each waiting its turn."""
    levels = [{"from": 1, "percent": "5"}, {"from": 9, "percent": "7.5"}]
    rule = tiers("volume", "count", levels, scope=["program"])
    with unit_of_work(engine) as session:
        program = make.program(session)
        who = [make.publisher(session) for _ in range(3)]
        make.plan(session, program, rule, caps={"budget_minor": 9_000})
        parts = [(who[0], 1, 3), (who[1], 1, 3), (who[2], 1, 3)]
        sales = [
            make.conversion(
                session, program, who[at % 3], shares=parts if at % 4 == 0 else (), country="DE"
            )
            for at in range(24)
        ]
        for sale in sales[::5]:
            make.change(session, sale, ChangeKind.REFUND, amount_minor=3_333)
        ids = [sale.id for sale in sales]
        program_id = program.id
    start = threading.Barrier(4)

    def work_some(own: Sequence[str]) -> None:
        start.wait(timeout=30)
        for at in range(0, len(own), 2):
            tasks = [Task(kind, one) for one in own[at : at + 2] for kind in ("accrue", "changes")]
            with unit_of_work(engine) as session:
                accruals.book(session, tasks, now=BOOKED_AT)

    with ThreadPoolExecutor(max_workers=4) as workers:
        for done in [workers.submit(work_some, ids[at::4]) for at in range(4)]:
            done.result(timeout=120)

    with Session(engine) as session:
        [version] = plans.facts_of(session, program_id)
        story = replays.load(session, *replays.group(program_id, None, (None, None)))
        priced = replays.price(plans.parsed(session, version.id), replays.events(story))
        assert {name: one.commission_minor for name, one in priced.items()} == story.amounts
        assert len(story.amounts) == 24
        # 24 orders of 100.00 less five refunds come to more at 7.5 %; the budget is used up.
        assert sum(story.amounts.values()) == 9_000
        assert list(check(session)) == []
