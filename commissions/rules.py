"""Commission as a pure function of a plan and ordered events.

`evaluate` is the definition. What is booked for an event is the difference of two evaluations,
one without and one with it. `price_order` is the shortcut for appending one order where nothing
earlier can change; `needs_replay` says where it does not hold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from commissions.awards import (
    Accounts,
    Award,
    award_bonuses,
    clamp,
    line_ratio,
    order_ratio,
    scaled,
    split_shares,
)
from commissions.choosing import CounterKey, Prepared, prepare, rate_used
from commissions.folding import Statuses, collect, replay_span, sum_counters, without_changes
from commissions.line_pay import PricedLine, Standing, price_lines
from commissions.order_events import (
    Change,
    Clock,
    Event,
    EventError,
    Line,
    Order,
    Remaining,
    Share,
    parse_events,
)
from commissions.plan_document import (
    MAX_RULES,
    Plan,
    PlanError,
    Rule,
    choice_key,
    read_program,
    read_rule,
)
from commissions.plan_lint import lint_rules
from commissions.reading import Problems, Reader
from commissions.tiers import Number, plain
from kernel.money import round_fraction

__all__ = [
    "Change",
    "Clock",
    "CounterKey",
    "Event",
    "EventError",
    "Line",
    "Order",
    "Plan",
    "PlanError",
    "Priced",
    "PricedLine",
    "Rule",
    "Share",
    "counter_keys",
    "evaluate",
    "needs_replay",
    "parse_events",
    "parse_plan",
    "price_order",
    "replay_span",
]


@dataclass(frozen=True, slots=True)
class Priced:
    """What one conversion is worth now, and why.

    `payees` splits `commission_minor` among publishers. `contributions` is what the conversion
    adds to each tier counter, nothing while it is held, declined or refunded in full.
    """

    commission_minor: int
    uncapped_minor: int
    status: str
    lines: tuple[PricedLine, ...]
    payees: Mapping[str, int]
    rule_ids: tuple[str, ...]
    contributions: Mapping[CounterKey, Number]
    explanation: dict[str, Any]


def parse_plan(
    document: object, rules: Sequence[object] | None = None, *, publishing: bool = True
) -> Plan:
    """Read a plan document; PlanError lists every problem by path and nothing is returned.

    `rules` may be given apart from the rest, otherwise they are the document's own. A tie that
    only rule ids decide is refused when `publishing`; a plan already published still evaluates,
    so for it the tie is only a warning.
    """
    problems: Problems = []
    reader = Reader(document, "", problems)
    plan = read_program(reader)
    if rules is None:
        readers = reader.objects("rules", limit=MAX_RULES)
    else:
        readers = Reader({"rules": rules}, "", problems).objects("rules", limit=MAX_RULES)
    reader.finish()
    parsed = [read_rule(one, plan) for one in readers]
    if not parsed:
        problems.append(("rules", "names at least one rule"))
    if problems:
        raise PlanError(problems)
    errors, ties, warnings = lint_rules(parsed, plan)
    if errors or (publishing and ties):
        raise PlanError([*errors, *ties])
    base = sorted((rule for rule in parsed if rule.kind == "base"), key=choice_key)
    bonus = tuple(rule for rule in parsed if rule.kind == "bonus")
    found = (*ties, *warnings)
    return replace(
        plan,
        base_rules=tuple(base),
        bonus_rules=bonus,
        warnings=found,
        attributes=tuple(sorted({name for rule in base for name in rule.when.values})),
        chooses_by_attributes=not any(
            rule.when.bound or rule.effective_from or rule.effective_to for rule in base
        ),
        choices={},
        counting=tuple((rule, rule.tiers) for rule in base if rule.tiers and rule.tiers.counted),
    )


def evaluate(plan: Plan, events: Sequence[Event]) -> dict[str, Priced]:
    """Price every conversion of the events, which stand in booking order.

    EventError when an event names an unknown conversion, repeats one, refunds more than there
    is, or needs an exchange rate the plan does not have.
    """
    conversions = collect(plan, events)
    prepared = [prepare(plan, one.known(one.freeze_at), on_time=one.on_time) for one in conversions]
    totals = sum_counters(prepared)
    statuses = Statuses(plan, conversions)
    running: dict[CounterKey, Number] = {}
    accounts = Accounts()
    result = {}
    for one, order in zip(conversions, prepared, strict=True):
        standing = Standing(running, totals, statuses.of(one, order))
        result[one.order.id] = price_at(plan, order, one.known(None), standing, accounts)
        for key, size in order.contributions.items():
            running[key] = plain(running.get(key, 0) + size)
    return result


def price_order(plan: Plan, order: Order, counters: Mapping[CounterKey, Number]) -> Priced:
    """Price one new order, given its counters as they stood before it; absent ones are zero.

    The same result as `evaluate` over everything booked before plus this order. ValueError when
    `needs_replay`, because then other orders decide its amount or change with it.
    """
    prepared = without_changes(plan, order)
    if depends_on_others(plan, prepared):
        raise ValueError("this order needs a replay of its window")
    return price_prepared(plan, prepared, counters)


def price_prepared(
    plan: Plan,
    prepared: Prepared,
    counters: Mapping[CounterKey, Number],
    after: Remaining | None = None,
) -> Priced:
    """`price_order` of an order that is prepared already and known to need no replay.

    `after` is what is left of it now, where something has happened to it after the freeze.
    """
    left = prepared.remaining if after is None else after
    return price_at(plan, prepared, left, Standing(counters), Accounts())


def counter_keys(plan: Plan, order: Order) -> tuple[CounterKey, ...]:
    """The counters `price_order` reads and booking this order moves, in a stable order."""
    return tuple(sorted(without_changes(plan, order).sizes))


def needs_replay(plan: Plan, order: Order) -> bool:
    """Whether appending this order must go through `evaluate`.

    So for every tier but graduated and order ones, and under caps and bonuses awarded once.
    """
    return depends_on_others(plan, without_changes(plan, order))


def spends(plan: Plan) -> bool:
    """Whether what earlier orders were awarded decides what is left for later ones."""
    if plan.publisher_cap_minor is not None or plan.budget_minor is not None:
        return True
    return any(rule.bonus and rule.bonus.awarded_once for rule in plan.bonus_rules)


def depends_on_others(plan: Plan, prepared: Prepared) -> bool:
    """`needs_replay` of an order that is prepared already."""
    if spends(plan):
        return True
    if not prepared.sizes:
        return False
    restating = {
        rule.id for rule in plan.base_rules if rule.tiers and rule.tiers.mode != "graduated"
    }
    return any(key.rule_id in restating for key in prepared.sizes)


def price_at(
    plan: Plan, prepared: Prepared, after: Remaining, standing: Standing, accounts: Accounts
) -> Priced:
    """One conversion, from its lines to its payees; `after` includes events after the freeze."""
    lines = price_lines(plan, prepared, standing)
    awards = award_bonuses(plan, prepared, lines, accounts)
    uncapped_minor = _sum(lines) + _sum(awards)
    commission_minor, cuts = clamp(plan, prepared, uncapped_minor, accounts)
    late = after is not prepared.remaining and after != prepared.remaining
    if late:
        early = prepared.remaining
        lines = [scaled(plan, line, line_ratio(early, after, at)) for at, line in enumerate(lines)]
        ratio = order_ratio(early, after)
        awards = [scaled(plan, award, ratio) for award in awards]
        kept = Fraction(commission_minor, uncapped_minor) if uncapped_minor else Fraction(1)
        uncapped_minor = _sum(lines) + _sum(awards)
        commission_minor = round_fraction(uncapped_minor * kept, plan.rounding)
    payees = split_shares(prepared, commission_minor)
    suppressed = prepared.subject.coupon_effect == "suppressed"
    status = "suppressed" if suppressed else after.status
    winners = {line.rule_id for line in lines if line.rule_id is not None}
    explanation = {
        **_circumstances(plan, prepared),
        "status": status,
        "after_freeze": late,
        "lines": [
            {**line.explanation, "commission_minor": line.commission_minor} for line in lines
        ],
        "bonuses": [_award_trace(award) for award in awards],
        "uncapped_minor": uncapped_minor,
        "caps": cuts,
        "commission_minor": commission_minor,
        "payees": payees,
    }
    return Priced(
        commission_minor=commission_minor,
        uncapped_minor=uncapped_minor,
        status=status,
        lines=tuple(lines),
        payees=payees,
        rule_ids=tuple(sorted(winners | {award.rule_id for award in awards})),
        contributions=prepared.contributions,
        explanation=explanation,
    )


def _circumstances(plan: Plan, prepared: Prepared) -> dict[str, Any]:
    order, subject = prepared.order, prepared.subject
    return {
        "conversion": order.id,
        "currency": plan.currency,
        "order_currency": order.currency or plan.currency,
        "publisher": subject.publisher,
        "coupon": order.coupon,
        "coupon_effect": subject.coupon_effect,
        "country": subject.country,
        "country_source": subject.country_source,
        "regions": list(subject.regions),
        "rounding": plan.rounding,
        "round_at": plan.round_at,
        **_facts(order, subject.groups),
        **_rate(plan, order),
    }


def _facts(order: Order, groups: Sequence[str]) -> dict[str, Any]:
    """What else rules can look at, where it is known."""
    known = {
        "customer": order.customer,
        "device": order.device,
        "site": order.site,
        "months_since_first": order.months_since_first,
        "publisher_groups": list(groups) or None,
    }
    return {name: value for name, value in known.items() if value is not None}


def _rate(plan: Plan, order: Order) -> dict[str, Any]:
    used = rate_used(plan, order)
    if used is None:
        return {}
    return {"rate": {"value": str(used.value), "day": used.day, "source": used.source}}


def _award_trace(award: Award) -> dict[str, Any]:
    return {
        "rule_id": award.rule_id,
        "exact": str(award.exact),
        "commission_minor": award.commission_minor,
        "why": award.why,
    }


def _sum(parts: Sequence[PricedLine] | Sequence[Award]) -> int:
    return sum(part.commission_minor for part in parts)
