"""Rows as they stand in a running network, each with sensible facts and keyword overrides.

Every builder inserts and flushes; nothing is committed. Ids and numbers are counted upwards, so a
test that needs two of a kind calls twice.
"""

import hashlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any, TypeVar

import msgspec
from sqlalchemy.engine import Engine
from sqlmodel import Session, SQLModel, select

from commissions import plans
from commissions.models import PlanVersion
from kernel.database import reading
from network.models import (
    Advertiser,
    Membership,
    MembershipStatus,
    Program,
    Publisher,
)
from tracker import click_days, day_files, day_partitions, rollup_clicks
from tracker.click_ids import RANDOM_BYTES, ClickIdSigner
from tracker.models import (
    Attribution,
    AttributionShare,
    ChangeKind,
    Click,
    ClickDay,
    Conversion,
    ConversionChange,
    ConversionItem,
)

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
_SIGNER = ClickIdSigner({1: b"a key that only tests use"}, current=1)
_numbers = count(1)
_Row = TypeVar("_Row", bound=SQLModel)


def _id(prefix: str) -> tuple[int, str]:
    number = next(_numbers)
    return number, f"{prefix}_{number:012d}{'x' * 14}"


def _keep(session: Session, row: _Row) -> _Row:
    session.add(row)
    session.flush()
    return row


def advertiser(session: Session, **facts: Any) -> Advertiser:
    number, identity = _id("adv")
    given: dict[str, Any] = {"id": identity, "name": f"Shop {number}", "created_at": NOW}
    return _keep(session, Advertiser(**given | facts))


def program(session: Session, *, of: Advertiser | None = None, **facts: Any) -> Program:
    """A program in EUR with a hold of 30 days; of a new advertiser unless one is given."""
    number, identity = _id("prg")
    given: dict[str, Any] = {
        "id": identity,
        "number": number,
        "advertiser_id": (of or advertiser(session)).id,
        "code": f"shop-{number}",
        "name": f"Shop {number}",
        "currency": "EUR",
        "landing_url": "https://shop.example/",
        "allowed_domains": ["shop.example"],
        "created_at": NOW,
    }
    return _keep(session, Program(**given | facts))


def publisher(session: Session, *, member_of: Program | None = None, **facts: Any) -> Publisher:
    """A publisher, approved in `member_of` when given."""
    number, identity = _id("pub")
    given: dict[str, Any] = {
        "id": identity,
        "number": number,
        "code": f"site-{number}",
        "name": f"Site {number}",
        "created_at": NOW,
    }
    made = _keep(session, Publisher(**given | facts))
    if member_of is not None:
        membership(session, member_of, made)
    return made


def membership(session: Session, of: Program, who: Publisher, **facts: Any) -> Membership:
    _, identity = _id("mem")
    given: dict[str, Any] = {
        "id": identity,
        "program_id": of.id,
        "publisher_id": who.id,
        "status": MembershipStatus.APPROVED,
        "created_at": NOW,
    }
    return _keep(session, Membership(**given | facts))


def click_id(at: datetime, name: str = "") -> str:
    """An id of this time, genuine in all but its key; equal for an equal name that is not empty."""
    named = hashlib.blake2b(name.encode(), digest_size=RANDOM_BYTES).digest() if name else None
    return _SIGNER.mint(at=at, program_number=1, publisher_number=1, random_bytes=named)


def keep_click(session: Session, clicked: Click) -> Click:
    """Put a click where clicks are. On SQLite that is committed at once, in the file of its day."""
    row = session.get(ClickDay, clicked.at.date())
    if row is None:
        row = ClickDay(day=clicked.at.date(), opened_at=NOW)
    row.clicks += 1
    row.last_at = max(clicked.at, row.last_at or clicked.at)
    session.add(row)
    session.flush()
    bind = session.get_bind()
    engine = bind if isinstance(bind, Engine) else bind.engine
    if engine.dialect.name != "sqlite":
        day_partitions.make_one(session.connection(), row.day)
        return _keep(session, clicked)
    place = day_files.Place(row.day, row.generation)
    with (
        day_files.beside(engine).writing(place) as connection,
        Session(connection, expire_on_commit=False) as of_day,
    ):
        _keep(of_day, clicked)
        of_day.commit()
        of_day.expunge(clicked)
    return clicked


def clicks(engine: Engine) -> list[Click]:
    """Every click that is stored, in the order of their days."""
    found: dict[str, Click] = {}
    with reading(engine) as session:
        for row in click_days.kept(session):
            with click_days.reading_day(session, row) as of_day:
                if of_day is not None:
                    found |= {one.id: one for one in of_day.exec(select(Click))}
    return list(found.values())


def count_clicks(
    session: Session, rows: Sequence[Mapping[str, Any]], *, values_max: int = 1_000
) -> None:
    """Count clicks in the roll-ups; the rows have what clicks have by these names."""
    rollup_clicks.add(session, counted(session, rows), values_max=values_max)


