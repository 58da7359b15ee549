"""Every fact that conditions of plans look at: from the order in to the rule that names it."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import col

from commissions.checks import check
from commissions.models import Booking, Commission, PlanVersion
from kernel.database import unit_of_work
from kernel.settings import Settings
from network import groups
from tests import make
from tests.server.shop import NOW, Shop, problems
from tracker.events import Item
from tracker.models import Attribution, ChangeKind, Click, Conversion

PHONE = (
    "Mozilla/5.0 (iPhone; CPU iPhone OS 18_6 like Mac OS X) AppleWebKit/605.1.15 "
    "(KHTML, like Gecko) Version/18.6 Mobile/15E148 Safari/604.1"
)
REST = {"id": "rest", "pay": {"percent": "5"}}


@pytest.fixture
def shop(engine: Engine) -> Shop:
    return Shop(engine)


def plan(shop: Shop, *rules: dict[str, Any], **document: Any) -> PlanVersion:
    with unit_of_work(shop.engine) as session:
        made = make.plan(
            session,
            shop.program,
            *rules,
            REST,
            effective_from=NOW - timedelta(days=300),
            **document,
        )
        assert list(made.document["rules"])
        return made


def click(shop: Shop, *, user_agent: str = "", country: str | None = None) -> str:
    """A click of the owner that is stored, an hour before NOW."""
    click_id = shop.click(timedelta(hours=1))
    with unit_of_work(shop.engine) as session:
        make.keep_click(
            session,
            Click(
                id=click_id,
                at=NOW - timedelta(hours=1),
                program_id=shop.program.id,
                publisher_id=shop.owner.id,
                user_agent=user_agent,
                country=country,
                sub_ids={},
                parameters={},
            ),
        )
    return click_id


def group(shop: Shop, code: str, *, since: datetime, until: datetime | None = None) -> None:
    with unit_of_work(shop.engine) as session:
        facts: dict[str, Any] = {"actor": "usr_1", "now": shop.now}
        made = groups.put(session, code, name=code, program_id=None, **facts)
        groups.set_members(session, made, ["owner"], at=since, members_max=10, **facts)
        if until is not None:
            groups.set_members(session, made, [], at=until, members_max=10, **facts)


def booked(shop: Shop, conversion_id: str) -> tuple[int, str, Mapping[str, Any]]:
    """(amount, rule of the first line, explanation) of what was booked first."""
    [first, *_] = shop.rows(Booking, col(Booking.conversion_id) == conversion_id)
    return first.total_minor, first.explanation["lines"][0]["rule_id"], first.explanation


def is_sound(shop: Shop, settings: Settings) -> bool:
    with unit_of_work(shop.engine) as session:
        assert list(check(session)) == []
    return problems(shop, settings) == []


NAMED = {"id": "named", "pay": {"percent": "20"}}


@pytest.mark.parametrize(
    ("when", "said", "explained"),
    [
        ({"site": ["uk-store"]}, {"site": "uk-store"}, {"site": "uk-store"}),
        ({"customer": ["reactivated"]}, {"customer": "reactivated"}, {"customer": "reactivated"}),
        (
            {"country": ["AT"]},
            {"country_billing": "AT", "country_site": "DE"},
            {"country": "AT", "country_source": "country_billing"},
        ),
        (
            {"country": ["DE"]},
            {"country_site": "DE"},
            {"country": "DE", "country_source": "country_site"},
        ),
        (
            {"region": ["alps"]},
            {"country": "CH", "country_billing": "DE"},
            {"country": "CH", "country_source": "country", "regions": ["alps"]},
        ),
    ],
)
def test_what_the_order_says(
    shop: Shop,
    settings: Settings,
    when: dict[str, Any],
    said: dict[str, Any],
    explained: dict[str, Any],
) -> None:
    plan(
        shop,
        NAMED | {"when": when},
        regions={"alps": ["AT", "CH"]},
        country_basis=["country", "country_billing", "country_site"],
    )
    named = shop.order("1", click_id=shop.click(), **said)
    other = shop.order("2", click_id=shop.click())

    amount_minor, rule, explanation = booked(shop, named)
    assert (amount_minor, rule) == (2_000, "named")
    assert {name: explanation[name] for name in explained} == explained
    assert booked(shop, other)[:2] == (500, "rest")
    assert is_sound(shop, settings)


def test_the_click_s_device_and_country(shop: Shop, settings: Settings) -> None:
    plan(
        shop,
        NAMED | {"when": {"device": ["mobile"]}},
        {"id": "at", "when": {"country": ["AT"]}, "pay": {"percent": "10"}},
        country_basis=["country", "country_click"],
    )
    phone = shop.order("1", click_id=click(shop, user_agent=PHONE))
    austrian = shop.order("2", click_id=click(shop, country="AT"))
    # A click without its row says nothing of what it was made with.
    unseen = shop.order("3", click_id=shop.click())

    assert booked(shop, phone)[:2] == (2_000, "named")
    assert booked(shop, austrian)[:2] == (1_000, "at")
    assert booked(shop, unseen)[:2] == (500, "rest")
    assert booked(shop, phone)[2]["device"] == "mobile"
    assert "device" not in booked(shop, unseen)[2]
    assert [one.click_device for one in shop.rows(Attribution)] == ["mobile", None, None]
    assert is_sound(shop, settings)


def test_groups_are_those_of_the_day_of_the_order(shop: Shop, settings: Settings) -> None:
    group(shop, "gold", since=NOW - timedelta(days=5), until=NOW - timedelta(days=2))
    plan(shop, NAMED | {"when": {"publisher_group": ["gold"]}})

    def order(order_id: str, days: int, hours: int = 0) -> str:
        at = NOW - timedelta(days=days, hours=hours)
        return shop.order(order_id, click_id=shop.click(timedelta(days=days + 1)), occurred_at=at)

    before, first = order("1", 5, 1), order("2", 5)
    last, after = order("3", 2, 1), order("4", 2)
    assert [booked(shop, one)[1] for one in (before, first, last, after)] == [
        "rest",
        "named",
        "named",
        "rest",
    ]
    # What is said afterwards about then is for orders that come in afterwards.
    group(shop, "gold", since=NOW - timedelta(days=30))
    assert booked(shop, order("5", 20))[1] == "named"
    assert booked(shop, before)[1] == "rest"
    kept = {one.conversion_id: one.publisher_groups for one in shop.rows(Attribution)}
    assert [kept[one] for one in (before, first, last, after)] == [[], ["gold"], ["gold"], []]
    assert booked(shop, first)[2]["publisher_groups"] == ["gold"]
    assert is_sound(shop, settings)


def test_tiers_of_a_group_count_for_the_group(shop: Shop, settings: Settings) -> None:
    group(shop, "gold", since=NOW - timedelta(days=50))
    levels = [{"from": 1, "percent": "1"}, {"from": 2, "percent": "10"}]
    tiers = {
        "mode": "graduated",
        "measure": "count",
        "window": "calendar_month",
        "scope": ["publisher_group"],
        "levels": levels,
    }
    plan(shop, {"id": "named", "when": {"publisher_group": ["gold"]}, "tiers": tiers})
    first = shop.order("1", click_id=shop.click())
    second = shop.order("2", click_id=shop.click())
    assert [booked(shop, one)[0] for one in (first, second)] == [100, 1_000]
    assert is_sound(shop, settings)


@pytest.mark.parametrize(
    "who", [{"customer_id": "c-7"}, {"email_hash": "a" * 64}, {"parent_order_id": "1"}]
)
def test_months_since_the_first_order(shop: Shop, settings: Settings, who: dict[str, Any]) -> None:
    """By the customer, or by the order that is renewed; an unknown customer never matches."""
    plan(shop, NAMED | {"when": {"within_months_of_first": 2}})

    def order(order_id: str, at: datetime, *, clicked: bool = True, **facts: Any) -> str:
        facts |= {"click_id": shop.click(NOW - at + timedelta(hours=1))} if clicked else {}
        return shop.order(order_id, occurred_at=at, **facts)

    is_parent = "parent_order_id" in who
    first = order("1", datetime(2025, 12, 31, 12, tzinfo=UTC), **({} if is_parent else who))
    within = order("2", datetime(2026, 2, 27, 12, tzinfo=UTC), **who)
    # The last day of February is the 31st of it.
    late = order("3", datetime(2026, 2, 28, 12, tzinfo=UTC), **who)
    chained = order("4", NOW, clicked=False, parent_order_id="2")
    nobody = order("5", NOW)

    kept = {one.conversion_id: one.months_since_first for one in shop.rows(Attribution)}
    expected = [None if is_parent else 0, 1, 2, 2, None]
    assert [kept[one] for one in (first, within, late, chained, nobody)] == expected
    rules = ["rest" if is_parent else "named", "named", "rest", "rest", "rest"]
    assert [booked(shop, one)[1] for one in (first, within, late, chained, nobody)] == rules
    assert booked(shop, within)[2]["months_since_first"] == 1
    assert is_sound(shop, settings)


def test_the_months_are_those_with_the_publisher_that_is_paid(
    shop: Shop, settings: Settings
) -> None:
    plan(shop, NAMED | {"when": {"within_months_of_first": 1}})
    with unit_of_work(shop.engine) as session:
        other = make.publisher(session, member_of=shop.program, code="other")
    at = NOW - timedelta(days=65)
    shop.order("1", customer_id="c", click_id=shop.click(timedelta(days=66)), occurred_at=at)
    ours, theirs = (
        shop.order(order_id, customer_id="c", click_id=shop.click(by=by))
        for order_id, by in (("2", shop.owner), ("3", other))
    )
    kept = {one.conversion_id: one for one in shop.rows(Attribution)}
    assert kept[ours].customer_since == NOW - timedelta(days=65)
    assert (kept[ours].months_since_first, booked(shop, ours)[1]) == (2, "rest")
    assert (kept[theirs].publisher_id, kept[theirs].months_since_first) == (other.id, 0)
    assert booked(shop, theirs)[1] == "named"
    assert is_sound(shop, settings)


def test_a_line_with_tax_is_paid_on_its_net(shop: Shop, settings: Settings) -> None:
    """1.19 with 19 % is 1.00; 0.10 with 19 % is 0.08, rounded before any rate."""
    plan(shop, NAMED | {"priority": 1})
    items = (Item("", "", 1, 11_900, "19"), Item("", "", 1, 10, "19"), Item("", "", 1, 500))
    order = shop.order("1", click_id=shop.click(), amount_minor=12_410, items=items)
    amount_minor, _, explanation = booked(shop, order)
    assert amount_minor == 2_000 + 2 + 100
    first, second, third = explanation["lines"]
    assert (first["vat_derived"], first["gross_minor"], first["vat_percent"]) == (
        True,
        11_900,
        "19",
    )
    assert [one["base_minor"] for one in (first, second, third)] == ["10000", "8", "500"]
    assert "vat_derived" not in third
    [conversion] = shop.rows(Conversion)
    # Refunds are in the figure the shop reports.
    with unit_of_work(shop.engine) as session:
        make.change(session, conversion, ChangeKind.REFUND, amount_minor=11_900, line=0)
        session.flush()
    shop.changed(order)
    assert shop.rows(Commission)[0].amount_minor == 102
    assert is_sound(shop, settings)


def test_a_rule_on_revenue(shop: Shop, settings: Settings) -> None:
    plan(shop, {"id": "fee", "base": "revenue", "priority": 1, "pay": {"percent": "50"}})
    items = (Item("", "", 1, 4_000, None, 400), Item("", "", 1, 6_000, "20", 501))
    order = shop.order("1", click_id=shop.click(), amount_minor=10_000, items=items)
    amount_minor, rule, explanation = booked(shop, order)
    assert (amount_minor, rule) == (200 + 251, "fee")
    assert [one["base"] for one in explanation["lines"]] == ["revenue", "revenue"]
    with unit_of_work(shop.engine) as session:
        [conversion] = session.execute(sa.select(Conversion)).scalars()
        # Half of the line, so half of its revenue: 50 % of 200.
        make.change(session, conversion, ChangeKind.REFUND, amount_minor=2_000, line=0)
    shop.changed(order)
    assert shop.rows(Commission)[0].amount_minor == 100 + 251
    assert is_sound(shop, settings)


def test_tiers_by_what_a_revenue_rule_pays_count_the_revenue(
    shop: Shop, settings: Settings
) -> None:
    """The counter of such a rule is not what the commissions' columns hold."""
    tiers = {
        "mode": "graduated",
        "measure": "commissionable",
        "window": "calendar_month",
        "levels": [{"from": 0, "percent": "10"}, {"from": 500, "percent": "50"}],
    }
    with unit_of_work(shop.engine) as session:
        make.plan(
            session,
            shop.program,
            {"id": "fee", "base": "revenue", "tiers": tiers},
            effective_from=NOW - timedelta(days=300),
        )
    item = Item("", "", 1, 10_000, None, 400)
    paid = [booked(shop, shop.order(one, click_id=shop.click(), items=(item,)))[0] for one in "12"]
    assert paid == [40, 10 + 150]
    assert is_sound(shop, settings)
