"""Why a commission is what it is: every booking with its rules, tiers, rates and rounding.

`explain` gives it to programs, `words` to people. Both say what was recorded when it was booked;
nothing is computed again.
"""

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

from sqlmodel import Session, col, select

from commissions import shares, statements, unconfirmed
from commissions.explanation_words import Explanation, words
from commissions.models import (
    Booking,
    Commission,
    CommissionStep,
    PlanVersion,
)
from commissions.statements import StatementLine
from kernel.clock import to_rfc3339
from kernel.errors import NotFound
from network.access import Actor
from network.models import Role

__all__ = ["Explanation", "explain", "words"]


def explain(session: Session, actor: Actor, public_id: str) -> Explanation:
    """The whole story of a conversion or commission id; NotFound for another party's as well."""
    line = statements.get(session, actor, public_id)
    conversion_id = line.conversion.id
    bookings = session.exec(
        select(Booking).where(Booking.conversion_id == conversion_id).order_by(col(Booking.seq))
    ).all()
    steps = session.exec(
        select(CommissionStep)
        .where(CommissionStep.conversion_id == conversion_id)
        .order_by(col(CommissionStep.seq))
    )
    part = line.commission.part if line.commission else 0
    priced = {one.key: one.explanation for one in bookings}
    figures = _figures(bookings, is_whole=bool(line.parts))
    return Explanation(
        conversion=_conversion(session, line),
        attribution=_attribution(line, actor),
        commission=_commission(session, line),
        plan=_plan(session, line.commission),
        bookings=[
            _booking(session, actor, one, shares.told(priced, one.explanation), figures[one.key])
            for one in bookings
            if one.part == part
        ],
        steps=[_step(actor, one) for one in steps if one.part == part],
        refunded_minor=line.refunded_minor,
        status=line.status,
        reason=line.reason,
    )


def _conversion(session: Session, line: StatementLine) -> dict[str, Any]:
    one = line.conversion
    return {
        "id": one.id,
        "order_id": one.order_id,
        "program_id": one.program_id,
        "event": one.event,
        "occurred_at": to_rfc3339(one.occurred_at),
        "currency": one.currency,
        "amount_minor": one.amount_minor,
        "country": one.country,
        "country_billing": one.country_billing,
        "country_site": one.country_site,
        "site": one.site,
        "customer": one.customer,
        "coupon": one.coupon,
        "items": [
            {
                "line": item.line,
                "sku": item.sku,
                "category": item.category,
                "quantity": item.quantity,
                "amount_minor": item.amount_minor,
                "vat_percent": item.vat_percent,
                "net_minor": item.net_minor,
                "revenue_minor": item.revenue_minor,
            }
            for item in statements.items(session, one.id)
        ],
    }


def _attribution(line: StatementLine, actor: Actor) -> dict[str, Any] | None:
    one = line.attribution
    if one is None:
        return None
    # The owner of an exclusive coupon is paid for an order that another publisher's click brought;
    # whose click that was is not theirs to know.
    foreign = actor.role is Role.PUBLISHER and one.publisher_id != actor.party_id
    return {
        "publisher_id": None if foreign else one.publisher_id,
        "click_id": None if foreign else one.click_id,
        "source": one.source,
        "reason": one.reason,
    }


def _commission(session: Session, line: StatementLine) -> dict[str, Any] | None:
    one = line.commission
    if one is None:
        return None
    share = Fraction(one.share_numerator, one.share_denominator)
    return {
        "id": one.id,
        "share": "1" if line.parts else str(share),
        "parts": [
            {
                "publisher_id": part.publisher_id,
                "share": str(Fraction(part.share_numerator, part.share_denominator)),
                "amount_minor": part.amount_minor,
                "claimed_minor": part.claimed_minor,
                "status": part.status,
                "reason": part.reason,
            }
            for part in line.parts
        ],
        "publisher_id": one.publisher_id,
        "currency": one.currency,
        "amount_minor": line.commission_minor,
        "uncapped_minor": line.uncapped_minor,
        "claimed_minor": one.claimed_minor,
        "status": one.status,
        "reason": one.reason,
        "lock_at": to_rfc3339(one.lock_at),
        "waits_for_approval": unconfirmed.is_waiting(session, one.conversion_id),
    }


def _plan(session: Session, one: Commission | None) -> dict[str, Any] | None:
    version = session.get(PlanVersion, one.plan_version_id) if one and one.plan_version_id else None
    if version is None:
        return None
    return {
        "id": version.id,
        "version": version.version,
        "effective_from": to_rfc3339(version.effective_from),
        "content_hash": version.content_hash,
    }


def _figures(bookings: Sequence[Booking], *, is_whole: bool) -> dict[str, tuple[int, int]]:
    """(difference, total) by the key of a booking: of all parts together for who sees all."""
    found = {one.key: (one.delta_minor, one.total_minor) for one in bookings}
    for one in bookings if is_whole else ():
        of = one.explanation.get("of")
        if of is not None:
            delta_minor, total_minor = found[of]
            found[of] = delta_minor + one.delta_minor, total_minor + one.total_minor
    return found


def _booking(
    session: Session,
    actor: Actor,
    one: Booking,
    explained: dict[str, Any],
    figures: tuple[int, int],
) -> dict[str, Any]:
    if actor.role is Role.PUBLISHER:
        explained = shares.seen_by(explained, actor.party_id)
        if "lines" in explained:
            explained = {**explained, "lines": [_own_line(line) for line in explained["lines"]]}
    caused_by = explained.get("event", {}).get("because_of")
    if caused_by and not _may_see(session, actor, caused_by):
        explained["event"] = {**explained["event"], "because_of": None}
    return {
        "kind": one.kind,
        "at": to_rfc3339(one.at),
        "delta_minor": figures[0],
        "total_minor": figures[1],
        **explained,
    }


def _own_line(line: dict[str, Any]) -> dict[str, Any]:
    """A line without the rules that are for other publishers only."""
    foreign = ("publisher is ", "publisher_group is ")
    kept = [one for one in line.get("losers", ()) if not one["reason"].startswith(foreign)]
    return {**line, "losers": kept} if "losers" in line else line


def _may_see(session: Session, actor: Actor, conversion_id: str) -> bool:
    try:
        statements.get(session, actor, conversion_id)
    except NotFound:
        return False
    return True


def _step(actor: Actor, one: CommissionStep) -> dict[str, Any]:
    step = {
        "from": one.from_status,
        "to": one.to_status,
        "reason": one.reason,
        "at": to_rfc3339(one.at),
    }
    # Who decided is the network's own business; that and why it was decided is the publisher's.
    return {**step, "actor": one.actor} if actor.is_manager else step
