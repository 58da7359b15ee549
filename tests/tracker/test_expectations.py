import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.expectations import Expected, Forecast


def mass(count: int, seen: int, over: float, size: float) -> float:
    """The negative binomial by its definition."""
    shape, stay = seen + 0.5, over / (over + size)
    return math.exp(
        math.lgamma(count + shape)
        - math.lgamma(shape)
        - math.lgamma(count + 1)
        + shape * math.log(stay)
        + count * math.log1p(-stay)
    )


@given(
    seen=st.integers(0, 400),
    over=st.floats(1, 1_000),
    size=st.floats(0.01, 300),
    count=st.integers(0, 120),
)
def test_tails_are_the_sums_of_the_distribution(
    seen: int, over: float, size: float, count: int
) -> None:
    forecast = Forecast(seen=seen, over=over, size=size)

    below = sum(mass(one, seen, over, size) for one in range(count))

    assert forecast.at_most(count - 1) == pytest.approx(below, abs=1e-9)
    assert forecast.at_least(count) == pytest.approx(1 - below, abs=1e-9)


@given(seen=st.integers(0, 10**5), over=st.floats(10, 1e6), size=st.floats(0, 1e3))
def test_bounds_hold_the_mean_between_them(seen: int, over: float, size: float) -> None:
    forecast = Forecast(seen=seen, over=over, size=size)
    expected = forecast.expected()

    assert expected.least <= expected.most
    assert forecast.at_most(expected.least - 1) <= 0.025 + 1e-9
    assert forecast.at_most(expected.most) >= 0.975 - 1e-9


def test_nothing_is_expected_of_no_time() -> None:
    forecast = Forecast(seen=100, over=10, size=0)

    assert forecast.expected() == Expected(0, 0, 0)
    assert (forecast.at_most(0), forecast.at_least(1)) == (1.0, 0.0)
