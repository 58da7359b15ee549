"""Rates booked orders again by the plan versions that are published for their time now.

A version never changes, so a mistake in it is put right by a later version that begins in the past
and by a re-rate: every order of a period moves to the version that is in force at its time, and the
difference is booked. What moved stands in a booking of kind `rerate`, with the versions before and
after; the plan version on the commission follows it.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session

from commissions import periods, plans, replays
from commissions.batches import Batch, key_of
from commissions.bookings import Move
from commissions.choosing import subject_of
from commissions.models import Commission, CommissionStatus
from commissions.outcomes import ASIDE, reason_after_true_up, status_when_priced
from commissions.periods import Period
from commissions.plans import VersionFacts
from commissions.reasons import Reason
from commissions.rules import Plan, Priced
from commissions.states import State
from commissions.telling import Happening, Story

KIND = "rerate"
OTHER_PAYEE = "other_payee"
NO_PLAN = "no_plan"
PIECE_ROWS = 500
_PINS_AT_ONCE = 500
_commission = Commission.metadata.tables["commission"]
_PIN = (
    sa.update(_commission)
    .where(_commission.c.conversion_id.in_(sa.bindparam("conversion_ids", expanding=True)))
    .values(plan_version_id=sa.bindparam("version_id"))
)


@dataclass(frozen=True, slots=True)
class Change:
    """What a re-rate makes of one order. Equal versions: another order's move changed this one."""

    conversion_id: str
    publisher_id: str
    before: str | None
    after: str | None
    before_minor: int
    after_minor: int
    priced: Priced | None
    base_minor: int = 0
    units: int = 0

    @property
    def is_pinned(self) -> bool:
        """Whether the order moves to another version."""
        return self.before != self.after


@dataclass(slots=True)
class Part:
    """What a re-rate finds in one part: the changes, and how many orders it leaves, by reason."""

    orders: int = 0
    changes: list[Change] = field(default_factory=list)
    left: dict[str, int] = field(default_factory=dict)


class Rerate:
    """The orders of a period against the versions published up to a number."""

    def __init__(self, session: Session, period: Period, version_max: int) -> None:
        self._session = session
        self._period = period
        known = plans.facts_of(session, period.program_id)
        self._known = [one for one in known if one.version <= version_max]
        self._plans = {one.id: plans.parsed(session, one.id) for one in known}

    @property
    def plans(self) -> list[Plan]:
        """Every plan whose prices a re-rate may have to know."""
        return list(self._plans.values())

    @property
    def is_piecemeal(self) -> bool:
        """Whether no order depends on another, so that a part may be worked in pieces."""
        return all(replays.independent(plan) for plan in self.plans)

    def piece(self, publisher_id: str, after_seq: int) -> tuple[Part, int]:
        """The next orders of a publisher where `is_piecemeal`, and the last one's number."""
        among, last = periods.next_of(
            self._session, self._period, publisher_id, after_seq, PIECE_ROWS
        )
        times = (self._period.start, self._period.end)
        story = periods.load(self._session, self._period, publisher_id, times, among)
        moved = self._moved(story)
        return self._part(story, moved, everything=False), last

    def part(self, publisher_id: str | None) -> Part:
        """What it makes of the orders of a publisher, or of the program. Reads only."""
        story = self._load(publisher_id, joins=False)
        moved = self._moved(story)
        # Orders that were under no plan come into the counters of all that are.
        joins = any(story.versions[one] is None for one in moved)
        if joins:
            story = self._load(publisher_id, joins=True)
        return self._part(story, moved, everything=joins)

    def _part(self, story: Story, moved: Mapping[str, str], *, everything: bool) -> Part:
        part = Part(
            orders=sum(self._period.holds(fact.order.at) for fact in story.facts.values()),
            left=self._left(story, moved),
        )
        unplanned = {one for one, at in story.versions.items() if at is None and one not in moved}
        _forget(story, unplanned)
        part.changes = self._changes(story, moved, everything=everything)
        return part

    def _load(self, publisher_id: str | None, *, joins: bool) -> Story:
        times = (None, None) if joins else periods.span(self._period, self.plans)
        return periods.load(self._session, self._period, publisher_id, times)

    def _target(self, story: Story, order_id: str) -> VersionFacts | None:
        return plans.choose(self._known, story.facts[order_id].order.at)

    def _moved(self, story: Story) -> dict[str, str]:
        """The version each order moves to; those that stay have no entry."""
        found: dict[str, str] = {}
        for order_id, fact in story.facts.items():
            target = self._target(story, order_id)
            if (
                self._period.holds(fact.order.at)
                and target is not None
                and target.id != story.versions[order_id]
            ):
                found[order_id] = target.id
        foreign = self._with_other_payee(story, found)
        return {one: version for one, version in found.items() if one not in foreign}

    def _with_other_payee(self, story: Story, moved: Mapping[str, str]) -> set[str]:
        """Orders that the version would pay to somebody else: what is booked is never moved."""
        asked = [
            one
            for one, version in moved.items()
            if self._has_owners(version) or self._has_owners(story.versions[one])
        ]
        attributed = replays.intake(self._session, asked)
        foreign = set()
        for one, (fact, _) in attributed.items():
            subject = subject_of(self._plans[moved[one]], fact.order)
            is_shared = one in story.payees
            if subject.publisher != story.facts[one].order.publisher or (
                bool(subject.shares) != is_shared
            ):
                foreign.add(one)
        return foreign

    def _has_owners(self, version_id: str | None) -> bool:
        return version_id is not None and bool(self._plans[version_id].exclusive_coupons)

    def _left(self, story: Story, moved: Mapping[str, str]) -> dict[str, int]:
        left: dict[str, int] = {}
        for order_id, fact in story.facts.items():
            if order_id in moved or not self._period.holds(fact.order.at):
                continue
            target = self._target(story, order_id)
            if target is None:
                left[NO_PLAN] = left.get(NO_PLAN, 0) + 1
            elif target.id != story.versions[order_id]:
                left[OTHER_PAYEE] = left.get(OTHER_PAYEE, 0) + 1
        return left

    def _changes(self, story: Story, moved: Mapping[str, str], *, everything: bool) -> list[Change]:
        after = {**story.versions, **moved}
        wanted = set(moved) if not everything else set(story.facts)
        events = replays.events(story)
        happened: dict[str, list[Happening]] = {one: [] for one in story.facts}
        for each in story.happenings:
            happened[each.conversion_id].append(each)
        changes: list[Change] = []
        for version_id in sorted({after[one] for one in wanted} - {None}, key=str):
            plan = self._plans[str(version_id)]
            own = {one for one in wanted if after[one] == version_id}
            told = events
            if replays.independent(plan):
                told = [one for one in events if _order_of(one) in own]
            priced = replays.price(plan, told)
            changes += [
                _change(story, one, (str(version_id), plan), priced.get(one), happened[one])
                for one in own
            ]
        changed = [one for one in changes if one.is_pinned or one.before_minor != one.after_minor]
        return sorted(changed, key=lambda one: story.facts[one.conversion_id].seq)


