"""Reads plan documents: the vocabulary of `plan_document` from JSON, every problem named. Pure."""

from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from itertools import pairwise
from typing import NamedTuple, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from commissions.countries import COUNTRIES
from commissions.exchange import Rates
from commissions.plan_document import (
    DIMENSIONS,
    FREEZE_DAYS,
    MEASURES,
    MODES,
    RATE_CLOCKS,
    SCOPES,
    Bonus,
    Caps,
    Plan,
    Rule,
    Tiers,
    When,
)
from commissions.reading import MAX_RATE, Reader
from commissions.tiers import CALENDAR_WINDOWS, ORDER_WINDOW, Level, campaign
from kernel.money import EXPONENTS, ROUNDING_MODES, RoundingMode

MAX_RULES = 500
MAX_LEVELS = 50
MAX_REGIONS = 100
MAX_ROLLING_DAYS = 366
MAX_FREEZE_DAYS = 3660
NOT_SUPPORTED = "not supported"
_CAMPAIGN = "campaign"
_ORDER_TOTAL = "order_total"


class _Window(NamedTuple):
    """A window as the rules name it, its rolling days, and when a campaign starts and ends."""

    name: str
    rolling_days: int = 0
    start: datetime | None = None
    end: datetime | None = None


def read_program(reader: Reader) -> Plan:
    """The plan's own fields, with no rules yet; problems go to the reader."""
    currency = reader.text("currency")
    if currency and currency not in EXPONENTS:
        reader.problem("currency", "unknown currency code")
    zone = read_zone(reader, "timezone", ZoneInfo("UTC"))
    caps = reader.nested("caps")
    return Plan(
        currency=currency,
        zone=zone,
        rounding=cast("RoundingMode", reader.choice("rounding", ROUNDING_MODES, ROUNDING_MODES[0])),
        round_at=reader.choice("round_at", ("line", "order"), "line"),
        regions=_read_regions(reader),
        country_basis=_read_basis(reader),
        base_rules=(),
        bonus_rules=(),
        caps=_read_program_caps(caps, zone) if caps else Caps(),
        exclusive_coupons=_read_owners(reader),
        suppressed_coupons=frozenset(reader.texts("suppressed_coupons")),
        rates=read_rates(reader, currency),
        warnings=(),
        rate_clock=reader.choice("rate_clock", RATE_CLOCKS, RATE_CLOCKS[0]),
    )


def read_zone(reader: Reader, name: str, default: ZoneInfo) -> ZoneInfo:
    """An IANA time zone by name."""
    key = reader.optional_text(name)
    if key is None:
        return default
    try:
        return ZoneInfo(key)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        reader.problem(name, "unknown time zone")
        return default


def _read_basis(reader: Reader) -> tuple[str, ...]:
    basis = reader.texts("country_basis", limit=10)
    if any(name != "country" and not name.startswith("country_") for name in basis):
        reader.problem("country_basis", "names fields 'country' or 'country_...'")
    return basis or ("country",)


def _read_regions(reader: Reader) -> dict[str, frozenset[str]]:
    nested = reader.nested("regions")
    if nested is None:
        return {}
    names = nested.names()
    if len(names) > MAX_REGIONS:
        reader.problem("regions", f"must hold at most {MAX_REGIONS} regions")
        return {}
    regions = {name: frozenset(nested.texts(name)) for name in names}
    for name, countries in regions.items():
        _refuse_unknown(nested, name, countries, COUNTRIES, "country")
        if not countries:
            nested.problem(name, "a region names at least one country")
    return regions


def _refuse_unknown(
    reader: Reader, name: str, values: Iterable[str], known: Iterable[str], noun: str
) -> None:
    unknown = sorted(set(values) - set(known))
    if unknown:
        reader.problem(name, f"unknown {noun}: {', '.join(unknown[:5])}")


def _read_owners(reader: Reader) -> dict[str, str]:
    nested = reader.nested("exclusive_coupons")
    return {code: nested.text(code) for code in nested.names()} if nested else {}


