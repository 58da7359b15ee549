"""Conversions: recorded once when the journal is shipped, and looked up afterwards."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime

import msgspec
import sqlalchemy as sa
from sqlmodel import Session, col, select

from kernel import outbox
from kernel.errors import Conflict, NotFound
from kernel.ids import derived_id
from network.models import Program
from tracker import orders
from tracker.events import Item, Order, OrderReported
from tracker.models import Conversion, ConversionItem
from tracker.refusals import refuse

RECORDED = "conversion.recorded"
_IDS_PER_QUERY = 500


class OrderConflict(Conflict):
    """The order was reported before with other content."""

    code = "order_conflict"
    title = "The order was reported before, and differently"


@dataclass(slots=True)
class Recorded:
    """What became of reported orders: new rows, repeats that were one already, refusals."""

    added: int = 0
    repeated: int = 0
    refused: int = 0
    ids: set[str] = field(default_factory=set)


def id_of(key: bytes, *, program_id: str, order_id: str, event: str) -> str:
    """The id every node gives the conversion of this order and event."""
    return derived_id("cnv", key, program_id, order_id, event)


def find(session: Session, conversion_id: str) -> Conversion | None:
    """The conversion, or None."""
    return session.exec(select(Conversion).where(Conversion.id == conversion_id)).one_or_none()


def get(session: Session, conversion_id: str) -> Conversion:
    """The conversion; NotFound when there is none."""
    conversion = find(session, conversion_id)
    if conversion is None:
        raise NotFound("no such conversion", kind="conversion")
    return conversion


def items(session: Session, conversion_id: str) -> list[ConversionItem]:
    """The lines of the order, by line number from 0; none when it was reported without."""
    query = select(ConversionItem).where(ConversionItem.conversion_id == conversion_id)
    return list(session.exec(query.order_by(col(ConversionItem.line))))


def hashes(session: Session, conversion_ids: Sequence[str]) -> dict[str, str]:
    """Content hashes of those of the conversions that are recorded."""
    found: dict[str, str] = {}
    for start in range(0, len(conversion_ids), _IDS_PER_QUERY):
        part = conversion_ids[start : start + _IDS_PER_QUERY]
        query = select(Conversion.id, Conversion.content_hash)
        found |= dict(session.exec(query.where(col(Conversion.id).in_(part))).all())
    return found


def reported_order(session: Session, conversion: Conversion) -> Order:
    """The content of the report that was recorded."""
    order = Order(
        order_id=conversion.order_id,
        event=conversion.event,
        currency=conversion.currency,
        amount_minor=conversion.amount_minor,
        click_id=conversion.click_id,
        country=conversion.country,
        customer=conversion.customer,
        coupon=conversion.coupon,
        status=conversion.reported_status,
        occurred_at=None,
        items=tuple(
            Item(row.sku, row.category, row.quantity, row.amount_minor)
            for row in items(session, conversion.id)
        ),
    )
    # The row always has a time; only the hash still knows whether the report named it.
    if orders.content_hash(conversion.program_id, order) == conversion.content_hash:
        return order
    return msgspec.structs.replace(order, occurred_at=conversion.occurred_at)


def conflict(recorded: Order, reported: Order, *, conversion_id: str) -> OrderConflict:
    """The refusal of a report that contradicts the recorded one, naming what differs."""
    differing = orders.differences(recorded, reported)
    return OrderConflict(
        f"order {reported.order_id!r} was reported before with another "
        + (", ".join(differing) or "content"),
        conversion_id=conversion_id,
        differs=differing,
    )


def record(session: Session, reports: Sequence[OrderReported], *, now: datetime) -> Recorded:
    """Add the conversions that are new, each with its follow-up, in the order of the reports.

    A report equal to the recorded one changes nothing; one that contradicts it, or names a program
    that does not exist, becomes an IntakeRefusal.
    """
    outcome = Recorded()
    known = hashes(session, list({report.conversion_id for report in reports}))
    programs = _existing_programs(session, reports)
    fresh: dict[str, OrderReported] = {}
    for report in reports:
        earlier = known.get(report.conversion_id)
        if report.program_id not in programs:
            _refuse(session, report, "unknown_program", "no such program", now=now)
            outcome.refused += 1
        elif earlier is None:
            known[report.conversion_id] = report.content_hash
            fresh[report.conversion_id] = report
        elif earlier == report.content_hash:
            outcome.repeated += 1
        else:
            recorded = _recorded(session, report.conversion_id, fresh)
            error = conflict(recorded, report.order, conversion_id=report.conversion_id)
            _refuse(session, report, error.code, error.message, now=now)
            outcome.refused += 1
    if fresh:
        _insert(session, list(fresh.values()), now=now)
    outcome.added = len(fresh)
    outcome.ids = set(fresh)
    return outcome


def _existing_programs(session: Session, reports: Sequence[OrderReported]) -> set[str]:
    named = {report.program_id for report in reports}
    return set(session.exec(select(Program.id).where(col(Program.id).in_(named))))


def _recorded(session: Session, conversion_id: str, fresh: dict[str, OrderReported]) -> Order:
    if conversion_id in fresh:
        return fresh[conversion_id].order
    return reported_order(session, get(session, conversion_id))


def _insert(session: Session, reports: Sequence[OrderReported], *, now: datetime) -> None:
    session.execute(sa.insert(Conversion), [_row(report) for report in reports])
    lines = [
        {
            "conversion_id": report.conversion_id,
            "line": line,
            "sku": item.sku,
            "category": item.category,
            "quantity": item.quantity,
            "amount_minor": item.amount_minor,
        }
        for report in reports
        for line, item in enumerate(report.order.items)
    ]
    if lines:
        session.execute(sa.insert(ConversionItem), lines)
    for report in reports:
        outbox.append(session, RECORDED, report.conversion_id, lane=report.program_id, now=now)


def _row(report: OrderReported) -> dict[str, object]:
    order = report.order
    return {
        "id": report.conversion_id,
        "program_id": report.program_id,
        "order_id": order.order_id,
        "event": order.event,
        "occurred_at": order.occurred_at or report.received_at,
        "received_at": report.received_at,
        "currency": order.currency,
        "amount_minor": order.amount_minor,
        "country": order.country,
        "customer": order.customer,
        "coupon": order.coupon,
        "click_id": order.click_id,
        "reported_status": order.status,
        "content_hash": report.content_hash,
        "channel": report.channel,
        "imported": report.imported,
    }


def _refuse(
    session: Session, report: OrderReported, code: str, detail: str, *, now: datetime
) -> None:
    refuse(
        session,
        program_id=report.program_id,
        order_id=report.order.order_id,
        code=code,
        detail=detail,
        payload=facts(report),
        now=now,
    )


def facts(report: OrderReported) -> dict[str, object]:
    """The report as plain JSON values with the names of its fields."""
    order = {
        name: msgspec.to_builtins(getattr(report.order, name))
        for name in report.order.__struct_fields__
        if name != "items"
    }
    order["items"] = [
        {name: getattr(item, name) for name in item.__struct_fields__}
        for item in report.order.items
    ]
    return {
        "conversion_id": report.conversion_id,
        "content_hash": report.content_hash,
        "received_at": msgspec.to_builtins(report.received_at),
        "channel": report.channel,
        **order,
    }
