"""The plan document: its vocabulary as values, read from JSON with every problem named. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from itertools import pairwise
from typing import Any, cast
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from commissions.countries import COUNTRIES
from commissions.exchange import Rates
from commissions.reading import MAX_RATE, Reader
from commissions.tiers import CALENDAR_WINDOWS, DISCRETE_MEASURES, Level
from kernel.money import EXPONENTS, ROUNDING_MODES, RoundingMode

MAX_RULES = 500
MAX_LEVELS = 50
MAX_REGIONS = 100
MAX_ROLLING_DAYS = 366
FREEZE_DAYS = 30
NOT_SUPPORTED = "not supported"

# Highest first. Each dimension is a bit, so comparing two rules compares their most specific
# dimensions first and the outcome can be said in one sentence.
DIMENSIONS = (
    "publisher",
    "publisher_group",
    "coupon",
    "sku",
    "category",
    "customer",
    "country",
    "region",
    "device",
    "site",
)
# Conditions on the order itself rank below every dimension.
BOUNDS = ("min_order_minor", "over_order_minor", "max_order_minor", "within_months_of_first")
SCOPES = ("publisher", "program", "publisher_group", "region", "country", "category")
MODES = ("graduated", "volume", "status", "order")
MEASURES = ("count", "units", "sales", "commissionable")


class PlanError(ValueError):
    """A plan that must not be used; `problems` lists (path, reason)."""

    def __init__(self, problems: Iterable[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{path}: {reason}" for path, reason in self.problems))


@dataclass(frozen=True, slots=True)
class When:
    """The conditions of a rule: AND across the dimensions, OR within one."""

    values: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    min_order_minor: int | None = None
    over_order_minor: int | None = None
    max_order_minor: int | None = None
    within_months_of_first: int | None = None

    @property
    def bound(self) -> bool:
        """Whether it asks something of the order as a whole."""
        return any(getattr(self, name) is not None for name in BOUNDS)

    @property
    def specificity(self) -> int:
        """Higher wins; comparing two numbers compares the most specific dimensions first."""
        bits = sum(
            1 << (len(DIMENSIONS) - at)
            for at, dimension in enumerate(DIMENSIONS)
            if dimension in self.values
        )
        return bits + self.bound


@dataclass(frozen=True, slots=True)
class Tiers:
    """How a counter decides what is paid. `scope` is what each counter is kept for."""

    mode: str
    measure: str
    window: str
    zone: ZoneInfo
    scope: tuple[str, ...]
    boundary: str
    counts: str
    freeze_days: int
    levels: tuple[Level, ...]
    rolling_days: int = 0

    @property
    def discrete(self) -> bool:
        """Whether a level's start is an ordinal rather than an amount."""
        return self.measure in DISCRETE_MEASURES

    @property
    def counted(self) -> bool:
        """Whether a counter is read at all; an order tier only looks at its own order."""
        return self.mode != "order"


