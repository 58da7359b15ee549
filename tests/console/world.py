"""A small network with everything a page can show, and a person at its console."""

import re
from dataclasses import dataclass
from datetime import datetime, timedelta
from html import unescape
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session
from starlette.applications import Starlette
from starlette.testclient import TestClient

from commissions import accruals
from commissions.models import Commission
from console import app as console_app
from fraud import assessments, flags
from kernel import clock, keys, ratelimit
from kernel.database import unit_of_work
from kernel.http import Context
from kernel.settings import Settings
from kernel.tokens import Tokens
from network import access
from network.models import Advertiser, Program, Publisher, Role
from tests import make
from tracker.models import Conversion, IntakeRefusal

PASSWORD = "correct horse battery staple"
HOSTILE = "<script>alert(1)</script>\"'&"
EMAILS = {
    "manager": "mina@network.example",
    "second": "sven@network.example",
    "publisher": "paula@site.example",
    "advertiser": "ada@shop.example",
}


@dataclass(frozen=True, slots=True)
class World:
    """What the tests look for. `other_*` belong to nobody who signs in but managers."""

    engine: Engine
    advertiser: Advertiser
    program: Program
    publisher: Publisher
    pending: Conversion
    held: Conversion
    payable: Conversion
    unattributed: Conversion
    other_program: Program
    other_publisher: Publisher
    other: Conversion
    flag_id: str


def _sale(session: Session, of: Program, who: Publisher | None, **facts: Any) -> Conversion:
    """A sale worked as the pipeline does it: assessed, then accrued."""
    made = make.conversion(session, of, who, **facts)
    now = made.received_at
    assessments.assess(session, made.id, now=now)
    flag = flags.find_open(session, made.id)
    accruals.accrue(session, made.id, hold_reason="fraud_suspected" if flag else None, now=now)
    return made


def _users(session: Session, publisher: Publisher, advertiser: Advertiser, now: datetime) -> None:
    parties = {
        "manager": (Role.MANAGER, None),
        "second": (Role.MANAGER, None),
        "publisher": (Role.PUBLISHER, publisher.id),
        "advertiser": (Role.ADVERTISER, advertiser.id),
    }
    for name, (role, party_id) in parties.items():
        access.add_user(
            session,
            email=EMAILS[name],
            name=name.capitalize(),
            password=PASSWORD,
            role=role,
            party_id=party_id,
            actor="system",
            now=now,
        )


def build(engine: Engine) -> World:
    now = clock.now()
    with unit_of_work(engine) as session:
        shop = make.advertiser(session, name="Lumen Outdoor")
        program = make.program(
            session, of=shop, name="Lumen EU", code="lumen", timezone="Europe/Berlin"
        )
        site = make.publisher(session, member_of=program, name=f"Trail {HOSTILE}", code="trail")
        other_program = make.program(session, name="Kōri Tea", currency="JPY", code="kori")
        other_site = make.publisher(session, member_of=other_program, name="Tea Diary")
        _users(session, site, shop, now)
        for one in (program, other_program):
            make.plan(session, one, effective_from=now - timedelta(days=200))
        clicked = make.click(
            session, program, site, at=now - timedelta(days=2), sub_ids={"s1": HOSTILE}
        )
        robot = make.click(
            session,
            program,
            site,
            at=now - timedelta(days=1, seconds=1),
            user_agent="Googlebot/2.1",
            agent_class="bot",
        )
        pending = _sale(
            session,
            program,
            site,
            clicked=clicked,
            order_id=f"A-{HOSTILE}",
            country="DE",
            occurred_at=now - timedelta(days=1, hours=20),
            items=[{"sku": HOSTILE, "category": "boots", "amount_minor": 10_000}],
        )
        held = _sale(
            session,
            program,
            site,
            clicked=robot,
            order_id="B-2",
            amount_minor=25_050,
            occurred_at=now - timedelta(days=1),
        )
        payable = _sale(
            session,
            program,
            site,
            order_id="C-3",
            amount_minor=123_456,
            occurred_at=now - timedelta(days=40),
        )
        unattributed = _sale(
            session, program, None, order_id="D-4", occurred_at=now - timedelta(hours=5)
        )
        other = _sale(
            session,
            other_program,
            other_site,
            order_id="X-9",
            amount_minor=9_800,
            occurred_at=now - timedelta(days=3),
        )
        accruals.sweep(session, now=now, rows_max=100)
        accruals.sweep(session, now=now, rows_max=100)
        for of, order in ((program, "R-1"), (other_program, "R-2")):
            session.add(
                IntakeRefusal(
                    id=f"rfs_{order}",
                    program_id=of.id,
                    order_id=order,
                    code="order_conflict",
                    detail=f"contradicts {HOSTILE}",
                    payload={},
                    at=now - timedelta(hours=1),
                )
            )
        flag = flags.find_open(session, held.id)
        assert flag is not None
        return World(
            engine=engine,
            advertiser=shop,
            program=program,
            publisher=site,
            pending=pending,
            held=held,
            payable=payable,
            unattributed=unattributed,
            other_program=other_program,
            other_publisher=other_site,
            other=other,
            flag_id=flag.id,
        )


def application(settings: Settings, engine: Engine) -> Starlette:
    app = Starlette(routes=console_app.routes())
    own_keys = keys.load(settings)
    app.state.context = Context(
        settings=settings,
        engine=engine,
        keys=own_keys,
        tokens=Tokens(own_keys, issuer=settings.public_url),
        limiter=ratelimit.Limiter(requests_per_minute=10_000),
    )
    return app


def status_of(engine: Engine, conversion: Conversion) -> str:
    with engine.connect() as connection:
        table = Commission.metadata.tables["commission"]
        query = sa.select(table.c.status).where(table.c.conversion_id == conversion.id)
        return str(connection.execute(query).scalar_one())


class Browser:
    """A person at the console: signs in, opens pages, sends the forms that are on them."""

    def __init__(self, client: TestClient) -> None:
        self.client = client

    def sign_in(self, name: str, *, password: str = PASSWORD) -> Any:
        return self.send("/sign-in", on="/sign-in", email=EMAILS[name], password=password)

    def open(self, path: str, **headers: str) -> Any:
        return self.client.get(path, headers=headers)

    def send(
        self, path: str, *, on: str, headers: dict[str, str] | None = None, **fields: str
    ) -> Any:
        """Send a form with the token of the page it is on."""
        return self.client.post(
            path, data={"csrf_token": self.token(on), **fields}, headers=headers or {}
        )

    def token(self, path: str) -> str:
        found = re.search(r'name="csrf_token" value="([^"]+)"', self.open(path).text)
        assert found is not None
        return unescape(found.group(1))
