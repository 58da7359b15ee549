"""A commission plan in words: what each rule pays, to whom, and when. Pure."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import Any

from commissions.rules import Plan, Rule, parse_plan
from commissions.tiers import Level, campaign_of
from kernel.i18n import catalogue
from kernel.money import exponent_of, format_amount

Gettext = Callable[[str], str]


def N_(message: str) -> str:  # noqa: N802 - the name that catalogues look for
    """Mark a sentence that is translated where it is used."""
    return message


_CONDITIONS = {
    "publisher": N_("publisher {values}"),
    "publisher_group": N_("publisher group {values}"),
    "coupon": N_("coupon {values}"),
    "sku": N_("article {values}"),
    "category": N_("category {values}"),
    "customer": N_("customer {values}"),
    "country": N_("country {values}"),
    "region": N_("region {values}"),
    "device": N_("device {values}"),
    "site": N_("site {values}"),
}
_BOUNDS = {
    "min_order_minor": N_("order of at least {amount}"),
    "over_order_minor": N_("order over {amount}"),
    "max_order_minor": N_("order of at most {amount}"),
}
_MODES = {
    "graduated": N_("Graduated: each part of the total earns the rate of its own level"),
    "volume": N_("Volume: the level reached pays for everything in the window"),
    "status": N_("Status: the level reached in the window before pays in this one"),
    "order": N_("By order: the size of the order chooses the level"),
}
_MEASURES = {
    "count": N_("orders"),
    "units": N_("units"),
    "sales": N_("sales"),
    "commissionable": N_("commissionable sales"),
    "order_total": N_("order total"),
}
_WINDOWS = {
    "calendar_day": N_("calendar day"),
    "calendar_week": N_("calendar week"),
    "calendar_month": N_("calendar month"),
    "calendar_quarter": N_("calendar quarter"),
    "calendar_year": N_("calendar year"),
    "lifetime": N_("lifetime"),
    "order": N_("order"),
}


@dataclass(frozen=True, slots=True)
class LevelText:
    """One level of a tier: from where on, and what it pays."""

    start: str
    pays: str


@dataclass(frozen=True, slots=True)
class RuleText:
    """One rule, ready to be read."""

    id: str
    is_bonus: bool
    priority: int
    pays: str
    conditions: tuple[str, ...]
    limits: tuple[str, ...]
    mode: str
    levels: tuple[LevelText, ...]
    rule: Rule


@dataclass(frozen=True, slots=True)
class Terms:
    """A plan, ready to be read; base rules stand in the order in which they are chosen."""

    plan: Plan
    rules: tuple[RuleText, ...]
    regions: tuple[tuple[str, str], ...]
    caps: tuple[str, ...]


def read(document: Mapping[str, Any], gettext: Gettext) -> Terms:
    """A plan document that was published, in words."""
    return describe(parse_plan(document, publishing=False), gettext)


def gettext_of(language: str) -> Gettext:
    """The words of plans in a language."""
    return catalogue("commissions", language).gettext


def tell(document: Mapping[str, Any], language: str) -> list[str]:
    """The rules of a document as sentences, best first; none where it has none for the reader."""
    if not document.get("rules"):
        return []
    gettext = gettext_of(language)
    found = read(document, gettext)
    return [*(_sentence(rule, gettext) for rule in found.rules), *found.caps]


def _sentence(rule: RuleText, gettext: Gettext) -> str:
    levels = [
        gettext("{pays} from {start}").format(pays=level.pays, start=level.start)
        for level in rule.levels
    ]
    pays = rule.pays or f"{rule.mode}: {', '.join(levels)}"
    applies = "; ".join(rule.conditions) or gettext("every order")
    limits = f" ({'; '.join(rule.limits)})" if rule.limits else ""
    return gettext("{rule}: {pays}{limits} for {orders}").format(
        rule=rule.id, pays=pays, limits=limits, orders=applies
    )


def describe(plan: Plan, gettext: Gettext) -> Terms:
    """A plan in words."""
    return Terms(
        plan=plan,
        rules=tuple(_rule(rule, plan, gettext) for rule in (*plan.base_rules, *plan.bonus_rules)),
        regions=tuple(
            (name, ", ".join(sorted(members))) for name, members in sorted(plan.regions.items())
        ),
        caps=tuple(_caps(plan, gettext)),
    )


def _rule(rule: Rule, plan: Plan, gettext: Gettext) -> RuleText:
    tiers = rule.tiers
    mode = ""
    levels: tuple[LevelText, ...] = ()
    if tiers is not None:
        mode = gettext("{mode}; measured in {measure} per {window}").format(
            mode=gettext(_MODES[tiers.mode]),
            measure=gettext(_MEASURES[tiers.measure]),
            window=_window(tiers.window, tiers.rolling_days, gettext),
        )
        levels = tuple(
            LevelText(
                start=str(level.start) if tiers.discrete else _money(level.start, plan.currency),
                pays=_pays(level, plan.currency, gettext),
            )
            for level in tiers.levels
        )
    return RuleText(
        id=rule.id,
        is_bonus=rule.kind == "bonus",
        priority=rule.priority,
        pays="" if tiers else _rule_pays(rule, plan.currency, gettext),
        conditions=tuple(_conditions(rule, plan.currency, gettext)),
        limits=tuple(_limits(rule, plan.currency, gettext)),
        mode=mode,
        levels=levels,
        rule=rule,
    )


def _rule_pays(rule: Rule, currency: str, gettext: Gettext) -> str:
    bonus = rule.bonus
    if bonus is None:
        return _pays(rule.pay, currency, gettext)
    pay = replace(rule.pay, of_commission=bonus.percent_of_commission)
    is_flat = pay == Level(0, fixed_minor=pay.fixed_minor) and bonus.awarded_once
    once = _money(pay.fixed_minor, currency) if is_flat else _pays(pay, currency, gettext)
    if bonus.threshold_minor is not None:
        return gettext("{pays} once, when {amount} is reached in a {window}").format(
            pays=once,
            amount=_money(bonus.threshold_minor, currency),
            window=_window(bonus.window, 0, gettext),
        )
    if bonus.once_per_publisher:
        return gettext("{pays} once per publisher").format(pays=once)
    return once


def _pays(level: Level, currency: str, gettext: Gettext) -> str:
    parts = []
    if level.percent:
        parts.append(gettext("{percent} %").format(percent=_percent(level.percent)))
    if level.of_commission:
        parts.append(
            gettext("{percent} % of the commission on top").format(
                percent=_percent(level.of_commission)
            )
        )
    if level.per_unit:
        parts.append(
            gettext("{amount} a unit").format(amount=_exact_money(level.per_unit, currency))
        )
    if level.fixed_minor:
        parts.append(
            gettext("{amount} an order").format(amount=_money(level.fixed_minor, currency))
        )
    if level.flat_minor:
        parts.append(
            gettext("{amount} once on reaching the level").format(
                amount=_money(level.flat_minor, currency)
            )
        )
    return " + ".join(parts) or gettext("nothing")


def _conditions(rule: Rule, currency: str, gettext: Gettext) -> list[str]:
    when = rule.when
    found = [
        gettext(_CONDITIONS[name]).format(values=", ".join(values))
        for name, values in when.values.items()
    ]
    for name, sentence in _BOUNDS.items():
        bound = getattr(when, name)
        if bound is not None:
            found.append(gettext(sentence).format(amount=_money(bound, currency)))
    if when.within_months_of_first is not None:
        found.append(
            gettext("within {months} months of the first order").format(
                months=when.within_months_of_first
            )
        )
    return found


def _limits(rule: Rule, currency: str, gettext: Gettext) -> list[str]:
    found = []
    if rule.per_unit_cap_minor is not None:
        found.append(
            gettext("at most {amount} a unit").format(
                amount=_money(rule.per_unit_cap_minor, currency)
            )
        )
    if rule.per_order_cap_minor is not None:
        found.append(
            gettext("at most {amount} an order").format(
                amount=_money(rule.per_order_cap_minor, currency)
            )
        )
    if rule.per_order_min_minor:
        found.append(
            gettext("at least {amount} an order").format(
                amount=_money(rule.per_order_min_minor, currency)
            )
        )
    return found


def _caps(plan: Plan, gettext: Gettext) -> list[str]:
    found = []
    if plan.publisher_cap_minor is not None:
        found.append(
            gettext("at most {amount} per publisher and {window}").format(
                amount=_money(plan.publisher_cap_minor, plan.currency),
                window=_window(plan.caps.window, 0, gettext),
            )
        )
    if plan.caps.publisher_count is not None:
        found.append(
            gettext("at most {count} paid orders per publisher and {window}").format(
                count=plan.caps.publisher_count,
                window=_window(plan.caps.window, 0, gettext),
            )
        )
    if plan.caps.budget_count is not None:
        found.append(
            gettext("at most {count} paid orders in all").format(count=plan.caps.budget_count)
        )
    if plan.budget_minor is not None:
        found.append(
            gettext("budget of {amount}").format(amount=_money(plan.budget_minor, plan.currency))
        )
    return found


def _window(window: str, rolling_days: int, gettext: Gettext) -> str:
    if rolling_days:
        return gettext("rolling {days} days").format(days=rolling_days)
    span = campaign_of(window)
    if span is not None:
        start, end = (one.date().isoformat() for one in span)
        return gettext("campaign from {start} to {end}").format(start=start, end=end)
    return gettext(_WINDOWS[window])


def _percent(rate: Fraction) -> str:
    return decimal_text(rate * 100)


def _money(minor: int, currency: str) -> str:
    whole, point, decimals = format_amount(minor, currency).partition(".")
    return f"{int(whole):,}{point}{decimals} {currency}"


def _exact_money(minor: Fraction, currency: str) -> str:
    if minor.denominator == 1:
        return _money(minor.numerator, currency)
    # A rate may be finer than a minor unit; it is said in full rather than rounded.
    return f"{decimal_text(minor / 10 ** exponent_of(currency))} {currency}"


def decimal_text(value: Fraction) -> str:
    """The exact decimal of a fraction read from a decimal text: at most 12 places, no zeros."""
    scaled = value * 10**12
    whole, rest = divmod(scaled.numerator // scaled.denominator, 10**12)
    return f"{whole}.{rest:012d}".rstrip("0").rstrip(".")
