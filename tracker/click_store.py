"""Adds finished rows of clicks to their days, each once, with the repeats of each visitor counted.

On PostgreSQL all of it is one transaction with the journal's position. SQLite cannot commit two
files as one: the files of the days are written first and the position after them, and a batch
that is read again after a crash finds its own rows by their origin.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from operator import itemgetter
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from kernel.database import reading
from tracker import click_days, day_partitions
from tracker.click_rows import (
    AT,
    CARRIED,
    DUPLICATES,
    ID,
    ORIGIN,
    PROGRAM,
    REASON,
    VISITOR,
    Built,
    DayRows,
    Row,
)
from tracker.clicks import AHEAD_OF_PERSON
from tracker.models import Click, ClickDay
from tracker.visitors import CARRY

_MEMORY_VISITORS_MAX: Final = 200_000
_ASK_MAX: Final = 10_000
_AT: Final = itemgetter(AT)

_LOOKED_UP: Final = (
    col(Click.id),
    col(Click.program_id),
    col(Click.visitor_key),
    col(Click.at),
    col(Click.unbillable_reason),
)

Visitor = tuple[str, str]
"""Program id and visitor key."""
Times = dict[Visitor, list[datetime]]


@dataclass(slots=True)
class Memory:
    """The clicks of the last moments as this process stored them, so that few are looked up.

    It knows every click after `complete_after`, as long as the days have the counts that it has
    seen: nobody else has added any.
    """

    times: Times = field(default_factory=dict)
    counts: dict[date, int] = field(default_factory=dict)
    complete_after: datetime | None = None
    latest: datetime | None = None
    pruned: datetime | None = None

    def knows(self, since: datetime, places: Mapping[date, ClickDay]) -> bool:
        """Whether every stored click from `since` on, in these places, is in here."""
        stored = {day: row.clicks for day, row in places.items() if row.clicks}
        if any(self.counts.get(day) != clicks for day, clicks in stored.items()):
            self.times.clear()
            self.counts = stored
            latest = [row.last_at for row in places.values() if row.last_at is not None]
            self.complete_after = max(latest, default=None)
        return self.complete_after is None or since > self.complete_after

    def commit(self, stored: "Stored", window: timedelta) -> None:
        """What was added is committed: count it, and forget what nobody will ask for."""
        for day, (clicks, latest) in stored.counts.items():
            self.counts[day] = self.counts.get(day, 0) + clicks
            self.latest = latest if self.latest is None else max(self.latest, latest)
        floor = None if self.latest is None else self.latest - 2 * window
        if floor is None or (self.pruned is not None and floor < self.pruned + window):
            return
        self.pruned = floor
        self.times = {who: times for who, times in self.times.items() if times[-1] >= floor}
        if self.complete_after is None or self.complete_after < floor:
            self.complete_after = floor
        if len(self.times) > _MEMORY_VISITORS_MAX:
            # Then clicks come too fast to be remembered, and are looked up.
            self.times.clear()
            self.counts.clear()


@dataclass(slots=True)
class Stored:
    """What became of a batch's clicks."""

    added: list[Row] = field(default_factory=list)
    repeated: int = 0
    counts: dict[date, tuple[int, datetime]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Store:
    """Where a batch goes: the places of its days, and what is remembered of the last ones.

    `session` is the transaction to write in, on PostgreSQL; None on SQLite.
    """

    engine: Engine
    places: Mapping[date, ClickDay]
    memory: Memory
    window: timedelta
    session: Session | None = None

    def add(self, built: Built) -> Stored:
        """Add the clicks that are new; one whose id is there already changes nothing."""
        stored = Stored()
        batch = {row[ID] for of_day in built.days.values() for row in of_day.rows}
        for day in sorted(built.days):
            of_day = built.days[day]
            rows = of_day.rows
            if len(batch) < built.count:
                rows = list({row[ID]: row for row in reversed(rows)}.values())
                stored.repeated += len(of_day.rows) - len(rows)
            rows.sort(key=_AT)
            self._count(rows, of_day, batch)
            added = self._write(day, rows)
            stored.repeated += len(rows) - len(added)
            stored.added += added
            if added:
                stored.counts[day] = (len(added), added[-1][AT])
        return stored

    # Repeats of a visitor --------------------------------------------------------------------

    def _count(self, rows: Sequence[Row], of_day: DayRows, batch: Collection[str]) -> None:
        since = rows[0][AT] - self.window
        if self.memory.knows(since, self.places):
            earlier = self.memory.times
        else:
            visitors = {row[VISITOR] for row in rows if row[VISITOR]}
            earlier = self._earlier(visitors, since, rows[-1][AT], batch, people_only=True)
        counted = [row for row in rows if row[VISITOR]]
        _count_among(counted, earlier, self.window)
        if earlier is not self.memory.times:
            _remember(counted, self.memory.times)
        if of_day.earlier_keys:
            self._carry([row for row in counted if row[ID] in of_day.earlier_keys], of_day)

    def _carry(self, rows: Sequence[Row], of_day: DayRows) -> None:
        """Count what the visitors did before the salt changed."""
        keys = set(of_day.earlier_keys.values())
        since = rows[0][AT] - max(CARRY, self.window)
        every = self._earlier(keys, since, rows[-1][AT], ())
        people = self._earlier(keys, since, rows[-1][AT], (), people_only=True)
        for row in rows:
            who, at = (row[PROGRAM], of_day.earlier_keys[row[ID]]), row[AT]
            row[CARRIED] = _count_from(every.get(who, ()), at - CARRY, after=True)
            row[DUPLICATES] += _count_from(people.get(who, ()), at - self.window)

    def _earlier(
        self,
        visitors: Collection[str],
        since: datetime,
        until: datetime,
        without: Collection[str],
        *,
        people_only: bool = False,
    ) -> Times:
        """Times of stored clicks of these visitors, but for the clicks of the batch itself."""
        found: Times = {}
        if self.session is not None:
            self._look_up(self.session, visitors, since, until, without, people_only, found)
            return found
        with reading(self.engine) as session:
            for day in click_days.days_between(since, until):
                row = self.places.get(day)
                with click_days.reading_day(session, row) as of_day:
                    if of_day is not None:
                        self._look_up(of_day, visitors, since, until, without, people_only, found)
        return found

    def _look_up(  # noqa: PLR0917 - the parts of one query
        self,
        session: Session,
        visitors: Collection[str],
        since: datetime,
        until: datetime,
        without: Collection[str],
        people_only: bool,  # noqa: FBT001 - one of the parts
        found: Times,
    ) -> None:
        for some in _chunks(visitors):
            query = (
                sa.select(*_LOOKED_UP)
                .where(
                    col(Click.visitor_key).in_(some),
                    col(Click.at) >= since,
                    col(Click.at) <= until,
                )
                .order_by(col(Click.at))
            )
            for click_id, program_id, visitor, at, reason in session.execute(query):
                if click_id not in without and not (people_only and reason in AHEAD_OF_PERSON):
                    found.setdefault((program_id, visitor), []).append(at)

    # Rows ------------------------------------------------------------------------------------

    def _write(self, day: date, rows: list[Row]) -> list[Row]:
        """Add rows of one day; those that are there through this record, now or before a crash."""
        if self.session is None:
            count = self._write_file(day, rows)
        else:
            connection = self.session.connection()
            if day_partitions.copy(connection, rows):
                return rows
            count = day_partitions.insert(connection, [tuple(row) for row in rows])
        return rows if count == len(rows) else self._ours(day, rows)

    def _write_file(self, day: date, rows: Sequence[Row]) -> int:
        # As SQLAlchemy stores a time there: without its zone, which is UTC. The rows themselves are
        # written, because a copy of each takes as long as looking it up did.
        times = [row[AT] for row in rows]
        prefix = f"{day} "
        for row, at in zip(rows, times, strict=True):
            row[AT] = prefix + at.time().isoformat("microseconds")
        try:
            return click_days.write_file(self.engine, self.places[day], rows)
        finally:
            for row, at in zip(rows, times, strict=True):
                row[AT] = at

    def _ours(self, day: date, rows: list[Row]) -> list[Row]:
        found: dict[str, tuple[int, int, int]] = {}
        if self.session is not None:
            _read_origins(self.session, rows, found)
        else:
            with (
                reading(self.engine) as session,
                click_days.reading_day(session, self.places[day]) as of_day,
            ):
                if of_day is not None:
                    _read_origins(of_day, rows, found)
        ours = []
        for row in rows:
            if row[ID] not in found:
                raise click_days.DayRetired
            origin, duplicates, carried = found[row[ID]]
            if origin == row[ORIGIN]:
                # What is counted of a click is what its row says.
                row[DUPLICATES], row[CARRIED] = duplicates, carried
                ours.append(row)
        return ours


def _chunks(values: Collection[str]) -> Iterable[list[str]]:
    every = sorted(values)
    return (every[start : start + _ASK_MAX] for start in range(0, len(every), _ASK_MAX))


def _count_among(rows: Sequence[Row], earlier: Times, window: timedelta) -> None:
    """Set `duplicates` of rows in the order of time, and add them to the earlier ones.

    What a machine requested ahead of the person is not counted.
    """
    for row in rows:
        who, at = (row[PROGRAM], row[VISITOR]), row[AT]
        times = earlier.get(who)
        if times is None:
            if row[REASON] not in AHEAD_OF_PERSON:
                earlier[who] = [at]
            continue
        end = bisect_right(times, at)
        row[DUPLICATES] = end - bisect_left(times, at - window)
        if row[REASON] not in AHEAD_OF_PERSON:
            times.insert(end, at)


def _remember(rows: Sequence[Row], times: Times) -> None:
    for row in rows:
        if row[REASON] not in AHEAD_OF_PERSON:
            known = times.setdefault((row[PROGRAM], row[VISITOR]), [])
            known.insert(bisect_right(known, row[AT]), row[AT])


def _count_from(times: Sequence[datetime], since: datetime, *, after: bool = False) -> int:
    return len(times) - (bisect_right(times, since) if after else bisect_left(times, since))


def _read_origins(
    session: Session, rows: Sequence[Row], found: dict[str, tuple[int, int, int]]
) -> None:
    for some in _chunks({row[ID] for row in rows}):
        query = select(Click.id, Click.origin, Click.duplicates, Click.carried_clicks).where(
            col(Click.id).in_(some),
            col(Click.at) >= rows[0][AT],
            col(Click.at) <= rows[-1][AT],
        )
        for click_id, origin, duplicates, carried in session.exec(query):
            found[click_id] = (origin, duplicates, carried)
