"""Whom an order is for and which rule pays each line, with the reasons. Pure.

A `Prepared` order knows its winners and what it adds to which counter, but no level yet: that
depends on where the counters stand.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import timedelta
from fractions import Fraction
from typing import NamedTuple

from commissions.exchange import NoRate, Rates, minor_scale
from commissions.order_events import EventError, Line, Order, Remaining, RemainingLine, Share
from commissions.plan_document import BOUNDS, DIMENSIONS, Plan, Rule, Tiers
from commissions.tiers import Number, plain, window_of
from kernel.money import sum_exact

# A plan may hold 500 rules and an order 1000 lines; the reasons of that many losers would be
# most of the database. Every rule that matched is named, of the others the first ones.
MAX_UNMATCHED_NAMED = 10
_CHOICES_MAX = 10_000
_ONE = Fraction(1)
_NO_RATES = Rates("", {})

_Attributes = Mapping[str, tuple[str, ...]]
"""What an order line says, by dimension; a dimension that is not there is unknown."""


class CounterKey(NamedTuple):
    """One tier counter: a rule, the values of its scope and the start of the window."""

    rule_id: str
    scope: tuple[tuple[str, str], ...]
    window_start: str


class Subject(NamedTuple):
    """Whom an order pays and where it counts, after coupons and the country basis."""

    publisher: str
    groups: tuple[str, ...]
    shares: tuple[Share, ...]
    country: str | None
    country_source: str | None
    regions: tuple[str, ...]
    coupon_effect: str | None


class Figures(NamedTuple):
    """A remaining line in the plan's currency, exact."""

    net: Fraction
    revenue: Fraction
    qty: int
    alive: bool

    def base(self, rule: Rule) -> Fraction:
        """What the rule's percentages apply to."""
        return self.revenue if rule.base == "revenue" else self.net


@dataclass(frozen=True, slots=True)
class Choice:
    """The rule that pays a line, why, and why the others do not."""

    rule: Rule | None
    why: str
    losers: tuple[tuple[str, str], ...]


class Place(NamedTuple):
    """Where a line sits inside its order's slice of a counter."""

    key: CounterKey
    offset: Number
    size: Number


class Prepared(NamedTuple):
    """An order with its winners; `sizes` is what it would add to each counter, counted or not.

    `live` is whether anything is paid for it.
    """

    remaining: Remaining
    subject: Subject
    figures: tuple[Figures, ...]
    total: Fraction
    choices: tuple[Choice, ...]
    places: tuple[Place | None, ...]
    sizes: Mapping[CounterKey, Number]
    contributions: Mapping[CounterKey, Number]
    counted: bool
    live: bool

    @property
    def order(self) -> Order:
        """The order as reported."""
        return self.remaining.order


def subject_of(plan: Plan, order: Order) -> Subject:
    """An exclusive coupon pays its owner whatever the click; a suppressed one pays nobody."""
    source = next(iter([name for name in plan.country_basis if name in order.countries]), None)
    country = order.countries[source] if source else None
    regions = tuple(sorted([name for name, held in plan.regions.items() if country in held]))
    publisher, groups, shares, effect = order.publisher, order.publisher_groups, order.shares, None
    if order.coupon in plan.suppressed_coupons:
        effect = "suppressed"
    elif order.coupon is not None and order.coupon in plan.exclusive_coupons:
        # The groups on the event are those of the click's publisher, not of the owner.
        owner = plan.exclusive_coupons[order.coupon]
        groups = groups if owner == publisher else ()
        publisher, shares, effect = owner, (), "exclusive"
    return Subject(publisher, groups, shares, country, source, regions, effect)


def rate_of(plan: Plan, order: Order) -> Fraction:
    """Minor units of the plan's currency for one of the order's, at the order date's rate.

    The last published rate on or before the local order date; EventError when there is none.
    """
    currency = order.currency or plan.currency
    if currency == plan.currency:
        return _ONE
    day = order.at.astimezone(plan.zone).date().isoformat()
    try:
        quote = (plan.rates or _NO_RATES).quote(currency, plan.currency, day)
    except NoRate as error:
        raise EventError([(f"conversion {order.id}.currency", str(error))]) from error
    return quote.rate * minor_scale(currency, plan.currency)


