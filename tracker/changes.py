"""What advertisers say about an order later: refunds, cancellations, approvals and refusals."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import msgspec
from sqlmodel import Session, col, select

from kernel import outbox
from kernel.clock import to_rfc3339
from kernel.errors import AppError, Conflict, NotFound, Refused, invalid
from kernel.ids import derived_id
from kernel.money import format_amount
from tracker import conversions, rules
from tracker.events import ChangeReported, OrderReported
from tracker.fields import Fields
from tracker.models import ChangeKind, Conversion, ConversionChange
from tracker.order_amounts import check_currency, currency_meant, read_amount
from tracker.orders import DEFAULT_EVENT, EVENT
from tracker.refusals import refuse
from tracker.repeats import STATUS_KINDS

CHANGED = "conversion.changed"
_REASON_CHARS_MAX: Final = 256
_REFUND_ID_CHARS_MAX: Final = 128
_LINE_MAX: Final = 10**6
_QUANTITY_MAX: Final = 10**9
FIELDS: Final = ("reason", "reason_code", "occurred_at", "event", "number", "program")
_NUMBER_MAX: Final = 10**6
REFUND_FIELDS: Final = (*FIELDS, "amount", "currency", "line", "qty", "refund_id")


class ChangeReason(StrEnum):
    """Why an advertiser took an order back, in one word that programs can count."""

    RETURNED = "returned"
    CANNOT_SHIP = "cannot_ship"
    OUT_OF_STOCK = "out_of_stock"
    CUSTOMER_CANCELLED = "customer_cancelled"
    PAYMENT_FAILED = "payment_failed"
    DUPLICATE = "duplicate"
    FRAUD = "fraud"
    TERMS_VIOLATED = "terms_violated"
    OTHER_PUBLISHER = "other_publisher"
    TEST = "test"
    OTHER = "other"


RESTATED: Final = "restated"


class OrderUnknown(NotFound):
    """No such order of this program was recorded within the time a change waits for it."""

    code = "order_unknown"
    title = "The order is not known"


class RefundExceedsOrder(Refused):
    """More would be taken back than is left of the order or of its line."""

    code = "refund_exceeds_order"
    title = "More than is left of the order"


class ChangeConflict(Conflict):
    """A refund with this `refund_id` was reported before with other content."""

    code = "change_conflict"
    title = "The refund was reported before, and differently"


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The order a change is about."""

    conversion_id: str
    program_id: str
    order_id: str
    currency: str
    event: str = DEFAULT_EVENT
    other_currencies: Sequence[str] = ()


@dataclass(slots=True)
class Recorded:
    """What became of reported changes."""

    added: int = 0
    repeated: int = 0
    refused: int = 0


def event_of(values: Mapping[str, Any]) -> str | None:
    """The event of the order a change names; None for the default. InvalidInput on `event`."""
    fields = Fields(values)
    event = fields.text("event", chars_max=32, pattern=EVENT)
    fields.finish()
    return event


def parse_change(
    kind: ChangeKind, values: Mapping[str, Any], subject: Subject, *, key: bytes, now: datetime
) -> ChangeReported:
    """The change in these values, or one InvalidInput naming every wrong field.

    Its key is the `refund_id`, or else its content: an equal change is the same change.
    """
    fields = Fields(values)
    fields.only(*(REFUND_FIELDS if kind is ChangeKind.REFUND else FIELDS))
    occurred_at = fields.time("occurred_at", now=now)
    content: dict[str, Any] = {
        "conversion_id": subject.conversion_id,
        "kind": kind.value,
        "reason": fields.text("reason", chars_max=_REASON_CHARS_MAX) or "",
        "occurred_at": to_rfc3339(occurred_at) if occurred_at else None,
    }
    # What came later is part of the content only where it is said: a key never changes its mind.
    reason_code = fields.choice("reason_code", tuple(ChangeReason)) or ""
    number = _whole_number(fields, "number", 1, _NUMBER_MAX)
    if reason_code:
        content["reason_code"] = reason_code
    if number is not None:
        content["number"] = number
    currency = ""
    if kind is ChangeKind.REFUND:
        currency = _currency(fields, subject)
        content |= _refund_content(fields, currency)
        if currency != subject.currency:
            content["currency"] = currency
    refund_id = fields.text("refund_id", chars_max=_REFUND_ID_CHARS_MAX)
    fields.finish()
    hashed = _hash(content)
    change_key = (
        f"{subject.conversion_id}:{kind.value}:{f'id:{refund_id}' if refund_id else hashed}"
    )
    return ChangeReported(
        id=derived_id("chg", key, change_key),
        key=change_key,
        conversion_id=subject.conversion_id,
        program_id=subject.program_id,
        order_id=subject.order_id,
        kind=kind.value,
        content_hash=hashed,
        occurred_at=occurred_at or now,
        received_at=now,
        amount_minor=content.get("amount", 0),
        line=content.get("line"),
        quantity=content.get("qty", 0),
        reason=content["reason"],
        event=subject.event,
        number=number,
        reason_code=reason_code,
        currency=currency,
    )


