"""Conversions: recorded once when the journal is shipped, and looked up afterwards."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime

import msgspec
import sqlalchemy as sa
from sqlmodel import Session, col, select

from kernel.errors import Conflict, NotFound
from kernel.ids import derived_id
from tracker import order_items, orders
from tracker.events import CHANNEL_TAG, Item, Order, OrderKey, OrderReported
from tracker.models import Conversion, ConversionChange, ConversionItem
from tracker.repeats import Earlier

RECORDED = "conversion.recorded"
_IDS_PER_QUERY = 500


class OrderConflict(Conflict):
    """The order was reported before with other content."""

    code = "order_conflict"
    title = "The order was reported before, and differently"


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a conversion stands among those of its order; the first has number 1, no relation.

    `occurred_at` is that of the order, where an earlier report said it already.
    """

    number: int = 1
    relation: str = ""
    related_id: str | None = None
    occurred_at: datetime | None = None


_TABLES = Conversion.metadata.tables
_conversion, _change = (
    _TABLES[str(model.__tablename__)] for model in (Conversion, ConversionChange)
)
# A key of its own, so that an order is restated once however often that is said.
RESTATED_KEY = ":restated"
_KNOWN = (
    sa.select(
        _conversion.c.id,
        _conversion.c.order_id,
        _conversion.c.event,
        _conversion.c.content_hash,
        _conversion.c.number,
        _conversion.c.received_at,
        _conversion.c.channel,
        _change.c.seq.label("restated"),
    )
    .outerjoin(_change, _change.c.key == _conversion.c.id + RESTATED_KEY)
    .where(
        _conversion.c.program_id == sa.bindparam("program_id"),
        _conversion.c.order_id.in_(sa.bindparam("order_ids", expanding=True)),
    )
    .order_by(_conversion.c.number)
)


def id_of(key: bytes, *, program_id: str, order_id: str, event: str, content_hash: str = "") -> str:
    """The id every node gives the conversion of this order and event.

    With a content hash, of one of several: which of them came first need not be known.
    """
    said = (content_hash,) if content_hash else ()
    return derived_id("cnv", key, program_id, order_id, event, *said)


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


def known(session: Session, keys: Collection[OrderKey]) -> dict[OrderKey, list[Earlier]]:
    """The recorded conversions of these orders, by number; orders without any are left out."""
    found: dict[OrderKey, list[Earlier]] = {}
    by_program: dict[str, set[str]] = {}
    for program_id, order_id, _ in keys:
        by_program.setdefault(program_id, set()).add(order_id)
    wanted = set(keys)
    for program_id, order_ids in by_program.items():
        listed = sorted(order_ids)
        for start in range(0, len(listed), _IDS_PER_QUERY):
            part = listed[start : start + _IDS_PER_QUERY]
            for row in session.execute(_KNOWN, {"program_id": program_id, "order_ids": part}):
                key = (program_id, row.order_id, row.event)
                if key in wanted:
                    found.setdefault(key, []).append(
                        Earlier(
                            conversion_id=row.id,
                            content_hash=row.content_hash,
                            number=row.number,
                            received_at=row.received_at,
                            standing=row.restated is None,
                            by_browser=row.channel == CHANNEL_TAG,
                        )
                    )
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
            Item(
                row.sku,
                row.category,
                row.quantity,
                row.amount_minor,
                row.vat_percent,
                row.revenue_minor,
            )
            for row in items(session, conversion.id)
        ),
        click_ids=tuple(conversion.click_ids),
        customer_id=conversion.customer_id,
        email_hash=conversion.email_hash,
        parent_order_id=conversion.parent_order_id,
        publisher=conversion.named_publisher,
        paid_channel=conversion.paid_channel,
        cart_at=conversion.cart_at,
        is_test=conversion.is_test,
        discount_minor=conversion.discount_minor,
        tax_minor=conversion.tax_minor,
        shipping_minor=conversion.shipping_minor,
        custom=dict(conversion.custom),
        site=conversion.site,
        country_billing=conversion.country_billing,
        country_site=conversion.country_site,
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


def insert(session: Session, rows: Sequence[tuple[OrderReported, Place]]) -> None:
    """Add the conversions with their lines, in one statement each."""
    if not rows:
        return
    session.execute(sa.insert(Conversion), [_row(report, place) for report, place in rows])
    lines = [
        {
            "conversion_id": report.conversion_id,
            "line": line,
            "sku": item.sku,
            "category": item.category,
            "quantity": item.quantity,
            "amount_minor": item.amount_minor,
            "vat_percent": item.vat_percent,
            "net_minor": order_items.net_minor(item),
            "revenue_minor": item.revenue_minor,
        }
        for report, _ in rows
        for line, item in enumerate(report.order.items)
    ]
    if lines:
        session.execute(sa.insert(ConversionItem), lines)


def _row(report: OrderReported, place: Place) -> dict[str, object]:
    order = report.order
    return {
        "id": report.conversion_id,
        "program_id": report.program_id,
        "order_id": order.order_id,
        "event": order.event,
        "occurred_at": place.occurred_at or order.occurred_at or report.received_at,
        "received_at": report.received_at,
        "currency": order.currency,
        "amount_minor": order.amount_minor,
        "country": order.country,
        "customer": order.customer,
        "coupon": order.coupon,
        "click_id": order.click_id,
        "reported_status": order.status,
        "click_ids": list(order.click_ids),
        "customer_id": order.customer_id,
        "email_hash": order.email_hash,
        "parent_order_id": order.parent_order_id,
        "named_publisher": order.publisher,
        "paid_channel": order.paid_channel,
        "cart_at": order.cart_at,
        "is_test": order.is_test,
        "discount_minor": order.discount_minor,
        "tax_minor": order.tax_minor,
        "shipping_minor": order.shipping_minor,
        "custom": order.custom,
        "site": order.site,
        "country_billing": order.country_billing,
        "country_site": order.country_site,
        "content_hash": report.content_hash,
        "channel": report.channel,
        "imported": report.imported,
        "number": place.number,
        "relation": place.relation,
        "related_id": place.related_id,
    }


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
