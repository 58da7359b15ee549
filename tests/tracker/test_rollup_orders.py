from collections.abc import Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, select

from commissions import accruals
from commissions.reasons import Reason
from kernel.database import append_only_ddl, unit_of_work
from network.models import Program, Publisher
from tests import make
from tracker import rollup_orders
from tracker.models import ChangeKind, Conversion
from tracker.rollup_models import RollupConversion, RollupDay, RollupHour

PHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605 Mobile/15E148"
Sums = dict[tuple[int, str, str], tuple[int, int, int, int]]


class Books:
    def __init__(self, session: Session, now: datetime) -> None:
        self.session, self.now = session, now
        self.program: Program = make.program(session)
        self.who: Publisher = make.publisher(session, member_of=self.program)
        make.plan(session, self.program)

    def sale(self, **facts: Any) -> Conversion:
        clicked = make.click(
            self.session,
            self.program,
            self.who,
            country="AT",
            user_agent=PHONE,
            sub_ids={"s1": "blue", "s6": "x"},
        )
        return make.conversion(
            self.session, self.program, self.who, clicked=clicked, country="DE", **facts
        )

    def sums(self, dimension: str = "") -> Sums:
        """(conversions, sales, refunded, commission) by publisher, value and currency."""
        query = select(RollupDay).where(RollupDay.dimension == dimension)
        found = {
            (row.publisher_number, row.value, row.currency): (
                row.conversions,
                row.sales_minor,
                row.refunded_minor,
                row.commission_minor,
            )
            for row in self.session.exec(query.execution_options(populate_existing=True))
        }
        return {key: counts for key, counts in found.items() if any(counts)}


@pytest.fixture
def books(engine: Engine, now: datetime) -> Iterator[Books]:
    with unit_of_work(engine) as session:
        yield Books(session, now)


def test_an_order_counts_under_its_click_when_it_occurred(books: Books) -> None:
    order = books.sale(occurred_at=books.now - timedelta(days=3, minutes=1))
    rollup_orders.refresh(books.session, [order.id])
    rollup_orders.refresh(books.session, [order.id])

    number = books.who.number
    assert books.sums() == {(number, "", "EUR"): (1, 10_000, 0, 0)}
    assert books.sums("country") == {(number, "AT", "EUR"): (1, 10_000, 0, 0)}
    assert books.sums("device") == {(number, "mobile", "EUR"): (1, 10_000, 0, 0)}
    assert books.sums("s1") == {(number, "blue", "EUR"): (1, 10_000, 0, 0)}
    [hour] = books.session.exec(select(RollupHour)).all()
    assert hour.hour == int((books.now - timedelta(days=3, minutes=1)).timestamp()) // 3600


def test_nobody_s_order_counts_for_the_program_with_its_own_country(books: Books) -> None:
    order = make.conversion(books.session, books.program, None, country="FR")
    rollup_orders.refresh(books.session, [order.id])

    assert books.sums("country") == {(0, "FR", "EUR"): (1, 10_000, 0, 0)}


def test_test_orders_and_orders_not_attributed_yet_do_not_count(books: Books) -> None:
    order = books.sale(is_test=True)
    rollup_orders.refresh(books.session, [order.id, "cnv_unknown"])

    assert books.sums() == {}
    assert books.session.exec(select(RollupConversion)).all() == []


def test_refunds_and_decisions_move_what_was_taken_back(books: Books) -> None:
    order = books.sale()

    def after(kind: ChangeKind, **facts: Any) -> tuple[int, int, int, int]:
        make.change(books.session, order, kind, **facts)
        rollup_orders.refresh(books.session, [order.id])
        [counts] = books.sums().values()
        return counts

    assert after(ChangeKind.REFUND, amount_minor=2_500) == (1, 10_000, 2_500, 0)
    assert after(ChangeKind.DECLINE) == (1, 10_000, 10_000, 0)
    assert after(ChangeKind.APPROVE) == (1, 10_000, 2_500, 0)
    assert after(ChangeKind.CANCEL) == (1, 10_000, 10_000, 0)
    assert after(ChangeKind.APPROVE) == (1, 10_000, 10_000, 0)


