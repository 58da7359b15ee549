"""A small network behind the partner API: two advertisers, two publishers, one order each."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.engine import Engine
from sqlmodel import Session
from starlette.applications import Starlette
from starlette.testclient import TestClient

import partner_api.app
from commissions import accruals, plans
from kernel import clock
from kernel.http import Context
from kernel.keys import load as load_keys
from kernel.ratelimit import Limiter
from kernel.settings import Settings
from kernel.tokens import Tokens
from network import access, programs, publishers
from network.models import ApiClient, MembershipStatus, Program, Publisher, Role
from tracker.models import Attribution, Conversion


@dataclass(frozen=True)
class Side:
    """An advertiser with its program, or a publisher, and a client that acts for it."""

    id: str
    code: str
    client_id: str
    secret: str


@dataclass(frozen=True)
class World:
    """Advertiser 1 works with publisher 1 only, advertiser 2 with publisher 2 only."""

    manager: Side
    advertisers: tuple[Side, Side]
    publishers: tuple[Side, Side]
    programs: tuple[Program, Program]
    conversion_ids: tuple[str, str]
    ordered_at: datetime


def plan_document(currency: str = "EUR", **changes: Any) -> dict[str, Any]:
    return {
        "currency": currency,
        "timezone": "UTC",
        "rounding": "half_up",
        "round_at": "line",
        "rules": [{"id": "all", "kind": "base", "pay": {"percent": "10"}}],
        **changes,
    }


def add_conversion(
    session: Session,
    *,
    number: int,
    program: Program,
    publisher: Publisher,
    at: datetime,
    order_id: str,
    amount_minor: int = 12_345,
    coupon: str | None = None,
) -> str:
    """An order that the publisher brought, recorded, attributed and booked."""
    click_id = f"click-{number}"
    conversion_id = f"cnv_{number:026d}"
    session.add(
        Conversion(
            id=conversion_id,
            program_id=program.id,
            order_id=order_id,
            event="sale",
            occurred_at=at,
            received_at=at + timedelta(seconds=1),
            currency="EUR",
            amount_minor=amount_minor,
            country="DE",
            customer="new",
            coupon=coupon,
            click_id=click_id,
            content_hash=f"hash-{number}",
            channel="postback",
        )
    )
    session.flush()
    session.add(
        Attribution(
            conversion_id=conversion_id,
            publisher_id=publisher.id,
            click_id=click_id,
            clicked_at=at - timedelta(minutes=5),
            sub_ids={"s1": f"sub-of-{publisher.code}"},
            source="click",
            reason="last_click",
            decided_at=at + timedelta(seconds=2),
        )
    )
    session.flush()
    accruals.accrue(session, conversion_id, hold_reason=None, now=at + timedelta(seconds=3))
    return conversion_id


def _side(session: Session, role: Role, party_id: str | None, code: str, now: datetime) -> Side:
    client, secret = access.add_client(
        session, name=f"client of {code}", role=role, party_id=party_id, actor="test", now=now
    )
    return Side(id=party_id or "", code=code, client_id=client.id, secret=secret)


def build_world(session: Session, *, now: datetime) -> World:
    at = now - timedelta(days=2)
    start = now - timedelta(days=30)
    advertisers, made, members, sides = [], [], [], []
    for number in (1, 2):
        advertiser = programs.add_advertiser(session, name=f"Shop {number}", now=start)
        program = programs.add(
            session,
            advertiser_id=advertiser.id,
            code=f"shop-{number}",
            name=f"Shop {number}",
            currency="EUR",
            landing_url=f"https://shop{number}.example/",
            now=start,
        )
        publisher = publishers.add(session, code=f"site-{number}", name=f"Site {number}", now=start)
        publishers.set_membership(
            session,
            program=program,
            publisher=publisher,
            status=MembershipStatus.APPROVED,
            actor="test",
            now=start,
        )
        plans.publish(
            session,
            program_id=program.id,
            document=plan_document(),
            effective_from=start,
            actor="test",
            now=start,
        )
        advertisers.append(_side(session, Role.ADVERTISER, advertiser.id, advertiser.name, start))
        sides.append(_side(session, Role.PUBLISHER, publisher.id, publisher.code, start))
        made.append(program)
        members.append(publisher)
    conversion_ids = [
        add_conversion(
            session,
            number=number + 1,
            program=made[number],
            publisher=members[number],
            at=at,
            order_id=f"ORDER-NUMBER-{number + 1}",
        )
        for number in (0, 1)
    ]
    return World(
        manager=_side(session, Role.MANAGER, None, "manager", start),
        advertisers=(advertisers[0], advertisers[1]),
        publishers=(sides[0], sides[1]),
        programs=(made[0], made[1]),
        conversion_ids=(conversion_ids[0], conversion_ids[1]),
        ordered_at=at,
    )


class Api:
    """The API as callers reach it."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.endpoints = partner_api.app.endpoints()
        self.app = Starlette(routes=partner_api.app.routes(()))
        self.app.state.context = context
        self.app.state.backlog = lambda _session: {
            "uploads_open": 3,
            "journal_bytes": 7,
            "outbox_pending": 2,
            "outbox_parked": 1,
        }
        self.http = TestClient(self.app, base_url="http://127.0.0.1:8000")

    def token(self, side: Side) -> str:
        """A token as `/oauth/token` signs it, without the cost of checking the secret."""
        with Session(self.context.engine) as session:
            client = session.get_one(ApiClient, side.client_id)
            claims = access.claims_of_client(client)
        return self.context.tokens.sign_access(
            subject=side.client_id, claims=claims, now=clock.now(), seconds=900
        )

    def as_(self, side: Side) -> dict[str, str]:
        """The header of this side."""
        return {"Authorization": f"Bearer {self.token(side)}"}

    def get(self, side: Side, path: str, **params: Any) -> Any:
        return self.http.get(path, params=params, headers=self.as_(side))

    def rows(self, side: Side, path: str, **params: Any) -> list[dict[str, Any]]:
        """Every row of a list, all pages of it."""
        found: list[dict[str, Any]] = []
        cursor: dict[str, Any] = {}
        while True:
            answer = self.get(side, path, **params, **cursor)
            assert answer.status_code == 200, answer.text
            document = answer.json()
            found += document["data"]
            if document["next_cursor"] is None:
                return found
            cursor = {"cursor": document["next_cursor"]}


def make_context(engine: Engine, settings: Settings, **limits: Any) -> Context:
    keys = load_keys(settings)
    return Context(
        settings=settings,
        engine=engine,
        keys=keys,
        tokens=Tokens(keys, issuer=settings.public_url),
        limiter=Limiter(requests_per_minute=limits.get("requests_per_minute", 10_000)),
    )
