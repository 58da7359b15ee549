"""Proves invariant 3: what is booked for an order is what its plan gives over its events.

Each plan version is evaluated over the orders of its windows in booking order, those of other
versions included, as when they were booked; each order is compared with its own version. Only sums
are kept (`streaming.Stream`), but for plans whose tiers look back over the last days before each
order: there the orders of a publisher, or of the program where its counter is for all, are held.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import NamedTuple

from sqlmodel import Session

from commissions import plans, replay_reading, replays
from commissions.order_events import Event, EventError
from commissions.plan_document import Plan, PlanError
from commissions.problems import Problem
from commissions.replay_reading import Part, Span
from commissions.rules import Priced
from commissions.streaming import Seen, Stream, can_stream
from commissions.telling import Fact, Story, Telling
from kernel.errors import NotFound
from kernel.money import MoneyError

HELD_MAX = replay_reading.ORDERS_A_PART
"""So many orders of a part are kept instead of being read a second time."""

Say = Callable[[int], None]
"""Hears how many more orders are done."""


class _Booked(NamedTuple):
    """An order with all that happened to it, its version, and what is booked for whom.

    `seen` is what versions have made of it that had to add up all orders first.
    """

    fact: Fact
    events: Sequence[Event]
    version_id: str | None
    amounts: Mapping[str, int]
    seen: dict[str, Seen]


@dataclass(frozen=True, slots=True)
class _Version:
    """A plan version, and the span of the orders that decide about those it pays."""

    plan: Plan
    span: Span
    is_shared: bool

    def covers(self, at: datetime) -> bool:
        start, end = self.span
        return (start is None or start <= at) and (end is None or at < end)

    def evaluates(self, booked: _Booked) -> bool:
        """Whether the order counts where the version does; one that waits for a rate does not."""
        order = booked.fact.order
        return (
            bool(booked.events) and self.covers(order.at) and replays.convertible(self.plan, order)
        )

    def party(self, fact: Fact) -> str | None:
        """Whose orders it evaluates together with this one; None is everybody's."""
        return None if self.is_shared else fact.order.publisher


def check(session: Session, part: Part, say: Say = lambda _count: None) -> Iterator[Problem]:
    """Every order of a part whose booked amount is not the one a replay gives. Reads only."""
    versions: dict[str, _Version] = {}
    for version_id, span in replay_reading.spans(session, part).items():
        if version_id is not None:
            try:
                version = _version(session, version_id, span)
                # One for all, where these orders are not all, was published since they were
                # parted: orders booked meanwhile are for the next audit.
                if not (version.is_shared and part.publisher_ids):
                    versions[version_id] = version
            except (NotFound, PlanError) as error:
                yield Problem(3, f"plan version {version_id}", f"cannot be evaluated: {error}")
    yield from _Replay(session, part, versions).run(say)


def differences(booked: _Booked, priced: Priced | None) -> Iterator[Problem]:
    """Compare what is booked for each publisher of an order with what a replay gives them."""
    payees = priced.payees if priced else {}
    rule = "a replay of its plan gives {}" if booked.version_id else "no plan applies"
    for publisher_id in sorted({*booked.amounts, *payees}):
        expected, minor = payees.get(publisher_id, 0), booked.amounts.get(publisher_id, 0)
        if expected != minor:
            detail = f"{rule.format(expected)}, booked is {minor}"
            if publisher_id not in booked.amounts:
                detail += f" for {publisher_id}"
            yield Problem(3, f"conversion {booked.fact.order.id}", detail)


def _version(session: Session, version_id: str, span: Span) -> _Version:
    plan = plans.parsed(session, version_id)
    reach = (None, None) if replays.independent(plan) else replay_reading.reach(plan, span)
    return _Version(plan, reach, replays.shared(plan))


