"""What an order and what follows it make of commissions.

Every function may be called again for the same event and then changes nothing. The amount booked
for an event is the difference of two evaluations, one without and one with it; where appending an
order cannot change an earlier one, its counters are read by SQL instead (`price_order`).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from commissions import bookings, plans, replays
from commissions.bookings import Move
from commissions.choosing import subject_of
from commissions.models import Booking, Commission, CommissionStatus
from commissions.order_events import Remaining
from commissions.outcomes import (
    ASIDE,
    CODE,
    next_status,
    reason_after_true_up,
    reason_of,
    reason_of_change,
)
from commissions.plans import VersionFacts
from commissions.reasons import Reason
from commissions.replays import Fact, Happening, Repriced, Story, Terms
from commissions.rules import CounterKey, Plan, Priced, counter_keys, needs_replay, price_order
from commissions.tiers import window_of
from kernel.errors import invalid
from kernel.ids import new_id
from tracker.models import Conversion, ConversionChange

SYSTEM = "system"

# Said for every order or change that comes in; built once, because building costs more than
# executing. Where no entity is needed none is asked for, because entities cost even more.
_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
_END = datetime(9999, 12, 31, tzinfo=UTC)
_commission_table = Commission.metadata.tables["commission"]
_COMMISSION = (
    select(Commission)
    .where(Commission.conversion_id == sa.bindparam("conversion_id"))
    .execution_options(populate_existing=True)
)
_PROGRAM = sa.select(_commission_table.c.program_id).where(
    _commission_table.c.conversion_id == sa.bindparam("conversion_id")
)
_CHANGES = (
    sa.select(ConversionChange, col(Conversion.imported))
    .join(Conversion, col(Conversion.id) == col(ConversionChange.conversion_id))
    .outerjoin(Booking, col(Booking.key) == col(ConversionChange.id))
    .where(
        col(ConversionChange.conversion_id) == sa.bindparam("conversion_id"),
        col(Booking.seq).is_(None),
    )
    .order_by(col(ConversionChange.seq))
)


def _sums() -> sa.Select[Any]:
    one = _commission_table.c
    return sa.select(
        sa.func.coalesce(sa.func.sum(one.base_minor), 0),
        sa.func.coalesce(sa.func.sum(one.units), 0),
        sa.func.count().filter(sa.or_(one.base_minor > 0, one.units > 0)),
        sa.func.count().filter(one.plan_version_id != sa.bindparam("plan_version_id")),
    ).where(
        one.program_id == sa.bindparam("program_id"),
        one.publisher_id == sa.bindparam("publisher_id"),
        one.plan_version_id.is_not(None),
        one.occurred_at >= sa.bindparam("start"),
        one.occurred_at < sa.bindparam("end"),
    )


_SUMS = _sums()


@dataclass(frozen=True, slots=True)
class _Cause:
    """An event to be booked: its key, and the reason a commission that falls by it carries."""

    key: str
    kind: str
    reason: str
    actor: str
    details: Mapping[str, Any]


def accrue(
    session: Session, conversion_id: str, *, hold_reason: str | None, now: datetime
) -> Commission | None:
    """Book the commission of a conversion; None when no publisher brought it.

    Without a plan or a rule the commission is booked at zero with its reason. With a
    `hold_reason` (a reason code) it is held, and counts towards no tier. NotFound for an unknown
    conversion, NotAttributed for one that was not attributed.
    """
    _check_code("hold_reason", hold_reason)
    fact, terms = replays.intake(session, conversion_id)
    plans.lock_program(session, fact.program_id)
    if _program_of(session, conversion_id) is not None:
        return _commission(session, conversion_id)
    versions = plans.facts_of(session, fact.program_id)
    version = plans.choose(versions, fact.order.at)
    plan = plans.parsed(session, version.id) if version else None
    payee = subject_of(plan, fact.order).publisher if plan else fact.order.publisher
    if not payee:
        return None
    fact = replace(fact, order=replace(fact.order, publisher=payee))
    commission = _blank(fact, terms, version.id if version else None, now)
    held = hold_reason is not None
    counters = _counters(session, commission, fact, plan, versions, held=held)
    _book_order(session, commission, fact, plan, counters, held=held, now=now)
    if hold_reason is not None:
        _hold(session, commission, hold_reason, now)
    _apply_reported(session, commission, fact, now)
    return commission


def apply_changes(session: Session, conversion_id: str, *, now: datetime) -> int:
    """Book every change of the conversion that is not booked yet, in order; how many there were.

    A conversion that earns nobody anything has nothing to book.
    """
    commission = _locked(session, conversion_id)
    if commission is None:
        return 0
    changes = session.execute(_CHANGES, {"conversion_id": conversion_id}).all()
    for change, imported in changes:
        happening = Happening(
            conversion_id,
            change.kind,
            change.occurred_at if imported else change.received_at,
            change.line,
            change.amount_minor,
            change.quantity,
        )
        details = {
            "change": change.id,
            "line": change.line,
            "amount_minor": change.amount_minor,
            "quantity": change.quantity,
            "said": change.reason,
        }
        cause = _Cause(change.id, change.kind, reason_of_change(change), SYSTEM, details)
        _happen(session, commission, happening, cause, now=now)
    return len(changes)


def release(
    session: Session, conversion_id: str, *, actor: str, now: datetime
) -> Commission | None:
    """End the hold: the commission goes where it would stand without it, and counts again.

    One that was never held, or released before, stays as it is; None when there is none.
    """
    commission = _locked(session, conversion_id)
    if commission is None:
        return None
    held, released = (
        _is_booked(session, f"{name}:{conversion_id}") for name in ("hold", "release")
    )
    if held and not released:
        cause = _Cause(f"release:{conversion_id}", "release", "", str(actor), {})
        _happen(session, commission, Happening(conversion_id, "release", now), cause, now=now)
    return commission


def void(
    session: Session, conversion_id: str, *, reason: str, actor: str, now: datetime
) -> Commission | None:
    """Decline for good with a reason code, such as `fraud_confirmed`; nothing revives it.

    What was paid already is set off against the next payout. A repeat changes nothing; None when
    there is no commission.
    """
    _check_code("reason", reason)
    commission = _locked(session, conversion_id)
    if commission is None:
        return None
    key = f"void:{conversion_id}"
    if not _is_booked(session, key):
        cause = _Cause(key, "void", reason, str(actor), {})
        _happen(session, commission, Happening(conversion_id, "void", now), cause, now=now)
    return commission


def sweep(session: Session, *, now: datetime, rows_max: int) -> int:
    """Make commissions payable whose lock date has come, at most `rows_max`; how many moved.

    A pending one is approved first. Held ones stay. Call again until it returns 0.
    """
    query = (
        select(Commission)
        .where(
            col(Commission.status).in_([CommissionStatus.PENDING, CommissionStatus.APPROVED]),
            col(Commission.lock_at) <= now,
        )
        .order_by(col(Commission.lock_at), col(Commission.seq))
        .limit(rows_max)
        .execution_options(populate_existing=True)
    )
    candidates = session.exec(query).all()
    for program_id in sorted({one.program_id for one in candidates}):
        plans.lock_program(session, program_id)
    if session.get_bind().dialect.name != "sqlite":
        # Somebody may have moved one of them while we waited for its program.
        candidates = session.exec(query).all()
    due = [one for one in candidates if one.status == CommissionStatus.PENDING]
    _approve_counted(session, due, now)
    # The status read in this transaction is what keeps a repeat harmless, so the key only has to
    # be a new one: an order may be approved, declined and approved again.
    moves = [
        Move(one, new_id("swp", at=now), "", one.amount_minor, status, one.reason)
        for status, moving in (
            (CommissionStatus.APPROVED, due),
            (CommissionStatus.PAYABLE, candidates),
        )
        for one in moving
    ]
    bookings.write(session, moves, actor=SYSTEM, now=now)
    session.flush()
    return len(candidates)


def _approve_counted(session: Session, due: Sequence[Commission], now: datetime) -> None:
    """Where tiers count approved orders only, reaching the lock date is an event of its own."""
    counting = {
        program_id
        for program_id in {one.program_id for one in due if one.plan_version_id is not None}
        if any(
            rule.tiers and rule.tiers.counts == "approved"
            for version in plans.facts_of(session, program_id)
            for rule in plans.parsed(session, version.id).base_rules
        )
    }
    for commission in due:
        if commission.plan_version_id is None or commission.program_id not in counting:
            continue
        key = f"lock:{commission.conversion_id}:{new_id('swp', at=now)}"
        happening = Happening(commission.conversion_id, "approve", now)
        _happen(session, commission, happening, _Cause(key, "approve", "", SYSTEM, {}), now=now)


def _blank(fact: Fact, terms: Terms, version_id: str | None, now: datetime) -> Commission:
    return Commission(
        conversion_id=fact.order.id,
        id=new_id("cms", at=now),
        seq=fact.seq,
        program_id=fact.program_id,
        publisher_id=fact.order.publisher,
        advertiser_id=terms.advertiser_id,
        currency=terms.currency,
        plan_version_id=version_id,
        status="",
        occurred_at=fact.order.at,
        lock_at=fact.order.at + timedelta(days=terms.hold_days),
        updated_at=now,
    )


def _book_order(
    session: Session,
    commission: Commission,
    fact: Fact,
    plan: Plan | None,
    counters: Mapping[CounterKey, int | Fraction] | None,
    *,
    held: bool,
    now: datetime,
) -> None:
    happenings = [Happening(fact.order.id, "accrue", fact.order.known_at)]
    if held:
        happenings.append(Happening(fact.order.id, "hold", now))
    own = Story({fact.order.id: fact}, happenings, {}, {})
    cause = _Cause(f"accrue:{fact.order.id}", "accrue", "", SYSTEM, {})
    if plan is not None and counters is not None:
        priced = price_order(plan, fact.order, counters)
        base_minor, units = replays.counted(plan, replays.events(own))
        remaining = Remaining(fact.order, (), cancelled=False, decision="pending", held=False)
        repriced = Repriced(remaining, priced, base_minor, units, {})
    else:
        repriced = replays.reprice(session, own, commission.plan_version_id)
    _book(session, commission, repriced, CommissionStatus.PENDING, cause, now=now)


def _counters(
    session: Session,
    commission: Commission,
    fact: Fact,
    plan: Plan | None,
    versions: Sequence[VersionFacts],
    *,
    held: bool,
) -> Mapping[CounterKey, int | Fraction] | None:
    """Where the order's counters stand, by SQL; None where only a replay can tell."""
    if plan is None or not replays.convertible(plan, fact.order):
        return None
    others = (plans.parsed(session, one.id) for one in versions)
    if any(other is not plan and replays.restates(other) for other in others):
        # Another version of the plan changes earlier orders when this one comes in.
        return None
    if replays.independent(plan):
        return {}
    if held or (replays.restates(plan) and needs_replay(plan, fact.order)):
        return None
    counters: dict[CounterKey, int | Fraction] = {}
    for key in counter_keys(plan, fact.order):
        sum_ = _summed(session, commission, plan, key)
        if sum_ is None:
            return None
        counters[key] = sum_
    return counters


