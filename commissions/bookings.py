"""Writes what an event made of commissions: bookings, steps and ledger transactions, together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
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
            entries.append(
                ledger.Entry(
                    key=f"commission:{move.key}",
                    kind=move.kind or move.status,
                    correlation=commission.conversion_id,
                    effective_at=now,
                    postings=tuple(legs),
                    reason=move.reason,
                )
            )
        if commission.status != move.status:
            steps.append(_step(move, actor, now))
        commission.amount_minor = move.total_minor
        commission.status = move.status
        commission.reason = move.reason
        commission.updated_at = now
        session.add(commission)
    for statement, rows in ((_BOOK, bookings), (_STEP, steps)):
        if rows:
            session.execute(statement, rows)
    if entries:
        ledger.post_many(session, entries, actor=actor, now=now)


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