class _Replay:
    """The evaluations of a part."""

    def __init__(self, session: Session, part: Part, versions: Mapping[str, _Version]) -> None:
        self._session = session
        self._part = part
        self._versions = versions
        # Where nothing is counted, one stream does for everybody's orders.
        self._alone = {
            key: Stream(one.plan) for key, one in versions.items() if replays.independent(one.plan)
        }
        counting = [key for key in versions if key not in self._alone]
        self._streamed = [key for key in counting if can_stream(versions[key].plan)]
        self._held = [key for key in counting if key not in self._streamed]
        self._streams: dict[tuple[str, str | None], Stream] = {}

    def run(self, say: Say) -> Iterator[Problem]:
        """Read all once, or twice where sums have to be known before the first price."""
        orders: Iterable[_Booked | Problem] = self._orders()
        measured = [key for key in self._streamed if Stream(self._versions[key].plan).is_measured]
        if measured:
            if self._part.orders <= HELD_MAX:
                orders = list(orders)
            for booked in orders:
                if isinstance(booked, _Booked):
                    self._measure(booked, measured)
            orders = orders if isinstance(orders, list) else self._orders()
        for booked in orders:
            if isinstance(booked, Problem):
                yield booked
            else:
                yield from self._compared(booked)
            say(1)
        for version_id in self._held:
            yield from self._whole(version_id)

    def _orders(self) -> Iterator[_Booked | Problem]:
        for ids, story in replay_reading.stories(self._session, self._part, self._span()):
            events = _events(story)
            for one in ids:
                found = events.get(one)
                if one not in story.facts:
                    yield Problem(3, f"conversion {one}", "has a commission and no order")
                elif found is None:
                    yield Problem(3, f"conversion {one}", "has no booking of its order")
                else:
                    yield _booked(story, one, found)

    def _span(self) -> Span:
        """What has to be read: the period asked about, and all that decides about it."""
        spans = [self._part.period, *(self._versions[key].span for key in self._streamed)]
        starts, ends = [start for start, _ in spans], [end for _, end in spans]
        known = [one for one in starts if one], [one for one in ends if one]
        return (
            min(known[0]) if len(known[0]) == len(spans) else None,
            max(known[1]) if len(known[1]) == len(spans) else None,
        )

    def _measure(self, booked: _Booked, measured: Sequence[str]) -> None:
        for version_id in measured:
            if self._versions[version_id].evaluates(booked):
                stream = self._stream(version_id, booked.fact)
                with suppress(EventError, MoneyError):
                    seen = booked.seen[version_id] = stream.see(booked.events)
                    stream.measure(seen)

    def _compared(self, booked: _Booked) -> Iterator[Problem]:
        own = booked.version_id
        try:
            priced = self._priced(booked)
        except (EventError, MoneyError) as error:
            yield Problem(3, f"conversion {booked.fact.order.id}", f"cannot be replayed: {error}")
            return
        is_known = own is None or own in self._alone or own in self._streamed
        if is_known and self._is_asked(booked.fact.order.at):
            yield from differences(booked, priced)

    def _priced(self, booked: _Booked) -> Priced | None:
        """What the order's own version gives; its other versions hear of it."""
        priced: Priced | None = None
        for version_id in self._streamed:
            if self._versions[version_id].evaluates(booked):
                stream = self._stream(version_id, booked.fact)
                seen = booked.seen.get(version_id) or stream.see(booked.events)
                if version_id == booked.version_id:
                    priced = stream.price(seen)
                elif stream.spends:
                    stream.price(seen)
                else:
                    stream.count(seen)
        alone = self._alone.get(booked.version_id or "")
        if alone is not None and self._versions[str(booked.version_id)].evaluates(booked):
            priced = alone.price(alone.see(booked.events))
        return priced

    def _stream(self, version_id: str, fact: Fact) -> Stream:
        version = self._versions[version_id]
        key = version_id, version.party(fact)
        if key not in self._streams:
            self._streams[key] = Stream(version.plan)
        return self._streams[key]

    def _is_asked(self, at: datetime) -> bool:
        start, end = self._part.period
        return (start is None or start <= at) and (end is None or at < end)

    def _whole(self, version_id: str) -> Iterator[Problem]:
        """The orders of a version that has to look back at orders, held together."""
        version, part = self._versions[version_id], self._part
        for publisher_id in part.publisher_ids or (None,):
            publishers = None if publisher_id is None else [publisher_id]
            where = replays.group(part.program_id, publishers, version.span)
            story = replays.load(self._session, *where)
            found = list(_told(story))
            try:
                priced = replays.price(version.plan, [event for _, told in found for event in told])
            except (EventError, MoneyError) as error:
                yield Problem(3, f"plan version {version_id}", f"cannot be replayed: {error}")
                continue
            # Of those without a booking is told where they are read one by one.
            for one in dict.fromkeys(order_id for order_id, _ in found):
                at = story.facts[one].order.at
                if story.versions[one] == version_id and self._is_asked(at):
                    yield from differences(_booked(story, one), priced.get(one))


def _booked(story: Story, order_id: str, found: Sequence[Event] = ()) -> _Booked:
    fact = story.facts[order_id]
    amounts = story.payees.get(order_id) or {fact.order.publisher: story.amounts[order_id]}
    return _Booked(fact, found, story.versions[order_id], amounts, {})


def _events(story: Story) -> dict[str, list[Event]]:
    """What happened to each order, as the rules take it; nothing of one that never came in."""
    found: dict[str, list[Event]] = {}
    for order_id, told in _told(story):
        found.setdefault(order_id, []).extend(told)
    return found


def _told(story: Story) -> Iterator[tuple[str, list[Event]]]:
    """The events of each happening with their order, but of orders that never came in."""
    telling = Telling()
    came: set[str] = set()
    for one in story.happenings:
        if one.conversion_id in story.facts and (one.kind == "accrue" or one.conversion_id in came):
            came.add(one.conversion_id)
            yield one.conversion_id, telling.events(story.facts[one.conversion_id], one)
