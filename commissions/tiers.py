"""Windows and levels of a tier: where a counter stands and what each slice of it pays. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

Number = int | Fraction

CALENDAR_WINDOWS = (
    "calendar_day",
    "calendar_week",
    "calendar_month",
    "calendar_quarter",
    "calendar_year",
)
DISCRETE_MEASURES = frozenset({"count", "units"})
ORDER_WINDOW = "order"
_CAMPAIGN = "campaign:"
_WHOLE = Fraction(1)
_MONTHS = {"calendar_month": 1, "calendar_quarter": 3, "calendar_year": 12}


@dataclass(frozen=True, slots=True)
class Level:
    """What is paid from `start` on.

    `percent` of the base, `per_unit` minor units for each unit, `fixed_minor` once an order and
    `flat_minor` once when the level is entered; in a bonus also a part `of_commission`. `words` is
    how traces name the two rates, written once and not for every line.
    """

    start: int
    percent: Fraction = Fraction(0)
    per_unit: Fraction = Fraction(0)
    fixed_minor: int = 0
    flat_minor: int = 0
    of_commission: Fraction = Fraction(0)
    words: tuple[str, str] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "words", (str(self.percent * 100), str(self.per_unit)))


class Slice(NamedTuple):
    """The part of a line's measure that falls into one level; None is below the first level."""

    level: Level | None
    size: Number
    share: Fraction


def plain(value: Number) -> Number:
    """An int where the value is whole, so that stored counters and traces stay readable."""
    return value.numerator if value.denominator == 1 else value


def campaign(start: datetime, end: datetime) -> str:
    """The window of a campaign, half open."""
    return f"{_CAMPAIGN}{start.isoformat()}/{end.isoformat()}"


def campaign_of(window: str) -> tuple[datetime, datetime] | None:
    """The start and end of a campaign's window; None for every other window."""
    if not window.startswith(_CAMPAIGN):
        return None
    start, _, end = window.removeprefix(_CAMPAIGN).partition("/")
    return datetime.fromisoformat(start), datetime.fromisoformat(end)


@lru_cache(maxsize=4096)
def window_of(window: str, at: datetime, zone: ZoneInfo) -> tuple[datetime | None, datetime | None]:
    """The half-open [start, end) of the window that holds `at`, in UTC; (None, None) is lifetime.

    Days, months and so on begin at local midnight of `zone`, weeks on Monday. A campaign is one
    window whatever `at` is, and each order is a window of its own to `order`.
    """
    if window == "lifetime":
        return None, None
    span = campaign_of(window)
    if span is not None:
        return span
    if window == ORDER_WINDOW:
        return at, at + timedelta(microseconds=1)
    return _window_of_day(window, at.astimezone(zone).date(), zone)


@lru_cache(maxsize=4096)
def _window_of_day(window: str, day: date, zone: ZoneInfo) -> tuple[datetime, datetime]:
    if window in {"calendar_day", "calendar_week"}:
        days = 1 if window == "calendar_day" else 7
        monday = day.weekday() if days != 1 else 0
        first = datetime(day.year, day.month, day.day, tzinfo=zone) - timedelta(monday)
        return first.astimezone(UTC), (first + timedelta(days)).astimezone(UTC)
    months = _MONTHS[window]
    month = (day.month - 1) // months * months
    following = month + months
    start = datetime(day.year, month + 1, 1, tzinfo=zone)
    end = datetime(day.year + following // 12, following % 12 + 1, 1, tzinfo=zone)
    return start.astimezone(UTC), end.astimezone(UTC)


def level_at(levels: Sequence[Level], measure: Number) -> Level | None:
    """The highest level whose start is reached; None below the first."""
    reached = None
    for level in levels:
        if level.start > measure:
            break
        reached = level
    return reached


def lower_bound(level: Level, *, discrete: bool) -> int:
    """Where the level begins on the counter: the seventh unit is the slice from 6 to 7."""
    return max(level.start - 1, 0) if discrete else level.start


def split(levels: Sequence[Level], before: Number, size: Number, *, discrete: bool) -> list[Slice]:
    """Cut [before, before + size) at the level boundaries; an empty size yields one whole slice."""
    if size == 0:
        return [Slice(level_at(levels, before + 1 if discrete else before), 0, Fraction(1))]
    after = before + size
    bounds = [lower_bound(level, discrete=discrete) for level in levels]
    slices = []
    edges: list[tuple[Level | None, Number, Number | None]] = [(None, 0, bounds[0])]
    ends: list[int | None] = [*bounds[1:], None]
    edges += zip(levels, bounds, ends, strict=True)
    for level, start, end in edges:
        low = max(before, start)
        high = after if end is None else min(after, end)
        if high > low:
            part = plain(high - low)
            slices.append(Slice(level, part, _WHOLE if part == size else Fraction(part) / size))
    return slices


def whole(
    levels: Sequence[Level], before: Number, size: Number, boundary: str, *, discrete: bool
) -> Level | None:
    """The one level a crossing order is paid at: the one it leaves or the one it reaches."""
    if boundary == "after":
        return level_at(levels, before + size)
    return level_at(levels, before + 1 if discrete else before)


def entered(
    levels: Sequence[Level], before: Number, after: Number, *, discrete: bool
) -> list[Level]:
    """The levels into which the counter's way from `before` to `after` puts its first slice."""
    return [level for level in levels if before <= lower_bound(level, discrete=discrete) < after]


def reaches(level: Level, before: Number, after: Number) -> bool:
    """Whether the counter's way from `before` to `after` is what first reached the level."""
    if level.start == 0:
        return before == 0 < after
    return before < level.start <= after
