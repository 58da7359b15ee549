"""Batches of events as they are read from a journal. Nothing here asks the database."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import UUID

from tracker import click_rows, events, impressions, journal_reader
from tracker.events import ClickSeen
from tracker.geo import GeoResolver
from tracker.journal_reader import Batch, Position, Record

BATCH_BYTES_MAX: Final = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Source:
    """A journal, and how much of it is taken at a time."""

    directory: Path
    identity: UUID
    geo: GeoResolver
    records_max: int
    orders_max: int


@dataclass(slots=True)
class Content:
    """The events of a batch by kind, each kind in the order of the journal."""

    seen: list[tuple[ClickSeen, int]] = field(default_factory=list)
    ordered: list[events.OrderReported] = field(default_factory=list)
    changed: list[events.ChangeReported] = field(default_factory=list)
    shown: list[impressions.Located] = field(default_factory=list)
    arrived: list[events.ArrivalsSeen] = field(default_factory=list)
    unreadable: list[tuple[Record, str]] = field(default_factory=list)

    def add(
        self, event: events.OrderReported | events.ChangeReported | events.ArrivalsSeen
    ) -> None:
        """What was said of an order."""
        if isinstance(event, events.OrderReported):
            self.ordered.append(event)
        elif isinstance(event, events.ChangeReported):
            self.changed.append(event)
        else:
            self.arrived.append(event)


def take(source: Source, position: Position | None, *, refusal: str = "") -> tuple[Batch, Content]:
    """Read and decode what comes next; a `refusal` says why its events cannot be recorded.

    The batch ends early when it holds too many orders for a transaction.
    """
    batch = journal_reader.read_batch(
        source.directory, position, records_max=source.records_max, bytes_max=BATCH_BYTES_MAX
    )
    content = Content()
    shown: list[events.ImpressionSeen] = []
    orders_left = source.orders_max
    journal, decode = source.identity.int, events.decode
    for number, (place, payload) in enumerate(batch.records):
        try:
            event = decode(payload)
        except events.UnreadableRecord as error:
            content.unreadable.append((batch.records[number], str(error)))
            continue
        if refusal:
            content.unreadable.append((batch.records[number], refusal))
        elif isinstance(event, ClickSeen):
            content.seen.append((event, click_rows.origin_of(journal, *place)))
        elif isinstance(event, events.ImpressionSeen):
            shown.append(event)
        elif orders_left == 0:
            batch = _first(batch, number)
            break
        else:
            orders_left -= 1
            content.add(event)
    content.shown = impressions.locate(shown, geo=source.geo, monotonic_s=time.monotonic())
    return batch, content


def _first(batch: Batch, count: int) -> Batch:
    end = batch.records[count].position
    return Batch(batch.records[:count], end, [one for one in batch.damage if one.position < end])
