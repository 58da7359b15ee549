"""Whatever a plan document holds, it is read or refused by path; nothing else is raised."""

import copy
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commissions.order_events import EventError
from commissions.rules import PlanError, evaluate, parse_events, parse_plan
from tests.commissions.histories import histories, plan_documents

ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.sampled_from([-1, 10**30, 0.5, float("nan"), float("inf"), "", "x" * 300, "-1", "1e9", "٣"]),
    st.sampled_from([[], {}, [[]], [{}], {"from": 1}, [None], ["DE"], {"": ""}, [[[[[[]]]]]]]),
    st.sampled_from(["2026-01-01", "9999-12-31T23:59:59-23:59", "0001-01-01", "rolling_9d"]),
    st.integers(),
    st.text(max_size=5),
)


def places(value: Any) -> Iterator[tuple[Any, Any]]:
    """(container, key) of everything inside a document."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from places(value[key])


def spoil(document: Any, data: st.DataObject) -> None:
    for _ in range(data.draw(st.integers(1, 3))):
        found = list(places(document))
        if not found:
            return
        container, key = found[data.draw(st.integers(0, len(found) - 1))]
        how = data.draw(st.integers(0, 3))
        if how == 0 and isinstance(container, dict):
            container["surprise"] = copy.deepcopy(data.draw(ODD))
        elif how == 1:
            del container[key]
        else:
            container[key] = copy.deepcopy(data.draw(ODD))


@settings(max_examples=80, deadline=None)
@given(document=plan_documents(), data=st.data())
def test_a_spoiled_plan_is_read_or_refused_by_path(
    document: dict[str, Any], data: st.DataObject
) -> None:
    document = copy.deepcopy(document)
    spoil(document, data)
    problems: tuple[tuple[str, str], ...] = (("", "read"),)
    try:
        parse_plan(document, publishing=False)
    except PlanError as refused:
        problems = refused.problems
    assert problems
    assert all(reason for _, reason in problems)


@settings(max_examples=60, deadline=None)
@given(document=plan_documents(), history=histories(), data=st.data())
def test_spoiled_events_are_priced_or_refused_by_path(
    document: dict[str, Any], history: list[Any], data: st.DataObject
) -> None:
    plan = parse_plan(document, publishing=False)
    history = copy.deepcopy(history)
    spoil(history, data)
    problems: tuple[tuple[str, str], ...] = (("", "priced"),)
    try:
        evaluate(plan, parse_events(history, plan.zone))
    except EventError as refused:
        problems = refused.problems
    assert problems


@pytest.mark.parametrize("document", [None, 5, "plan", [], [{}], True, 1.5, {1: 2}])
def test_what_is_no_object_is_refused(document: Any) -> None:
    with pytest.raises(PlanError) as refused:
        parse_plan(document)
    assert ("", "must be an object") in refused.value.problems


def test_deep_nesting_is_refused_and_not_followed() -> None:
    deep: Any = {}
    for _ in range(100_000):
        deep = {"when": deep}
    with pytest.raises(PlanError) as refused:
        parse_plan({"currency": "EUR", "rules": [{"id": "r", "pay": {"percent": "1"}, **deep}]})
    assert dict(refused.value.problems) == {"rules[0].when.when": "unknown field"}


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("percent", 2.5, "must be a decimal string with at most 6 decimals"),
        ("percent", "0.0000001", "must be a decimal string with at most 6 decimals"),
        ("percent", "-2", "must not be negative"),
        ("per_unit", "1" * 13, "must be a decimal string with at most 6 decimals"),
        ("fixed_minor", 10**16, "must be at most 1000000000000000"),
        ("fixed_minor", 1.0, "must be an integer"),
        ("fixed_minor", "7", "must be an integer"),
    ],
)
def test_rates_are_exact_and_amounts_are_whole(field: str, value: Any, reason: str) -> None:
    with pytest.raises(PlanError) as refused:
        parse_plan({"currency": "EUR", "rules": [{"id": "r", "pay": {field: value}}]})
    assert dict(refused.value.problems)[f"rules[0].pay.{field}"] == reason
