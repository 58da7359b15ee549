"""Moves events from the journals into the database, exactly once.

The rows of a batch and the position behind it are committed in one transaction: after a crash
either both are there or neither is. Only clicks on SQLite stand in files of their own, which are
written before it; `tracker.click_store` says why that counts each once all the same. Reading,
decoding and looking up countries happen before the transaction, so that SQLite's one writer is not
kept waiting for them.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Final
from uuid import UUID
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from kernel import log
from kernel.database import reading, unit_of_work
from kernel.keys import Keys
from kernel.settings import Settings
from network.models import Program, Publisher
from tracker import (
    arrivals,
    changes,
    click_days,
    click_rows,
    impressions,
    journal_reader,
    link_checks,
    recording,
    refusals,
    rollup_clicks,
)
from tracker.batches import Content, Source, take
from tracker.click_rows import Builder
from tracker.click_store import Memory, Store, Stored
from tracker.events import ClickSeen
from tracker.geo import GeoResolver
from tracker.journal_reader import Batch, Position
from tracker.models import ClickDay, JournalPosition
from tracker.visitors import CARRY, Salts

_log = log.get(__name__)
# What a record can be refused for, as opposed to a database that is away or not set up.
_RECORD_ERRORS: Final = (
    sa.exc.IntegrityError,
    sa.exc.DataError,
    OverflowError,
    ValueError,
    TypeError,
)
_TRIES_BEFORE_REFUSAL: Final = 3
_RETIRED_MEANWHILE_MAX: Final = 5

Step = Callable[[str], object]
"""Called with a step's name when it is done; tests end the process there."""


@dataclass(frozen=True, slots=True)
class Shipped:
    """What one batch brought: rows by kind, events that were there already, and what went wrong."""

    clicks: int = 0
    conversions: int = 0
    changes: int = 0
    impressions: int = 0
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
class _Known:
    """What a process keeps between the batches of a database."""

    builder: Builder
    programs: dict[int, str]
    publishers: dict[int, str]
    program_numbers: dict[str, int] = field(default_factory=dict)
    publisher_numbers: dict[str, int] = field(default_factory=dict)
    memory: Memory = field(default_factory=Memory)

    @classmethod
    def of(cls, run: "_Run") -> "_Known":
        salts = Salts(run.keys.derive("visitor"), salt_days=run.settings.visitor_salt_days)
        programs: dict[int, str] = {}
        publishers: dict[int, str] = {}
        builder = Builder(
            salts=salts,
            geo=run.geo,
            programs=programs,
            publishers=publishers,
            sub_id_chars_max=run.settings.sub_id_chars_max,
        )
        return cls(builder, programs, publishers)

    def learn(self, session: Session, seen: Sequence[tuple[ClickSeen, int]]) -> None:
        """Ask for the programs and publishers that are new; a number never gets another id."""
        for model, ids, numbers, seen_numbers in (
            (
                Program,
                self.programs,
                self.program_numbers,
                {click.program_number for click, _ in seen},
            ),
            (
                Publisher,
                self.publishers,
                self.publisher_numbers,
                {click.publisher_number for click, _ in seen},
            ),
        ):
            missing = [number for number in seen_numbers if number not in ids]
            if missing:
                query = select(model.number, model.id).where(col(model.number).in_(missing))
                ids.update(session.exec(query).all())
                numbers.update((one, number) for number, one in ids.items())

    def fits(self, run: "_Run") -> bool:
        return (self.builder.geo, self.builder.salts.salt_days, self.builder.sub_id_chars_max) == (
            run.geo,
            run.settings.visitor_salt_days,
            run.settings.sub_id_chars_max,
        )


# Taken out while a batch is shipped: two shippers of one process share nothing half done.
_known: WeakKeyDictionary[Engine, _Known] = WeakKeyDictionary()


class _PositionMoved(Exception):
    """Another shipper was faster; what it shipped must not be shipped again."""


def _no_step(_name: str) -> None:
    return None