def counted(session: Session, rows: Sequence[Mapping[str, Any]]) -> rollup_clicks.Clicks:
    """What the roll-ups count of clicks that are given by name."""
    programs = dict(session.exec(select(Program.id, Program.number)).all())
    publishers = dict(session.exec(select(Publisher.id, Publisher.number)).all())
    return rollup_clicks.Clicks(
        times=[row["at"] for row in rows],
        programs=[programs[row["program_id"]] for row in rows],
        publishers=[publishers[row["publisher_id"]] for row in rows],
        reasons=[row["unbillable_reason"] for row in rows],
        sub_ids=[msgspec.json.encode(row.get("sub_ids", {})).decode() for row in rows],
        visitor_keys=[row["visitor_key"] for row in rows],
        user_agents=[row["user_agent"] for row in rows],
        countries=[row.get("country") for row in rows],
        links=[row.get("link", "") for row in rows],
    )


def click(session: Session, of: Program, who: Publisher, **facts: Any) -> Click:
    """A click an hour before NOW."""
    at = facts.get("at", NOW - timedelta(hours=1))
    given: dict[str, Any] = {
        "id": click_id(at),
        "at": at,
        "program_id": of.id,
        "publisher_id": who.id,
        "landing_url": of.landing_url,
        "sub_ids": {},
        "parameters": {},
    }
    return keep_click(session, Click(**given | facts))


def conversion(
    session: Session,
    of: Program,
    who: Publisher | None = None,
    *,
    items: Sequence[dict[str, Any]] = (),
    clicked: Click | None = None,
    decided: bool = True,
    shares: Sequence[tuple[Publisher, int, int]] = (),
    facts: Mapping[str, Any] | None = None,
    **said: Any,
) -> Conversion:
    """A sale of 100.00 at NOW, attributed to `who` (nobody when None); items count from line 0.

    One that is not `decided` has no attribution yet; `facts` are more of what it keeps. `shares`
    are (publisher, numerator, denominator), one of them of `who`, who has all of it without.
    """
    number, identity = _id("cnv")
    at = said.get("occurred_at", NOW)
    given: dict[str, Any] = {
        "id": identity,
        "program_id": of.id,
        "order_id": f"order-{number}",
        "event": "sale",
        "occurred_at": at,
        "received_at": at,
        "currency": of.currency,
        "amount_minor": 10_000,
        "click_id": clicked.id if clicked else None,
        "content_hash": f"hash-{number}",
        "channel": "postback",
    }
    made = _keep(session, Conversion(**given | said))
    for line, item in enumerate(items):
        row: dict[str, Any] = {"conversion_id": made.id, "line": line} | item
        session.add(ConversionItem(**row))
    if decided:
        session.add(_attribution(made, who, clicked, facts or {}))
    parts = shares or ([(who, 1, 1)] if who else [])
    for position, (publisher_of, numerator, denominator) in enumerate(parts if decided else ()):
        session.add(
            AttributionShare(
                conversion_id=made.id,
                position=position,
                publisher_id=publisher_of.id,
                numerator=numerator,
                denominator=denominator,
                role="converter" if publisher_of is who else "contributor",
                click_id=clicked.id if clicked and publisher_of is who else None,
            )
        )
    session.flush()
    return made


def _attribution(
    made: Conversion, who: Publisher | None, clicked: Click | None, facts: Mapping[str, Any]
) -> Attribution:
    return Attribution(
        **facts,
        conversion_id=made.id,
        publisher_id=who.id if who else None,
        click_id=clicked.id if clicked else None,
        clicked_at=clicked.at if clicked else None,
        click_country=clicked.country if clicked else None,
        sub_ids=dict(clicked.sub_ids) if clicked else {},
        source="click" if who else "none",
        reason="last_click" if who else "no_click",
        decided_at=made.received_at,
    )


def change(session: Session, of: Conversion, kind: ChangeKind, **facts: Any) -> ConversionChange:
    """What the advertiser says about an order, a day after it came in."""
    number, identity = _id("chg")
    at = facts.get("received_at", of.received_at + timedelta(days=1))
    given: dict[str, Any] = {
        "id": identity,
        "key": f"change-{number}",
        "conversion_id": of.id,
        "kind": kind,
        "content_hash": f"hash-{number}",
        "occurred_at": at,
        "received_at": at,
    }
    return _keep(session, ConversionChange(**given | facts))


def plan(
    session: Session,
    of: Program,
    *rules: dict[str, Any],
    effective_from: datetime | None = None,
    waiver: str = "Tests set up what they need.",
    **document: Any,
) -> PlanVersion:
    """A published plan of these rules, 10 % of everything when there are none.

    It may begin in the past and lower what was there.
    """
    listed = list(rules) or [{"id": "all", "pay": {"percent": "10"}}]
    return plans.publish(
        session,
        program_id=of.id,
        document={"currency": of.currency, "rules": listed} | document,
        effective_from=effective_from or NOW - timedelta(days=365),
        actor="usr_manager",
        now=NOW,
        waiver=waiver,
    )
