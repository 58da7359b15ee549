"""The commissions of one transaction while events are booked for them, one after the other.

What an event decides is decided in memory: what it needs is read ahead for all events together,
and what it changes is written at the end in few statements. Every event meets the counters,
amounts and statuses that those before it have left, so that a batch books exactly what its events
would have booked one transaction each.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session, col

from commissions import plans, replays, states
from commissions.bookings import Move, Sheet
from commissions.counters import Counters
from commissions.models import Booking, Commission, CommissionStatus
from commissions.outcomes import (
    ASIDE,
    next_status,
    reason_after_true_up,
    reason_of,
    status_when_priced,
)
from commissions.reasons import Reason
from commissions.repricing import Own, Repriced, Repricing
from commissions.rules import Priced
from commissions.states import State
from commissions.telling import Happening

SYSTEM = "system"
TRUE_UP = "tier_true_up"
_BOOKED = sa.select(col(Booking.explanation)).where(col(Booking.key) == sa.bindparam("key"))


class Cause(NamedTuple):
    """An event to be booked: its key, and the reason a commission that falls by it carries."""

    key: str
    kind: str
    reason: str = ""
    actor: str = SYSTEM
    details: Mapping[str, Any] = {}


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

    def keep(self, found: Sequence[State]) -> list[State]:
        """Work with commissions that were read in another way: those the batch has of them."""
        shared = self.read(list({one.conversion_id for one in found if one.share_denominator > 1}))
        kept = []
        for one in found:
            lead = shared.get(one.conversion_id) or self._states.setdefault(one.conversion_id, one)
            kept.append(lead.everyone[one.part])
        return kept

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
        self.book(commission, self.repricing.happen(own, [happening]), cause)

    def hold(self, commission: State, reason: str) -> None:
        """Set a commission aside whose order was evaluated as held."""
        self._hold_reasons[commission.conversion_id] = reason
        key = f"hold:{commission.conversion_id}"
        event = {"event": {"kind": "hold", "reason": reason}}
        for one in commission.everyone:
            move = Move(
                one,
                key_of(key, one),
                "hold",
                one.amount_minor,
                CommissionStatus.HELD,
                reason,
                SYSTEM,
                event,
            )
            self._sheet.add(move)

    def move(self, moves: Iterable[Move], *, of: State | None = None) -> None:
        """Book what was decided elsewhere; `of` is part 0 where amounts of it change."""
        for move in moves:
            self._sheet.add(move, of=of)

    def book(self, commission: State, repriced: Repriced, cause: Cause) -> None:
        """Book what an event made of its commission, then of every other one it changed."""
        before = (commission.base_minor, commission.units) if commission.status else None
        commission.base_minor, commission.units = repriced.base_minor, repriced.units
        self.counters.booked(commission, before=before)
        self._book_parts(commission, repriced, cause)
        moved = [commission]
        if repriced.others:
            others = self.read(list(repriced.others)).values()
            moved += sorted(others, key=lambda one: one.seq)
            for one in moved[1:]:
                self._true_up(one, repriced.others[one.conversion_id], commission, cause)
        self.repricing.booked(moved)

    def _book_parts(self, commission: State, repriced: Repriced, cause: Cause) -> None:
        priced = repriced.priced
        event = {"kind": cause.kind, "reason": cause.reason, **cause.details}
        explanation = {**(priced.explanation if priced else {}), "event": event}
        total_minor, uncapped_minor = _figures(priced)
        uncapped = commission.split(uncapped_minor)
        for one, part_minor in zip(commission.everyone, commission.split(total_minor), strict=True):
            one.uncapped_minor = uncapped[one.part]
            status: str = CommissionStatus.PENDING
            if one.status:
                # One that comes in is pending at first, whatever else is known of it.
                status = next_status(one.status, repriced.remaining, cause.kind)
            status = status_when_priced(status, priced)
            reason = self._next_reason(one, repriced, status, cause, part_minor)
            move = Move(
                one,
                key_of(cause.key, one),
                cause.kind,
                part_minor,
                status,
                reason,
                cause.actor,
                {"of": cause.key, "event": event} if one.part else explanation,
            )
            self._sheet.add(move, of=commission)

    def _true_up(self, commission: State, priced: Priced, because_of: State, cause: Cause) -> None:
        """What an event of one order changes at another, to which nothing happened itself."""
        key = f"{cause.key}:{commission.conversion_id}"
        event = {"kind": TRUE_UP, "because_of": because_of.conversion_id}
        uncapped = commission.split(priced.uncapped_minor)
        parts = commission.split(priced.commission_minor)
        for one, part_minor in zip(commission.everyone, parts, strict=True):
            status = status_when_priced(one.status, priced)
            reason = reason_after_true_up(
                status, one.reason, one.amount_minor, priced, part_minor=part_minor
            )
            one.uncapped_minor = uncapped[one.part]
            move = Move(
                one,
                key_of(key, one),
                TRUE_UP,
                part_minor,
                status,
                reason,
                cause.actor,
                {"of": key, "event": event} if one.part else {**priced.explanation, "event": event},
            )
            self._sheet.add(move, of=commission)

    def is_booked(self, key: str) -> bool:
        """Whether the event of that key was booked, in this transaction or before it."""
        return self._sheet.is_booked(key)

    def write(self) -> None:
        """Write everything booked since the last call."""
        self._sheet.write()

    def _next_reason(
        self, commission: State, repriced: Repriced, status: str, cause: Cause, part_minor: int
    ) -> str:
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
        return reason_of(repriced.priced, repriced.remaining, part_minor=part_minor)

    def _hold_reason(self, conversion_id: str) -> str:
        reason = self._hold_reasons.get(conversion_id)
        if reason is None:
            booked = self.session.execute(_BOOKED, {"key": f"hold:{conversion_id}"}).scalar_one()
            reason = str(booked["event"]["reason"])
        return reason


def key_of(key: str, commission: State) -> str:
    """The key of an event for one part of a conversion; the event's own for part 0."""
    return f"{key}:{commission.publisher_id}" if commission.part else key


def _figures(priced: Priced | None) -> tuple[int, int]:
    """(the commission, the same without caps and budget)."""
    return (priced.commission_minor, priced.uncapped_minor) if priced else (0, 0)
