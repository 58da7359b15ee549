"""The clicks of a UTC day in a SQLite file of their own, beside the main database.

`<name of the database>-clicks/2026-11-22.db`; a day that came back after it was let go has its
generation in the name, `2026-11-22.1.db`. Only the shipper writes, and only the shipper
checkpoints: a checkpoint never races a commit (the bug that `kernel.database` speaks of). A reader
opens what is there and makes nothing.
"""

import re
import sqlite3
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.schema import CreateColumn, CreateIndex, CreateTable
from sqlmodel import SQLModel

from kernel.database import BUSY_TIMEOUT_MILLISECONDS, checkpoint, connect
from tracker.journal_reader import sync_directory
from tracker.models import Click

TABLE: Final = SQLModel.metadata.tables[str(Click.__tablename__)]
COLUMNS: Final[tuple[str, ...]] = tuple(TABLE.c.keys())
EMPTY: Final[dict[str, int | str | None]] = {
    column.name: None
    if column.nullable
    else "{}"
    if isinstance(column.type, sa.JSON)
    else 0
    if isinstance(column.type, (sa.Integer, sa.Boolean))
    else ""
    for column in TABLE.c
}
"""What a click has in a column that it knows nothing for."""
OPEN_MAX: Final = 8
IDLE_MAX: Final = 40
"""Days that stay open for `rows`: those of an attribution window, and a few."""
WAL_BYTES_MAX: Final = 16 * 2**20
_NAME: Final = re.compile(r"(\d{4}-\d{2}-\d{2})(?:\.(\d+))?\.db", re.ASCII)
_SIDES: Final = ("-wal", "-shm")
_UNFINISHED: Final = ".new"


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """A day's rows: which day, and how often it was let go before."""

    day: date
    generation: int = 0

    @property
    def name(self) -> str:
        """The file's name."""
        suffix = f".{self.generation}" if self.generation else ""
        return f"{self.day.isoformat()}{suffix}.db"


