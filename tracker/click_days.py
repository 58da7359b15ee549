"""Where the clicks of a day are: a file of their own beside SQLite, a partition on PostgreSQL.

Both are filled and let go by the day: adding to a day does not get slower with the days before it,
and letting one go takes the same moment whatever it holds. What stands in which place is said by
the rows of `click_day` in the main database.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, SQLModel, col, select

from kernel.database import let_others_write, reading, unit_of_work
from tracker import day_files, day_partitions
from tracker.day_files import COLUMNS, Place
from tracker.models import ClickDay

AHEAD_DAYS: Final = 2
BEFORE_DAYS_TABLE: Final = "click_before_days"
"""Clicks of a SQLite database from before there were day files, until `upgrade` has moved them."""
_MOVE_ROWS: Final = 2_000
_DAY: Final = timedelta(days=1)


class DayRetired(Exception):
    """A day was let go between writing its rows and counting them; write them again."""


def day_of(at: datetime) -> date:
    """The day whose place holds a click of this time (UTC)."""
    return at.date()


def bounds(day: date) -> tuple[datetime, datetime]:
    """When a day begins and when the next one does."""
    first = datetime.combine(day, time.min, UTC)
    return first, first + _DAY


def days_between(first: datetime, last: datetime) -> list[date]:
    """The days that a window touches, both ends included."""
    days = (day_of(last) - day_of(first)).days
    return [day_of(first) + timedelta(days=number) for number in range(days + 1)]


def known(session: Session, days: Collection[date]) -> dict[date, ClickDay]:
    """The rows of these days that have, or had, clicks."""
    found = session.exec(select(ClickDay).where(col(ClickDay.day).in_(set(days))))
    return {row.day: row for row in found}


def kept(session: Session) -> list[ClickDay]:
    """The days that have clicks, oldest first."""
    query = select(ClickDay).where(col(ClickDay.retired_at).is_(None)).order_by(col(ClickDay.day))
    return list(session.exec(query))


@contextmanager
def reading_day(session: Session, row: ClickDay | None) -> Iterator[Session | None]:
    """A session on the clicks of a day, for as long as the block; None when there are none.

    `row` is the day's row from `known` or `kept`. On PostgreSQL it is the caller's own session.
    """
    engine = engine_of(session)
    if row is None or row.retired_at is not None:
        yield None
    elif engine.dialect.name != "sqlite":
        yield session
    else:
        reader = day_files.beside(engine).reader(Place(row.day, row.generation))
        if reader is None:
            yield None
        else:
            with reading(reader) as of_day:
                yield of_day


def is_by_file(session: Session) -> bool:
    """Whether a day's session sees that day only, as opposed to all of them."""
    return engine_of(session).dialect.name == "sqlite"


def open_days(
    engine: Engine, days: Collection[date], *, also: Collection[date] = (), now: datetime
) -> dict[date, ClickDay]:
    """See to it that clicks of `days` can be written; their rows, and those `also` has."""
    wanted = {*days, *also}
    with reading(engine) as session:
        found = known(session, wanted)
    missing = [day for day in days if day not in found or found[day].retired_at is not None]
    if not missing:
        return found
    if engine.dialect.name != "sqlite":
        day_partitions.make(engine, sorted(missing))
    with unit_of_work(engine) as session:
        for day in sorted(missing):
            _open(session, day, now=now)
    with reading(engine) as session:
        return known(session, wanted)


def _open(session: Session, day: date, *, now: datetime) -> None:
    row = session.get(ClickDay, day, with_for_update=True)
    if row is None:
        insert = sa.text(
            "INSERT INTO click_day (day, generation, opened_at, clicks, retired_clicks) "
            "VALUES (:day, 0, :now, 0, 0) ON CONFLICT (day) DO NOTHING"
        ).bindparams(
            sa.bindparam("day", day, sa.Date), sa.bindparam("now", now, _COLUMN_TYPES["opened_at"])
        )
        session.execute(insert)
    elif row.retired_at is not None:
        row.generation += 1
        row.opened_at, row.retired_at, row.last_at = now, None, None
        session.add(row)


def hold(session: Session, places: Mapping[date, ClickDay]) -> None:
    """On PostgreSQL: no day is let go until the session's transaction ends.

    DayRetired when one of `places`, from `open_days`, was let go since.
    """
    day_partitions.hold(session.connection())
    found = known(session, places)
    for day, place in places.items():
        row = found.get(day)
        if row is None or (row.generation, row.retired_at) != (place.generation, place.retired_at):
            raise DayRetired


_TABLE: Final = SQLModel.metadata.tables[str(ClickDay.__tablename__)]
_COLUMN_TYPES: Final = {column.name: column.type for column in _TABLE.c}
_ADD: Final = (
    sa.update(_TABLE)
    .where(
        _TABLE.c.day == sa.bindparam("of_day"),
        _TABLE.c.generation == sa.bindparam("of_generation"),
        _TABLE.c.retired_at.is_(None),
    )
    .values(
        clicks=_TABLE.c.clicks + sa.bindparam("more"),
        last_at=sa.case(
            (_TABLE.c.last_at > sa.bindparam("latest"), _TABLE.c.last_at),
            else_=sa.bindparam("latest", type_=_COLUMN_TYPES["last_at"]),
        ),
    )
)


