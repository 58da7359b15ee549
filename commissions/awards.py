"""What is decided above the lines: bonuses, caps, late refunds and shares. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple, TypeVar

from commissions import matching
from commissions.choosing import CounterKey, Prepared
from commissions.line_pay import (
    PricedLine,
    Standing,
    clamp_order,
    flat_of,
    slices_of,
)
from commissions.order_events import Remaining
from commissions.plan_document import Bonus, Caps, Plan, Rule, Tiers
from commissions.tiers import Level, Number, Slice, window_of
from kernel.money import allocate, round_fraction


@dataclass(frozen=True, slots=True)
class Award:
    """A bonus rule's amount on one order and the sentence for it."""

    rule_id: str
    exact: Number
    commission_minor: int
    why: str


_Part = TypeVar("_Part", PricedLine, Award)


class Accounts:
    """What bonuses awarded once and caps have used up so far, in booking order."""

    def __init__(self) -> None:
        self._totals: dict[tuple[str, ...], Number] = {}

    def total(self, *key: str) -> Number:
        """The running total, 0 before anything was added."""
        return self._totals.get(key, 0)

    def add(self, *key: str, amount: Number) -> None:
        """Move the running total."""
        self._totals[key] = self.total(*key) + amount


class _Matched(NamedTuple):
    """A bonus rule and the lines of an order that it matches."""

    rule: Rule
    prepared: Prepared
    at: Sequence[int]
    lines: Sequence[PricedLine]

    def base(self) -> Number:
        """What the rule's percentages apply to."""
        return sum((self.prepared.figures[at].base(self.rule) for at in self.at), 0)

    def pay(self, level: Level, of_commission: Fraction) -> Number:
        """What a level pays for the lines, with what it pays once an order."""
        per_line = sum((self.line_pay(at, level, of_commission) for at in self.at), 0)
        return per_line + level.fixed_minor

    def line_pay(self, at: int, level: Level, of_commission: Fraction) -> Number:
        """What a level pays for one line, not above the cap per unit."""
        line = self.prepared.figures[at]
        pay: Number = level.percent * line.base(self.rule) + level.per_unit * line.qty
        pay += of_commission * self.lines[at].commission_minor
        cap = self.rule.per_unit_cap_minor
        return pay if cap is None else min(pay, Fraction(cap * line.qty))


def award_bonuses(
    plan: Plan,
    prepared: Prepared,
    lines: Sequence[PricedLine],
    standing: Standing,
    accounts: Accounts,
) -> list[Award]:
    """Every bonus rule that matches a live line adds up, each rounded once."""
    awards: list[Award] = []
    if not plan.bonus_rules or not prepared.live:
        return awards
    values = [
        matching.attributes(prepared.order, prepared.subject, line.line)
        for line in prepared.remaining.lines
    ]
    for rule in plan.bonus_rules:
        matched = [
            at
            for at, line in enumerate(prepared.figures)
            if line.alive and _matches(rule, prepared, values[at])
        ]
        if not matched or rule.bonus is None:
            continue
        one = _Matched(rule, prepared, matched, lines)
        exact, why = _bonus(plan, one, rule.bonus, standing, accounts)
        rounded = round_fraction(exact, plan.rounding)
        # A bonus that this order does not get has no minimum to be lifted to.
        rounded = clamp_order(rule, rounded) if rounded else 0
        awards.append(Award(rule.id, exact, rounded, why))
    return awards


def _matches(rule: Rule, prepared: Prepared, values: matching.Attributes) -> bool:
    order, total = prepared.order, prepared.total
    return matching.why_not(rule, order, values, prepared.rated_at, total) is None


def _bonus(
    plan: Plan, one: _Matched, bonus: Bonus, standing: Standing, accounts: Accounts
) -> tuple[Number, str]:
    if one.rule.tiers is not None:
        return _tiered(one, one.rule.tiers, standing), "matches the order"
    if not bonus.awarded_once:
        return one.pay(one.rule.pay, bonus.percent_of_commission), "matches the order"
    # A bonus that the first order to reach it gets; an order that does not count gets none.
    if not one.prepared.counted:
        return 0, "the order does not count"
    is_first, why = _reaches(plan, one, bonus, accounts)
    return (one.pay(one.rule.pay, bonus.percent_of_commission) if is_first else 0), why


def _reaches(plan: Plan, one: _Matched, bonus: Bonus, accounts: Accounts) -> tuple[bool, str]:
    publisher = one.prepared.subject.publisher
    start, _ = window_of(bonus.window, one.prepared.order.at, plan.zone)
    key = ("bonus", one.rule.id, publisher, start.isoformat() if start else "")
    before = accounts.total(*key)
    if bonus.threshold_minor is None:
        accounts.add(*key, amount=1)
        is_first = before == 0
        return is_first, "the publisher's first" if is_first else "not the publisher's first"
    base = one.base()
    accounts.add(*key, amount=base)
    is_first = before < bonus.threshold_minor <= before + base
    why = f"sales of the window went from {before} to {before + base}"
    if not is_first or not bonus.once_per_publisher:
        return is_first, why
    ever = ("bonus", one.rule.id, publisher, "ever")
    accounts.add(*ever, amount=1)
    if accounts.total(*ever) > 1:
        return False, "not the publisher's first"
    return True, why


