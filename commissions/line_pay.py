"""What each line of one order is paid, given where the counters stand. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any, NamedTuple

from commissions import matching
from commissions.choosing import CounterKey, Place, Prepared
from commissions.plan_document import Plan, Rule, Tiers
from commissions.tiers import (
    Level,
    Number,
    Slice,
    entered,
    level_at,
    reaches,
    split,
    whole,
)
from kernel.money import allocate, round_fraction

_NOTHING: Mapping[CounterKey, Number] = {}
_WHOLE = Fraction(1)


@dataclass(slots=True)
class Standing:
    """The counters an order meets; absent ones are zero.

    `running` is what was booked before the order, `totals` the whole window for volume tiers,
    `status` the measure that decides a status tier for this order, and `trailing` where rolling
    counters stood before it.
    """

    running: Mapping[CounterKey, Number]
    totals: Mapping[CounterKey, Number] = field(default_factory=dict)
    status: Mapping[CounterKey, Number] = field(default_factory=dict)
    trailing: Mapping[CounterKey, Number] = field(default_factory=dict)

    def before(self, tiers: Tiers, key: CounterKey) -> Number:
        """Where the counter stood when the order came."""
        return (self.trailing if tiers.rolling_days else self.running).get(key, 0)


class TierStep(NamedTuple):
    """What a counter decided for a line."""

    tiers: Tiers
    key: CounterKey
    before: Number
    size: Number
    decided_by: Number | None = None

    def trace(self, flat_minor: int | None) -> dict[str, Any]:
        """The step as an explanation shows it."""
        traced: dict[str, Any] = {
            "mode": self.tiers.mode,
            "measure": self.tiers.measure,
            "scope": dict(self.key.scope),
            "window_start": self.key.window_start,
            "before": str(self.before),
            "after": str(self.before + self.size),
        }
        if self.decided_by is not None:
            traced["decided_by"] = str(self.decided_by)
        return traced if flat_minor is None else {**traced, "flat_minor": flat_minor}


class LineFacts(NamedTuple):
    """What a line's amount was made of. `tier` is None without tiers, and under order tiers."""

    plan: Plan
    prepared: Prepared
    at: int
    slices: Sequence[Slice] = ()
    tier: TierStep | None = None
    fixed_minor: int | None = None
    flat_minor: int | None = None
    uncapped: Number | None = None
    exact: Number = 0
    clamped_from_minor: int | None = None

    def explanation(self) -> dict[str, Any]:
        """The line's trace; everything but what it came to in the end."""
        prepared, at = self.prepared, self.at
        rule, line = prepared.winners[at], prepared.figures[at]
        why, losers = matching.chooser(self.plan).reasons(
            prepared.order,
            prepared.subject,
            prepared.remaining.lines[at].line,
            prepared.rated_at,
            prepared.total,
        )
        trace: dict[str, Any] = {
            "line": at,
            "rule_id": rule.id if rule else None,
            "why": why,
            "losers": [{"rule_id": name, "reason": reason} for name, reason in losers],
        }
        if rule is None or not self.slices:
            return {**trace, "exact": "0"}
        trace |= {"base": rule.base, "base_minor": str(line.base(rule)), "qty": line.qty}
        reported = prepared.remaining.lines[at].line
        if reported.gross_minor is not None:
            trace |= {
                "vat_derived": True,
                "gross_minor": reported.gross_minor,
                "vat_percent": str(reported.vat_percent),
                "net_minor": reported.derived_net_minor,
            }
        if rule.per_unit_cap_minor is not None:
            cap = rule.per_unit_cap_minor * line.qty
            trace["per_unit_cap"] = {"cap_minor": str(cap), "uncapped": str(self.uncapped)}
        if self.fixed_minor is not None:
            trace["fixed_minor"] = self.fixed_minor
        trace |= {
            "tier": self._tier(rule),
            "exact": str(self.exact),
            "rounding": self.plan.rounding,
            "slices": [_slice_trace(part) for part in self.slices],
        }
        if self.clamped_from_minor is not None:
            trace["per_order_clamped_from_minor"] = self.clamped_from_minor
        return trace

    def _tier(self, rule: Rule) -> dict[str, Any] | None:
        if rule.tiers is None:
            return None
        if self.tier is not None:
            return self.tier.trace(self.flat_minor)
        traced: dict[str, Any] = {"mode": "order"}
        if rule.tiers.measure != "order_total":
            traced["of"] = rule.tiers.measure
        return traced if self.flat_minor is None else {**traced, "flat_minor": self.flat_minor}