def _summed(session: Session, commission: Commission, plan: Plan, key: CounterKey) -> int | None:
    """The counter as a sum over the publisher's commissions; None where columns do not say it."""
    rule = next(one for one in plan.base_rules if one.id == key.rule_id)
    tiers = rule.tiers
    if tiers is None or tiers.scope != ("publisher",) or tiers.counts != "live":
        return None
    everything = plan.base_rules == (rule,) and not rule.when.values and not rule.when.bound
    always = rule.effective_from is None and rule.effective_to is None
    converted = plan.rates is not None or bool(plan.suppressed_coupons)
    if converted or not always or not (tiers.measure == "sales" or everything):
        return None
    start, end = window_of(tiers.window, commission.occurred_at, tiers.zone)
    wanted = {
        "program_id": commission.program_id,
        "publisher_id": commission.publisher_id,
        "plan_version_id": commission.plan_version_id,
        "start": start or _BEGINNING,
        "end": end or _END,
    }
    base_minor, units_sum, count, foreign = session.execute(_SUMS, wanted).one()
    if foreign:
        return None
    return int({"units": units_sum, "count": count}.get(tiers.measure, base_minor))


def _hold(session: Session, commission: Commission, reason: str, now: datetime) -> None:
    move = Move(
        commission,
        f"hold:{commission.conversion_id}",
        "hold",
        commission.amount_minor,
        CommissionStatus.HELD,
        reason,
        {"event": {"kind": "hold", "reason": reason}},
    )
    bookings.write(session, [move], actor=SYSTEM, now=now)
    session.flush()


