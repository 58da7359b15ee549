"""The short way to the price of a new order: whole numbers, and nothing that nobody asks for. Pure.

Most orders have one line in the program's currency, and their rule pays a rate or a graduated tier.
For these the amount is one division: a rule's rates are brought to a common denominator once. For
every other order `price` answers None, and the long way (`priced.price_at`) is taken; it is also
the one that says why, when somebody asks. Both give the same amounts, which the tests compare.
"""

from bisect import bisect_right
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from fractions import Fraction
from math import lcm

from commissions import matching
from commissions.awards import Accounts
from commissions.choosing import CounterKey, scope_value
from commissions.folding import window_freeze, without_changes
from commissions.line_pay import Standing, clamp_order
from commissions.order_events import Line, Order
from commissions.plan_document import Plan, Rule, Tiers
from commissions.priced import Details, Met, Priced, price_at
from commissions.tiers import Level, Number, lower_bound, window_of

_BEGINNING = datetime.min.replace(tzinfo=UTC)
_END = datetime.max.replace(tzinfo=UTC)
_KEYS_MAX = 50_000
_NOTHING: Mapping[CounterKey, Number] = {}

Rounding = Callable[[int, int], int]
"""The nearest integer to a fraction that is not negative, given as numerator and denominator."""


def _half_up(number: int, parts: int) -> int:
    return (2 * number + parts) // (2 * parts)


def _half_even(number: int, parts: int) -> int:
    whole, rest = divmod(number, parts)
    twice = 2 * rest
    return whole + 1 if twice > parts or (twice == parts and whole & 1) else whole


def _down(number: int, parts: int) -> int:
    return number // parts


_ROUNDINGS: Mapping[str, Rounding] = {
    "half_up": _half_up,
    "half_even": _half_even,
    "down": _down,
}


class _Rate:
    """A level with its rates as numerators of a common denominator."""

    __slots__ = ("fixed", "flat_minor", "of_base", "of_unit")

    def __init__(self, level: Level, parts: int) -> None:
        self.of_base = int(level.percent * parts)
        self.of_unit = int(level.per_unit * parts)
        self.fixed = level.fixed_minor * parts
        self.flat_minor = level.flat_minor


class _Span:
    """One window of a counter: when it is, when its levels are final, and the counters in it."""

    __slots__ = ("end", "freeze_at", "keys", "name", "start")

    def __init__(self, tiers: Tiers, at: datetime) -> None:
        start, end = window_of(tiers.window, at, tiers.zone)
        frozen = window_freeze(tiers.window, tiers.zone, at, tiers.freeze_days)
        self.start, self.end = start or _BEGINNING, end or _END
        self.name = start.isoformat() if start else ""
        self.freeze_at = frozen or _END
        self.keys: dict[str, CounterKey] = {}


class _Counter:
    """A rule's counter: where an order stands in it and what it adds."""

    __slots__ = ("_by_publisher", "_rule", "_span", "_tiers", "counts", "is_discrete", "measure")

    def __init__(self, rule: Rule, tiers: Tiers) -> None:
        self._rule, self._tiers = rule, tiers
        self._by_publisher = tiers.scope == ("publisher",)
        self._span = _Span(tiers, _BEGINNING + (_END - _BEGINNING) / 2)
        self.measure, self.is_discrete = tiers.measure, tiers.discrete
        self.counts = tiers.counts == "live"

    def span(self, at: datetime) -> _Span:
        """The window that holds an instant. Orders come by time, so it is the last one mostly."""
        span = self._span
        if span.start <= at < span.end:
            return span
        self._span = span = _Span(self._tiers, at)
        return span

    def key(self, plan: Plan, order: Order, line: Line, span: _Span) -> CounterKey:
        """The counter that the line moves in that window."""
        if self._by_publisher:
            key = span.keys.get(order.publisher)
            if key is not None:
                return key
        subject = matching.subject_of(plan, order)
        values = matching.attributes(order, subject, line)
        names = self._tiers.scope
        scope = tuple([(name, scope_value(self._rule, name, values)) for name in names])
        key = CounterKey(self._rule.id, scope, span.name)
        if self._by_publisher:
            if len(span.keys) >= _KEYS_MAX:
                span.keys.clear()
            span.keys[order.publisher] = key
        return key


