"""Which rule pays a line of an order, and why not the others. Pure.

A `Chooser` is worked out from a plan once. Most lines of a program are like one before them in
everything that the rules look at, so what was chosen is remembered by that and nothing else; the
reasons are found when somebody asks for them.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from commissions.order_events import Line, Order, Share
from commissions.plan_document import BOUNDS, DIMENSIONS, Plan, Rule
from commissions.tiers import Number

# A plan may hold 500 rules and an order 1000 lines; the reasons of that many losers would be
# most of the database. Every rule that matched is named, of the others the first ones.
MAX_UNMATCHED_NAMED = 10
_CHOICES_MAX = 50_000
_PLACES_MAX = 10_000

Attributes = Mapping[str, tuple[str, ...]]
"""What an order line says, by dimension; a dimension that is not there is unknown."""


class Subject(NamedTuple):
    """Whom an order pays and where it counts, after coupons and the country basis."""

    publisher: str
    groups: tuple[str, ...]
    shares: tuple[Share, ...]
    country: str | None
    country_source: str | None
    regions: tuple[str, ...]
    coupon_effect: str | None


def subject_of(plan: Plan, order: Order) -> Subject:
    """An exclusive coupon pays its owner whatever the click; a suppressed one pays nobody."""
    country, source, regions = chooser(plan).place(order)
    publisher, groups, shares, effect = order.publisher, order.publisher_groups, order.shares, None
    if order.coupon in plan.suppressed_coupons:
        effect = "suppressed"
    elif order.coupon is not None and order.coupon in plan.exclusive_coupons:
        # The groups on the event are those of the click's publisher, not of the owner.
        owner = plan.exclusive_coupons[order.coupon]
        groups = groups if owner == publisher else ()
        publisher, shares, effect = owner, (), "exclusive"
    return Subject(publisher, groups, shares, country, source, regions, effect)


class Reasons(NamedTuple):
    """Why the rule that pays a line does, and why the others do not, by rule id."""

    why: str
    losers: tuple[tuple[str, str], ...]


class Chosen(NamedTuple):
    """The rule that wins, and those that a trace tells of, in order of choice."""

    winner: Rule | None
    told: tuple[Rule, ...]


class Chooser:
    """Chooses among the base rules of one plan.

    Rules look at the attributes that they name, at the instant between two of their own starts and
    ends, and at which of their bounds the order total and the months lie between. Two lines that
    agree in all of that have the same winner.
    """

    def __init__(self, plan: Plan) -> None:
        rules = plan.base_rules
        named = {name: _named_values(rules, name) for name in DIMENSIONS}
        self._plan = plan
        self._publishers, self._groups = named["publisher"], named["publisher_group"]
        self._coupons, self._skus = named["coupon"], named["sku"]
        self._categories, self._customers = named["category"], named["customer"]
        self._devices, self._sites = named["device"], named["site"]
        self._moments = sorted(
            {at for rule in rules for at in (rule.effective_from, rule.effective_to) if at}
        )
        self._at_least = _bounds(rules, "min_order_minor")
        self._more_than = sorted(
            {*_bounds(rules, "over_order_minor"), *_bounds(rules, "max_order_minor")}
        )
        self._months = _bounds(rules, "within_months_of_first")
        self._is_bound = bool(self._at_least or self._more_than or self._months)
        self._places: dict[str | None, tuple[str, ...]] = {}
        self._chosen: dict[tuple[object, ...], Chosen] = {}

    def place(self, order: Order) -> tuple[str | None, str | None, tuple[str, ...]]:
        """The country that decides, the field that says it, and the regions that hold it."""
        for source in self._plan.country_basis:
            country = order.countries.get(source)
            if country is not None:
                return country, source, self.regions(country)
        return None, None, ()

    def regions(self, country: str) -> tuple[str, ...]:
        """The regions that hold a country, by name."""
        found = self._places.get(country)
        if found is None:
            held = self._plan.regions.items()
            found = tuple(sorted([name for name, countries in held if country in countries]))
            if len(self._places) < _PLACES_MAX:
                self._places[country] = found
        return found

    def pick(  # noqa: PLR0917 - asked for every line, and a call by name costs more
        self,
        publisher: str,
        groups: tuple[str, ...],
        country: str | None,
        order: Order,
        line: Line,
        at: datetime,
        total: Number,
    ) -> Chosen:
        """The first rule, in order of choice, that is in force and matches the line."""
        key = (
            publisher if publisher in self._publishers else None,
            groups and tuple([one for one in groups if one in self._groups]),
            order.coupon if order.coupon in self._coupons else None,
            line.sku if line.sku in self._skus else None,
            line.category if line.category in self._categories else None,
            order.customer if order.customer in self._customers else None,
            country,
            order.device if order.device in self._devices else None,
            order.site if order.site in self._sites else None,
            bisect_right(self._moments, at) if self._moments else 0,
            self._between(order, total) if self._is_bound else 0,
        )
        found = self._chosen.get(key)
        if found is None:
            values = attributes(order, subject_of(self._plan, order), line)
            found = self._choose(order, values, at, total)
            if len(self._chosen) >= _CHOICES_MAX:
                self._chosen.clear()
            self._chosen[key] = found
        return found

    def _between(self, order: Order, total: Number) -> tuple[int, int, int]:
        """Which bounds the order lies between."""
        months = order.months_since_first
        return (
            bisect_right(self._at_least, total),
            bisect_left(self._more_than, total),
            -1 if months is None else bisect_right(self._months, months),
        )

    def _choose(self, order: Order, values: Attributes, at: datetime, total: Number) -> Chosen:
        winner: Rule | None = None
        told, unmatched = [], 0
        for rule in self._plan.base_rules:
            if why_not(rule, order, values, at, total) is None:
                winner = winner or rule
                told.append(rule)
            elif unmatched < MAX_UNMATCHED_NAMED:
                unmatched += 1
                told.append(rule)
        return Chosen(winner, tuple(told))

    def reasons(
        self, order: Order, subject: Subject, line: Line, at: datetime, total: Number
    ) -> Reasons:
        """Why the line's winner is that, in words, which name what the line says."""
        publisher, groups, country = subject.publisher, subject.groups, subject.country
        winner, told = self.pick(publisher, groups, country, order, line, at, total)
        values = attributes(order, subject, line)
        losers: list[tuple[str, str]] = []
        for rule in told:
            if rule is winner:
                continue
            reason = why_not(rule, order, values, at, total)
            if reason is None and winner is not None:
                reason = f"outranked by {winner.id}: {_outranked(winner, rule)}"
            losers.append((rule.id, reason or ""))
        why = "no rule matches" if winner is None else f"matches {_named(winner)}"
        return Reasons(why, tuple(losers))


