"""What to expect of orders, from a history of the same kind: pure arithmetic, no table, no clock.

Orders come one by one and independently, at a rate nobody knows exactly. With `seen` orders over a
history of size `over` (clicks, or hours), how many a stretch of size `size` brings is negative
binomial: the Poisson count of a rate that is itself uncertain (a gamma with Jeffreys' half order
added). A short history so gives wide bounds by itself, and nobody is alarmed by luck.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

_HALF: Final = 0.5
_TAIL: Final = 0.025
_COUNT_MAX: Final = 10_000_000


@dataclass(frozen=True, slots=True)
class Expected:
    """The expected number and the bounds that 95 of 100 such stretches keep."""

    number: int
    least: int
    most: int


class Forecast:
    """How many orders a stretch brings. `seen` >= 0, `over` > 0, `size` >= 0."""

    def __init__(self, *, seen: int, over: float, size: float) -> None:
        self._shape = seen + _HALF
        self._mean = self._shape * size / over
        # The chance that the next thing to happen is in the history and not in the stretch.
        self._stay = over / (over + size)

    @property
    def mean(self) -> float:
        """The expected number."""
        return self._mean

    def at_most(self, count: int) -> float:
        """The probability of `count` orders or fewer."""
        if count < 0:
            return 0.0
        if self._stay == 1.0:
            return 1.0
        return _regularized(self._shape, count + 1.0, self._stay)

    def at_least(self, count: int) -> float:
        """The probability of `count` orders or more."""
        if count <= 0:
            return 1.0
        if self._stay == 1.0:
            return 0.0
        return _regularized(float(count), self._shape, 1.0 - self._stay)

    def expected(self) -> Expected:
        """The mean, rounded, and its 95 % bounds."""
        return Expected(
            number=math.floor(self._mean + _HALF),
            least=self._first(lambda count: self.at_most(count) > _TAIL),
            most=self._first(lambda count: self.at_most(count) >= 1 - _TAIL),
        )

    def _first(self, holds: Callable[[int], bool]) -> int:
        low, high = 0, 1
        while not holds(high) and high < _COUNT_MAX:
            high *= 2
        while low < high:
            middle = (low + high) // 2
            if holds(middle):
                high = middle
            else:
                low = middle + 1
        return low


def _regularized(a: float, b: float, x: float) -> float:
    """The regularized incomplete beta function, by its continued fraction (Lentz's method)."""
    if x <= 0.0:
        return 0.0
    if x >= 1.0:
        return 1.0
    if x > (a + 1.0) / (a + b + 2.0):
        return 1.0 - _regularized(b, a, 1.0 - x)
    scale = math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b)
    front = math.exp(scale + a * math.log(x) + b * math.log1p(-x)) / a
    return min(1.0, front * _fraction(a, b, x))


_TINY: Final = 1e-300
_CLOSE: Final = 1e-12
_TERMS_MAX: Final = 100_000


def _fraction(a: float, b: float, x: float) -> float:
    above, below = 1.0, 1.0 / _not_zero(1.0 - (a + b) * x / (a + 1.0))
    value = below
    for term in range(1, _TERMS_MAX):
        double = 2 * term
        even = term * (b - term) * x / ((a + double - 1.0) * (a + double))
        odd = -(a + term) * (a + b + term) * x / ((a + double) * (a + double + 1.0))
        for step in (even, odd):
            below = 1.0 / _not_zero(1.0 + step * below)
            above = _not_zero(1.0 + step / above)
            value *= below * above
        if abs(below * above - 1.0) < _CLOSE:
            break
    return value


def _not_zero(value: float) -> float:
    return value if abs(value) > _TINY else _TINY
