from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commissions.payout_rules import (
    Conversion,
    PayoutTerms,
    Vat,
    Withholding,
    decide,
    treatment_of,
)


def shown(balance_minor: int, **terms: Any) -> dict[str, Any]:
    found = decide(balance_minor, PayoutTerms(**terms))
    names = ("paid_minor", "carried_minor", "reserved_minor", "withheld_minor", "reason")
    return {name: getattr(found, name) for name in names if getattr(found, name)}


@pytest.mark.parametrize(
    ("balance", "minimum", "expected"),
    [
        (700, 1000, {"carried_minor": 700, "reason": "below_minimum"}),
        (1000, 1000, {"paid_minor": 1000}),
        (1200, 1000, {"paid_minor": 1200}),
        (-300, 0, {"carried_minor": -300, "reason": "not_positive"}),
        (-300, 1000, {"carried_minor": -300, "reason": "not_positive"}),
        (0, 0, {"reason": "not_positive"}),
        (1, 0, {"paid_minor": 1}),
    ],
)
def test_a_balance_is_paid_from_the_minimum_on(
    balance: int, minimum: int, expected: dict[str, Any]
) -> None:
    assert shown(balance, min_minor=minimum) == expected


def test_the_reserve_and_the_tax_come_before_the_minimum() -> None:
    tax = Withholding("1042-S", Fraction(30, 100))
    terms = {"reserve": Fraction(1, 10), "withholding": tax}
    assert shown(100_000, **terms) == {
        "paid_minor": 63_000,
        "reserved_minor": 10_000,
        "withheld_minor": 27_000,
    }
    # Below the minimum nothing is kept: all of it is there next time.
    assert shown(100_000, min_minor=63_001, **terms) == {
        "carried_minor": 100_000,
        "reason": "below_minimum",
    }


@pytest.mark.parametrize(
    ("source", "rate", "withheld"),
    [("1", "0.3", 30), ("0.5", "0.3", 15), ("0", "0.3", 0), ("1", "0.24", 24)],
)
def test_tax_is_kept_back_on_the_part_it_applies_to(source: str, rate: str, withheld: int) -> None:
    tax = Withholding("any", Fraction(rate), Fraction(source))
    found = decide(101, PayoutTerms(withholding=tax))
    assert (found.withheld_minor, found.paid_minor) == (withheld, 101 - withheld)


@pytest.mark.parametrize(
    ("vat", "treatment"),
    [
        (Vat("DE", "DE", payee_has_id=True, rate=Fraction(19, 100)), "S"),
        (Vat("DE", "NL", payee_has_id=True), "AE"),
        (Vat("DE", "NL", payee_has_id=False), "O"),
        (Vat("DE", "US", payee_has_id=True), "O"),
        (Vat("GB", "GB", payee_has_id=True, rate=Fraction(20, 100)), "S"),
        (Vat("GB", "FR", payee_has_id=True), "O"),
        (Vat("DE", "DE", payee_has_id=False, small_business=True), "E"),
        (Vat("DE", "DE", payee_has_id=True, small_business=True), "E"),
    ],
)
def test_the_vat_category(vat: Vat, treatment: str) -> None:
    assert treatment_of(vat) == treatment
    found = decide(12_345, PayoutTerms(vat=vat))
    due = round(12_345 * vat.rate) if treatment == "S" and vat.rate else 0
    assert (found.treatment, found.vat_minor, found.invoice_minor) == (treatment, due, 12_345 + due)
    assert (found.paid_minor, found.payout_minor) == (12_345, 12_345 + due)


def test_vat_without_its_rate_is_refused() -> None:
    with pytest.raises(ValueError, match="rate_percent: missing"):
        decide(1, PayoutTerms(vat=Vat("DE", "DE", payee_has_id=True)))


def test_another_currency_is_converted_once_at_the_end() -> None:
    terms = PayoutTerms(currency="EUR", conversion=Conversion("PLN", Fraction("4.2938")))
    assert decide(12_345, terms).payout_minor == 53_007


def test_a_rail_of_fewer_digits_pays_less_and_carries_the_rest() -> None:
    found = decide(12_345, PayoutTerms(currency="KWD", rail_decimals=2))
    assert (found.paid_minor, found.carried_minor, found.payout_minor) == (12_340, 5, 12_340)
    whole = PayoutTerms(
        currency="EUR", conversion=Conversion("HUF", Fraction(400)), rail_decimals=0
    )
    assert decide(333, whole).payout_minor == 133_200
    part = PayoutTerms(
        currency="EUR", conversion=Conversion("HUF", Fraction("391.77")), rail_decimals=0
    )
    assert decide(333, part).payout_minor == 130_400


@given(
    balance=st.integers(-(10**9), 10**9),
    minimum=st.integers(0, 10**6),
    reserve=st.fractions(0, 1, max_denominator=1000),
    rate=st.fractions(0, 1, max_denominator=1000),
)
def test_the_parts_sum_to_the_balance(
    balance: int, minimum: int, reserve: Fraction, rate: Fraction
) -> None:
    terms = PayoutTerms(
        min_minor=minimum,
        reserve=reserve,
        withholding=Withholding("any", rate),
        currency="KWD",
        rail_decimals=2,
    )
    found = decide(balance, terms)
    parts = (found.paid_minor, found.carried_minor, found.reserved_minor, found.withheld_minor)
    assert sum(parts) == balance
    assert found.paid_minor >= 0
    assert bool(found.reason) == (found.paid_minor == 0)
