import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.engine import Engine

from kernel.database import connect, unit_of_work
from kernel.settings import Settings
from server import backups
from server.backups import BackupError
from tests import make


@pytest.fixture
def database(sqlite_url: str, settings: Settings) -> Path:
    path = backups.database_file(settings)
    assert sqlite_url == f"sqlite:///{path}"
    return path


@pytest.fixture
def writer(database: Path) -> Iterator[sqlite3.Connection]:
    """A server at work: its log is never moved into the database file."""
    with closing(sqlite3.connect(database, isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA wal_autocheckpoint = 0")
        yield connection


def insert(connection: sqlite3.Connection, name: str) -> None:
    connection.execute(
        "INSERT INTO advertiser (id, name, created_at) VALUES (?, ?, ?)",
        (f"adv_{name}", name, "2026-03-10 12:00:00.000000"),
    )


def names_in(path: Path) -> list[str]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM advertiser ORDER BY name")]


def test_the_copy_has_what_was_committed_and_nothing_else(
    settings: Settings, writer: sqlite3.Connection, tmp_path: Path
) -> None:
    insert(writer, "committed to the log only")
    writer.execute("BEGIN IMMEDIATE")
    insert(writer, "not committed")
    target = tmp_path / "copy.db"

    digest = backups.backup(settings, target)
    writer.execute("COMMIT")

    assert names_in(target) == ["committed to the log only"]
    assert digest == hashlib.sha256(target.read_bytes()).hexdigest()
    assert names_in(backups.database_file(settings)) == [
        "committed to the log only",
        "not committed",
    ]


def test_the_copy_is_one_file(
    settings: Settings, writer: sqlite3.Connection, tmp_path: Path
) -> None:
    insert(writer, "x")
    folder = tmp_path / "a folder #1?"
    folder.mkdir()

    backups.backup(settings, folder / "copy.db")

    assert [path.name for path in folder.iterdir()] == ["copy.db"]


def clicks_of(url: str) -> dict[str, str]:
    engine = connect(url)
    try:
        return {click.id: click.landing_url for click in make.clicks(engine)}
    finally:
        engine.dispose()


def test_the_days_of_clicks_are_copied_and_come_back(
    settings: Settings, sqlite_engine: Engine, tmp_path: Path
) -> None:
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session)
        who = make.publisher(session, member_of=program)
        for days in (0, 1, 1):
            make.click(session, program, who, at=make.NOW - timedelta(days=days))
    kept = {click.id: click.landing_url for click in make.clicks(sqlite_engine)}
    copy = tmp_path / "copies" / "monday.db"
    copy.parent.mkdir()

    backups.backup(settings, copy)

    assert sorted(str(path.relative_to(copy.parent)) for path in copy.parent.rglob("*")) == [
        "monday-clicks",
        "monday-clicks/2026-03-09.db",
        "monday-clicks/2026-03-10.db",
        "monday.db",
    ]
    assert clicks_of(f"sqlite:///{copy}") == kept
    elsewhere = Settings(data_dir=tmp_path / "new")
    backups.restore(elsewhere, copy)
    assert clicks_of(elsewhere.database) == kept
    assert len(kept) == 3


def test_days_that_are_there_are_not_overwritten(
    settings: Settings, sqlite_template: Path, tmp_path: Path
) -> None:
    left = settings.data_dir / "tallystick-clicks" / "2026-03-09.db"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"precious")

    with pytest.raises(BackupError, match=r"tallystick-clicks exists; move it away first"):
        backups.restore(settings, sqlite_template)

    assert left.read_bytes() == b"precious"
    assert not (tmp_path / "var" / "tallystick.db").exists()


def test_a_damaged_day_gives_no_copy(
    settings: Settings, sqlite_engine: Engine, tmp_path: Path
) -> None:
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session)
        make.click(session, program, make.publisher(session, member_of=program))
    sqlite_engine.dispose()
    day = settings.data_dir / "tallystick-clicks" / "2026-03-10.db"
    content = bytearray(day.read_bytes())
    content[4096:8192] = b"\xff" * 4096
    day.write_bytes(content)

    with pytest.raises(BackupError, match=r"2026-03-10\.db"):
        backups.backup(settings, tmp_path / "copy.db")

    assert not (tmp_path / "copy.db").exists()


