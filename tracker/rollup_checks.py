"""Compares the roll-ups of a day with the facts, mends them, and lets go of what is past its time.

The comparison and the mending are one computation: what the sums should hold less what they hold,
both read in one snapshot. The difference is added, like everything else, so that what is recorded
meanwhile is neither lost nor counted twice, and a run that is broken off is simply run again.
Impressions leave no facts and are left as they are.
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, SQLModel, col, select

from kernel.database import let_others_write, reading, unit_of_work
from kernel.errors import Refused
from network.models import Program, Publisher
from tracker import click_days, rollup_orders
from tracker.models import Attribution, Click, Conversion
from tracker.rollup_models import RollupDay, RollupHour, RollupVisitor
from tracker.rollups import (
    CAPPED,
    COUNTERS,
    HOURS_A_DAY,
    MORE,
    Tally,
    counts_of_click,
    hour_of,
    store,
    values_of_click,
    visitor_hash,
)

_ROWS_PER_WRITE: Final = 500
_ROWS_PER_READ: Final = 2_000
_IMPRESSIONS: Final = COUNTERS.index("impressions")
_CLICKS: Final = (COUNTERS.index("clicks"), COUNTERS.index("filtered_clicks"))
_UNIQUE: Final = COUNTERS.index("unique_clicks")
_DAY_ZERO: Final = date(1970, 1, 1)


class FactsGone(Refused):
    """The clicks of this day were let go, wholly or in part; its sums are all that is left."""

    code = "facts_gone"
    title = "The facts of this day are gone"


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What the rebuilding of a day changed."""

    rows: int
    clicks: int


def day_number(day: date) -> int:
    """Days from 1970."""
    return (day - _DAY_ZERO).days


def day_of(number: int) -> date:
    """The day with this number."""
    return _DAY_ZERO + timedelta(days=number)


def differences(session: Session, day: int, *, values_max: int) -> Tally:
    """What must be added to the sums of a day to make them what the facts say; empty when right."""
    tally = Tally()
    _add_clicks(session, tally, day, values_max)
    for one in rollup_orders.counted_between(session, day * HOURS_A_DAY, (day + 1) * HOURS_A_DAY):
        one.add_to(tally)
    for key, counts in _stored(session, RollupHour, _hours(day)):
        _take_out(tally.hours, key, counts)
    for key, counts in _stored(session, RollupDay, col(RollupDay.day) == day):
        _take_out(tally.days, key, counts)
    rollup_orders.drop_zeros(tally)
    return tally


def rebuild(engine: Engine, day: date, *, values_max: int, accept_fewer: bool = False) -> Rebuilt:
    """Make the sums of a UTC day what the facts say, in short transactions; a repeat changes none.

    FactsGone, with nothing changed, when there are fewer clicks than were counted, unless that is
    accepted.
    """
    number = day_number(day)
    with reading(engine) as session:
        ids = list(session.exec(_conversions_of(number)))
    for start in range(0, len(ids), _ROWS_PER_WRITE):
        with unit_of_work(engine) as session:
            rollup_orders.refresh(session, ids[start : start + _ROWS_PER_WRITE])
        let_others_write(engine)
    with reading(engine) as session:
        missing = differences(session, number, values_max=values_max)
    clicks = sum(counts[at] for counts in missing.hours.values() for at in _CLICKS)
    if clicks < 0 and not accept_fewer:
        raise FactsGone(f"{day}: {-clicks} clicks that were counted are no longer there")
    for part in _parts(missing):
        with unit_of_work(engine) as session:
            # Values were folded already, against the rows that there are.
            store(session, part, values_max=values_max)
        let_others_write(engine)
    return Rebuilt(rows=len(missing.hours) + len(missing.days), clicks=clicks)


def check(session: Session, *, now: datetime, days: int, values_max: int) -> Iterator[str]:
    """What of the sums of the last `days` UTC days contradicts the facts, a sentence a day.

    Which of a day's clicks was the unique one depends on the order in which they came in, so
    uniques are compared as totals of the day.
    """
    today = day_number(now.astimezone(UTC).date())
    for number in range(today - days + 1, today + 1):
        missing = differences(session, number, values_max=values_max)
        uniques = sum(counts[_UNIQUE] for counts in missing.hours.values())
        found = [f"unique_clicks {uniques:+d}"] if uniques else []
        found += _named(missing.hours) + _named(missing.days)
        uncounted = session.exec(
            select(sa.func.count()).select_from(_conversions_of(number, uncounted=True).subquery())
        ).one()
        if uncounted:
            found.append(f"{uncounted} conversions are not counted")
        if found:
            yield f"{day_of(number)}: {found[0]} and {len(found) - 1} more"


def _named(sums: Mapping[Any, Sequence[int]]) -> list[str]:
    return [
        f"{key}: {name} {count:+d}"
        for key, counts in sorted(sums.items())
        for name, count in zip(COUNTERS, counts, strict=True)
        if count and name != COUNTERS[_UNIQUE]
    ]


def _hours(day: int) -> sa.ColumnElement[bool]:
    hour = col(RollupHour.hour)
    return sa.and_(hour >= day * HOURS_A_DAY, hour < (day + 1) * HOURS_A_DAY)


def _stored(
    session: Session, model: type[SQLModel], where: sa.ColumnElement[bool]
) -> Iterator[tuple[Any, list[int]]]:
    table = model.metadata.tables[str(model.__tablename__)]
    width = len(table.primary_key)
    for row in session.execute(sa.select(table).where(where).execution_options(yield_per=2_000)):
        yield tuple(row[:width]), list(row[width:])


