"""Last click, and what refunds leave."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.rules import Candidate, Refund, attribute, remaining_by_line

ORDER_AT = datetime(2026, 3, 15, 12, 0, tzinfo=UTC)


def click(name: str, before: timedelta, **facts: Any) -> Candidate:
    return Candidate(click_id=name, publisher_id=f"pub-{name}", at=ORDER_AT - before, **facts)


@pytest.mark.parametrize(
    ("candidates", "winner", "reason"),
    [
        ([], None, "no_click_id"),
        ([click("a", timedelta(days=14)), click("b", timedelta(days=7))], "b", "last_click"),
        ([click("a", timedelta(hours=720))], "a", "last_click"),
        ([click("a", timedelta(hours=720, milliseconds=1))], None, "outside_window"),
        ([click("a", timedelta(seconds=-60))], "a", "last_click"),
        ([click("a", timedelta(seconds=-60, milliseconds=-1))], None, "click_after_order"),
        ([click("a", timedelta(1), unbillable_reason="prefetch")], None, "prefetch"),
        ([click("a", timedelta(1), is_member=False)], None, "not_a_member"),
        (
            [click("a", timedelta(2)), click("b", timedelta(1), unbillable_reason="paused")],
            "a",
            "last_click",
        ),
        (
            [click("a", timedelta(50)), click("b", timedelta(40), is_member=False)],
            None,
            "not_a_member",
        ),
        ([click("a", timedelta(1)), click("b", timedelta(1))], "b", "last_click"),
    ],
)
def test_last_click(candidates: list[Candidate], winner: str | None, reason: str) -> None:
    for ordered in (candidates, candidates[::-1]):
        found, why = attribute(ordered, occurred_at=ORDER_AT, window_hours=720)
        assert (found.click_id if found else None, why) == (winner, reason)


@pytest.mark.parametrize(
    ("amounts", "refunds", "left"),
    [
        ([1000], [Refund(400), Refund(600)], [0]),
        ([1000], [Refund(400), Refund(601)], None),
        ([1000], [Refund(400, 0)], [600]),
        ([1000], [Refund(1, 1)], None),
        ([700, 300], [Refund(301, 1)], None),
        ([700, 300], [Refund(300, 1), Refund(100)], [600, 0]),
        ([700, 300], [Refund(100)], [630, 270]),
        ([700, 300], [Refund(100), Refund(270, 1)], [630, 0]),
        ([700, 300], [Refund(100), Refund(271, 1)], None),
        ([0], [Refund(0)], [0]),
        ([0], [Refund(1)], None),
    ],
)
def test_what_refunds_leave(
    amounts: list[int], refunds: list[Refund], left: list[int] | None
) -> None:
    assert remaining_by_line(amounts, refunds) == left


@given(
    st.lists(st.integers(0, 10**6), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(0, 10**6), st.none() | st.integers(0, 5)), max_size=6),
)
def test_nothing_is_refunded_twice(amounts: list[int], asked: list[tuple[int, int | None]]) -> None:
    refunds = [Refund(amount, line) for amount, line in asked]
    left = remaining_by_line(amounts, refunds)
    if left is not None:
        assert sum(left) == sum(amounts) - sum(amount for amount, _ in asked)
        assert all(0 <= part <= whole for part, whole in zip(left, amounts, strict=True))
