import copy
import json
from pathlib import Path
from typing import Any

import pytest

from server import pricing

VECTOR: dict[str, Any] = {
    "id": "V1",
    "program": {"currency": "USD", "timezone": "UTC", "rounding": "half_up", "round_at": "line"},
    "rules": [{"id": "r1", "kind": "base", "pay": {"percent": "2.5"}}],
    "events": [
        {
            "type": "conversion",
            "id": "c1",
            "publisher": "p1",
            "at": "2026-03-10T12:00:00Z",
            "lines": [{"category": "parts", "net_minor": 11700}],
        }
    ],
    "expect": {"per_event": [{"event": "c1", "delta_minor": 293}], "totals": {"p1": 293}},
}
COMPUTED = {
    "per_event": [{"event": "c1", "delta_minor": 293, "postings": {"c1>p1": 293}}],
    "totals": {"p1": 293},
}


@pytest.fixture
def vector() -> dict[str, Any]:
    return copy.deepcopy(VECTOR)


def test_every_published_vector_is_computed_as_published(shared_data: Path) -> None:
    path = shared_data.parent / "vectors" / "commission.json"
    if not path.is_file():
        pytest.skip(f"no commission vectors at {path}")
    document = json.loads(path.read_text())

    answer, ok = pricing.run(document)

    assert [entry["id"] for entry in answer["vectors"]] == [
        entry["id"] for entry in document["vectors"]
    ]
    wrong = [one["id"] for entries in answer.values() for one in entries if not one["ok"]]
    assert (wrong, ok) == ([], True)
    assert {name: len(entries) for name, entries in answer.items()} == {
        "vectors": 53,
        "allocations": 5,
        "attribution": 10,
        "schedules": 4,
        "payouts": 8,
        "fx": 2,
        "ledger": 6,
        "tlog": 1,
    }


def test_an_entry_comes_back_with_what_was_computed(vector: dict[str, Any]) -> None:
    answer, ok = pricing.run({"format": "x", "conventions": {"a": 1}, "vectors": [vector]})

    assert ok
    assert answer == {
        "vectors": [{"id": "V1", "computed": COMPUTED, "expect": VECTOR["expect"], "ok": True}]
    }


def test_an_entry_that_expects_nothing_is_computed_and_ok(vector: dict[str, Any]) -> None:
    del vector["expect"]

    answer, ok = pricing.run({"vectors": [vector]})

    assert ok
    assert answer["vectors"] == [{"id": "V1", "computed": COMPUTED, "expect": None, "ok": True}]


@pytest.mark.parametrize(
    "expect",
    [
        {"totals": {"p1": 292}},
        {"totals": {"p2": 293}},
        {"totals": {"p1": 293, "p2": 1}},
        {"per_event": [{"event": "c1", "delta_minor": 292}]},
        {"per_event": [{"event": "c2", "delta_minor": 293}]},
        {"per_event": []},
        {"per_event": [{"event": "c1", "delta_minor": 293, "postings": {"c1>p2": 293}}]},
    ],
)
def test_a_wrong_expectation_is_not_ok(vector: dict[str, Any], expect: dict[str, Any]) -> None:
    answer, ok = pricing.run({"vectors": [{**vector, "expect": expect}]})

    assert not ok
    assert answer["vectors"] == [{"id": "V1", "computed": COMPUTED, "expect": expect, "ok": False}]


def test_a_cancellation_books_the_difference(vector: dict[str, Any]) -> None:
    vector["events"].append({"type": "cancel", "conversion": "c1", "at": "2026-03-11T12:00:00Z"})
    vector["expect"] = {"totals": {"p1": 0}}

    answer, ok = pricing.run({"vectors": [vector]})

    assert ok, answer
    assert answer["vectors"][0]["computed"]["per_event"][1] == {
        "event": "c1",
        "delta_minor": -293,
        "postings": {"c1>p1": -293},
    }


def test_an_allocation_is_compared() -> None:
    answer, ok = pricing.run(
        {
            "allocations": [
                {"id": "A1", "total_minor": 5, "weights": [70, 30], "expect": [4, 1]},
                {"id": "A2", "total_minor": 5, "weights": [70, 30], "expect": [3, 2]},
            ]
        }
    )

    assert not ok
    assert answer["allocations"] == [
        {"id": "A1", "computed": [4, 1], "expect": [4, 1], "ok": True},
        {"id": "A2", "computed": [4, 1], "expect": [3, 2], "ok": False},
    ]


