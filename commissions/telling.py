"""What happened to orders, told as the events the rules take. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import NamedTuple

from commissions.order_events import Change, Event, Order
from kernel.money import allocate

RATED = "rated"


class Happening(NamedTuple):
    """One event of one order. `line` is the advertiser's line number, None for the whole order."""

    conversion_id: str
    kind: str
    known_at: datetime
    line: int | None = None
    amount_minor: int = 0
    quantity: int = 0


@dataclass(frozen=True, slots=True)
class Fact:
    """An order as the rules see it; `lines` finds a line by the advertiser's number for it.

    One that `waits` was booked before there was a rate for its currency: it counts for nothing
    until it is `rated`, as if it came in then. `imported`: with the history of a network.
    """

    order: Order
    seq: int
    program_id: str
    lines: Mapping[int, int]
    reported_status: str
    is_test: bool = False
    waits: bool = False
    imported: bool = False


class Terms(NamedTuple):
    """Who pays for a program's orders, in which currency, and how many days they wait."""

    advertiser_id: str
    currency: str
    hold_days: int


@dataclass(slots=True)
class Story:
    """Orders with what happened to them, in booking order.

    `versions` and `amounts` are the pinned plan version and the booked amount of each order, and
    `payees` what is booked for each publisher of those that several share.
    """

    facts: dict[str, Fact] = field(default_factory=dict)
    happenings: list[Happening] = field(default_factory=list)
    versions: dict[str, str | None] = field(default_factory=dict)
    amounts: dict[str, int] = field(default_factory=dict)
    payees: dict[str, dict[str, int]] = field(default_factory=dict)


class Telling:
    """Turns happenings into the events the rules take, one after the other.

    A refund of more than is left takes what is left. What happens to an order that waits for its
    rate is told when it has one, after the order itself.
    """

    def __init__(self) -> None:
        self._left: dict[str, list[int]] = {}
        self._pieces: dict[str, list[int]] = {}
        self._waiting: dict[str, list[Event]] = {}

    def events(self, fact: Fact, one: Happening) -> list[Event]:
        """The events of the next thing that happened to an order."""
        if one.kind == RATED:
            return self._rated(fact, one)
        found = self._told(fact, one)
        if one.kind == "accrue" and fact.waits:
            self._waiting[one.conversion_id] = []
            return []
        if one.conversion_id in self._waiting:
            self._waiting[one.conversion_id] += found
            return []
        return found

    def _rated(self, fact: Fact, one: Happening) -> list[Event]:
        if one.conversion_id not in self._waiting:
            return []
        # It was booked only now, so what was final by now stays final.
        known_at = fact.order.known_at if fact.imported else one.known_at
        order = replace(fact.order, known_at=known_at)
        return [order, *self._waiting.pop(one.conversion_id)]

    def _told(self, fact: Fact, one: Happening) -> list[Event]:
        if one.kind == "accrue":
            self._left[one.conversion_id] = [line.reported_minor for line in fact.order.lines]
            self._pieces[one.conversion_id] = [line.qty for line in fact.order.lines]
            return [fact.order]
        if one.kind == "refund":
            left, pieces = self._left[one.conversion_id], self._pieces[one.conversion_id]
            return list(_refunds(fact, one, left, pieces))
        # What a manager has found not genuine must not come back by a later approval; only a
        # cancellation is final to the rules.
        kind = "cancel" if one.kind == "void" else one.kind
        return [Change(kind, one.conversion_id, one.known_at)]


def _refunds(fact: Fact, one: Happening, left: list[int], pieces: list[int]) -> Iterator[Change]:
    """A refund by line. Without a line it is spread over what is left, by largest remainder."""
    if one.line is None and len(left) > 1:
        total = min(one.amount_minor, sum(left))
        parts = allocate(total, left) if total else [0] * len(left)
        quantities = [0] * len(left)
    else:
        at = fact.lines.get(one.line, 0) if one.line is not None else 0
        parts = [0] * len(left)
        quantities = [0] * len(left)
        parts[at] = min(one.amount_minor, left[at])
        quantities[at] = min(one.quantity, pieces[at])
    for at, (amount_minor, quantity) in enumerate(zip(parts, quantities, strict=True)):
        if amount_minor or quantity:
            left[at] -= amount_minor
            pieces[at] -= quantity
            yield Change("refund", one.conversion_id, one.known_at, at, amount_minor, quantity)
