"""The geometry of the charts, drawn by the server: numbers in, coordinates and labels out. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Final

from kernel.money import exponent_of

HEIGHT: Final = 190
_TOP, _BOTTOM = 10, 24
_TICKS_MAX: Final = 4
_LABEL_EVERY_DAYS: Final = 7
_LABELS_MAX: Final = 5
COUNT: Final = "JPY"
"""The currency to draw counts in: none of its kind has decimals."""

_MINUS = "\N{MINUS SIGN}"


@dataclass(frozen=True, slots=True)
class Bar:
    """One day or other stretch: where it stands (percent across, pixels down), what it says."""

    at: date | str
    value_minor: int
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Tick:
    """A place on an axis and its text."""

    at: float
    text: str


@dataclass(frozen=True, slots=True)
class BarChart:
    """A bar a day, or for each other stretch.

    Across it is measured in percent, so that text keeps its size on a phone.
    `y_ticks` are from bottom to top, `x_ticks` evenly apart, counted back from the last bar.
    """

    bars: tuple[Bar, ...]
    x_ticks: tuple[Tick, ...]
    y_ticks: tuple[Tick, ...]
    zero: float
    total_minor: int
    height: int = HEIGHT


@dataclass(frozen=True, slots=True)
class Part:
    """A slice of a whole, in percent of the width of the strip."""

    code: str
    value_minor: int
    x: float
    width: float


def days_until(last: date, days: int) -> list[date]:
    """The `days` days that end with `last`, oldest first."""
    return [last - timedelta(days=back) for back in range(days - 1, -1, -1)]


def daily(values_minor: Mapping[date, int], days: Sequence[date], currency: str) -> BarChart:
    """The chart of amounts by day; a day without a value is 0."""
    return columns(
        [(day, f"{day:%m-%d}", values_minor.get(day, 0)) for day in days],
        currency=currency,
        label_every=_LABEL_EVERY_DAYS,
    )


def columns(
    stretches: Sequence[tuple[date | str, str, int]], *, currency: str, label_every: int = 0
) -> BarChart:
    """The chart of (what the bar says, its label on the axis, value); not for none.

    Counts are drawn like a currency without decimals. Every `label_every`th bar has its label, or
    as many as have room.
    """
    values = [value for _, _, value in stretches]
    step = _step(max(*values, 0) - min(*values, 0), currency)
    low = min(*values, 0) // step * step
    high = -(-max(*values, 0) // step) * step or step
    room = HEIGHT - _TOP - _BOTTOM
    apart = label_every or -(-len(stretches) // _LABELS_MAX)

    def y_of(value: int) -> float:
        return round(_TOP + room * (high - value) / (high - low), 1)

    slot = 100 / len(stretches)
    bars = tuple(
        Bar(
            at=stretch,
            value_minor=value,
            x=round(slot * at + slot * 0.15, 2),
            y=min(y_of(value), y_of(0)),
            width=round(slot * 0.7, 2),
            height=round(abs(y_of(value) - y_of(0)), 1),
        )
        for at, (stretch, _, value) in enumerate(stretches)
    )
    return BarChart(
        bars=bars,
        x_ticks=tuple(
            Tick(at=round(slot * (at + 0.5), 2), text=label)
            for at, (_, label, _) in enumerate(stretches)
            if (len(stretches) - 1 - at) % apart == 0
        ),
        y_ticks=tuple(
            Tick(at=y_of(value), text=_short(value, step, currency))
            for value in range(low, high + 1, step)
        ),
        zero=y_of(0),
        total_minor=sum(values),
    )


def strip(amounts: Sequence[tuple[str, int]]) -> list[Part]:
    """How a whole is made of parts, side by side over 100 units; only what is above 0 counts."""
    shown = [(code, minor) for code, minor in amounts if minor > 0]
    whole = sum(minor for _, minor in shown)
    parts: list[Part] = []
    done = 0
    for code, minor in shown:
        parts.append(
            Part(
                code=code,
                value_minor=minor,
                x=round(100 * done / whole, 2),
                width=round(100 * minor / whole, 2),
            )
        )
        done += minor
    return parts


def _step(span: int, currency: str) -> int:
    # 1, 2 or 5 times a power of ten, so that the labels are round in any currency.
    unit: int = 10 ** exponent_of(currency)
    step = max(1, unit // 100)
    while True:
        for factor in (1, 2, 5):
            if span <= step * factor * _TICKS_MAX:
                return step * factor
        step *= 10


def _short(value: int, step: int, currency: str) -> str:
    """`1.5k`, `20`: exact in the steps of the axis, because steps are round."""
    exponent = exponent_of(currency)
    unit: int = 10**exponent
    sign = _MINUS if value < 0 else ""
    size = abs(value)
    for name, scale in (("M", 10**6), ("k", 10**3)):
        if step * 10 >= unit * scale:
            whole, rest = divmod(size * 10 // (unit * scale), 10)
            return (
                f"{sign}{whole}.{rest}{name}" if rest else f"{sign}{whole}{name if whole else ''}"
            )
    whole, rest = divmod(size, unit)
    if not rest or exponent == 0:
        return f"{sign}{whole:,}"
    return f"{sign}{whole:,}.{rest:0{exponent}d}"