def chooser(plan: Plan) -> Chooser:
    """The plan's, made when it is first asked for."""
    found: Chooser | None = plan.memo.get("chooser")
    if found is None:
        found = plan.memo["chooser"] = Chooser(plan)
    return found


def _named_values(rules: tuple[Rule, ...], name: str) -> frozenset[str]:
    return frozenset(value for rule in rules for value in rule.when.values.get(name, ()))


def _bounds(rules: tuple[Rule, ...], name: str) -> list[int]:
    found = {getattr(rule.when, name) for rule in rules}
    return sorted(bound for bound in found if bound is not None)


def attributes(order: Order, subject: Subject, line: Line) -> Attributes:
    """What a line and its order say, by dimension."""
    values: dict[str, tuple[str, ...]] = {
        "publisher": (subject.publisher,),
        "publisher_group": subject.groups,
        "region": subject.regions,
    }
    for name, value in (
        ("coupon", order.coupon),
        ("sku", line.sku),
        ("category", line.category),
        ("customer", order.customer),
        ("country", subject.country),
        ("device", order.device),
        ("site", order.site),
    ):
        if value is not None:
            values[name] = (value,)
    return values


def why_not(
    rule: Rule, order: Order, values: Attributes, at: datetime, total: Number
) -> str | None:
    """The first reason a rule does not apply; None when it does. `at` decides what is in force."""
    if not rule.effective(at):
        return "not in force when the order occurred"
    for name, wanted in rule.when.values.items():
        held = values.get(name, ())
        if not any(value in wanted for value in held):
            return f"{name} is {', '.join(held) or 'unknown'}"
    return _out_of_bounds(rule, order, total)


def _out_of_bounds(rule: Rule, order: Order, total: Number) -> str | None:
    when = rule.when
    if when.min_order_minor is not None and total < when.min_order_minor:
        return "order total is under the minimum"
    if when.over_order_minor is not None and total <= when.over_order_minor:
        return "order total is not over the bound"
    if when.max_order_minor is not None and total > when.max_order_minor:
        return "order total is over the maximum"
    if when.within_months_of_first is None:
        return None
    return _too_late(order.months_since_first, when.within_months_of_first)


def _too_late(months: int | None, months_max: int) -> str | None:
    if months is None:
        return "when the customer first paid is unknown"
    return "too long after the first payment" if months >= months_max else None


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
