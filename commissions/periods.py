"""The booked orders of a program in a period, part by part, with all that their prices depend on.

A part is what is evaluated together: one publisher, or the whole program where a plan joins the
publishers by a budget or a counter. Memory depends on the orders of one part.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from commissions import plans, replays
from commissions.folding import replay_span
from commissions.models import Commission
from commissions.order_events import Order
from commissions.rules import Plan
from commissions.telling import Story
from kernel.errors import invalid

_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Period:
    """Orders of a program that occurred in [start, end)."""

    program_id: str
    start: datetime
    end: datetime

    def holds(self, at: datetime) -> bool:
        """Whether an order of that time is one of them."""
        return self.start <= at < self.end

    def where(self) -> list[sa.ColumnElement[bool]]:
        """The conditions on their commissions, of which each order has one that counts."""
        return [
            col(Commission.part) == 0,
            col(Commission.program_id) == self.program_id,
            col(Commission.occurred_at) >= self.start,
            col(Commission.occurred_at) < self.end,
        ]


def check_bounds(start: datetime, end: datetime) -> None:
    """InvalidInput where the period holds no instant."""
    if start >= end:
        raise invalid("to", "range", "must be after `from`")


def count(session: Session, period: Period) -> int:
    """How many booked orders the period has."""
    query = select(sa.func.count()).select_from(Commission).where(*period.where())
    return session.exec(query).one()


def published(session: Session, program_id: str) -> list[Plan]:
    """Every published version of a program's plan, ready to evaluate."""
    return [plans.parsed(session, one.id) for one in plans.facts_of(session, program_id)]


def publisher_after(session: Session, period: Period, publisher_id: str) -> str | None:
    """The next publisher, by id, with orders in the period; None after the last."""
    query = select(sa.func.min(col(Commission.publisher_id))).where(
        *period.where(), col(Commission.publisher_id) > publisher_id
    )
    return session.exec(query).one()


def parts(session: Session, period: Period, evaluated: Iterable[Plan]) -> Iterator[str | None]:
    """The publishers of the period one by one, or None once where they depend on one another."""
    if any(replays.shared(plan) for plan in evaluated):
        yield None
        return
    publisher_id = publisher_after(session, period, "")
    while publisher_id is not None:
        yield publisher_id
        publisher_id = publisher_after(session, period, publisher_id)


def span(period: Period, evaluated: Sequence[Plan]) -> tuple[datetime | None, datetime | None]:
    """The times of all orders that decide prices of the period's; None is without an end."""
    first, last = (_order_at(at) for at in (period.start, period.end - _INSTANT))
    starts, ends = [period.start], [period.end]
    for plan in evaluated:
        if replays.independent(plan):
            continue
        start, end = replay_span(plan, first)[0], replay_span(plan, last)[1]
        if start is None or end is None:
            return None, None
        starts.append(start)
        ends.append(end)
    return min(starts), max(ends)


def load(
    session: Session,
    period: Period,
    publisher_id: str | None,
    times: tuple[datetime | None, datetime | None],
    among: sa.Select[Any] | None = None,
) -> Story:
    """The orders of a part in a span of time: those with a plan, and all of the period.

    Only those `among` the conversions of a query, where one is given.
    """
    start, end = times
    where = [
        col(Commission.program_id) == period.program_id,
        sa.or_(
            col(Commission.plan_version_id).is_not(None),
            sa.and_(
                col(Commission.occurred_at) >= period.start,
                col(Commission.occurred_at) < period.end,
            ),
        ),
    ]
    if publisher_id is not None:
        where.append(col(Commission.publisher_id) == publisher_id)
    if start is not None:
        where.append(col(Commission.occurred_at) >= start)
    if end is not None:
        where.append(col(Commission.occurred_at) < end)
    if among is not None:
        where.append(col(Commission.conversion_id).in_(among))
    return replays.load(session, *where)


def next_of(
    session: Session, period: Period, publisher_id: str, after_seq: int, rows_max: int
) -> tuple[sa.Select[Any], int]:
    """The next orders of a publisher, as a query, and the number of the last; 0 when none is left.

    For plans under which no order depends on another.
    """
    where = [
        *period.where(),
        col(Commission.publisher_id) == publisher_id,
        col(Commission.seq) > after_seq,
    ]
    numbers = sa.select(col(Commission.seq)).where(*where).order_by(col(Commission.seq))
    found = session.execute(numbers.limit(rows_max)).scalars().all()
    last = found[-1] if found else 0
    among = sa.select(col(Commission.conversion_id)).where(*where, col(Commission.seq) <= last)
    return among, last


def _order_at(at: datetime) -> Order:
    return Order(id="", publisher="", at=at, lines=(), known_at=at)
