"""Looks, politely, at the pages that links lead to: whether somebody who clicks arrives.

Pages are met on the clicks themselves, a few of each batch, so the much used ones are known soon
and nothing else is ever asked for. Each is looked at once a day at most, a few of a program in an
hour, and a host is left alone between two looks; HEAD first, and GET only where HEAD fails.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from hashlib import blake2b
from typing import Any, Final, NamedTuple
from urllib.parse import urldefrag, urlsplit

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, select

from kernel import outbound
from kernel.outbound import OutboundPolicy, OutboundRefused
from kernel.settings import Settings
from tracker.rollup_checks import day_number
from tracker.rollup_models import LinkTarget

USER_AGENT: Final = "Tallystick-LinkCheck/1"
SEEN_DAYS: Final = 30
_PAGES_A_BATCH: Final = 16
_DUE_READ_MAX: Final = 2_000
_WIRE_BYTES_MAX: Final = 256 * 1024
_PROBLEMS_FROM: Final = 400
_SERVER_ERRORS_FROM: Final = 500
_GONE: Final = frozenset({404, 410})
_BUSY: Final = frozenset({429, 503})
_PORTS: Final = frozenset({80, 443})


class Outcome(StrEnum):
    """What a look found. `unclear` is a page that does not answer us and may answer people."""

    OK = "ok"
    GONE = "gone"
    SERVER_ERROR = "server_error"
    UNREACHABLE = "unreachable"
    UNCLEAR = "unclear"


BROKEN: Final = (Outcome.GONE, Outcome.SERVER_ERROR, Outcome.UNREACHABLE)


@dataclass(frozen=True, slots=True)
class Look:
    """What came of looking at a page; `status` is 0 when no answer came."""

    outcome: Outcome
    status: int


class Landing(NamedTuple):
    """Where a click led; `reason` is empty when it may earn."""

    program_id: str
    publisher_id: str
    reason: str
    url: str


def note(session: Session, landings: Iterable[Landing], *, targets_max: int, now: datetime) -> None:
    """Remember pages that clicks led to, a few of each program, up to `targets_max` each."""
    pages = _pages(landings)
    if not pages:
        return
    today = day_number(now.astimezone(UTC).date())
    known = _known(session, pages)
    seen = [key for key, day in known.items() if day < today]
    if seen:
        session.execute(
            sa.update(LinkTarget)
            .where(sa.tuple_(col(LinkTarget.program_id), col(LinkTarget.url_hash)).in_(seen))
            .values(seen_day=today)
        )
    fresh = {key: landing for key, landing in pages.items() if key not in known}
    counts = _counts(session, {program_id for program_id, _ in fresh})
    added = []
    for (program_id, url_hash), landing in sorted(fresh.items(), key=lambda entry: entry[0]):
        counts[program_id] = counts.get(program_id, 0) + 1
        if counts[program_id] <= targets_max:
            added.append(_target(landing, url_hash, today, now))
    if added:
        dialect = sqlite if session.get_bind().dialect.name == "sqlite" else postgresql
        session.execute(dialect.insert(LinkTarget).on_conflict_do_nothing(), added)


_Pages = dict[tuple[str, str], Landing]


def _pages(landings: Iterable[Landing]) -> _Pages:
    """The first pages of billable clicks by program and hash of the page."""
    distinct: dict[tuple[str, str], Landing] = {}
    counts: dict[str, int] = {}
    for landing in landings:
        key = (landing.program_id, landing.url)
        if key in distinct or landing.reason or not landing.url.startswith("http"):
            continue
        if counts.get(key[0], 0) < _PAGES_A_BATCH:
            counts[key[0]] = counts.get(key[0], 0) + 1
            distinct[key] = landing
    return {
        (program, _hash(_address(url))): landing for (program, url), landing in distinct.items()
    }


def _address(url: str) -> str:
    return urldefrag(url).url


def _hash(url: str) -> str:
    return blake2b(url.encode(), digest_size=12).hexdigest()


def _known(session: Session, pages: _Pages) -> dict[tuple[str, str], int]:
    query = select(LinkTarget.program_id, LinkTarget.url_hash, LinkTarget.seen_day)
    here = sa.tuple_(col(LinkTarget.program_id), col(LinkTarget.url_hash)).in_(list(pages))
    return {(program, url_hash): day for program, url_hash, day in session.exec(query.where(here))}


def _counts(session: Session, program_ids: set[str]) -> dict[str, int]:
    if not program_ids:
        return {}
    query = (
        select(LinkTarget.program_id, sa.func.count())
        .where(col(LinkTarget.program_id).in_(program_ids))
        .group_by(col(LinkTarget.program_id))
    )
    return dict(session.exec(query).all())


def _target(landing: Landing, url_hash: str, today: int, now: datetime) -> dict[str, Any]:
    url = _address(landing.url)
    return {
        "program_id": landing.program_id,
        "url_hash": url_hash,
        "url": url,
        "host": _host(url),
        "publisher_id": landing.publisher_id,
        "seen_day": today,
        "next_check_at": now,
        "checked_at": None,
        "outcome": "",
        "status": 0,
        "failures": 0,
    }


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def due(session: Session, settings: Settings, *, now: datetime, limit: int) -> list[LinkTarget]:
    """Pages to look at now, the longest waiting first: one of a host, as many as may be."""
    looks = _looks_of_the_hour(session, now)
    most = settings.link_checks_per_hour_max
    done = [program for program, count in looks.items() if count >= most]
    query = (
        select(LinkTarget)
        .where(
            col(LinkTarget.next_check_at) <= now,
            col(LinkTarget.program_id).not_in(done),
            LinkTarget.seen_day >= day_number(now.astimezone(UTC).date()) - SEEN_DAYS,
            col(LinkTarget.host).not_in(_resting(settings, now)),
        )
        .order_by(col(LinkTarget.next_check_at), col(LinkTarget.url_hash))
        .limit(_DUE_READ_MAX)
    )
    chosen: list[LinkTarget] = []
    hosts: set[str] = set()
    for target in session.exec(query):
        program = target.program_id
        if target.host in hosts or looks.get(program, 0) >= most:
            continue
        hosts.add(target.host)
        looks[program] = looks.get(program, 0) + 1
        chosen.append(target)
        if len(chosen) >= limit:
            break
    return chosen


def _resting(settings: Settings, now: datetime) -> Any:
    recent = now - timedelta(seconds=settings.link_check_host_seconds)
    return sa.select(LinkTarget.host).where(col(LinkTarget.checked_at) > recent)  # type: ignore[call-overload] # a column


def _looks_of_the_hour(session: Session, now: datetime) -> dict[str, int]:
    query = (
        select(LinkTarget.program_id, sa.func.count())
        .where(col(LinkTarget.checked_at) > now - timedelta(hours=1))
        .group_by(col(LinkTarget.program_id))
    )
    return dict(session.exec(query).all())


def look(url: str, settings: Settings) -> Look:
    """Ask for the page as a polite robot does. Never raises for what the other side does."""
    policy = _policy(url, settings)
    found = Look(Outcome.UNREACHABLE, 0)
    for method in ("HEAD", "GET"):
        try:
            found = _judge(outbound.probe(url, policy=policy, method=method))
        except OutboundRefused as error:
            unclear = error.code in (outbound.OVER_LIMIT, outbound.URL_REFUSED)
            found = Look(Outcome.UNCLEAR if unclear else Outcome.UNREACHABLE, error.status)
        if found.outcome is Outcome.OK or found.status in _BUSY:
            return found
    return found


def _policy(url: str, settings: Settings) -> OutboundPolicy:
    host, ports = _host(url), _PORTS
    if host in settings.private_link_hosts:
        ports |= {urlsplit(url).port or 80}
    return OutboundPolicy(
        total_seconds=settings.link_check_seconds_max,
        connect_seconds=settings.link_check_seconds_max,
        read_seconds=settings.link_check_seconds_max,
        wire_bytes_max=_WIRE_BYTES_MAX,
        ports=ports,
        allow_private_hosts=settings.private_link_hosts,
        user_agent=f"{USER_AGENT} (+{settings.public_url})",
    )


def _judge(status: int) -> Look:
    if status < _PROBLEMS_FROM:
        return Look(Outcome.OK, status)
    if status in _GONE:
        return Look(Outcome.GONE, status)
    if status >= _SERVER_ERRORS_FROM and status not in _BUSY:
        return Look(Outcome.SERVER_ERROR, status)
    # Shops turn robots away with 401, 403 or 429; whoever comes with a browser may get in.
    return Look(Outcome.UNCLEAR, status)


def keep(
    session: Session, target: LinkTarget, found: Look, settings: Settings, *, now: datetime
) -> None:
    """Store what a look found, and when to look again."""
    failures = LinkTarget.failures + 1 if found.outcome in BROKEN else 0
    session.execute(
        sa.update(LinkTarget)
        .where(
            col(LinkTarget.program_id) == target.program_id,
            col(LinkTarget.url_hash) == target.url_hash,
        )
        .values(
            checked_at=now,
            next_check_at=now + timedelta(hours=settings.link_check_hours),
            outcome=found.outcome.value,
            status=found.status,
            failures=failures,
        )
    )


def forget(session: Session, *, now: datetime) -> int:
    """Forget pages that no click has led to for 30 days; how many."""
    oldest = day_number(now.astimezone(UTC).date()) - SEEN_DAYS
    result: Any = session.execute(sa.delete(LinkTarget).where(col(LinkTarget.seen_day) < oldest))
    return int(result.rowcount)
