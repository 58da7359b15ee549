from fractions import Fraction

import pytest

from commissions.exchange import NoRate, Rates, convert, exact_minor
from kernel.money import MoneyError

RATES = Rates(
    "EUR",
    {
        "2024-03-28": {
            "USD": Fraction("1.0811"),
            "GBP": Fraction("0.8551"),
            "JPY": Fraction(16345, 100),
        },
        "2024-04-02": {"USD": Fraction("1.0749"), "JPY": Fraction(16301, 100)},
    },
)


@pytest.mark.parametrize(
    ("day", "published"),
    [
        ("2024-03-28", "2024-03-28"),
        ("2024-03-29", "2024-03-28"),
        ("2024-04-01", "2024-03-28"),
        ("2024-04-02", "2024-04-02"),
        ("2030-01-01", "2024-04-02"),
    ],
)
def test_the_rate_is_the_days_or_the_last_earlier_one(day: str, published: str) -> None:
    assert RATES.quote("USD", "EUR", day).published == published


def test_a_currency_that_was_not_published_lately_has_its_last_rate() -> None:
    assert RATES.quote("GBP", "JPY", "2024-05-01") == (
        Fraction("163.45") / Fraction("0.8551"),
        "2024-03-28",
    )


@pytest.mark.parametrize(
    ("source", "target", "day", "missing"),
    [
        ("USD", "EUR", "2024-03-27", "USD"),
        ("EUR", "USD", "2024-03-27", "USD"),
        ("AED", "EUR", "2024-04-02", "AED"),
        ("GBP", "AED", "2024-04-02", "AED"),
    ],
)
def test_without_a_rate_nothing_is_converted(
    source: str, target: str, day: str, missing: str
) -> None:
    with pytest.raises(NoRate, match=f"no rate for {missing} on {day}"):
        RATES.quote(source, target, day)


def test_a_cross_rate_is_rounded_once() -> None:
    rate = RATES.quote("GBP", "JPY", "2024-03-28").rate
    assert convert(1037, "GBP", "JPY", rate) == 1982
    euro = convert(1037, "GBP", "EUR", RATES.quote("GBP", "EUR", "2024-03-28").rate)
    assert convert(euro, "EUR", "JPY", Fraction("163.45")) == 1983


@pytest.mark.parametrize(
    ("minor", "source", "target", "rate", "rounding", "expected"),
    [
        (10000, "USD", "INR", "82.42135", "half_up", 824214),
        (10000, "USD", "INR", "82.42135", "half_even", 824214),
        (10000, "USD", "INR", "82.42135", "down", 824213),
        (-10000, "USD", "INR", "82.42135", "half_up", -824214),
        (12345, "EUR", "PLN", "4.2938", "half_up", 53007),
        (100, "EUR", "KWD", "0.3333", "half_up", 333),
        (1, "KWD", "JPY", "490.5", "half_up", 0),
        (5, "USD", "USD", "1", "half_up", 5),
    ],
)
def test_minor_units_follow_the_currencies(  # noqa: PLR0917 - one column of the table each
    minor: int, source: str, target: str, rate: str, rounding: str, expected: int
) -> None:
    assert convert(minor, source, target, Fraction(rate), rounding=rounding) == expected  # type: ignore[arg-type]  # the table holds text


def test_a_round_trip_is_exact_before_it_is_rounded() -> None:
    there = exact_minor(1234, "USD", "JPY", Fraction("163.45") / Fraction("1.0811"))
    assert exact_minor(there, "JPY", "USD", Fraction("1.0811") / Fraction("163.45")) == 1234


def test_an_unknown_currency_is_refused() -> None:
    with pytest.raises(MoneyError, match="unknown currency code"):
        convert(1, "EUR", "XXX", Fraction(1))
