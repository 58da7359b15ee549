"""Short links as trackers keep them: one small record each, read change by change, saved on disk.

A hundred thousand links must fit beside everything else in a process, so a link is kept as the
bytes of its record and read when somebody follows it. What is new is found by the number of its
change, which rises in the order of commits; a number that fell says that another database is
behind us, and everything is read again.
"""

import os
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlmodel import Session, col, select

from network.models import Program, Publisher, RoutingVersion
from tracker import deep_links
from tracker.models import Link, LinkStatus

_CHUNK_ROWS: Final = 2_000
_TABLE: Final = (
    "CREATE TABLE link (code TEXT PRIMARY KEY, change INTEGER, route BLOB) WITHOUT ROWID"
)
_KEEP: Final = (
    "INSERT INTO link VALUES (?, ?, ?) ON CONFLICT (code) DO UPDATE "
    "SET change = excluded.change, route = excluded.route WHERE excluded.change > link.change"
)

Change = tuple[str, int, bytes]
"""A link as it stands: its code, the number of its last change, its record."""


class LinkRoute(msgspec.Struct, frozen=True, array_like=True):
    """A short link as trackers need it. `query` is that of the link it stands for."""

    program_number: int
    publisher_number: int
    is_active: bool
    has_page: bool
    query: str


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(LinkRoute)


class LinkTable:
    """The short links of a network by code, and the number of the newest change in them.

    Unlike the routing table it is changed in place: a request looks one link up, once.
    """

    def __init__(self) -> None:
        self.number = 0
        self._records: dict[str, bytes] = {}

    def __len__(self) -> int:
        return len(self._records)

    def find(self, code: str) -> LinkRoute | None:
        """The link with this code."""
        record = self._records.get(code)
        return _decoder.decode(record) if record is not None else None

    def apply(self, changes: Iterable[Change]) -> None:
        """Take changes in; of one link the last counts."""
        for code, number, record in changes:
            self._records[code] = record
            self.number = max(self.number, number)


def number_of(session: Session) -> int:
    """The number of the newest change of a link in the database."""
    return session.exec(select(RoutingVersion.links)).first() or 0


def read_changes(session: Session, *, after: int) -> Iterator[list[Change]]:
    """The links changed after that number, in the order of their changes, some at a time."""
    rows = session.execute(
        sa.select(
            col(Link.code),
            col(Link.change),
            col(Program.number),
            col(Publisher.number),
            col(Link.status),
            col(Link.destination),
            col(Link.sub_ids),
        )
        .join(Program, col(Program.id) == col(Link.program_id))
        .join(Publisher, col(Publisher.id) == col(Link.publisher_id))
        .where(col(Link.change) > after)
        .order_by(col(Link.change)),
        execution_options={"yield_per": _CHUNK_ROWS},
    )
    for chunk in rows.partitions():
        yield [_change(row) for row in chunk]


def _change(row: Any) -> Change:
    code, number, program, publisher, status, destination, sub_ids = row
    route = LinkRoute(
        program,
        publisher,
        status == LinkStatus.ACTIVE,
        bool(destination),
        deep_links.query(destination, sub_ids),
    )
    return code, number, _encoder.encode(route)


class SavedLinks:
    """The copy on disk from which a node starts while the database is away.

    A file of SQLite: one change is one small write, a torn write is rolled back, and the processes
    of a node may all keep the same change.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def replace(self, chunks: Iterable[list[Change]]) -> Iterator[list[Change]]:
        """Write a new copy of everything while it passes through; in place when it is whole."""
        self._path.parent.mkdir(parents=True, exist_ok=True)
        draft = self._path.with_name(f".{self._path.name}.{os.getpid()}")
        with suppress(FileNotFoundError):
            draft.unlink()
        # Made first, so that only its owner can read it: SQLite keeps the mode of what is there.
        os.close(os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
        with closing(sqlite3.connect(draft)) as connection:
            connection.execute(_TABLE)
            for chunk in chunks:
                connection.executemany(_KEEP, chunk)
                yield chunk
            connection.commit()
        draft.replace(self._path)

    def add(self, changes: list[Change]) -> None:
        """Keep changes in the copy; OSError when it cannot. What is there and newer stays."""
        try:
            with closing(sqlite3.connect(self._path)) as connection:
                connection.executemany(_KEEP, changes)
                connection.commit()
        except sqlite3.Error as error:
            raise OSError(f"{self._path.name}: {error}") from error

    def load(self) -> LinkTable:
        """The saved links; none when there is no copy, or none that can be read."""
        table = LinkTable()
        if self._path.exists():
            with suppress(sqlite3.DatabaseError), closing(sqlite3.connect(self._path)) as saved:
                table.apply(saved.execute("SELECT code, change, route FROM link ORDER BY change"))
        return table