def _read_program_caps(reader: Reader, zone: ZoneInfo) -> Caps:
    caps = Caps(
        publisher_minor=reader.optional_integer("per_publisher_window_minor"),
        publisher_count=reader.optional_integer("per_publisher_window_count"),
        window=_read_spending_window(reader, zone).name,
        budget_minor=reader.optional_integer("budget_minor"),
        budget_count=reader.optional_integer("budget_count"),
    )
    if caps.by_publisher and not reader.has("window"):
        reader.problem("window", "missing")
    reader.finish()
    return caps


def _read_spending_window(reader: Reader, zone: ZoneInfo) -> _Window:
    """The window of a cap or of a bonus that is awarded once; lifetime where none is named."""
    if not reader.has("window"):
        return _Window("lifetime")
    name = reader.choice("window", (*CALENDAR_WINDOWS, "lifetime", _CAMPAIGN), "lifetime")
    return _read_campaign(reader, zone) if name == _CAMPAIGN else _Window(name)


def _read_campaign(reader: Reader, zone: ZoneInfo) -> _Window:
    start, end = reader.time("start", zone), reader.time("end", zone)
    for name, value in (("start", start), ("end", end)):
        if value is None and not reader.is_reported(name):
            reader.problem(name, "missing")
    if start is None or end is None:
        return _Window("lifetime")
    if start >= end:
        reader.problem("end", "must be after start")
    return _Window(campaign(start, end), 0, start, end)


def read_rates(reader: Reader, currency: str) -> Rates | None:
    """The field `fx`; every publication must know `currency`, where one is named."""
    nested = reader.nested("fx")
    if nested is None:
        return None
    nested.optional_text("source")
    pivot = nested.text("pivot")
    by_date: dict[str, dict[str, Fraction]] = {}
    dated = nested.nested("rates")
    for day in dated.names() if dated else ():
        by_date[day] = _read_day(cast("Reader", dated), day, pivot)
        if currency and currency not in by_date[day]:
            nested.problem("rates", f"{day} has no rate for the plan's currency")
    _refuse_unknown(nested, "pivot", [pivot], EXPONENTS, "currency code")
    nested.finish()
    return Rates(pivot, by_date)


def _read_day(dated: Reader, day: str, pivot: str) -> dict[str, Fraction]:
    try:
        if datetime.strptime(day, "%Y-%m-%d").replace(tzinfo=UTC).date().isoformat() != day:
            dated.problem(day, "must be a date such as 2026-01-31")
    except ValueError:
        dated.problem(day, "must be a date such as 2026-01-31")
    row = dated.nested(day)
    rates = {code: row.decimal(code) for code in row.names()} if row else {}
    if row is not None:
        _refuse_unknown(dated, day, rates, EXPONENTS, "currency code")
        for code, rate in rates.items():
            if not rate:
                row.problem(code, "a rate is above zero")
    return {**rates, pivot: Fraction(1)}


def read_rule(reader: Reader, plan: Plan) -> Rule:
    """One rule; problems go to the reader."""
    kind = reader.choice("kind", ("base", "bonus"), "base")
    tiers_reader, pay_reader = reader.nested("tiers"), reader.nested("pay")
    pay, tiers, bonus = Level(0), None, Bonus() if kind == "bonus" else None
    window = _Window("lifetime")
    if pay_reader is not None:
        pay, bonus, window = _read_pay(pay_reader, kind, plan.zone)
    elif tiers_reader is None:
        reader.problem("pay", "missing")
    if tiers_reader is not None:
        if pay_reader is not None:
            reader.problem("pay", "pay and tiers exclude one another")
        tiers, window = _read_tiers(tiers_reader, plan.zone, kind)
    per_unit_cap, per_order_cap, per_order_min = _read_caps(reader)
    rule = Rule(
        id=reader.text("id"),
        kind=kind,
        base=reader.choice("base", ("net", "revenue"), "net"),
        priority=reader.signed("priority"),
        effective_from=reader.time("effective_from", plan.zone),
        effective_to=reader.time("effective_to", plan.zone),
        when=_read_when(reader, plan),
        pay=pay,
        tiers=tiers,
        bonus=bonus,
        per_unit_cap_minor=per_unit_cap,
        per_order_cap_minor=per_order_cap,
        per_order_min_minor=per_order_min,
    )
    if rule.effective_from and rule.effective_to and rule.effective_from >= rule.effective_to:
        reader.problem("effective_to", "must be after effective_from")
    reader.finish()
    return _within(reader, rule, window)