def _tiered(one: _Matched, tiers: Tiers, standing: Standing) -> Number:
    """A bonus paid by levels, line by line as a base rule is."""
    places = one.prepared.bonus_places.get(one.rule.id, (None,) * len(one.prepared.figures))
    paid: set[CounterKey] = set()
    exact: Number = 0
    for number, at in enumerate(one.at):
        place = places[at]
        slices, _ = slices_of(one.rule, one.prepared, at, place, standing)
        exact += _capped(one, at, slices)
        if number == 0 and slices[0].level:
            exact += slices[0].level.fixed_minor
        key = place.key if place else CounterKey(one.rule.id, (), "order")
        if key not in paid:
            paid.add(key)
            exact += flat_of(tiers, one.prepared, slices, standing, key)
    return exact


def _capped(one: _Matched, at: int, slices: Sequence[Slice]) -> Number:
    pay: Number = sum(
        (
            part.share * one.line_pay(at, part.level, part.level.of_commission)
            for part in slices
            if part.level
        ),
        0,
    )
    return pay


def clamp(
    plan: Plan, prepared: Prepared, amount_minor: int, accounts: Accounts
) -> tuple[int, list[dict[str, object]]]:
    """What the caps leave of an amount, and what each of them cut.

    The publisher's window first, then the budget. An order above a number of orders is worth
    nothing, unless somebody has approved it by hand.
    """
    if not plan.caps.by_publisher and not plan.caps.in_all:
        return amount_minor, []
    caps, at = plan.caps, prepared.order.at
    start, end = window_of(caps.window, at, plan.zone)
    if start is not None and end is not None and not start <= at < end:
        # Outside a campaign its caps are not asked.
        caps = replace(caps, publisher_minor=None, publisher_count=None)
    account = ("publisher", prepared.subject.publisher, start.isoformat() if start else "")
    cuts: list[dict[str, object]] = []
    amount_minor = _clamp_count(caps, account, prepared, amount_minor, accounts, cuts)
    return _clamp_sum(caps, account, amount_minor, accounts, cuts), cuts


def _clamp_count(  # noqa: PLR0917 - one step of `clamp`
    caps: Caps,
    account: tuple[str, ...],
    prepared: Prepared,
    amount_minor: int,
    accounts: Accounts,
    cuts: list[dict[str, object]],
) -> int:
    if not prepared.counted:
        return amount_minor
    for name, cap_count, key in (
        ("publisher_count", caps.publisher_count, ("count", *account)),
        ("budget_count", caps.budget_count, ("count", "budget")),
    ):
        if cap_count is None:
            continue
        is_over = accounts.total(*key) >= cap_count
        accounts.add(*key, amount=1)
        if is_over and prepared.remaining.decision != "approved" and amount_minor:
            cuts.append({"cap": name, "cap_count": cap_count, "from": amount_minor})
            amount_minor = 0
    return amount_minor


def _clamp_sum(
    caps: Caps,
    account: tuple[str, ...],
    amount_minor: int,
    accounts: Accounts,
    cuts: list[dict[str, object]],
) -> int:
    spending: list[tuple[int, tuple[str, ...]]] = []
    if caps.publisher_minor is not None:
        spending.append((caps.publisher_minor, account))
    if caps.budget_minor is not None:
        spending.append((caps.budget_minor, ("budget",)))
    for cap_minor, key in spending:
        room = max(cap_minor - int(accounts.total(*key)), 0)
        if amount_minor > room:
            cuts.append({"cap": key[0], "cap_minor": cap_minor, "from": amount_minor})
            amount_minor = room
    for _, key in spending:
        accounts.add(*key, amount=amount_minor)
    return amount_minor


def scaled(plan: Plan, part: _Part, ratio: Fraction) -> _Part:
    """A final amount after a late refund: its booked commission pro rata, nothing re-rated."""
    minor = round_fraction(part.commission_minor * ratio, plan.rounding)
    return replace(part, commission_minor=minor)


def line_ratio(before: Remaining, after: Remaining, at: int) -> Fraction:
    """How much of a line's base a refund after the freeze leaves."""
    early, late = before.lines[at], after.lines[at]
    if not after.live or not late.alive:
        return Fraction(0)
    if early.net:
        return Fraction(late.net) / early.net
    if early.revenue:
        return Fraction(late.revenue) / early.revenue
    return Fraction(late.qty, early.qty) if early.qty else Fraction(1)


def order_ratio(before: Remaining, after: Remaining) -> Fraction:
    """The same for the order as a whole, weighted by what each line was worth."""
    weights = [line.net or line.revenue or line.qty for line in before.lines]
    total = sum(weights, Fraction(0))
    if not total:
        return Fraction(int(after.live))
    kept = (line_ratio(before, after, at) * one for at, one in enumerate(weights))
    return sum(kept, Fraction(0)) / total


def split_shares(prepared: Prepared, amount_minor: int) -> dict[str, int]:
    """The commission by publisher: largest remainder over the shares, or all to the one."""
    shares = prepared.subject.shares
    if not shares:
        return {prepared.subject.publisher: amount_minor}
    parts = allocate(amount_minor, [share.weight for share in shares])
    return {share.publisher: part for share, part in zip(shares, parts, strict=True)}
