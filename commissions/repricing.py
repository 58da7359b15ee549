"""What an event made of its order, and of every other order whose amount it changed.

The amount booked for an event is the difference of two evaluations, one without and one with it.
The windows an event can have moved are read once a transaction and then kept up to date event by
event, so that a hundred orders of a window cost one reading and not a hundred.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import NamedTuple

from sqlmodel import Session

from commissions import plans, replays, telling
from commissions.folding import moved_span
from commissions.order_events import Change, Event, Remaining, reduce_order
from commissions.plans import VersionFacts
from commissions.rules import Plan, Priced
from commissions.states import State
from commissions.telling import Fact, Happening, Story, Telling
from commissions.windows import Window

Span = tuple[datetime | None, datetime | None, datetime | None]
"""(start, from when on orders can be moved, end)."""


class Repriced(NamedTuple):
    """What an event made of its order, and of every other order whose amount it changed.

    `priced` is None where no plan applies or none of its rates does. `base_minor` and `units` are
    what the order adds to the counters of its publisher now.
    """

    remaining: Remaining
    priced: Priced | None
    base_minor: int
    units: int
    others: Mapping[str, Priced]


@dataclass(slots=True)
class Own:
    """An order, the plan version it is pinned to, and all that happened to it."""

    fact: Fact
    version_id: str | None
    happenings: list[Happening] = field(default_factory=list)

    @property
    def waits(self) -> bool:
        """Whether there was no rate for its currency so far."""
        rated = any(one.kind == telling.RATED for one in self.happenings)
        return self.fact.waits and not rated


@dataclass(frozen=True, slots=True)
class _Key:
    """What is evaluated together: a plan version over the orders of a program or one publisher."""

    version_id: str
    program_id: str
    publisher_id: str | None
    span: Span


class _Group:
    """The orders of a key with their pinned versions, booked amounts and prices."""

    def __init__(self, plan: Plan, key: _Key, story: Story) -> None:
        self._plan = plan
        self._version_id = key.version_id
        self._start, self._movable_from, self._end = key.span
        self._orders: dict[str, tuple[str | None, datetime]] = {
            order_id: (story.versions[order_id], fact.order.at)
            for order_id, fact in story.facts.items()
        }
        self._amounts = dict(story.amounts)
        self._telling = Telling()
        self._unconvertible: set[str] = set()
        self._events: list[Event] = []
        self._window: Window | None = None
        self._is_used = key.version_id in story.versions.values()
        for one in story.happenings:
            self._events += self._told(story.facts[one.conversion_id], one)

    def covers(self, at: datetime) -> bool:
        """Whether an order of that time is one of them."""
        return (self._start is None or self._start <= at) and (self._end is None or at < self._end)

    def happen(self, own: Own, happenings: Sequence[Happening]) -> None:
        """Take what happened next to one of the orders."""
        order = own.fact.order
        self._orders[order.id] = own.version_id, order.at
        self._amounts.setdefault(order.id, 0)
        self._is_used = self._is_used or own.version_id == self._version_id
        for one in happenings:
            self._events += self._told(own.fact, one)

    def booked(self, conversion_id: str, amount_minor: int) -> None:
        """Hear what was booked for an order."""
        if conversion_id in self._amounts:
            self._amounts[conversion_id] = amount_minor

    def ready(self, own: Own) -> None:
        """Take all so far as booked; what happens next is what moves orders."""
        if self._window is None and (self._is_used or own.version_id == self._version_id):
            self._window = Window(self._plan, self._events)
            self._events = []
        if self._window is not None:
            self._take(is_booked=True)
            self._window.take_moved()

    def moved(self, own_id: str) -> dict[str, Priced]:
        """Our own order, and every other of the version whose amount is not the booked one now."""
        if self._window is None:
            return {}
        self._take()
        moved = self._window.take_moved()
        if own_id in self._orders and own_id not in moved and own_id not in self._unconvertible:
            self._window.renew(own_id)
            moved |= self._window.take_moved()
        return {
            order_id: priced
            for order_id, priced in moved.items()
            if self._orders[order_id][0] == self._version_id
            and (order_id == own_id or self._is_moved(order_id, priced))
        }

    def size(self, conversion_id: str) -> tuple[int, int]:
        """What an order of the version adds to counters; nothing where there is no rate for it."""
        if self._window is None or conversion_id in self._unconvertible:
            return 0, 0
        return replays.size_of(self._window.prepared(conversion_id))

    def _take(self, *, is_booked: bool = False) -> None:
        """Let the window know what happened since it was asked last."""
        if self._window is not None:
            for event in self._events:
                self._window.add(event, is_booked=is_booked)
            self._events = []

    def _is_moved(self, order_id: str, priced: Priced) -> bool:
        if priced.commission_minor == self._amounts[order_id]:
            return False
        # What lies before is here to be measured; its own measures are not.
        return self._movable_from is None or self._orders[order_id][1] >= self._movable_from

    def _told(self, fact: Fact, one: Happening) -> list[Event]:
        found = self._telling.events(fact, one)
        if one.kind == "accrue" and (fact.waits or not replays.convertible(self._plan, fact.order)):
            self._unconvertible.add(fact.order.id)
        elif one.kind == telling.RATED and replays.convertible(self._plan, fact.order):
            self._unconvertible.discard(fact.order.id)
        return [] if fact.order.id in self._unconvertible else found


class Repricing:
    """The evaluations of a transaction. `before_reading` writes what is booked and not written."""

    def __init__(self, session: Session, before_reading: Callable[[], None]) -> None:
        self._session = session
        self._before_reading = before_reading
        self._groups: dict[_Key, _Group] = {}
        self._by_party: dict[tuple[str, str | None], list[_Group]] = {}
        self._published: dict[str, list[VersionFacts]] = {}
        self._versions: dict[str, list[tuple[str, Plan]]] = {}
        self._restating: dict[str, list[Plan]] = {}

    def published(self, program_id: str) -> list[VersionFacts]:
        """The versions of a program's plan, oldest first."""
        if program_id not in self._published:
            self._published[program_id] = plans.facts_of(self._session, program_id)
        return self._published[program_id]

    def versions(self, program_id: str) -> list[tuple[str, Plan]]:
        """The same, ready to evaluate, by id."""
        if program_id not in self._versions:
            self._versions[program_id] = [
                (one.id, plans.parsed(self._session, one.id)) for one in self.published(program_id)
            ]
        return self._versions[program_id]

    def restating(self, program_id: str) -> list[Plan]:
        """Those of them by which an order can change the amounts of earlier ones."""
        if program_id not in self._restating:
            self._restating[program_id] = [
                plan for _, plan in self.versions(program_id) if replays.restates(plan)
            ]
        return self._restating[program_id]

    def read_ahead(self, orders: Iterable[Fact]) -> None:
        """Read the windows of these orders together, before anything is booked for them."""
        wanted = {key for fact in orders for key in self._keys(fact)}
        alike: dict[tuple[str, str, bool, Span], list[_Key]] = {}
        for key in sorted(wanted - self._groups.keys(), key=repr):
            common = (key.version_id, key.program_id, key.publisher_id is None, key.span)
            alike.setdefault(common, []).append(key)
        for keys in alike.values():
            self._read(keys)

    def happen(self, own: Own, happenings: Sequence[Happening]) -> Repriced:
        """Evaluate everything that the next events of an order can have moved."""
        fact, order_id = own.fact, own.fact.order.id
        keys = self._keys(fact)
        missing = [key for key in keys if key not in self._groups]
        if missing:
            self._before_reading()
            for key in missing:
                self._read([key])
        groups = {key.version_id: self._groups[key] for key in keys}
        for group in groups.values():
            group.ready(own)
        self.heard(own, happenings)
        found = replays.told(fact, own.happenings)
        remaining = reduce_order(fact.order, (one for one in found if isinstance(one, Change)))
        others: dict[str, Priced] = {}
        for group in groups.values():
            others |= group.moved(order_id)
        priced, size = others.pop(order_id, None), (0, 0)
        if own.version_id in groups:
            size = groups[own.version_id].size(order_id)
        elif own.version_id is not None and not own.waits:
            plan = plans.parsed(self._session, own.version_id)
            priced, size = replays.price(plan, found).get(order_id), replays.counted(plan, found)
        return Repriced(remaining, priced, *size, others)

    def heard(self, own: Own, happenings: Sequence[Happening]) -> None:
        """Take events whose price is known already."""
        own.happenings += happenings
        if own.version_id is None or not self._by_party:
            return
        for group in self._around(own.fact.program_id, own.fact.order.publisher):
            if group.covers(own.fact.order.at):
                group.happen(own, happenings)

    def booked(self, commissions: Iterable[State]) -> None:
        """Hear what these commissions amount to now."""
        for one in commissions if self._by_party else ():
            for group in self._around(one.program_id, one.publisher_id):
                group.booked(one.conversion_id, one.whole_minor)

    def _around(self, program_id: str, publisher_id: str) -> Iterator[_Group]:
        yield from self._by_party.get((program_id, publisher_id), ())
        yield from self._by_party.get((program_id, None), ())

    def _keys(self, fact: Fact) -> list[_Key]:
        """The windows that the order moves, one for each version with a counter."""
        found = []
        for version_id, plan in self.versions(fact.program_id):
            if not replays.independent(plan):
                publisher_id = None if replays.shared(plan) else fact.order.publisher
                span = moved_span(plan, fact.order)
                found.append(_Key(version_id, fact.program_id, publisher_id, span))
        return found

    def _read(self, keys: Sequence[_Key]) -> None:
        """Windows that differ in nothing but the publisher."""
        first = keys[0]
        plan = plans.parsed(self._session, first.version_id)
        publishers = [key.publisher_id for key in keys if key.publisher_id is not None]
        start, _, end = first.span
        where = replays.group(first.program_id, publishers or None, (start, end))
        story = replays.load(self._session, *where)
        parts: dict[str | None, Story] = _by_publisher(story) if publishers else {None: story}
        for key in keys:
            group = _Group(plan, key, parts.get(key.publisher_id, Story()))
            self._groups[key] = group
            self._by_party.setdefault((key.program_id, key.publisher_id), []).append(group)


def _by_publisher(story: Story) -> dict[str | None, Story]:
    parts: dict[str | None, Story] = {}
    of: dict[str, Story] = {}
    for order_id, fact in story.facts.items():
        part = of[order_id] = parts.setdefault(fact.order.publisher, Story())
        part.facts[order_id] = fact
        part.versions[order_id] = story.versions[order_id]
        part.amounts[order_id] = story.amounts[order_id]
    for one in story.happenings:
        of[one.conversion_id].happenings.append(one)
    return parts
