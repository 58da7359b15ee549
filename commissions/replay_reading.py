"""Booked orders in the order in which they were booked, a few at a time.

The database sorts; here is never more than a chunk of orders at once. All of a part is read in the
caller's transaction, so an order that is booked meanwhile is not seen at all.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Session

from commissions import plans, replays, telling
from commissions.folding import replay_span
from commissions.models import Booking, Commission
from commissions.order_events import Order
from commissions.plan_document import Plan
from commissions.telling import Story

ORDERS_A_PART = 20_000
_IDS_AT_ONCE = 5_000

Span = tuple[datetime | None, datetime | None]
"""A half-open span of occurrence times; None is without end."""

_commission = Commission.metadata.tables["commission"].c
_booking = Booking.metadata.tables["booking"].c
# An order's first booking is the one it came in with; one that waited for its rate is where it
# was rated.
_RATED = sa.func.min(sa.case((_booking.kind == telling.RATED, _booking.seq)))
_FIRST_BOOKED = (
    sa.select(sa.func.coalesce(_RATED, sa.func.min(_booking.seq)))
    .where(_booking.conversion_id == _commission.conversion_id)
    .scalar_subquery()
)


@dataclass(frozen=True, slots=True)
class Part:
    """Orders that no order of another part can change: a program's, or some publishers' of it.

    Only what occurred in `period` is asked about; what decides about it is read as well.
    """

    program_id: str
    publisher_ids: tuple[str, ...] | None
    orders: int
    period: Span = (None, None)


def parts(
    session: Session, *, program_id: str | None = None, period: Span = (None, None)
) -> list[Part]:
    """All booked orders, or a program's, or those of a period, in parts; large ones first."""
    by_program: dict[str, dict[str, int]] = {}
    query = sa.select(_commission.program_id, _commission.publisher_id, sa.func.count())
    query = query.where(_commission.part == 0)
    if program_id is not None:
        query = query.where(_commission.program_id == program_id)
    query = query.where(*_within(period)).group_by(_commission.program_id, _commission.publisher_id)
    for program, publisher, count in session.execute(query):
        by_program.setdefault(program, {})[publisher] = count
    found: list[Part] = []
    for program, publishers in by_program.items():
        if _is_shared(session, program):
            found.append(Part(program, None, sum(publishers.values()), period))
        else:
            found += _shares(program, publishers, period)
    return sorted(found, key=lambda one: (-one.orders, one.program_id, one.publisher_ids or ()))


def spans(session: Session, part: Part) -> dict[str | None, Span]:
    """For each plan version that orders of the part have, when the first and the last occurred."""
    version, at = _commission.plan_version_id, _commission.occurred_at
    query = (
        sa.select(version, sa.func.min(at), sa.func.max(at))
        .where(*_of(part), *_within(part.period))
        .group_by(version)
    )
    return {row[0]: (row[1], row[2]) for row in session.execute(query)}


def reach(plan: Plan, span: Span) -> Span:
    """The span in which orders decide about those that occurred from its first to its last."""
    (start, _), (_, end) = (_reach_of(plan, at) for at in span if at is not None)
    return start, end


def stories(
    session: Session, part: Part, span: Span = (None, None)
) -> Iterator[tuple[Sequence[str], Story]]:
    """The orders of a part that occurred in a span, in booking order: (ids, what is known of them).

    An id whose order is gone has no fact in its story.
    """
    query = (
        sa.select(_commission.conversion_id)
        .where(*_of(part), *_within(span))
        .order_by(_FIRST_BOOKED, _commission.seq, _commission.conversion_id)
        .execution_options(yield_per=_IDS_AT_ONCE)
    )
    for rows in session.execute(query).scalars().partitions(replays.IDS_MAX):
        yield rows, replays.load_each(session, rows)


def _is_shared(session: Session, program_id: str) -> bool:
    versions = plans.facts_of(session, program_id)
    return any(replays.shared(plans.parsed(session, one.id)) for one in versions)


def _shares(program_id: str, publishers: Mapping[str, int], period: Span) -> Iterator[Part]:
    some: list[str] = []
    orders = 0
    for publisher, count in sorted(publishers.items(), key=lambda one: -one[1]):
        if some and orders + count > ORDERS_A_PART:
            yield Part(program_id, tuple(some), orders, period)
            some, orders = [], 0
        some.append(publisher)
        orders += count
    yield Part(program_id, tuple(some), orders, period)


def _of(part: Part) -> list[sa.ColumnElement[bool]]:
    # An order counts once, for the publisher of its first part.
    where: list[sa.ColumnElement[bool]] = [
        _commission.program_id == part.program_id,
        _commission.part == 0,
    ]
    if part.publisher_ids is not None:
        where.append(_commission.publisher_id.in_(part.publisher_ids))
    return where


def _within(span: Span) -> list[sa.ColumnElement[bool]]:
    start, end = span
    where: list[sa.ColumnElement[bool]] = []
    if start is not None:
        where.append(_commission.occurred_at >= start)
    if end is not None:
        where.append(_commission.occurred_at < end)
    return where


def _reach_of(plan: Plan, at: datetime) -> Span:
    return replay_span(plan, Order(id="", publisher="", at=at, lines=(), known_at=at))
