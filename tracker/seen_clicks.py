"""What is read of clicks to judge the orders that name them: each once a transaction, as rows.

Clicks never change, so what a session has read of one stays right for as long as the session
lives. One that was not there may still come, and is looked for again.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import ARRAY
from sqlmodel import Session

from tracker import click_days, day_files
from tracker.click_ids import time_of
from tracker.day_files import Place
from tracker.models import ClickDay

_MEMO: Final = "seen_clicks"
_MEMO_CLICKS_MAX: Final = 10_000


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
# A visitor of a hundred thousand clicks costs no more than one of `count_max`: the limit stands
# inside, for each click by itself.
_COUNTS: Final = sa.text(
    "SELECT asked.id, (SELECT count(*) FROM (SELECT 1 FROM click"
    " WHERE click.visitor_key = asked.visitor AND click.program_id = asked.program"
    " AND click.at > asked.after AND click.at <= asked.until"
    " AND click.at >= :first AND click.at < :end LIMIT :limit) AS found)"
    " FROM unnest(:ids, :visitors, :programs, :afters, :untils)"
    " AS asked (id, visitor, program, after, until)"
).bindparams(
    *(sa.bindparam(name, type_=ARRAY(sa.Text)) for name in ("ids", "visitors", "programs")),
    *(sa.bindparam(name, type_=ARRAY(sa.DateTime(timezone=True))) for name in ("afters", "untils")),
)
_COUNTS_IN_FILE: Final = (
    "SELECT json_extract(asked.value, '$[0]'), (SELECT count(*) FROM (SELECT 1 FROM click"
    " WHERE click.visitor_key = json_extract(asked.value, '$[1]')"
    " AND click.program_id = json_extract(asked.value, '$[2]')"
    " AND click.at > json_extract(asked.value, '$[3]')"
    " AND click.at <= json_extract(asked.value, '$[4]') LIMIT ?))"
    " FROM json_each(?) AS asked"
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

    One statement for each day that is looked into.
    """
    by_day: defaultdict[date, list[Seen]] = defaultdict(list)
    for click in seen:
        for day in click_days.days_between(click.at - span, click.at):
            by_day[day].append(click)
    counts = {click.id: 0 for click in seen}
    # The last days first: they were read last, and their files may still be open.
    for row in _kept(session, sorted(by_day, reverse=True)):
        for click_id, count in _counts(session, row, by_day[row.day], span, count_max):
            counts[click_id] = min(count_max, counts[click_id] + count)
    return counts


def _counts(
    session: Session, row: ClickDay, own: Sequence[Seen], span: timedelta, count_max: int
) -> Iterable[Sequence[Any]]:
    """Click id and count on that day, for each of the clicks."""
    if click_days.is_by_file(session):
        asked = [
            (one.id, one.visitor_key, one.program_id, _text(one.at - span), _text(one.at))
            for one in own
        ]
        return _in_file(session, row, _COUNTS_IN_FILE, (count_max, _json(asked)))
    first, end = click_days.bounds(row.day)
    return session.execute(
        _COUNTS,
        {
            "ids": [one.id for one in own],
            "visitors": [one.visitor_key for one in own],
            "programs": [one.program_id for one in own],
            "afters": [one.at - span for one in own],
            "untils": [one.at for one in own],
            "first": first,
            "end": end,
            "limit": count_max,
        },
    )


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


def _json(values: Sequence[Any]) -> str:
    return msgspec.json.encode(values).decode()
