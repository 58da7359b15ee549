"""Chart geometry by known numbers, and exact amounts at any size."""

from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from console import charts
from console.rendering import grouped
from kernel.money import EXPONENTS, MAX_MINOR, parse_amount

DAYS = charts.days_until(date(2026, 3, 10), 4)


def test_days_end_with_the_last() -> None:
    assert [date(2026, 3, 7), date(2026, 3, 8), date(2026, 3, 9), date(2026, 3, 10)] == DAYS


def test_bars_stand_on_zero_and_reach_their_value() -> None:
    chart = charts.daily({DAYS[0]: 20_000, DAYS[3]: 10_000}, DAYS, "EUR")

    assert [tick.text for tick in chart.y_ticks] == ["0", "50", "100", "150", "200"]
    assert [bar.height for bar in chart.bars] == [156.0, 0.0, 0.0, 78.0]
    assert {bar.y + bar.height for bar in chart.bars} == {chart.zero}
    assert chart.total_minor == 30_000
    assert chart.bars[3].x + chart.bars[3].width <= 100


def test_negative_days_hang_below_zero() -> None:
    chart = charts.daily({DAYS[0]: 100, DAYS[1]: -100}, DAYS, "JPY")

    assert [tick.text for tick in chart.y_ticks] == [
        "\N{MINUS SIGN}100",
        "\N{MINUS SIGN}50",
        "0",
        "50",
        "100",
    ]
    assert chart.bars[1].y == chart.zero
    assert chart.bars[1].height == chart.bars[0].height


def test_no_values_still_have_an_axis() -> None:
    chart = charts.daily({}, DAYS, "EUR")

    assert [bar.height for bar in chart.bars] == [0, 0, 0, 0]
    assert len(chart.y_ticks) == 2


@pytest.mark.parametrize(
    ("top", "labels"),
    [
        (600_000, ["0", "2k", "4k", "6k"]),
        (180_000, ["0", "0.5k", "1k", "1.5k", "2k"]),
        (160, ["0", "0.50", "1", "1.50", "2"]),
    ],
)
def test_axis_labels_are_round_and_exact(top: int, labels: list[str]) -> None:
    assert [tick.text for tick in charts.daily({DAYS[0]: top}, DAYS, "EUR").y_ticks] == labels


@given(st.lists(st.integers(-(10**12), 10**12), min_size=4, max_size=4))
def test_every_bar_is_inside_the_picture(values: list[int]) -> None:
    chart = charts.daily(dict(zip(DAYS, values, strict=True)), DAYS, "EUR")

    assert all(bar.y >= 0 and bar.y + bar.height <= chart.height for bar in chart.bars)
    assert 2 <= len(chart.y_ticks) <= 7


def test_strip_leaves_out_what_is_not_above_zero() -> None:
    parts = charts.strip([("paid", 300), ("held", 0), ("reversed", -5), ("pending", 100)])

    assert [(part.code, part.x, part.width) for part in parts] == [
        ("paid", 0.0, 75.0),
        ("pending", 75.0, 25.0),
    ]


@given(st.integers(-MAX_MINOR, MAX_MINOR), st.sampled_from(sorted(EXPONENTS)))
def test_shown_amounts_read_back(minor: int, currency: str) -> None:
    shown = grouped(minor, currency).replace(",", "").replace("\N{MINUS SIGN}", "-")

    assert parse_amount(shown, currency, allow_negative=True) == minor
