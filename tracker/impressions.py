"""Impressions: a publisher's page showed a program. Counted by the hour, never kept one by one.

`GET /i/{program}/{publisher}.gif` is answered with an image at once, whatever becomes of the
count: nothing is acknowledged by it, and no page of a publisher waits for our disk.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlmodel import Session, col, select

from network.models import Program, Publisher
from tracker import rollups
from tracker.clicks import shorten_address
from tracker.events import ImpressionSeen
from tracker.geo import GeoResolver
from tracker.refusals import refuse


@dataclass(frozen=True, slots=True)
class Located:
    """An impression with its country, or None."""

    seen: ImpressionSeen
    country: str | None


def network_of(address: str) -> str:
    """The first address of the visitor's network (/24 or /48): enough for a country."""
    return shorten_address(address).partition("/")[0]


def locate(
    seen: Sequence[ImpressionSeen], *, geo: GeoResolver, monotonic_s: float | None = None
) -> list[Located]:
    """The impressions with their countries. Reads no database."""
    return [Located(one, geo.lookup(one.network, now_s=monotonic_s).country) for one in seen]


def record(
    session: Session, impressions: Sequence[Located], *, values_max: int, now: datetime
) -> tuple[int, int]:
    """Add the impressions to the roll-ups: (counted, refused). Not to be repeated.

    One whose program or publisher does not exist becomes an IntakeRefusal.
    """
    programs = _ids(session, Program, {one.seen.program_number for one in impressions})
    publishers = _ids(session, Publisher, {one.seen.publisher_number for one in impressions})
    rows: list[dict[str, Any]] = []
    for one in impressions:
        program_id = programs.get(one.seen.program_number)
        publisher_id = publishers.get(one.seen.publisher_number)
        if program_id is None or publisher_id is None:
            _refuse(session, one.seen, now=now)
            continue
        rows.append(
            {
                "at": one.seen.at,
                "program_id": program_id,
                "publisher_id": publisher_id,
                "country": one.country,
                "user_agent": one.seen.user_agent,
                "sub_ids": one.seen.sub_ids,
                "unbillable_reason": one.seen.reason,
            }
        )
    rollups.add_impressions(session, rows, values_max=values_max)
    return len(rows), len(impressions) - len(rows)


def _ids(session: Session, model: type[Program | Publisher], numbers: set[int]) -> dict[int, str]:
    query = select(model.number, model.id).where(col(model.number).in_(numbers))
    return dict(session.exec(query).all()) if numbers else {}


def _refuse(session: Session, seen: ImpressionSeen, *, now: datetime) -> None:
    refuse(
        session,
        program_id="",
        order_id="",
        code="unknown_link",
        detail="the program or the publisher of this impression is not in the database",
        payload={
            "program_number": seen.program_number,
            "publisher_number": seen.publisher_number,
        },
        now=now,
    )
