"""Clicks: what a link's query says, which clicks may earn, and their rows in the database."""

import hashlib
import ipaddress
import re
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, Final
from urllib.parse import unquote, unquote_plus

from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, select

from network.models import Program, Publisher
from tracker.agents import classify
from tracker.events import ClickSeen
from tracker.geo import GeoResolver
from tracker.models import Click
from tracker.refusals import refuse

PARAMETERS_MAX: Final = 50
NOTE_PARAMETER: Final = "ts_note"
NOTE_FOREIGN_URL: Final = "foreign_url"
_NAME_CHARS_MAX: Final = 64
_CUT: Final = "\u2026"
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_DESTINATIONS: Final = ("url", "ued", "u", "murl", "destination")
# What other networks call the place for a publisher's own reference, by the slot it goes to.
_ALIASES: Final[Mapping[str, tuple[str, ...]]] = {
    "s1": ("clickref", "subId1", "subid1", "sid", "u1", "customid", "aff_sub", "pubref"),
    "s2": ("clickref2", "subId2", "subid2", "aff_sub2"),
    "s3": ("clickref3", "subId3", "subid3", "aff_sub3"),
    "s4": ("clickref4", "subid4", "aff_sub4"),
    "s5": ("clickref5", "aff_sub5"),
    "s6": ("clickref6",),
}


class Unbillable(StrEnum):
    """Why a click cannot earn. The visitor is sent on all the same, without a click id."""

    PAUSED = "paused"
    NOT_A_MEMBER = "not_a_member"
    HEAD = "head"
    PREFETCH = "prefetch"
    NO_CONSENT = "no_consent"


# Requests that a machine makes ahead of a person; they are no repeats of the person's own click.
_AHEAD_OF_PERSON: Final = (Unbillable.HEAD, Unbillable.PREFETCH)


@dataclass(frozen=True, slots=True)
class LinkQuery:
    """What the query of a link says, bounded; `destination` is the deep link as it was given."""

    sub_ids: dict[str, str]
    parameters: dict[str, str]
    destination: str | None
    has_consent: bool


def read_query(query: str, *, sub_id_chars_max: int) -> LinkQuery:
    """Read a raw query string. Never fails: a link that was pasted wrongly still leads somewhere.

    The first PARAMETERS_MAX parameters count, and of a name the first. A value over the limit is
    cut and ends with an ellipsis.
    """
    parameters: dict[str, str] = {}
    destinations: dict[str, str] = {}
    for pair in query.split("&", PARAMETERS_MAX)[:PARAMETERS_MAX]:
        raw_name, _, raw_value = pair.partition("=")
        name = _clean(unquote_plus(raw_name), _NAME_CHARS_MAX)
        if not name or name in parameters:
            continue
        parameters[name] = _clean(unquote_plus(raw_value), sub_id_chars_max)
        if name in _DESTINATIONS:
            # A plus is a plus here: no address holds a blank, but many hold a bare plus.
            destinations[name] = unquote(raw_value)
    sub_ids = {}
    for slot, aliases in _ALIASES.items():
        value = next((parameters[name] for name in (slot, *aliases) if parameters.get(name)), None)
        if value is not None:
            sub_ids[slot] = value
    return LinkQuery(
        sub_ids=sub_ids,
        parameters=parameters,
        destination=next(
            (destinations[one] for one in _DESTINATIONS if destinations.get(one)), None
        ),
        has_consent=parameters.get("cons") != "0",
    )


def _clean(text: str, chars_max: int) -> str:
    text = _CONTROL.sub("\ufffd", text)
    return text if len(text) <= chars_max else text[: chars_max - 1] + _CUT


def unbillable_reason(
    *, is_active: bool, is_member: bool, is_head: bool, is_prefetch: bool, has_consent: bool
) -> str:
    """The first reason why a click cannot earn, or the empty text."""
    for applies, reason in (
        (not has_consent, Unbillable.NO_CONSENT),
        (is_head, Unbillable.HEAD),
        (is_prefetch, Unbillable.PREFETCH),
        (not is_active, Unbillable.PAUSED),
        (not is_member, Unbillable.NOT_A_MEMBER),
    ):
        if applies:
            return reason
    return ""


