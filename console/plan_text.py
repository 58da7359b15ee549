"""What a draft would change, in words: a row for each pair of rules. Pure."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from commissions.plan_comparison import Finding
from commissions.plan_words import RuleText
from console.words import N_, Gettext

ROWS_MAX: Final = 100
_REASONS: Final = {
    "lower_rate": N_("pays less"),
    "other_base": N_("pays on another base, which may be less"),
    "other_tiers": N_("counts its levels another way, which may pay less"),
    "other_counter": N_("counts fewer orders, so its levels are reached later"),
    "lower_cap": N_("has a new or lower cap"),
    "lower_minimum": N_("has a lower minimum an order"),
    "merged": N_("takes the place of several rules, of which an order was paid each"),
    "no_rule": N_("no rule pays any more"),
    "lower_bonus": N_("the bonus is gone or lower"),
    "coupon_suppressed": N_("orders with this coupon earn nothing any more"),
    "coupon_owner": N_("the coupon belongs to somebody else than before"),
    "rounding": N_("rounding is less favourable"),
    "currency": N_("orders in this currency can no longer be converted"),
    "other_clock": N_("takes the rates of another day of the order"),
    "too_complex": N_("the plans name too much to be compared; it counts as lower"),
}
_VERDICTS: Final = {
    "lowered": N_("Lower, or maybe lower"),
    "raised": N_("Higher"),
    "same": N_("As before"),
}
_WHERE: Final = {
    "publisher": N_("publisher"),
    "publisher_group": N_("publisher group"),
    "coupon": N_("coupon"),
    "sku": N_("article"),
    "category": N_("category"),
    "customer": N_("customer"),
    "country": N_("country"),
    "country_after": N_("country by the new basis"),
    "device": N_("device"),
    "site": N_("site"),
    "at": N_("orders from"),
    "order_minor": N_("order total in minor units"),
    "months_since_first": N_("months since the first order"),
}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a comparison."""

    verdict: str
    verdict_text: str
    where: str
    before: str
    before_pays: str
    after: str
    after_pays: str
    reason: str


def rows(
    findings: Iterable[Finding],
    before: Mapping[str, RuleText],
    after: Mapping[str, RuleText],
    gettext: Gettext,
) -> Sequence[Row]:
    """The first rows of a comparison, lowered ones first; rules are found by their ids."""
    return [_row(one, before, after, gettext) for one in list(findings)[:ROWS_MAX]]


def _row(
    one: Finding,
    before: Mapping[str, RuleText],
    after: Mapping[str, RuleText],
    gettext: Gettext,
) -> Row:
    where = ", ".join(
        f"{gettext(_WHERE[name]) if name in _WHERE else name} {value}"
        for name, value in one.where.items()
    )
    return Row(
        verdict=one.verdict,
        verdict_text=gettext(_VERDICTS[one.verdict]),
        where=where or one.path or gettext("all others"),
        before=one.before or "",
        before_pays=_pays(before.get(one.before or "")),
        after=one.after or "",
        after_pays=_pays(after.get(one.after or "")),
        reason=gettext(_REASONS[one.reason]) if one.reason else "",
    )


def _pays(rule: RuleText | None) -> str:
    if rule is None:
        return ""
    return rule.pays or " · ".join(f"{level.start}: {level.pays}" for level in rule.levels)