def _within(reader: Reader, rule: Rule, window: _Window) -> Rule:
    """The rule of a campaign is in force while the campaign is."""
    if window.start is None or window.end is None:
        return rule
    start = max(window.start, rule.effective_from or window.start)
    end = min(window.end, rule.effective_to or window.end)
    if start >= end:
        reader.problem("effective_to", "the rule is never in force while its campaign is")
    return replace(rule, effective_from=start, effective_to=end)


def _read_caps(reader: Reader) -> tuple[int | None, int | None, int]:
    nested = reader.nested("caps")
    if nested is None:
        return None, None, 0
    per_unit = nested.optional_integer("per_unit_minor")
    per_order = nested.optional_integer("per_order_minor")
    minimum = nested.integer("min_per_order_minor", default=0)
    if per_order is not None and minimum > per_order:
        nested.problem("min_per_order_minor", "must not exceed per_order_minor")
    nested.finish()
    return per_unit, per_order, minimum


def _read_when(reader: Reader, plan: Plan) -> When:
    nested = reader.nested("when")
    if nested is None:
        return When()
    values = {name: nested.texts(name) for name in DIMENSIONS if nested.has(name)}
    for name, listed in values.items():
        if not listed:
            nested.problem(name, "names at least one value")
    _refuse_unknown(nested, "country", values.get("country", ()), COUNTRIES, "country")
    _refuse_unknown(nested, "region", values.get("region", ()), plan.regions, "region")
    when = When(
        values,
        min_order_minor=nested.optional_integer("min_order_minor"),
        over_order_minor=nested.optional_integer("over_order_minor"),
        max_order_minor=nested.optional_integer("max_order_minor"),
        within_months_of_first=nested.optional_integer("within_months_of_first", limit=12_000),
    )
    nested.finish()
    return when


def _read_pay(reader: Reader, kind: str, zone: ZoneInfo) -> tuple[Level, Bonus | None, _Window]:
    per_unit = reader.decimal("per_unit")
    fixed_minor = reader.integer("fixed_minor", default=0)
    if reader.choice("per", ("order", "unit"), "order") == "unit":
        per_unit, fixed_minor = per_unit + fixed_minor, 0
    level = Level(0, _read_percent(reader, "percent"), per_unit, fixed_minor)
    names: tuple[str, ...] = ("percent", "per_unit", "fixed_minor")
    bonus, window = None, _Window("lifetime")
    if kind == "bonus":
        names = (*names, "percent_of_commission")
        window = _read_spending_window(reader, zone)
        bonus = Bonus(
            percent_of_commission=_read_percent(reader, "percent_of_commission"),
            threshold_minor=reader.optional_integer("threshold_minor"),
            window=window.name,
            once_per_publisher=reader.flag("once_per_publisher"),
        )
        if bonus.threshold_minor is not None and not reader.has("window"):
            reader.problem("window", "missing")
        if not bonus.awarded_once and reader.has("window"):
            reader.problem("window", "only with threshold_minor or once_per_publisher")
    if not any(reader.has(name) for name in names):
        reader.problem("", "pays nothing it names")
    reader.finish()
    return level, bonus, window


def _read_percent(reader: Reader, name: str) -> Fraction:
    return reader.decimal(name, limit=1000) / 100


