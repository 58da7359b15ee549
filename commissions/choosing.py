"""Whom an order is for, which rule pays each line, and which counters it moves. Pure.

A `Prepared` order knows its winners and what it adds to which counter, but no level yet: that
depends on where the counters stand.
"""

from collections.abc import Iterator, Mapping
from datetime import datetime, timedelta
from fractions import Fraction
from typing import NamedTuple

from commissions import matching
from commissions.exchange import NoRate, Rates, minor_scale
from commissions.matching import Subject, subject_of
from commissions.order_events import EventError, Order, Remaining, RemainingLine, StoredRate
from commissions.plan_document import Plan, Rule, Tiers
from commissions.tiers import ORDER_WINDOW, Number, plain, window_of
from kernel.money import sum_exact

__all__ = [
    "CounterKey",
    "Figures",
    "Place",
    "Prepared",
    "prepare",
    "previous_key",
    "rate_of",
    "rate_used",
    "rated_at",
    "subject_of",
]

_ONE = Fraction(1)
_NO_RATES = Rates("", {})


class CounterKey(NamedTuple):
    """One tier counter: a rule, the values of its scope and the start of the window."""

    rule_id: str
    scope: tuple[tuple[str, str], ...]
    window_start: str


class Figures(NamedTuple):
    """A remaining line in the plan's currency, exact."""

    net: Number
    revenue: Number
    qty: int
    alive: bool

    def base(self, rule: Rule) -> Number:
        """What the rule's percentages apply to."""
        return self.revenue if rule.base == "revenue" else self.net


class Place(NamedTuple):
    """Where a line sits inside its order's slice of a counter."""

    key: CounterKey
    offset: Number
    size: Number


class Prepared(NamedTuple):
    """An order with its winners; `sizes` is what it would add to each counter, counted or not.

    `live` is whether anything is paid for it, `rated_at` the instant whose rules apply. Bonus rules
    with tiers have `bonus_places`, line by line; None where they do not match.
    """

    remaining: Remaining
    subject: Subject
    figures: tuple[Figures, ...]
    total: Number
    winners: tuple[Rule | None, ...]
    places: tuple[Place | None, ...]
    sizes: Mapping[CounterKey, Number]
    contributions: Mapping[CounterKey, Number]
    counted: bool
    live: bool
    rated_at: datetime
    bonus_places: Mapping[str, tuple[Place | None, ...]]

    @property
    def order(self) -> Order:
        """The order as reported."""
        return self.remaining.order


_NOTHING: Mapping[CounterKey, Number] = {}
_NO_PLACES: Mapping[str, tuple[Place | None, ...]] = {}


def rate_of(plan: Plan, order: Order) -> Fraction:
    """Minor units of the plan's currency for one of the order's, at the order date's rate.

    EventError when there is none.
    """
    used = rate_used(plan, order)
    if used is None:
        return _ONE
    return used.value * minor_scale(order.currency or plan.currency, plan.currency)


def rate_used(plan: Plan, order: Order) -> StoredRate | None:
    """The rate an order is converted by; None for one in the plan's currency.

    The last one that the plan publishes on or before the local order date, else the one that is
    stored with the order; EventError when there is none.
    """
    currency = order.currency or plan.currency
    if currency == plan.currency:
        return None
    day = order.at.astimezone(plan.zone).date().isoformat()
    try:
        quote = (plan.rates or _NO_RATES).quote(currency, plan.currency, day)
    except NoRate as error:
        if order.rate is not None:
            return order.rate
        raise EventError([(f"conversion {order.id}.currency", str(error))]) from error
    return StoredRate(quote.rate, quote.published, "plan")


def rated_at(plan: Plan, remaining: Remaining) -> datetime:
    """The instant that decides which rules are in force; the occurrence while it is not known."""
    order = remaining.order
    if plan.rate_clock == "shipped":
        return order.shipped_at or order.at
    if plan.rate_clock == "approved":
        return remaining.approved_at or order.at
    return order.at


