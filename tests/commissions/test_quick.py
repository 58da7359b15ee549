"""The short way gives the amounts of the long one, for every order that it takes."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commissions.folding import without_changes
from commissions.order_events import Order
from commissions.quick import quick
from commissions.rules import (
    CounterKey,
    Plan,
    Priced,
    evaluate,
    parse_events,
    parse_plan,
    price_order,
    price_prepared,
)
from tests.commissions.histories import order_documents, plan_documents


@st.composite
def orders(draw: st.DrawFn) -> list[Any]:
    count = draw(st.integers(1, 6))
    return [draw(order_documents(number, lines_max=1)) for number in range(count)]


def the_long_way(plan: Plan, order: Order, counters: dict[CounterKey, Any]) -> Priced:
    return price_prepared(plan, without_changes(plan, order), counters)


@settings(max_examples=100, deadline=None)
@given(
    document=plan_documents(("graduated", "order"), is_quick=True),
    history=orders(),
    shift=st.integers(0, 5000),
)
def test_every_order_the_short_way_takes_is_what_the_long_way_makes_of_it(
    document: dict[str, Any], history: list[Any], shift: int
) -> None:
    plan = parse_plan(document, publishing=False)
    counters: dict[CounterKey, int | Fraction] = {}
    for order in parse_events(history, plan.zone):
        assert isinstance(order, Order)
        for key in without_changes(plan, order).sizes:
            counters.setdefault(key, shift)
        found = quick(plan).price(order, counters)
        expected = the_long_way(plan, order, counters)
        if found is not None:
            assert found.commission_minor == expected.commission_minor
            assert found.contributions == expected.contributions
            assert found == expected
        for key, size in expected.contributions.items():
            counters[key] += size


def plan_of(*rules: Any, **program: Any) -> Plan:
    return parse_plan({"currency": "EUR", **program, "rules": list(rules)}, publishing=False)


SALE = {
    "id": "c",
    "publisher": "p",
    "at": "2026-03-01",
    "country": "DE",
    "lines": [{"net_minor": 1010, "qty": 2, "category": "books"}],
}


def order_of(**more: Any) -> Order:
    (order,) = parse_events([{**SALE, **more}], plan_of({"id": "r", "pay": {"percent": "1"}}).zone)
    assert isinstance(order, Order)
    return order


RULE = {"id": "r", "pay": {"percent": "2.5", "per_unit": "0.333333", "fixed_minor": 7}}
TIERS = {
    "mode": "graduated",
    "measure": "sales",
    "window": "calendar_month",
    "levels": [{"from": 0, "percent": "5"}, {"from": 1000, "percent": "7"}],
}


def test_most_orders_are_taken() -> None:
    for rule in (RULE, {"id": "t", "tiers": TIERS}):
        plan = plan_of(rule)
        assert quick(plan).price(order_of(), {}) == evaluate(plan, [order_of()])["c"]


@pytest.mark.parametrize(
    ("plan", "order"),
    [
        (plan_of(RULE, caps={"budget_minor": 5}), {}),
        (plan_of(RULE, {"id": "b", "kind": "bonus", "pay": {"percent": "1"}}), {}),
        (plan_of({"id": "v", "tiers": {**TIERS, "mode": "volume"}}), {}),
        (plan_of({"id": "v", "tiers": {**TIERS, "window": "rolling_3d"}}), {}),
        (plan_of(RULE, suppressed_coupons=["NO"]), {"coupon": "NO"}),
        (plan_of(RULE, exclusive_coupons={"ANNA": "a"}), {"coupon": "ANNA"}),
        (plan_of(RULE), {"lines": [{"net_minor": 1}, {"net_minor": 1}]}),
        (plan_of(RULE), {"lines": [{"gross_minor": 119, "vat_percent": "19"}]}),
        (plan_of(RULE), {"lines": [{"net_minor": 0, "qty": 0}]}),
        (plan_of({**RULE, "when": {"country": ["FR"]}}), {}),
    ],
)
def test_what_has_more_to_it_goes_the_long_way(plan: Plan, order: dict[str, Any]) -> None:
    assert quick(plan).price(order_of(**order), {}) is None


def test_a_counter_that_is_no_whole_number_goes_the_long_way() -> None:
    plan = plan_of({"id": "t", "tiers": TIERS})
    order = order_of()
    (key,) = without_changes(plan, order).sizes
    half = {key: Fraction(1, 2)}
    assert quick(plan).price(order, half) is None
    assert price_order(plan, order, half) == the_long_way(plan, order, half)


def test_a_price_explains_itself_by_the_counters_it_met_and_not_by_later_ones() -> None:
    plan = plan_of({"id": "t", "tiers": TIERS})
    order = order_of()
    (key,) = without_changes(plan, order).sizes
    counters = {key: 400}
    priced = price_order(plan, order, counters)
    counters[key] = 90_000
    assert priced.explanation["lines"][0]["tier"]["before"] == "400"
    assert sum(line.commission_minor for line in priced.lines) == priced.commission_minor
