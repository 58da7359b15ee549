"""Whether what one rule pays is at least what another pays, whatever the order. Pure.

Every answer leans to one side: where more cannot be proved, it is less.
"""

from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from enum import StrEnum
from itertools import pairwise
from typing import Any, NamedTuple

from commissions.plan_document import Bonus, Plan, Rule, Tiers
from commissions.tiers import ORDER_WINDOW, Level, level_at

_NOTHING = Level(0)
_ALWAYS, _FOREVER = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)
_CAP_PATHS = {
    "publisher_minor": "caps.per_publisher_window_minor",
    "publisher_count": "caps.per_publisher_window_count",
    "budget_minor": "caps.budget_minor",
    "budget_count": "caps.budget_count",
}
_ROUNDING_ORDER = ("down", "half_even", "half_up")


class Less(StrEnum):
    """Why a change counts as paying less."""

    RATE = "lower_rate"
    BASE = "other_base"
    TIERS = "other_tiers"
    COUNTER = "other_counter"
    CAP = "lower_cap"
    MINIMUM = "lower_minimum"
    MERGED = "merged"
    NO_RULE = "no_rule"
    BONUS = "lower_bonus"
    SUPPRESSED = "coupon_suppressed"
    OWNER = "coupon_owner"
    ROUNDING = "rounding"
    CURRENCY = "currency"
    CLOCK = "other_clock"
    TOO_COMPLEX = "too_complex"


class Counting(NamedTuple):
    """Whether the counter after counts all that the one before did, no more, and in equal places.

    Places are the countries and regions that a counter may be kept for.
    """

    everything: bool
    no_more: bool
    places: bool


def why_less(before: Rule, after: Rule, counting: Counting) -> str:
    """Why `after` might pay less than `before`; empty when it cannot."""
    if before.base != after.base and _uses_base(before, after):
        return Less.BASE
    if _tightened(before.per_unit_cap_minor, after.per_unit_cap_minor) or _tightened(
        before.per_order_cap_minor, after.per_order_cap_minor
    ):
        return Less.CAP
    if after.per_order_min_minor < before.per_order_min_minor:
        return Less.MINIMUM
    return _why_less_rate(before, after, counting)


def same_pay(before: Rule, after: Rule) -> bool:
    """Whether the two pay alike, whoever they are for."""
    names = (
        *("pay", "tiers", "base", "per_unit_cap_minor", "per_order_cap_minor"),
        "per_order_min_minor",
    )
    return all(getattr(before, name) == getattr(after, name) for name in names)


def pays_nothing(rule: Rule) -> bool:
    """Whether the rule pays zero for every order."""
    return not rule.per_order_min_minor and all(
        _covers(_NOTHING, level) and not level.flat_minor for level in levels_of(rule)
    )


def pays_once_an_order(rule: Rule) -> bool:
    """Whether part of what it pays does not grow with the lines it pays."""
    return bool(rule.per_order_min_minor) or any(
        level.fixed_minor or level.flat_minor for level in levels_of(rule)
    )


def levels_of(rule: Rule) -> tuple[Level, ...]:
    """Everything the rule may pay: its one rate, or its levels and what lies below the first."""
    if rule.tiers is None:
        return (rule.pay,)
    first = 1 if rule.tiers.discrete else 0
    below = () if rule.tiers.levels[0].start <= first else (_NOTHING,)
    return (*below, *rule.tiers.levels)


def why_less_plan(before: Plan, after: Plan) -> Iterator[tuple[str, str]]:
    """(path, reason) for what is not a base rule: caps, coupons, bonuses, rounding, currencies.

    A budget is compared as an amount. When it is used up depends on everybody's orders and was
    never anyone's due.
    """
    yield from _why_less_caps(before, after)
    if before.rate_clock != after.rate_clock:
        yield "rate_clock", Less.CLOCK
    for code in sorted(after.suppressed_coupons - before.suppressed_coupons):
        yield f"suppressed_coupons.{code}", Less.SUPPRESSED
    for code in sorted({*before.exclusive_coupons, *after.exclusive_coupons}):
        if before.exclusive_coupons.get(code) != after.exclusive_coupons.get(code):
            yield f"exclusive_coupons.{code}", Less.OWNER
    order = [_ROUNDING_ORDER.index(plan.rounding) for plan in (before, after)]
    if before.round_at != after.round_at or order[1] < order[0]:
        yield "rounding", Less.ROUNDING
    for currency in sorted(_currencies(before) - _currencies(after)):
        yield f"fx.rates.{currency}", Less.CURRENCY
    yield from _why_less_bonuses(before, after)