def test_an_order_that_came_in_declined_is_taken_back_until_approved(books: Books) -> None:
    order = books.sale(reported_status="declined")
    rollup_orders.refresh(books.session, [order.id])
    assert list(books.sums().values()) == [(1, 10_000, 10_000, 0)]

    make.change(books.session, order, ChangeKind.APPROVE)
    rollup_orders.refresh(books.session, [order.id])
    assert list(books.sums().values()) == [(1, 10_000, 0, 0)]


def test_orders_that_are_booked_are_counted_with_what_they_earn(books: Books) -> None:
    order, test_order = books.sale(), books.sale(is_test=True)
    nobody_s = make.conversion(books.session, books.program, None, country="FR")
    ids = [order.id, test_order.id, nobody_s.id]

    def book() -> None:
        tasks = [accruals.Task(accruals.ACCRUE, one) for one in ids]
        accruals.book(books.session, tasks, counted=ids, now=books.now)

    book()
    [earned] = books.session.execute(sa.text("SELECT amount_minor FROM commission")).scalars()
    counted = {
        (books.who.number, "", "EUR"): (1, 10_000, 0, earned),
        (0, "", "EUR"): (1, 10_000, 0, 0),
    }
    assert (earned > 0, books.sums()) == (True, counted)
    # A second delivery books nothing and still counts, to the same sums.
    book()
    rollup_orders.refresh(books.session, ids)
    assert books.sums() == counted

    make.change(books.session, order, ChangeKind.REFUND, amount_minor=2_500)
    task = accruals.Task(accruals.CHANGES, order.id)
    accruals.book(books.session, [task], counted=[order.id], now=books.now)
    [left] = books.session.execute(sa.text("SELECT amount_minor FROM commission")).scalars()
    assert 0 < left < earned
    assert books.sums()[books.who.number, "", "EUR"] == (1, 10_000, 2_500, left)


def test_what_is_booked_is_what_is_earned(books: Books) -> None:
    order, other = books.sale(), books.sale(amount_minor=20_000)
    for one in (order, other):
        accruals.accrue(books.session, one.id, hold_reason=None, now=books.now)

    number = books.who.number
    earned = sum(
        books.session.execute(sa.text("SELECT amount_minor FROM commission")).scalars().all()
    )
    assert earned > 0
    assert books.sums() == {(number, "", "EUR"): (2, 30_000, 0, earned)}
    accruals.void(
        books.session, other.id, reason=Reason.FRAUD_CONFIRMED, actor="usr", now=books.now
    )
    left = sum(
        books.session.execute(sa.text("SELECT amount_minor FROM commission")).scalars().all()
    )
    assert 0 < left < earned
    assert books.sums("s1") == {(number, "blue", "EUR"): (2, 30_000, 0, left)}


def test_two_currencies_stand_in_two_rows(books: Books) -> None:
    order = books.sale(currency="USD")
    rollup_orders.refresh(books.session, [order.id])
    rollup_orders.earn(books.session, {order.id: rollup_orders.Earned("EUR", 700)})

    number = books.who.number
    assert books.sums() == {
        (number, "", "USD"): (1, 10_000, 0, 0),
        (number, "", "EUR"): (0, 0, 0, 700),
    }


def test_a_new_attribution_moves_the_order_with_what_it_earned(books: Books) -> None:
    order = make.conversion(books.session, books.program, None, country="FR")
    rollup_orders.refresh(books.session, [order.id])
    rollup_orders.earn(books.session, {order.id: rollup_orders.Earned("EUR", 55)})
    dialect = books.session.get_bind().dialect.name
    if dialect == "sqlite":
        books.session.execute(sa.text("DROP TRIGGER attribution_no_update"))
    else:
        books.session.execute(sa.text("ALTER TABLE attribution DISABLE TRIGGER ALL"))
    books.session.execute(
        sa.text("UPDATE attribution SET publisher_id = :who, click_country = 'AT'"),
        {"who": books.who.id},
    )
    if dialect == "sqlite":
        books.session.execute(sa.text(append_only_ddl("sqlite", "attribution")[0]))

    rollup_orders.refresh(books.session, [order.id])

    assert books.sums("country") == {(books.who.number, "AT", "EUR"): (1, 10_000, 0, 55)}
