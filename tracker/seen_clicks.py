"""What is read of clicks to judge the orders that name them: each once a transaction, as rows.

Clicks never change, so what a session has read of one stays right for as long as the session
lives. One that was not there may still come, and is looked for again.
"""

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlmodel import Session

from tracker import click_days, clicks, day_files
from tracker.click_ids import time_of
from tracker.day_files import Place
from tracker.models import ClickDay

_MEMO: Final = "seen_clicks"
_MEMO_CLICKS_MAX: Final = 10_000
# Times of clicks read at once to count visitors; beyond it each visitor is counted with a limit.
_ROWS_COUNTED_MAX: Final = 20_000


class Seen(NamedTuple):
    """A click, as far as orders are attributed, judged and counted by it."""

    id: str
    at: datetime
    program_id: str
    imported: bool
    unbillable_reason: str
    sub_ids: Mapping[str, str]
    visitor_key: str
    user_agent: str
    agent_class: str
    sec_fetch_dest: str | None
    sec_fetch_mode: str | None
    sec_fetch_user: str | None
    sec_purpose: str | None
    country: str | None
    is_hosting: bool
    duplicates: int
    link: str
    carried_clicks: int


_AT, _SUB_IDS, _IMPORTED, _IS_HOSTING = (
    Seen._fields.index(name) for name in ("at", "sub_ids", "imported", "is_hosting")
)
_click: Final = day_files.TABLE
_BY_ID: Final = sa.select(*(_click.c[name] for name in Seen._fields)).where(
    _click.c.id.in_(sa.bindparam("ids", expanding=True)),
    # The times name the partition; without them PostgreSQL would look into each.
    _click.c.at >= sa.bindparam("first"),
    _click.c.at < sa.bindparam("end"),
)
_BY_ID_IN_FILE: Final = (
    f"SELECT {', '.join(Seen._fields)} FROM click "  # noqa: S608 - our own columns
    "WHERE id IN (SELECT value FROM json_each(?))"
)
_TIMES: Final = (
    sa.select(_click.c.program_id, _click.c.visitor_key, _click.c.at)
    .where(
        _click.c.visitor_key.in_(sa.bindparam("visitors", expanding=True)),
        _click.c.at >= sa.bindparam("first"),
        _click.c.at < sa.bindparam("end"),
        _click.c.at > sa.bindparam("after"),
        _click.c.at <= sa.bindparam("until"),
    )
    .order_by(_click.c.at)
    .limit(sa.bindparam("limit"))
)
_TIMES_IN_FILE: Final = (
    "SELECT program_id, visitor_key, at FROM click "
    "WHERE visitor_key IN (SELECT value FROM json_each(?)) AND at > ? AND at <= ? "
    "ORDER BY at LIMIT ?"
)


def find_many(session: Session, click_ids: Collection[str]) -> dict[str, Seen]:
    """These clicks, by id; those without a row have no entry."""
    memo: dict[str, Seen] = session.info.setdefault(_MEMO, {})
    by_day: defaultdict[date, list[str]] = defaultdict(list)
    found: dict[str, Seen] = {}
    for click_id in click_ids:
        seen = memo.get(click_id)
        if seen is not None:
            found[click_id] = seen
            continue
        at = time_of(click_id)
        if at is not None:
            by_day[click_days.day_of(at)].append(click_id)
    if by_day:
        read = _read(session, by_day)
        if len(memo) + len(read) > _MEMO_CLICKS_MAX:
            memo.clear()
        memo.update(read)
        found |= read
    return found


def _read(session: Session, by_day: Mapping[date, Sequence[str]]) -> dict[str, Seen]:
    found: dict[str, Seen] = {}
    for row in _kept(session, sorted(by_day)):
        if click_days.is_by_file(session):
            every = _in_file(session, row, _BY_ID_IN_FILE, (_json(by_day[row.day]),))
            found |= {one[0]: _from_file(one) for one in every}
        else:
            first, end = click_days.bounds(row.day)
            asked = {"ids": by_day[row.day], "first": first, "end": end}
            found |= {one[0]: Seen(*one) for one in session.execute(_BY_ID, asked)}
    return found