class _Slot:
    """What a winning rule makes of a line."""

    __slots__ = (
        "boundary",
        "bounds",
        "cap",
        "counter",
        "has_flat",
        "is_clamped",
        "is_revenue",
        "others",
        "parts",
        "rates",
        "rule",
    )

    def __init__(self, rule: Rule, others: tuple[_Counter, ...]) -> None:
        levels = rule.tiers.levels if rule.tiers else (rule.pay,)
        self.rule = rule
        self.parts = lcm(*[one.denominator for level in levels for one in _rates_of(level)])
        self.rates = [_Rate(level, self.parts) for level in levels]
        self.cap = None if rule.per_unit_cap_minor is None else rule.per_unit_cap_minor * self.parts
        self.is_revenue = rule.base == "revenue"
        self.is_clamped = rule.per_order_cap_minor is not None or bool(rule.per_order_min_minor)
        self.counter = _Counter(rule, rule.tiers) if rule.tiers else None
        self.others = others
        self.boundary = rule.tiers.boundary if rule.tiers else ""
        discrete = bool(rule.tiers and rule.tiers.discrete)
        self.bounds = [lower_bound(level, discrete=discrete) for level in levels]
        self.has_flat = any(level.flat_minor for level in levels)

    def flats(self, before: int, after: int) -> int:
        """What is paid once for the levels entered on the way."""
        if not self.has_flat:
            return 0
        every = zip(self.bounds, self.rates, strict=True)
        return sum([rate.flat_minor for bound, rate in every if before <= bound < after])


def _rates_of(level: Level) -> tuple[Fraction, Fraction]:
    return level.percent, level.per_unit


