"""A small network, and a tracker that serves it: real journal, real database."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import Session, SQLModel, select
from starlette.applications import Starlette
from starlette.testclient import TestClient
from starlette.types import ASGIApp, Receive, Scope, Send

from kernel import clock, http, ratelimit
from kernel.database import connect, reading, unit_of_work
from kernel.ids import new_id
from kernel.keys import Keys, load
from kernel.settings import Settings
from kernel.tokens import Tokens
from network import access, programs, publishers
from network.models import ApiClient, MembershipStatus, Program, ProgramStatus, Role
from tests import make
from tracker import shipper
from tracker.click_core import is_link
from tracker.geo import GeoResolver
from tracker.http import ENDPOINTS, ROUTES, ClickApp
from tracker.models import Click
from tracker.node import TrackerNode, open_node

BROWSER = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/139.0.0.0 Safari/537.36"
)
PEER = "91.0.0.77"
_M = TypeVar("_M", bound=SQLModel)


@dataclass(frozen=True)
class World:
    """Two advertisers, three programs (one paused), a member and a stranger."""

    shop_id: str
    shop_number: int
    other_id: str
    other_number: int
    paused_id: str
    blog_id: str
    blog_number: int
    stranger_id: str
    stranger_number: int
    advertiser_id: str
    token: str
    other_token: str
    manager: str
    advertiser: str
    twin_advertiser: str
    publisher: str


@pytest.fixture(scope="session")
def geo() -> GeoResolver:
    return GeoResolver(None)


@pytest.fixture
def keys(settings: Settings) -> Keys:
    return load(settings)


@pytest.fixture
def tokens(keys: Keys) -> Tokens:
    return Tokens(keys, issuer="http://tracker.test")


@pytest.fixture
def make_world(tokens: Tokens) -> Callable[[Engine], World]:
    def make(engine: Engine) -> World:
        with unit_of_work(engine) as session:
            return _make(session, tokens, clock.now())

    return make


def _make(session: Session, tokens: Tokens, now: datetime) -> World:
    acme = programs.add_advertiser(session, name="Acme", now=now)
    bolt = programs.add_advertiser(session, name="Bolt", now=now)

    def program(code: str, advertiser: str, currency: str, landing: str) -> Program:
        return programs.add(
            session,
            advertiser_id=advertiser,
            code=code,
            name=code,
            currency=currency,
            landing_url=landing,
            now=now,
        )

    shop = program("shop", acme.id, "EUR", "https://shop.test/start?ref=1#top")
    other = program(
        "other", bolt.id, "JPY", "https://other.test/{publisher}?cid={click_id}&sub={s1}"
    )
    paused = program("paused", bolt.id, "EUR", "https://paused.test/")
    programs.set_status(session, paused, status=ProgramStatus.PAUSED, actor="t", now=now)
    blog = publishers.add(session, code="blog", name="Blog", now=now)
    stranger = publishers.add(session, code="stranger", name="Stranger", now=now)
    for one in (shop, other, paused):
        publishers.set_membership(
            session,
            program=one,
            publisher=blog,
            status=MembershipStatus.APPROVED,
            actor="t",
            now=now,
        )

    def bearer(role: Role, party_id: str | None) -> str:
        # Without `access.add_client`: its password hash would take most of the suite's time.
        client = ApiClient(
            id=new_id("cli", at=now),
            name=str(role),
            secret_hash="none",
            role=role,
            party_id=party_id,
            created_at=now,
        )
        session.add(client)
        return tokens.sign_access(
            subject=client.id, claims=access.claims_of_client(client), now=now, seconds=900
        )

    return World(
        shop_id=shop.id,
        shop_number=shop.number,
        other_id=other.id,
        other_number=other.number,
        paused_id=paused.id,
        blog_id=blog.id,
        blog_number=blog.number,
        stranger_id=stranger.id,
        stranger_number=stranger.number,
        advertiser_id=acme.id,
        token=access.add_postback_token(session, program=shop, actor="t", now=now),
        other_token=access.add_postback_token(session, program=other, actor="t", now=now),
        manager=bearer(Role.MANAGER, None),
        advertiser=bearer(Role.ADVERTISER, acme.id),
        twin_advertiser=bearer(Role.ADVERTISER, bolt.id),
        publisher=bearer(Role.PUBLISHER, blog.id),
    )


class Tracker:
    """A served tracker and the database behind it."""

    def __init__(
        self, client: TestClient, app: Starlette, engine: Engine, settings: Settings
    ) -> None:
        self.http = client
        self.engine = engine
        self.settings = settings
        self._app = app

    @property
    def node(self) -> TrackerNode:
        node: TrackerNode = self._app.state.node
        return node

    def get(self, path: str, **headers: str) -> "Answer":
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        answer = self.http.get(path, headers={"user-agent": BROWSER, **sent})
        return Answer(answer.status_code, dict(answer.headers), answer.text)

    def ship(self, geo: GeoResolver | None = None, now: datetime | None = None) -> shipper.Shipped:
        return shipper.ship_all(
            self.engine,
            self.settings.data_dir / "journal",
            keys=self.node.keys,
            geo=geo or GeoResolver(None),
            settings=self.settings,
            now=now or clock.now(),
        )

    def api(self, bearer: str, path: str, body: object) -> Any:
        return self.http.post(path, json=body, headers={"authorization": f"Bearer {bearer}"})

    def run(self, function: Callable[..., Awaitable[Any]], *arguments: object) -> Any:
        assert self.http.portal is not None
        return self.http.portal.call(function, *arguments)

    def rows(self, model: type[_M]) -> list[_M]:
        if issubclass(model, Click):
            return cast("list[_M]", make.clicks(self.engine))
        with reading(self.engine) as session:
            return list(session.exec(select(model)))


@dataclass(frozen=True)
class Answer:
    status: int
    headers: dict[str, str]
    text: str

    @property
    def location(self) -> str:
        return self.headers["location"]


Serve = Callable[..., Tracker]


@pytest.fixture
def serve(settings: Settings, keys: Keys, tokens: Tokens) -> Iterator[Serve]:
    """Opens trackers; each is stopped when the test ends."""
    with ExitStack() as opened:

        def start(engine: Engine, peer: str = PEER, **changes: object) -> Tracker:
            used = settings.model_copy(update=changes)
            app, front = _application(used, engine, keys, tokens)
            client = TestClient(front, client=(peer, 40000), follow_redirects=False)
            opened.enter_context(client)
            return Tracker(client, app, engine, used)

        yield start


def _application(
    settings: Settings, engine: Engine, keys: Keys, tokens: Tokens
) -> tuple[Starlette, ASGIApp]:
    clicks: list[ClickApp] = []

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        app.state.node = await open_node(settings=settings, engine=engine, keys=keys, tokens=tokens)
        clicks.append(ClickApp(app.state.node))
        yield
        await app.state.node.close()

    app = Starlette(
        routes=[*ROUTES, *(http.route(endpoint) for endpoint in ENDPOINTS)], lifespan=lifespan
    )
    app.state.context = http.Context(
        settings=settings,
        engine=engine,
        keys=keys,
        tokens=tokens,
        limiter=ratelimit.Limiter(requests_per_minute=100_000),
    )

    async def front(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and is_link(scope["path"]):
            await clicks[-1](scope, receive, send)
        else:
            await app(scope, receive, send)

    return app, front


@pytest.fixture
def world(sqlite_engine: Engine, make_world: Callable[[Engine], World]) -> World:
    return make_world(sqlite_engine)


@pytest.fixture
def tracker(sqlite_engine: Engine, world: World, serve: Serve) -> Tracker:  # noqa: ARG001 - the network must be there first
    return serve(sqlite_engine)


@pytest.fixture
def dead_engine() -> Iterator[Engine]:
    """A database that nobody answers for: port 1 refuses at once."""
    engine = connect("postgresql://nobody@127.0.0.1:1/nothing")
    yield engine
    engine.dispose()


@pytest.fixture
def journal_folder(settings: Settings) -> Path:
    return settings.data_dir / "journal"
