"""Reports from the roll-ups: what links brought, by time, by party and by one thing about a click.

Everything is in UTC. A report groups by at most two things, of which one may be a time and one a
value (`link`, `country`, `device`, `s1` to `s5`, `reason`); values are kept by day. Sums of
different currencies are never added, and none of this reads a click.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any, Final

import sqlalchemy as sa
from sqlmodel import Session, col, select

from kernel.errors import Forbidden, TooLarge, invalid
from kernel.money import round_fraction
from network.access import Actor, scope_to_party
from network.models import Program, Publisher, Role
from tracker.rollup_checks import day_number, day_of
from tracker.rollup_models import RollupDay, RollupHour
from tracker.rollups import CAPPED, COUNTERS, DIMENSIONS, HOURS_A_DAY, NOBODY, SUB_IDS, TOTAL

TIMES: Final = ("hour", "day", "week", "month")
PARTIES: Final = ("program", "publisher")
GROUPS: Final = (*TIMES, *PARTIES, *DIMENSIONS)
DAYS_MAX: Final = 400
HOUR_DAYS_MAX: Final = 31
_GROUPS_MAX: Final = 2
# Dimensions that have no row for what carries none of their values.
_PARTIAL: Final = CAPPED | {"reason"}
# 1970 began on a Thursday; weeks begin on Monday.
_DAYS_BEFORE_MONDAY: Final = 3
_DAYS_A_WEEK: Final = 7
_OF_CURRENCY: Final = (
    "clicks",
    "conversions",
    "sales_minor",
    "refunded_minor",
    "commission_minor",
)
Key = tuple[int | str, ...]


class ReportTooLarge(TooLarge):
    """The report would have more rows than `report_rows_max`."""

    code = "report_too_large"
    title = "The report has too many rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked: `start` included, `end` not; both whole hours in UTC."""

    groups: tuple[str, ...]
    start: datetime
    end: datetime
    program_id: str | None = None
    publisher_id: str | None = None

    @property
    def by_hour(self) -> bool:
        """Whether only the hours can answer it."""
        return "hour" in self.groups or not all(map(_is_midnight, (self.start, self.end)))

    @property
    def dimension(self) -> str:
        """The dimension whose rows answer it; empty for the whole."""
        return next((group for group in self.groups if group in DIMENSIONS), TOTAL)


@dataclass(slots=True)
class Amount:
    """What stands in one currency: orders reported in it, what they brought, what was booked in it.

    `clicks` are those on programs that pay in it: what its EPC is divided by.
    """

    currency: str
    clicks: int = 0
    conversions: int = 0
    sales_minor: int = 0
    refunded_minor: int = 0
    commission_minor: int = 0

    @property
    def epc_minor(self) -> int | None:
        """Commission for each 100 clicks, rounded half up here and nowhere before; None without."""
        if not self.clicks:
            return None
        return round_fraction(Fraction(100 * self.commission_minor, self.clicks))


@dataclass(slots=True)
class Line:
    """One row of a report: its group's keys, the counts, the amounts by currency."""

    keys: Key
    impressions: int = 0
    clicks: int = 0
    filtered_clicks: int = 0
    unique_clicks: int = 0
    conversions: int = 0
    by_currency: dict[str, Amount] = field(default_factory=dict)

    @property
    def amounts(self) -> list[Amount]:
        """The currencies in which there is anything, in order of their codes."""
        found = (self.by_currency[code] for code in sorted(self.by_currency))
        return [one for one in found if any(getattr(one, name) for name in _OF_CURRENCY)]

    @property
    def is_empty(self) -> bool:
        """Whether nothing is counted here."""
        visits = (self.impressions, self.clicks, self.filtered_clicks, self.unique_clicks)
        return not any((*visits, self.conversions, *self.amounts))

    def add(self, counts: Sequence[int], *, home: str, currency: str, sign: int = 1) -> None:
        """Add a row of sums of programs in `home` currency, or with -1 take it out."""
        values = dict(zip(COUNTERS, (sign * int(count) for count in counts), strict=True))
        for name in COUNTERS[:5]:
            setattr(self, name, getattr(self, name) + values[name])
        self._amount(home).clicks += values["clicks"]
        if currency:
            amount = self._amount(currency)
            amount.conversions += values["conversions"]
            amount.sales_minor += values["sales_minor"]
            amount.refunded_minor += values["refunded_minor"]
            amount.commission_minor += values["commission_minor"]

    def _amount(self, currency: str) -> Amount:
        return self.by_currency.setdefault(currency, Amount(currency))


@dataclass(frozen=True, slots=True)
class Report:
    """Lines in order of their keys, and the sum of everything the question is about."""

    question: Question
    lines: list[Line]
    total: Line