@pytest.mark.usefixtures("database")
def test_an_earlier_copy_is_not_overwritten(settings: Settings, tmp_path: Path) -> None:
    target = tmp_path / "copy.db"
    target.write_bytes(b"the only copy")

    with pytest.raises(BackupError, match=r"copy\.db exists and is not overwritten"):
        backups.backup(settings, target)

    assert target.read_bytes() == b"the only copy"


def test_without_a_database_there_is_no_copy(settings: Settings, tmp_path: Path) -> None:
    with pytest.raises(BackupError, match="there is no database at"):
        backups.backup(settings, tmp_path / "copy.db")

    assert list(tmp_path.iterdir()) == []


def test_a_damaged_database_gives_no_copy(
    settings: Settings, database: Path, tmp_path: Path
) -> None:
    content = bytearray(database.read_bytes())
    content[8192:12288] = b"\xff" * 4096
    database.write_bytes(content)

    with pytest.raises(BackupError):
        backups.backup(settings, tmp_path / "copy.db")

    assert not (tmp_path / "copy.db").exists()


def test_restoring_gives_the_rows_back(
    settings: Settings, writer: sqlite3.Connection, database: Path, tmp_path: Path
) -> None:
    insert(writer, "kept")
    digest = backups.backup(settings, tmp_path / "copy.db")
    writer.close()
    database.rename(tmp_path / "old.db")

    restored = backups.restore(settings, tmp_path / "copy.db")

    assert names_in(database) == ["kept"]
    assert restored == hashlib.sha256(database.read_bytes()).hexdigest()
    assert hashlib.sha256((tmp_path / "copy.db").read_bytes()).hexdigest() == digest


def test_restoring_makes_the_data_folder(
    settings: Settings, sqlite_template: Path, tmp_path: Path
) -> None:
    assert not settings.data_dir.exists()

    backups.restore(settings, sqlite_template)

    assert names_in(tmp_path / "var" / "tallystick.db") == []


@pytest.mark.parametrize("left", ["tallystick.db", "tallystick.db-wal", "tallystick.db-journal"])
def test_what_is_left_of_a_database_is_not_overwritten(
    settings: Settings, sqlite_template: Path, left: str
) -> None:
    settings.data_dir.mkdir()
    (settings.data_dir / left).write_bytes(b"precious")

    with pytest.raises(BackupError, match=rf"{left} exists; move it away first"):
        backups.restore(settings, sqlite_template)

    assert [path.name for path in settings.data_dir.iterdir()] == [left]
    assert (settings.data_dir / left).read_bytes() == b"precious"


@pytest.mark.parametrize("damage", ["cut", "overwritten", "text", "empty", "other"])
def test_a_copy_that_is_not_whole_is_not_restored(
    settings: Settings, sqlite_template: Path, tmp_path: Path, damage: str
) -> None:
    content = sqlite_template.read_bytes()
    source = tmp_path / "copy.db"
    if damage == "cut":
        source.write_bytes(content[: len(content) // 2])
    elif damage == "overwritten":
        source.write_bytes(content[:8192] + b"\xff" * 4096 + content[12288:])
    elif damage == "text":
        source.write_text("not a database, and longer than a page header is" * 50)
    elif damage == "empty":
        source.write_bytes(b"")
    else:
        with closing(sqlite3.connect(source)) as connection:
            connection.execute("CREATE TABLE something_else (id INTEGER)")

    with pytest.raises(BackupError, match=r"copy\.db"):
        backups.restore(settings, source)

    assert not backups.database_file(settings).exists()


@pytest.mark.parametrize("work", ["backup", "restore"])
def test_postgresql_has_tools_of_its_own(settings: Settings, tmp_path: Path, work: str) -> None:
    scaled = settings.model_copy(update={"database_url": "postgresql://someone:secret@db/tally"})

    with pytest.raises(BackupError, match="this database is PostgreSQL: use pg_dump") as refusal:
        getattr(backups, work)(scaled, tmp_path / "copy.db")

    assert "secret" not in str(refusal.value)
    assert list(tmp_path.iterdir()) == []