@dataclass(frozen=True, slots=True)
class _Run:
    """One call of `ship_once`: the journal and all that its events are looked up with."""

    engine: Engine
    directory: Path
    identity: UUID
    keys: Keys
    geo: GeoResolver
    settings: Settings
    now: datetime
    step: Step

    def source(self) -> Source:
        """The journal."""
        return Source(
            self.directory,
            self.identity,
            self.geo,
            self.settings.ship_batch_records_max,
            self.settings.ship_batch_orders_max,
        )


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
    the database come through, with nothing counted; a later call goes on from the same place.
    """
    identity = journal_reader.journal_id(directory)
    if identity is None:
        return Shipped()
    run = _Run(engine, directory, identity, keys, geo, settings, now, step)
    known = _known.pop(engine, None)
    if known is None or not known.fits(run):
        known = _Known.of(run)
    shipped = _ship(run, known)
    _known[engine] = known
    return shipped


def _ship(run: _Run, known: _Known) -> Shipped:
    with reading(run.engine) as session:
        position = _position(session, str(run.identity))
    source, tries = run.source(), 0
    while True:
        last_try = source.records_max == 1 and tries == _TRIES_BEFORE_REFUSAL
        refusal = "the database refuses this record" if last_try else ""
        batch, content = take(source, position, refusal=refusal)
        if batch.next_position is None or (not batch.records and batch.next_position == position):
            return Shipped(damaged=len(batch.damage))
        run.step("read")
        try:
            shipped = _store(run, known, position, batch, content)
        except _PositionMoved:
            known.memory = Memory()
            return Shipped()
        except _RECORD_ERRORS as error:
            if refusal:
                raise
            # One record spoils its whole transaction: halve the batch until it stands alone.
            _log.warning("batch_refused", records=len(batch.records), error=type(error).__name__)
            known.memory = Memory()
            tries = tries + 1 if source.records_max == 1 else 0
            fewer = max(1, min(source.records_max, len(batch.records)) // 2)
            source = replace(source, records_max=fewer)
            continue
        run.step("committed")
        journal_reader.remove_shipped(run.directory, batch.next_position)
        run.step("removed")
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


def _store(
    run: _Run, known: _Known, position: Position | None, batch: Batch, content: Content
) -> Shipped:
    for _ in range(_RETIRED_MEANWHILE_MAX):
        try:
            return _store_once(run, known, position, batch, content)
        except click_days.DayRetired:
            # Nothing is counted; what was written to the day that is gone, goes with it.
            known.memory = Memory()
    return _store_once(run, known, position, batch, content)


def _store_once(
    run: _Run, known: _Known, position: Position | None, batch: Batch, content: Content
) -> Shipped:
    engine = run.engine
    window = timedelta(seconds=run.settings.duplicate_click_seconds)
    places, built = _build(run, known, content.seen, window)
    run.step("built")
    store = Store(engine, places, known.memory, window)
    stored: Stored | None = None
    if engine.dialect.name == "sqlite":
        stored = store.add(built)
        run.step("day files")
    with unit_of_work(engine) as session:
        row = _claim(session, str(run.identity), position, now=run.now)
        refused = _refuse_all(session, run, batch, content, built)
        run.step("claimed")
        if stored is None:
            click_days.hold(session, places)
            stored = replace(store, session=session).add(built)
            run.step("rows")
        # What counts clicks stands beside the position: these are added by this batch and by no
        # other, whatever crashed before.
        columns = click_rows.counted(stored.added, known.program_numbers, known.publisher_numbers)
        rollup_clicks.add(session, columns, values_max=run.settings.rollup_values_max)
        landings = click_rows.landings(stored.added)
        link_checks.note(session, landings, targets_max=run.settings.link_targets_max, now=run.now)
        click_days.added(session, stored.counts, places)
        run.step("clicks")
        ordered = recording.record(session, content.ordered, now=run.now)
        arrivals.record_seen(session, content.arrived)
        run.step("conversions")
        changed = changes.record(session, content.changed, now=run.now)
        run.step("changes")
        counted, unknown = impressions.record(
            session, content.shown, values_max=run.settings.rollup_values_max, now=run.now
        )
        run.step("impressions")
        shipped = Shipped(
            clicks=len(stored.added),
            conversions=ordered.added,
            changes=changed.added,
            impressions=counted,
            repeated=stored.repeated + ordered.repeated + changed.repeated,
            refused=refused + ordered.refused + changed.refused + unknown,
            damaged=len(batch.damage),
            records=len(batch.records),
        )
        _move(row, batch, shipped, now=run.now)
        session.add(row)
        session.flush()
        run.step("moved")
    known.memory.commit(stored, window)
    return shipped


def _build(
    run: _Run, known: _Known, seen: Sequence[tuple[ClickSeen, int]], window: timedelta
) -> tuple[dict[date, ClickDay], click_rows.Built]:
    """The rows of the clicks and where they go; places that are not there yet are made."""
    if not seen:
        return {}, click_rows.Built()
    # The folder of the geo files is looked at once a batch.
    run.geo.lookup("", now_s=time.monotonic())
    with reading(run.engine) as session:
        known.learn(session, seen)
    days = click_rows.days_of(seen)
    known.builder.salts.prepare(run.engine, days)
    built = known.builder.build(seen)
    before = max(window, CARRY)
    also = {one for day in days for one in _days_before(day, before)}
    return click_days.open_days(run.engine, built.days, also=also, now=run.now), built


def _days_before(day: date, window: timedelta) -> list[date]:
    return [day - timedelta(days=number + 1) for number in range(-(-window // timedelta(days=1)))]


def _refuse_all(
    session: Session, run: _Run, batch: Batch, content: Content, built: click_rows.Built
) -> int:
    """List what cannot be recorded; how many events that are."""
    journal = str(run.identity)
    for record, reason in content.unreadable:
        refusals.refuse_record(session, journal, record, reason, now=run.now)
    for damage in batch.damage:
        refusals.refuse_damage(session, journal, damage, now=run.now)
    for click in built.refused:
        refusals.refuse_click(session, click, now=run.now)
    return len(content.unreadable) + len(built.refused)


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
