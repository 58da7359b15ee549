"""Booked events as conversions, and the counters they add up to. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from commissions.choosing import CounterKey, Prepared, prepare, previous_key
from commissions.order_events import Change, Event, EventError, Order, Remaining, reduce_order
from commissions.plan_document import FREEZE_DAYS, Plan, Tiers
from commissions.tiers import Number, plain, window_of


@dataclass(frozen=True, slots=True)
class Conversion:
    """A booked order with the later events of its own, each with its place in the sequence.

    From `freeze_at` on its tier levels are final.
    """

    seq: int
    order: Order
    changes: tuple[tuple[int, Change], ...] = ()
    freeze_at: datetime | None = None

    def known(self, before: datetime | None) -> Remaining:
        """The order after the changes known before an instant, or after all of them."""
        own = (one for _, one in self.changes if before is None or one.known_at < before)
        return reduce_order(self.order, own)

    def booked(self, before_seq: int) -> Remaining:
        """The order after the changes booked before a place in the sequence."""
        return reduce_order(self.order, (one for seq, one in self.changes if seq < before_seq))

    @property
    def on_time(self) -> bool:
        """False when the order was booked after its levels were final."""
        return self.freeze_at is None or self.order.known_at < self.freeze_at


def collect(plan: Plan, events: Sequence[Event]) -> list[Conversion]:
    """The conversions in booking order; EventError on a repeated or unknown conversion."""
    orders: dict[str, tuple[int, Order]] = {}
    changes: dict[str, list[tuple[int, Change]]] = {}
    for seq, event in enumerate(events):
        if isinstance(event, Order):
            if event.id in orders:
                raise EventError([(f"conversion {event.id}", "duplicate conversion id")])
            orders[event.id] = seq, event
            changes[event.id] = []
        elif isinstance(event, Change):
            if event.conversion not in orders:
                raise EventError([(f"{event.type} of {event.conversion}", "unknown conversion")])
            changes[event.conversion].append((seq, event))
    return [
        Conversion(seq, order, tuple(changes[order.id]), freeze_at(plan, order))
        for seq, order in orders.values()
    ]


def freeze_at(plan: Plan, order: Order) -> datetime | None:
    """When the levels and caps this order took part in become final; None is never."""
    return _freeze_of(plan, prepare(plan, reduce_order(order, ())))


def _freeze_of(plan: Plan, prepared: Prepared) -> datetime | None:
    order = prepared.order
    tiers = [choice.rule.tiers for choice in prepared.choices if choice.rule]
    ends = [_freeze(one, order) for one in tiers if one and one.counted and not one.rolling_days]
    if plan.publisher_cap_minor is not None:
        ends.append(_end(plan.cap_window, plan.zone, order.at, FREEZE_DAYS))
    return min((end for end in ends if end is not None), default=None)


def _freeze(tiers: Tiers, order: Order) -> datetime | None:
    return _end(tiers.window, tiers.zone, order.at, tiers.freeze_days)


def _end(window: str, zone: ZoneInfo, at: datetime, freeze_days: int) -> datetime | None:
    _, end = window_of(window, at, zone)
    if end is None:
        return None
    # Local days, so that a freeze after 30 days falls on a local midnight across a clock change.
    local = end.astimezone(zone)
    return (local + timedelta(freeze_days)).astimezone(end.tzinfo)


def sum_counters(prepared: Iterable[Prepared]) -> dict[CounterKey, Number]:
    """What the conversions add up to in each counter."""
    totals: dict[CounterKey, Number] = {}
    for one in prepared:
        for key, size in one.contributions.items():
            totals[key] = plain(totals.get(key, 0) + size)
    return totals


class Statuses:
    """The measure behind each status tier: the previous window, as known when this one opened.

    Rolling windows are measured once, when the order was booked, and never restated.
    """

    def __init__(self, plan: Plan, conversions: Sequence[Conversion]) -> None:
        self._plan = plan
        self._conversions = conversions
        self._opened: dict[datetime, dict[CounterKey, Number]] = {}

    def of(self, conversion: Conversion, prepared: Prepared) -> Mapping[CounterKey, Number]:
        """The measure for each status counter the order is paid by."""
        found: dict[CounterKey, Number] = {}
        for key, tiers in _status_tiers(prepared):
            if tiers.rolling_days:
                found[key] = self._trailing(conversion, key, timedelta(tiers.rolling_days))
                continue
            start, _ = window_of(tiers.window, conversion.order.at, tiers.zone)
            if start is not None:
                earlier = previous_key(key, tiers, conversion.order)
                found[key] = self._known_at(start).get(earlier, 0)
        return found

    def knows_before(self, at: datetime) -> bool:
        """Whether an order known at that instant belongs into a measure that was taken already."""
        return any(at < start for start in self._opened)

    def _known_at(self, start: datetime) -> dict[CounterKey, Number]:
        if start not in self._opened:
            self._opened[start] = sum_counters(
                prepare(self._plan, one.known(start), on_time=one.on_time)
                for one in self._conversions
                if one.order.known_at < start
            )
        return self._opened[start]

    def _trailing(self, conversion: Conversion, key: CounterKey, span: timedelta) -> Number:
        at = conversion.order.at
        recent = (
            prepare(self._plan, one.booked(conversion.seq))
            for one in self._conversions
            if one.seq <= conversion.seq and at - span < one.order.at <= at
        )
        return sum_counters(recent).get(key, 0)


def _status_tiers(prepared: Prepared) -> Iterator[tuple[CounterKey, Tiers]]:
    for choice, place in zip(prepared.choices, prepared.places, strict=True):
        if choice.rule and choice.rule.tiers and place and choice.rule.tiers.mode == "status":
            yield place.key, choice.rule.tiers


def replay_span(plan: Plan, order: Order) -> tuple[datetime | None, datetime | None]:
    """The half-open span of occurrence times a replay around this order must load.

    Closed under the plan's windows: no order inside shares a window with one outside, and status
    tiers find their previous window. (None, None) is everything.
    """
    every = [*plan.base_rules, *plan.bonus_rules]
    tiers = [rule.tiers for rule in every if rule.tiers and rule.tiers.counted]
    spans = _windows(plan)
    unbounded = any(window == "lifetime" for window, _ in spans)
    if unbounded or plan.budget_minor is not None or any(one.rolling_days for one in tiers):
        return None, None
    start, end = _widen(spans, order.at, order.at + timedelta(microseconds=1))
    status = [one for one in tiers if one.mode == "status"]
    before = start - timedelta(microseconds=1)
    starts = [window_of(one.window, before, one.zone)[0] for one in status]
    return min([start, *(one for one in starts if one is not None)]), end


def moved_span(
    plan: Plan, order: Order
) -> tuple[datetime | None, datetime | None, datetime | None]:
    """(start, from, end): to know what an event of this order moves, load [start, end).

    As `replay_span`, and with the window after it, whose status an event may decide. Only orders
    from `from` on can be moved; those before are there to be measured.
    """
    start, end = replay_span(plan, order)
    status = [rule.tiers for rule in plan.base_rules if rule.tiers and rule.tiers.mode == "status"]
    if start is None or end is None or not status:
        return start, start, end
    spans = _windows(plan)
    following = [window_of(one.window, end, one.zone)[1] or end for one in status]
    moved, end = _widen(spans, order.at, max([end, *following]))
    return start, moved, end


def _windows(plan: Plan) -> set[tuple[str, ZoneInfo]]:
    """The windows within which the plan's orders depend on one another."""
    every = [*plan.base_rules, *plan.bonus_rules]
    spans = {
        (rule.tiers.window, rule.tiers.zone) for rule in every if rule.tiers and rule.tiers.counted
    }
    if plan.publisher_cap_minor is not None:
        spans.add((plan.cap_window, plan.zone))
    for rule in plan.bonus_rules:
        if rule.bonus and rule.bonus.awarded_once:
            spans.add((rule.bonus.window, plan.zone))
    return spans


def _widen(
    spans: set[tuple[str, ZoneInfo]], start: datetime, end: datetime
) -> tuple[datetime, datetime]:
    while True:
        last = end - timedelta(microseconds=1)
        lows = [window_of(window, start, zone)[0] or start for window, zone in spans]
        highs = [window_of(window, last, zone)[1] or end for window, zone in spans]
        wider = min([start, *lows]), max([end, *highs])
        if wider == (start, end):
            return wider
        start, end = wider


def opened(plan: Plan, order: Order, seq: int = 0) -> tuple[Conversion, Prepared]:
    """A newly booked order, before anything happened to it, and what it adds to the counters."""
    prepared = prepare(plan, reduce_order(order, ()))
    one = Conversion(seq, order, (), _freeze_of(plan, prepared))
    return one, prepared if one.on_time else prepare(plan, prepared.remaining, on_time=False)


def changed(plan: Plan, one: Conversion) -> Prepared:
    """An order after those of its changes that count."""
    return prepare(plan, one.known(one.freeze_at), on_time=one.on_time)


def without_changes(plan: Plan, order: Order) -> Prepared:
    """A newly booked order, before anything happened to it."""
    return opened(plan, order)[1]