def of_status(report: OrderReported, conversion_id: str) -> ChangeReported:
    """The change that a report means which says nothing new but the order's status.

    It has the key of the same change reported plainly, so that the two are one. A full refund
    has no amount yet: what is left of the order is known only when it is recorded.
    """
    kind = STATUS_KINDS[report.order.status]
    content = {
        "conversion_id": conversion_id,
        "kind": kind.value,
        "reason": "",
        "occurred_at": None,
    }
    hashed = _hash(content)
    suffix = "id:status" if kind is ChangeKind.REFUND else hashed
    return _of_report(report, conversion_id, kind, key_suffix=suffix, content_hash=hashed)


def of_restatement(report: OrderReported, conversion_id: str) -> ChangeReported:
    """The end of a conversion whose place the report took."""
    return msgspec.structs.replace(
        _of_report(
            report,
            conversion_id,
            ChangeKind.CANCEL,
            key_suffix="",
            content_hash=report.content_hash,
        ),
        key=f"{conversion_id}{conversions.RESTATED_KEY}",
        reason_code=RESTATED,
    )


def _of_report(
    report: OrderReported,
    conversion_id: str,
    kind: ChangeKind,
    *,
    key_suffix: str,
    content_hash: str,
) -> ChangeReported:
    key = f"{conversion_id}:{kind.value}:{key_suffix}"
    return ChangeReported(
        # The conversion's id cannot be guessed, so neither can what is derived from it.
        id=derived_id("chg", b"of-report", conversion_id, kind.value, key_suffix or RESTATED),
        key=key,
        conversion_id=conversion_id,
        program_id=report.program_id,
        order_id=report.order.order_id,
        kind=kind.value,
        content_hash=content_hash,
        occurred_at=report.received_at,
        received_at=report.received_at,
    )


def is_recorded(session: Session, keys: Sequence[str]) -> bool:
    """Whether a change with one of these keys is recorded."""
    query = select(ConversionChange.seq).where(col(ConversionChange.key).in_(keys))
    return session.exec(query.limit(1)).first() is not None


def _hash(content: Mapping[str, Any]) -> str:
    canonical = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(canonical.encode()).hexdigest()


def _currency(fields: Fields, subject: Subject) -> str:
    """The currency a refund is said in; the order's own is compared with it later.

    The order has its currency already; naming it again is allowed, and must then be right.
    """
    said = [fields.value(name) for name in ("currency", "amount")]
    currency = currency_meant(
        [one for one in said if one is not None], subject.currency, subject.other_currencies
    )
    check_currency(
        fields, currency, needed=False, own=subject.currency, others=subject.other_currencies
    )
    return currency


def _refund_content(fields: Fields, currency: str) -> dict[str, Any]:
    amount = fields.value("amount")
    amount_minor = read_amount(fields, "amount", currency)
    if amount is None:
        fields.problem("amount", "missing", "is required")
    elif amount_minor == 0:
        fields.problem("amount", "amount", "must be more than zero")
    return {
        "amount": amount_minor or 0,
        "line": _whole_number(fields, "line", 0, _LINE_MAX),
        "qty": _whole_number(fields, "qty", 1, _QUANTITY_MAX) or 0,
    }


def _whole_number(fields: Fields, name: str, least: int, most: int) -> int | None:
    found = fields.value(name)
    if found is None:
        return None
    if type(found) is not int or not least <= found <= most:
        fields.problem(name, "range", f"must be a whole number from {least} to {most}")
        return None
    return found


def of_conversion(session: Session, conversion_id: str) -> list[ConversionChange]:
    """The changes of a conversion, in booking order."""
    query = select(ConversionChange).where(ConversionChange.conversion_id == conversion_id)
    return list(session.exec(query.order_by(col(ConversionChange.seq))))


def check(
    session: Session, change: ChangeReported, *, unshipped: Sequence[ChangeReported] = ()
) -> bool:
    """Whether the change is recorded already; raises what forbids it.

    `unshipped` are changes of the same conversion that were acknowledged but may not be in the
    database yet. OrderUnknown, ChangeConflict or RefundExceedsOrder.
    """
    conversion = _lock(session, change)
    earlier = session.exec(
        select(ConversionChange.content_hash).where(ConversionChange.key == change.key)
    ).one_or_none()
    if earlier is None:
        earlier = next((one.content_hash for one in unshipped if one.key == change.key), None)
    if earlier is not None:
        if earlier != change.content_hash:
            raise ChangeConflict("a refund with this id was reported before with other content")
        return True
    if change.kind == ChangeKind.REFUND:
        if change.currency and change.currency != conversion.currency:
            raise invalid(
                "currency", "order_currency", f"must be {conversion.currency}, as the order's"
            )
        _check_refund(session, conversion, change, unshipped)
    return False


