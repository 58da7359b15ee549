"""Writes what events made of commissions: bookings, steps and ledger transactions, together."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session

from commissions import ledger, states
from commissions.models import Booking, Commission, CommissionStatus, CommissionStep
from commissions.states import State
from kernel import bulk
from kernel.ids import new_id
from tracker import rollup_orders

# Where the money of a commission stands by its status. What was paid stays on `payable`: a payout
# has taken it from there, and a refund afterwards leaves that account owing.
_ACCOUNTS: dict[str, str] = {
    CommissionStatus.PENDING: "pending",
    CommissionStatus.APPROVED: "approved",
    CommissionStatus.PAYABLE: "payable",
    CommissionStatus.PAID: "payable",
    CommissionStatus.HELD: "held",
}


# Built once and without entities: these run for every batch of orders.
_booking_table = Booking.metadata.tables["booking"]
_BOOKED = sa.select(_booking_table.c.seq).where(_booking_table.c.key == sa.bindparam("key"))
_BOOK = bulk.Insert(
    _booking_table,
    *("id", "key", "conversion_id", "part", "kind", "delta_minor", "total_minor"),
    *("explanation", "at"),
)
_STEP = bulk.Insert(
    CommissionStep.metadata.tables["commission_step"],
    *("conversion_id", "part", "from_status", "to_status", "reason", "actor", "at"),
)


class Move(NamedTuple):
    """A commission with what it becomes: its new total, status and reason, and why.

    `key` names the event and is unique; `kind` empty means that only the status moves, which
    leaves a step and no booking.
    """

    commission: State
    key: str
    kind: str
    total_minor: int
    status: str
    reason: str
    actor: str
    explanation: Mapping[str, Any] = {}


class Sheet:
    """Moves of one transaction in the order in which they were booked, written in few statements.

    That order is the order of the bookings in the database, and so the log that is replayed.
    """

    def __init__(self, session: Session, *, now: datetime) -> None:
        self._session = session
        self._now = now
        self._opened: dict[str, State] = {}
        self._changed: dict[str, State] = {}
        self._bookings: list[tuple[Any, ...]] = []
        self._steps: list[tuple[Any, ...]] = []
        self._entries: list[ledger.Entry] = []
        self._earned: dict[str, State] = {}
        self._counted: set[str] = set()
        self._keys: set[str] = set()

    def add(self, move: Move, *, of: State | None = None) -> None:
        """Change the commission now, and keep what is to be written of it.

        `of` is the conversion's part 0, where the amount may have changed.
        """
        commission = move.commission
        delta_minor = move.total_minor - commission.amount_minor
        if delta_minor and of is not None:
            self._earned[of.conversion_id] = of
        if move.kind:
            self._bookings.append(_booking(move, delta_minor, self._now))
            self._keys.add(move.key)
        legs = _legs(move, delta_minor)
        if legs:
            self._entries.append(_entry(move, legs, self._now))
        if commission.status != move.status:
            self._steps.append(_step(move, self._now))
        if commission.status == "":
            self._opened[commission.id] = commission
        elif commission.id not in self._opened:
            self._changed[commission.id] = commission
        commission.amount_minor = move.total_minor
        commission.status = move.status
        commission.reason = move.reason
        commission.updated_at = self._now

    def count(self, conversion_ids: Iterable[str]) -> None:
        """Have these conversions counted in the roll-ups, whether anything is booked or not."""
        self._counted.update(conversion_ids)

    def is_booked(self, key: str) -> bool:
        """Whether the event of that key was booked, in this transaction or before it."""
        if key in self._keys:
            return True
        return self._session.execute(_BOOKED, {"key": key}).first() is not None

    def write(self) -> None:
        """Write everything added since the last call."""
        # Together with what is earned, so that an order that comes in is counted once and not
        # first without its commission.
        to_count = self._counted | self._earned.keys()
        earned = {name: _earned(one) for name, one in self._earned.items()}
        rollup_orders.refresh(self._session, to_count, earned=earned)
        self._counted.clear()
        if not self._opened and not self._changed:
            return
        states.insert(self._session, self._opened.values())
        states.update(self._session, self._changed.values())
        _BOOK.rows(self._session, self._bookings)
        _STEP.rows(self._session, self._steps)
        ledger.post_many(self._session, self._entries, actor="", now=self._now)
        self._expire({*self._opened, *self._changed})
        for kept in (self._opened, self._changed, self._earned):
            kept.clear()
        self._bookings, self._steps, self._entries = [], [], []

    def _expire(self, changed: set[str]) -> None:
        """An entity that somebody holds must not go on saying what was true before."""
        for entity in list(self._session.identity_map.values()):
            if isinstance(entity, Commission) and entity.__dict__.get("id") in changed:
                self._session.expire(entity)


def account_of(publisher_id: str, status: str) -> str | None:
    """The ledger account on which a commission of this status stands; None where it is zero."""
    name = _ACCOUNTS.get(status)
    return f"pub:{publisher_id}:{name}" if name else None


def _earned(commission: State) -> rollup_orders.Earned:
    others = tuple([(one.publisher_id, one.amount_minor) for one in commission.others])
    return rollup_orders.Earned(commission.currency, commission.amount_minor, others)


def _booking(move: Move, delta_minor: int, now: datetime) -> tuple[Any, ...]:
    """As the columns of `_BOOK`."""
    one = move.commission
    return (
        new_id("bkg", at=now),
        move.key,
        one.conversion_id,
        one.part,
        move.kind,
        delta_minor,
        move.total_minor,
        move.explanation,
        now,
    )


def _step(move: Move, now: datetime) -> tuple[Any, ...]:
    """As the columns of `_STEP`."""
    one = move.commission
    return one.conversion_id, one.part, one.status, move.status, move.reason, move.actor, now


def _entry(move: Move, legs: Sequence[ledger.Leg], now: datetime) -> ledger.Entry:
    return ledger.Entry(
        key=f"commission:{move.key}",
        kind=move.kind or move.status,
        correlation=move.commission.conversion_id,
        effective_at=now,
        postings=tuple(legs),
        reason=move.reason,
        actor=move.actor,
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
