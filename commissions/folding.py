"""Booked events as conversions, and the counters they add up to. Pure."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from commissions import matching
from commissions.choosing import CounterKey, Prepared, prepare, previous_key
from commissions.order_events import Change, Event, EventError, Order, Remaining, reduce_order
from commissions.plan_document import FREEZE_DAYS, Plan, Rule, Tiers
from commissions.tiers import ORDER_WINDOW, Number, plain, window_of

_Measures = tuple[Mapping[CounterKey, Number], Mapping[CounterKey, Number]]
_NOTHING: Mapping[CounterKey, Number] = {}


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

    def prepare(self, plan: Plan) -> Prepared:
        """The order after those of its changes that count."""
        return prepare(plan, self.known(self.freeze_at), on_time=self.on_time)

    @property
    def on_time(self) -> bool:
        """False when the order was booked after its levels were final."""
        return self.freeze_at is None or self.order.known_at < self.freeze_at


class Gathered(NamedTuple):
    """An order as it was booked and what was booked for it later, each with its place."""

    seq: int
    order: Order
    changes: Sequence[tuple[int, Change]]


def gather(events: Sequence[Event]) -> list[Gathered]:
    """The orders in booking order; EventError on a repeated or unknown conversion."""
    orders: dict[str, tuple[int, Order]] = {}
    changes: dict[str, list[tuple[int, Change]]] = {}
    for seq, event in enumerate(events):
        if isinstance(event, Order):
            if event.id in orders:
                raise EventError([(f"conversion {event.id}", "duplicate conversion id")])
            orders[event.id] = seq, event
        elif isinstance(event, Change):
            if event.conversion not in orders:
                raise EventError([(f"{event.type} of {event.conversion}", "unknown conversion")])
            changes.setdefault(event.conversion, []).append((seq, event))
    return [Gathered(seq, order, changes.get(order.id, ())) for seq, order in orders.values()]


def followed(plan: Plan, gathered: Gathered) -> tuple[Conversion, Prepared]:
    """An order with its changes, and what it adds to the counters after those that count."""
    one, prepared = opened(plan, gathered.order, gathered.seq)
    if not gathered.changes:
        return one, prepared
    one = replace(one, changes=tuple(gathered.changes))
    return one, one.prepare(plan)


def collect(plan: Plan, events: Sequence[Event]) -> list[Conversion]:
    """The conversions in booking order; EventError on a repeated or unknown conversion."""
    return [followed(plan, one)[0] for one in gather(events)]


def _freeze_of(plan: Plan, prepared: Prepared) -> datetime | None:
    order = prepared.order
    ends = [_freeze(rule.tiers, order) for rule in prepared.winners if rule and rule.tiers]
    if plan.caps.by_publisher:
        ends.append(window_freeze(plan.caps.window, plan.zone, order.at, FREEZE_DAYS))
    for rule in plan.bonus_rules:
        if rule.bonus and rule.bonus.awarded_once and _matches(rule, prepared):
            ends.append(window_freeze(rule.bonus.window, plan.zone, order.at, FREEZE_DAYS))
        elif rule.tiers and rule.id in prepared.bonus_places:
            ends.append(_freeze(rule.tiers, order))
    return min((end for end in ends if end is not None), default=None)


def _matches(rule: Rule, prepared: Prepared) -> bool:
    order, total = prepared.order, prepared.total
    return any(
        matching.why_not(
            rule,
            order,
            matching.attributes(order, prepared.subject, line.line),
            prepared.rated_at,
            total,
        )
        is None
        for line in prepared.remaining.lines
    )


def _freeze(tiers: Tiers, order: Order) -> datetime | None:
    if not tiers.counted or tiers.rolling_days or tiers.window == ORDER_WINDOW:
        return None
    return window_freeze(tiers.window, tiers.zone, order.at, tiers.freeze_days)


def window_freeze(window: str, zone: ZoneInfo, at: datetime, freeze_days: int) -> datetime | None:
    """When the levels of the window that holds `at` are final, in UTC; None is never."""
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
    """What a status or rolling tier looks at besides its own window.

    A status: the previous window, as known when this one opened. Rolling windows are measured
    once, when the order was booked, and never restated.
    """

    def __init__(self, plan: Plan, conversions: Sequence[Conversion]) -> None:
        self._plan = plan
        self._conversions = conversions
        self._opened: dict[datetime, dict[CounterKey, Number]] = {}
        self._looks = any(_looks(tiers) for _, tiers in plan.counting)

    def of(self, conversion: Conversion, prepared: Prepared) -> _Measures:
        """(measure for each status counter the order is paid by, where rolling ones stood)."""
        if not self._looks:
            return _NOTHING, _NOTHING
        found: dict[CounterKey, Number] = {}
        trailing: dict[CounterKey, Number] = {}
        for key, tiers in looking(self._plan, prepared):
            if tiers.rolling_days:
                span = timedelta(tiers.rolling_days)
                before, own = self._trailing(conversion, key, span)
                trailing[key], found[key] = before, before + own
                continue
            start, _ = window_of(tiers.window, conversion.order.at, tiers.zone)
            if start is not None:
                earlier = previous_key(key, tiers, conversion.order)
                found[key] = self._known_at(start).get(earlier, 0)
        return found, trailing

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

    def _trailing(
        self, conversion: Conversion, key: CounterKey, span: timedelta
    ) -> tuple[Number, Number]:
        """What the orders booked before this one, and the order itself, added when it came."""
        at = conversion.order.at
        recent = (
            prepare(self._plan, one.booked(conversion.seq))
            for one in self._conversions
            if one.seq < conversion.seq and at - span < one.order.at <= at
        )
        own = prepare(self._plan, conversion.booked(conversion.seq))
        return sum_counters(recent).get(key, 0), own.contributions.get(key, 0)


def _looks(tiers: Tiers) -> bool:
    return tiers.mode == "status" or bool(tiers.rolling_days)


def looking(plan: Plan, prepared: Prepared) -> Iterator[tuple[CounterKey, Tiers]]:
    """The counters an order is paid by, as base or as bonus, that look beyond their own window."""
    for rule, place in zip(prepared.winners, prepared.places, strict=True):
        if rule and rule.tiers and place and _looks(rule.tiers):
            yield place.key, rule.tiers
    for rule in plan.bonus_rules:
        if rule.tiers and _looks(rule.tiers):
            for place in prepared.bonus_places.get(rule.id, ()):
                if place:
                    yield place.key, rule.tiers


def replay_span(plan: Plan, order: Order) -> tuple[datetime | None, datetime | None]:
    """The half-open span of occurrence times a replay around this order must load.

    Closed under the plan's windows: no order inside shares a window with one outside, and status
    tiers find their previous window. (None, None) is everything.
    """
    tiers = [one for _, one in plan.counting]
    spans = _windows(plan)
    unbounded = any(window == "lifetime" for window, _ in spans)
    if unbounded or plan.caps.in_all or any(one.rolling_days for one in tiers):
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
    status = [one for _, one in plan.counting if one.mode == "status"]
    if start is None or end is None or not status:
        return start, start, end
    spans = _windows(plan)
    following = [window_of(one.window, end, one.zone)[1] or end for one in status]
    moved, end = _widen(spans, order.at, max([end, *following]))
    return start, moved, end


def _windows(plan: Plan) -> set[tuple[str, ZoneInfo]]:
    """The windows within which the plan's orders depend on one another."""
    spans = {
        (tiers.window, tiers.zone) for _, tiers in plan.counting if tiers.window != ORDER_WINDOW
    }
    if plan.caps.by_publisher:
        spans.add((plan.caps.window, plan.zone))
    for rule in plan.bonus_rules:
        if rule.bonus and rule.bonus.awarded_once:
            # With both, a window that reaches the threshold decides about all that follow.
            is_ever = rule.bonus.once_per_publisher and rule.bonus.threshold_minor is not None
            spans.add(("lifetime" if is_ever else rule.bonus.window, plan.zone))
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
    return one.prepare(plan)


def without_changes(plan: Plan, order: Order) -> Prepared:
    """A newly booked order, before anything happened to it."""
    return opened(plan, order)[1]