@dataclass(frozen=True, slots=True)
class Bonus:
    """What a bonus rule adds to the base commission of an order."""

    percent_of_commission: Fraction = Fraction(0)
    threshold_minor: int | None = None
    window: str = "lifetime"
    once_per_publisher: bool = False

    @property
    def awarded_once(self) -> bool:
        """Whether one order takes it and the others go without."""
        return self.threshold_minor is not None or self.once_per_publisher


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule of a plan, effective in the half-open [effective_from, effective_to)."""

    id: str
    kind: str
    base: str
    priority: int
    effective_from: datetime | None
    effective_to: datetime | None
    when: When
    pay: Level
    tiers: Tiers | None
    bonus: Bonus | None
    per_unit_cap_minor: int | None
    per_order_cap_minor: int | None
    per_order_min_minor: int

    def effective(self, at: datetime) -> bool:
        """Whether the rule is in force at that instant."""
        started = self.effective_from is None or self.effective_from <= at
        return started and (self.effective_to is None or at < self.effective_to)


@dataclass(frozen=True, slots=True)
class Plan:
    """A parsed plan. `base_rules` stand in order of choice, best first.

    Where `chooses_by_attributes`, the rule for a line follows from these `attributes` of it alone,
    and `choices` remembers what was chosen: most lines of a program are like one before them.
    """

    currency: str
    zone: ZoneInfo
    rounding: RoundingMode
    round_at: str
    regions: Mapping[str, frozenset[str]]
    country_basis: tuple[str, ...]
    base_rules: tuple[Rule, ...]
    bonus_rules: tuple[Rule, ...]
    publisher_cap_minor: int | None
    cap_window: str
    budget_minor: int | None
    exclusive_coupons: Mapping[str, str]
    suppressed_coupons: frozenset[str]
    rates: Rates | None
    warnings: tuple[tuple[str, str], ...]
    attributes: tuple[str, ...] = ()
    chooses_by_attributes: bool = False
    choices: dict[Any, Any] = field(default_factory=dict, compare=False, repr=False)
    # The base rules with a counter.
    counting: tuple[tuple["Rule", Tiers], ...] = ()


_OLDEST = datetime.min.replace(tzinfo=UTC)


def choice_key(rule: Rule) -> tuple[int, int, timedelta, str]:
    """Sorts the rule that wins first: priority, specificity, later start, then smaller id."""
    start = rule.effective_from or _OLDEST
    return -rule.priority, -rule.when.specificity, _OLDEST - start, rule.id


def read_program(reader: Reader) -> Plan:
    """The plan's own fields, with no rules yet; problems go to the reader."""
    currency = reader.text("currency")
    if currency and currency not in EXPONENTS:
        reader.problem("currency", "unknown currency code")
    caps = reader.nested("caps")
    publisher_cap, cap_window, budget = (
        _read_program_caps(caps) if caps else (None, "lifetime", None)
    )
    zone = read_zone(reader, "timezone", ZoneInfo("UTC"))
    regions = _read_regions(reader)
    return Plan(
        currency=currency,
        zone=zone,
        rounding=cast("RoundingMode", reader.choice("rounding", ROUNDING_MODES, ROUNDING_MODES[0])),
        round_at=reader.choice("round_at", ("line", "order"), "line"),
        regions=regions,
        country_basis=_read_basis(reader),
        base_rules=(),
        bonus_rules=(),
        publisher_cap_minor=publisher_cap,
        cap_window=cap_window,
        budget_minor=budget,
        exclusive_coupons=_read_owners(reader),
        suppressed_coupons=frozenset(reader.texts("suppressed_coupons")),
        rates=read_rates(reader, currency),
        warnings=(),
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


def _read_program_caps(reader: Reader) -> tuple[int | None, str, int | None]:
    publisher_cap = reader.optional_integer("per_publisher_window_minor")
    window = reader.choice("window", (*CALENDAR_WINDOWS, "lifetime"), "lifetime")
    if publisher_cap is not None and not reader.has("window"):
        reader.problem("window", "missing")
    budget = reader.optional_integer("budget_minor")
    reader.finish()
    return publisher_cap, window, budget


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
    bonus = None
    pay = Level(0)
    tiers = None
    if kind == "bonus":
        reader.refuse("tiers", "caps", reason=NOT_SUPPORTED)
    if pay_reader is not None:
        pay, bonus = _read_pay(pay_reader, kind)
    elif tiers_reader is None or kind == "bonus":
        reader.problem("pay", "missing")
    if tiers_reader is not None and kind == "base":
        if pay_reader is not None:
            reader.problem("pay", "pay and tiers exclude one another")
        tiers = _read_tiers(tiers_reader, plan.zone)
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
    return rule


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


def _read_pay(reader: Reader, kind: str) -> tuple[Level, Bonus | None]:
    per_unit = reader.decimal("per_unit")
    fixed_minor = reader.integer("fixed_minor", default=0)
    if reader.choice("per", ("order", "unit"), "order") == "unit":
        per_unit, fixed_minor = per_unit + fixed_minor, 0
    level = Level(0, _read_percent(reader, "percent"), per_unit, fixed_minor)
    names: tuple[str, ...] = ("percent", "per_unit", "fixed_minor")
    bonus = None
    if kind == "bonus":
        names = (*names, "percent_of_commission")
        bonus = Bonus(
            percent_of_commission=_read_percent(reader, "percent_of_commission"),
            threshold_minor=reader.optional_integer("threshold_minor"),
            window=reader.choice("window", (*CALENDAR_WINDOWS, "lifetime"), "lifetime"),
            once_per_publisher=reader.flag("once_per_publisher"),
        )
        _check_bonus(reader, bonus)
    if not any(reader.has(name) for name in names):
        reader.problem("", "pays nothing it names")
    reader.finish()
    return level, bonus


def _check_bonus(reader: Reader, bonus: Bonus) -> None:
    if bonus.awarded_once and not reader.has("fixed_minor"):
        reader.problem("fixed_minor", "missing")
    if bonus.awarded_once:
        reader.refuse("percent", "per_unit", "percent_of_commission", reason=NOT_SUPPORTED)
    if bonus.threshold_minor is not None and bonus.once_per_publisher:
        reader.problem("once_per_publisher", NOT_SUPPORTED)
    if bonus.threshold_minor is not None and not reader.has("window"):
        reader.problem("window", "missing")
    if bonus.threshold_minor is None and reader.has("window"):
        reader.problem("window", "only with threshold_minor")


def _read_percent(reader: Reader, name: str) -> Fraction:
    return reader.decimal(name, limit=1000) / 100


def _read_tiers(reader: Reader, zone: ZoneInfo) -> Tiers:
    mode = reader.choice("mode", MODES)
    measures = ("order_total",) if mode == "order" else MEASURES
    measure = reader.choice("measure", measures)
    window, rolling_days = _read_window(reader, mode)
    boundary = reader.choice("boundary", ("split", "after", "before"), "split")
    if mode != "graduated" and reader.has("boundary"):
        reader.problem("boundary", "only with graduated")
    tiers = Tiers(
        mode=mode,
        measure=measure,
        window=window,
        zone=read_zone(reader, "tz", zone),
        scope=_read_scope(reader),
        boundary=boundary,
        counts=reader.choice("counts", ("live", "approved"), "live"),
        freeze_days=reader.integer("freeze_days", default=FREEZE_DAYS, limit=3660),
        levels=_read_levels(reader),
        rolling_days=rolling_days,
    )
    if mode == "status" and any(level.flat_minor for level in tiers.levels):
        reader.problem("levels", f"flat_minor with status: {NOT_SUPPORTED}")
    reader.finish()
    return tiers


def _read_scope(reader: Reader) -> tuple[str, ...]:
    scope = reader.texts("scope") or ("publisher",)
    for name in scope:
        if name not in SCOPES:
            reader.problem("scope", f"{name}: {NOT_SUPPORTED}")
    # A stable order, so that two spellings of one scope are one counter.
    return tuple(name for name in SCOPES if name in scope and name != "program")


def _read_window(reader: Reader, mode: str) -> tuple[str, int]:
    window = reader.text("window")
    days = window.removeprefix("rolling_").removesuffix("d")
    if window == f"rolling_{days}d" and days.isascii() and days.isdigit():
        if mode != "status":
            reader.problem("window", f"rolling with {mode}: {NOT_SUPPORTED}")
        if len(days) > len(str(MAX_RATE)) or not 0 < int(days) <= MAX_ROLLING_DAYS:
            reader.problem("window", f"rolling over 1 to {MAX_ROLLING_DAYS} days")
            return window, 1
        return window, int(days)
    allowed: tuple[str, ...] = (*CALENDAR_WINDOWS, "lifetime")
    if mode in {"order", "status"}:
        allowed = ("order",) if mode == "order" else CALENDAR_WINDOWS
    if window and window not in allowed:
        reader.problem("window", NOT_SUPPORTED)
        return "calendar_month", 0
    return window, 0


def _read_levels(reader: Reader) -> tuple[Level, ...]:
    levels = []
    for nested in reader.objects("levels", limit=MAX_LEVELS):
        levels.append(
            Level(
                start=nested.integer("from"),
                percent=_read_percent(nested, "percent"),
                per_unit=nested.decimal("per_unit"),
                fixed_minor=nested.integer("fixed_minor", default=0),
                flat_minor=nested.integer("flat_minor", default=0),
            )
        )
        if not any(nested.has(name) for name in ("percent", "per_unit", "fixed_minor")):
            nested.problem("", "pays nothing it names")
        nested.finish()
    if not levels:
        reader.problem("levels", "names at least one level")
    if any(low.start >= high.start for low, high in pairwise(levels)):
        reader.problem("levels", "must rise by 'from', each level once")
    return tuple(levels)