def _lock(session: Session, change: ChangeReported) -> Conversion:
    # Two journals may ship refunds of one order at the same time; what is left of it must not be
    # computed twice from the same rows.
    subject_id = _subject_id(session, change)
    query = select(Conversion).where(Conversion.id == subject_id).with_for_update()
    conversion = session.exec(query).one_or_none()
    if conversion is None:
        raise OrderUnknown(f"no order {change.order_id!r} is recorded", order_id=change.order_id)
    return conversion


def _subject_id(session: Session, change: ChangeReported) -> str:
    """The conversion that is meant: the one with the number, or the only one that stands."""
    if not change.event:
        return change.conversion_id
    key = (change.program_id, change.order_id, change.event)
    found = conversions.known(session, [key]).get(key, [])
    if change.number is not None:
        found = [one for one in found if one.number == change.number]
    if len(found) > 1:
        found = [one for one in found if one.standing]
    if len(found) > 1:
        numbers = ", ".join(str(one.number) for one in found)
        raise invalid("number", "missing", f"is required: the order has the conversions {numbers}")
    return found[0].conversion_id if found else change.conversion_id


def remaining_minor(session: Session, conversion_id: str) -> int:
    """What is left of an order after its refunds."""
    conversion = conversions.get(session, conversion_id)
    refunds = [
        row.amount_minor
        for row in of_conversion(session, conversion_id)
        if row.kind == ChangeKind.REFUND
    ]
    return conversion.amount_minor - sum(refunds)


def _check_refund(
    session: Session,
    conversion: Conversion,
    change: ChangeReported,
    unshipped: Sequence[ChangeReported],
) -> None:
    items = conversions.items(session, conversion.id)
    amounts = [item.amount_minor for item in items] or [conversion.amount_minor]
    booked = of_conversion(session, conversion.id)
    keys = {row.key for row in booked}
    before_it: list[ConversionChange | ChangeReported] = [*booked]
    before_it += [one for one in unshipped if one.key not in keys]
    refunds = [
        (row.line, row.amount_minor, row.quantity)
        for row in before_it
        if row.kind == ChangeKind.REFUND
    ]
    if change.line is not None and change.line >= len(amounts):
        raise invalid("line", "range", f"the order has lines 0 to {len(amounts) - 1}")
    before = [rules.Refund(amount, line) for line, amount, _ in refunds]
    asked = rules.Refund(change.amount_minor, change.line)
    if rules.remaining_by_line(amounts, [*before, asked]) is None:
        left = rules.remaining_by_line(amounts, before) or [0] * len(amounts)
        left_minor = sum(left) if change.line is None else left[change.line]
        raise RefundExceedsOrder(
            f"{format_amount(left_minor, conversion.currency)} {conversion.currency} is left",
            remaining={"minor": left_minor, "currency": conversion.currency},
        )
    if change.quantity:
        quantities = [item.quantity for item in items] or [1]
        _check_quantity(change, quantities, [(line, qty) for line, _, qty in refunds])


def _check_quantity(
    change: ChangeReported, quantities: Sequence[int], returned: Sequence[tuple[int | None, int]]
) -> None:
    if change.line is None and len(quantities) > 1:
        raise invalid("line", "missing", "is required with qty when the order has several lines")
    line = change.line or 0
    left = quantities[line] - sum(qty for at, qty in returned if (at or 0) == line)
    if change.quantity > left:
        raise RefundExceedsOrder(f"{left} pieces are left of the line", remaining_qty=left)


def record(session: Session, reports: Sequence[ChangeReported], *, now: datetime) -> Recorded:
    """Add the changes that are new, each with its follow-up, in the order of the reports.

    A repeat changes nothing; what may not be becomes an IntakeRefusal.
    """
    outcome = Recorded()
    for change in reports:
        try:
            is_repeat = check(session, change)
        except AppError as error:
            _refuse(session, change, error, now=now)
            outcome.refused += 1
            continue
        if is_repeat:
            outcome.repeated += 1
            continue
        subject_id = _subject_id(session, change)
        session.add(_row(change, subject_id))
        session.flush()
        outbox.append(session, CHANGED, subject_id, lane=change.program_id, now=now)
        outcome.added += 1
    return outcome


def _row(change: ChangeReported, conversion_id: str) -> ConversionChange:
    return ConversionChange(
        id=change.id,
        key=change.key,
        conversion_id=conversion_id,
        kind=change.kind,
        line=change.line,
        amount_minor=change.amount_minor,
        quantity=change.quantity,
        reason=change.reason,
        reason_code=change.reason_code,
        content_hash=change.content_hash,
        occurred_at=change.occurred_at,
        received_at=change.received_at,
    )


def _refuse(session: Session, change: ChangeReported, error: AppError, *, now: datetime) -> None:
    refuse(
        session,
        program_id=change.program_id,
        order_id=change.order_id,
        code=error.code,
        detail=error.message,
        payload={
            name: msgspec.to_builtins(getattr(change, name)) for name in change.__struct_fields__
        },
        now=now,
    )
