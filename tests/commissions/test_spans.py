"""The orders that are loaded around one are all that decide about it, and all that it decides."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any

from hypothesis import given, settings

from commissions import replays
from commissions.choosing import subject_of
from commissions.folding import moved_span, replay_span
from commissions.order_events import Change, Event, Order
from commissions.rules import Plan, evaluate, parse_events, parse_plan
from tests.commissions.histories import histories, plan_documents


def loaded(
    plan: Plan, orders: Sequence[Order], own: Order, start: datetime | None, end: datetime | None
) -> set[str]:
    """The orders of a span that are evaluated together with one of them."""
    party = None if replays.shared(plan) else subject_of(plan, own).publisher
    return {
        one.id
        for one in orders
        if (start is None or start <= one.at)
        and (end is None or one.at < end)
        and party in {None, subject_of(plan, one).publisher}
    }


def of(events: Sequence[Event], ids: set[str]) -> list[Event]:
    """What happened to these orders."""
    return [
        event
        for event in events
        if (isinstance(event, Order) and event.id in ids)
        or (isinstance(event, Change) and event.conversion in ids)
    ]


@settings(max_examples=100, deadline=None)
@given(document=plan_documents(), history=histories(10))
def test_the_orders_of_its_span_are_all_that_decides_about_an_order(
    document: dict[str, Any], history: list[Any]
) -> None:
    plan = parse_plan(document, publishing=False)
    events = parse_events(history, plan.zone)
    orders = [event for event in events if isinstance(event, Order)]
    every = evaluate(plan, events)
    for own in orders:
        some = of(events, loaded(plan, orders, own, *replay_span(plan, own)))

        assert evaluate(plan, some)[own.id] == every[own.id]


@settings(max_examples=100, deadline=None)
@given(document=plan_documents(), history=histories(10))
def test_what_an_event_moves_is_in_the_span_it_moves(
    document: dict[str, Any], history: list[Any]
) -> None:
    plan = parse_plan(document, publishing=False)
    events = parse_events(history, plan.zone)
    orders = {event.id: event for event in events if isinstance(event, Order)}
    before: dict[str, int] = {}
    for count, event in enumerate(events, 1):
        after = {
            one: priced.commission_minor for one, priced in evaluate(plan, events[:count]).items()
        }
        own_id = event.id if isinstance(event, Order) else event.conversion  # type: ignore[union-attr]
        _, first, end = moved_span(plan, orders[own_id])
        moved = {one for one, minor in after.items() if minor != before.get(one, minor)}

        assert moved <= loaded(plan, list(orders.values()), orders[own_id], first, end)
        before = after
