"""The vocabulary of a commission plan as values. Pure; `plan_reading` reads them from JSON."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

from commissions.exchange import Rates
from commissions.tiers import DISCRETE_MEASURES, ORDER_WINDOW, Level
from kernel.money import RoundingMode

FREEZE_DAYS = 30

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
RATE_CLOCKS = ("ordered", "shipped", "approved")


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

    @property
    def restates(self) -> bool:
        """Whether other orders, or a look at more than sums, decide what an order is paid."""
        if not self.counted:
            return False
        return self.mode != "graduated" or bool(self.rolling_days) or self.window == ORDER_WINDOW


@dataclass(frozen=True, slots=True)
class Bonus:
    """What a bonus rule adds to the base commission of an order.

    With `once_per_publisher` only the first order of each publisher and window takes it, with a
    threshold only the one that reaches it.
    """

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
class Caps:
    """What a program pays at most: by publisher and window, and in all; in money and in orders."""

    publisher_minor: int | None = None
    publisher_count: int | None = None
    window: str = "lifetime"
    budget_minor: int | None = None
    budget_count: int | None = None

    @property
    def by_publisher(self) -> bool:
        """Whether one of them is kept by publisher and window."""
        return self.publisher_minor is not None or self.publisher_count is not None

    @property
    def in_all(self) -> bool:
        """Whether one of them joins all publishers."""
        return self.budget_minor is not None or self.budget_count is not None


@dataclass(frozen=True, slots=True)
class Plan:
    """A parsed plan. `base_rules` stand in order of choice, best first.

    `counting` are the rules with a counter; `memo` is for what is worked out from a plan once.
    """

    currency: str
    zone: ZoneInfo
    rounding: RoundingMode
    round_at: str
    regions: Mapping[str, frozenset[str]]
    country_basis: tuple[str, ...]
    base_rules: tuple[Rule, ...]
    bonus_rules: tuple[Rule, ...]
    caps: Caps
    exclusive_coupons: Mapping[str, str]
    suppressed_coupons: frozenset[str]
    rates: Rates | None
    warnings: tuple[tuple[str, str], ...]
    rate_clock: str = "ordered"
    counting: tuple[tuple[Rule, Tiers], ...] = ()
    memo: dict[str, Any] = field(default_factory=dict, compare=False, repr=False)

    @property
    def publisher_cap_minor(self) -> int | None:
        """The most that a publisher gets in a window."""
        return self.caps.publisher_minor

    @property
    def budget_minor(self) -> int | None:
        """The most that the program pays."""
        return self.caps.budget_minor

    @property
    def spends(self) -> bool:
        """Whether what earlier orders were awarded decides what is left for later ones."""
        if self.caps.by_publisher or self.caps.in_all:
            return True
        return any(rule.bonus and rule.bonus.awarded_once for rule in self.bonus_rules)


_OLDEST = datetime.min.replace(tzinfo=UTC)


def choice_key(rule: Rule) -> tuple[int, int, timedelta, str]:
    """Sorts the rule that wins first: priority, specificity, later start, then smaller id."""
    start = rule.effective_from or _OLDEST
    return -rule.priority, -rule.when.specificity, _OLDEST - start, rule.id
