"""Moves events from the journals into the database, exactly once.

The rows of a batch and the position behind it are committed in one transaction: after a crash
either both are there or neither is. Reading, decoding and looking up countries happen before the
transaction, so that SQLite's one writer is not kept waiting for them.
"""

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, select

from kernel import log
from kernel.database import reading, unit_of_work
from kernel.keys import Keys
from kernel.settings import Settings
from tracker import changes, clicks, conversions, events, journal_reader
from tracker.geo import GeoResolver
from tracker.journal_reader import Batch, Damage, Position, Record
from tracker.models import JournalPosition
from tracker.refusals import refuse

_log = log.get(__name__)
BATCH_BYTES_MAX: Final = 4 * 2**20
_PAYLOAD_BYTES_KEPT: Final = 4096
# What a record can be refused for, as opposed to a database that is away or not set up.
_RECORD_ERRORS: Final = (
    sa.exc.IntegrityError,
    sa.exc.DataError,
    OverflowError,
    ValueError,
    TypeError,
)
_TRIES_BEFORE_REFUSAL: Final = 3

Step = Callable[[str], object]
"""Called with a step's name when it is done; tests end the process there."""


@dataclass(frozen=True, slots=True)
class Shipped:
    """What one batch brought: rows by kind, events that were there already, and what went wrong."""

    clicks: int = 0
    conversions: int = 0
    changes: int = 0
    repeated: int = 0
    refused: int = 0
    damaged: int = 0
    records: int = 0

    def __add__(self, other: "Shipped") -> "Shipped":
        return Shipped(*(getattr(self, name) + getattr(other, name) for name in Shipped.__slots__))

    def __bool__(self) -> bool:
        """Whether there may be more: False when the journal held nothing new."""
        return self.records > 0


@dataclass(slots=True)
class _Content:
    """The events of a batch by kind, each kind in the order of the journal."""

    seen: list[clicks.Enriched] = field(default_factory=list)
    ordered: list[events.OrderReported] = field(default_factory=list)
    changed: list[events.ChangeReported] = field(default_factory=list)
    unreadable: list[tuple[Record, str]] = field(default_factory=list)


class _PositionMoved(Exception):
    """Another shipper was faster; what it shipped must not be shipped again."""


def _no_step(_name: str) -> None:
    return None


