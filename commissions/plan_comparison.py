"""Whether a plan can pay anybody less than another for the same orders, and where. Pure.

All that the rules of either plan look at is cut into the values they name and the rest. For every
combination the rule that pays before and the one that pays after are compared. What is not
provably at least as much counts as less.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from fractions import Fraction
from itertools import combinations

from commissions.pay_comparison import (
    Counting,
    Less,
    pays_nothing,
    pays_once_an_order,
    same_pay,
    why_less,
    why_less_plan,
)
from commissions.plan_document import Plan, Rule

STEPS_MAX = 50_000
_GROUPS_MAX = 8
_ORDER_DIMENSIONS = ("publisher", "coupon", "customer", "device", "site")
_LINE_DIMENSIONS = ("sku", "category")


class Verdict(StrEnum):
    """What becomes of the orders a pair of rules pays."""

    SAME = "same"
    RAISED = "raised"
    LOWERED = "lowered"


@dataclass(frozen=True, slots=True)
class Finding:
    """A pair of rules that pay the same orders, or a part of the plan as a whole.

    `where` names values of an example; a dimension that is not there has none that either plan
    names. `path` is the field of the plan, empty for a pair of rules. `reason` says why it counts
    as lowered.
    """

    verdict: Verdict
    before: str | None = None
    after: str | None = None
    where: Mapping[str, str] = field(default_factory=dict)
    path: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class _Value:
    """A value of a dimension, and the rules it admits, one bit each in order of choice."""

    label: str
    before: int
    after: int


@dataclass(frozen=True, slots=True)
class _Dimension:
    name: str
    values: tuple[_Value, ...]


_Pair = tuple[int | None, int | None]
_Where = Mapping[str, str]


class _TooManyError(Exception):
    """The plans look at more combinations than can be compared."""


def compare(
    before: Plan, after: Plan, start: datetime, end: datetime | None = None
) -> tuple[Finding, ...]:
    """Findings for orders that occur in [start, end); lowered ones first."""
    if end is not None and end <= start:
        return ()
    if {before.rate_clock, after.rate_clock} != {"ordered"}:
        # Rules of later days may pay an order of these.
        end = None
    found = [
        Finding(Verdict.LOWERED, path=path, reason=reason)
        for path, reason in why_less_plan(before, after)
    ]
    try:
        walk = _Walk(before, after, (start, end))
    except _TooManyError:
        return (*found, Finding(Verdict.LOWERED, path="rules", reason=Less.TOO_COMPLEX))
    found += (_judge(walk, pair, where) for pair, where in walk.pairs.items())
    order = (Verdict.LOWERED, Verdict.RAISED, Verdict.SAME)
    return tuple(sorted(found, key=lambda one: order.index(one.verdict)))


def lowered(findings: Iterable[Finding]) -> list[Finding]:
    """Those of the findings by which somebody could earn less."""
    return [one for one in findings if one.verdict is Verdict.LOWERED]


class _Walk:
    """Every pair of rules that some order line meets, each with an example.

    `contexts` are the pairs that lines of one and the same order can meet.
    """

    def __init__(self, before: Plan, after: Plan, span: tuple[datetime, datetime | None]) -> None:
        self.before, self.after = before, after
        self.pairs: dict[_Pair, _Where] = {}
        self.contexts: set[frozenset[_Pair]] = set()
        order, line = _dimensions(before, after, span)
        self._dimensions = (*order, *line)
        self._line_at = len(order)
        self._free = _free_masks(self._dimensions)
        self._seen: set[tuple[int, int, int]] = set()
        every = (1 << len(before.base_rules)) - 1, (1 << len(after.base_rules)) - 1
        self._steps = 0
        self._visit_orders(0, *every, {})

    def rules(self, pair: _Pair) -> tuple[Rule | None, Rule | None]:
        """The rules of a pair."""
        return (
            None if pair[0] is None else self.before.base_rules[pair[0]],
            None if pair[1] is None else self.after.base_rules[pair[1]],
        )

    def _visit_orders(self, at: int, before: int, after: int, where: _Where) -> None:
        before, after = (
            _cut(mask, free) for mask, free in zip((before, after), self._free[at], strict=True)
        )
        if not self._is_new(at, before, after):
            return
        if at == self._line_at:
            context: dict[_Pair, _Where] = {}
            self._visit_lines(at, before, after, where, context)
            self.contexts.add(frozenset(context))
            for pair, example in context.items():
                self.pairs.setdefault(pair, example)
            return
        for value, narrowed in self._values(at, where):
            self._visit_orders(at + 1, before & value.before, after & value.after, narrowed)

    def _visit_lines(
        self, at: int, before: int, after: int, where: _Where, found: dict[_Pair, _Where]
    ) -> None:
        self._step()
        if at == len(self._dimensions):
            found.setdefault((_first(before), _first(after)), where)
            return
        states: set[tuple[int, int]] = set()
        for value, narrowed in self._values(at, where):
            state = tuple(
                _cut(mask, free)
                for mask, free in zip(
                    (before & value.before, after & value.after), self._free[at + 1], strict=True
                )
            )
            if (state[0], state[1]) not in states:
                states.add((state[0], state[1]))
                self._visit_lines(at + 1, state[0], state[1], narrowed, found)

    def _values(self, at: int, where: _Where) -> Iterator[tuple[_Value, _Where]]:
        dimension = self._dimensions[at]
        for value in dimension.values:
            yield value, {**where, dimension.name: value.label} if value.label else where

    def _is_new(self, at: int, before: int, after: int) -> bool:
        self._step()
        if (at, before, after) in self._seen:
            return False
        self._seen.add((at, before, after))
        return True

    def _step(self) -> None:
        self._steps += 1
        if self._steps > STEPS_MAX:
            raise _TooManyError


def _first(mask: int) -> int | None:
    """The rule that wins among those of a mask: they stand in order of choice."""
    return (mask & -mask).bit_length() - 1 if mask else None


def _cut(mask: int, free: int) -> int:
    """Without the rules behind the first that whatever is looked at next admits."""
    sure = mask & free
    return mask & (((sure & -sure) << 1) - 1) if sure else mask


def _free_masks(dimensions: Sequence[_Dimension]) -> list[tuple[int, int]]:
    """For each place: the rules that every value of every dimension from there on admits."""
    masks = [(-1, -1)]
    for dimension in reversed(dimensions):
        before, after = masks[-1]
        for value in dimension.values:
            before, after = before & value.before, after & value.after
        masks.append((before, after))
    return masks[::-1]


def _judge(walk: _Walk, pair: _Pair, where: _Where) -> Finding:
    before, after = walk.rules(pair)
    ids = before.id if before else None, after.id if after else None
    if before is None or pays_nothing(before):
        raised = after is not None and not pays_nothing(after)
        return Finding(Verdict.RAISED if raised else Verdict.SAME, *ids, where=where)
    if after is None:
        return Finding(Verdict.LOWERED, *ids, where=where, reason=Less.NO_RULE)
    reason = why_less(before, after, _counting(walk, pair)) or _merged(walk, pair)
    if reason:
        return Finding(Verdict.LOWERED, *ids, where=where, reason=reason)
    same = same_pay(before, after)
    return Finding(Verdict.SAME if same else Verdict.RAISED, *ids, where=where)


def _counting(walk: _Walk, pair: _Pair) -> Counting:
    """How what the rule after counts relates to what the rule before counted."""
    of_before = {one[1] for one in walk.pairs if one[0] == pair[0]}
    of_after = {one[0] for one in walk.pairs if one[1] == pair[1]}
    before, after = walk.before, walk.after
    alike = before.regions == after.regions and before.country_basis == after.country_basis
    return Counting(of_before == {pair[1]}, of_after == {pair[0]}, alike)


def _merged(walk: _Walk, pair: _Pair) -> str:
    """Two rules that both pay something once an order, or up to a cap, must not become one."""
    after = walk.rules(pair)[1]
    for context in walk.contexts:
        if pair not in context:
            continue
        befores = {one[0] for one in context if one[1] == pair[1] and one[0] is not None}
        paying = [walk.before.base_rules[at] for at in befores]
        capped = after is not None and after.per_order_cap_minor is not None
        if len(befores) > 1 and (capped or any(pays_once_an_order(one) for one in paying)):
            return Less.MERGED
    return ""


def _dimensions(
    before: Plan, after: Plan, span: tuple[datetime, datetime | None]
) -> tuple[list[_Dimension], list[_Dimension]]:
    """What an order is looked at for, then what each of its lines is; only what a rule asks."""
    plans = before, after
    order = [_times(plans, span), *_countries(plans), _groups(plans)]
    order += [_named(plans, name) for name in _ORDER_DIMENSIONS]
    order += [_totals(plans), _months(plans)]
    line = [_named(plans, name) for name in _LINE_DIMENSIONS]
    every = _mask(before, _anything), _mask(after, _anything)

    def asked(one: _Dimension) -> bool:
        return any((value.before, value.after) != every for value in one.values)

    return [one for one in order if asked(one)], [one for one in line if asked(one)]


def _anything(_rule: Rule) -> bool:
    return True


_Plans = tuple[Plan, Plan]
_Admits = Callable[[Rule], bool]


def _dimension(name: str, plans: _Plans, values: Iterable[tuple[str, _Admits]]) -> _Dimension:
    return _dimension_of(name, plans, ((label, admits, admits) for label, admits in values))


def _dimension_of(
    name: str, plans: _Plans, values: Iterable[tuple[str, _Admits, _Admits]]
) -> _Dimension:
    """Values that admit the same rules are one."""
    found: dict[tuple[int, int], _Value] = {}
    for label, first, second in values:
        masks = _mask(plans[0], first), _mask(plans[1], second)
        found.setdefault(masks, _Value(label, *masks))
    return _Dimension(name, tuple(found.values()))


def _mask(plan: Plan, admits: _Admits) -> int:
    return sum(1 << at for at, rule in enumerate(plan.base_rules) if admits(rule))


def _rules(plans: _Plans) -> Iterator[Rule]:
    for plan in plans:
        yield from plan.base_rules


def _holds(name: str, held: frozenset[str]) -> _Admits:
    def admits(rule: Rule) -> bool:
        wanted = rule.when.values.get(name)
        return wanted is None or not held.isdisjoint(wanted)

    return admits


def _named(plans: _Plans, name: str) -> _Dimension:
    values = {value for rule in _rules(plans) for value in rule.when.values.get(name, ())}
    listed = [("", frozenset[str]()), *((one, frozenset((one,))) for one in sorted(values))]
    return _dimension(name, plans, ((label, _holds(name, held)) for label, held in listed))


def _groups(plans: _Plans) -> _Dimension:
    """A publisher is in any of the groups at once."""
    name = "publisher_group"
    values = sorted({one for rule in _rules(plans) for one in rule.when.values.get(name, ())})
    if len(values) > _GROUPS_MAX:
        raise _TooManyError
    sets = [held for size in range(len(values) + 1) for held in combinations(values, size)]
    return _dimension(
        name, plans, ((", ".join(held), _holds(name, frozenset(held))) for held in sets)
    )


def _countries(plans: _Plans) -> list[_Dimension]:
    """The country and the regions it is in. Read from other fields, it may differ on both sides."""
    named = {one for rule in _rules(plans) for one in rule.when.values.get("country", ())}
    regions = (held for plan in plans for held in plan.regions.values())
    countries = ["", *sorted(named.union(*regions))]

    def admits(plan: Plan, country: str) -> _Admits:
        held = frozenset(name for name, members in plan.regions.items() if country in members)
        in_country = _holds("country", frozenset((country,)) if country else frozenset())
        in_region = _holds("region", held)
        return lambda rule: in_country(rule) and in_region(rule)

    before, after = plans
    if before.country_basis == after.country_basis:
        values = ((one, admits(before, one), admits(after, one)) for one in countries)
        return [_dimension_of("country", plans, values)]
    return [
        _dimension_of("country", plans, ((c, admits(before, c), _anything) for c in countries)),
        _dimension_of(
            "country_after", plans, ((c, _anything, admits(after, c)) for c in countries)
        ),
    ]


def _times(plans: _Plans, span: tuple[datetime, datetime | None]) -> _Dimension:
    start, end = span
    bounds = {at for rule in _rules(plans) for at in (rule.effective_from, rule.effective_to)}
    later = sorted(at for at in bounds if at is not None and at > start and (not end or at < end))
    values = [("", start), *((at.isoformat(), at) for at in later)]
    return _dimension("at", plans, ((label, _effective(at)) for label, at in values))


def _effective(at: datetime) -> _Admits:
    return lambda rule: rule.effective(at)


def _totals(plans: _Plans) -> _Dimension:
    bounds = {
        bound
        for rule in _rules(plans)
        for bound in (
            rule.when.min_order_minor,
            rule.when.over_order_minor,
            rule.when.max_order_minor,
        )
        if bound is not None
    }
    # Converted totals may lie between two minor units.
    points = sorted({near for one in bounds for near in (one - _HALF, Fraction(one), one + _HALF)})
    values = [("", Fraction(0)), *((_minor(one), one) for one in points)]
    return _dimension("order_minor", plans, ((label, _total(one)) for label, one in values))


_HALF = Fraction(1, 2)


def _minor(total: Fraction) -> str:
    whole = total.numerator // total.denominator
    return str(whole) if total.denominator == 1 else f"{whole}.5"


def _total(total: Fraction) -> _Admits:
    def admits(rule: Rule) -> bool:
        when = rule.when
        return not (
            (when.min_order_minor is not None and total < when.min_order_minor)
            or (when.over_order_minor is not None and total <= when.over_order_minor)
            or (when.max_order_minor is not None and total > when.max_order_minor)
        )

    return admits


def _months(plans: _Plans) -> _Dimension:
    bounds = {
        rule.when.within_months_of_first
        for rule in _rules(plans)
        if rule.when.within_months_of_first is not None
    }
    points = sorted({near for one in bounds for near in (one - 1, one) if near >= 0})

    def within(months: int | None) -> _Admits:
        def admits(rule: Rule) -> bool:
            bound = rule.when.within_months_of_first
            return bound is None or (months is not None and months < bound)

        return admits

    values = [("", within(None)), *((str(one), within(one)) for one in points)]
    return _dimension("months_since_first", plans, values)
