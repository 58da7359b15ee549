"""Days on which banks settle, and steps between days: months, month ends, rolls. Pure."""

from calendar import monthrange
from collections.abc import Callable
from datetime import date, timedelta
from functools import lru_cache

ROLLS = ("none", "following", "preceding", "modified_following")
_DAY = timedelta(1)
_SATURDAY = 5
_JUNETEENTH_SINCE = 2022


def month_end(day: date) -> date:
    """The last day of the month."""
    return day.replace(day=monthrange(day.year, day.month)[1])


def add_months(day: date, months: int) -> date:
    """The same day so many months later, or the last one of a month that is shorter."""
    month = day.year * 12 + day.month - 1 + months
    first = date(month // 12, month % 12 + 1, 1)
    return first.replace(day=min(day.day, month_end(first).day))


def nearest_month_end(day: date) -> date:
    """The month end that is nearest; of two equally near ones the later."""
    before, after = day.replace(day=1) - _DAY, month_end(day)
    return before if day - before < after - day else after


def easter(year: int) -> date:
    """Easter Sunday of the Gregorian calendar."""
    century, of_century = divmod(year, 100)
    golden = year % 19
    moon = (19 * golden + century - century // 4 - (8 * century + 13) // 25 + 15) % 30
    week = (32 + 2 * (century % 4) + 2 * (of_century // 4) - moon - of_century % 4) % 7
    late = (golden + 11 * moon + 22 * week) // 451
    month, day = divmod(moon + week - 7 * late + 114, 31)
    return date(year, month, day + 1)


@lru_cache(maxsize=256)
def target_holidays(year: int) -> frozenset[date]:
    """The days of the week on which TARGET, the settlement system of the euro, is closed."""
    sunday = easter(year)
    fixed = ((1, 1), (5, 1), (12, 25), (12, 26))
    return frozenset({date(year, *one) for one in fixed} | {sunday - 2 * _DAY, sunday + _DAY})


@lru_cache(maxsize=256)
def us_holidays(year: int) -> frozenset[date]:
    """The days of the week on which the Federal Reserve Banks are closed.

    A holiday on a Sunday is kept on Monday, one on a Saturday not at all.
    """
    fixed = [(1, 1), (7, 4), (11, 11), (12, 25)]
    if year >= _JUNETEENTH_SINCE:
        fixed.append((6, 19))
    days = {date(year, *one) for one in fixed}
    moved = {day + _DAY if day.weekday() == _SATURDAY + 1 else day for day in days}
    floating = {
        _nth(year, 1, 0, 3),
        _nth(year, 2, 0, 3),
        month_end(date(year, 5, 1)) - _DAY * month_end(date(year, 5, 1)).weekday(),
        _nth(year, 9, 0, 1),
        _nth(year, 10, 0, 2),
        _nth(year, 11, 3, 4),
    }
    return frozenset(moved | floating)


def _nth(year: int, month: int, weekday: int, which: int) -> date:
    first = date(year, month, 1)
    return first + _DAY * ((weekday - first.weekday()) % 7 + 7 * (which - 1))


def _no_holidays(_year: int) -> frozenset[date]:
    return frozenset()


_HOLIDAYS: dict[str, Callable[[int], frozenset[date]]] = {
    "weekdays": _no_holidays,
    "target": target_holidays,
    "us": us_holidays,
}
CALENDARS = tuple(_HOLIDAYS)


def is_business_day(day: date, calendar: str) -> bool:
    """Whether banks of the calendar (`weekdays`, `target`, `us`) settle on that day."""
    return day.weekday() < _SATURDAY and day not in _HOLIDAYS[calendar](day.year)


def roll(day: date, how: str, calendar: str) -> date:
    """The day itself when it is a business day, otherwise the next or previous one.

    `modified_following` is the next one, unless that is in another month.
    """
    if how == "none" or is_business_day(day, calendar):
        return day
    if how == "preceding":
        return _next(day, -_DAY, calendar)
    following = _next(day, _DAY, calendar)
    if how == "modified_following" and following.month != day.month:
        return _next(day, -_DAY, calendar)
    return following


def add_business_days(day: date, days: int, calendar: str) -> date:
    """So many business days later; none leaves the day as it is."""
    for _ in range(days):
        day = _next(day, _DAY, calendar)
    return day


def _next(day: date, step: timedelta, calendar: str) -> date:
    day += step
    while not is_business_day(day, calendar):
        day += step
    return day