def shorten_address(address: str) -> str:
    """The network of an address, /24 or /48: enough for a country, too little for a person."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return ""
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    bits = 24 if isinstance(parsed, ipaddress.IPv4Address) else 48
    return str(ipaddress.ip_network(f"{parsed}/{bits}", strict=False))


def visitor_key(key: bytes, address: str, user_agent: str) -> str:
    """A keyed hash of the whole address and the agent; empty when neither is known."""
    if not address and not user_agent:
        return ""
    text = f"{address}\n{user_agent}".encode()
    return hashlib.blake2b(text, digest_size=16, key=key).hexdigest()


@dataclass(slots=True)
class Recorded:
    """What became of clicks: new rows, repeats that were one already, refusals."""

    added: int = 0
    repeated: int = 0
    refused: int = 0


@dataclass(frozen=True, slots=True)
class Enriched:
    """A click with what its raw evidence means."""

    seen: ClickSeen
    row: dict[str, Any]


def enrich(
    clicks: Sequence[ClickSeen],
    *,
    geo: GeoResolver,
    visitors: bytes,
    sub_id_chars_max: int,
    monotonic_s: float | None = None,
) -> list[Enriched]:
    """The rows of these clicks but for what only the database knows. Reads no database."""
    return [
        Enriched(seen, _row(seen, geo, visitors, sub_id_chars_max, monotonic_s)) for seen in clicks
    ]


def _row(
    seen: ClickSeen,
    geo: GeoResolver,
    visitors: bytes,
    sub_id_chars_max: int,
    monotonic_s: float | None,
) -> dict[str, Any]:
    query = read_query(seen.query, sub_id_chars_max=sub_id_chars_max)
    place = geo.lookup(seen.address, now_s=monotonic_s)
    # An imported click, or one without consent, carries no agent; that is not an empty one.
    knows_agent = not seen.imported and seen.reason != Unbillable.NO_CONSENT
    return {
        "id": seen.id,
        "at": seen.at,
        "imported": seen.imported,
        "unbillable_reason": seen.reason,
        "landing_url": seen.page,
        "sub_ids": query.sub_ids,
        "parameters": query.parameters | ({NOTE_PARAMETER: seen.note} if seen.note else {}),
        "address": shorten_address(seen.address),
        "visitor_key": visitor_key(visitors, seen.address, seen.user_agent),
        "user_agent": seen.user_agent,
        "agent_class": classify(seen.user_agent) if knows_agent else "",
        "referrer": seen.referrer,
        "accept_language": seen.accept_language,
        "sec_fetch_dest": seen.sec_fetch_dest,
        "sec_fetch_mode": seen.sec_fetch_mode,
        "sec_fetch_user": seen.sec_fetch_user,
        "sec_purpose": seen.sec_purpose,
        "country": place.country,
        "country_source": place.country_source or "",
        "is_hosting": place.is_hosting,
    }


def record(
    session: Session, clicks: Sequence[Enriched], *, duplicate_seconds: int, now: datetime
) -> Recorded:
    """Add the clicks that are new, with their count of earlier clicks of the same visitor.

    A click whose id is there already changes nothing. One whose program or publisher does not
    exist becomes an IntakeRefusal.
    """
    outcome = Recorded()
    programs = _ids(session, Program, {click.seen.program_number for click in clicks})
    publishers = _ids(session, Publisher, {click.seen.publisher_number for click in clicks})
    known = _known(session, [click.seen.id for click in clicks])
    rows: list[dict[str, Any]] = []
    for click in clicks:
        program_id = programs.get(click.seen.program_number)
        publisher_id = publishers.get(click.seen.publisher_number)
        if program_id is None or publisher_id is None:
            _refuse(session, click.seen, now=now)
            outcome.refused += 1
        elif click.seen.id in known:
            outcome.repeated += 1
        else:
            known.add(click.seen.id)
            rows.append({**click.row, "program_id": program_id, "publisher_id": publisher_id})
    if rows:
        _count_duplicates(session, rows, timedelta(seconds=duplicate_seconds))
        _insert(session, rows)
    outcome.added = len(rows)
    return outcome


def _ids(
    session: Session, model: type[Program | Publisher], numbers: Collection[int]
) -> dict[int, str]:
    query = select(model.number, model.id).where(col(model.number).in_(numbers))
    return dict(session.exec(query).all())


def _known(session: Session, ids: Sequence[str]) -> set[str]:
    return set(session.exec(select(Click.id).where(col(Click.id).in_(ids))))


def _insert(session: Session, rows: list[dict[str, Any]]) -> None:
    # Another node may ship the same imported click between the look and this statement.
    dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
    session.execute(dialect.insert(Click).on_conflict_do_nothing(index_elements=["id"]), rows)


def _count_duplicates(session: Session, rows: list[dict[str, Any]], window: timedelta) -> None:
    """Set `duplicates`: clicks of the visitor on the program in the window before, in any order.

    What a machine requested ahead of the person is not counted.
    """
    counted = [row for row in rows if _is_counted(row)]
    earlier = _earlier(session, counted, window)
    for row in sorted(rows, key=lambda row: row["at"]):
        times = earlier[row["program_id"], row["visitor_key"]]
        end = bisect_right(times, row["at"])
        row["duplicates"] = (
            end - bisect_left(times, row["at"] - window) if row["visitor_key"] else 0
        )
        if _is_counted(row):
            times.insert(end, row["at"])


def _is_counted(row: Mapping[str, Any]) -> bool:
    return bool(row["visitor_key"]) and row["unbillable_reason"] not in _AHEAD_OF_PERSON


def _earlier(
    session: Session, rows: Sequence[Mapping[str, Any]], window: timedelta
) -> defaultdict[tuple[str, str], list[datetime]]:
    found: defaultdict[tuple[str, str], list[datetime]] = defaultdict(list)
    if not rows:
        return found
    times = [row["at"] for row in rows]
    query = (
        select(Click.program_id, Click.visitor_key, Click.at)
        .where(
            col(Click.program_id).in_({row["program_id"] for row in rows}),
            col(Click.visitor_key).in_({row["visitor_key"] for row in rows}),
            col(Click.at) >= min(times) - window,
            col(Click.at) <= max(times),
            col(Click.unbillable_reason).not_in(_AHEAD_OF_PERSON),
        )
        .order_by(col(Click.at))
    )
    for program_id, visitor, at in session.exec(query):
        found[program_id, visitor].append(at)
    return found


def _refuse(session: Session, seen: ClickSeen, *, now: datetime) -> None:
    refuse(
        session,
        program_id="",
        order_id="",
        code="unknown_link",
        detail="the program or the publisher of this click is not in the database",
        payload={
            "click_id": seen.id,
            "program_number": seen.program_number,
            "publisher_number": seen.publisher_number,
        },
        now=now,
    )
