"""Gauges of this node's journals: how much waits, for how long, and what could not be read."""

from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from prometheus_client import Gauge
from sqlmodel import Session, col, func, select

from tracker import events, journal_reader, shipper
from tracker.events import ChangeReported, ClickSeen, OrderReported, UnreadableRecord
from tracker.journal_reader import Position, Record
from tracker.models import JournalPosition

_BACKLOG = Gauge("tallystick_journal_backlog_bytes", "Journal of this node not yet in the database")
_OLDEST = Gauge(
    "tallystick_journal_oldest_seconds", "Age of the oldest event not yet in the database"
)
_DAMAGED = Gauge(
    "tallystick_journal_damaged", "Places in journals whose acknowledged bytes could not be read"
)
_RECORDS_LOOKED_AT = 100
_LOOK_BYTES_MAX = 1 << 20
# Where each journal stood when the database last said so. Positions only grow: while it is away,
# what is counted from here is a little too much and never too little.
_last_known: dict[str, Position] = {}


def measure(session: Session | None, journals: Path, *, now: datetime) -> None:
    """Set the gauges; without a session from what the database said last and what is on disk."""
    if session is not None:
        _learn(session)
    backlog, oldest = 0, None
    for directory in shipper.directories(journals):
        position = _last_known.get(str(journal_reader.journal_id(directory)))
        waiting = journal_reader.backlog(directory, position)
        backlog += waiting
        at = _first_time(directory, position) if waiting else None
        oldest = min(filter(None, (oldest, at)), default=None)
    _BACKLOG.set(backlog)
    _OLDEST.set(max(0.0, (now - oldest).total_seconds()) if oldest is not None else 0.0)


def _learn(session: Session) -> None:
    for row in session.exec(select(JournalPosition)):
        _last_known[row.journal_id] = Position(row.segment, row.offset)
    damaged = session.exec(select(func.sum(col(JournalPosition.damaged)))).one()
    _DAMAGED.set(int(damaged or 0))


def _first_time(directory: Path, position: Position | None) -> datetime | None:
    batch = journal_reader.read_batch(
        directory, position, records_max=_RECORDS_LOOKED_AT, bytes_max=_LOOK_BYTES_MAX
    )
    return next(_times(batch.records), None)


def _times(records: Iterable[Record]) -> Iterator[datetime]:
    """When these came in; an imported click only says when it happened."""
    for record in records:
        try:
            event = events.decode(record.payload)
        except UnreadableRecord:
            continue
        if isinstance(event, OrderReported | ChangeReported):
            yield event.received_at
        elif not (isinstance(event, ClickSeen) and event.imported):
            yield event.at