class DayFiles:
    """The day files beside one main database. Safe for threads; few stay open at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._lock = threading.Lock()
        self._readers: OrderedDict[Place, Engine] = OrderedDict()
        self._writers: OrderedDict[Place, Engine] = OrderedDict()
        self._idle: OrderedDict[Place, sqlite3.Connection] = OrderedDict()

    def path(self, place: Place) -> Path:
        """Where the file of a day is, or would be."""
        return self.folder / place.name

    def places(self) -> list[Place]:
        """The days that have a file, oldest first."""
        if not self.folder.is_dir():
            return []
        found = (_NAME.fullmatch(path.name) for path in self.folder.iterdir())
        return sorted(
            Place(date.fromisoformat(match[1]), int(match[2] or 0)) for match in found if match
        )

    def bytes_of(self, place: Place) -> int:
        """What a day takes on disk, its log included."""
        path = self.path(place)
        sides = [path, *(path.with_name(path.name + side) for side in _SIDES)]
        return sum(one.stat().st_size for one in sides if one.exists())

    def reader(self, place: Place) -> Engine | None:
        """The engine that reads a day; None when it has no file."""
        if not self.path(place).exists():
            self._drop(self._readers, place)
            return None
        return self._take(self._readers, place, self._open)

    def rows(self, place: Place, sql: str, parameters: Sequence[Any]) -> list[tuple[Any, ...]]:
        """What a SELECT finds on a day, as SQLite holds it; nothing when the day has no file.

        Straight to the driver: a worker looks into dozens of days for a batch of orders, and an
        engine a day costs ten times as much as the rows.
        """
        path = self.path(place)
        if not path.exists():
            self._close_idle(place)
            return []
        with self._lock:
            connection = self._idle.pop(place, None)
        if connection is None:
            connection = sqlite3.connect(
                f"file:{quote(str(path.absolute()))}?mode=rw",
                uri=True,
                timeout=BUSY_TIMEOUT_MILLISECONDS / 1000,
                isolation_level=None,
                check_same_thread=False,
            )
        try:
            found = connection.execute(sql, parameters).fetchall()
        except BaseException:
            connection.close()
            raise
        self._keep_idle(place, connection)
        return found

    @contextmanager
    def writing(self, place: Place) -> Iterator[Connection]:
        """A transaction on the file of a day, which is made when it is not there."""
        engine = self._take(self._writers, place, self._make)
        with engine.begin() as connection:
            yield connection
        wal = self.path(place).with_name(f"{place.name}-wal")
        if wal.exists() and wal.stat().st_size > WAL_BYTES_MAX:
            checkpoint(engine)

    def remove(self, place: Place) -> None:
        """Let a day go. Constant time; a repeat does nothing."""
        for kept in (self._readers, self._writers):
            self._drop(kept, place)
        self._close_idle(place)
        path = self.path(place)
        for gone in (path, *(path.with_name(path.name + side) for side in _SIDES)):
            gone.unlink(missing_ok=True)

    def upgrade(self) -> None:
        """Give every file the columns that this version has; a repeat changes nothing."""
        for place in self.places():
            # `_make` does it, and closing folds the log into the file.
            self._make(place).dispose()

    def close(self) -> None:
        """Close whatever is open."""
        for kept in (self._readers, self._writers):
            for place in list(kept):
                self._drop(kept, place)
        for place in list(self._idle):
            self._close_idle(place)

    def _keep_idle(self, place: Place, connection: sqlite3.Connection) -> None:
        with self._lock:
            # Another thread may have looked into the same day meanwhile.
            spare = [self._idle.pop(place, None)]
            self._idle[place] = connection
            if len(self._idle) > IDLE_MAX:
                spare.append(self._idle.popitem(last=False)[1])
        for one in spare:
            if one is not None:
                one.close()

    def _close_idle(self, place: Place) -> None:
        with self._lock:
            connection = self._idle.pop(place, None)
        if connection is not None:
            connection.close()

    def _take(
        self,
        kept: OrderedDict[Place, Engine],
        place: Place,
        make: Callable[[Place], Engine],
    ) -> Engine:
        with self._lock:
            engine = kept.get(place)
            if engine is None:
                engine = kept[place] = make(place)
            kept.move_to_end(place)
            spare = kept.popitem(last=False)[1] if len(kept) > OPEN_MAX else None
        if spare is not None:
            spare.dispose()
        return engine

    def _drop(self, kept: OrderedDict[Place, Engine], place: Place) -> None:
        with self._lock:
            engine = kept.pop(place, None)
        if engine is not None:
            engine.dispose()

    def _open(self, place: Place) -> Engine:
        return connect(_url(self.path(place), "rw"))

    def _make(self, place: Place) -> Engine:
        path = self.path(place)
        if not path.exists():
            self._begin(path)
        engine = connect(_url(path, "rw"))
        with engine.begin() as connection:
            _bring_forward(connection)
        return engine

    def _begin(self, path: Path) -> None:
        # To a reader a file that is there can be read, so it appears with its table.
        self.folder.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}{_UNFINISHED}")
        for left in (unfinished, *(path.with_name(unfinished.name + side) for side in _SIDES)):
            left.unlink(missing_ok=True)
        engine = connect(_url(unfinished, "rwc"))
        with engine.begin() as connection:
            _bring_forward(connection)
        # Closing the only connection folds the log into the file.
        engine.dispose()
        unfinished.replace(path)
        sync_directory(self.folder)


def _url(path: Path, mode: str) -> str:
    return f"sqlite:///file:{quote(str(path.absolute()))}?mode={mode}&uri=true"


def insert(connection: Connection, rows: Sequence[Sequence[Any]]) -> int:
    """Add finished rows (see COLUMNS) whose id is not there yet; how many these were."""
    driver: Any = connection.connection.driver_connection
    try:
        # SQLAlchemy would take a row that is a list for several rows.
        found: int = driver.executemany(_INSERT, rows).rowcount
    except sqlite3.Error as error:
        raise sa.exc.DBAPIError.instance(_INSERT, None, error, sqlite3.Error) from error
    return found


_INSERT: Final = (
    f"INSERT INTO click ({', '.join(COLUMNS)}) "  # noqa: S608 - our own columns
    f"VALUES ({', '.join('?' * len(COLUMNS))}) ON CONFLICT (id) DO NOTHING"
)


def _table() -> sa.Table:
    """The table of a file: as on PostgreSQL, but an id alone is the key."""
    columns = [
        sa.Column(
            column.name, column.type, primary_key=column.name == "id", nullable=column.nullable
        )
        for column in TABLE.c
    ]
    made = sa.Table("click", sa.MetaData(), *columns)
    for index in TABLE.indexes:
        sa.Index(index.name, *(made.c[column.name] for column in index.columns))
    return made


_MADE: Final = _table()


def _bring_forward(connection: Connection) -> None:
    found = {row[1] for row in connection.exec_driver_sql("PRAGMA table_info(click)")}
    if not found:
        connection.execute(CreateTable(_MADE))
    for column in _MADE.c if found else ():
        if column.name not in found:
            definition = CreateColumn(column).compile(dialect=connection.dialect)
            # A column that came later is empty for the clicks before it.
            empty = EMPTY[column.name]
            default = "" if empty is None else f" DEFAULT {empty!r}"
            connection.exec_driver_sql(f"ALTER TABLE click ADD COLUMN {definition}{default}")
    for index in _MADE.indexes:
        connection.execute(CreateIndex(index, if_not_exists=True))


_files: WeakKeyDictionary[Engine, DayFiles] = WeakKeyDictionary()
_files_lock = threading.Lock()


def beside(engine: Engine) -> DayFiles:
    """The day files of a main database; closed when its engine is disposed of."""
    with _files_lock:
        found = _files.get(engine)
        if found is None:
            found = _files[engine] = DayFiles(folder_of(engine.url))
            event.listen(engine, "engine_disposed", _close)
    return found


def _close(engine: Engine) -> None:
    with _files_lock:
        found = _files.get(engine)
    if found is not None:
        found.close()


def folder_of(url: sa.URL) -> Path:
    """The folder of the day files of a SQLite database URL; ValueError for one in memory."""
    if not url.database or url.database == ":memory:":
        raise ValueError("clicks need a database in a file")
    path = Path(url.database)
    return path.with_name(f"{path.stem}-clicks")
