"""Exact conversion between currencies: a rate of the day or the last earlier one. Pure.

Nothing is rounded on the way: a cross rate is one fraction, and whoever books the result rounds it
once. There are no inverse tables.
"""

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple

from kernel.money import RoundingMode, exponent_of, round_fraction


class NoRate(ValueError):
    """There is no rate of a currency on or before the day; nothing was converted."""

    def __init__(self, currency: str, day: str) -> None:
        super().__init__(f"no rate for {currency} on {day}")
        self.currency = currency
        self.day = day


class Quote(NamedTuple):
    """Units of one currency for one of another, in major units, and the day it was published."""

    rate: Fraction
    published: str


@dataclass(frozen=True, slots=True)
class Rates:
    """Published rates by ISO date: units of a currency for one of the pivot."""

    pivot: str
    by_date: Mapping[str, Mapping[str, Fraction]]
    _days: list[str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_days", sorted(self.by_date))

    def quote(self, source: str, target: str, day: str) -> Quote:
        """Units of `target` for one of `source` by the last publication with both, up to the day.

        The pivot is in every publication. NoRate names the currency that is missing.
        """
        if source == target:
            return Quote(Fraction(1), day)
        for at in range(bisect_right(self._days, day) - 1, -1, -1):
            published = self._days[at]
            row = self.by_date[published]
            if self._has(row, source) and self._has(row, target):
                rate = self._of(row, target) / self._of(row, source)
                return Quote(rate, published)
        missing = target if self._known(source, day) else source
        raise NoRate(missing, day)

    def _known(self, currency: str, day: str) -> bool:
        days = self._days[: bisect_right(self._days, day)]
        return currency == self.pivot or any(self._has(self.by_date[one], currency) for one in days)

    def _has(self, row: Mapping[str, Fraction], currency: str) -> bool:
        return currency == self.pivot or currency in row

    def _of(self, row: Mapping[str, Fraction], currency: str) -> Fraction:
        return Fraction(1) if currency == self.pivot else row[currency]


@lru_cache(maxsize=1024)
def minor_scale(source: str, target: str) -> Fraction:
    """Minor units of `target` in a minor unit of `source` at a rate of one."""
    return Fraction(10) ** (exponent_of(target) - exponent_of(source))


def exact_minor(amount_minor: int | Fraction, source: str, target: str, rate: Fraction) -> Fraction:
    """The amount in minor units of `target`, exact; `rate` is in major units."""
    return amount_minor * rate * minor_scale(source, target)


def convert(
    amount_minor: int | Fraction,
    source: str,
    target: str,
    rate: Fraction,
    *,
    rounding: RoundingMode = "half_up",
) -> int:
    """The amount in minor units of `target`, rounded once."""
    return round_fraction(exact_minor(amount_minor, source, target, rate), rounding)