@dataclass(slots=True)
class PricedLine:
    """One line's commission and what it was made of; `exact` is before the rounding."""

    rule_id: str | None
    exact: Number
    commission_minor: int
    facts: LineFacts

    @property
    def explanation(self) -> Mapping[str, Any]:
        """The line's trace."""
        return self.facts.explanation()


def price_lines(plan: Plan, prepared: Prepared, standing: Standing) -> list[PricedLine]:
    """Price every line: exact, capped per unit, rounded once, then clamped per order and rule."""
    paid: set[str | CounterKey] = set()
    lines = [_price_line(plan, prepared, at, standing, paid) for at in range(len(prepared.figures))]
    if plan.round_at == "order":
        exact = [line.exact for line in lines]
        if any(exact):
            total_minor = round_fraction(sum(exact, Fraction(0)), plan.rounding)
            parts = allocate(total_minor, exact)
            lines = [
                replace(line, commission_minor=part)
                for line, part in zip(lines, parts, strict=True)
            ]
    if any(rule and _is_clamped(rule) for rule in prepared.winners):
        return _clamp_orders(prepared, lines)
    return lines


def _is_clamped(rule: Rule) -> bool:
    return rule.per_order_cap_minor is not None or bool(rule.per_order_min_minor)


def _price_line(
    plan: Plan,
    prepared: Prepared,
    at: int,
    standing: Standing,
    paid: set[str | CounterKey],
) -> PricedLine:
    rule, line = prepared.winners[at], prepared.figures[at]
    if rule is None or not prepared.live or not line.alive:
        facts = LineFacts(plan, prepared, at)
        return PricedLine(rule.id if rule else None, 0, 0, facts)
    place = prepared.places[at]
    slices, tier = slices_of(rule, prepared, at, place, standing)
    exact = uncapped = slices_pay(slices, line.base(rule), line.qty)
    if rule.per_unit_cap_minor is not None:
        exact = min(exact, Fraction(rule.per_unit_cap_minor * line.qty))
    # What is paid once an order goes to the first of the lines that share it.
    fixed_minor = flat_minor = None
    if rule.id not in paid:
        paid.add(rule.id)
        fixed_minor = slices[0].level.fixed_minor if slices[0].level else 0
        exact += fixed_minor
    if rule.tiers is not None:
        flat_key = place.key if place else CounterKey(rule.id, (), "order")
        if flat_key not in paid:
            paid.add(flat_key)
            flat_minor = flat_of(rule.tiers, prepared, slices, standing, flat_key)
            exact += flat_minor
    facts = LineFacts(plan, prepared, at, slices, tier, fixed_minor, flat_minor, uncapped, exact)
    return PricedLine(rule.id, exact, round_fraction(exact, plan.rounding), facts)


def slices_pay(slices: Sequence[Slice], base: Number, qty: int) -> Number:
    """What the slices of a line pay in percent and per unit, exact."""
    if len(slices) == 1:
        return _rate_pay(slices[0].level, base, qty)
    return sum((part.share * _rate_pay(part.level, base, qty) for part in slices), Fraction(0))


def _rate_pay(level: Level | None, base: Number, qty: int) -> Number:
    if level is None:
        return 0
    # Most rates are percentages alone, and exact sums cost more than looking.
    pay = level.percent * base
    return pay + level.per_unit * qty if level.per_unit else pay


def _slice_trace(part: Slice) -> dict[str, Any]:
    level = part.level
    trace: dict[str, Any] = {"size": str(part.size), "share": str(part.share)}
    if level is None:
        trace["level"] = None
    else:
        trace["level"] = level.start
        trace["percent"], trace["per_unit"] = level.words
    return trace