def _why_less_caps(before: Plan, after: Plan) -> Iterator[tuple[str, str]]:
    windows = [(plan.caps.window, plan.zone) for plan in (before, after)]
    for name in ("publisher_minor", "publisher_count", "budget_minor", "budget_count"):
        mine, theirs = getattr(before.caps, name), getattr(after.caps, name)
        moved = name.startswith("publisher") and windows[0] != windows[1]
        if _tightened(mine, theirs) or (theirs is not None and moved):
            yield _CAP_PATHS[name], Less.CAP


def _uses_base(before: Rule, after: Rule) -> bool:
    """Whether the base is paid a part of, or moves a counter that decides what is paid."""
    summed = any(
        one.tiers is not None and one.tiers.measure in {"sales", "commissionable"}
        for one in (before, after)
    )
    return summed or any(level.percent for level in levels_of(before))


def _why_less_rate(before: Rule, after: Rule, counting: Counting) -> str:
    most, least = _extreme(before, max), _extreme(after, min)
    mine = before.tiers
    flats = bool(mine) and any(level.flat_minor for level in levels_of(before))
    if _covers(least, most) and not flats:
        return ""
    theirs = after.tiers
    if mine is None or theirs is None:
        return Less.RATE
    if _key(mine) != _key(theirs):
        return Less.TIERS
    return _why_less_levels(mine, theirs) or _why_less_counter(before, after, counting)


def _why_less_levels(mine: Tiers, theirs: Tiers) -> str:
    starts = {0, *(level.start for level in (*mine.levels, *theirs.levels))}
    for start in starts:
        before, after = (level_at(one.levels, start) or _NOTHING for one in (mine, theirs))
        if not _covers(after, before):
            return Less.RATE
        # By order a flat amount is paid each time, otherwise when a level is entered.
        if mine.mode == "order" and after.flat_minor < before.flat_minor:
            return Less.RATE
    if mine.mode == "order" or not any(level.flat_minor for level in mine.levels):
        return ""
    flats = [[(level.start, level.flat_minor) for level in one.levels] for one in (mine, theirs)]
    same_starts = [one[0] for one in flats[0]] == [one[0] for one in flats[1]]
    if same_starts and all(after[1] >= before[1] for before, after in zip(*flats, strict=True)):
        return ""
    return Less.RATE


def _why_less_counter(before: Rule, after: Rule, counting: Counting) -> str:
    """A counter that counts less reaches its levels later."""
    mine, theirs = before.tiers, after.tiers
    if mine is None or theirs is None or mine.measure == "order_total":
        return ""
    if not _same_places(before, after, mine.scope, counting):
        return Less.COUNTER
    if mine.measure == "sales":
        # Every order in its scope counts, whichever rule pays it, while the rule is in force.
        dates = [(one.effective_from, one.effective_to) for one in (before, after)]
        return "" if dates[0] == dates[1] else Less.COUNTER
    starts, ends = _dates(before, after)
    if starts[1] > starts[0] or ends[1] < ends[0] or not counting.everything:
        return Less.COUNTER
    if counting.no_more and starts[0] == starts[1] and ends[0] == ends[1]:
        return ""
    # Where more is counted, an order may skip the level whose flat amount it was due, or another
    # publisher may enter it first.
    flats = any(level.flat_minor for level in mine.levels)
    rising = all(_covers(high, low) for low, high in pairwise(levels_of(after)))
    return "" if rising and not flats else Less.COUNTER


