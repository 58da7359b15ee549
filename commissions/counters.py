"""Where tier counters stand, as sums the database makes over commissions, kept up to date.

Read once a transaction for all publishers of a batch, and moved with every booking after that.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session

from commissions.models import Commission, ConversionRate
from commissions.plan_document import Plan, Tiers
from commissions.rules import CounterKey
from commissions.states import State
from commissions.tiers import window_of

_BEGINNING = datetime(1, 1, 1, tzinfo=UTC)
_END = datetime(9999, 12, 31, tzinfo=UTC)
_PUBLISHERS_MAX = 500
_commission = Commission.metadata.tables["commission"]


def _sums() -> sa.Select[Any]:
    one = _commission.c
    return (
        sa.select(
            one.publisher_id,
            sa.func.coalesce(sa.func.sum(one.base_minor), 0),
            sa.func.coalesce(sa.func.sum(one.units), 0),
            sa.func.count().filter(sa.or_(one.base_minor > 0, one.units > 0)),
            sa.func.count().filter(one.plan_version_id != sa.bindparam("plan_version_id")),
        )
        .where(
            one.program_id == sa.bindparam("program_id"),
            one.publisher_id.in_(sa.bindparam("publisher_ids", expanding=True)),
            # A conversion counts once, for the publisher of its part 0.
            one.part == 0,
            one.plan_version_id.is_not(None),
            one.occurred_at >= sa.bindparam("start"),
            one.occurred_at < sa.bindparam("end"),
        )
        .group_by(one.publisher_id)
    )


_SUMS = _sums()
_rates = ConversionRate.metadata.tables["conversion_rate"]
_CONVERTED = (
    sa.select(_rates.c.conversion_id)
    .where(_rates.c.program_id == sa.bindparam("program_id"))
    .limit(1)
)


@dataclass(frozen=True, slots=True)
class _Window:
    """The orders of a program in a span, as a plan version counts them."""

    program_id: str
    version_id: str
    start: datetime
    end: datetime

    def counts(self, commission: State) -> bool:
        """Whether the commission is one of them."""
        return (
            commission.program_id == self.program_id
            and commission.plan_version_id is not None
            and self.start <= commission.occurred_at < self.end
        )


@dataclass(slots=True)
class _Sum:
    """A publisher's orders of a window; `foreign` are those of other plan versions."""

    base_minor: int = 0
    units: int = 0
    count: int = 0
    foreign: int = 0


class Counters:
    """The sums of one transaction. `before_reading` writes what is booked and not written."""

    def __init__(self, session: Session, before_reading: Callable[[], None]) -> None:
        self._session = session
        self._before_reading = before_reading
        self._sums: dict[_Window, dict[str, _Sum]] = {}
        self._converted: dict[str, bool] = {}
        self._summable: dict[tuple[str | None, str], Tiers | None] = {}

    def read_ahead(self, orders: Iterable[tuple[Plan, State, Sequence[CounterKey]]]) -> None:
        """Read what these orders will ask for, before anything is booked for them."""
        wanted: dict[_Window, dict[str, None]] = {}
        for plan, commission, keys in orders:
            for key in keys:
                tiers = self._tiers(plan, commission, key)
                if tiers is not None:
                    window = _window(commission, tiers)
                    wanted.setdefault(window, {})[commission.publisher_id] = None
        for window, publishers in wanted.items():
            self._read(window, list(publishers))

    def value(self, plan: Plan, commission: State, key: CounterKey) -> int | None:
        """Where the counter stands for the commission's publisher; None where sums cannot say it.

        They cannot where the columns do not hold what the rule counts, where orders of another
        plan version are in the window, or where the program has converted orders: what these are
        worth exactly is no whole number.
        """
        tiers = self._tiers(plan, commission, key)
        if tiers is None or self._converts(commission.program_id):
            return None
        window = _window(commission, tiers)
        sums = self._sums.get(window, {})
        if commission.publisher_id not in sums:
            self._before_reading()
            self._read(window, [commission.publisher_id])
        one = self._sums[window][commission.publisher_id]
        if one.foreign:
            return None
        return {"units": one.units, "count": one.count}.get(tiers.measure, one.base_minor)

    def booked(self, commission: State, *, before: tuple[int, int] | None) -> None:
        """Hear that a commission counts as it does now; `before` is None for a new one."""
        for window, sums in self._sums.items():
            one = sums.get(commission.publisher_id)
            if one is None or not window.counts(commission):
                continue
            base_minor, units = before or (0, 0)
            one.base_minor += commission.base_minor - base_minor
            one.units += commission.units - units
            one.count += _counts(commission.base_minor, commission.units)
            one.count -= _counts(base_minor, units)
            if before is None and commission.plan_version_id != window.version_id:
                one.foreign += 1

    def _converts(self, program_id: str) -> bool:
        if program_id not in self._converted:
            found = self._session.execute(_CONVERTED, {"program_id": program_id}).first()
            self._converted[program_id] = found is not None
        return self._converted[program_id]

    def _tiers(self, plan: Plan, commission: State, key: CounterKey) -> Tiers | None:
        rule = commission.plan_version_id, key.rule_id
        if rule not in self._summable:
            self._summable[rule] = summable(plan, key)
        return self._summable[rule]

    def _read(self, window: _Window, publisher_ids: Sequence[str]) -> None:
        sums = self._sums.setdefault(window, {})
        for start in range(0, len(publisher_ids), _PUBLISHERS_MAX):
            some = publisher_ids[start : start + _PUBLISHERS_MAX]
            sums |= {publisher_id: _Sum() for publisher_id in some}
            wanted: Mapping[str, object] = {
                "program_id": window.program_id,
                "publisher_ids": some,
                "plan_version_id": window.version_id,
                "start": window.start,
                "end": window.end,
            }
            for publisher_id, *figures in self._session.execute(_SUMS, wanted):
                sums[publisher_id] = _Sum(*(int(figure) for figure in figures))


def summable(plan: Plan, key: CounterKey) -> Tiers | None:
    """The tiers of the counter where columns of commissions hold what they count."""
    rule = next((one for one in plan.base_rules if one.id == key.rule_id), None)
    tiers = rule.tiers if rule else None
    if rule is None or tiers is None or tiers.scope != ("publisher",) or tiers.counts != "live":
        return None
    everything = plan.base_rules == (rule,) and not rule.when.values and not rule.when.bound
    always = rule.effective_from is None and rule.effective_to is None
    converted = plan.rates is not None or bool(plan.suppressed_coupons)
    if rule.base != "net" and tiers.measure == "commissionable":
        return None
    if converted or not always or not (tiers.measure == "sales" or everything):
        return None
    return tiers


def _window(commission: State, tiers: Tiers) -> _Window:
    start, end = window_of(tiers.window, commission.occurred_at, tiers.zone)
    version_id = commission.plan_version_id or ""
    return _Window(commission.program_id, version_id, start or _BEGINNING, end or _END)


def _counts(base_minor: int, units: int) -> bool:
    return base_minor > 0 or units > 0
