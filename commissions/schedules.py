"""When commissions are approved, locked and paid, as terms of payment say it. Pure.

A term is a chain of steps from a month or a day: so many months and days after the end of the
month, the tenth of the month after the next, thirty days net, rolled to a business day. Days are
those of the program's zone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from commissions.calendars import (
    CALENDARS,
    ROLLS,
    add_business_days,
    add_months,
    month_end,
    nearest_month_end,
    roll,
)
from commissions.plan_document import FREEZE_DAYS
from commissions.reading import Problems, Reader
from commissions.tiers import CALENDAR_WINDOWS, window_of

DAYS_MAX = 3660
MONTHS_MAX = 120
_DAY = timedelta(1)
_LAST_OF_MONTH = 31
_LATEST = "latest"
_AFTER = ("month_end", "lock_month_end", "lock", "approved", "start", _LATEST)
# The names by which documents call the day or month that a term starts from.
STARTS = (
    "action_month",
    "earning_month",
    "month",
    "created",
    "occurred",
    "earned",
    "earned_at",
    "date",
    "approved",
    "locked",
    "payable",
    "due",
)
# Terms of payment that a schedule only carries; whoever pays out applies them.
CARRIED = ("min_payout_minor",)


class ScheduleError(ValueError):
    """Terms or a start that cannot be read; `problems` lists (path, reason)."""

    def __init__(self, problems: Problems) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{path}: {reason}" for path, reason in self.problems))


@dataclass(frozen=True, slots=True)
class Step:
    """The way from one day to the next.

    From the day itself or the end of its month (`after`), so many months and days on; then the
    `day` of that month, the next of the `days_of_month`, or the nearest month end (`by`); then
    business days, and a roll to one. `at_end_of_day`: it takes effect on the day after.
    """

    after: str = _LATEST
    months: int = 0
    days: int = 0
    business_days: int = 0
    day: int | None = None
    days_of_month: tuple[int, ...] = ()
    by_month_end: bool = False
    at_end_of_day: bool = False
    roll: str = "none"
    calendar: str = "weekdays"

    def on(self, start: date) -> date:
        """The day that the step leads to."""
        found = month_end(start) if self.after.endswith("month_end") else start
        if self.day is not None:
            # A day of a month is counted from the month; the last days of short ones give way.
            month = add_months(found.replace(day=1), self.months)
            found = month.replace(day=min(self.day, month_end(month).day))
        elif self.months:
            is_end = found == month_end(found)
            found = add_months(found, self.months)
            found = month_end(found) if is_end and self.after.endswith("month_end") else found
        found += self.days * _DAY
        if self.days_of_month:
            found = _next_of(found, self.days_of_month)
        if self.by_month_end:
            found = nearest_month_end(found)
        found = add_business_days(found, self.business_days, self.calendar)
        found = roll(found, self.roll, self.calendar)
        return found + _DAY if self.at_end_of_day else found


@dataclass(frozen=True, slots=True)
class Terms:
    """Terms of payment. Each step follows the one before it, unless it says what it is after."""

    approve: Step | None = None
    lock: Step | None = None
    pay: Step | None = None
    window: str = ""
    freeze_days: int = FREEZE_DAYS
    carried: tuple[tuple[str, int], ...] = ()

    def dates(self, start: date) -> dict[str, date]:
        """`approved`, `locked_from`, `invoice`, `paid` and `paid_by`, as far as the terms say."""
        found: dict[str, date] = {}
        at = start
        if self.approve is not None:
            at = found["approved"] = self.approve.on(at)
        if self.lock is not None:
            at = found["locked_from"] = self.lock.on(at)
            # What locks in a month is invoiced when the month is over.
            found["invoice"] = month_end(at) + _DAY
        if self.pay is not None:
            origins = {"start": start, "month_end": start, "approved": found.get("approved", start)}
            paid = found["paid"] = self.pay.on(origins.get(self.pay.after, at))
            if self.pay.by_month_end:
                found["paid_by"] = paid
        return found


def frozen_from(window: str, at: datetime, zone: ZoneInfo, freeze_days: int) -> datetime | None:
    """When the levels of the window that holds `at` are final, in UTC; None is never.

    Local days, so that a freeze after 30 days falls on a local midnight across a clock change.
    """
    _, end = window_of(window, at, zone)
    if end is None:
        return None
    return (end.astimezone(zone) + timedelta(freeze_days)).astimezone(end.tzinfo)


def read_terms(document: object) -> Terms:
    """Terms as JSON; ScheduleError lists every problem by path."""
    problems: Problems = []
    reader = Reader(document, "rule", problems)
    calendar = _calendar(reader)
    rolled = reader.choice("roll", ROLLS, "none")
    window = reader.choice("window", CALENDAR_WINDOWS) if reader.has("window") else ""
    terms = Terms(
        approve=_days_after(reader, "approve_after_days", "none", calendar),
        lock=_step(reader, "lock", "none", calendar)
        or _days_after(reader, "lock_after_days", "none", calendar)
        or _days_after(reader, "hold_days", "none", calendar),
        pay=_step(reader, "pay", rolled, calendar) or _net(reader, rolled, calendar),
        window=window,
        freeze_days=reader.integer("freeze_days", default=FREEZE_DAYS, limit=DAYS_MAX),
        carried=tuple((name, reader.integer(name)) for name in CARRIED if reader.has(name)),
    )
    if reader.has("freeze_days") and not window:
        reader.problem("window", "missing")
    reader.finish()
    if not problems and not window and not any((terms.approve, terms.lock, terms.pay)):
        problems.append(("rule", "names no term"))
    if problems:
        raise ScheduleError(problems)
    return terms


def _calendar(reader: Reader) -> str:
    named = reader.optional_text("calendar") or "weekdays"
    aliases = {"ecb": "target", "target2": "target", "fed": "us", "weekends": "weekdays"}
    calendar = aliases.get(named.casefold(), named.casefold())
    if calendar not in CALENDARS:
        reader.problem("calendar", f"must be one of {', '.join(CALENDARS)}")
        return "weekdays"
    return calendar


def _days_after(reader: Reader, name: str, rolled: str, calendar: str) -> Step | None:
    if not reader.has(name):
        return None
    days = reader.integer(name, limit=DAYS_MAX)
    return Step(days=days, roll=rolled, calendar=calendar)


def _net(reader: Reader, rolled: str, calendar: str) -> Step | None:
    """`net_days` after the approval, on a day of the month for payments, on a business day."""
    days_of_month = _month_days(reader, "pay_days") or _month_days(reader, "days_of_month")
    if not days_of_month and not any(reader.has(name) for name in ("net_days", "roll")):
        return None
    days = reader.integer("net_days", default=0, limit=DAYS_MAX)
    return Step("approved", days=days, days_of_month=days_of_month, roll=rolled, calendar=calendar)


def _step(reader: Reader, name: str, rolled: str, calendar: str) -> Step | None:
    nested = reader.nested(name)
    if nested is None:
        return None
    listed = nested.is_list("days")
    months = "months_after" if nested.has("months_after") else "months"
    of_month = "day_of_month" if nested.has("day_of_month") else "day"
    by = nested.optional_text("by")
    if by not in {None, "month_end"}:
        nested.problem("by", "not supported")
    at = nested.choice("at", ("end_of_day", "start_of_day"), "start_of_day")
    day = nested.optional_integer(of_month, limit=_LAST_OF_MONTH)
    if day == 0:
        nested.problem(of_month, "must be at least 1")
    step = Step(
        after=nested.choice("after", _AFTER, _LATEST),
        months=nested.integer(months, default=0, limit=MONTHS_MAX),
        days=0 if listed else nested.integer("days", default=0, limit=DAYS_MAX),
        business_days=nested.integer("business_days", default=0, limit=DAYS_MAX),
        day=day or None,
        days_of_month=_month_days(nested, "days" if listed else "days_of_month"),
        by_month_end=by == "month_end",
        at_end_of_day=at == "end_of_day",
        roll=nested.choice("roll", ROLLS, rolled),
        calendar=_calendar(nested) if nested.has("calendar") else calendar,
    )
    nested.finish()
    return step


def _month_days(reader: Reader, name: str) -> tuple[int, ...]:
    days = reader.integers(name, limit=_LAST_OF_MONTH)
    if any(day < 1 for day in days):
        reader.problem(name, "must hold days from 1 to 31")
        return ()
    return tuple(sorted(set(days)))


def _next_of(day: date, days_of_month: tuple[int, ...]) -> date:
    """The first of these days of the month on or after the day; 31 is the last of every month."""
    month = day.replace(day=1)
    while True:
        last = month_end(month).day
        for wanted in days_of_month:
            found = month.replace(day=min(wanted, last))
            if found >= day:
                return found
        month = add_months(month, 1)


def read_start(document: object) -> date:
    """The day a schedule starts from: one date, or a month, whose last day it then is."""
    problems: Problems = []
    reader = Reader(document, "input", problems)
    named = [name for name in reader.names() if name in STARTS]
    text = reader.text(named[0] if len(named) == 1 else STARTS[0])
    if len(named) > 1:
        reader.problem("", "names more than one start")
    reader.finish()
    start = day_of(text)
    if start is None and not problems:
        problems.append((f"input.{named[0]}", "must be a date or a month"))
    if problems or start is None:
        raise ScheduleError(problems)
    return start


def day_of(text: str) -> date | None:
    """A date, the day of a time, or the last day of a month such as 2026-01; None otherwise."""
    try:
        if len(text) == len("2026-01"):
            return month_end(date.fromisoformat(f"{text}-01"))
        return datetime.fromisoformat(text).date()
    except ValueError:
        return None


def read_window(text: str) -> datetime | None:
    """A local time inside a window: a year, quarter (2026-Q1), month, week (2026-W10) or day."""
    try:
        if len(text) == len("2026") and text.isdigit():
            return datetime(int(text), 1, 1)  # noqa: DTZ001 - local to the zone it is read for
        year, _, quarter = text.partition("-Q")
        if quarter in {"1", "2", "3", "4"}:
            return datetime(int(year), int(quarter) * 3 - 2, 1)  # noqa: DTZ001 - likewise
        is_month = len(text) == len("2026-01")
        return datetime.fromisoformat(f"{text}-01" if is_month else text)
    except ValueError:
        return None


def carried(terms: Terms) -> Mapping[str, Any]:
    """What the terms say besides days."""
    return dict(terms.carried)
