"""The clicks of a UTC day in a partition of their own, on PostgreSQL.

A partition is made as a table by itself and then attached, which keeps neither readers nor writers
of other days waiting; making it as a partition at once would lock the whole table.
"""

from collections.abc import Sequence
from datetime import date, timedelta
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine

from tracker.day_files import COLUMNS, TABLE

# Nothing else of ours locks by this number.
_ADVISORY_LOCK: Final = 7_401_006
_LOCK_MILLISECONDS: Final = 2_000
_NAMES: Final = ", ".join(COLUMNS)
_INSERT: Final = (
    f"INSERT INTO click ({_NAMES}) "  # noqa: S608 - our own columns
    f"VALUES ({', '.join(['%s'] * len(COLUMNS))}) ON CONFLICT (id, at) DO NOTHING"
)
_COPY: Final = f"COPY click ({_NAMES}) FROM STDIN (FORMAT BINARY)"


def _wire_type(kind: sa.types.TypeEngine[Any]) -> str:
    # JSON travels as its text, and ours is text already.
    for known, name in ((sa.Boolean, "bool"), (sa.BigInteger, "int8"), (sa.Integer, "int4")):
        if isinstance(kind, known):
            return name
    is_time = isinstance(kind, sa.types.TypeDecorator) and isinstance(kind.impl, sa.DateTime)
    return "timestamptz" if is_time else "text"


WIRE_TYPES: Final = [_wire_type(column.type) for column in TABLE.c]


def name_of(day: date) -> str:
    """The table of a day."""
    return f"click_{day:%Y%m%d}"


def make(engine: Engine, days: Sequence[date]) -> None:
    """Partitions for these days; those that are there stay as they are."""
    with engine.begin() as connection:
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_ADVISORY_LOCK})")
        for day in days:
            make_one(connection, day)


def make_one(connection: Connection, day: date) -> None:
    """The partition of a day, in the caller's transaction."""
    name, start, end = name_of(day), day.isoformat(), (day + timedelta(days=1)).isoformat()
    if exists(connection, day):
        return
    bounds = f"at >= '{start} 00:00:00+00' AND at < '{end} 00:00:00+00'"
    values = f"FROM ('{start} 00:00:00+00') TO ('{end} 00:00:00+00')"
    for statement in (
        f"CREATE TABLE {name} (LIKE click INCLUDING DEFAULTS INCLUDING INDEXES)",
        # Tells ATTACH that it need not look at the rows.
        f"ALTER TABLE {name} ADD CONSTRAINT {name}_bounds CHECK ({bounds})",
        f"ALTER TABLE click ATTACH PARTITION {name} FOR VALUES {values}",
        f"ALTER TABLE {name} DROP CONSTRAINT {name}_bounds",
    ):
        connection.exec_driver_sql(statement)


def exists(connection: Connection, day: date) -> bool:
    """Whether a day has its partition."""
    found = connection.exec_driver_sql(f"SELECT to_regclass('{name_of(day)}')").scalar_one()
    return found is not None


def hold(connection: Connection) -> None:
    """No day is let go until this transaction ends."""
    connection.exec_driver_sql("LOCK TABLE click IN ROW EXCLUSIVE MODE")


def lock(connection: Connection) -> None:
    """Nobody else reads or writes clicks until this transaction ends.

    Waits only a moment for those who do now, because others queue behind it: OperationalError
    when they took longer.
    """
    connection.exec_driver_sql(f"SET LOCAL lock_timeout = {_LOCK_MILLISECONDS}")
    connection.exec_driver_sql("LOCK TABLE click IN ACCESS EXCLUSIVE MODE")


def drop(connection: Connection, day: date) -> None:
    """Let a day go, in the caller's transaction that has called `lock`."""
    if exists(connection, day):
        connection.exec_driver_sql(f"ALTER TABLE click DETACH PARTITION {name_of(day)}")
        connection.exec_driver_sql(f"DROP TABLE {name_of(day)}")


def bytes_of(connection: Connection, day: date) -> int:
    """What a day takes on disk, its indexes included; 0 when it has no partition."""
    query = f"SELECT coalesce(pg_total_relation_size(to_regclass('{name_of(day)}')), 0)"
    return int(connection.exec_driver_sql(query).scalar_one())


def copy(connection: Connection, rows: Sequence[Sequence[Any]]) -> bool:
    """Add finished rows (see COLUMNS) in one stream.

    False, and none added, when one is there already or is none that the table takes: `insert`
    says which.
    """
    savepoint = connection.begin_nested()
    # By way of the dialect: a node on SQLite need not load the driver.
    errors: Any = connection.dialect.dbapi
    try:
        driver: Any = connection.connection.driver_connection
        with driver.cursor() as cursor, cursor.copy(_COPY) as stream:
            stream.set_types(WIRE_TYPES)
            for row in rows:
                stream.write_row(row)
    except (errors.IntegrityError, errors.DataError):
        savepoint.rollback()
        return False
    except errors.Error as error:
        # Past SQLAlchemy, nobody else gives the driver's errors their usual names.
        raise sa.exc.OperationalError(_COPY, None, error) from error
    savepoint.commit()
    return True


def insert(connection: Connection, rows: Sequence[tuple[Any, ...]]) -> int:
    """Add finished rows (see COLUMNS) whose id is not there yet; how many these were."""
    return connection.exec_driver_sql(_INSERT, list(rows)).rowcount