def ship_once(
    engine: Engine,
    directory: Path,
    *,
    keys: Keys,
    geo: GeoResolver,
    settings: Settings,
    now: datetime,
    step: Step = _no_step,
) -> Shipped:
    """Move up to `ship_batch_records_max` events of one journal, then remove what is shipped.

    An event that cannot be recorded becomes an IntakeRefusal and never stops the others. Errors of
    the database come through, with nothing changed; a later call goes on from the same place.
    """
    identity = journal_reader.journal_id(directory)
    if identity is None:
        return Shipped()
    name = str(identity)
    with reading(engine) as session:
        position = _position(session, name)
    records_max, tries = settings.ship_batch_records_max, 0
    while True:
        batch = journal_reader.read_batch(
            directory, position, records_max=records_max, bytes_max=BATCH_BYTES_MAX
        )
        if batch.next_position is None or (not batch.records and batch.next_position == position):
            return Shipped(damaged=len(batch.damage))
        step("read")
        refusal = ""
        if records_max == 1 and tries == _TRIES_BEFORE_REFUSAL:
            refusal = "the database refuses this record"
        content = _decode(batch, keys=keys, geo=geo, settings=settings, refusal=refusal)
        step("decoded")
        try:
            shipped = _store(
                engine, name, position, batch, content, settings=settings, now=now, step=step
            )
        except _PositionMoved:
            return Shipped()
        except _RECORD_ERRORS as error:
            if refusal:
                raise
            # One record spoils its whole transaction: halve the batch until it stands alone.
            _log.warning("batch_refused", records=len(batch.records), error=type(error).__name__)
            tries = tries + 1 if records_max == 1 else 0
            records_max = max(1, min(records_max, len(batch.records)) // 2)
            continue
        step("committed")
        journal_reader.remove_shipped(directory, batch.next_position)
        step("removed")
        return shipped


def ship_all(
    engine: Engine,
    journals: Path,
    *,
    keys: Keys,
    geo: GeoResolver,
    settings: Settings,
    now: datetime,
    step: Step = _no_step,
) -> Shipped:
    """`ship_once` for every journal of the node (the folders in `journals`), summed up."""
    total = Shipped()
    for directory in directories(journals):
        total += ship_once(
            engine, directory, keys=keys, geo=geo, settings=settings, now=now, step=step
        )
    return total


def directories(journals: Path) -> list[Path]:
    """The journals of a node, by number."""
    if not journals.is_dir():
        return []
    found = [path for path in journals.iterdir() if path.name.isdecimal() and path.is_dir()]
    return sorted(found, key=lambda path: int(path.name))


def backlog_bytes(session: Session, journals: Path) -> int:
    """Bytes of the node's journals that are not in the database yet."""
    total = 0
    for directory in directories(journals):
        identity = journal_reader.journal_id(directory)
        if identity is not None:
            total += journal_reader.backlog(directory, _position(session, str(identity)))
    return total


def _position(session: Session, journal: str) -> Position | None:
    row = session.get(JournalPosition, journal)
    return Position(row.segment, row.offset) if row is not None else None


def _decode(
    batch: Batch, *, keys: Keys, geo: GeoResolver, settings: Settings, refusal: str
) -> _Content:
    content = _Content()
    seen: list[events.ClickSeen] = []
    for record in batch.records:
        try:
            event = events.decode(record.payload)
        except events.UnreadableRecord as error:
            content.unreadable.append((record, str(error)))
            continue
        if refusal:
            content.unreadable.append((record, refusal))
        elif isinstance(event, events.ClickSeen):
            seen.append(event)
        elif isinstance(event, events.OrderReported):
            content.ordered.append(event)
        else:
            content.changed.append(event)
    content.seen = clicks.enrich(
        seen,
        geo=geo,
        visitors=keys.derive("visitor"),
        sub_id_chars_max=settings.sub_id_chars_max,
        monotonic_s=time.monotonic(),
    )
    return content


def _store(
    engine: Engine,
    journal: str,
    position: Position | None,
    batch: Batch,
    content: _Content,
    *,
    settings: Settings,
    now: datetime,
    step: Step,
) -> Shipped:
    with unit_of_work(engine) as session:
        row = _claim(session, journal, position, now=now)
        for record, reason in content.unreadable:
            _refuse_record(session, journal, record, reason, now=now)
        for damage in batch.damage:
            _refuse_damage(session, journal, damage, now=now)
        step("claimed")
        seen = clicks.record(
            session,
            content.seen,
            duplicate_seconds=settings.duplicate_click_seconds,
            now=now,
        )
        step("clicks")
        ordered = conversions.record(session, content.ordered, now=now)
        step("conversions")
        changed = changes.record(session, content.changed, now=now)
        step("changes")
        shipped = Shipped(
            clicks=seen.added,
            conversions=ordered.added,
            changes=changed.added,
            repeated=seen.repeated + ordered.repeated + changed.repeated,
            refused=seen.refused + ordered.refused + changed.refused + len(content.unreadable),
            damaged=len(batch.damage),
            records=len(batch.records),
        )
        _move(row, batch, shipped, now=now)
        session.add(row)
        session.flush()
        step("moved")
    return shipped


def _claim(
    session: Session, journal: str, position: Position | None, *, now: datetime
) -> JournalPosition:
    """The journal's row, locked; _PositionMoved when it is not where the batch was read from."""
    query = select(JournalPosition).where(JournalPosition.journal_id == journal).with_for_update()
    row = session.exec(query).one_or_none()
    if row is None:
        if position is not None:
            raise _PositionMoved
        row = JournalPosition(journal_id=journal, segment=0, offset=0, updated_at=now)
        session.add(row)
        try:
            session.flush()
        except sa.exc.IntegrityError as error:
            # Two shippers met at a new journal; this one waited for the other's commit.
            raise _PositionMoved from error
        return row
    if position != Position(row.segment, row.offset):
        raise _PositionMoved
    return row


def _move(row: JournalPosition, batch: Batch, shipped: Shipped, *, now: datetime) -> None:
    if batch.next_position is not None:
        row.segment, row.offset = batch.next_position.segment, batch.next_position.offset
    row.clicks += shipped.clicks
    row.conversions += shipped.conversions
    row.damaged += shipped.damaged
    row.updated_at = now


def _refuse_record(
    session: Session, journal: str, record: Record, reason: str, *, now: datetime
) -> None:
    _log.error("journal_record_refused", journal=journal, position=str(record.position))
    refuse(
        session,
        program_id="",
        order_id="",
        code="record_unreadable",
        detail=reason[:500],
        payload={
            "journal": journal,
            "position": str(record.position),
            "base64": base64.b64encode(record.payload[:_PAYLOAD_BYTES_KEPT]).decode(),
            "bytes": len(record.payload),
        },
        now=now,
    )


def _refuse_damage(session: Session, journal: str, damage: Damage, *, now: datetime) -> None:
    _log.error("journal_damaged", journal=journal, position=str(damage.position))
    refuse(
        session,
        program_id="",
        order_id="",
        code="journal_damaged",
        detail=damage.reason,
        payload={
            "journal": journal,
            "position": str(damage.position),
            "bytes": damage.length_bytes,
        },
        now=now,
    )