def prepare(plan: Plan, remaining: Remaining, *, on_time: bool = True) -> Prepared:
    """Choose the rules and size the counters; `on_time` is False after the freeze."""
    subject = subject_of(plan, remaining.order)
    rate = rate_of(plan, remaining.order)
    figures = tuple([_figures(line, rate) for line in remaining.lines])
    total = sum_exact([line.net for line in figures])
    attributes = _order_attributes(remaining.order, subject)
    values = [_line_attributes(attributes, line.line) for line in remaining.lines]
    choices = tuple([_choice(plan, remaining.order, held, total) for held in values])
    live = remaining.live and subject.coupon_effect != "suppressed"
    counted = live and on_time and not remaining.held
    places: list[Place | None] = [None] * len(figures)
    sizes: dict[CounterKey, Number] = {}
    contributions: dict[CounterKey, Number] = {}
    for at, choice in enumerate(choices if plan.counting else ()):
        if not live or not figures[at].alive:
            continue
        for rule, tiers in _counting(plan, remaining.order, choice.rule):
            key = _counter_key(rule, tiers, remaining.order, values[at])
            offset, size = sizes.get(key, 0), _measure(rule, tiers, figures[at])
            if tiers.measure == "count":
                offset, size = 0, 1
            sizes[key] = plain(offset + size)
            if rule is choice.rule:
                places[at] = Place(key, offset, size)
            if counted and (tiers.counts == "live" or remaining.decision == "approved"):
                contributions[key] = sizes[key]
    return Prepared(
        remaining,
        subject,
        figures,
        total,
        choices,
        tuple(places),
        sizes,
        contributions,
        counted,
        live,
    )


def _figures(line: RemainingLine, rate: Fraction) -> Figures:
    if rate is _ONE:
        return Figures(line.net, line.revenue, line.qty, line.alive)
    return Figures(line.net * rate, line.revenue * rate, line.qty, line.alive)


def _counting(plan: Plan, order: Order, winner: Rule | None) -> Iterator[tuple[Rule, Tiers]]:
    """The rules whose counter a line moves: the one that pays it and every one on all sales."""
    for rule, tiers in plan.counting:
        if rule is winner or (tiers.measure == "sales" and rule.effective(order.at)):
            yield rule, tiers


def _measure(rule: Rule, tiers: Tiers, line: Figures) -> Number:
    if tiers.measure == "units":
        return line.qty
    return plain(line.net if tiers.measure == "sales" else line.base(rule))


def _counter_key(rule: Rule, tiers: Tiers, order: Order, values: _Attributes) -> CounterKey:
    """The counter a line of the order belongs to under that rule."""
    scope = tuple((name, _scope_value(rule, name, values)) for name in tiers.scope)
    if tiers.rolling_days:
        return CounterKey(rule.id, scope, tiers.window)
    start, _ = window_of(tiers.window, order.at, tiers.zone)
    return CounterKey(rule.id, scope, start.isoformat() if start else "")


def previous_key(key: CounterKey, tiers: Tiers, order: Order) -> CounterKey:
    """The same counter one window earlier, for status tiers."""
    start, _ = window_of(tiers.window, order.at, tiers.zone)
    if start is None:
        return key
    earlier, _ = window_of(tiers.window, start - timedelta(microseconds=1), tiers.zone)
    return CounterKey(key.rule_id, key.scope, earlier.isoformat() if earlier else "")


def _scope_value(rule: Rule, name: str, values: _Attributes) -> str:
    # Regions may overlap and a publisher may be in several groups: the first the rule names is
    # the one the counter is kept for, otherwise the first there is.
    held = values.get(name, ())
    named = rule.when.values.get(name, ())
    return next((value for value in named if value in held), held[0] if held else "")


