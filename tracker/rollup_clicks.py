"""Counts clicks in the roll-ups, thousands at once.

Clicks that are equal in all that is summed are counted together before they are taken apart into
the rows that they are added to: in a batch there are far fewer of those than clicks.
"""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, Final

import msgspec
from sqlmodel import Session

from tracker.agents import device_of
from tracker.clicks import WITHOUT_CONSENT
from tracker.rollups import COUNTERS, HOURS_A_DAY, SUB_IDS, TOTAL, Tally, store, visitor_hash

_CACHE_ENTRIES: Final = 16_384
_DAY_ZERO: Final = datetime(1970, 1, 1).toordinal()  # noqa: DTZ001 - a day, whatever its zone
# What a click counts as, by its place among the counters; one that is unique is a click as well.
_CLICKS, _FILTERED, _UNIQUE = map(COUNTERS.index, ("clicks", "filtered_clicks", "unique_clicks"))
_KINDS: Final = dict.fromkeys(("", *WITHOUT_CONSENT), _CLICKS)


@dataclass(frozen=True, slots=True)
class Clicks:
    """Clicks by column, in the order in which they came, which decides which one is unique.

    Programs and publishers by their short numbers, times in UTC, sub-ids as JSON text.
    """

    times: Sequence[datetime]
    programs: Sequence[int]
    publishers: Sequence[int]
    reasons: Sequence[str]
    sub_ids: Sequence[str]
    visitor_keys: Sequence[str]
    user_agents: Sequence[str]
    countries: Sequence[str | None]
    links: Sequence[str]
    hours: list[int] = field(init=False)

    def __post_init__(self) -> None:
        hours = [(at.toordinal() - _DAY_ZERO) * HOURS_A_DAY + at.hour for at in self.times]
        object.__setattr__(self, "hours", hours)


def add(session: Session, clicks: Clicks, *, values_max: int) -> None:
    """Count clicks that were just added. Not to be repeated.

    A click that may earn, or lacks only consent, counts in `clicks`, every other in
    `filtered_clicks`; its reason is a dimension of its own. The first click that may earn of a
    visitor on a publisher's program in a UTC day is `unique`.
    """
    if clicks.hours:
        firsts = _first_of_day(session, clicks)
        store(session, tally_of(clicks, firsts), values_max=values_max)


def tally_of(clicks: Clicks, firsts: Iterable[int]) -> Tally:
    """The sums of these clicks; `firsts` are the places of those that are unique."""
    kinds = [_KINDS.get(reason, _FILTERED) for reason in clicks.reasons]
    for at in firsts:
        kinds[at] = _UNIQUE
    days = [hour // HOURS_A_DAY for hour in clicks.hours]
    who = clicks.programs, clicks.publishers
    tally = Tally()
    for (hour, program, publisher, kind), count in _equal(clicks.hours, *who, kinds):
        _increase(tally.hours, (hour, program, publisher, ""), kind, count)
        day = hour // HOURS_A_DAY
        _increase(tally.days, (TOTAL, day, program, publisher, "", ""), kind, count)
    devices = list(map(_device_of, clicks.user_agents))
    for dimension, values in (("country", clicks.countries), ("device", devices)):
        for (day, program, publisher, value, kind), count in _equal(days, *who, values, kinds):
            key = (dimension, day, program, publisher, value or "", "")
            _increase(tally.days, key, kind, count)
    for read, values in (
        (_link, clicks.links),
        (_reason, clicks.reasons),
        (_sub_ids, clicks.sub_ids),
    ):
        for (day, program, publisher, value, kind), count in _equal(days, *who, values, kinds):
            for dimension, one in read(value):
                _increase(tally.days, (dimension, day, program, publisher, one, ""), kind, count)
    return tally


def _equal(*columns: Sequence[Any]) -> Iterable[tuple[tuple[Any, ...], int]]:
    """What stands in these columns, and how often."""
    return Counter(zip(*columns, strict=True)).items()


def _link(code: str) -> Sequence[tuple[str, str]]:
    return [("link", code)] if code else ()


def _reason(reason: str) -> Sequence[tuple[str, str]]:
    return [("reason", reason)] if reason else ()


def _increase(sums: dict[Any, list[int]], key: Any, kind: int, count: int) -> None:
    found = sums.get(key)
    if found is None:
        found = sums[key] = [0] * len(COUNTERS)
    found[kind] += count
    if kind == _UNIQUE:
        found[_CLICKS] += count


@lru_cache(maxsize=_CACHE_ENTRIES)
def _sub_ids(text: str) -> list[tuple[str, str]]:
    """The slots that are counted, with their values."""
    sub_ids: dict[str, str] = msgspec.json.decode(text)
    return [(slot, sub_ids[slot]) for slot in SUB_IDS if sub_ids.get(slot)]


@lru_cache(maxsize=_CACHE_ENTRIES)
def _device_of(user_agent: str) -> str:
    return device_of(user_agent).value


def _first_of_day(session: Session, clicks: Clicks) -> list[int]:
    """Which of the clicks are the first of their visitor on that day, by place."""
    places: dict[int, dict[int, int]] = {}
    for at, (hour, program, publisher, reason, visitor_key) in enumerate(
        zip(
            clicks.hours,
            clicks.programs,
            clicks.publishers,
            clicks.reasons,
            clicks.visitor_keys,
            strict=True,
        )
    ):
        if visitor_key and not reason:
            day = hour // HOURS_A_DAY
            of_day = places.get(day)
            if of_day is None:
                of_day = places[day] = {}
            of_day.setdefault(visitor_hash(program, publisher, visitor_key), at)
    firsts: list[int] = []
    connection = session.connection()
    is_sqlite = connection.dialect.name == "sqlite"
    # In order, so that two shippers that meet the same visitors wait for one another in one order.
    for day, of_day in sorted(places.items()):
        given = sorted(of_day)
        if is_sqlite:
            asked: tuple[Any, ...] = (day, msgspec.json.encode(given).decode())
            added = connection.exec_driver_sql(_MARK_SQLITE, asked)
        else:
            added = connection.exec_driver_sql(_MARK_POSTGRESQL, (day, given))
        firsts.extend(map(of_day.__getitem__, added.scalars()))
    return firsts


_MARK_SQLITE: Final = (
    "INSERT INTO rollup_visitor (day, visitor) SELECT ?, value FROM json_each(?) "
    "WHERE true ON CONFLICT DO NOTHING RETURNING visitor"
)
_MARK_POSTGRESQL: Final = (
    "INSERT INTO rollup_visitor (day, visitor) SELECT %s, one FROM unnest(%s::bigint[]) AS one "
    "ON CONFLICT DO NOTHING RETURNING visitor"
)
