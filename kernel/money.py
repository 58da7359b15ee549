"""Integer minor units with an ISO 4217 currency: reading, writing, rounding and splitting.

Nothing here is approximate: amounts are ints, rates and intermediate results are `Fraction`.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

RoundingMode = Literal["half_up", "half_even", "down"]

ROUNDING_MODES: tuple[RoundingMode, ...] = ("half_up", "half_even", "down")
MAX_MINOR = 10**15

# Exponents are ISO 4217's, not CLDR's: display libraries drop the decimals of currencies whose
# coins fell out of use (IQD, LBP, AFN), and an amount read that way is wrong by a factor.
_CODES_BY_EXPONENT = {
    0: "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF",
    2: (
        "AED AFN ALL AMD AOA ARS AUD AWG AZN BAM BBD BDT BMD BND BOB BRL BSD BTN BWP BYN BZD "
        "CAD CDF CHF CNY COP CRC CUP CVE CZK DKK DOP DZD EGP ERN ETB EUR FJD FKP GBP GEL GHS "
        "GIP GMD GTQ GYD HKD HNL HTG HUF IDR ILS INR IRR JMD KES KGS KHR KPW KYD KZT LAK LBP "
        "LKR LRD LSL MAD MDL MGA MKD MMK MNT MOP MRU MUR MVR MWK MXN MYR MZN NAD NGN NIO NOK "
        "NPR NZD PAB PEN PGK PHP PKR PLN QAR RON RSD RUB SAR SBD SCR SDG SEK SGD SHP SLE SOS "
        "SRD SSP STN SVC SYP SZL THB TJS TMT TOP TRY TTD TWD TZS UAH USD UYU UZS VED VES WST "
        "XCD XCG YER ZAR ZMW ZWG"
    ),
    3: "BHD IQD JOD KWD LYD OMR TND",
    4: "CLF UYW",
}
EXPONENTS: dict[str, int] = {
    code: exponent for exponent, codes in _CODES_BY_EXPONENT.items() for code in codes.split()
}

_AMOUNT = re.compile(r"(-?)([0-9]{1,16})(?:\.([0-9]{1,6}))?", re.ASCII)


class MoneyError(ValueError):
    """An amount, currency or split that cannot be taken; `reason` says why in one clause."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def exponent_of(currency: str) -> int:
    """How many decimals the currency has; MoneyError for a code ISO 4217 does not list."""
    try:
        return EXPONENTS[currency]
    except KeyError:
        raise MoneyError("unknown currency code") from None


@dataclass(frozen=True, slots=True)
class Money:
    """An exact amount: `minor` units of `currency`, at most MAX_MINOR either way."""

    minor: int
    currency: str

    def __post_init__(self) -> None:
        exponent_of(self.currency)
        if type(self.minor) is not int:
            raise MoneyError("minor units must be an integer")
        if abs(self.minor) > MAX_MINOR:
            raise MoneyError("amount is over the limit")

    def __str__(self) -> str:
        return f"{format_amount(self.minor, self.currency)} {self.currency}"


def parse_amount(text: str, currency: str, *, allow_negative: bool = False) -> int:
    """Minor units of a decimal string in major units, such as `"12.50"` EUR -> 1250.

    Only ASCII digits and one point; no plus sign, exponent, grouping, blanks or bare point.
    More decimals than the currency has are refused, even zeros, rather than cut.
    """
    exponent = exponent_of(currency)
    match = _AMOUNT.fullmatch(text)
    if match is None:
        raise MoneyError("not a decimal amount")
    sign, whole, decimals = match.group(1), match.group(2), match.group(3) or ""
    if sign and not allow_negative:
        raise MoneyError("amount must not be negative")
    if len(decimals) > exponent:
        raise MoneyError(f"{currency} has {exponent} decimals")
    minor = int(whole + decimals.ljust(exponent, "0"))
    if minor > MAX_MINOR:
        raise MoneyError("amount is over the limit")
    return -minor if sign else minor


def format_amount(minor: int, currency: str) -> str:
    """Major units with exactly the currency's decimals; `parse_amount` reads it back."""
    exponent = exponent_of(currency)
    sign = "-" if minor < 0 else ""
    if exponent == 0:
        return f"{sign}{abs(minor)}"
    whole, decimals = divmod(abs(minor), 10**exponent)
    return f"{sign}{whole}.{decimals:0{exponent}d}"


def round_fraction(value: Fraction | int, mode: RoundingMode = "half_up") -> int:
    """Nearest integer; `half_up` takes ties away from zero, `down` cuts towards zero.

    Symmetrical: the rounding of -x is minus the rounding of x, so a reversal cancels exactly.
    """
    whole, rest = divmod(abs(value.numerator), value.denominator)
    twice = 2 * rest
    if mode == "half_up":
        up = twice >= value.denominator
    elif mode == "half_even":
        up = twice > value.denominator or (twice == value.denominator and whole % 2 == 1)
    elif mode == "down":
        up = False
    else:
        raise MoneyError("unknown rounding mode")
    rounded = whole + 1 if up else whole
    return -rounded if value < 0 else rounded


def sum_exact(values: Iterable[int | Fraction]) -> Fraction:
    """The sum of exact amounts. Whole ones, which nearly all are, are added as whole numbers."""
    whole = 0
    rest: int | Fraction | None = None
    for value in values:
        if value.denominator == 1:
            whole += value.numerator
        else:
            rest = value if rest is None else rest + value
    return Fraction(whole if rest is None else rest + whole)


def allocate(total_minor: int, weights: Sequence[int | Fraction]) -> list[int]:
    """Split a total by weights so that the parts sum to it, by largest remainder.

    The earlier part wins a tie; a negative total is the mirror of the positive one.
    """
    if not weights or any(weight < 0 for weight in weights):
        raise MoneyError("weights must not be empty or negative")
    sum_of_weights = Fraction(sum(weights))
    if sum_of_weights == 0:
        raise MoneyError("weights must not all be zero")
    total = abs(total_minor)
    exact = [total * weight / sum_of_weights for weight in weights]
    parts = [share.numerator // share.denominator for share in exact]
    by_remainder = sorted(range(len(parts)), key=lambda at: (parts[at] - exact[at], at))
    for at in by_remainder[: total - sum(parts)]:
        parts[at] += 1
    return [-part for part in parts] if total_minor < 0 else parts
