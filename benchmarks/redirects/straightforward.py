"""A tracker as a competent developer writes it on a quiet afternoon: the honest baseline.

It does what ours does to a click: finds program, publisher and membership, refuses foreign deep
links, reads sub-ids of several dialects, knows robots, prefetching, countries and networks, makes
a signed click id, and has stored the click durably before it redirects. Everything by the library
that is made for it, one row and one commit a click.
"""

import hashlib
import hmac
import json
import re
import sys
import uuid
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import geoip2.database
import geoip2.errors
import uvicorn
from sqlalchemy import event
from sqlmodel import Field, Session, SQLModel, create_engine, select
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Route

KEY = b"a key of the benchmark, long enough to be one"
SUB_IDS = {
    "s1": ("s1", "clickref", "subid1", "sid", "u1", "aff_sub"),
    "s2": ("s2", "clickref2", "subid2", "aff_sub2"),
    "s3": ("s3", "clickref3", "subid3", "aff_sub3"),
    "s4": ("s4", "clickref4", "subid4", "aff_sub4"),
    "s5": ("s5", "clickref5", "aff_sub5"),
}


class Program(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    code: str = Field(index=True, unique=True)
    landing_url: str
    domain: str
    is_active: bool = True


class Publisher(SQLModel, table=True):
    id: int | None = Field(default=None, primary_key=True)
    code: str = Field(index=True, unique=True)


class Membership(SQLModel, table=True):
    program_id: int = Field(primary_key=True, foreign_key="program.id")
    publisher_id: int = Field(primary_key=True, foreign_key="publisher.id")


class Click(SQLModel, table=True):
    id: str = Field(primary_key=True)
    at: datetime = Field(index=True)
    program_id: int = Field(index=True)
    publisher_id: int = Field(index=True)
    landing_url: str
    sub_ids: str
    unbillable_reason: str
    address: str
    visitor_key: str
    user_agent: str
    is_bot: bool
    referrer: str
    accept_language: str
    sec_fetch_dest: str
    sec_fetch_mode: str
    country: str
    network: str


class Tracker:
    def __init__(self, folder: Path) -> None:
        self.engine = create_engine(f"sqlite:///{folder / 'straightforward.db'}")
        event.listen(self.engine, "connect", _durable)
        self.countries = geoip2.database.Reader(folder / "country.mmdb")
        self.networks = geoip2.database.Reader(folder / "asn.mmdb")
        words = (folder / "robots.txt").read_text().splitlines()
        self.robots = re.compile("|".join(re.escape(word) for word in words), re.IGNORECASE)
        SQLModel.metadata.create_all(self.engine)
        with Session(self.engine) as session:
            session.add(
                Program(code="shop", landing_url="https://shop.test/start", domain="shop.test")
            )
            session.add(Publisher(code="blog"))
            session.flush()
            session.add(Membership(program_id=1, publisher_id=1))
            session.commit()

    # Blocking calls in the loop: with SQLite beside it a thread a request only costs more.
    async def click(self, request: Request) -> Response:
        with Session(self.engine) as session:
            program = session.exec(
                select(Program).where(Program.code == request.path_params["program"])
            ).first()
            publisher = session.exec(
                select(Publisher).where(Publisher.code == request.path_params["publisher"])
            ).first()
            if program is None or publisher is None:
                return PlainTextResponse("not found", 404)
            is_member = session.get(Membership, (program.id, publisher.id)) is not None
            click = self._click(request, program, publisher, is_member=is_member)
            location = _with_click(click.landing_url, "" if click.unbillable_reason else click.id)
            session.add(click)
            session.commit()
        headers = {
            "Cache-Control": "no-store",
            "Referrer-Policy": "strict-origin-when-cross-origin",
            "X-Robots-Tag": "noindex",
        }
        return RedirectResponse(location, 302, headers)

    def _click(
        self, request: Request, program: Program, publisher: Publisher, *, is_member: bool
    ) -> Click:
        headers, query = request.headers, request.query_params
        address = request.client.host if request.client else ""
        agent = headers.get("user-agent", "")
        reason = ""
        if "prefetch" in headers.get("sec-purpose", headers.get("purpose", "")):
            reason = "prefetch"
        elif not program.is_active or not is_member:
            reason = "inactive"
        landing = program.landing_url
        wanted = query.get("url", "")
        if wanted and (urlsplit(wanted).hostname or "").endswith(program.domain):
            landing = wanted
        sub_ids = {
            slot: next((query[name] for name in names if name in query), "")
            for slot, names in SUB_IDS.items()
        }
        return Click(
            id=_sign(uuid.uuid4().hex),
            at=datetime.now(UTC),
            program_id=program.id or 0,
            publisher_id=publisher.id or 0,
            landing_url=landing,
            sub_ids=json.dumps(sub_ids),
            unbillable_reason=reason,
            address=address,
            visitor_key=hashlib.sha256(f"{address}{agent}".encode()).hexdigest(),
            user_agent=agent,
            is_bot=self.robots.search(agent) is not None,
            referrer=headers.get("referer", ""),
            accept_language=headers.get("accept-language", ""),
            sec_fetch_dest=headers.get("sec-fetch-dest", ""),
            sec_fetch_mode=headers.get("sec-fetch-mode", ""),
            country=self._country(address),
            network=self._network(address),
        )

    def _country(self, address: str) -> str:
        try:
            return self.countries.country(address).country.iso_code or ""
        except geoip2.errors.AddressNotFoundError:
            return ""

    def _network(self, address: str) -> str:
        try:
            return self.networks.asn(address).autonomous_system_organization or ""
        except geoip2.errors.AddressNotFoundError:
            return ""


def _durable(connection: object, _record: object) -> None:
    cursor = connection.cursor()  # type: ignore[attr-defined]  # the driver's connection
    cursor.execute("PRAGMA journal_mode=WAL")
    cursor.execute("PRAGMA synchronous=FULL")
    cursor.close()


def _sign(token: str) -> str:
    return token + hmac.new(KEY, token.encode(), hashlib.sha256).hexdigest()[:24]


def _with_click(page: str, click_id: str) -> str:
    parts = urlsplit(page)
    pairs = [pair for pair in parse_qsl(parts.query) if pair[0] != "ts_click"]
    if click_id:
        pairs.append(("ts_click", click_id))
    return urlunsplit(parts._replace(query=urlencode(pairs)))


if __name__ == "__main__":
    tracker = Tracker(Path(sys.argv[2]))
    uvicorn.run(
        Starlette(routes=[Route("/c/{program}/{publisher}", tracker.click)]),
        port=int(sys.argv[1]),
        http="httptools",
        loop="uvloop",
        lifespan="off",
        access_log=False,
        log_level="warning",
    )
