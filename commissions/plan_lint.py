"""What is wrong with a plan's rules taken together: ids, and ties nobody decided. Pure."""

from collections.abc import Sequence
from itertools import combinations, groupby

from commissions.plan_document import DIMENSIONS, Plan, Rule, choice_key

# One order carries one of each of these, so rules naming different values never meet. Groups
# are not among them: a publisher is in several at once.
_SINGLE = ("publisher", "coupon", "sku", "category", "customer", "country", "device", "site")

Found = list[tuple[str, str]]

MAX_FOUND = 100
MAX_NAMED = 3


def lint_rules(rules: Sequence[Rule], plan: Plan) -> tuple[Found, Found, Found]:
    """(errors, ties, warnings) by path, at most MAX_FOUND each.

    A tie that only the rule id would decide is a tie; one that a later start decides, or that
    only publishers in two groups at once could meet, is a warning.
    """
    errors: Found = []
    ties: Found = []
    warnings: Found = []
    seen: set[str] = set()
    for at, rule in enumerate(rules):
        if rule.id in seen:
            errors.append((f"rules[{at}].id", f"duplicate rule id {rule.id}"))
        seen.add(rule.id)
    base = [(at, rule) for at, rule in enumerate(rules) if rule.kind == "base"]
    base.sort(key=lambda entry: choice_key(entry[1]))
    for _, tied in groupby(base, key=lambda entry: choice_key(entry[1])[:2]):
        for (_, first), (at, second) in combinations(tied, 2):
            if _overlap(first, second) and _meet(first, second, plan):
                sure = first.effective_from == second.effective_from
                found = ties if sure and _same_group(first, second) else warnings
                found.append((f"rules[{at}]", _tie(first, second, plan)))
    return errors[:MAX_FOUND], ties[:MAX_FOUND], warnings[:MAX_FOUND]


def _tie(first: Rule, second: Rule, plan: Plan) -> str:
    """Which two rules meet, and for which lines."""
    return (
        f"ambiguous: rules {first.id} and {second.id} have the same priority "
        f"{first.priority} and specificity, and both match {_shared(first, second, plan)}"
    )


def _shared(first: Rule, second: Rule, plan: Plan) -> str:
    """What the lines have in common that both rules match."""
    parts = []
    for name in DIMENSIONS:
        mine = first.when.values.get(name)
        if mine is None:
            continue
        theirs = second.when.values[name]
        both = [value for value in mine if value in theirs]
        if name == "region":
            met = _countries(first, plan) & _countries(second, plan)
            parts.append(f"country {_some(sorted(met))}")
        elif both:
            parts.append(f"{name} {_some(both)}")
        else:
            parts.append(f"{name} {_some(mine)} together with {_some(theirs)}")
    if first.when.bound:
        parts.append("orders within the bounds of both")
    return ", ".join(parts) or "every order"


def _some(values: Sequence[str]) -> str:
    named = ", ".join(values[:MAX_NAMED])
    return f"{named} and {len(values) - MAX_NAMED} more" if len(values) > MAX_NAMED else named


def _countries(rule: Rule, plan: Plan) -> frozenset[str]:
    named = rule.when.values["region"]
    return frozenset[str]().union(*(plan.regions.get(name, ()) for name in named))


def _overlap(first: Rule, second: Rule) -> bool:
    def ends_before(one: Rule, other: Rule) -> bool:
        end, start = one.effective_to, other.effective_from
        return end is not None and start is not None and end <= start

    return not ends_before(first, second) and not ends_before(second, first)


def _meet(first: Rule, second: Rule, plan: Plan) -> bool:
    mine, theirs = first.when.values, second.when.values
    if any(not set(mine[name]) & set(theirs[name]) for name in _SINGLE if name in mine):
        return False
    if "region" in mine and not _countries(first, plan) & _countries(second, plan):
        return False
    return _order_totals_meet(first, second)


def _order_totals_meet(first: Rule, second: Rule) -> bool:
    def least(rule: Rule) -> int:
        over = rule.when.over_order_minor
        return max(rule.when.min_order_minor or 0, 0 if over is None else over + 1)

    highest = [
        rule.when.max_order_minor
        for rule in (first, second)
        if rule.when.max_order_minor is not None
    ]
    return not highest or max(least(first), least(second)) <= min(highest)


def _same_group(first: Rule, second: Rule) -> bool:
    mine, theirs = (rule.when.values.get("publisher_group") for rule in (first, second))
    return mine is None or theirs is None or bool(set(mine) & set(theirs))
