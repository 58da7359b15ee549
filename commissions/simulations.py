"""A draft plan played over orders of the past, beside what was booked for them. Never writes.

The draft prices the orders of a period as if it had been in force, with those around them in its
counters. What was booked is what the books say; by category it is shared out as the version that
applied prices the lines.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

from sqlmodel import Session

from commissions import periods, plans, replays
from commissions.choosing import subject_of
from commissions.order_events import Order
from commissions.periods import Period
from commissions.rules import Plan, Priced
from commissions.telling import Story
from kernel.money import allocate

ROWS_MAX: Final = 1_000
NO_CATEGORY: Final = ""
Progress = Callable[[int, int], None]


@dataclass(slots=True)
class Row:
    """Orders, and what was booked and would be for them, in minor units."""

    orders: int = 0
    booked_minor: int = 0
    simulated_minor: int = 0

    def add(self, orders: int, booked_minor: int, simulated_minor: int) -> None:
        """Count some more."""
        self.orders += orders
        self.booked_minor += booked_minor
        self.simulated_minor += simulated_minor

    @property
    def difference_minor(self) -> int:
        """What the draft would pay more; less than zero where it pays less."""
        return self.simulated_minor - self.booked_minor


class _Booked(NamedTuple):
    """What is booked for an order, and how its version prices the lines."""

    minor: int
    payees: Mapping[str, int]
    lines: Sequence[int] | None


@dataclass(slots=True)
class Simulation:
    """The totals, in all and by publisher, by region of the draft, and by category of the line.

    An order in several regions counts in the row of all of them together, one outside every region
    in that of its country.
    """

    currency: str
    all: Row = field(default_factory=Row)
    publishers: dict[str, Row] = field(default_factory=dict)
    regions: dict[str, Row] = field(default_factory=dict)
    categories: dict[str, Row] = field(default_factory=dict)
    raised: int = 0
    lowered: int = 0
    unconvertible: int = 0

    def as_json(self) -> dict[str, Any]:
        """Ready to be kept and sent: of each table the rows with the largest differences."""
        return {
            "currency": self.currency,
            "all": _row("", self.all),
            "publishers": _table(self.publishers),
            "regions": _table(self.regions),
            "categories": _table(self.categories),
            "orders_raised": self.raised,
            "orders_lowered": self.lowered,
            "orders_unconvertible": self.unconvertible,
        }


def run(session: Session, period: Period, draft: Plan, *, progress: Progress) -> Simulation:
    """Play the draft over the period; `progress` hears (orders done, orders in all)."""
    simulation = Simulation(draft.currency)
    total, done = periods.count(session, period), 0
    progress(0, total)
    evaluated = [draft, *periods.published(session, period.program_id)]
    times = periods.span(period, evaluated)
    for publisher_id in periods.parts(session, period, evaluated):
        story = periods.load(session, period, publisher_id, times)
        done += _part(session, simulation, story, period, draft)
        progress(done, total)
    return simulation


def _part(
    session: Session, simulation: Simulation, story: Story, period: Period, draft: Plan
) -> int:
    events = replays.events(story)
    drafted = replays.price(draft, events)
    own = [one for one, fact in story.facts.items() if period.holds(fact.order.at)]
    lines = _booked_lines(session, story, own)
    for order_id in own:
        order = story.facts[order_id].order
        amount_minor = story.amounts[order_id]
        payees = story.payees.get(order_id) or {order.publisher: amount_minor}
        booked = _Booked(amount_minor, payees, lines.get(order_id))
        _count(simulation, draft, order, drafted.get(order_id), booked)
    return len(own)


def _booked_lines(session: Session, story: Story, own: Iterable[str]) -> dict[str, Sequence[int]]:
    """How the version of each order prices its lines."""
    by_version: dict[str, set[str]] = {}
    for order_id in own:
        version_id = story.versions[order_id]
        if version_id is not None:
            by_version.setdefault(version_id, set()).add(order_id)
    # Orders without a plan count in no counter of a published version.
    planned = {one for one, version_id in story.versions.items() if version_id is not None}
    found: dict[str, Sequence[int]] = {}
    for version_id, order_ids in sorted(by_version.items()):
        plan = plans.parsed(session, version_id)
        wanted = order_ids if replays.independent(plan) else planned
        happenings = [one for one in story.happenings if one.conversion_id in wanted]
        facts = {one: story.facts[one] for one in wanted}
        priced = replays.price(plan, replays.events(Story(facts, happenings)))
        for one in order_ids & priced.keys():
            found[one] = [line.commission_minor for line in priced[one].lines]
    return found


def _count(
    simulation: Simulation,
    draft: Plan,
    order: Order,
    priced: Priced | None,
    booked: _Booked,
) -> None:
    booked_minor = booked.minor
    simulated_minor = priced.commission_minor if priced else 0
    simulation.unconvertible += priced is None
    simulation.raised += simulated_minor > booked_minor
    simulation.lowered += simulated_minor < booked_minor
    simulation.all.add(1, booked_minor, simulated_minor)
    _of(simulation.publishers, order.publisher).add(1, 0, 0)
    for publisher_id, minor in booked.payees.items():
        _of(simulation.publishers, publisher_id).add(0, minor, 0)
    for publisher_id, minor in (priced.payees if priced else {}).items():
        _of(simulation.publishers, publisher_id).add(0, 0, minor)
    _of(simulation.regions, _region(draft, order)).add(1, booked_minor, simulated_minor)
    net = [line.derived_net_minor for line in order.lines]
    simulated_lines = [line.commission_minor for line in priced.lines] if priced else net
    parts = (
        _share(booked_minor, booked.lines or net, net),
        _share(simulated_minor, simulated_lines, net),
    )
    seen: set[str] = set()
    for line, was, would_be in zip(order.lines, *parts, strict=True):
        category = line.category or NO_CATEGORY
        _of(simulation.categories, category).add(category not in seen, was, would_be)
        seen.add(category)


def _region(draft: Plan, order: Order) -> str:
    subject = subject_of(draft, order)
    return " + ".join(subject.regions) or subject.country or ""


def _share(minor: int, lines: Sequence[int], net: Sequence[int]) -> Sequence[int]:
    """An amount over the lines as they are priced, or as they cost where no line earns."""
    if not minor:
        return [0] * len(net)
    weights = lines if any(lines) else net
    return allocate(minor, weights if any(weights) else [1] * len(net))


def _of(rows: dict[str, Row], key: str) -> Row:
    return rows.setdefault(key, Row())


def _table(rows: Mapping[str, Row]) -> list[dict[str, Any]]:
    def first(entry: tuple[str, Row]) -> tuple[int, str]:
        return -abs(entry[1].difference_minor), entry[0]

    ordered = sorted(rows.items(), key=first)
    table = [_row(key, row) for key, row in ordered[:ROWS_MAX]]
    rest = Row()
    for _, row in ordered[ROWS_MAX:]:
        rest.add(row.orders, row.booked_minor, row.simulated_minor)
    return [*table, {**_row("", rest), "rest": len(ordered) - ROWS_MAX}] if rest.orders else table


def _row(key: str, row: Row) -> dict[str, Any]:
    return {
        "key": key,
        "orders": row.orders,
        "booked_minor": row.booked_minor,
        "simulated_minor": row.simulated_minor,
        "difference_minor": row.difference_minor,
    }