def prepare(plan: Plan, remaining: Remaining, *, on_time: bool = True) -> Prepared:
    """Choose the rules and size the counters; `on_time` is False after the freeze."""
    order = remaining.order
    subject = subject_of(plan, order)
    rate = rate_of(plan, order)
    figures = tuple([_figures(line, rate) for line in remaining.lines])
    total = figures[0].net if len(figures) == 1 else plain(sum_exact([one.net for one in figures]))
    at = rated_at(plan, remaining)
    pick = matching.chooser(plan).pick
    publisher, groups, country = subject.publisher, subject.groups, subject.country
    winners = tuple(
        [
            pick(publisher, groups, country, order, one.line, at, total).winner
            for one in remaining.lines
        ]
    )
    live = remaining.live and subject.coupon_effect != "suppressed"
    found = Prepared(
        remaining,
        subject,
        figures,
        total,
        winners,
        (None,) * len(figures),
        _NOTHING,
        _NOTHING,
        live and on_time and not remaining.held,
        live,
        at,
        _NO_PLACES,
    )
    return _sized(plan, found) if plan.counting and live else found


def _figures(line: RemainingLine, rate: Fraction) -> Figures:
    if rate is _ONE:
        return Figures(line.net, line.revenue, line.qty, line.alive)
    return Figures(plain(line.net * rate), plain(line.revenue * rate), line.qty, line.alive)


def _sized(plan: Plan, prepared: Prepared) -> Prepared:
    """The order with what each of its lines moves."""
    remaining, order = prepared.remaining, prepared.order
    sizes: dict[CounterKey, Number] = {}
    contributions: dict[CounterKey, Number] = {}
    places: list[Place | None] = [None] * len(prepared.figures)
    bonus_places: dict[str, list[Place | None]] = {}
    for at, figures in enumerate(prepared.figures):
        if not figures.alive:
            continue
        values = matching.attributes(order, prepared.subject, remaining.lines[at].line)
        for rule, tiers in _counting(plan, prepared, at, values):
            key = _counter_key(rule, tiers, order, values)
            offset, size = sizes.get(key, 0), _measure(rule, tiers, figures)
            if tiers.measure == "count":
                offset, size = 0, 1
            sizes[key] = plain(offset + size)
            place = Place(key, offset, size)
            if rule.kind == "bonus":
                held = bonus_places.setdefault(rule.id, [None] * len(prepared.figures))
                held[at] = place
            elif rule is prepared.winners[at]:
                places[at] = place
            if prepared.counted and (tiers.counts == "live" or remaining.decision == "approved"):
                contributions[key] = sizes[key]
    return prepared._replace(
        places=tuple(places),
        sizes=sizes,
        contributions=contributions,
        bonus_places={name: tuple(held) for name, held in bonus_places.items()},
    )


def _counting(
    plan: Plan, prepared: Prepared, at: int, values: matching.Attributes
) -> Iterator[tuple[Rule, Tiers]]:
    """The rules whose counter a line moves.

    The one that pays it, every one on all sales, and the bonuses that match it.
    """
    for rule, tiers in plan.counting:
        if rule.kind == "bonus":
            order, total = prepared.order, prepared.total
            if matching.why_not(rule, order, values, prepared.rated_at, total) is None:
                yield rule, tiers
        elif rule is prepared.winners[at] or (
            tiers.measure == "sales" and rule.effective(prepared.rated_at)
        ):
            yield rule, tiers


def _measure(rule: Rule, tiers: Tiers, line: Figures) -> Number:
    if tiers.measure == "units":
        return line.qty
    return plain(line.net if tiers.measure == "sales" else line.base(rule))


def _counter_key(rule: Rule, tiers: Tiers, order: Order, values: matching.Attributes) -> CounterKey:
    """The counter a line of the order belongs to under that rule."""
    scope = tuple([(name, scope_value(rule, name, values)) for name in tiers.scope])
    if tiers.rolling_days:
        return CounterKey(rule.id, scope, tiers.window)
    if tiers.window == ORDER_WINDOW:
        return CounterKey(rule.id, scope, f"{ORDER_WINDOW}:{order.id}")
    start, _ = window_of(tiers.window, order.at, tiers.zone)
    return CounterKey(rule.id, scope, start.isoformat() if start else "")


def previous_key(key: CounterKey, tiers: Tiers, order: Order) -> CounterKey:
    """The same counter one window earlier, for status tiers."""
    start, _ = window_of(tiers.window, order.at, tiers.zone)
    if start is None:
        return key
    earlier, _ = window_of(tiers.window, start - timedelta(microseconds=1), tiers.zone)
    return CounterKey(key.rule_id, key.scope, earlier.isoformat() if earlier else "")


def scope_value(rule: Rule, name: str, values: matching.Attributes) -> str:
    """What a counter is kept for: of several regions or groups, the first that the rule names.

    Regions may overlap and a publisher may be in several groups. Otherwise the first there is.
    """
    held = values.get(name, ())
    named = rule.when.values.get(name, ())
    return next((value for value in named if value in held), held[0] if held else "")
