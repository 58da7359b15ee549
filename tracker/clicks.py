"""Clicks: what a link's query says, which clicks may earn, and their rows in the database."""

import ipaddress
import re
from collections import defaultdict
from collections.abc import Collection, Mapping
from datetime import date, datetime
from enum import StrEnum
from socket import AF_INET, inet_pton
from typing import Final
from urllib.parse import unquote, unquote_plus

import msgspec
from sqlmodel import Session, col, select

from tracker import click_days, consent
from tracker.click_ids import time_of
from tracker.models import Click

PARAMETERS_MAX: Final = 50
NOTE_PARAMETER: Final = "ts_note"
NOTE_FOREIGN_URL: Final = "foreign_url"
NOTE_UNSIGNED_URL: Final = "unsigned_url"
_NAME_CHARS_MAX: Final = 64
_CUT: Final = "\u2026"
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
# The place for a deep link in the links of other networks; the first of these that is there counts.
_DESTINATIONS: Final = (
    "url",
    "ued",
    "u",
    "murl",
    "destination",
    "ulp",
    "mpre",
    "wgtarget",
    "deeplink",
)
# Names that elsewhere stand for anything: only an address in them is taken for a deep link.
_DESTINATIONS_IF_ADDRESS: Final = ("p", "path")
_SPECIAL: Final = frozenset({*_DESTINATIONS, *_DESTINATIONS_IF_ADDRESS, *consent.NAMES})
_ADDRESS_STARTS: Final = ("http://", "https://")
# What other networks call the place for a publisher's own reference, by the slot it goes to, in
# the order in which they are asked.
_ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "s1": (
        *("clickref", "subId1", "subid1", "sid", "u1", "customid", "aff_sub", "pubref"),
        *("sub1", "subid", "subId", "aff_sub1", "sub_id_1", "epi", "ascsubtag", "data1"),
    ),
    "s2": (
        *("clickref2", "subId2", "subid2", "aff_sub2", "sub2", "sub_id_2"),
        *("epi2", "data2", "adref"),
    ),
    "s3": ("clickref3", "subId3", "subid3", "aff_sub3", "sub3", "sub_id_3"),
    "s4": (
        *("clickref4", "subid4", "aff_sub4", "sub4", "sub_id_4"),
        *("sharedid", "sharedId", "source_id"),
    ),
    "s5": ("clickref5", "aff_sub5", "sub5", "sub_id_5", "campaign", "source"),
    "s6": ("clickref6", "sub6", "sub_id_6"),
    "s7": ("sub7", "sub_id_7"),
    "s8": ("sub8", "sub_id_8"),
    "s9": ("sub9", "sub_id_9"),
    "s10": ("sub10", "sub_id_10"),
}
# (slot, rank) by name: a query has few names, so they are looked up and not searched for.
_PLACES: Final = {
    name: (slot, rank)
    for slot, names in _ALIASES.items()
    for rank, name in enumerate((slot, *names))
}


class Unbillable(StrEnum):
    """Why a click cannot earn. The visitor is sent on all the same, without a click id."""

    PAUSED = "paused"
    NOT_A_MEMBER = "not_a_member"
    LINK_RETIRED = "link_retired"
    HEAD = "head"
    PREFETCH = "prefetch"
    PREVIEW = "preview"
    NO_CONSENT = "no_consent"
    NO_CONSENT_TCF = "no_consent_tcf"
    GLOBAL_PRIVACY_CONTROL = "global_privacy_control"


WITHOUT_CONSENT: Final = frozenset(
    {Unbillable.NO_CONSENT, Unbillable.NO_CONSENT_TCF, Unbillable.GLOBAL_PRIVACY_CONTROL}
)
"""Of such a click nothing is kept that could be about a person."""
AHEAD_OF_PERSON: Final = (Unbillable.HEAD, Unbillable.PREFETCH, Unbillable.PREVIEW)
"""Requests of a machine ahead of a person: no repeats of the person's own click."""


class LinkQuery(msgspec.Struct, frozen=True):
    """What the query of a link says, bounded; `destination` is the deep link as it was given.

    `consent` holds what it says about consent, by name and, unlike `parameters`, whole. One that
    was read is shared by the clicks of a link: nobody may change what it holds.
    """

    sub_ids: dict[str, str]
    parameters: dict[str, str]
    destination: str | None
    consent: dict[str, str]


def read_query(query: str, *, sub_id_chars_max: int) -> LinkQuery:
    """Read a raw query string. Never fails: a link that was pasted wrongly still leads somewhere.

    The first PARAMETERS_MAX parameters count, and of a name the first. A value over the limit is
    cut and ends with an ellipsis.
    """
    parameters: dict[str, str] = {}
    destinations: dict[str, str] = {}
    said: dict[str, str] = {}
    for pair in query.split("&", PARAMETERS_MAX)[:PARAMETERS_MAX]:
        raw_name, _, raw_value = pair.partition("=")
        name = _text(raw_name, _NAME_CHARS_MAX)
        if not name or name in parameters:
            continue
        parameters[name] = _text(raw_value, sub_id_chars_max)
        if name not in _SPECIAL:
            continue
        # A plus is a plus here: no address holds a blank, but many hold a bare plus.
        (said if name in consent.NAMES else destinations)[name] = unquote(raw_value)
    return LinkQuery(
        sub_ids=_sub_ids(parameters),
        parameters=parameters,
        destination=_destination(destinations) if destinations else None,
        consent=said,
    )


