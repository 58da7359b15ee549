"""By which ways an order came in, how often, and what became of each report.

What is recorded is written down with its conversion. Repeats change nothing and are not journalled
one by one: a node counts them and writes the counts down now and then, so that a flood of repeats
costs a record a minute for each order and way.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session, col, select

from tracker.events import ArrivalsSeen, OrderReported
from tracker.models import Arrival, Conversion
from tracker.repeats import Result

KEYS_MAX: Final = 10_000
_IDS_PER_QUERY: Final = 500
_REPEATS: Final = (Result.DUPLICATE.value, Result.IGNORED.value)


class _Way(NamedTuple):
    """What arrivals are counted by."""

    conversion_id: str
    channel: str
    result: str
    content_hash: str
    source: str


@dataclass(slots=True)
class _Count:
    """Repeats since they were last written down; none when `count` is 0."""

    count: int
    at: datetime
    last_at: datetime
    written_at: datetime | None = None


class Tally:
    """Repeats of one process that are not in the journal yet. Used in the event loop only."""

    def __init__(self) -> None:
        self._counts: dict[_Way, _Count] = {}

    def __len__(self) -> int:
        return len(self._counts)

    def add(self, report: OrderReported, conversion_id: str, result: Result) -> None:
        """Count a report that changed nothing."""
        way = _Way(conversion_id, report.channel, result.value, report.content_hash, report.source)
        at = report.received_at
        found = self._counts.get(way)
        if found is None:
            self._counts[way] = _Count(1, at, at)
        elif found.count == 0:
            found.count, found.at, found.last_at = 1, at, at
        else:
            found.count += 1
            found.at, found.last_at = min(found.at, at), max(found.last_at, at)

    def take(
        self, *, now: datetime, pause_seconds: int, everything: bool = False
    ) -> list[ArrivalsSeen]:
        """What is due to be written down: new ways at once, known ones after the pause."""
        oldest = now - timedelta(seconds=pause_seconds)
        due: list[ArrivalsSeen] = []
        for way, found in list(self._counts.items()):
            rested = found.written_at is None or found.written_at <= oldest
            if found.count and (rested or everything):
                due.append(
                    ArrivalsSeen(
                        conversion_id=way.conversion_id,
                        channel=way.channel,
                        result=way.result,
                        content_hash=way.content_hash,
                        at=found.at,
                        last_at=found.last_at,
                        count=found.count,
                        source=way.source,
                    )
                )
                found.count, found.written_at = 0, now
            elif rested:
                del self._counts[way]
        if everything:
            self._counts.clear()
        return due

    def put_back(self, taken: Iterable[ArrivalsSeen]) -> None:
        """Count again what could not be written down."""
        for one in taken:
            way = _Way(one.conversion_id, one.channel, one.result, one.content_hash, one.source)
            found = self._counts.setdefault(way, _Count(0, one.at, one.last_at))
            found.at = min(found.at, one.at) if found.count else one.at
            found.last_at = max(found.last_at, one.last_at)
            found.count += one.count
            found.written_at = None


def row_of(report: OrderReported, conversion_id: str, result: Result) -> dict[str, object]:
    """The row of one report that was shipped."""
    return {
        "conversion_id": conversion_id,
        "channel": report.channel,
        "result": result.value,
        "content_hash": report.content_hash,
        "source": report.source,
        "count": 1,
        "at": report.received_at,
        "last_at": report.received_at,
    }


def record(session: Session, rows: Sequence[dict[str, object]]) -> None:
    """Add arrivals of conversions that are recorded."""
    if rows:
        session.execute(sa.insert(Arrival), list(rows))


def record_seen(session: Session, seen: Sequence[ArrivalsSeen]) -> None:
    """Add counted repeats; those of an order that was refused when shipped have nowhere to be."""
    ids = sorted({one.conversion_id for one in seen})
    known: set[str] = set()
    for start in range(0, len(ids), _IDS_PER_QUERY):
        part = ids[start : start + _IDS_PER_QUERY]
        known |= set(session.exec(select(Conversion.id).where(col(Conversion.id).in_(part))))
    record(
        session,
        [
            {name: getattr(one, name) for name in one.__struct_fields__}
            for one in seen
            if one.conversion_id in known
        ],
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrived:
    """Reports of one content by one way with one result, put together."""

    channel: str
    result: str
    content_hash: str
    source: str
    count: int
    at: datetime
    last_at: datetime


def of_conversion(session: Session, conversion_id: str, *, limit: int) -> list[Arrived]:
    """How the conversion came in, in the order of the first report of each way."""
    columns = [col(getattr(Arrival, name)) for name in _Way._fields[1:]]
    first = sa.func.min(col(Arrival.at))
    query = (
        sa.select(
            *columns, sa.func.sum(col(Arrival.count)), first, sa.func.max(col(Arrival.last_at))
        )
        .where(col(Arrival.conversion_id) == conversion_id)
        .group_by(*columns)
        .order_by(first, sa.func.min(col(Arrival.seq)))
        .limit(limit)
    )
    return [
        Arrived(
            channel=channel,
            result=result,
            content_hash=content_hash,
            source=source,
            count=int(count),
            at=at,
            last_at=last_at,
        )
        for channel, result, content_hash, source, count, at, last_at in session.execute(query)
    ]


def repeated(
    session: Session, program_ids: Sequence[str], *, since: datetime, limit: int
) -> list[tuple[str, str, str, int]]:
    """(program, channel, order id, times) of known orders that came again since, most first.

    Test orders are none.
    """
    # The recent repeats first, and then their orders: never all orders of a program.
    recent = (
        sa.select(
            col(Arrival.conversion_id),
            col(Arrival.channel),
            sa.func.sum(col(Arrival.count)).label("times"),
        )
        .where(
            # As the index says it: a value that is bound would not match its condition.
            sa.text("arrival.result <> 'accepted'"),
            col(Arrival.result).in_(_REPEATS),
            col(Arrival.last_at) >= since,
        )
        .group_by(col(Arrival.conversion_id), col(Arrival.channel))
        .subquery()
    )
    times = sa.func.sum(recent.c.times)
    query = (
        sa.select(col(Conversion.program_id), recent.c.channel, col(Conversion.order_id), times)
        .join(recent, recent.c.conversion_id == col(Conversion.id))
        .where(col(Conversion.program_id).in_(program_ids), col(Conversion.is_test).is_(False))
        .group_by(
            col(Conversion.program_id),
            recent.c.channel,
            col(Conversion.order_id),
            col(Conversion.event),
        )
        .order_by(times.desc(), col(Conversion.order_id))
        .limit(limit)
    )
    return [
        (program_id, channel, order_id, int(count))
        for program_id, channel, order_id, count in session.execute(query)
    ]