def slices_of(
    rule: Rule, prepared: Prepared, at: int, place: Place | None, standing: Standing
) -> tuple[list[Slice], TierStep | None]:
    """The levels a line is paid at, and the step of the counter that decided it."""
    tiers = rule.tiers
    if tiers is None:
        return [Slice(rule.pay, prepared.figures[at].qty, _WHOLE)], None
    if place is None:
        measure = _order_measure(rule, tiers, prepared)
        return [Slice(level_at(tiers.levels, measure), measure, _WHOLE)], None
    before = standing.before(tiers, place.key) + place.offset
    if tiers.mode != "graduated":
        level, decided_by = _whole_level(tiers, place.key, place.size, standing)
        step = TierStep(tiers, place.key, before, place.size, decided_by)
        return [Slice(level, place.size, _WHOLE)], step
    step = TierStep(tiers, place.key, before, place.size)
    if tiers.boundary == "split":
        return split(tiers.levels, before, place.size, discrete=tiers.discrete), step
    start, order_size = standing.before(tiers, place.key), prepared.sizes[place.key]
    one = whole(tiers.levels, start, order_size, tiers.boundary, discrete=tiers.discrete)
    return [Slice(one, place.size, _WHOLE)], step


def _order_measure(rule: Rule, tiers: Tiers, prepared: Prepared) -> Number:
    """What an order tier looks at: the basket, or what of it the rule pays."""
    if tiers.measure == "order_total":
        return prepared.total
    own = [
        line
        for line, winner in zip(prepared.figures, prepared.winners, strict=True)
        if line.alive and (winner is rule or rule.kind == "bonus")
    ]
    if tiers.measure == "count":
        return 1
    if tiers.measure == "units":
        return sum(line.qty for line in own)
    return sum((line.base(rule) for line in own), 0)


def _whole_level(
    tiers: Tiers, key: CounterKey, size: Number, standing: Standing
) -> tuple[Level | None, Number]:
    """The one level of a volume or status tier, and the measure that decided it."""
    if tiers.rolling_days:
        # Looked at once, when the order was booked, and with it: there is no window to restate.
        measure = standing.status.get(key, standing.trailing.get(key, 0) + size)
        return _entry_level(tiers, measure), measure
    if tiers.mode == "status":
        measure = standing.status.get(key, 0)
        return _entry_level(tiers, measure), measure
    # A held order counts for nothing, yet the first unit of a window is never unit zero.
    measure = max(standing.totals.get(key, 0), 1 if tiers.discrete else 0)
    return level_at(tiers.levels, measure), measure


def _entry_level(tiers: Tiers, measure: Number) -> Level | None:
    level = level_at(tiers.levels, measure)
    return tiers.levels[0] if level is None and tiers.mode == "status" else level


def flat_of(
    tiers: Tiers,
    prepared: Prepared,
    slices: Sequence[Slice],
    standing: Standing,
    key: CounterKey,
) -> int:
    """The flat amounts an order earns by moving the counter; an uncounted order moves none.

    Graduated: those of the levels it enters. Volume: that of its level, where it first reaches it.
    Status: that of its level, where it is the window's first, or reaches it while the window rolls.
    """
    level = slices[0].level
    if tiers.mode == "order":
        return level.flat_minor if level else 0
    before = standing.before(tiers, key)
    after = before + prepared.contributions.get(key, 0)
    if tiers.mode == "graduated":
        reached = entered(tiers.levels, before, after, discrete=tiers.discrete)
        return sum(each.flat_minor for each in reached)
    if level is None:
        return 0
    if tiers.mode == "status" and not tiers.rolling_days:
        return level.flat_minor if before == 0 < after else 0
    return level.flat_minor if reaches(level, before, after) else 0


def _clamp_orders(prepared: Prepared, lines: list[PricedLine]) -> list[PricedLine]:
    """Apply each rule's minimum and maximum per order, spread over its lines."""
    for rule in {winner.id: winner for winner in prepared.winners if winner}.values():
        members = [
            at
            for at, line in enumerate(lines)
            if line.rule_id == rule.id and prepared.live and prepared.figures[at].alive
        ]
        amounts = [lines[at].commission_minor for at in members]
        clamped = clamp_order(rule, sum(amounts))
        if not members or clamped == sum(amounts):
            continue
        weights = amounts if any(amounts) else [1] * len(members)
        for at, part in zip(members, allocate(clamped, weights), strict=True):
            facts = lines[at].facts._replace(clamped_from_minor=sum(amounts))
            lines[at] = replace(lines[at], commission_minor=part, facts=facts)
    return lines


def clamp_order(rule: Rule, amount_minor: int) -> int:
    """An order's amount within the rule's minimum and maximum."""
    clamped = max(amount_minor, rule.per_order_min_minor)
    maximum = rule.per_order_cap_minor
    return clamped if maximum is None else min(clamped, maximum)