def parse_groups(text: str, *, role: Role) -> tuple[str, ...]:
    """The groups in a text such as `day,country`; InvalidInput on `group_by`, or Forbidden."""
    groups = tuple(part for part in text.split(",") if part)
    unknown = [group for group in groups if group not in GROUPS]
    if unknown:
        raise invalid("group_by", "choice", f"must be of {', '.join(GROUPS)}")
    if not 1 <= len(set(groups)) == len(groups) <= _GROUPS_MAX:
        raise invalid("group_by", "count", "must be one thing or two different ones")
    for kinds, what in ((TIMES, "time"), (DIMENSIONS, "value of clicks")):
        if sum(group in kinds for group in groups) > 1:
            raise invalid("group_by", "combination", f"must hold at most one {what}")
    if "hour" in groups and any(group in DIMENSIONS for group in groups):
        raise invalid("group_by", "combination", "values of clicks are kept by day, not by hour")
    if role is Role.ADVERTISER and any(group in SUB_IDS for group in groups):
        raise Forbidden("sub-ids belong to publishers")
    return groups


def check_span(question: Question, *, hours_days: int, now: datetime) -> None:
    """InvalidInput when the span cannot be answered: backwards, too long, or within a day."""
    if question.start >= question.end:
        raise invalid("to", "order", "must be after `from`")
    days = question.end - question.start
    longest = HOUR_DAYS_MAX if "hour" in question.groups else DAYS_MAX
    if days > timedelta(days=longest):
        raise invalid("to", "range", f"must be at most {longest} days after `from`")
    if not question.by_hour:
        return
    for name, at in (("from", question.start), ("to", question.end)):
        if question.dimension and not _is_midnight(at):
            raise invalid(name, "day", "must be the start of a UTC day: values are kept by day")
        if at != at.replace(minute=0, second=0, microsecond=0):
            raise invalid(name, "hour", "must be the start of an hour")
    if question.start < now - timedelta(days=hours_days):
        raise invalid("from", "range", f"hours are kept for {hours_days} days; ask for whole days")


def _is_midnight(at: datetime) -> bool:
    utc = at.astimezone(UTC)
    return utc == utc.replace(hour=0, minute=0, second=0, microsecond=0)


def run(session: Session, actor: Actor, question: Question, *, rows_max: int) -> Report:
    """The report, of the actor's own rows only. ReportTooLarge past `rows_max` lines."""
    lines: dict[Key, Line] = {}
    for keys, home, currency, counts in _sums(
        session, actor, question, question.dimension, rows_max
    ):
        lines.setdefault(keys, Line(keys)).add(counts, home=home, currency=currency)
    if question.dimension in _PARTIAL:
        _add_rest(session, actor, question, lines, rows_max)
    found = [line for line in lines.values() if not line.is_empty]
    if len(found) > rows_max:
        raise _too_large(rows_max)
    found.sort(key=lambda line: line.keys)
    return Report(question, found, _total(found))


def _add_rest(
    session: Session,
    actor: Actor,
    question: Question,
    lines: dict[Key, Line],
    rows_max: int,
) -> None:
    """Under the empty value, what carries none: the whole less every value."""
    place = question.groups.index(question.dimension)
    rest: dict[Key, Line] = {}
    for keys, home, currency, counts in _sums(session, actor, question, TOTAL, rows_max):
        line = rest.setdefault(keys, Line(keys))
        line.add(counts, home=home, currency=currency)
    for line in lines.values():
        whole = rest.setdefault(_with(line.keys, place, ""), Line(_with(line.keys, place, "")))
        for name in COUNTERS[:5]:
            setattr(whole, name, getattr(whole, name) - getattr(line, name))
        for amount in line.by_currency.values():
            of_whole = whole.by_currency.setdefault(amount.currency, Amount(amount.currency))
            for name in _OF_CURRENCY:
                setattr(of_whole, name, getattr(of_whole, name) - getattr(amount, name))
    lines.update(rest)


def _with(keys: Key, place: int, value: str) -> Key:
    return (*keys[:place], value, *keys[place + 1 :])


def _total(lines: Iterable[Line]) -> Line:
    total = Line(())
    for line in lines:
        for name in COUNTERS[:5]:
            setattr(total, name, getattr(total, name) + getattr(line, name))
        for amount in line.by_currency.values():
            of_total = total.by_currency.setdefault(amount.currency, Amount(amount.currency))
            for name in _OF_CURRENCY:
                setattr(of_total, name, getattr(of_total, name) + getattr(amount, name))
    return total


_Sum = tuple[Key, str, str, Sequence[int]]


def _sums(
    session: Session, actor: Actor, question: Question, dimension: str, rows_max: int
) -> Iterator[_Sum]:
    """(keys, currency of the programs, currency of the amounts, counters) of each group."""
    count = 0
    for period, first, end in _periods(question):
        query = _query(actor, question, dimension, first, end)
        for row in session.execute(query):
            count += 1
            # A group has a row for each pair of currencies it has to do with.
            if count > 4 * rows_max:
                raise _too_large(rows_max)
            width = len(row) - len(COUNTERS) - 2
            stored = list(row[:width])
            keys = tuple(
                period
                if group == "month"
                else stored.pop(0)
                if _is_stored(group, dimension)
                else ""
                for group in question.groups
            )
            yield keys, row[width], row[width + 1], row[width + 2 :]


