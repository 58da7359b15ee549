"""One engine a process, one transaction a request or task, and the column types everyone uses.

SQLite: WAL, full sync, `BEGIN IMMEDIATE` for every transaction that may write. No connection
checkpoints by itself: `checkpoint` runs in one process only and holds the writer lock while it
does, because SQLite before 3.51.3 can lose a commit that races a checkpoint (the WAL-reset bug).
"""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlmodel import Field, Session, SQLModel

SQLModel.metadata.naming_convention = {
    "ix": "ix_%(table_name)s_%(column_0_N_name)s",
    "uq": "uq_%(table_name)s_%(column_0_N_name)s",
    "ck": "ck_%(table_name)s_%(constraint_name)s",
    "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    "pk": "pk_%(table_name)s",
}

BUSY_TIMEOUT_MILLISECONDS = 10_000
CHECKPOINT_TIMEOUT_MILLISECONDS = 250
LOCK_TIMEOUT_MILLISECONDS = 10_000
_BEGIN_PAUSE_SECONDS = 0.003
# Negative: kibibytes of SQLite's pages that a connection keeps.
_CACHE_SIZE = -32_768
_CACHE_SIZE_SCANNING = -1_024

# SQLite numbers rows only for INTEGER keys; PostgreSQL needs 64 bits said out loud.
_SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")

Minor = Annotated[int, Field(sa_type=sa.BigInteger)]
"""An amount in minor units: 64 bits, because `int` alone becomes 32 bits on PostgreSQL."""

Count = Annotated[int, Field(sa_type=sa.BigInteger)]
"""A 64-bit whole number that is not money."""


def sequence_key() -> Any:
    """A primary key that the database numbers upwards."""
    return Field(default=None, primary_key=True, sa_type=_SEQUENCE)


def json_column(**options: Any) -> Any:
    """A column that holds a JSON document."""
    return Field(sa_type=sa.JSON, **options)


def append_only() -> dict[str, Any]:
    """Table arguments of facts that never change; the migration adds the triggers."""
    return {"info": {"append_only": True}}


def append_only_ddl(dialect: str, table: str) -> list[str]:
    """The statements that make the database itself refuse UPDATE and DELETE on a table."""
    if dialect == "sqlite":
        return [
            f"CREATE TRIGGER {table}_no_{verb.lower()} BEFORE {verb} ON {table} "
            f"BEGIN SELECT RAISE(ABORT, '{table} is append-only'); END"
            for verb in ("UPDATE", "DELETE")
        ]
    return [
        (
            "CREATE OR REPLACE FUNCTION tallystick_append_only() RETURNS trigger AS $$ "
            "BEGIN RAISE EXCEPTION '% is append-only', TG_TABLE_NAME; END $$ LANGUAGE plpgsql"
        ),
        (
            f"CREATE TRIGGER {table}_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION tallystick_append_only()"
        ),
    ]


def connect(url: str, *, pool_size: int = 5) -> Engine:
    """The engine for a database URL (`sqlite:///...` or `postgresql://...`)."""
    if url.startswith("sqlite"):
        engine = sa.create_engine(url, connect_args={"timeout": BUSY_TIMEOUT_MILLISECONDS / 1000})
        event.listen(engine, "connect", _prepare_sqlite)
        event.listen(engine, "begin", _begin_sqlite)
        return engine
    engine = sa.create_engine(
        url.replace("postgresql://", "postgresql+psycopg://", 1),
        pool_size=pool_size,
        pool_pre_ping=True,
        connect_args={
            "connect_timeout": 3,
            "options": f"-c lock_timeout={LOCK_TIMEOUT_MILLISECONDS} -c timezone=UTC",
        },
    )
    return engine  # noqa: RET504 - two branches that read alike


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    # The driver's own transaction control is off: `_begin_sqlite` says BEGIN, with the right kind.
    connection.isolation_level = None
    cursor = connection.cursor()
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        "foreign_keys = ON",
        "wal_autocheckpoint = 0",
        # Without it INSERT OR REPLACE deletes a row past the trigger that forbids deleting.
        "recursive_triggers = ON",
        "temp_store = MEMORY",
        f"cache_size = {_CACHE_SIZE}",
    ):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def sort_on_disk(engine: Engine) -> None:
    """Let an engine without connections yet sort in files what is more than a cache full.

    For work whose memory must not grow with the database. PostgreSQL does so anyway.
    """
    if engine.dialect.name == "sqlite":
        event.listen(engine, "connect", _sort_on_disk)


