"""Orders in other currencies: converted at a rate that is kept, or waiting for one. Drained."""

from datetime import date, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import col, select

from commissions import accruals, fx_rates
from commissions.checks import check
from commissions.fx_rates import Quote
from commissions.models import Booking, Commission, ConversionRate, FxRate, RateWanted
from kernel.database import unit_of_work
from kernel.outbox import append
from kernel.settings import Settings
from tests import make
from tests.server.shop import NOW, Shop, problems
from tracker.models import ChangeKind, Conversion

DAY = NOW.date()
LEVELS = [{"from": 0, "percent": "5"}, {"from": 15_000, "percent": "10"}]


@pytest.fixture
def shop(engine: Engine) -> Shop:
    return Shop(engine)


def publish(shop: Shop, rate: str = "0.8", day: date = DAY, currency: str = "GBP") -> None:
    with unit_of_work(shop.engine) as session:
        quote = Quote(day, "EUR", currency, rate)
        fx_rates.record(session, "ecb", [quote], actor="t", now=shop.now)
    shop.work()


def order(shop: Shop, order_id: str, **facts: Any) -> str:
    return shop.order(order_id, **({"click_id": shop.click(), "currency": "GBP"} | facts))


def stands(shop: Shop, conversion_id: str) -> tuple[int, str, str]:
    [one] = shop.rows(Commission, col(Commission.conversion_id) == conversion_id)
    return one.amount_minor, one.status, one.reason


def kinds(shop: Shop, conversion_id: str) -> list[tuple[str, int]]:
    with unit_of_work(shop.engine) as session:
        query = select(Booking).where(Booking.conversion_id == conversion_id)
        found = session.exec(query.order_by(col(Booking.seq))).all()
        return [(one.kind, one.delta_minor) for one in found]


def is_sound(shop: Shop, settings: Settings) -> bool:
    with unit_of_work(shop.engine) as session:
        assert list(check(session)) == []
    return problems(shop, settings) == []


def test_an_order_is_converted_at_the_rate_of_its_day_for_good(
    shop: Shop, settings: Settings
) -> None:
    publish(shop, "0.8", DAY - timedelta(days=1))
    one = order(shop, "1")
    assert stands(shop, one) == (1_250, "pending", "")
    [kept] = shop.rows(ConversionRate)
    [published] = shop.rows(FxRate)
    assert (kept.from_rate_id, kept.to_rate_id) == (published.id, None)
    assert (kept.from_rate, kept.to_rate, kept.waited) == ("0.8", "1", False)
    [booking] = shop.rows(Booking)
    assert booking.explanation["rate"] == {
        "value": "5/4",
        "day": (DAY - timedelta(days=1)).isoformat(),
        "source": "ecb",
    }
    assert booking.explanation["order_currency"] == "GBP"
    # A correction, and a rate for the day itself, are for the orders after them.
    publish(shop, "0.5", DAY - timedelta(days=1))
    publish(shop, "0.4")
    assert stands(shop, one) == (1_250, "pending", "")
    assert stands(shop, order(shop, "2")) == (2_500, "pending", "")
    assert kinds(shop, one) == [("accrue", 1_250)]
    assert is_sound(shop, settings)
    with (
        pytest.raises(sa.exc.DBAPIError, match="append-only"),
        unit_of_work(shop.engine) as session,
    ):
        session.execute(sa.update(ConversionRate).values(to_rate="2"))


def test_the_day_is_the_program_s_own(shop: Shop) -> None:
    with unit_of_work(shop.engine) as session:
        session.add(shop.program)
        shop.program.timezone = "Asia/Shanghai"
    publish(shop, "0.8", DAY - timedelta(days=1))
    publish(shop, "0.4", DAY)
    late = NOW.replace(hour=15) - timedelta(days=1)
    click_id = shop.click(timedelta(days=2))
    before = order(shop, "1", occurred_at=late, click_id=click_id)
    # In Shanghai it is tomorrow at four in the afternoon, UTC.
    after = order(shop, "2", occurred_at=late + timedelta(hours=1), click_id=click_id)
    assert [stands(shop, one)[0] for one in (before, after)] == [1_250, 2_500]


def test_without_a_rate_it_waits_and_is_booked_when_there_is_one(
    shop: Shop, settings: Settings
) -> None:
    one = order(shop, "1")
    assert stands(shop, one) == (0, "pending", "no_rate")
    assert [row.conversion_id for row in shop.rows(RateWanted)] == [one]
    # Neither time nor a rate for something else moves it.
    publish(shop, "1.1", currency="USD")
    publish(shop, "0.5", DAY - timedelta(days=60))
    with unit_of_work(shop.engine) as session:
        later = NOW + timedelta(days=60)
        assert accruals.sweep(session, now=later, rows_max=10) == 0
    assert stands(shop, one) == (0, "pending", "no_rate")
    assert is_sound(shop, settings)

    publish(shop)

    assert stands(shop, one) == (1_250, "pending", "")
    assert kinds(shop, one) == [("accrue", 0), ("rated", 1_250)]
    assert shop.rows(RateWanted) == []
    assert [row.waited for row in shop.rows(ConversionRate)] == [True]
    with unit_of_work(shop.engine) as session:
        append(session, "conversion.ratable", one, lane=shop.program.id, now=shop.now)
        append(session, "conversion.recorded", one, lane=shop.program.id, now=shop.now)
    shop.work()
    assert kinds(shop, one) == [("accrue", 0), ("rated", 1_250)]
    assert is_sound(shop, settings)
    with unit_of_work(shop.engine) as session:
        assert accruals.sweep(session, now=NOW + timedelta(days=60), rows_max=10) == 1
    assert stands(shop, one) == (1_250, "payable", "")


