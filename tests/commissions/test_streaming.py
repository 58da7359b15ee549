"""A stream of orders, of which none is kept, gives what `evaluate` gives for all of them."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commissions.order_events import Change, Event, EventError, Line, Order
from commissions.rules import Plan, Priced, evaluate, parse_plan
from commissions.streaming import Stream, can_stream
from tests.commissions.test_batches import LATER, PLANS, tiers
from tests.make import NOW

START = NOW - timedelta(days=50)
KINDS = {
    name: parse_plan({"currency": "EUR", "rules": rules} | document)
    for name, (rules, document) in PLANS.items()
} | {
    f"{name}, second version": parse_plan({"currency": "EUR", "rules": rules})
    for name, rules in LATER.items()
}
LIFETIME = {
    f"{mode} for ever": parse_plan(
        {"currency": "EUR", "rules": [tiers(mode, "sales", levels, window="lifetime")]}
    )
    for mode in ("graduated", "volume")
    for levels in (
        [{"from": 0, "percent": "5"}, {"from": 15_000, "percent": "7", "flat_minor": 9}],
    )
}

EVENTS = st.lists(
    st.tuples(
        st.sampled_from(
            ("sale", "sale", "sale", "refund", "cancel", "decline", "approve", "hold", "release")
        ),
        st.integers(0, 11),
        st.integers(1, 12_000),
    ),
    min_size=1,
    max_size=30,
)


def told(found: Sequence[tuple[str, int, int]]) -> list[Event]:
    """Orders, some of them late or of another currency, and what happens to them weeks later."""
    events: list[Event] = []
    left: dict[str, int] = {}
    for number, (what, which, minor) in enumerate(found):
        now = START + timedelta(days=3 * number, hours=which)
        if what == "sale":
            left[f"o{number}"] = minor
            events.append(sale(f"o{number}", which, minor, now))
        elif left:
            one = sorted(left)[which % len(left)]
            part = min(left[one], minor) if what == "refund" else 0
            left[one] -= part
            if part or what != "refund":
                events.append(Change(what, one, now, amount_minor=part))
    return events


def sale(identity: str, which: int, minor: int, now: datetime) -> Order:
    lines = (Line(minor),) if which % 3 else (Line(minor), Line(500, qty=2))
    return Order(
        id=identity,
        publisher=f"p{which % 2}",
        at=now - timedelta(days=which),
        lines=lines,
        known_at=now,
        currency="EUR",
        countries={"country": "DE" if which == 5 else "FR"},
        coupon="STAFF" if which == 9 else None,
    )


def streamed(plan: Plan, events: Sequence[Event]) -> dict[str, Priced]:
    of: dict[str, list[Event]] = {}
    for event in events:
        of.setdefault(event.id if isinstance(event, Order) else event.conversion, []).append(event)  # type: ignore[union-attr]
    stream = Stream(plan)
    seen = {one: stream.see(own) for one, own in of.items()}
    if stream.is_measured:
        for one in seen.values():
            stream.measure(one)
    return {one: stream.price(order) for one, order in seen.items()}


def facts(priced: Mapping[str, Priced]) -> dict[str, Any]:
    return {
        one: (
            found.commission_minor,
            found.uncapped_minor,
            found.status,
            found.payees,
            found.contributions,
            [line.exact for line in found.lines],
        )
        for one, found in priced.items()
    }


@pytest.mark.parametrize(
    "plan", [pytest.param(plan, id=name) for name, plan in (KINDS | LIFETIME).items()]
)
@given(found=EVENTS)
def test_streamed_orders_are_priced_as_if_all_were_held(
    plan: Plan, found: list[tuple[str, int, int]]
) -> None:
    events = told(found)

    if can_stream(plan):
        assert facts(streamed(plan, events)) == facts(evaluate(plan, events))


def test_only_a_status_over_rolling_days_needs_the_orders_themselves() -> None:
    assert [name for name, plan in KINDS.items() if not can_stream(plan)] == ["status of days"]


def test_an_order_that_is_only_counted_moves_its_counter() -> None:
    plan = KINDS["graduated"]
    first, second = sale("a", 0, 15_000, START), sale("b", 0, 10_000, START)
    stream = Stream(plan)

    stream.count(stream.see([first]))

    priced = stream.price(stream.see([second]))
    assert facts({"b": priced})["b"] == facts(evaluate(plan, [first, second]))["b"]
    assert priced.commission_minor == 1_050


def test_what_happened_to_no_order_is_refused() -> None:
    with pytest.raises(EventError, match="do not begin with their order"):
        Stream(KINDS["flat"]).see([Change("cancel", "a", START)])
