"""The orders of a window and what they are worth, kept up to date event by event. Pure.

After every event the prices are those that `rules.evaluate` gives for all events so far; what an
event cannot have moved is not computed again. An appended order moves earlier ones only where a
volume tier comes to another level, or a status had been measured without it; a change moves those
that meet other counters than before.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from commissions.awards import Accounts
from commissions.choosing import CounterKey, Prepared
from commissions.folding import Conversion, Statuses, changed, opened, sum_counters
from commissions.line_pay import Standing
from commissions.order_events import Change, Event, EventError, Order
from commissions.plan_document import Plan
from commissions.priced import Priced, price_at
from commissions.tiers import Number, level_at, plain


@dataclass(slots=True)
class _Entry:
    """An order, what its price depends on, and its price where an event has moved it."""

    conversion: Conversion
    prepared: Prepared
    met: tuple[object, ...] | None = None
    priced: Priced | None = None


class Window:
    """The orders of some booked events, and what each event added later makes of them.

    EventError as `rules.evaluate`; the window must not be used after one.
    """

    def __init__(self, plan: Plan, events: Sequence[Event]) -> None:
        self._plan = plan
        self._spends = plan.spends
        self._volume = {
            rule.id: rule.tiers
            for rule in (*plan.base_rules, *plan.bonus_rules)
            if rule.tiers and rule.tiers.mode == "volume" and not rule.tiers.rolling_days
        }
        self._seq = 0
        self._entries: dict[str, _Entry] = {}
        self._conversions: list[Conversion] = []
        self._moved: dict[str, Priced] = {}
        followed: set[str] = set()
        for event in events:
            self._seq += 1
            if isinstance(event, Order):
                self._open(event)
            elif isinstance(event, Change):
                self._follow(event)
                followed.add(event.conversion)
        for one in followed:
            entry = self._entries[one]
            entry.prepared = changed(plan, entry.conversion)
        self._price_all(is_booked=True)

    def add(self, event: Event, *, is_booked: bool = False) -> None:
        """Take the next event in booking order; what `is_booked` is not priced for its own sake."""
        self._seq += 1
        if isinstance(event, Order):
            self._append(event, is_booked=is_booked)
        elif isinstance(event, Change):
            entry = self._follow(event)
            entry.prepared, entry.met = changed(self._plan, entry.conversion), None
            self._price_all(is_booked=is_booked)

    def take_moved(self) -> dict[str, Priced]:
        """The orders that the events since the last call have touched, with what they are worth."""
        moved, self._moved = self._moved, {}
        return moved

    def renew(self, conversion_id: str) -> None:
        """Price an order again to which something happened that left no event."""
        self._entries[conversion_id].met = None
        self._price_all()

    def prepared(self, conversion_id: str) -> Prepared:
        """The order as it counts now."""
        return self._entries[conversion_id].prepared

    def _open(self, order: Order) -> _Entry:
        if order.id in self._entries:
            raise EventError([(f"conversion {order.id}", "duplicate conversion id")])
        entry = self._entries[order.id] = _Entry(*opened(self._plan, order, self._seq - 1))
        self._conversions.append(entry.conversion)
        return entry

    def _follow(self, change: Change) -> _Entry:
        entry = self._entries.get(change.conversion)
        if entry is None:
            raise EventError([(f"{change.type} of {change.conversion}", "unknown conversion")])
        one = entry.conversion
        entry.conversion = replace(one, changes=(*one.changes, (self._seq - 1, change)))
        self._conversions[self._conversions.index(one)] = entry.conversion
        return entry

    def _append(self, order: Order, *, is_booked: bool) -> None:
        entry = self._open(order)
        counted = entry.prepared.contributions
        before = {key: self._level(key) for key in counted}
        for key, size in counted.items():
            self._totals[key] = plain(self._totals.get(key, 0) + size)
        if self._statuses.knows_before(order.known_at) or any(
            self._level(key) != level for key, level in before.items()
        ):
            self._price_all(is_booked=is_booked)
        else:
            self._price(entry, is_booked=is_booked)

    def _price_all(self, *, is_booked: bool = False) -> None:
        entries = self._entries.values()
        self._totals = sum_counters(entry.prepared for entry in entries)
        self._statuses = Statuses(self._plan, self._conversions)
        self._running: dict[CounterKey, Number] = {}
        self._accounts = Accounts()
        for entry in entries:
            self._price(entry, is_booked=is_booked)

    def _price(self, entry: _Entry, *, is_booked: bool = False) -> None:
        one, prepared = entry.conversion, entry.prepared
        standing = Standing(self._running, self._totals, *self._statuses.of(one, prepared))
        met = self._met(prepared, standing)
        # What was spent so far has to be counted through, so where it matters nothing is skipped.
        if self._spends or (entry.met != met and not is_booked):
            after = one.known(None) if one.changes else prepared.remaining
            priced = price_at(self._plan, prepared, after, standing, self._accounts)
            if not is_booked and (
                entry.met != met or entry.priced is None or _differ(entry.priced, priced)
            ):
                self._moved[one.order.id] = priced
            entry.priced = priced
        entry.met = met
        for key, size in prepared.contributions.items():
            self._running[key] = plain(self._running.get(key, 0) + size)

    def _met(self, prepared: Prepared, standing: Standing) -> tuple[object, ...]:
        """All that decides an amount besides the order itself and what was spent."""
        return tuple(
            (
                standing.running.get(key, 0),
                self._level(key),
                standing.status.get(key),
                standing.trailing.get(key),
            )
            for key in prepared.sizes
        )

    def _level(self, key: CounterKey) -> object:
        tiers = self._volume.get(key.rule_id)
        if tiers is None:
            return None
        measure = max(self._totals.get(key, 0), 1 if tiers.discrete else 0)
        return level_at(tiers.levels, measure)


def _differ(one: Priced, other: Priced) -> bool:
    return one.commission_minor != other.commission_minor