def _sort_on_disk(connection: sqlite3.Connection, _record: object) -> None:
    connection.execute("PRAGMA temp_store = FILE").close()


def _begin_sqlite(connection: Connection) -> None:
    # A deferred transaction that turns into a writer later fails at once when another writer was
    # faster, busy timeout or not; so whatever may write takes the lock first.
    if connection.get_execution_options().get("read_only", False):
        connection.exec_driver_sql("BEGIN")
        return
    # SQLite's own waiting looks every 100 ms; between two transactions of a busy worker it would
    # miss its turn for seconds. Looking every few milliseconds makes the queue nearly fair.
    deadline = time.monotonic() + BUSY_TIMEOUT_MILLISECONDS / 1000
    connection.exec_driver_sql("PRAGMA busy_timeout = 0")
    try:
        while not _try_begin_immediate(connection, last=time.monotonic() > deadline):
            time.sleep(_BEGIN_PAUSE_SECONDS)
    finally:
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MILLISECONDS}")


def _try_begin_immediate(connection: Connection, *, last: bool) -> bool:
    try:
        connection.exec_driver_sql("BEGIN IMMEDIATE")
    except sa.exc.OperationalError as error:
        busy = getattr(error.orig, "sqlite_errorcode", None) == sqlite3.SQLITE_BUSY
        if last or not busy:
            raise
        return False
    return True


def let_others_write(engine: Engine) -> None:
    """A pause between two short transactions of bulk work, so that whoever waits gets its turn."""
    if engine.dialect.name == "sqlite":
        time.sleep(2 * _BEGIN_PAUSE_SECONDS)


def take_turns(session: Session, name: str) -> None:
    """Be the only transaction that deals with this, until it ends; others wait here for it.

    For what no row stands for yet. SQLite's writers are alone anyway.
    """
    if session.get_bind().dialect.name != "sqlite":
        session.execute(
            sa.text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name}
        )


@contextmanager
def unit_of_work(engine: Engine) -> Iterator[Session]:
    """A session whose one commit happens at the end; any error rolls everything back."""
    with Session(engine, expire_on_commit=False) as session, session.begin():
        yield session


@contextmanager
def reading(engine: Engine) -> Iterator[Session]:
    """A session on one snapshot that never waits for a writer and never commits."""
    options: dict[str, Any] = {"read_only": True}
    if engine.dialect.name == "postgresql":
        options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with (
        engine.connect().execution_options(**options) as connection,
        Session(connection, expire_on_commit=False, autoflush=False) as session,
    ):
        yield session


@contextmanager
def scanning(engine: Engine) -> Iterator[Session]:
    """A session like that of `reading`, for one pass over many rows that are not asked for again.

    What the pass has seen is not kept: a pooled connection would hold tens of megabytes of it.
    """
    with reading(engine) as session:
        is_sqlite = engine.dialect.name == "sqlite"
        if is_sqlite:
            session.execute(sa.text(f"PRAGMA cache_size = {_CACHE_SIZE_SCANNING}"))
        try:
            yield session
        finally:
            if is_sqlite:
                session.execute(sa.text(f"PRAGMA cache_size = {_CACHE_SIZE}"))


def is_reachable(engine: Engine) -> bool:
    """Whether the database answers now."""
    try:
        with reading(engine) as session:
            session.execute(sa.text("SELECT 1"))
    except sa.exc.SQLAlchemyError:
        return False
    return True


def checkpoint(engine: Engine) -> None:
    """Fold SQLite's write-ahead log into the file; nothing on PostgreSQL.

    TRUNCATE takes the writer lock and keeps it, so no commit can race it. It waits only a moment
    for readers: writers stand still meanwhile, and the next call finds what this one left.
    Called by one process only.
    """
    if engine.dialect.name != "sqlite":
        return
    connection = engine.raw_connection()
    try:
        cursor = connection.cursor()
        cursor.execute(f"PRAGMA busy_timeout = {CHECKPOINT_TIMEOUT_MILLISECONDS}")
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        cursor.execute(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_MILLISECONDS}")
    finally:
        connection.close()
