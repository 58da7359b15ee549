"""What each line of one order is paid, given where the counters stand. Pure."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import Any

from commissions.choosing import CounterKey, Prepared
from commissions.plan_document import Plan, Rule, Tiers
from commissions.tiers import (
    Level,
    Number,
    Slice,
    entered,
    level_at,
    plain,
    reaches,
    split,
    whole,
)
from kernel.money import allocate, round_fraction


@dataclass(frozen=True, slots=True)
class Standing:
    """The counters an order meets.

    `running` is what was booked before the order, `totals` the whole window for volume tiers and
    `status` the measure that decides a status tier for this order.
    """

    running: Mapping[CounterKey, Number]
    totals: Mapping[CounterKey, Number] = field(default_factory=dict)
    status: Mapping[CounterKey, Number] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PricedLine:
    """One line's commission and its trace; `exact` is before the rounding."""

    rule_id: str | None
    exact: Fraction
    commission_minor: int
    explanation: Mapping[str, Any]


def price_lines(plan: Plan, prepared: Prepared, standing: Standing) -> list[PricedLine]:
    """Price every line: exact, capped per unit, rounded once, then clamped per order and rule."""
    paid: set[str | CounterKey] = set()
    lines = [_price_line(plan, prepared, at, standing, paid) for at in range(len(prepared.figures))]
    if plan.round_at == "order":
        exact = [line.exact for line in lines]
        total_minor = round_fraction(sum(exact, Fraction(0)), plan.rounding)
        if any(exact):
            parts = allocate(total_minor, exact)
            lines = [
                replace(line, commission_minor=part)
                for line, part in zip(lines, parts, strict=True)
            ]
    return _clamp_orders(prepared, lines)


def _price_line(
    plan: Plan,
    prepared: Prepared,
    at: int,
    standing: Standing,
    paid: set[str | CounterKey],
) -> PricedLine:
    choice, line = prepared.choices[at], prepared.figures[at]
    rule = choice.rule
    trace: dict[str, Any] = {
        "line": at,
        "rule_id": rule.id if rule else None,
        "why": choice.why,
        "losers": [{"rule_id": name, "reason": reason} for name, reason in choice.losers],
    }
    if rule is None or not prepared.live or not line.alive:
        return PricedLine(trace["rule_id"], Fraction(0), 0, {**trace, "exact": "0"})
    base = line.base(rule)
    slices, tier = _slices(rule, prepared, at, standing)
    exact = _slices_pay(slices, base, line.qty)
    trace |= {"base": rule.base, "base_minor": str(base), "qty": line.qty}
    reported = prepared.remaining.lines[at].line
    if reported.gross_minor is not None:
        trace |= {
            "vat_derived": True,
            "gross_minor": reported.gross_minor,
            "vat_percent": str(reported.vat_percent),
            "net_minor": reported.derived_net_minor,
        }
    if rule.per_unit_cap_minor is not None:
        cap = Fraction(rule.per_unit_cap_minor * line.qty)
        trace["per_unit_cap"] = {"cap_minor": str(cap), "uncapped": str(exact)}
        exact = min(exact, cap)
    # What is paid once an order goes to the first of the lines that share it.
    if rule.id not in paid:
        paid.add(rule.id)
        fixed = slices[0].level.fixed_minor if slices[0].level else 0
        trace["fixed_minor"] = fixed
        exact += fixed
    place = prepared.places[at]
    flat_key = place.key if place else CounterKey(rule.id, (), "order")
    if tier and flat_key not in paid:
        paid.add(flat_key)
        tier["flat_minor"] = _flat(rule, prepared, slices, standing, flat_key)
        exact += tier["flat_minor"]
    rounded = round_fraction(exact, plan.rounding)
    trace |= {"tier": tier, "exact": str(exact), "rounding": plan.rounding}
    trace["slices"] = [_slice_trace(part) for part in slices]
    return PricedLine(rule.id, exact, rounded, trace)


def _slices_pay(slices: Sequence[Slice], base: Fraction, qty: int) -> Fraction:
    if len(slices) == 1 and slices[0].share == 1:
        return _rate_pay(slices[0].level, base, qty)
    return sum((part.share * _rate_pay(part.level, base, qty) for part in slices), Fraction(0))


