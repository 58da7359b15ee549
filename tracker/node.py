"""A tracker node: what one serving process opens at its start and closes at its end."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Final

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from kernel import clock, log
from kernel.database import reading
from kernel.errors import Unavailable
from kernel.keys import Keys
from kernel.settings import Settings
from kernel.tokens import Tokens
from tracker import conversions, events, journal_reader
from tracker.arrivals import Tally
from tracker.claims import Claims
from tracker.click_ids import ClickIdSigner
from tracker.journal import Journal, JournalLocked, JournalUnavailable, open_journal
from tracker.journal_reader import Position
from tracker.models import JournalPosition
from tracker.routing import Routing, open_routing

_log = log.get(__name__)
JOURNALS_MAX: Final = 256
ROUTING_FILE: Final = "routing.json"
JOURNAL_FOLDER: Final = "journal"
_CLICK_KEY: Final = 1
_STATUS_KEPT: Final = timedelta(minutes=1)
_RECALL_RECORDS: Final = 1_000
_RECALL_BYTES: Final = 4 * 2**20


class NoJournal(Unavailable):
    """Every journal directory of this node is in use or broken."""

    code = "no_journal"


def click_id_signer(keys: Keys) -> ClickIdSigner:
    """The signer of click ids, equal on every node with the same secret."""
    return ClickIdSigner({_CLICK_KEY: keys.derive("click-id-1")}, _CLICK_KEY)


@dataclass(eq=False, slots=True, kw_only=True)
class TrackerNode:
    """Everything a request for the tracker needs. Made by `open_node`."""

    settings: Settings
    engine: Engine
    keys: Keys
    tokens: Tokens
    signer: ClickIdSigner
    journal: Journal
    directory: Path
    routing: Routing
    claims: Claims
    conversion_key: bytes
    arrivals: Tally = field(default_factory=Tally)
    _stopping: asyncio.Event = field(default_factory=asyncio.Event)
    _refreshing: "asyncio.Task[None] | None" = None

    def start(self) -> None:
        """Begin to follow changes of the network in the background."""
        self._refreshing = asyncio.create_task(self._follow())

    async def refresh(self) -> bool:
        """Look for changes now; False when the database cannot be reached. Never raises."""
        try:
            await asyncio.to_thread(self.routing.refresh, self.engine)
            await asyncio.to_thread(self._forget_shipped)
        except sa.exc.SQLAlchemyError:
            return False
        except OSError as error:
            _log.warning("routing_not_saved", error=str(error))
        return True

    async def close(self) -> None:
        """Stop following changes and close the journal; a second close does nothing."""
        self._stopping.set()
        if self._refreshing is not None:
            await self._refreshing
            self._refreshing = None
            await self.write_arrivals(everything=True)
        await self.journal.close()

    async def _follow(self) -> None:
        was_reachable = True
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), self.settings.routing_refresh_seconds)
                return
            await self.write_arrivals()
            reachable = await self.refresh()
            if reachable != was_reachable:
                _log.warning("database_reachable", reachable=reachable)
            was_reachable = reachable

    def _forget_shipped(self) -> None:
        """Let go of acknowledged orders that the database knows by now."""
        oldest = self.claims.oldest(_RECALL_RECORDS)
        if oldest:
            with reading(self.engine) as session:
                found = conversions.known(session, oldest)
            self.claims.forget(
                {key: {one.content_hash for one in ones} for key, ones in found.items()},
                before=clock.now() - _STATUS_KEPT,
            )

    async def write_arrivals(self, *, everything: bool = False) -> None:
        """Put counted repeats into the journal. Counted again when it cannot record."""
        seen = self.arrivals.take(
            now=clock.now(),
            pause_seconds=self.settings.arrival_repeat_seconds,
            everything=everything,
        )
        if not seen:
            return
        try:
            await self.journal.append_many([events.encode(one) for one in seen])
        except JournalUnavailable:
            self.arrivals.put_back(seen)


async def open_node(
    *, settings: Settings, engine: Engine, keys: Keys, tokens: Tokens
) -> TrackerNode:
    """Open a journal that no other process uses and load the routing table; then follow changes.

    RoutingUnavailable when nothing says where links lead; NoJournal when nothing can be recorded.
    """
    routing = await asyncio.to_thread(open_routing, settings.data_dir / ROUTING_FILE, engine)
    directory, journal = await asyncio.to_thread(_open_free_journal, settings)
    claims = Claims()
    journal.attach()
    await asyncio.to_thread(_recall, engine, directory, claims)
    node = TrackerNode(
        settings=settings,
        engine=engine,
        keys=keys,
        tokens=tokens,
        signer=click_id_signer(keys),
        journal=journal,
        directory=directory,
        routing=routing,
        claims=claims,
        conversion_key=keys.derive("conversion-id"),
    )
    node.start()
    return node


def _open_free_journal(settings: Settings) -> tuple[Path, Journal]:
    for number in range(1, JOURNALS_MAX + 1):
        directory = settings.data_dir / JOURNAL_FOLDER / str(number)
        try:
            journal = open_journal(
                directory,
                segment_bytes_max=settings.journal_segment_bytes_max,
                journal_bytes_max=settings.journal_bytes_max,
                record_bytes_max=settings.journal_record_bytes_max,
                with_process=True,
            )
        except JournalLocked:
            continue
        except JournalUnavailable as error:
            # Left as it is for a person to look at; the node goes on beside it.
            _log.error("journal_broken", directory=str(directory), reason=error.reason)
            continue
        for damage in journal.damage:
            _log.error("journal_damaged", directory=str(directory), position=str(damage.position))
        return directory, journal
    raise NoJournal(f"none of {JOURNALS_MAX} journal directories can be opened")


def _recall(engine: Engine, directory: Path, claims: Claims) -> None:
    """Remember the orders that were acknowledged before the last stop and are not shipped yet."""
    try:
        position = _shipped_position(engine, directory)
    except sa.exc.SQLAlchemyError:
        position = None
    while True:
        batch = journal_reader.read_batch(
            directory, position, records_max=_RECALL_RECORDS, bytes_max=_RECALL_BYTES
        )
        for record in batch.records:
            with suppress(events.UnreadableRecord):
                event = events.decode(record.payload)
                if isinstance(event, events.OrderReported):
                    claims.remember(event)
                elif isinstance(event, events.ChangeReported):
                    claims.remember_change(event)
        if not batch.records and batch.next_position == position:
            return
        position = batch.next_position


def _shipped_position(engine: Engine, directory: Path) -> Position | None:
    identity = journal_reader.journal_id(directory)
    with reading(engine) as session:
        row = session.get(JournalPosition, str(identity))
        return Position(row.segment, row.offset) if row is not None else None