def _kept(session: Session, days: Sequence[date]) -> list[ClickDay]:
    """Those of the days that have clicks, in their order."""
    rows = click_days.known(session, days) if days else {}
    found = (rows[day] for day in days if day in rows)
    return [row for row in found if row.retired_at is None]


def counts_of_visitors(
    session: Session, seen: Sequence[Seen], *, span: timedelta, count_max: int
) -> dict[str, int]:
    """By click id: as `clicks.count_of_visitor` for the time of `span` up to and with each click.

    One statement for each day that is looked into, unless visitors are so busy that their clicks
    have to be counted with a limit.
    """
    by_day: defaultdict[date, list[Seen]] = defaultdict(list)
    for click in seen:
        for day in click_days.days_between(click.at - span, click.at):
            by_day[day].append(click)
    times: defaultdict[tuple[str, str], list[datetime]] = defaultdict(list)
    # The last days first: they were read last, and their files may still be open.
    for row in _kept(session, sorted(by_day, reverse=True)):
        found = _times(session, row, by_day[row.day], span=span)
        if len(found) == _ROWS_COUNTED_MAX:
            return _counts_one_by_one(session, seen, span=span, count_max=count_max)
        for program_id, visitor_key, at in found:
            times[program_id, visitor_key].append(at)
    for one in times.values():
        one.sort()
    counts = {}
    for click in seen:
        own_times = times[click.program_id, click.visitor_key]
        count = bisect_right(own_times, click.at) - bisect_right(own_times, click.at - span)
        counts[click.id] = min(count_max, count)
    return counts


def _times(
    session: Session, row: ClickDay, own: Sequence[Seen], *, span: timedelta
) -> list[tuple[str, str, datetime]]:
    """Program, visitor and time of what the visitors of these clicks clicked on that day."""
    visitors = sorted({click.visitor_key for click in own})
    after, until = min(click.at for click in own) - span, max(click.at for click in own)
    if click_days.is_by_file(session):
        asked = (_json(visitors), _text(after), _text(until), _ROWS_COUNTED_MAX)
        every = _in_file(session, row, _TIMES_IN_FILE, asked)
        return [(program_id, visitor, _time(at)) for program_id, visitor, at in every]
    first, end = click_days.bounds(row.day)
    values = {"visitors": visitors, "first": first, "end": end, "after": after, "until": until}
    return [
        (program_id, visitor, at)
        for program_id, visitor, at in session.execute(
            _TIMES, values | {"limit": _ROWS_COUNTED_MAX}
        )
    ]


def _counts_one_by_one(
    session: Session, seen: Iterable[Seen], *, span: timedelta, count_max: int
) -> dict[str, int]:
    return {
        click.id: clicks.count_of_visitor(
            session,
            program_id=click.program_id,
            visitor_key=click.visitor_key,
            after=click.at - span,
            until=click.at,
            count_max=count_max,
        )
        for click in seen
    }


# A day's file holds times as SQLAlchemy stores them there, without their zone, which is UTC.


def _in_file(
    session: Session, row: ClickDay, sql: str, asked: Sequence[Any]
) -> list[tuple[Any, ...]]:
    files = day_files.beside(click_days.engine_of(session))
    return files.rows(Place(row.day, row.generation), sql, asked)


def _from_file(one: Sequence[Any]) -> Seen:
    values = list(one)
    values[_AT] = _time(values[_AT])
    values[_SUB_IDS] = msgspec.json.decode(values[_SUB_IDS])
    values[_IMPORTED] = bool(values[_IMPORTED])
    values[_IS_HOSTING] = bool(values[_IS_HOSTING])
    return Seen._make(values)


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def _text(at: datetime) -> str:
    return at.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


def _json(values: Sequence[str]) -> str:
    return msgspec.json.encode(values).decode()