def _sub_ids(parameters: Mapping[str, str]) -> dict[str, str]:
    ranks: dict[str, int] = {}
    sub_ids: dict[str, str] = {}
    for name, value in parameters.items():
        place = _PLACES.get(name)
        if place is None or not value:
            continue
        slot, rank = place
        if slot not in ranks or rank < ranks[slot]:
            ranks[slot] = rank
            sub_ids[slot] = value
    return sub_ids


def _destination(given: Mapping[str, str]) -> str | None:
    for name in _DESTINATIONS:
        if given.get(name):
            return given[name]
    for name in _DESTINATIONS_IF_ADDRESS:
        if given.get(name, "").lower().startswith(_ADDRESS_STARTS):
            return given[name]
    return None


def _text(raw: str, chars_max: int) -> str:
    # Most of what links carry is plain, and asking is much cheaper than decoding.
    text = unquote_plus(raw) if "%" in raw or "+" in raw else raw
    if not text.isprintable():
        text = _CONTROL.sub("\ufffd", text)
    return text if len(text) <= chars_max else text[: chars_max - 1] + _CUT


def unbillable_reason(
    *,
    without_consent: str,
    is_head: bool,
    is_prefetch: bool,
    is_preview: bool,
    is_retired: bool,
    is_active: bool,
    is_member: bool,
) -> str:
    """The first reason why a click cannot earn, or the empty text.

    `without_consent` is the reason why the visitor may not be tracked, if there is one.
    """
    return reason_of_visitor(
        without_consent=without_consent,
        is_head=is_head,
        is_prefetch=is_prefetch,
        is_preview=is_preview,
    ) or reason_of_link(is_retired=is_retired, is_active=is_active, is_member=is_member)


def reason_of_visitor(
    *, without_consent: str, is_head: bool, is_prefetch: bool, is_preview: bool
) -> str:
    """The first reason of `unbillable_reason` that lies in the request, or the empty text."""
    if without_consent:
        return without_consent
    if is_head:
        return Unbillable.HEAD
    if is_prefetch:
        return Unbillable.PREFETCH
    return Unbillable.PREVIEW if is_preview else ""


def reason_of_link(*, is_retired: bool, is_active: bool, is_member: bool) -> str:
    """The first reason of `unbillable_reason` that lies in the link, or the empty text."""
    if is_retired:
        return Unbillable.LINK_RETIRED
    if not is_active:
        return Unbillable.PAUSED
    return "" if is_member else Unbillable.NOT_A_MEMBER


def shorten_address(address: str) -> str:
    """The network of an address, /24 or /48: enough for a country, too little for a person."""
    try:
        # A tenth of the cost of `ip_address`, for nearly every address there is.
        inet_pton(AF_INET, address)
    except (OSError, ValueError):
        return _shorten_other(address)
    return f"{address.rpartition('.')[0]}.0/24"


def _shorten_other(address: str) -> str:
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    bits = 24 if isinstance(parsed, ipaddress.IPv4Address) else 48
    return str(ipaddress.ip_network(f"{parsed}/{bits}", strict=False))


def find(session: Session, click_id: str) -> Click | None:
    """The row of a click, or None: it is late, lost, or past its retention."""
    return find_many(session, [click_id]).get(click_id)


def find_many(session: Session, click_ids: Collection[str]) -> dict[str, Click]:
    """The rows of these clicks, by id; those without a row have no entry."""
    by_day: defaultdict[date, set[str]] = defaultdict(set)
    for click_id in click_ids:
        at = time_of(click_id)
        if at is not None:
            by_day[click_days.day_of(at)].add(click_id)
    rows = click_days.known(session, by_day.keys()) if by_day else {}
    found: dict[str, Click] = {}
    for day, ids in by_day.items():
        first, last = click_days.bounds(day)
        with click_days.reading_day(session, rows.get(day)) as of_day:
            if of_day is not None:
                # The times name the partition; without them PostgreSQL would look into each.
                query = select(Click).where(
                    col(Click.id).in_(ids),
                    col(Click.at) >= first,
                    col(Click.at) < last,
                )
                found |= {click.id: click for click in of_day.exec(query)}
    return found


def count_of_visitor(
    session: Session,
    *,
    program_id: str,
    visitor_key: str,
    after: datetime,
    until: datetime,
    count_max: int,
) -> int:
    """Clicks of a visitor on a program in (after, until]; counted no further than `count_max`.

    Those under an earlier salt have another key: they are in the `carried_clicks` of a click.
    """
    days = click_days.days_between(after, until)
    rows = click_days.known(session, days)
    count = 0
    for day in days:
        query = (
            select(Click.id)
            .where(
                Click.program_id == program_id,
                Click.visitor_key == visitor_key,
                col(Click.at) > after,
                col(Click.at) <= until,
            )
            .limit(count_max - count)
        )
        with click_days.reading_day(session, rows.get(day)) as of_day:
            if of_day is None:
                continue
            count += len(of_day.exec(query).all())
        # A session on PostgreSQL has looked into every day of the window at once.
        if count >= count_max or not click_days.is_by_file(session):
            break
    return count
