"""The commissions of one transaction while events are booked for them, one after the other.

What an event decides is decided in memory: what it needs is read ahead for all events together,
and what it changes is written at the end in few statements. Every event meets the counters,
amounts and statuses that those before it have left, so that a batch books exactly what its events
would have booked one transaction each.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col

from commissions import plans, replays, states
from commissions.bookings import Move, Sheet
from commissions.counters import Counters
from commissions.models import Booking, Commission, CommissionStatus
from commissions.outcomes import ASIDE, next_status, reason_after_true_up, reason_of
from commissions.reasons import Reason
from commissions.replays import Happening
from commissions.repricing import Own, Repriced, Repricing
from commissions.rules import Priced
from commissions.states import State

SYSTEM = "system"
_BOOKED = sa.select(col(Booking.explanation)).where(col(Booking.key) == sa.bindparam("key"))


@dataclass(frozen=True, slots=True)
class Cause:
    """An event to be booked: its key, and the reason a commission that falls by it carries."""

    key: str
    kind: str
    reason: str = ""
    actor: str = SYSTEM
    details: Mapping[str, Any] = field(default_factory=dict)


class Batch:
    """Books events. Nothing is in the database before `write`, but for what reading needs there."""

    def __init__(self, session: Session, *, now: datetime) -> None:
        # Statements on tables do not write what a caller has changed of entities before.
        session.flush()
        self.session = session
        self.now = now
        self._sheet = Sheet(session, now=now)
        # Not with methods of this object: a ring of references would keep all that the batch has
        # read until the collector comes.
        self.repricing = Repricing(session, self._sheet.write)
        self.counters = Counters(session, self._sheet.write)
        self._states: dict[str, State] = {}
        self._own: dict[str, Own] = {}
        self._hold_reasons: dict[str, str] = {}

    def count(self, conversion_ids: Iterable[str]) -> None:
        """Have these conversions counted in the roll-ups with the next `write`."""
        self._sheet.count(conversion_ids)

    def lock(self, program_ids: Iterable[str]) -> None:
        """Be the only one who books for these programs until the transaction ends."""
        # In one order everywhere, so that two transactions never wait for each other.
        for program_id in sorted(set(program_ids)):
            plans.lock_program(self.session, program_id)

    def read(self, conversion_ids: Sequence[str]) -> dict[str, State]:
        """The commissions of these conversions, by conversion, as they stand now."""
        missing = [one for one in conversion_ids if one not in self._states]
        self._states |= states.load(self.session, missing)
        return {one: self._states[one] for one in conversion_ids if one in self._states}

    def keep(self, found: Iterable[State]) -> None:
        """Work with commissions that were read in another way."""
        for one in found:
            self._states.setdefault(one.conversion_id, one)

    def read_ahead(self, conversion_ids: Sequence[str]) -> None:
        """Read what booking an event of each of these commissions will need."""
        for start in range(0, len(conversion_ids), replays.IDS_MAX):
            some = conversion_ids[start : start + replays.IDS_MAX]
            story = replays.load(self.session, col(Commission.conversion_id).in_(some))
            for order_id, fact in story.facts.items():
                self._own[order_id] = Own(fact, story.versions[order_id])
            for one in story.happenings:
                self._own[one.conversion_id].happenings.append(one)
        self.repricing.read_ahead(self._own[one].fact for one in conversion_ids)

    def open(self, commission: State, own: Own) -> None:
        """Work with a commission for which nothing is booked yet."""
        self._states[commission.conversion_id] = commission
        self._own[commission.conversion_id] = own

    def happen(self, commission: State, happening: Happening, cause: Cause) -> None:
        """Book one event of an order that is booked already."""
        own = self._own[commission.conversion_id]
        repriced = self.repricing.happen(own, [happening])
        status = next_status(commission.status, repriced.remaining, happening.kind)
        self.book(commission, repriced, status, cause)

    def hold(self, commission: State, reason: str) -> None:
        """Set a commission aside whose order was evaluated as held."""
        self._hold_reasons[commission.conversion_id] = reason
        move = Move(
            commission,
            f"hold:{commission.conversion_id}",
            "hold",
            commission.amount_minor,
            CommissionStatus.HELD,
            reason,
            SYSTEM,
            {"event": {"kind": "hold", "reason": reason}},
        )
        self._sheet.add([move])

    def move(self, moves: Iterable[Move]) -> None:
        """Change statuses without an evaluation."""
        self._sheet.add(moves)

    def book(self, commission: State, repriced: Repriced, status: str, cause: Cause) -> None:
        """Book what an event made of its commission, then of every other one it changed."""
        priced = repriced.priced
        own = Move(
            commission,
            cause.key,
            cause.kind,
            priced.commission_minor if priced else 0,
            status,
            self._next_reason(commission, repriced, status, cause),
            cause.actor,
            {
                **(priced.explanation if priced else {}),
                "event": {"kind": cause.kind, "reason": cause.reason, **cause.details},
            },
        )
        before = (commission.base_minor, commission.units) if commission.status else None
        commission.base_minor, commission.units = repriced.base_minor, repriced.units
        self.counters.booked(commission, before=before)
        self._sheet.add([own])
        moved = [commission]
        if repriced.others:
            others = self.read(list(repriced.others)).values()
            moved += sorted(others, key=lambda one: one.seq)
            self._sheet.add(
                _true_up(one, repriced.others[one.conversion_id], commission, cause)
                for one in moved[1:]
            )
        self.repricing.booked(moved)

    def is_booked(self, key: str) -> bool:
        """Whether the event of that key was booked, in this transaction or before it."""
        return self._sheet.is_booked(key)

    def write(self) -> None:
        """Write everything booked since the last call."""
        self._sheet.write()

    def _next_reason(self, commission: State, repriced: Repriced, status: str, cause: Cause) -> str:
        if status in ASIDE:
            entered = cause.kind in {"cancel", "decline", "void"}
            if status == commission.status and cause.kind != "void":
                return commission.reason
            return cause.reason if entered else Reason.REFUNDED
        if status == CommissionStatus.HELD:
            if commission.status == CommissionStatus.HELD:
                return commission.reason
            return self._hold_reason(commission.conversion_id)
        if repriced.priced is None:
            return Reason.NO_RATE if commission.plan_version_id else Reason.NO_PLAN
        return reason_of(repriced.priced, repriced.remaining)

    def _hold_reason(self, conversion_id: str) -> str:
        reason = self._hold_reasons.get(conversion_id)
        if reason is None:
            booked = self.session.execute(_BOOKED, {"key": f"hold:{conversion_id}"}).scalar_one()
            reason = str(booked["event"]["reason"])
        return reason


def _true_up(commission: State, priced: Priced, because_of: State, cause: Cause) -> Move:
    """What an event of one order changes at another, whose status stays."""
    return Move(
        commission,
        f"{cause.key}:{commission.conversion_id}",
        "tier_true_up",
        priced.commission_minor,
        commission.status,
        reason_after_true_up(commission.status, commission.reason, commission.amount_minor, priced),
        cause.actor,
        {
            **priced.explanation,
            "event": {"kind": "tier_true_up", "because_of": because_of.conversion_id},
        },
    )