def added(
    session: Session, counts: Mapping[date, tuple[int, datetime]], places: Mapping[date, ClickDay]
) -> None:
    """Count clicks that were added: how many of each day, and the latest of them.

    `places` is where they were written, from `open_days`; DayRetired when one was let go since.
    """
    # In the order of days: two shippers that count the same days wait and do not block for ever.
    for day, (clicks, latest) in sorted(counts.items()):
        moved = session.execute(
            _ADD,
            {
                "of_day": day,
                "of_generation": places[day].generation,
                "more": clicks,
                "latest": latest,
            },
        )
        if moved.rowcount != 1:  # type: ignore[attr-defined]  # what an UPDATE gives has it
            raise DayRetired


def retire(engine: Engine, *, keep_days: int, now: datetime) -> int:
    """Let go what is older than `keep_days` (0: nothing); how many days. Repeats are harmless.

    A day that was brought in later, as an import of the past is, is kept as long from then on.
    """
    retired = 0
    if keep_days:
        oldest = now - keep_days * _DAY
        with reading(engine) as session:
            due = [
                row.day
                for row in kept(session)
                if row.day < day_of(oldest) and row.opened_at < oldest
            ]
        for day in due:
            _retire(engine, day, now=now)
            let_others_write(engine)
            retired += 1
    if engine.dialect.name == "sqlite":
        _remove_leftovers(engine)
    return retired


def _retire(engine: Engine, day: date, *, now: datetime) -> None:
    with unit_of_work(engine) as session:
        if engine.dialect.name != "sqlite":
            day_partitions.lock(session.connection())
        row = session.get_one(ClickDay, day, with_for_update=True)
        if row.retired_at is not None:
            return
        if engine.dialect.name != "sqlite":
            day_partitions.drop(session.connection(), day)
        row.retired_clicks += row.clicks
        row.clicks, row.retired_at = 0, now
        session.add(row)


def _remove_leftovers(engine: Engine) -> None:
    """Unlink the files of days that were let go, now or before a crash."""
    files = day_files.beside(engine)
    with reading(engine) as session:
        rows = known(session, {place.day for place in files.places()})
    for place in files.places():
        row = rows.get(place.day)
        # A file of a later generation than the row's was made after the row was read.
        if row is None or place.generation > row.generation:
            continue
        if place.generation < row.generation or row.retired_at is not None:
            files.remove(place)


def make_ahead(engine: Engine, *, now: datetime) -> None:
    """Partitions for today and the days to come; nothing on SQLite, whose files need no time."""
    if engine.dialect.name == "sqlite":
        return
    days = [day_of(now) + number * _DAY for number in range(AHEAD_DAYS + 1)]
    with engine.connect() as connection:
        missing = [day for day in days if not day_partitions.exists(connection, day)]
    if missing:
        day_partitions.make(engine, missing)


def bytes_of(session: Session, row: ClickDay) -> int:
    """What a day takes on disk."""
    engine = engine_of(session)
    if engine.dialect.name == "sqlite":
        return day_files.beside(engine).bytes_of(Place(row.day, row.generation))
    return day_partitions.bytes_of(session.connection(), row.day)


def upgrade(engine: Engine, *, now: datetime) -> None:
    """What migrations of the main database cannot do: bring day files forward and fill them.

    A repeat changes nothing, and goes on where an interrupted call stopped.
    """
    if engine.dialect.name != "sqlite":
        return
    day_files.beside(engine).upgrade()
    if not sa.inspect(engine).has_table(BEFORE_DAYS_TABLE):
        return
    while _move_some(engine, now=now):
        let_others_write(engine)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"DROP TABLE {BEFORE_DAYS_TABLE}")


def _move_some(engine: Engine, *, now: datetime) -> bool:
    with engine.connect().execution_options(read_only=True) as connection:
        found = connection.exec_driver_sql(
            f"SELECT rowid AS place, * FROM {BEFORE_DAYS_TABLE} ORDER BY at LIMIT {_MOVE_ROWS}"  # noqa: S608 - our own table
        ).mappings()
        rows = [dict(row) for row in found]
    by_day: dict[date, list[tuple[Any, ...]]] = {}
    for row in rows:
        moved = day_files.EMPTY | row
        day = date.fromisoformat(str(row["at"])[:10])
        by_day.setdefault(day, []).append(tuple(moved[name] for name in COLUMNS))
    if not rows:
        return False
    places = open_days(engine, by_day.keys(), now=now)
    for day, of_day in by_day.items():
        write_file(engine, places[day], of_day)
    at = COLUMNS.index("at")
    with unit_of_work(engine) as session:
        latest = {day: max(str(row[at]) for row in some) for day, some in by_day.items()}
        added(
            session,
            {
                day: (len(some), datetime.fromisoformat(f"{latest[day]}+00:00"))
                for day, some in by_day.items()
            },
            places,
        )
        session.connection().exec_driver_sql(
            f"DELETE FROM {BEFORE_DAYS_TABLE} WHERE rowid = ?",  # noqa: S608 - our own table
            [(row["place"],) for row in rows],
        )
    return True


def write_file(engine: Engine, row: ClickDay, rows: Sequence[Sequence[Any]]) -> int:
    """Add finished rows to the file of a day, committed at once; how many were new."""
    with day_files.beside(engine).writing(Place(row.day, row.generation)) as connection:
        return day_files.insert(connection, rows)


def engine_of(session: Session) -> Engine:
    """The engine of the main database that a session is on."""
    bind = session.get_bind()
    return bind if isinstance(bind, Engine) else bind.engine
