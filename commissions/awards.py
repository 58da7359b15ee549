"""What is decided above the lines: bonuses, caps, late refunds and shares. Pure."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import TypeVar

from commissions.choosing import Prepared, matches
from commissions.line_pay import PricedLine
from commissions.order_events import Remaining
from commissions.plan_document import Bonus, Plan, Rule
from commissions.tiers import Number, window_of
from kernel.money import allocate, round_fraction


@dataclass(frozen=True, slots=True)
class Award:
    """A bonus rule's amount on one order and the sentence for it."""

    rule_id: str
    exact: Fraction
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


def award_bonuses(
    plan: Plan, prepared: Prepared, lines: Sequence[PricedLine], accounts: Accounts
) -> list[Award]:
    """Every bonus rule that matches a live line adds up, each rounded once."""
    awards = []
    for rule in plan.bonus_rules:
        matched = [
            at
            for at, line in enumerate(prepared.figures)
            if line.alive and prepared.live and matches(rule, prepared, at)
        ]
        if not matched or rule.bonus is None:
            continue
        exact, why = _bonus(
            plan, rule, rule.bonus, prepared, matched=matched, lines=lines, accounts=accounts
        )
        rounded = round_fraction(exact, plan.rounding)
        awards.append(Award(rule.id, exact, rounded, why))
    return awards


def _bonus(
    plan: Plan,
    rule: Rule,
    bonus: Bonus,
    prepared: Prepared,
    *,
    matched: Sequence[int],
    lines: Sequence[PricedLine],
    accounts: Accounts,
) -> tuple[Fraction, str]:
    if bonus.awarded_once:
        return _once(plan, rule, bonus, prepared, matched=matched, accounts=accounts)
    base = sum((prepared.figures[at].base(rule) for at in matched), Fraction(0))
    units = sum(prepared.figures[at].qty for at in matched)
    commission = sum(lines[at].commission_minor for at in matched)
    exact = rule.pay.percent * base + rule.pay.per_unit * units + rule.pay.fixed_minor
    return exact + bonus.percent_of_commission * commission, "matches the order"


def _once(
    plan: Plan,
    rule: Rule,
    bonus: Bonus,
    prepared: Prepared,
    *,
    matched: Sequence[int],
    accounts: Accounts,
) -> tuple[Fraction, str]:
    """A bonus that the first order to reach it gets; an order that does not count gets none."""
    if not prepared.counted:
        return Fraction(0), "the order does not count"
    start, _ = window_of(bonus.window, prepared.order.at, plan.zone)
    key = ("bonus", rule.id, prepared.subject.publisher, start.isoformat() if start else "")
    before = accounts.total(*key)
    if bonus.threshold_minor is None:
        accounts.add(*key, amount=1)
        first = before == 0
        why = "the publisher's first" if first else "not the publisher's first"
    else:
        base = sum((prepared.figures[at].base(rule) for at in matched), Fraction(0))
        accounts.add(*key, amount=base)
        first = before < bonus.threshold_minor <= before + base
        why = f"sales of the window went from {before} to {before + base}"
    per_unit = rule.pay.per_unit * sum(prepared.figures[at].qty for at in matched)
    return (rule.pay.fixed_minor + per_unit if first else Fraction(0)), why


def clamp(
    plan: Plan, prepared: Prepared, amount_minor: int, accounts: Accounts
) -> tuple[int, list[dict[str, object]]]:
    """The amount left by the publisher's window cap and then the budget, and what they cut."""
    start, _ = window_of(plan.cap_window, prepared.order.at, plan.zone)
    window = start.isoformat() if start else ""
    caps = (
        (plan.publisher_cap_minor, ("publisher", prepared.subject.publisher, window)),
        (plan.budget_minor, ("budget",)),
    )
    cuts: list[dict[str, object]] = []
    for cap_minor, key in caps:
        if cap_minor is None:
            continue
        room = max(cap_minor - accounts.total(*key), 0)
        if amount_minor > room:
            cuts.append({"cap": key[0], "cap_minor": cap_minor, "from": amount_minor})
            amount_minor = int(room)
    for cap_minor, key in caps:
        if cap_minor is not None:
            accounts.add(*key, amount=amount_minor)
    return amount_minor, cuts


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
        return late.net / early.net
    if early.revenue:
        return late.revenue / early.revenue
    return Fraction(late.qty, early.qty) if early.qty else Fraction(1)


def order_ratio(before: Remaining, after: Remaining) -> Fraction:
    """The same for the order as a whole, weighted by what each line was worth."""
    weights = [line.net or line.revenue or Fraction(line.qty) for line in before.lines]
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