def test_an_order_that_nobody_would_try_again_is_found(shop: Shop) -> None:
    one = order(shop, "1")
    with unit_of_work(shop.engine) as session:
        session.execute(sa.delete(RateWanted))
        [found] = check(session)
    assert (found.invariant, found.subject) == (6, f"conversion {one}")


def test_what_happens_while_it_waits_counts_when_it_is_rated(
    shop: Shop, settings: Settings
) -> None:
    refunded, cancelled, approved = (order(shop, name) for name in "123")
    with unit_of_work(shop.engine) as session:
        for one, kind, minor in (
            (refunded, ChangeKind.REFUND, 6_000),
            (cancelled, ChangeKind.CANCEL, 0),
            (approved, ChangeKind.APPROVE, 0),
        ):
            conversion = session.exec(select(Conversion).where(Conversion.id == one)).one()
            make.change(session, conversion, kind, amount_minor=minor, received_at=NOW)
    for one in (refunded, cancelled, approved):
        shop.changed(one)
    assert [stands(shop, one) for one in (refunded, cancelled, approved)] == [
        (0, "pending", "no_rate"),
        (0, "reversed", "cancelled"),
        (0, "approved", "no_rate"),
    ]
    publish(shop)
    assert [stands(shop, one) for one in (refunded, cancelled, approved)] == [
        (500, "pending", "partly_refunded"),
        (0, "reversed", "cancelled"),
        (1_250, "approved", ""),
    ]
    assert is_sound(shop, settings)


def test_it_takes_its_place_in_a_tier_when_it_is_rated(shop: Shop, settings: Settings) -> None:
    tiers = {
        "mode": "graduated",
        "measure": "sales",
        "window": "calendar_month",
        "levels": LEVELS,
    }
    with unit_of_work(shop.engine) as session:
        make.plan(
            session,
            shop.program,
            {"id": "t", "tiers": tiers},
            effective_from=NOW - timedelta(days=99),
        )
    first = order(shop, "1")
    second = order(shop, "2", currency="EUR")
    assert [stands(shop, one)[0] for one in (first, second)] == [0, 500]
    publish(shop)
    third = order(shop, "3", currency="EUR")
    # 100.00 are at 5 %; of the 125.00 that come then, 75.00 are above the bound.
    assert [stands(shop, one)[0] for one in (first, second, third)] == [250 + 750, 500, 1_000]
    assert is_sound(shop, settings)


def test_the_sum_of_converted_orders_stays_exact(shop: Shop, settings: Settings) -> None:
    """Each is worth a third of a cent more than the columns say; three of them make the cent."""
    tiers = {
        "mode": "graduated",
        "measure": "sales",
        "window": "calendar_month",
        "levels": [{"from": 0, "percent": "0"}, {"from": 10_000, "percent": "100"}],
    }
    with unit_of_work(shop.engine) as session:
        make.plan(
            session,
            shop.program,
            {"id": "t", "tiers": tiers},
            effective_from=NOW - timedelta(days=99),
        )
    publish(shop, "3")
    for name in "123":
        order(shop, name, amount_minor=10_000)
    assert stands(shop, order(shop, "4", currency="EUR", amount_minor=1))[0] == 1
    assert is_sound(shop, settings)


def test_rates_in_the_plan_itself_win(shop: Shop, settings: Settings) -> None:
    publish(shop)
    rates = {"pivot": "EUR", "rates": {(DAY - timedelta(days=9)).isoformat(): {"GBP": "0.5"}}}
    with unit_of_work(shop.engine) as session:
        make.plan(session, shop.program, effective_from=NOW - timedelta(days=99), fx=rates)
    assert stands(shop, order(shop, "1"))[0] == 2_000
    [booking] = shop.rows(Booking)
    assert booking.explanation["rate"]["source"] == "plan"
    assert is_sound(shop, settings)


def test_an_order_on_hold_is_rated_and_stays_on_hold(shop: Shop, settings: Settings) -> None:
    one = order(shop, "1", click_id="")
    with unit_of_work(shop.engine) as session:
        made = make.conversion(session, shop.program, shop.owner, currency="GBP")
        accruals.accrue(session, made.id, hold_reason="fraud_suspected", now=shop.now)
    assert stands(shop, made.id) == (0, "held", "fraud_suspected")
    publish(shop)
    assert stands(shop, made.id) == (1_250, "held", "fraud_suspected")
    with unit_of_work(shop.engine) as session:
        accruals.release(session, made.id, actor="usr_1", now=shop.now)
    assert stands(shop, made.id) == (1_250, "pending", "")
    # What is nobody's waits for nothing.
    assert shop.rows(Commission, col(Commission.conversion_id) == one) == []
    assert is_sound(shop, settings)


def test_many_that_wait_are_tried_look_by_look(
    shop: Shop, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("commissions.conversion_rates.ROWS_PER_LOOK", 2)
    waiting = [order(shop, str(name)) for name in range(5)]
    publish(shop)
    assert [stands(shop, one)[0] for one in waiting] == [1_250] * 5
    assert is_sound(shop, settings)
