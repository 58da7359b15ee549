from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from commissions.rules import Event, Order, Plan, Priced, evaluate, parse_events, parse_plan
from commissions.windows import Window
from tests.commissions.histories import histories, plan_documents


def amounts_of(priced: dict[str, Priced]) -> dict[str, tuple[int, dict[str, int]]]:
    return {name: (one.commission_minor, dict(one.payees)) for name, one in priced.items()}


@settings(max_examples=60, deadline=None)
@given(document=plan_documents(), history=histories(), booked=st.integers(0, 4))
def test_events_added_one_by_one_give_what_the_fold_gives(
    document: dict[str, Any], history: list[Any], booked: int
) -> None:
    plan = parse_plan(document, publishing=False)
    events = parse_events(history, plan.zone)
    begun = min(booked, len(events))
    window = Window(plan, events[:begun])
    found = amounts_of(evaluate(plan, events[:begun]))
    for upto in range(begun, len(events)):
        window.add(events[upto])
        found |= amounts_of(window.take_moved())
        assert found == amounts_of(evaluate(plan, events[: upto + 1]))


@settings(max_examples=40, deadline=None)
@given(document=plan_documents(), history=histories())
def test_differences_sum_to_the_end_and_cancelling_everything_is_nothing(
    document: dict[str, Any], history: list[Any]
) -> None:
    plan = parse_plan(document, publishing=False)
    cancels = [
        {"type": "cancel", "conversion": one["id"], "at": "2026-04-01"}
        for one in history
        if "id" in one
    ]
    events = parse_events([*history, *cancels], plan.zone)
    booked: dict[str, int] = {}
    before: dict[str, int] = {}
    for upto in range(len(events)):
        now = {
            name: one.commission_minor for name, one in evaluate(plan, events[: upto + 1]).items()
        }
        for name, minor in now.items():
            booked[name] = booked.get(name, 0) + minor - before.get(name, 0)
        before = now
    assert booked == before
    assert set(before.values()) == {0}


def _facts(plan: Plan, events: list[Event]) -> dict[str, Any]:
    return {name: one.explanation for name, one in evaluate(plan, events).items()}


@settings(max_examples=40, deadline=None)
@given(
    document=plan_documents(),
    history=histories(),
    order=st.permutations(["p1", "p2", "p3"]),
)
def test_events_of_different_scopes_may_change_places(
    document: dict[str, Any], history: list[Any], order: list[str]
) -> None:
    document["caps"] = {
        name: value for name, value in document["caps"].items() if "budget" not in name
    }
    for rule in document["rules"]:
        if "tiers" in rule:
            rule["tiers"]["scope"] = ["publisher"]
    plan = parse_plan(document, publishing=False)
    payees = {
        one.id: "p3" if one.coupon == "ANNA" else one.publisher
        for one in parse_events(history, plan.zone)
        if isinstance(one, Order)
    }
    regrouped = sorted(
        history, key=lambda one: order.index(payees[one.get("id", one.get("conversion"))])
    )
    assert _facts(plan, parse_events(regrouped, plan.zone)) == _facts(
        plan, parse_events(history, plan.zone)
    )
