"""Amounts are exact: what is read is what was written, and parts sum to their whole."""

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.money import (
    EXPONENTS,
    MAX_MINOR,
    ROUNDING_MODES,
    Money,
    MoneyError,
    RoundingMode,
    allocate,
    format_amount,
    parse_amount,
    round_fraction,
    sum_exact,
)


@pytest.mark.parametrize(
    ("text", "currency", "minor"),
    [
        ("0", "EUR", 0),
        ("12.5", "EUR", 1250),
        ("0012.34", "USD", 1234),
        ("1234", "JPY", 1234),
        ("1.234", "KWD", 1234),
        ("1.5", "IQD", 1500),
        ("0.0001", "CLF", 1),
        ("10000000000000.00", "EUR", MAX_MINOR),
    ],
)
def test_an_amount_is_read_in_the_currencys_own_decimals(
    text: str, currency: str, minor: int
) -> None:
    assert parse_amount(text, currency) == minor


@pytest.mark.parametrize(
    "text",
    [
        "",
        " 1",
        "1 ",
        "1\n",
        "+1",
        "1e3",
        "1_000",
        "1,5",
        "1.",
        ".5",
        "0x1",
        "NaN",
        "\uff11",
        "\u0661",
    ],
)
def test_anything_but_plain_ascii_digits_is_refused(text: str) -> None:
    with pytest.raises(MoneyError) as refused:
        parse_amount(text, "EUR")
    assert refused.value.reason == "not a decimal amount"


@pytest.mark.parametrize(
    ("text", "currency", "reason"),
    [
        ("-1", "EUR", "amount must not be negative"),
        ("1.000", "EUR", "EUR has 2 decimals"),
        ("1.0", "JPY", "JPY has 0 decimals"),
        ("10000000000000.01", "EUR", "amount is over the limit"),
        ("1", "eur", "unknown currency code"),
        ("1", "BTC", "unknown currency code"),
    ],
)
def test_a_refusal_names_its_reason(text: str, currency: str, reason: str) -> None:
    with pytest.raises(MoneyError) as refused:
        parse_amount(text, currency)
    assert refused.value.reason == reason


@given(
    minor=st.integers(-MAX_MINOR, MAX_MINOR),
    currency=st.sampled_from(["JPY", "EUR", "KWD", "CLF"]),
)
def test_what_is_written_reads_back(minor: int, currency: str) -> None:
    text = format_amount(minor, currency)
    assert parse_amount(text, currency, allow_negative=True) == minor


def test_small_negative_amounts_keep_their_sign() -> None:
    assert format_amount(-5, "EUR") == "-0.05"
    assert str(Money(-1234, "JPY")) == "-1234 JPY"


def test_money_refuses_what_is_not_exact() -> None:
    with pytest.raises(MoneyError, match="unknown currency"):
        Money(1, "XXX")
    with pytest.raises(MoneyError, match="integer"):
        Money(minor=True, currency="EUR")
    with pytest.raises(MoneyError, match="limit"):
        Money(MAX_MINOR + 1, "EUR")


def test_exponents_are_those_of_iso_4217() -> None:
    assert {code: EXPONENTS[code] for code in ("IQD", "LBP", "MGA", "AFN", "MMK", "KRW")} == {
        "IQD": 3,
        "LBP": 2,
        "MGA": 2,
        "AFN": 2,
        "MMK": 2,
        "KRW": 0,
    }


@pytest.mark.parametrize(
    ("value", "half_up", "half_even", "down"),
    [
        (Fraction(5, 2), 3, 2, 2),
        (Fraction(7, 2), 4, 4, 3),
        (Fraction(-5, 2), -3, -2, -2),
        (Fraction(249, 100), 2, 2, 2),
        (Fraction(251, 100), 3, 3, 2),
        (Fraction(7), 7, 7, 7),
    ],
)
def test_ties(value: Fraction, half_up: int, half_even: int, down: int) -> None:
    assert [round_fraction(value, mode) for mode in ROUNDING_MODES] == [half_up, half_even, down]


@given(value=st.fractions(), mode=st.sampled_from(ROUNDING_MODES))
def test_rounding_is_symmetrical_and_within_one(value: Fraction, mode: RoundingMode) -> None:
    assert round_fraction(-value, mode) == -round_fraction(value, mode)
    assert abs(round_fraction(value, mode) - value) <= (1 if mode == "down" else Fraction(1, 2))


@pytest.mark.parametrize(
    ("total", "weights", "parts"),
    [
        (5, [70, 30], [4, 1]),
        (5, [30, 70], [2, 3]),
        (800, [1, 1, 1], [267, 267, 266]),
        (102759, [20, 70, 5, 5], [20552, 71931, 5138, 5138]),
        (-67, [40, 20, 40], [-27, -13, -27]),
        (0, [1, 2], [0, 0]),
        (3, [0, 1], [0, 3]),
    ],
)
def test_largest_remainder(total: int, weights: list[int], parts: list[int]) -> None:
    assert allocate(total, weights) == parts


@given(
    total=st.integers(-(10**9), 10**9),
    weights=st.lists(st.integers(0, 1000), min_size=1).filter(any),
)
def test_parts_sum_to_the_total_and_stay_within_one(total: int, weights: list[int]) -> None:
    parts = allocate(total, weights)
    assert sum(parts) == total
    exact = [Fraction(total * weight, sum(weights)) for weight in weights]
    assert all(abs(part - share) < 1 for part, share in zip(parts, exact, strict=True))


@given(st.lists(st.fractions(max_denominator=50)))
def test_a_sum_is_exact_whether_amounts_are_whole_or_not(amounts: list[Fraction]) -> None:
    total = sum_exact(amounts)
    assert (total, type(total)) == (sum(amounts, Fraction(0)), Fraction)


@pytest.mark.parametrize("weights", [[], [0, 0], [1, -1]])
def test_a_split_without_weight_is_refused(weights: list[int]) -> None:
    with pytest.raises(MoneyError, match="weights"):
        allocate(10, weights)
