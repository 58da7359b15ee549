"""A stream of orders, of which none is kept, gives what `evaluate` gives for all of them."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from commissions.order_events import Change, Clock, Event, EventError, Line, Order
from commissions.rules import Plan, Priced, evaluate, parse_events, parse_plan
from commissions.streaming import Stream, can_stream
from tests.commissions.histories import histories, plan_documents
from tests.commissions.test_batches import CAMPAIGN, FIRST, FLAT, LATER, PLANS, STEPS, tiers
from tests.make import NOW

START = NOW - timedelta(days=50)
KINDS = {
    name: parse_plan({"currency": "EUR", "rules": rules} | document)
    for name, (rules, document) in PLANS.items()
} | {
    f"{name}, second version": parse_plan({"currency": "EUR", "rules": rules})
    for name, rules in LATER.items()
}
STATUS = [{"from": 0, "percent": "2"}, {"from": 9_000, "percent": "6", "flat_minor": 11}]
APPROVED: dict[str, Any] = {
    "rate_clock": "approved",
    "rules": [
        FLAT | {"effective_to": (START + timedelta(days=30)).isoformat()},
        tiers("graduated", "units", STEPS) | {"priority": -1},
    ],
}
REACHED = {
    "fixed_minor": 99,
    "threshold_minor": 9_000,
    "window": "calendar_month",
    "once_per_publisher": True,
}
MORE = {
    name: parse_plan({"currency": "EUR", "rules": [FLAT]} | document, publishing=False)
    for name, document in {
        **{
            f"{mode} for ever": {
                "rules": [
                    tiers(
                        mode,
                        "sales",
                        [
                            {"from": 0, "percent": "5"},
                            {"from": 15_000, "percent": "7", "flat_minor": 9},
                        ],
                        window="lifetime",
                    )
                ]
            }
            for mode in ("graduated", "volume")
        },
        "statuses of both": {
            "rules": [
                tiers("status", "count", STEPS),
                {**tiers("status", "sales", STATUS), "id": "more", "kind": "bonus"},
            ],
        },
        "approved by the clock": APPROVED,
        "approved counts": APPROVED
        | {"rules": [FLAT, tiers("status", "units", STEPS, counts="approved") | {"priority": 1}]},
        "orders in all": {"caps": {"budget_count": 3}},
        "campaign's cap": {"caps": {"per_publisher_window_count": 1, **CAMPAIGN}},
        "each order by itself": {
            "rules": [tiers("graduated", "units", STEPS, window="order", boundary="split")]
        },
        "order by units": {"rules": [tiers("order", "units", STEPS, window="order")]},
        "first to reach": {"rules": [FLAT, FIRST | {"pay": REACHED}]},
    }.items()
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
        if not isinstance(event, Clock):
            order_id = event.id if isinstance(event, Order) else event.conversion
            of.setdefault(order_id, []).append(event)
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
    "plan", [pytest.param(plan, id=name) for name, plan in (KINDS | MORE).items()]
)
@given(found=EVENTS)
@example(found=[("sale", 0, 12_000)] * 20 + [("refund", 3, 7_000), ("approve", 17, 1)])
def test_streamed_orders_are_priced_as_if_all_were_held(
    plan: Plan, found: list[tuple[str, int, int]]
) -> None:
    events = told(found)

    if can_stream(plan):
        assert facts(streamed(plan, events)) == facts(evaluate(plan, events))


@settings(max_examples=200, deadline=None)
@given(document=plan_documents(), history=histories(12))
def test_any_plan_that_can_be_streamed_gives_the_very_same(
    document: dict[str, Any], history: list[Any]
) -> None:
    plan = parse_plan(document, publishing=False)
    if can_stream(plan):
        events = parse_events(history, plan.zone)

        assert streamed(plan, events) == evaluate(plan, events)


def test_only_what_looks_back_over_days_needs_the_orders_themselves() -> None:
    every = KINDS | MORE
    held = [name for name, plan in every.items() if not can_stream(plan)]
    bonus = tiers("graduated", "units", STEPS, window="rolling_9d") | {"kind": "bonus"}

    assert held == ["status of days", "graduated of days"]
    assert not can_stream(parse_plan({"currency": "EUR", "rules": [FLAT, bonus]}))


def test_windows_of_single_orders_leave_nothing_behind() -> None:
    stream = Stream(MORE["each order by itself"])

    for number in range(3):
        stream.price(stream.see([sale(f"o{number}", 0, 100, START)]))

    assert stream.sums == 0


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