def _is_stored(group: str, dimension: str) -> bool:
    return group not in DIMENSIONS or group == dimension


def _periods(question: Question) -> Iterator[tuple[int, int, int]]:
    """(start of the month as a day, first, end) of each month, or the whole span at once."""
    first, end = _hour_number(question.start), _hour_number(question.end)
    if "month" not in question.groups:
        yield 0, first, end
        return
    month = question.start.astimezone(UTC).date().replace(day=1)
    while (start := day_number(month) * HOURS_A_DAY) < end:
        following = (month + timedelta(days=31)).replace(day=1)
        stop = day_number(following) * HOURS_A_DAY
        yield day_number(month), max(first, start), min(end, stop)
        month = following


def _hour_number(at: datetime) -> int:
    return int(at.timestamp()) // 3600


def _query(
    actor: Actor, question: Question, dimension: str, first_hour: int, end_hour: int
) -> sa.Select[Any]:
    model: Any = RollupHour if question.by_hour else RollupDay
    columns = {
        "hour": sa.cast(col(RollupHour.hour), sa.BigInteger),
        "day": col(RollupHour.hour) // HOURS_A_DAY if question.by_hour else col(RollupDay.day),
        "program": model.program_number,
        "publisher": model.publisher_number,
        dimension: RollupDay.value,
    }
    columns["week"] = (columns["day"] + _DAYS_BEFORE_MONDAY) // _DAYS_A_WEEK
    keys = [
        columns[group]
        for group in question.groups
        if group != "month" and _is_stored(group, dimension)
    ]
    query = (
        sa.select(
            *keys,
            col(Program.currency),
            model.currency,
            *(sa.func.sum(getattr(model, name)) for name in COUNTERS),
        )
        .join(Program, col(Program.number) == model.program_number)
        .group_by(*keys, col(Program.currency), model.currency)
    )
    if question.by_hour:
        query = query.where(model.hour >= first_hour, model.hour < end_hour)
    else:
        query = query.where(
            model.dimension == dimension,
            model.day >= first_hour // HOURS_A_DAY,
            model.day < end_hour // HOURS_A_DAY,
        )
    return _narrowed(query, actor, question, model)


def _narrowed(
    query: sa.Select[Any], actor: Actor, question: Question, model: Any
) -> sa.Select[Any]:
    if actor.role is Role.PUBLISHER or question.publisher_id is not None:
        query = query.join(Publisher, col(Publisher.number) == model.publisher_number)
    if question.publisher_id is not None:
        query = query.where(col(Publisher.id) == question.publisher_id)
    if question.program_id is not None:
        query = query.where(col(Program.id) == question.program_id)
    return scope_to_party(
        query, actor, publisher=col(Publisher.id), advertiser=col(Program.advertiser_id)
    )


def _too_large(rows_max: int) -> ReportTooLarge:
    return ReportTooLarge(
        f"the report has more than {rows_max} rows; narrow the time or group by less",
        limit="report_rows_max",
        limit_rows=rows_max,
    )


def start_of(group: str, number: int) -> datetime:
    """When the hour, day, week or month with this key begins."""
    if group == "hour":
        return datetime.fromtimestamp(number * 3600, UTC)
    day = number * _DAYS_A_WEEK - _DAYS_BEFORE_MONDAY if group == "week" else number
    return datetime.combine(day_of(day), datetime.min.time(), UTC)


def key_of(group: str, at: datetime) -> int:
    """The key of the hour, day, week or month that an instant is in."""
    hour = _hour_number(at)
    if group == "hour":
        return hour
    day = hour // HOURS_A_DAY
    if group == "week":
        return (day + _DAYS_BEFORE_MONDAY) // _DAYS_A_WEEK
    return day if group == "day" else day_number(day_of(day).replace(day=1))


def last_days(now: datetime, days: int) -> tuple[datetime, datetime]:
    """The span of the last whole UTC days up to and with today."""
    end = _midnight(now.astimezone(UTC).date() + timedelta(days=1))
    return end - timedelta(days=days), end


def _midnight(day: date) -> datetime:
    return datetime.combine(day, datetime.min.time(), UTC)


@dataclass(frozen=True, slots=True)
class Named:
    """A program or publisher that a report's key stands for."""

    id: str
    code: str
    name: str


def named(session: Session, group: str, lines: Iterable[Line], place: int) -> dict[Any, Named]:
    """Who the keys in a place stand for; a publisher 0 is nobody and has no entry."""
    numbers = {line.keys[place] for line in lines} - {NOBODY}
    model: Any = Program if group == "program" else Publisher
    query = select(model.number, model.id, model.code, model.name)
    rows = session.exec(query.where(model.number.in_(numbers)))
    return {number: Named(id_, code, name) for number, id_, code, name in rows}
