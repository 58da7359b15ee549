"""What one conversion is worth and why: amounts now, the explanation when somebody asks. Pure."""

from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any, NamedTuple

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
from commissions.choosing import CounterKey, Prepared, rate_used
from commissions.line_pay import PricedLine, Standing, price_lines
from commissions.order_events import Order, Remaining
from commissions.plan_document import Plan
from commissions.tiers import Number
from kernel.money import round_fraction

Met = tuple[tuple[CounterKey, Number], ...]
"""The counters that decided a price, as they stood."""


class Details(NamedTuple):
    """Everything about a price beside the amounts; `cuts` are what the caps took."""

    plan: Plan
    prepared: Prepared
    lines: tuple[PricedLine, ...]
    awards: tuple[Award, ...]
    cuts: Sequence[Mapping[str, Any]]
    after_freeze: bool


class Priced:
    """What one conversion is worth now, and why.

    `contributions` is what the conversion adds to each tier counter, nothing while it is held,
    declined or refunded in full. What is beside the amounts is worked out when it is asked for.
    """

    __slots__ = (
        "_details",
        "_explanation",
        "_find",
        "_met",
        "_order",
        "commission_minor",
        "contributions",
        "status",
        "uncapped_minor",
    )

    def __init__(  # noqa: PLR0917 - made for every order, and a call by name costs more
        self,
        commission_minor: int,
        uncapped_minor: int,
        status: str,
        contributions: Mapping[CounterKey, Number],
        details: Details | None,
        find: Callable[[Order, Met], Details] | None = None,
        order: Order | None = None,
        met: Met = (),
    ) -> None:
        self.commission_minor = commission_minor
        self.uncapped_minor = uncapped_minor
        self.status = status
        self.contributions = contributions
        self._details = details
        # Not a closure: a batch keeps many prices, and the collector visits whatever they hold.
        self._find, self._order, self._met = find, order, met
        self._explanation: dict[str, Any] | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Priced) and self._everything() == other._everything()

    def __hash__(self) -> int:
        return hash((self.commission_minor, self.uncapped_minor, self.status))

    def __repr__(self) -> str:
        return f"Priced({self.commission_minor}, {self.status!r})"

    @property
    def details(self) -> Details:
        """What the amounts were made of."""
        if self._details is None:
            assert self._find is not None and self._order is not None  # noqa: S101, PT018 - given where there are no details
            self._details = self._find(self._order, self._met)
        return self._details

    @property
    def lines(self) -> tuple[PricedLine, ...]:
        """The lines of the order, each with its own trace."""
        return self.details.lines

    @property
    def payees(self) -> Mapping[str, int]:
        """The commission by publisher."""
        return split_shares(self.details.prepared, self.commission_minor)

    @property
    def rule_ids(self) -> tuple[str, ...]:
        """The rules that pay it, bonuses among them."""
        details = self.details
        winners = {line.rule_id for line in details.lines if line.rule_id is not None}
        return tuple(sorted(winners | {award.rule_id for award in details.awards}))

    @property
    def explanation(self) -> dict[str, Any]:
        """The whole trace, ready for JSON."""
        if self._explanation is None:
            self._explanation = self._explain(self.details)
        return self._explanation

    def _explain(self, details: Details) -> dict[str, Any]:
        return {
            **_circumstances(details.plan, details.prepared),
            "status": self.status,
            "after_freeze": details.after_freeze,
            "lines": [
                {**line.explanation, "commission_minor": line.commission_minor}
                for line in details.lines
            ],
            "bonuses": [_award_trace(award) for award in details.awards],
            "uncapped_minor": self.uncapped_minor,
            "caps": list(details.cuts),
            "commission_minor": self.commission_minor,
            "payees": self.payees,
        }

    @property
    def cuts(self) -> Sequence[Mapping[str, Any]]:
        """What the caps took."""
        return self.details.cuts

    def _everything(self) -> tuple[object, ...]:
        amounts = (self.commission_minor, self.uncapped_minor, self.status)
        return (*amounts, self.contributions, self.explanation)


def price_at(
    plan: Plan, prepared: Prepared, after: Remaining, standing: Standing, accounts: Accounts
) -> Priced:
    """One conversion, from its lines to its payees; `after` includes events after the freeze."""
    lines = price_lines(plan, prepared, standing)
    awards = award_bonuses(plan, prepared, lines, standing, accounts)
    uncapped_minor = _sum(lines) + _sum(awards)
    commission_minor, cuts = clamp(plan, prepared, uncapped_minor, accounts)
    late = after is not prepared.remaining and after.left != prepared.remaining.left
    if late:
        early = prepared.remaining
        lines = [scaled(plan, line, line_ratio(early, after, at)) for at, line in enumerate(lines)]
        ratio = order_ratio(early, after)
        awards = [scaled(plan, award, ratio) for award in awards]
        kept = Fraction(commission_minor, uncapped_minor) if uncapped_minor else Fraction(1)
        uncapped_minor = _sum(lines) + _sum(awards)
        commission_minor = round_fraction(uncapped_minor * kept, plan.rounding)
    suppressed = prepared.subject.coupon_effect == "suppressed"
    return Priced(
        commission_minor,
        uncapped_minor,
        "suppressed" if suppressed else after.status,
        prepared.contributions,
        Details(plan, prepared, tuple(lines), tuple(awards), cuts, late),
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
    return sum([part.commission_minor for part in parts])