def _read_tiers(reader: Reader, zone: ZoneInfo, kind: str) -> tuple[Tiers, _Window]:
    mode = reader.choice("mode", MODES)
    zone = read_zone(reader, "tz", zone)
    window = _read_window(reader, mode, zone)
    if window.name == ORDER_WINDOW and mode == "volume":
        # The whole order at the level that the order reaches: a basket tier by another name.
        mode = "order"
    tiers = Tiers(
        mode=mode,
        measure=_read_measure(reader, mode),
        window=window.name,
        zone=zone,
        scope=_read_scope(reader),
        boundary=reader.choice("boundary", ("split", "after", "before"), "split"),
        counts=reader.choice("counts", ("live", "approved"), "live"),
        freeze_days=reader.integer("freeze_days", default=FREEZE_DAYS, limit=MAX_FREEZE_DAYS),
        levels=_read_levels(reader, kind),
        rolling_days=window.rolling_days,
    )
    if mode != "graduated" and reader.has("boundary"):
        reader.problem("boundary", "only with graduated")
    reader.finish()
    return tiers, window


def _read_measure(reader: Reader, mode: str) -> str:
    if mode != "order":
        return reader.choice("measure", MEASURES)
    measure = reader.choice("measure", (*MEASURES, _ORDER_TOTAL), _ORDER_TOTAL)
    return _ORDER_TOTAL if measure == "sales" else measure


def _read_scope(reader: Reader) -> tuple[str, ...]:
    scope = reader.texts("scope") or ("publisher",)
    for name in scope:
        if name not in {*SCOPES, "rule"}:
            reader.problem("scope", f"{name}: {NOT_SUPPORTED}")
    # A stable order, so that two spellings of one scope are one counter. Every counter is of one
    # program and one rule, so that these two say nothing more.
    return tuple(name for name in SCOPES if name in scope and name != "program")


def _read_window(reader: Reader, mode: str, zone: ZoneInfo) -> _Window:
    name = reader.text("window", ORDER_WINDOW if mode == "order" else "")
    days = name.removeprefix("rolling_").removesuffix("d")
    if name == f"rolling_{days}d" and days.isascii() and days.isdigit():
        return _read_rolling(reader, mode, days)
    if mode == "order" and name != ORDER_WINDOW:
        reader.problem("window", "an order tier looks at its own order: must be order")
        return _Window(ORDER_WINDOW)
    if mode == "status" and name in {"lifetime", _CAMPAIGN, ORDER_WINDOW}:
        reader.problem("window", f"status needs the window before, and {name} has none")
        return _Window("calendar_month")
    if name == _CAMPAIGN:
        return _read_campaign(reader, zone)
    if name and name not in {*CALENDAR_WINDOWS, "lifetime", ORDER_WINDOW}:
        reader.problem("window", NOT_SUPPORTED)
        return _Window("calendar_month")
    return _Window(name)


def _read_rolling(reader: Reader, mode: str, days: str) -> _Window:
    if mode == "order":
        reader.problem("window", "an order tier looks at its own order: must be order")
    if len(days) > len(str(MAX_RATE)) or not 0 < int(days) <= MAX_ROLLING_DAYS:
        reader.problem("window", f"rolling over 1 to {MAX_ROLLING_DAYS} days")
        return _Window("rolling_1d", 1)
    return _Window(f"rolling_{int(days)}d", int(days))


def _read_levels(reader: Reader, kind: str) -> tuple[Level, ...]:
    levels = []
    names: tuple[str, ...] = ("percent", "per_unit", "fixed_minor")
    names = (*names, "percent_of_commission") if kind == "bonus" else names
    for nested in reader.objects("levels", limit=MAX_LEVELS):
        is_bonus = kind == "bonus"
        levels.append(
            Level(
                start=nested.integer("from"),
                percent=_read_percent(nested, "percent"),
                per_unit=nested.decimal("per_unit"),
                fixed_minor=nested.integer("fixed_minor", default=0),
                flat_minor=nested.integer("flat_minor", default=0),
                of_commission=_read_percent(nested, names[-1]) if is_bonus else Fraction(0),
            )
        )
        if not any(nested.has(name) for name in (*names, "flat_minor")):
            nested.problem("", "pays nothing it names")
        nested.finish()
    if not levels:
        reader.problem("levels", "names at least one level")
    for (at, low), (_, high) in pairwise(enumerate(levels)):
        if low.start >= high.start:
            reader.problem(
                f"levels[{at + 1}].from",
                f"must be above {low.start}, where the level before begins",
            )
    return tuple(levels)