class Quick:
    """The short way for one plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._find = self._details
        chooser = matching.chooser(plan)
        self._place, self._pick = chooser.place, chooser.pick
        self._currency = plan.currency
        self._special = plan.suppressed_coupons | plan.exclusive_coupons.keys()
        self._round = _ROUNDINGS[plan.rounding]
        on_sales = [
            (rule, tiers)
            for rule, tiers in plan.counting
            if rule.kind == "base" and tiers.measure == "sales"
        ]
        # Where rules on all sales come and go or restate, what an order moves is a longer story.
        is_plain = all(
            not tiers.restates and rule.effective_from is None and rule.effective_to is None
            for rule, tiers in on_sales
        )
        self.is_usable = (
            is_plain and not plan.spends and not plan.bonus_rules and plan.rate_clock == "ordered"
        )
        self._slots: dict[str, _Slot | None] = {}
        self._on_sales = (
            {rule.id: _Counter(rule, tiers) for rule, tiers in on_sales} if self.is_usable else {}
        )

    def price(self, order: Order, counters: Mapping[CounterKey, Number]) -> Priced | None:
        """The price of a new order; None where the long way must be taken."""
        line = order.lines[0]
        if self._is_long(order, line):
            return None
        country = self._place(order)[0] if order.countries else None
        net, groups = line.net_minor, order.publisher_groups
        rule = self._pick(order.publisher, groups, country, order, line, order.at, net).winner
        if rule is None:
            return None
        try:
            slot = self._slots[rule.id]
        except KeyError:
            slot = self._slots[rule.id] = self._slot(rule)
        if slot is None:
            return None
        if slot.counter is not None:
            return self._tiered(slot, slot.counter, order, line, counters)
        rate, qty = slot.rates[0], line.qty
        number = rate.of_base * ((line.revenue_minor or 0) if slot.is_revenue else net)
        number += rate.of_unit * qty
        if slot.cap is not None and number > slot.cap * qty:
            number = slot.cap * qty
        minor = self._round(number + rate.fixed, slot.parts)
        if slot.is_clamped:
            minor = clamp_order(rule, minor)
        moved = self._moved(slot.others, order, line) if slot.others else _NOTHING
        return Priced(minor, minor, "pending", moved, None, self._find, order)

    def _is_long(self, order: Order, line: Line) -> bool:
        """Whether there is more to say about the order than its one line does."""
        currency, coupon = order.currency, order.coupon
        return (
            not self.is_usable
            or len(order.lines) != 1
            or line.gross_minor is not None
            or not (line.net_minor or line.revenue_minor or line.qty)
            or (currency is not None and currency != self._currency)
            or (coupon is not None and coupon in self._special)
        )

    def _details(self, order: Order, met: Met) -> Details:
        """The long way, for whoever wants to know why."""
        prepared = without_changes(self._plan, order)
        standing = Standing(dict(met))
        return price_at(self._plan, prepared, prepared.remaining, standing, Accounts()).details

    def _slot(self, rule: Rule) -> _Slot | None:
        tiers = rule.tiers
        if tiers and (tiers.restates or not tiers.counted):
            return None
        others = (one for name, one in self._on_sales.items() if name != rule.id)
        return _Slot(rule, tuple(others))

    def _moved(
        self, others: tuple[_Counter, ...], order: Order, line: Line
    ) -> dict[CounterKey, Number]:
        """What the order adds to the counters of rules on all sales that do not pay it."""
        return {
            one.key(self._plan, order, line, one.span(order.at)): line.net_minor
            for one in others
            if one.counts
        }

    def _tiered(
        self,
        slot: _Slot,
        counter: _Counter,
        order: Order,
        line: Line,
        counters: Mapping[CounterKey, Number],
    ) -> Priced | None:
        span = counter.span(order.at)
        key = counter.key(self._plan, order, line, span)
        before = counters.get(key, 0)
        if type(before) is not int or before < slot.bounds[0]:
            return None
        base, qty = (line.revenue_minor or 0) if slot.is_revenue else line.net_minor, line.qty
        size = _size(counter.measure, line.net_minor, base, qty)
        number, parts, at = _slices(slot, counter, before, size, base=base, qty=qty)
        if at < 0:
            return None
        scale = parts // slot.parts
        if slot.cap is not None:
            number = min(number, slot.cap * qty * scale)
        is_counted = order.known_at < span.freeze_at
        added = size if is_counted and counter.counts else 0
        number += slot.rates[at].fixed * scale + slot.flats(before, before + added) * parts
        minor = self._round(number, parts)
        if slot.is_clamped:
            minor = clamp_order(slot.rule, minor)
        moved: dict[CounterKey, Number] = {key: size} if is_counted and counter.counts else {}
        if slot.others and is_counted:
            moved |= self._moved(slot.others, order, line)
        met = ((key, before),)
        return Priced(minor, minor, "pending", moved, None, self._find, order, met)


def _size(measure: str, net: int, base: int, qty: int) -> int:
    if measure == "sales":
        return net
    if measure == "commissionable":
        return base
    return 1 if measure == "count" else qty


def _slices(
    slot: _Slot, counter: _Counter, before: int, size: int, *, base: int, qty: int
) -> tuple[int, int, int]:
    """(numerator, denominator, first level) of what the levels between two counts pay."""
    bounds, after = slot.bounds, before + size
    at = bisect_right(bounds, before) - 1
    if slot.boundary == "after":
        # An amount is at a level once it is reached, an ordinal once it is passed.
        at = bisect_right(bounds, after - 1 if counter.is_discrete else after) - 1
    elif slot.boundary == "split" and at + 1 < len(bounds) and after > bounds[at + 1]:
        return _split(slot, at, before, after, base=base, qty=qty), slot.parts * size, at
    rate = slot.rates[at]
    return rate.of_base * base + rate.of_unit * qty, slot.parts, at


def _split(slot: _Slot, at: int, before: int, after: int, *, base: int, qty: int) -> int:
    """What the slices pay together, in parts of the slot's denominator and of the whole size."""
    number, low = 0, before
    while low < after:
        is_last = at + 1 == len(slot.bounds)
        high = after if is_last else min(after, slot.bounds[at + 1])
        rate = slot.rates[at]
        number += (high - low) * (rate.of_base * base + rate.of_unit * qty)
        low, at = high, at + 1
    return number


def quick(plan: Plan) -> Quick:
    """The plan's, made when it is first asked for."""
    found: Quick | None = plan.memo.get("quick")
    if found is None:
        found = plan.memo["quick"] = Quick(plan)
    return found