def _order_attributes(order: Order, subject: Subject) -> dict[str, tuple[str, ...]]:
    single = {
        "publisher": subject.publisher,
        "coupon": order.coupon,
        "customer": order.customer,
        "country": subject.country,
        "device": order.device,
        "site": order.site,
    }
    values: dict[str, tuple[str, ...]] = {
        name: (value,) for name, value in single.items() if value is not None
    }
    values["publisher_group"], values["region"] = subject.groups, subject.regions
    return values


def _line_attributes(attributes: _Attributes, line: Line) -> _Attributes:
    if line.sku is None and line.category is None:
        return attributes
    values = dict(attributes)
    if line.sku is not None:
        values["sku"] = (line.sku,)
    if line.category is not None:
        values["category"] = (line.category,)
    return values


def _choice(plan: Plan, order: Order, values: _Attributes, total: Fraction) -> Choice:
    """`choose`, remembered by what the rules of the plan look at where that is all they look at."""
    if not plan.chooses_by_attributes:
        return choose(plan, order, values, total)
    held = tuple([values.get(name) for name in plan.attributes])
    choice: Choice | None = plan.choices.get(held)
    if choice is None:
        choice = choose(plan, order, values, total)
        if len(plan.choices) >= _CHOICES_MAX:
            plan.choices.clear()
        plan.choices[held] = choice
    return choice


def choose(plan: Plan, order: Order, values: _Attributes, total: Fraction) -> Choice:
    """The first rule, in order of choice, that is in force and matches the line."""
    winner: Rule | None = None
    why = "no rule matches"
    losers: list[tuple[str, str]] = []
    unmatched = 0
    for rule in plan.base_rules:
        reason = why_not(rule, order, values, total)
        if reason is not None:
            unmatched += 1
            if unmatched <= MAX_UNMATCHED_NAMED:
                losers.append((rule.id, reason))
        elif winner is None:
            winner = rule
            why = f"matches {_named(rule)}"
        else:
            losers.append((rule.id, f"outranked by {winner.id}: {_outranked(winner, rule)}"))
    return Choice(winner, why, tuple(losers))


def matches(rule: Rule, prepared: Prepared, at: int) -> bool:
    """Whether a (bonus) rule applies to a line of the order."""
    attributes = _order_attributes(prepared.order, prepared.subject)
    values = _line_attributes(attributes, prepared.remaining.lines[at].line)
    return why_not(rule, prepared.order, values, prepared.total) is None


def why_not(rule: Rule, order: Order, values: _Attributes, total: Fraction) -> str | None:
    """The first reason a rule does not apply; None when it does."""
    if not rule.effective(order.at):
        return "not in force when the order occurred"
    for name, wanted in rule.when.values.items():
        held = values.get(name, ())
        if not any(value in wanted for value in held):
            return f"{name} is {', '.join(held) or 'unknown'}"
    return _out_of_bounds(rule, order, total)


def _out_of_bounds(rule: Rule, order: Order, total: Fraction) -> str | None:
    when = rule.when
    if when.min_order_minor is not None and total < when.min_order_minor:
        return "order total is under the minimum"
    if when.over_order_minor is not None and total <= when.over_order_minor:
        return "order total is not over the bound"
    if when.max_order_minor is not None and total > when.max_order_minor:
        return "order total is over the maximum"
    months = order.months_since_first
    if when.within_months_of_first is None:
        return None
    if months is None or months >= when.within_months_of_first:
        return "too long after the first payment"
    return None


def _named(rule: Rule) -> str:
    names = [name for name in DIMENSIONS if name in rule.when.values]
    names += [name for name in BOUNDS if getattr(rule.when, name) is not None]
    return ", ".join(names) or "every order"


def _outranked(winner: Rule, loser: Rule) -> str:
    if winner.priority != loser.priority:
        return f"priority {winner.priority} over {loser.priority}"
    if winner.when.specificity != loser.when.specificity:
        return f"{_named(winner)} is more specific than {_named(loser)}"
    if winner.effective_from != loser.effective_from:
        return "it is effective from a later date"
    return "its id comes first"
