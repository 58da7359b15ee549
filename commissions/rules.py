"""Commission as a pure function of a plan and ordered events.

`evaluate` is the definition. What is booked for an event is the difference of two evaluations,
one without and one with it. `price_order` is the shortcut for appending one order where nothing
earlier can change; `needs_replay` says where it does not hold.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from commissions.awards import Accounts
from commissions.choosing import CounterKey, Prepared
from commissions.folding import (
    Gathered,
    Statuses,
    followed,
    gather,
    replay_span,
    sum_counters,
    without_changes,
)
from commissions.line_pay import PricedLine, Standing
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
from commissions.plan_document import Plan, PlanError, Rule, choice_key
from commissions.plan_lint import lint_rules
from commissions.plan_reading import MAX_RULES, read_program, read_rule
from commissions.priced import Priced, price_at
from commissions.quick import quick
from commissions.reading import Problems, Reader
from commissions.tiers import Number, plain

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
    counting = [(rule, rule.tiers) for rule in (*base, *bonus)]
    return replace(
        plan,
        base_rules=tuple(base),
        bonus_rules=bonus,
        warnings=(*ties, *warnings),
        counting=tuple((rule, tiers) for rule, tiers in counting if tiers and tiers.counted),
        memo={},
    )


def evaluate(plan: Plan, events: Sequence[Event]) -> dict[str, Priced]:
    """Price every conversion of the events, which stand in booking order.

    EventError when an event names an unknown conversion, repeats one, refunds more than there
    is, or needs an exchange rate the plan does not have.
    """
    gathered = gather(events)
    if quick(plan).is_usable and not any(tiers.restates for _, tiers in plan.counting):
        return _evaluate_in_order(plan, gathered)
    conversions, prepared = [], []
    for one in gathered:
        conversion, order = followed(plan, one)
        conversions.append(conversion)
        prepared.append(order)
    totals = sum_counters(prepared)
    statuses = Statuses(plan, conversions)
    running: dict[CounterKey, Number] = {}
    accounts = Accounts()
    result = {}
    for conversion, order in zip(conversions, prepared, strict=True):
        standing = Standing(running, totals, *statuses.of(conversion, order))
        left = conversion.known(None) if conversion.changes else order.remaining
        result[conversion.order.id] = price_at(plan, order, left, standing, accounts)
        _count(running, order.contributions)
    return result


def _evaluate_in_order(plan: Plan, gathered: Sequence[Gathered]) -> dict[str, Priced]:
    """`evaluate` where what was booked before an order is all that its price depends on."""
    shortcut = quick(plan)
    running: dict[CounterKey, Number] = {}
    result = {}
    for one in gathered:
        priced = None if one.changes else shortcut.price(one.order, running)
        if priced is None:
            conversion, order = followed(plan, one)
            left = conversion.known(None) if conversion.changes else order.remaining
            priced = price_at(plan, order, left, Standing(running), Accounts())
        result[one.order.id] = priced
        if priced.contributions:
            _count(running, priced.contributions)
    return result


def _count(running: dict[CounterKey, Number], added: Mapping[CounterKey, Number]) -> None:
    for key, size in added.items():
        running[key] = plain(running.get(key, 0) + size)


def price_order(plan: Plan, order: Order, counters: Mapping[CounterKey, Number]) -> Priced:
    """Price one new order, given its counters as they stood before it; absent ones are zero.

    The same result as `evaluate` over everything booked before plus this order. ValueError when
    `needs_replay`, because then other orders decide its amount or change with it.
    """
    priced = quick(plan).price(order, counters)
    if priced is not None:
        return priced
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

    So for every tier but graduated and order ones, for rolling ones, and under caps and bonuses
    awarded once.
    """
    return depends_on_others(plan, without_changes(plan, order))


def spends(plan: Plan) -> bool:
    """Whether what earlier orders were awarded decides what is left for later ones."""
    return plan.spends


def depends_on_others(plan: Plan, prepared: Prepared) -> bool:
    """`needs_replay` of an order that is prepared already."""
    if plan.spends:
        return True
    if not prepared.sizes:
        return False
    restating = {rule.id for rule, tiers in plan.counting if tiers.restates}
    return bool(restating) and any(key.rule_id in restating for key in prepared.sizes)
