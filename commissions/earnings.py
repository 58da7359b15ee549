"""Sums of what orders brought: by status, by day, by country. Money of two currencies never adds.

Sales stand in the currency of the order and commission in that of the program; where they differ,
each is in the row of its own currency, and the order is counted in the row of its sales.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col

from commissions.models import Commission
from commissions.statements import Filters, conditions
from kernel.errors import invalid
from network.access import Actor, scope_to_party
from network.models import Program, Role
from tracker.models import Attribution, ChangeKind, Conversion, ConversionChange

DAYS_MAX = 400


@dataclass(frozen=True, slots=True)
class EarningsRow:
    """One program, currency and status of commissions."""

    program_id: str
    currency: str
    status: str
    conversions: int
    sales_minor: int
    commission_minor: int


@dataclass(frozen=True, slots=True)
class DayRow:
    """One UTC day on which orders occurred, in one currency."""

    day: date
    currency: str
    conversions: int
    sales_minor: int
    commission_minor: int


@dataclass(frozen=True, slots=True)
class CountryRow:
    """One country of orders, empty where it is not known, in one currency."""

    country: str
    currency: str
    conversions: int
    sales_minor: int
    refunded_minor: int
    commission_minor: int


def by_status(session: Session, actor: Actor, *, filters: Filters) -> list[EarningsRow]:
    """Commissions by program, currency and status, in that order.

    An order that publishers share is counted once, in the status of the one for whom it counts.
    """
    keys = (col(Conversion.program_id), col(Commission.status))
    where = conditions(actor, filters)
    sums = _sums(session, actor, keys, where, publisher_id=filters.publisher_id)
    return [
        EarningsRow(program_id, currency, status, one.conversions, one.sales, one.commission)
        for ((program_id, status), currency), one in sorted(
            sums.items(), key=lambda entry: (entry[0][0][0], entry[0][1], entry[0][0][1])
        )
    ]


def by_day(
    session: Session, actor: Actor, *, days: int, now: datetime, program_id: str | None = None
) -> list[DayRow]:
    """The last `days` UTC days up to today that have orders, oldest first."""
    if not 1 <= days <= DAYS_MAX:
        raise invalid("days", "range", f"must be 1 to {DAYS_MAX}")
    today = now.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    span = Filters(
        program_id=program_id,
        occurred_from=today - timedelta(days=days - 1),
        occurred_to=today + timedelta(days=1),
    )
    keys = (sa.func.date(col(Conversion.occurred_at)),)
    sums = _sums(session, actor, keys, conditions(actor, span))
    rows = [
        DayRow(_day(day), currency, one.conversions, one.sales, one.commission)
        for ((day,), currency), one in sums.items()
    ]
    return sorted(rows, key=lambda row: (row.day, row.currency))


def by_country(session: Session, actor: Actor, *, program_id: str | None) -> list[CountryRow]:
    """Commissioned orders by country, of one program or all, the highest sales first."""
    keys = (sa.func.coalesce(col(Conversion.country), ""),)
    where = conditions(actor, Filters(program_id=program_id))
    sums = _sums(session, actor, keys, where)
    rows = [
        CountryRow(country, currency, one.conversions, one.sales, one.refunded, one.commission)
        for ((country,), currency), one in sums.items()
    ]
    return sorted(rows, key=lambda row: (-row.sales_minor, row.country, row.currency))


@dataclass(slots=True)
class _Sums:
    conversions: int = 0
    sales: int = 0
    refunded: int = 0
    commission: int = 0


def _sums(
    session: Session,
    actor: Actor,
    keys: Sequence[Any],
    where: Sequence[sa.ColumnElement[bool]],
    *,
    publisher_id: str | None = None,
) -> dict[tuple[tuple[Any, ...], str], _Sums]:
    sold, earned = col(Conversion.currency), col(Commission.currency)
    # Whoever sees one publisher's commissions sees each order once; whoever sees all of them finds
    # a shared one in several rows, of which one stands for the order.
    one = col(Commission.part) == 0
    if actor.role is Role.PUBLISHER or publisher_id is not None:
        one = sa.true()
    refunded = (
        sa.select(
            col(ConversionChange.conversion_id).label("id"),
            sa.func.sum(col(ConversionChange.amount_minor)).label("minor"),
        )
        .where(col(ConversionChange.kind) == ChangeKind.REFUND)
        .group_by(col(ConversionChange.conversion_id))
        .subquery()
    )
    query = (
        sa.select(
            *keys,
            sold,
            earned,
            sa.func.count().filter(one),
            sa.func.coalesce(sa.func.sum(col(Conversion.amount_minor)).filter(one), 0),
            sa.func.coalesce(sa.func.sum(refunded.c.minor).filter(one), 0),
            sa.func.sum(col(Commission.amount_minor)),
        )
        .join(Commission, col(Commission.conversion_id) == col(Conversion.id))
        .join(Program, col(Program.id) == col(Conversion.program_id))
        .outerjoin(Attribution, col(Attribution.conversion_id) == col(Conversion.id))
        .outerjoin(refunded, refunded.c.id == col(Conversion.id))
        .where(*where)
        .group_by(*keys, sold, earned)
    )
    scoped = scope_to_party(
        query,
        actor,
        publisher=col(Commission.publisher_id),
        advertiser=col(Commission.advertiser_id),
    )
    found: dict[tuple[tuple[Any, ...], str], _Sums] = {}
    for *key, order_currency, currency, count, sales, back, commission in session.execute(scoped):
        of_sales = found.setdefault((tuple(key), order_currency), _Sums())
        of_sales.conversions += count
        of_sales.sales += int(sales)
        of_sales.refunded += int(back)
        found.setdefault((tuple(key), currency), _Sums()).commission += int(commission)
    return found


def _day(value: date | str) -> date:
    # PostgreSQL has dates, SQLite has text that looks like one.
    return value if isinstance(value, date) else date.fromisoformat(value)
