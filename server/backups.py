"""Copies of a running SQLite database that are whole, and the way back from them."""

import hashlib
import os
import sqlite3
from contextlib import closing
from pathlib import Path

from sqlalchemy.engine import make_url

from kernel.settings import Settings


class BackupError(Exception):
    """The copy could not be made or trusted; nothing was overwritten."""


def backup(settings: Settings, target: Path) -> str:
    """Write a consistent copy to `target` and return its SHA-256.

    Uses SQLite's backup interface: copying the file would miss what is in its log. The copy is
    checked before it gets its name.
    """
    source = database_file(settings)
    if not source.exists():
        raise BackupError(f"there is no database at {source}")
    if target.exists():
        raise BackupError(f"{target} exists and is not overwritten")
    _copy(source, target)
    return _digest(target)


def restore(settings: Settings, source: Path) -> str:
    """Put the copy in the place of a missing database and return its SHA-256."""
    target = database_file(settings)
    # A log left behind would be replayed into the copy when it is opened, so it counts as well.
    for name in (target.name, f"{target.name}-wal", f"{target.name}-journal"):
        if (found := target.with_name(name)).exists():
            raise BackupError(f"{found} exists; move it away first, it is not overwritten")
    _check(source)
    target.parent.mkdir(parents=True, exist_ok=True)
    _copy(source, target)
    return _digest(target)


def database_file(settings: Settings) -> Path:
    """Where the SQLite database is; BackupError for PostgreSQL, which has tools of its own."""
    url = make_url(settings.database)
    if not url.drivername.startswith("sqlite") or url.database is None:
        raise BackupError("this database is PostgreSQL: use pg_dump or pgbackrest")
    return Path(url.database)


def _copy(source: Path, target: Path) -> None:
    partial = target.with_name(target.name + ".partial")
    partial.unlink(missing_ok=True)
    try:
        with closing(sqlite3.connect(source)) as reading, closing(sqlite3.connect(partial)) as copy:
            reading.backup(copy, pages=1_000)
            # One file, whole by itself: the server turns its log on again when it opens it.
            copy.execute("PRAGMA journal_mode = DELETE")
    except sqlite3.Error as error:
        partial.unlink(missing_ok=True)
        raise BackupError(f"{source} cannot be copied ({error})") from error
    _check(partial)
    _sync(partial)
    partial.replace(target)
    _sync(target.parent)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check(path: Path) -> None:
    try:
        with closing(
            sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        ) as connection:
            (verdict,) = connection.execute("PRAGMA integrity_check").fetchone()
            connection.execute("SELECT version_num FROM alembic_version").fetchone()
    except sqlite3.Error as error:
        raise BackupError(f"{path} is not a whole Tallystick database ({error})") from error
    if verdict != "ok":
        raise BackupError(f"{path} is damaged: {verdict}")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