def _take_out(sums: dict[Any, list[int]], key: Any, counts: Sequence[int]) -> None:
    found = sums.setdefault(key, [0] * len(COUNTERS))
    for at, count in enumerate(counts):
        if at != _IMPRESSIONS:
            found[at] -= count


def _conversions_of(day: int, *, uncounted: bool = False) -> Any:
    query = (
        select(Conversion.id)
        .join(Attribution, col(Attribution.conversion_id) == col(Conversion.id))
        .where(
            col(Conversion.program_id).in_(select(Program.id)),
            col(Conversion.occurred_at) >= _start(day),
            col(Conversion.occurred_at) < _start(day + 1),
            col(Conversion.is_test).is_(False),
        )
    )
    if not uncounted:
        return query
    counted = sa.select(rollup_orders.TABLE.c.conversion_id)
    return query.where(col(Conversion.id).not_in(counted))


def _start(day: int) -> datetime:
    return datetime(1970, 1, 1, tzinfo=UTC) + timedelta(days=day)


def _add_clicks(session: Session, tally: Tally, day: int, values_max: int) -> None:
    programs = dict(session.exec(select(Program.id, Program.number)).all())
    publishers = dict(session.exec(select(Publisher.id, Publisher.number)).all())
    folding = _Folding(session, day, values_max)
    seen: set[int] = set()
    for row in _clicks_of(session, day):
        program, publisher = programs[row["program_id"]], publishers[row["publisher_id"]]
        reason = row["unbillable_reason"]
        is_first = False
        if row["visitor_key"] and not reason:
            visitor = visitor_hash(program, publisher, row["visitor_key"])
            is_first = visitor not in seen
            seen.add(visitor)
        tally.add(
            counts_of_click(reason, is_first=is_first),
            hour=hour_of(row["at"]),
            program=program,
            publisher=publisher,
            currency="",
            values=folding.of(program, publisher, values_of_click(row)),
        )


def _clicks_of(session: Session, day: int) -> Iterable[Mapping[str, Any]]:
    date_of = day_of(day)
    row = click_days.known(session, [date_of]).get(date_of)
    found = select(Click).where(col(Click.at) >= _start(day), col(Click.at) < _start(day + 1))
    with click_days.reading_day(session, row) as of_day:
        if row is None or of_day is None:
            return
        if click_days.is_by_file(session):
            # A file may hold a batch at its end that is not counted yet, here or anywhere.
            counted = found.order_by(sa.text("rowid")).limit(row.clicks).subquery()
            found = select(sa.orm.aliased(Click, counted))
            found = found.order_by(counted.c.at, counted.c.id)
        else:
            found = found.order_by(col(Click.at), col(Click.id))
        query = found.execution_options(yield_per=_ROWS_PER_READ)
        for click in of_day.exec(query):
            yield click.model_dump()


class _Folding:
    """Which values have a row of their own on a day: those that have one, and new ones in order."""

    def __init__(self, session: Session, day: int, values_max: int) -> None:
        named = select(
            RollupDay.dimension,
            RollupDay.program_number,
            RollupDay.publisher_number,
            RollupDay.value,
        ).where(
            RollupDay.day == day,
            RollupDay.currency == "",
            col(RollupDay.dimension).in_(CAPPED),
            RollupDay.value != MORE,
        )
        self._named: set[tuple[Any, ...]] = {tuple(row) for row in session.exec(named)}
        # Counted here: what the widths say may be more.
        used = Counter(key[:3] for key in self._named)
        self._room = {group: values_max - count for group, count in used.items()}
        self._values_max = values_max

    def of(
        self, program: int, publisher: int, values: Sequence[tuple[str, str]]
    ) -> Iterator[tuple[str, str]]:
        for dimension, value in values:
            yield dimension, value if self._has_room(dimension, program, publisher, value) else MORE

    def _has_room(self, dimension: str, program: int, publisher: int, value: str) -> bool:
        if dimension not in CAPPED:
            return True
        key, group = (dimension, program, publisher, value), (dimension, program, publisher)
        if key in self._named:
            return True
        room = self._room.get(group, self._values_max)
        if room > 0:
            self._room[group] = room - 1
            self._named.add(key)
        return room > 0


def _parts(tally: Tally) -> Iterator[Tally]:
    for name in ("hours", "days"):
        rows = sorted(getattr(tally, name).items())
        for start in range(0, len(rows), _ROWS_PER_WRITE):
            yield Tally(**{name: dict(rows[start : start + _ROWS_PER_WRITE])})


def prune(
    session: Session, *, now: datetime, hours_days: int, visitor_days: int, rows_max: int
) -> int:
    """Let go of up to `rows_max` hours, and of the marks of visitors, that are past their time."""
    today = day_number(now.astimezone(UTC).date())
    gone = 0
    for model, column, oldest in (
        (RollupHour, col(RollupHour.hour), (today - hours_days) * HOURS_A_DAY),
        (RollupVisitor, col(RollupVisitor.day), today - visitor_days),
    ):
        table = model.metadata.tables[str(model.__tablename__)]
        keys = [table.c[one.name] for one in table.primary_key]
        doomed = sa.select(*keys).where(column < oldest).order_by(*keys).limit(rows_max)
        result: Any = session.execute(sa.delete(table).where(sa.tuple_(*keys).in_(doomed)))
        gone += result.rowcount
    return gone
