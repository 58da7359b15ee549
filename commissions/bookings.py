"""Writes what an event made of commissions: bookings, steps and ledger transactions, together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import make_transient_to_detached
from sqlalchemy.orm.util import identity_key
from sqlmodel import Session

from commissions import ledger
from commissions.models import Booking, Commission, CommissionStatus, CommissionStep
from kernel.ids import new_id

# Where the money of a commission stands by its status. What was paid stays on `payable`: a payout
# has taken it from there, and a refund afterwards leaves that account owing.
_ACCOUNTS: dict[str, str] = {
    CommissionStatus.PENDING: "pending",
    CommissionStatus.APPROVED: "approved",
    CommissionStatus.PAYABLE: "payable",
    CommissionStatus.PAID: "payable",
    CommissionStatus.HELD: "held",
}


# Built once and without entities: these run for every order that comes in.
_OPEN = sa.insert(Commission.metadata.tables["commission"])
_BOOK = sa.insert(Booking.metadata.tables["booking"])
_STEP = sa.insert(CommissionStep.metadata.tables["commission_step"])


@dataclass(frozen=True, slots=True)
class Move:
    """A commission with what it becomes: its new total, status and reason, and why.

    `key` names the event and is unique; `kind` empty means that only the status moves, which
    leaves a step and no booking.
    """

    commission: Commission
    key: str
    kind: str
    total_minor: int
    status: str
    reason: str
    explanation: Mapping[str, Any] = field(default_factory=dict)


def write(session: Session, moves: Sequence[Move], *, actor: str, now: datetime) -> None:
    """Book the moves and change their commissions. An empty status is one not booked before."""
    opened: list[Commission] = []
    bookings: list[dict[str, Any]] = []
    steps: list[dict[str, Any]] = []
    entries: list[ledger.Entry] = []
    for move in moves:
        commission = move.commission
        delta_minor = move.total_minor - commission.amount_minor
        if move.kind:
            bookings.append(_booking(move, delta_minor, now))
        legs = _legs(move, delta_minor)
        if legs:
            entries.append(_entry(move, legs, now))
        if commission.status != move.status:
            steps.append(_step(move, actor, now))
        if commission.status == "":
            opened.append(commission)
        commission.amount_minor = move.total_minor
        commission.status = move.status
        commission.reason = move.reason
        commission.updated_at = now
    _open(session, opened)
    _insert(session, _BOOK, bookings)
    _insert(session, _STEP, steps)
    ledger.post_many(session, entries, actor=actor, now=now)


def _open(session: Session, commissions: Sequence[Commission]) -> None:
    """Insert commissions and make them the session's own, as if it had loaded them."""
    _insert(session, _OPEN, [one.model_dump() for one in commissions])
    for one in commissions:
        make_transient_to_detached(one)
        # What a savepoint took back may still be held by somebody; this one takes its place.
        earlier = session.identity_map.get(identity_key(instance=one))
        if earlier is not None:
            session.expunge(earlier)
        session.add(one)


def _insert(session: Session, statement: sa.Insert, rows: Sequence[dict[str, Any]]) -> None:
    if rows:
        session.execute(statement, rows)


def account_of(publisher_id: str, status: str) -> str | None:
    """The ledger account on which a commission of this status stands; None where it is zero."""
    name = _ACCOUNTS.get(status)
    return f"pub:{publisher_id}:{name}" if name else None


def _booking(move: Move, delta_minor: int, now: datetime) -> dict[str, Any]:
    return {
        "id": new_id("bkg", at=now),
        "key": move.key,
        "conversion_id": move.commission.conversion_id,
        "kind": move.kind,
        "delta_minor": delta_minor,
        "total_minor": move.total_minor,
        "explanation": dict(move.explanation),
        "at": now,
    }


def _step(move: Move, actor: str, now: datetime) -> dict[str, Any]:
    return {
        "conversion_id": move.commission.conversion_id,
        "from_status": move.commission.status,
        "to_status": move.status,
        "reason": move.reason,
        "actor": actor,
        "at": now,
    }


def _entry(move: Move, legs: Sequence[ledger.Leg], now: datetime) -> ledger.Entry:
    return ledger.Entry(
        key=f"commission:{move.key}",
        kind=move.kind or move.status,
        correlation=move.commission.conversion_id,
        effective_at=now,
        postings=tuple(legs),
        reason=move.reason,
    )


def _legs(move: Move, delta_minor: int) -> list[ledger.Leg]:
    """The difference where the commission stands, then all of it to where it goes."""
    commission, currency = move.commission, move.commission.currency
    unbilled = f"adv:{commission.advertiser_id}:unbilled"
    before = account_of(commission.publisher_id, commission.status)
    after = account_of(commission.publisher_id, move.status)
    at = before or after
    legs: list[ledger.Leg] = []
    if delta_minor and at is not None:
        debit, credit = (unbilled, at) if delta_minor > 0 else (at, unbilled)
        legs.append((debit, credit, currency, abs(delta_minor)))
    if move.total_minor and before and after and before != after:
        legs.append((before, after, currency, move.total_minor))
    return legs
