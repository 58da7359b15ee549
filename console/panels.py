"""Sums as the overviews show them: one panel per currency, from the rows of `earnings`."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

from sqlmodel import Session

from commissions import earnings, statements
from console import charts
from network.access import Actor

DAYS: Final = 30
STATUS_ORDER: Final = (
    "payable",
    "approved",
    "pending",
    "held",
    "unfunded",
    "capped",
    "paid",
    "declined",
    "reversed",
)


@dataclass(frozen=True, slots=True)
class StatusSum:
    """Commission in one status."""

    status: str
    conversions: int
    commission_minor: int


@dataclass(frozen=True, slots=True)
class Panel:
    """One currency: the last 30 days, and what stands in each status over all time."""

    currency: str
    conversions: int
    sales_minor: int
    commission_minor: int
    statuses: tuple[StatusSum, ...]
    strip: tuple[charts.Part, ...]
    days: tuple["DayTotal", ...]
    sales_chart: charts.BarChart
    commission_chart: charts.BarChart

    def in_status(self, status: str) -> StatusSum:
        """The sum in a status; zeros when nothing is in it."""
        for one in self.statuses:
            if one.status == status:
                return one
        return StatusSum(status, 0, 0)


@dataclass(frozen=True, slots=True)
class DayTotal:
    """One day of the last 30, in one currency."""

    day: date
    conversions: int
    sales_minor: int
    commission_minor: int


def panels(session: Session, actor: Actor, *, now: datetime) -> list[Panel]:
    """A panel for each currency in which the actor has anything, by currency code."""
    rows = earnings.by_status(session, actor, filters=statements.Filters())
    recent = earnings.by_day(session, actor, days=DAYS, now=now)
    currencies = sorted({row.currency for row in rows} | {row.currency for row in recent})
    days = charts.days_until(now.date(), DAYS)
    return [
        _panel(
            currency,
            [row for row in rows if row.currency == currency],
            _day_totals(days, [row for row in recent if row.currency == currency]),
        )
        for currency in currencies
    ]


def choose(found: list[Panel], currency: str) -> Panel | None:
    """The panel to draw charts of: the one asked for, else the one with most conversions."""
    asked = [panel for panel in found if panel.currency == currency]
    if asked:
        return asked[0]
    return max(found, key=lambda panel: panel.conversions, default=None)


def since(now: datetime) -> datetime:
    """The start of the first of the days that panels show."""
    first = now - timedelta(days=DAYS - 1)
    return first.replace(hour=0, minute=0, second=0, microsecond=0)


def _panel(
    currency: str, rows: Iterable[earnings.EarningsRow], days: tuple[DayTotal, ...]
) -> Panel:
    statuses = _statuses(rows)
    dates = [one.day for one in days]
    return Panel(
        currency=currency,
        conversions=sum(one.conversions for one in days),
        sales_minor=sum(one.sales_minor for one in days),
        commission_minor=sum(one.commission_minor for one in days),
        statuses=statuses,
        strip=tuple(charts.strip([(one.status, one.commission_minor) for one in statuses])),
        days=days,
        sales_chart=charts.daily({one.day: one.sales_minor for one in days}, dates, currency),
        commission_chart=charts.daily(
            {one.day: one.commission_minor for one in days}, dates, currency
        ),
    )


def _statuses(rows: Iterable[earnings.EarningsRow]) -> tuple[StatusSum, ...]:
    # The rows come by program; a panel is about a currency.
    sums: dict[str, StatusSum] = {}
    for row in rows:
        before = sums.get(row.status, StatusSum(row.status, 0, 0))
        sums[row.status] = StatusSum(
            row.status,
            before.conversions + row.conversions,
            before.commission_minor + row.commission_minor,
        )
    known = [sums.pop(status) for status in STATUS_ORDER if status in sums]
    return (*known, *(sums[status] for status in sorted(sums)))


def _day_totals(days: list[date], rows: Iterable[earnings.DayRow]) -> tuple[DayTotal, ...]:
    by_day = {row.day: row for row in rows}
    return tuple(
        DayTotal(day, row.conversions, row.sales_minor, row.commission_minor)
        if (row := by_day.get(day))
        else DayTotal(day, 0, 0, 0)
        for day in days
    )
