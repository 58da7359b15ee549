"""What the journal's clicks mean, as finished rows: place, agent, sub-ids and visitor looked up.

This is the path of every click: rows are plain lists in the order of the table, JSON is encoded
once for each query string, and nothing here asks the database.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time
from functools import lru_cache
from operator import itemgetter
from typing import Any, Final

import msgspec
from msgspec.structs import astuple

from tracker.agents import classify
from tracker.click_days import day_of
from tracker.clicks import NOTE_PARAMETER, WITHOUT_CONSENT, read_query, shorten_address
from tracker.day_files import COLUMNS
from tracker.events import ClickSeen
from tracker.geo import GeoResolver
from tracker.link_checks import Landing
from tracker.rollup_clicks import Clicks
from tracker.visitors import CARRY, Salts, key_of, period_of

Row = list[Any]
"""The values of a click in the order of COLUMNS; times are datetimes, documents are JSON text."""

ID, AT, PROGRAM, PUBLISHER, REASON, LANDING_URL, SUB_IDS, VISITOR, AGENT, COUNTRY = (
    COLUMNS.index(name)
    for name in (
        "id",
        "at",
        "program_id",
        "publisher_id",
        "unbillable_reason",
        "landing_url",
        "sub_ids",
        "visitor_key",
        "user_agent",
        "country",
    )
)
DUPLICATES, LINK, CARRIED, ORIGIN = (
    COLUMNS.index(name) for name in ("duplicates", "link", "carried_clicks", "origin")
)
_CACHE_ENTRIES: Final = 16_384
_NOTHING: Final = "{}"
_CACHED_QUERY_CHARS_MAX: Final = 512
_Place = tuple[str, str | None, str, bool]
"""Network, country, what said so, whether it is a data centre's."""


@dataclass(slots=True)
class DayRows:
    """The clicks of a day in a batch, and, by click id, a visitor's key under the salt before."""

    rows: list[Row] = field(default_factory=list)
    earlier_keys: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Built:
    """A batch's clicks by day; `refused` are of a program or publisher that does not exist."""

    days: dict[date, DayRows] = field(default_factory=dict)
    refused: list[ClickSeen] = field(default_factory=list)

    @property
    def count(self) -> int:
        """Clicks of all days, repeated ones among them."""
        return sum(len(of_day.rows) for of_day in self.days.values())


def origin_of(journal: int, segment: int, offset: int) -> int:
    """A signed 64-bit number for the place of a record, equal for no other place of a journal.

    `journal` is the journal's random identity as a number.
    """
    # A segment is far smaller than 2^40 bytes, so that places of one journal never meet.
    mixed = (journal ^ (journal >> 64)) + (segment << 40) + offset
    return (mixed & (2**64 - 1)) - 2**63