def _dates(before: Rule, after: Rule) -> tuple[tuple[datetime, datetime], ...]:
    """When the two begin to count, and when they end; always where each order is its own."""
    if before.tiers is None or before.tiers.window == ORDER_WINDOW:
        return (_ALWAYS, _ALWAYS), (_FOREVER, _FOREVER)
    return (
        (before.effective_from or _ALWAYS, after.effective_from or _ALWAYS),
        (before.effective_to or _FOREVER, after.effective_to or _FOREVER),
    )


def _same_places(before: Rule, after: Rule, scope: tuple[str, ...], counting: Counting) -> bool:
    if not counting.places and {"country", "region"} & set(scope):
        return False
    # Of several regions or groups the first that the rule names is the one that is counted for.
    return all(
        before.when.values.get(name) == after.when.values.get(name)
        for name in ("region", "publisher_group")
        if name in scope
    )


def _why_less_bonuses(before: Plan, after: Plan) -> Iterator[tuple[str, str]]:
    free = list(after.bonus_rules)
    for rule in before.bonus_rules:
        match = next((one for one in free if _bonus_covers(before, rule, after, one)), None)
        if match is None:
            yield f"rules.{rule.id}", Less.BONUS
        else:
            free.remove(match)


def _bonus_covers(before: Plan, mine: Rule, after: Plan, theirs: Rule) -> bool:
    first, second = mine.bonus, theirs.bonus
    if first is None or second is None:
        return False
    alike = ("when", "base", "effective_from", "effective_to")
    same_regions = "region" not in mine.when.values or before.regions == after.regions
    return (
        all(getattr(mine, name) == getattr(theirs, name) for name in alike)
        and same_regions
        and before.country_basis == after.country_basis
        and before.zone == after.zone
        and _covers(theirs.pay, mine.pay)
        and second.percent_of_commission >= first.percent_of_commission
        and mine.tiers == theirs.tiers
        and not _tightened(mine.per_unit_cap_minor, theirs.per_unit_cap_minor)
        and not _tightened(mine.per_order_cap_minor, theirs.per_order_cap_minor)
        and theirs.per_order_min_minor >= mine.per_order_min_minor
        and _as_easy(first, second)
        and (first.threshold_minor == second.threshold_minor or _is_fixed(mine))
    )


def _is_fixed(rule: Rule) -> bool:
    """Whether every order that takes the bonus takes the same; a lower threshold moves it."""
    pay, bonus = rule.pay, rule.bonus
    return not (pay.percent or pay.per_unit or (bonus and bonus.percent_of_commission))


def _as_easy(mine: Bonus, theirs: Bonus) -> bool:
    if (mine.window, mine.once_per_publisher) != (theirs.window, theirs.once_per_publisher):
        return False
    if mine.threshold_minor is None or theirs.threshold_minor is None:
        return mine.threshold_minor == theirs.threshold_minor
    return theirs.threshold_minor <= mine.threshold_minor


def _key(tiers: Tiers) -> tuple[object, ...]:
    """What decides where a counter stands and how its levels are used."""
    return (
        *(tiers.mode, tiers.measure, tiers.window, tiers.rolling_days, tiers.zone.key),
        *(tiers.scope, tiers.boundary, tiers.counts, tiers.freeze_days),
    )


def _covers(level: Level, other: Level) -> bool:
    """Whether the level pays at least as much as the other in each of its parts."""
    return (
        level.percent >= other.percent
        and level.per_unit >= other.per_unit
        and level.fixed_minor >= other.fixed_minor
    )


def _extreme(rule: Rule, pick: Callable[[Iterable[Any]], Any]) -> Level:
    """The least or the most of each part over everything the rule may pay."""
    levels = levels_of(rule)
    return Level(
        0,
        pick([level.percent for level in levels]),
        pick([level.per_unit for level in levels]),
        pick([level.fixed_minor for level in levels]),
    )


def _tightened(before: int | None, after: int | None) -> bool:
    return after is not None and (before is None or after < before)


def _currencies(plan: Plan) -> set[str]:
    rates = plan.rates.by_date.values() if plan.rates else ()
    return {plan.currency}.union(*rates)