def _rate_pay(level: Level | None, base: Fraction, qty: int) -> Fraction:
    if level is None:
        return Fraction(0)
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


def _slices(
    rule: Rule, prepared: Prepared, at: int, standing: Standing
) -> tuple[list[Slice], dict[str, Any] | None]:
    """The levels the line is paid at, and the trace of the counter that decided it."""
    tiers, place = rule.tiers, prepared.places[at]
    if tiers is None:
        return [Slice(rule.pay, prepared.figures[at].qty, Fraction(1))], None
    if place is None:
        level = level_at(tiers.levels, prepared.total)
        return [Slice(level, plain(prepared.total), Fraction(1))], {"mode": "order"}
    before = standing.running.get(place.key, 0) + place.offset
    tier: dict[str, Any] = {
        "mode": tiers.mode,
        "measure": tiers.measure,
        "scope": dict(place.key.scope),
        "window_start": place.key.window_start,
        "before": str(before),
        "after": str(before + place.size),
    }
    if tiers.mode != "graduated":
        return [_whole_slice(tiers, place.key, place.size, standing, tier)], tier
    slices = _graduated(
        tiers, place.key, before=before, size=place.size, prepared=prepared, standing=standing
    )
    return slices, tier


def _whole_slice(
    tiers: Tiers, key: CounterKey, size: Number, standing: Standing, tier: dict[str, Any]
) -> Slice:
    level: Level | None
    if tiers.mode == "status":
        measure = standing.status.get(key, 0)
        level = level_at(tiers.levels, measure) or tiers.levels[0]
    else:
        # A held order counts for nothing, yet the first unit of a window is never unit zero.
        measure = max(standing.totals.get(key, 0), 1 if tiers.discrete else 0)
        level = level_at(tiers.levels, measure)
    tier["decided_by"] = str(measure)
    return Slice(level, size, Fraction(1))


def _graduated(
    tiers: Tiers,
    key: CounterKey,
    *,
    before: Number,
    size: Number,
    prepared: Prepared,
    standing: Standing,
) -> list[Slice]:
    if tiers.boundary == "split":
        return split(tiers.levels, before, size, discrete=tiers.discrete)
    start, order_size = standing.running.get(key, 0), prepared.sizes[key]
    one = whole(tiers.levels, start, order_size, tiers.boundary, discrete=tiers.discrete)
    return [Slice(one, size, Fraction(1))]


def _flat(
    rule: Rule, prepared: Prepared, slices: Sequence[Slice], standing: Standing, key: CounterKey
) -> int:
    """The flat amounts this order earns by moving the counter; an uncounted order moves none."""
    tiers, level = rule.tiers, slices[0].level
    if tiers is None:
        return 0
    if tiers.mode == "order":
        return level.flat_minor if level else 0
    before = standing.running.get(key, 0)
    after = before + prepared.contributions.get(key, 0)
    if tiers.mode == "graduated":
        reached = entered(tiers.levels, before, after, discrete=tiers.discrete)
        return sum(each.flat_minor for each in reached)
    return level.flat_minor if level and reaches(level, before, after) else 0


def _clamp_orders(prepared: Prepared, lines: list[PricedLine]) -> list[PricedLine]:
    """Apply each rule's minimum and maximum per order, spread over its lines."""
    rules = {choice.rule.id: choice.rule for choice in prepared.choices if choice.rule}
    for rule in rules.values():
        members = [
            at
            for at, line in enumerate(lines)
            if line.rule_id == rule.id and prepared.live and prepared.figures[at].alive
        ]
        amounts = [lines[at].commission_minor for at in members]
        clamped = max(sum(amounts), rule.per_order_min_minor)
        if rule.per_order_cap_minor is not None:
            clamped = min(clamped, rule.per_order_cap_minor)
        if not members or clamped == sum(amounts):
            continue
        weights = amounts if any(amounts) else [1] * len(members)
        for at, part in zip(members, allocate(clamped, weights), strict=True):
            trace = {**lines[at].explanation, "per_order_clamped_from_minor": sum(amounts)}
            lines[at] = replace(lines[at], commission_minor=part, explanation=trace)
    return lines