def _change(
    story: Story,
    order_id: str,
    version: tuple[str, Plan],
    priced: Priced | None,
    happened: Sequence[Happening],
) -> Change:
    fact, (version_id, plan) = story.facts[order_id], version
    size = replays.counted(plan, replays.told(fact, happened)) if priced else (0, 0)
    return Change(
        order_id,
        fact.order.publisher,
        story.versions[order_id],
        version_id,
        story.amounts[order_id],
        priced.commission_minor if priced else 0,
        priced,
        *size,
    )


@dataclass(frozen=True, slots=True)
class Mandate:
    """Who re-rates, under which key, and why: publishers read it."""

    job_id: str
    actor: str
    reason: str


def apply(
    session: Session, program_id: str, changes: Sequence[Change], mandate: Mandate, *, now: datetime
) -> None:
    """Book the changes, which were found in this transaction after `plans.lock_program`.

    Each is a booking and, where an amount changes, a ledger transaction of kind `rerate`; what was
    paid already is set off against the next payout.
    """
    batch = Batch(session, now=now)
    batch.lock([program_id])
    found = batch.read([one.conversion_id for one in changes])
    numbers = {one.id: one.version for one in plans.facts_of(session, program_id)}
    pins: dict[str, list[str]] = {}
    for change in changes:
        state = found[change.conversion_id]
        state.base_minor, state.units = change.base_minor, change.units
        for one in state.everyone:
            one.plan_version_id = change.after
        batch.move(_moves(state, change, mandate, numbers), of=state)
        if change.is_pinned and change.after is not None:
            pins.setdefault(change.after, []).append(change.conversion_id)
    batch.write()
    for version_id, ids in pins.items():
        for start in range(0, len(ids), _PINS_AT_ONCE):
            some = ids[start : start + _PINS_AT_ONCE]
            session.execute(_PIN, {"version_id": version_id, "conversion_ids": some})


def _moves(
    state: State, change: Change, mandate: Mandate, numbers: Mapping[str, int]
) -> Iterator[Move]:
    """The new amount, shared as the order is."""
    event: dict[str, Any] = {
        "kind": KIND,
        "reason": Reason.RERATED,
        "said": mandate.reason,
        "rerate": mandate.job_id,
        "plan_before": _version(change.before, numbers),
        "plan_after": _version(change.after, numbers),
    }
    priced, key = change.priced, f"{KIND}:{mandate.job_id}:{change.conversion_id}"
    explanation = {**(priced.explanation if priced else {}), "event": event}
    uncapped = state.split(priced.uncapped_minor if priced else 0)
    parts = state.split(change.after_minor)
    for one, part_minor, uncapped_minor in zip(state.everyone, parts, uncapped, strict=True):
        one.uncapped_minor = uncapped_minor
        status = status_when_priced(one.status, priced)
        yield Move(
            one,
            key_of(key, one),
            KIND,
            part_minor,
            status,
            _reason(one, status, priced, part_minor),
            mandate.actor,
            {"of": key, "event": event} if one.part else explanation,
        )


def _version(version_id: str | None, numbers: Mapping[str, int]) -> dict[str, Any] | None:
    return {"id": version_id, "version": numbers[version_id]} if version_id else None


def _reason(state: State, status: str, priced: Priced | None, part_minor: int) -> str:
    if status in (*ASIDE, CommissionStatus.HELD):
        return state.reason
    if priced is None:
        return Reason.NO_RATE
    was = "" if state.reason in {Reason.NO_PLAN, Reason.NO_RATE, Reason.RERATED} else state.reason
    reason = reason_after_true_up(status, was, state.amount_minor, priced, part_minor=part_minor)
    return Reason.RERATED if reason == Reason.TIER_CHANGED else reason


def _order_of(event: Any) -> str:
    return str(getattr(event, "conversion", "") or event.id)


def _forget(story: Story, order_ids: set[str]) -> None:
    for one in order_ids:
        del story.facts[one], story.versions[one], story.amounts[one]
    if order_ids:
        story.happenings = [one for one in story.happenings if one.conversion_id not in order_ids]
