"""Copies of a running SQLite database that are whole, and the way back from them.

The days of clicks stand in files beside the database, and their copies in files beside the copy.
The database is copied before them: then no click that it counts is missing from its day, and those
that came meanwhile are known by their origin when the journal brings them again.
"""

import hashlib
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from sqlalchemy.engine import make_url

from kernel.settings import Settings
from tracker import day_files

_PROBE = "SELECT version_num FROM alembic_version"
_PROBE_OF_DAY = "SELECT id FROM click LIMIT 1"


class BackupError(Exception):
    """The copy could not be made or trusted; nothing was overwritten."""


def backup(settings: Settings, target: Path) -> str:
    """Write a consistent copy to `target`, its days beside it, and return the SHA-256 of `target`.

    Uses SQLite's backup interface: copying the file would miss what is in its log. Each copy is
    checked before it gets its name.
    """
    source = database_file(settings)
    if not source.exists():
        raise BackupError(f"there is no database at {source}")
    for found in (target, _folder(target)):
        if found.exists():
            raise BackupError(f"{found} exists and is not overwritten")
    # Its name is the last thing it gets: a copy with that name has all of its days.
    _copy(source, target, _PROBE, before_named=lambda: _copy_days(source, target))
    return _digest(target)


def restore(settings: Settings, source: Path) -> str:
    """Put the copy in the place of a missing database and return its SHA-256."""
    target = database_file(settings)
    # A log left behind would be replayed into the copy when it is opened, so it counts as well.
    for name in (target.name, f"{target.name}-wal", f"{target.name}-journal"):
        if (found := target.with_name(name)).exists():
            raise BackupError(f"{found} exists; move it away first, it is not overwritten")
    if _days(target):
        raise BackupError(f"{_folder(target)} exists; move it away first, it is not overwritten")
    _check(source, _PROBE)
    target.parent.mkdir(parents=True, exist_ok=True)
    _copy(source, target, _PROBE, before_named=lambda: _copy_days(source, target))
    return _digest(target)


def _folder(database: Path) -> Path:
    return day_files.folder_of(make_url(f"sqlite:///{database}"))


def _days(database: Path) -> list[Path]:
    files = day_files.DayFiles(_folder(database))
    return [files.path(place) for place in files.places()]


def _copy_days(source: Path, target: Path) -> None:
    for path in _days(source):
        _folder(target).mkdir(exist_ok=True)
        try:
            _copy(path, _folder(target) / path.name, _PROBE_OF_DAY)
        except BackupError:
            # A day that is let go while it is copied is no loss; anything else is.
            if path.exists():
                raise
    if _folder(target).exists():
        _sync(_folder(target))


def database_file(settings: Settings) -> Path:
    """Where the SQLite database is; BackupError for PostgreSQL, which has tools of its own."""
    url = make_url(settings.database)
    if not url.drivername.startswith("sqlite") or url.database is None:
        raise BackupError("this database is PostgreSQL: use pg_dump or pgbackrest")
    return Path(url.database)


def _copy(
    source: Path, target: Path, probe: str, *, before_named: Callable[[], object] = lambda: None
) -> None:
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        with closing(_open(source)) as reading, closing(sqlite3.connect(partial)) as copy:
            reading.backup(copy, pages=1_000)
            # One file, whole by itself: the server turns its log on again when it opens it.
            copy.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        partial.unlink(missing_ok=True)
        raise BackupError(f"{source} cannot be copied ({error})") from error
    _check(partial, probe)
    _sync(partial)
    before_named()
    partial.replace(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _open(path: Path) -> sqlite3.Connection:
    # Without "create": a file that has just gone must not come back empty.
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=rw", uri=True)


def _check(path: Path, probe: str) -> None:
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        ) as connection:
            (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
            connection.execute(probe).fetchone()
    except sqlite3.Error as error:
        raise BackupError(f"{path} is not a whole Tallystick database ({error})") from error
    if verdict != "ok":
        raise BackupError(f"{path} is damaged: {verdict}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