def _apply_reported(session: Session, commission: Commission, fact: Fact, now: datetime) -> None:
    """An order that came in already decided."""
    kind = {"approved": "approve", "declined": "decline"}.get(fact.reported_status)
    if kind is None:
        return
    reason = Reason.DECLINED_BY_ADVERTISER if kind == "decline" else ""
    cause = _Cause(f"reported:{fact.order.id}", kind, reason, SYSTEM, {})
    happening = Happening(fact.order.id, kind, fact.order.known_at)
    _happen(session, commission, happening, cause, now=now)


def _happen(
    session: Session,
    commission: Commission,
    happening: Happening,
    cause: _Cause,
    *,
    now: datetime,
) -> None:
    """Book one event of an order that is booked already."""
    own = replays.load(session, col(Commission.conversion_id) == commission.conversion_id)
    own.happenings.append(happening)
    repriced = replays.reprice(session, own, commission.plan_version_id)
    status = next_status(commission.status, repriced.remaining, happening.kind)
    _book(session, commission, repriced, status, cause, now=now)


def _book(
    session: Session,
    commission: Commission,
    repriced: Repriced,
    status: str,
    cause: _Cause,
    *,
    now: datetime,
) -> None:
    priced = repriced.priced
    reason = _next_reason(session, commission, repriced, status, cause)
    own = Move(
        commission,
        cause.key,
        cause.kind,
        priced.commission_minor if priced else 0,
        status,
        reason,
        {
            **(priced.explanation if priced else {}),
            "event": {"kind": cause.kind, "reason": cause.reason, **cause.details},
        },
    )
    commission.base_minor, commission.units = repriced.base_minor, repriced.units
    true_ups = [
        _true_up(one, repriced.others[one.conversion_id], commission, cause)
        for one in _commissions(session, sorted(repriced.others))
    ]
    bookings.write(session, [own, *true_ups], actor=cause.actor, now=now)
    session.flush()