def test_a_section_that_is_not_known_is_not_ok_and_says_so(vector: dict[str, Any]) -> None:
    answer, ok = pricing.run({"vectors": [vector], "dreams": [{"id": "F1", "expect": 7}]})

    assert not ok
    assert answer["dreams"] == [
        {
            "id": "F1",
            "computed": None,
            "expect": 7,
            "ok": False,
            "reason": "the section dreams is not known",
        }
    ]


@pytest.mark.parametrize("section", [{"vectors": {}}, {"fx": 5}, {"tlog": None}, {"dreams": "x"}])
def test_a_section_that_is_no_list_is_named(section: dict[str, Any]) -> None:
    answer, ok = pricing.run(section)

    assert not ok
    (entries,) = answer.values()
    assert entries[0]["reason"] == "a section must be a list of entries"


def test_what_only_a_term_says_is_carried_and_what_nobody_computes_is_not_ok() -> None:
    rule = {"net_days": 1, "min_payout_minor": 1000}
    entry = {"id": "S", "rule": rule, "input": {"created": "2026-01-01"}}
    carried = {**entry, "expect": {"paid": "2026-01-02", "min_payout_minor": 1000}}
    unsaid = {**carried, "rule": {"net_days": 1}}
    other = {**entry, "expect": {"paid": "2026-01-02", "colour": "blue"}}

    answer, ok = pricing.run({"schedules": [carried, unsaid, other]})

    assert not ok
    assert [one["ok"] for one in answer["schedules"]] == [True, True, False]
    assert answer["schedules"][1]["not_computed"] == ["min_payout_minor"]
    assert answer["schedules"][2]["reason"] == "expects what is not computed: colour"


@pytest.mark.parametrize(
    ("text", "why"),
    [("{", "not a JSON document"), ("[" * 100_000, "not a JSON document"), ("[]", "an object")],
)
def test_a_file_that_is_no_document_is_named(text: str, why: str) -> None:
    with pytest.raises(pricing.BrokenDocument, match=why):
        pricing.read(text)


@pytest.mark.parametrize("expect", [{"per_event": [{}]}, {"totals": 5}, {"per_event": 7}])
def test_an_expectation_of_another_shape_is_named(
    vector: dict[str, Any], expect: dict[str, Any]
) -> None:
    answer, ok = pricing.run({"vectors": [{**vector, "expect": expect}, vector]})

    assert not ok
    assert [entry["ok"] for entry in answer["vectors"]] == [False, True]
    assert "Error" in answer["vectors"][0]["reason"]


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        (5, "an entry must be an object"),
        ({"id": "A", "total_minor": "5", "weights": [1]}, "TypeError"),
        ({"id": "A", "total_minor": 5, "weights": []}, "MoneyError"),
        ({"id": "A", "total_minor": 5, "weights": [0.5]}, "TypeError: weights"),
        ({"id": "A", "total_minor": 5, "weights": [1], "method": "dice"}, "ValueError: method"),
    ],
)
def test_an_allocation_of_another_shape_is_named(entry: Any, reason: str) -> None:
    answer, ok = pricing.run({"allocations": [entry]})

    assert not ok
    assert answer["allocations"][0]["reason"].startswith(reason)


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        ({"rules": [{"id": "r1", "kind": "odd"}]}, "rules[0]"),
        ({"program": {"currency": "EURO"}}, "currency"),
        ({"events": [{"type": "conversion"}]}, "events[0]"),
        ({"events": [{"type": "wave"}]}, "events[0]"),
    ],
)
def test_a_broken_entry_is_named_and_the_others_are_computed(
    vector: dict[str, Any], broken: dict[str, Any], reason: str
) -> None:
    answer, ok = pricing.run({"vectors": [{**vector, **broken, "id": "B1"}, vector]})

    first, second = answer["vectors"]
    assert not ok
    assert (first["id"], first["computed"], first["ok"]) == ("B1", None, False)
    assert reason in first["reason"]
    assert second["ok"]


@pytest.mark.parametrize("missing", ["program", "rules", "events"])
def test_an_entry_without_a_part_is_named(vector: dict[str, Any], missing: str) -> None:
    del vector[missing]

    answer, ok = pricing.run({"vectors": [vector]})

    assert not ok
    assert answer["vectors"][0]["reason"] == f"KeyError: '{missing}'"
