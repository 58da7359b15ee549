"""Transactions: writers wait for one another, readers for nobody, and errors leave nothing."""

import threading
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from kernel import database
from kernel.database import checkpoint, connect, is_reachable, reading, unit_of_work
from kernel.outbox import Lease
from tests.conftest import NOW


def put(session: Session, name: str, owner: str = "a") -> None:
    session.add(Lease(name=name, owner=owner, until=NOW))
    session.flush()


def names(engine: Engine) -> list[str]:
    with reading(engine) as session:
        return list(session.exec(select(Lease.name).order_by(Lease.name)))


@pytest.fixture
def short_busy_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MILLISECONDS", 100)


def test_a_unit_of_work_is_kept_as_a_whole(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        put(session, "one")
        put(session, "two")

    assert names(engine) == ["one", "two"]


def test_any_error_takes_the_whole_unit_of_work_back(engine: Engine) -> None:
    def work() -> None:
        with unit_of_work(engine) as session:
            put(session, "one")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        work()

    assert names(engine) == []


def test_a_reader_neither_waits_for_a_writer_nor_sees_what_is_not_committed(
    engine: Engine,
) -> None:
    with unit_of_work(engine) as session:
        put(session, "old")
    with unit_of_work(engine) as session:
        put(session, "new")
        assert names(engine) == ["old"]

    assert names(engine) == ["new", "old"]


def test_a_reader_stays_on_one_snapshot_and_holds_no_writer_up(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        put(session, "old")

    with reading(engine) as reader:
        assert reader.exec(select(Lease.name)).all() == ["old"]
        with unit_of_work(engine) as session:
            put(session, "new")
        assert reader.exec(select(Lease.name)).all() == ["old"]

    assert names(engine) == ["new", "old"]


def test_what_is_written_in_a_reading_session_is_never_kept(engine: Engine) -> None:
    if engine.dialect.name == "sqlite":
        with reading(engine) as session:
            put(session, "stray")
    else:
        with pytest.raises(sa.exc.DBAPIError, match="read-only"), reading(engine) as session:
            put(session, "stray")

    assert names(engine) == []


def test_a_connection_writes_again_after_it_was_used_for_reading(database_url: str) -> None:
    engine = connect(database_url, pool_size=1)
    try:
        names(engine)
        with unit_of_work(engine) as session:
            put(session, "one")
        names(engine)
        with unit_of_work(engine) as session:
            put(session, "two")
        assert names(engine) == ["one", "two"]
    finally:
        engine.dispose()


def test_writers_that_read_first_wait_for_one_another_and_none_fails(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        put(session, "counter", owner="0")
    failures: list[BaseException] = []
    together = threading.Barrier(4)

    def count() -> None:
        together.wait(10)
        try:
            for _ in range(10):
                with unit_of_work(engine) as session:
                    row = session.exec(select(Lease).with_for_update()).one()
                    row.owner = str(int(row.owner) + 1)
        except BaseException as error:  # noqa: BLE001 - shown by the assertion below
            failures.append(error)

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)

    assert failures == []
    with reading(engine) as session:
        assert session.exec(select(Lease.owner)).one() == "40"


@pytest.mark.usefixtures("short_busy_timeout")
def test_a_sqlite_transaction_takes_the_writer_lock_before_it_reads(sqlite_url: str) -> None:
    engine = connect(sqlite_url)
    try:
        with unit_of_work(engine) as first:
            first.exec(select(Lease)).all()
            with (
                pytest.raises(sa.exc.OperationalError, match="database is locked"),
                unit_of_work(engine) as second,
            ):
                second.exec(select(Lease)).all()
    finally:
        engine.dispose()


def test_sqlite_connections_are_prepared(sqlite_engine: Engine) -> None:
    expected = {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "wal_autocheckpoint": 0,
        "recursive_triggers": 1,
        "busy_timeout": 10_000,
    }
    with sqlite_engine.connect() as connection:
        found = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar_one() for name in expected
        }

    assert found == expected


def wal_of(engine: Engine) -> Path:
    return Path(f"{engine.url.database}-wal")


@pytest.fixture
def written(sqlite_engine: Engine) -> Engine:
    with unit_of_work(sqlite_engine) as session:
        put(session, "one")
    assert wal_of(sqlite_engine).stat().st_size > 0
    return sqlite_engine


def test_a_checkpoint_folds_the_log_into_the_file(written: Engine) -> None:
    checkpoint(written)

    assert wal_of(written).stat().st_size == 0
    assert names(written) == ["one"]


def test_a_checkpoint_gives_way_to_a_reader_and_leaves_the_busy_timeout_as_it_was(
    written: Engine,
) -> None:
    with reading(written) as reader:
        reader.exec(select(Lease)).all()
        with unit_of_work(written) as session:
            put(session, "two")

        checkpoint(written)

        assert wal_of(written).stat().st_size > 0
        with unit_of_work(written) as session:
            put(session, "three")

    checkpoint(written)
    assert wal_of(written).stat().st_size == 0
    assert names(written) == ["one", "three", "two"]
    with written.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA busy_timeout").scalar_one() == 10_000


@pytest.mark.services
def test_a_checkpoint_is_nothing_on_postgresql(postgres_url: str) -> None:
    engine = connect(postgres_url)
    try:
        checkpoint(engine)
        assert names(engine) == []
    finally:
        engine.dispose()


def test_whether_a_database_answers(engine: Engine) -> None:
    assert is_reachable(engine)


@pytest.mark.parametrize("url", ["sqlite:////nowhere/at/all.db", "postgresql://x@127.0.0.1:1/x"])
def test_a_database_that_is_away_is_said_to_be(url: str) -> None:
    engine = connect(url)
    try:
        assert not is_reachable(engine)
    finally:
        engine.dispose()


def test_times_come_back_as_the_same_instant(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        put(session, "one")
    with reading(engine) as session:
        assert session.exec(select(Lease.until).where(col(Lease.until) == NOW)).one() is not None


@pytest.mark.parametrize("dialect", ["sqlite", "postgresql"])
def test_append_only_statements_name_their_table(dialect: str) -> None:
    statements = database.append_only_ddl(dialect, "posting")

    assert len(statements) == 2
    assert "posting" in statements[-1]