def _true_up(commission: Commission, priced: Priced, because_of: Commission, cause: _Cause) -> Move:
    """What an event of one order changes at another, whose status stays."""
    return Move(
        commission,
        f"{cause.key}:{commission.conversion_id}",
        "tier_true_up",
        priced.commission_minor,
        commission.status,
        reason_after_true_up(commission.status, commission.reason, commission.amount_minor, priced),
        {
            **priced.explanation,
            "event": {"kind": "tier_true_up", "because_of": because_of.conversion_id},
        },
    )


def _next_reason(
    session: Session, commission: Commission, repriced: Repriced, status: str, cause: _Cause
) -> str:
    if status in ASIDE:
        entered = cause.kind in {"cancel", "decline", "void"}
        if status == commission.status and cause.kind != "void":
            return commission.reason
        return cause.reason if entered else Reason.REFUNDED
    if status == CommissionStatus.HELD:
        if commission.status == CommissionStatus.HELD:
            return commission.reason
        booked = session.exec(
            select(Booking).where(Booking.key == f"hold:{commission.conversion_id}")
        ).one()
        return str(booked.explanation["event"]["reason"])
    if repriced.priced is None:
        return Reason.NO_RATE if commission.plan_version_id else Reason.NO_PLAN
    return reason_of(repriced.priced, repriced.remaining)


def _check_code(name: str, code: str | None) -> None:
    if code is not None and not CODE.fullmatch(code):
        raise invalid(name, "reason_code", "must be 1 to 64 of a-z, 0-9 and _")


def _locked(session: Session, conversion_id: str) -> Commission | None:
    program_id = _program_of(session, conversion_id)
    if program_id is None:
        return None
    plans.lock_program(session, program_id)
    return _commission(session, conversion_id)


def _program_of(session: Session, conversion_id: str) -> str | None:
    """The program of a commission; None when there is no commission."""
    return session.execute(_PROGRAM, {"conversion_id": conversion_id}).scalar_one_or_none()


def _commission(session: Session, conversion_id: str) -> Commission | None:
    return session.execute(_COMMISSION, {"conversion_id": conversion_id}).scalar_one_or_none()


def _commissions(session: Session, conversion_ids: Sequence[str]) -> list[Commission]:
    found: list[Commission] = []
    for start in range(0, len(conversion_ids), 500):
        query = (
            select(Commission)
            .where(col(Commission.conversion_id).in_(conversion_ids[start : start + 500]))
            .order_by(col(Commission.seq))
            .execution_options(populate_existing=True)
        )
        found += session.exec(query)
    return found


def _is_booked(session: Session, key: str) -> bool:
    return session.exec(select(Booking.seq).where(Booking.key == key)).first() is not None
