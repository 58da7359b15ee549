"""What refunds leave."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.rules import Refund, remaining_by_line


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
