"""A document through the form and back: nothing of it gets lost on the way to the next version."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console import attribution_form
from kernel.errors import InvalidInput
from tracker.credit import Model
from tracker.credit_terms import PARAMS, Source, parse

WORDS = st.text("abcdefghij-", min_size=1, max_size=8)
CODES = {"pub_1": "anna", "pub_2": "bert"}
IDS = {code: one for one, code in CODES.items()}


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    """Documents as the API takes them, with any of the parts left out."""
    model = draw(st.sampled_from(list(Model)))
    whole: dict[str, Any] = {
        "model": model.value,
        "window_hours": draw(st.integers(1, 8_760)),
        "stand_down_seconds": draw(st.integers(0, 3_600)),
        "in_cart_seconds": draw(st.integers(0, 3_540)),
        "in_cart_rejects_solo": draw(st.booleans()),
        "sources": draw(st.lists(st.sampled_from([*map(str, Source)]), unique=True)),
        "customer_days": draw(st.integers(0, 3_650)),
        "customer_choice": draw(st.sampled_from(["latest", "first"])),
        "channels": draw(st.lists(WORDS, max_size=3)),
        "excluded": draw(st.lists(st.sampled_from([*CODES, "group:g"]), unique=True)),
        "preferred": [{"publisher": "pub_1", "from": "2026-11-20T00:00:00Z", "clickless": True}],
        "rules": [{"id": "r", "when": {"event": ["lead"]}, "window_hours": 5}],
    }
    figures: dict[str, Any] = {
        "first_percent": "30",
        "last_percent": 60.5,
        "half_life_days": draw(st.integers(1, 365)),
        "missing_contributor": "split",
    }
    params = {name: value for name, value in figures.items() if name in PARAMS[model]}
    if params:
        whole["params"] = params
    kept = {name: value for name, value in whole.items() if draw(st.booleans())}
    if "model" not in kept:
        kept.pop("params", None)
    if "group:g" in kept.get("excluded", ()):
        kept["groups"] = {"g": ["pub_2"]}
    return kept


@given(documents())
def test_the_form_of_a_version_makes_that_version_again(document: dict[str, Any]) -> None:
    fields = attribution_form.fields_of(document, CODES)

    again = attribution_form.document_of(fields, IDS)

    expected = {"model": "last_click", **document}
    if not expected.get("in_cart_rejects_solo"):
        # No and not said are the same where no rule is left to ask.
        expected.pop("in_cart_rejects_solo", None)
    assert parse(again) == parse(expected)


def test_publishers_without_a_part_stand_in_the_form_by_their_codes() -> None:
    fields = attribution_form.fields_of({"excluded": ["pub_2", "group:g", "pub_gone"]}, CODES)

    assert fields["excluded"] == "bert\ngroup:g\npub_gone"


def test_an_empty_document_shows_its_defaults() -> None:
    fields = attribution_form.fields_of({}, CODES)

    filled = {name: value for name, value in fields.items() if value}
    assert filled == {
        "model": "last_click",
        "source_1": "click",
        "source_2": "coupon",
        "source_3": "order",
        "source_4": "customer",
        "channels": "affiliate\naw",
    }


@pytest.mark.parametrize(
    ("form", "problem"),
    [
        ({"window_hours": "a week"}, ("window_hours", "range")),
        ({"window_hours": "1e3"}, ("window_hours", "range")),
        ({"stand_down_seconds": "-1"}, ("stand_down_seconds", "range")),
        ({"customer_days": "\N{ARABIC-INDIC DIGIT THREE}"}, ("customer_days", "range")),
        ({"in_cart_seconds": "9" * 40}, ("in_cart_seconds", "range")),
        ({"more": "{"}, ("more", "json")),
        ({"more": "[]"}, ("more", "fields")),
        ({"more": json.dumps({"model": "linear"})}, ("more", "fields")),
    ],
)
def test_what_is_no_number_and_no_json_is_named(
    form: dict[str, str], problem: tuple[str, str]
) -> None:
    with pytest.raises(InvalidInput) as caught:
        attribution_form.document_of(form, IDS)

    assert [(one.field, one.rule) for one in caught.value.problems] == [problem]


def test_a_figure_of_another_model_is_refused_and_not_dropped() -> None:
    document = attribution_form.document_of({"model": "linear", "half_life_days": "7"}, IDS)

    with pytest.raises(InvalidInput) as caught:
        parse(document)
    assert [(one.field, one.rule) for one in caught.value.problems] == [
        ("params.half_life_days", "unknown")
    ]
