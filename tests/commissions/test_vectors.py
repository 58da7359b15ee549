"""Every published or derived commission example, to the exact minor unit of every event."""

import json
import os
from pathlib import Path
from typing import Any

import pytest

from commissions.rules import Plan, PlanError, evaluate, parse_events, parse_plan
from kernel.money import allocate

SHARED = Path(
    os.environ.get(
        "TALLYSTICK_SHARED_DATA", Path(__file__).resolve().parents[3] / "shared" / "data"
    )
)
VECTORS = SHARED.parent / "vectors" / "commission.json"

# What the engine refuses, written down so that it can only shrink in plain sight.
UNSUPPORTED: set[str] = set()


def _document() -> dict[str, Any]:
    if not VECTORS.exists():
        return {"vectors": [], "allocations": []}
    loaded: dict[str, Any] = json.loads(VECTORS.read_text(encoding="utf-8"))
    return loaded


DOCUMENT = _document()
pytestmark = pytest.mark.skipif(
    not DOCUMENT["vectors"], reason="shared commission vectors are not here"
)


def _plan(vector: dict[str, Any]) -> Plan:
    return parse_plan(vector["program"], vector["rules"], publishing=False)


def _split(plan: Plan, events: list[dict[str, Any]]) -> dict[str, int]:
    priced = evaluate(plan, parse_events(events, plan.zone))
    return {
        f"{conversion}>{publisher}": minor
        for conversion, one in priced.items()
        for publisher, minor in one.payees.items()
    }


def test_the_list_of_unsupported_vectors_is_exact() -> None:
    refused = set()
    for vector in DOCUMENT["vectors"]:
        try:
            _plan(vector)
        except PlanError:
            refused.add(vector["id"])
    assert refused == UNSUPPORTED


@pytest.mark.parametrize("vector", DOCUMENT["vectors"], ids=lambda vector: vector["id"])
def test_every_event_books_the_expected_difference(vector: dict[str, Any]) -> None:
    if vector["id"] in UNSUPPORTED:
        pytest.skip("the plan uses something the engine refuses")
    plan = _plan(vector)
    booked: dict[str, int] = {}
    assert len(vector["events"]) == len(vector["expect"]["per_event"])
    for upto, (event, expected) in enumerate(
        zip(vector["events"], vector["expect"]["per_event"], strict=True), start=1
    ):
        now = _split(plan, vector["events"][:upto])
        postings = {
            key: minor - booked.get(key, 0)
            for key, minor in now.items()
            if minor != booked.get(key, 0)
        }
        assert event.get("id", event.get("conversion")) == expected["event"]
        assert sum(postings.values()) == expected["delta_minor"]
        if "postings" in expected:
            assert postings == {key: minor for key, minor in expected["postings"].items() if minor}
        booked = now
    totals: dict[str, int] = {}
    for key, minor in booked.items():
        publisher = key.rpartition(">")[2]
        totals[publisher] = totals.get(publisher, 0) + minor
    paid = {publisher: minor for publisher, minor in totals.items() if minor}
    expected_totals = vector["expect"]["totals"]
    assert paid == {publisher: minor for publisher, minor in expected_totals.items() if minor}


@pytest.mark.parametrize("case", DOCUMENT["allocations"], ids=lambda case: case["id"])
def test_totals_are_allocated_by_largest_remainder(case: dict[str, Any]) -> None:
    assert allocate(case["total_minor"], case["weights"]) == case["expect"]