class Builder:
    """Makes rows of clicks, and keeps what the next batch will ask for again.

    `programs` and `publishers` give ids by number and may grow between calls.
    """

    def __init__(
        self,
        *,
        salts: Salts,
        geo: GeoResolver,
        programs: Mapping[int, str],
        publishers: Mapping[int, str],
        sub_id_chars_max: int,
    ) -> None:
        self.salts, self.geo, self.sub_id_chars_max = salts, geo, sub_id_chars_max
        self._programs, self._publishers = programs, publishers
        self._places: dict[str, _Place] = {}
        self._geo_changes = geo.changes
        self._documents = lru_cache(maxsize=_CACHE_ENTRIES)(_documents)
        self._class_of = lru_cache(maxsize=_CACHE_ENTRIES)(_class_of)

    def build(self, seen: Sequence[tuple[ClickSeen, int]]) -> Built:
        """The rows of clicks (each with the origin of its record), but for what is stored already.

        `salts` is prepared for the clicks' days.
        """
        if self._geo_changes != self.geo.changes or len(self._places) > _CACHE_ENTRIES:
            self._places.clear()
            self._geo_changes = self.geo.changes
        built = Built()
        days: dict[date, _Day] = {}
        for click, origin in seen:
            program_id = self._programs.get(click.program_number)
            publisher_id = self._publishers.get(click.publisher_number)
            if program_id is None or publisher_id is None:
                built.refused.append(click)
                continue
            date_of = click.at.date()
            day = days.get(date_of)
            if day is None:
                day = days[date_of] = _Day.of(date_of, self.salts)
                built.days[date_of] = day.into
            day.into.rows.append(self._row(click, program_id, publisher_id, day, origin))
        return built

    def _row(
        self, click: ClickSeen, program_id: str, publisher_id: str, day: "_Day", origin: int
    ) -> Row:
        # All fields at once: asking for them one by one takes as long as the rest of this.
        click_id, at, _, _, page, query, reason, note, imported, *rest = astuple(click)
        address, user_agent, referrer, accept_language, *sec_fetch, link = rest
        network, country, country_source, is_hosting = self._places.get(address) or self._place(
            address
        )
        if not query and not note:
            sub_ids = parameters = _NOTHING
        elif len(query) > _CACHED_QUERY_CHARS_MAX:
            sub_ids, parameters = _documents(query, note, self.sub_id_chars_max)
        else:
            sub_ids, parameters = self._documents(query, note, self.sub_id_chars_max)
        visitor = ""
        if address or user_agent:
            visitor = key_of(day.salted, address, user_agent)
            if at < day.carries_until:
                day.into.earlier_keys[click_id] = key_of(day.salted_before, address, user_agent)
        if at.microsecond % 1000:
            # As the id states it: the two say the same time, on every database.
            at = at.replace(microsecond=at.microsecond // 1000 * 1000)
        # An imported click, or one without consent, carries no agent; that is not an empty one.
        knows_agent = not imported and reason not in WITHOUT_CONSENT
        return [
            click_id,
            at,
            program_id,
            publisher_id,
            imported,
            reason,
            page,
            sub_ids,
            parameters,
            network,
            visitor,
            user_agent,
            self._class_of(user_agent) if knows_agent else "",
            referrer,
            accept_language,
            *sec_fetch,
            country,
            country_source,
            is_hosting,
            0,
            link,
            0,
            origin,
        ]

    def _place(self, address: str) -> _Place:
        geo = self.geo.lookup(address)
        found = (
            shorten_address(address),
            geo.country,
            geo.country_source or "",
            geo.is_hosting,
        )
        self._places[address] = found
        return found


@dataclass(frozen=True, slots=True)
class _Day:
    """What the clicks of a day have in common."""

    into: DayRows
    salted: Any
    salted_before: Any
    carries_until: datetime

    @classmethod
    def of(cls, day: date, salts: Salts) -> "_Day":
        starts_on = period_of(day, salts.salt_days).starts_on
        return cls(
            DayRows(),
            salts.hash_of(day),
            salts.hash_before(day),
            datetime.combine(starts_on, time.min, UTC) + CARRY,
        )


def days_of(seen: Collection[tuple[ClickSeen, int]]) -> set[date]:
    """The days on which these clicks happened."""
    return {day_of(click.at) for click, _ in seen}


def _documents(query: str, note: str, sub_id_chars_max: int) -> tuple[str, str]:
    """(sub-ids, parameters) of a query string, as JSON."""
    read = read_query(query, sub_id_chars_max=sub_id_chars_max)
    parameters = read.parameters | ({NOTE_PARAMETER: note} if note else {})
    return _json(read.sub_ids), _json(parameters)


def _json(document: dict[str, str]) -> str:
    return msgspec.json.encode(document).decode()


def _class_of(user_agent: str) -> str:
    return classify(user_agent).value


def counted(
    rows: Sequence[Row], programs: Mapping[str, int], publishers: Mapping[str, int]
) -> Clicks:
    """What the roll-ups count of these rows; the numbers of programs and publishers by id."""
    return Clicks(
        times=[row[AT] for row in rows],
        programs=[programs[row[PROGRAM]] for row in rows],
        publishers=[publishers[row[PUBLISHER]] for row in rows],
        reasons=[row[REASON] for row in rows],
        sub_ids=[row[SUB_IDS] for row in rows],
        visitor_keys=[row[VISITOR] for row in rows],
        user_agents=[row[AGENT] for row in rows],
        countries=[row[COUNTRY] for row in rows],
        links=[row[LINK] for row in rows],
    )


_LANDING: Final = itemgetter(PROGRAM, PUBLISHER, REASON, LANDING_URL)


def landings(rows: Sequence[Row]) -> list[Landing]:
    """Where these rows led, each equal landing once, in their order."""
    return [Landing(*one) for one in dict.fromkeys(map(_LANDING, rows))]
