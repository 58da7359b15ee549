"""A cursor gives back what went in, and nothing that anyone else made up."""

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel import pages
from kernel.errors import InvalidInput


def forged(position: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(position).encode()).rstrip(b"=").decode()


@given(st.integers(1 - 2**63, 2**63 - 1), st.text(st.characters(exclude_categories=["Cs"])))
def test_what_goes_in_comes_out(number: int, text: str) -> None:
    assert pages.decode(pages.encode(number, text), int, str) == [number, text]


def test_a_cursor_needs_no_escaping_in_a_url() -> None:
    cursor = pages.encode("\u00ff\u00fe?>~" * 5, 2**60)

    assert cursor.replace("-", "a").replace("_", "a").isalnum()


@pytest.mark.parametrize(
    "cursor",
    [
        "",
        "x",
        "!!!!",
        "\u00e9",
        "a b=",
        pages.encode(7)[:-1],
        pages.encode(7) + "A",
        forged("7"),
        forged(["7"]),
        forged([7.0]),
        forged([True]),
        forged([2**63]),
        forged([-(10**30)]),
        forged([None]),
        forged([]),
        forged([7, 7]),
        forged({"0": 7}),
        base64.urlsafe_b64encode(b"\xff\xfe\xfd").decode(),
    ],
)
def test_what_is_not_a_cursor_of_ours_is_refused(cursor: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        pages.decode(cursor, int)

    assert [(each.field, each.rule) for each in refused.value.problems] == [("cursor", "cursor")]


def test_bug_a_deeply_nested_cursor_was_an_unexpected_error() -> None:
    cursor = base64.urlsafe_b64encode(b"[" * 99_999).decode()

    with pytest.raises(InvalidInput):
        pages.decode(cursor, int)
