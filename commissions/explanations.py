"""Why a commission is what it is: every booking with its rules, tiers, rates and rounding.

`explain` gives it to programs, `words` to people. Both say what was recorded when it was booked;
nothing is computed again.
"""

from collections.abc import Sequence
from typing import Any

from sqlmodel import Session, col, select

from commissions import plans, statements, unconfirmed
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
    return Explanation(
        conversion=_conversion(session, line),
        attribution=_attribution(line, actor),
        commission=_commission(session, line.commission),
        plan=_plan(session, line.commission),
        bookings=[
            _booking(session, actor, one, _fx(session, line, one, version_id))
            for one, version_id in _with_versions(bookings, line.commission)
        ],
        steps=[_step(actor, one) for one in steps],
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
        "customer": one.customer,
        "coupon": one.coupon,
        "items": [
            {
                "line": item.line,
                "sku": item.sku,
                "category": item.category,
                "quantity": item.quantity,
                "amount_minor": item.amount_minor,
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


def _commission(session: Session, one: Commission | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {
        "id": one.id,
        "publisher_id": one.publisher_id,
        "currency": one.currency,
        "amount_minor": one.amount_minor,
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


def _with_versions(
    bookings: Sequence[Booking], commission: Commission | None
) -> list[tuple[Booking, str | None]]:
    """Each booking with the plan version it was made by: a re-rate names those on both sides."""
    version_id = commission.plan_version_id if commission else None
    found = []
    for one in reversed(bookings):
        found.append((one, version_id))
        if one.kind == "rerate":
            before = one.explanation.get("event", {}).get("plan_before")
            version_id = before["id"] if before else None
    return found[::-1]


def _fx(
    session: Session, line: StatementLine, one: Booking, version_id: str | None
) -> dict[str, Any] | None:
    """The rate an amount was converted by, and its day, as the plan version has it."""
    traced = one.explanation
    order_currency = traced.get("order_currency")
    if version_id is None or order_currency in {None, traced.get("currency")}:
        return None
    plan = plans.parsed(session, version_id)
    day = line.conversion.occurred_at.astimezone(plan.zone).date().isoformat()
    published = plan.rates.by_date if plan.rates else {}
    usable = [date for date in published if date <= day and order_currency in published[date]]
    if not usable:
        return None
    rates = published[max(usable)]
    rate = rates[plan.currency] / rates[str(order_currency)]
    return {
        "from": order_currency,
        "to": plan.currency,
        "rate": str(rate),
        "date": max(usable),
    }


def _booking(
    session: Session, actor: Actor, one: Booking, fx: dict[str, Any] | None
) -> dict[str, Any]:
    explained = dict(one.explanation)
    if fx is not None:
        explained.setdefault("fx", fx)
    if actor.role is Role.PUBLISHER and "payees" in explained:
        own = {who: minor for who, minor in explained["payees"].items() if who == actor.party_id}
        explained["payees"] = own
    if actor.role is Role.PUBLISHER and "lines" in explained:
        explained["lines"] = [_own_line(line) for line in explained["lines"]]
    caused_by = explained.get("event", {}).get("because_of")
    if caused_by and not _may_see(session, actor, caused_by):
        explained["event"] = {**explained["event"], "because_of": None}
    return {
        "kind": one.kind,
        "at": to_rfc3339(one.at),
        "delta_minor": one.delta_minor,
        "total_minor": one.total_minor,
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
