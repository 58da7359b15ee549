"""The tag in a real Chromium: a shop's pages on one origin, the tracker on another."""

import base64
import hashlib
import http.server
import json
import shutil
import socket
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
import uvicorn
from playwright.sync_api import BrowserContext, Page, sync_playwright
from sqlalchemy.engine import Engine
from sqlmodel import select

from fraud.evidence import Evidence
from fraud.signals import embedded_click
from kernel import clock
from kernel.database import reading, unit_of_work
from kernel.keys import Keys
from kernel.settings import Settings
from kernel.tokens import Tokens
from network import programs, publishers
from network.models import MembershipStatus, Program, Publisher, TagOrders
from tests import make
from tests.conftest import REQUIRE_SERVICES
from tests.tracker.conftest import _application
from tracker import attribution, shipper
from tracker.click_ids import ClickIdSigner
from tracker.customers import CustomerKeys
from tracker.geo import GeoResolver
from tracker.models import Click, Conversion
from tracker.node import click_id_signer

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
START_SECONDS_MAX = 20
SALE = {"order_id": "A-1", "amount": "12.50", "currency": "EUR"}

pytestmark = pytest.mark.browser


@dataclass
class Shop:
    """The merchant's server: pages by path, and an endpoint that keeps click ids."""

    address: str = ""
    pages: dict[str, str] = field(default_factory=dict)
    policy: str = ""
    seen: list[tuple[str, str, str]] = field(default_factory=list)


@dataclass
class Scene:
    """The shop, the tracker, and what is behind it."""

    shop: Shop
    tracker: str
    engine: Engine
    settings: Settings
    keys: Keys
    signer: ClickIdSigner

    def page(self, attributes: str = "", body: str = "", head: str = "") -> str:
        """The address of a new page of the shop with the tag."""
        path = f"/p{len(self.shop.pages)}"
        self.shop.pages[path] = (
            f"<!doctype html><title>Shop</title>{head}"
            f'<script src="{self.tracker}/tag.js" data-program="tagged" {attributes}></script>'
            f"{body}"
        )
        return self.shop.address + path

    def ship(self) -> shipper.Shipped:
        return shipper.ship_all(
            self.engine,
            self.settings.data_dir / "journal",
            keys=self.keys,
            geo=GeoResolver(None),
            settings=self.settings,
            now=clock.now(),
        )

    def clicks(self) -> list[Click]:
        self.ship()
        return sorted(make.clicks(self.engine), key=lambda click: click.at)

    def conversions(self) -> list[Conversion]:
        self.ship()
        with reading(self.engine) as session:
            return list(session.exec(select(Conversion)))

    def click_id(self, publisher: str) -> str:
        """A click id as an ordinary link gives it, younger than every one before it."""
        time.sleep(0.002)  # its time is in milliseconds, and the youngest click decides
        with reading(self.engine) as session:
            program = session.exec(select(Program).where(Program.code == "tagged")).one()
            named = session.exec(select(Publisher).where(Publisher.code == publisher)).one()
        return self.signer.mint(
            at=clock.now(), program_number=program.number, publisher_number=named.number
        )

    def publisher_of(self, conversion: Conversion) -> str | None:
        """The code of the publisher that the order is attributed to."""
        with unit_of_work(self.engine) as session:
            decided = attribution.attribute(
                session,
                conversion.id,
                signer=self.signer,
                keys=CustomerKeys(b"customers of these tests"),
                now=clock.now(),
            )
            if decided.publisher_id is None:
                return None
            return session.get_one(Publisher, decided.publisher_id).code


@pytest.fixture
def shop() -> Iterator[Shop]:
    made = Shop()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self._say(made.pages.get(self.path.partition("?")[0], ""), {})

        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"])).decode()
            cookie = self.headers.get("Cookie", "")
            made.seen.append((self.path, content, cookie))
            if self.path != "/keep-click":
                self.send_error(500)
                return
            kept = cookie.partition("ts_clicks=")[2].partition(";")[0]
            ids = [one for one in kept.split("~") if one]
            value = "~".join([*ids, json.loads(content)["click_id"]])
            self._say("", {"Set-Cookie": f"ts_clicks={value}; Path=/; HttpOnly; SameSite=Lax"})

        def _say(self, text: str, headers: dict[str, str]) -> None:
            content = text.encode()
            self.send_response(200)
            for name, value in headers.items():
                self.send_header(name, value)
            if made.policy:
                self.send_header("Content-Security-Policy", made.policy)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_arguments: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        made.address = f"http://shop.localhost:{server.server_address[1]}"
        yield made
        server.shutdown()
        thread.join()


@pytest.fixture
def scene(
    settings: Settings, sqlite_engine: Engine, keys: Keys, tokens: Tokens, shop: Shop
) -> Iterator[Scene]:
    _add_network(sqlite_engine, shop.address)
    _, front = _application(settings, sqlite_engine, keys, tokens)
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    server = uvicorn.Server(uvicorn.Config(front, log_level="error"))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    deadline = time.monotonic() + START_SECONDS_MAX
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.02)
    yield Scene(
        shop,
        f"http://tracker.localhost:{listening.getsockname()[1]}",
        sqlite_engine,
        settings,
        keys,
        click_id_signer(keys),
    )
    server.should_exit = True
    thread.join()
    listening.close()


def _add_network(engine: Engine, address: str) -> None:
    now = clock.now()
    with unit_of_work(engine) as session:
        advertiser = programs.add_advertiser(session, name="Shop", now=now)
        program = programs.add(
            session,
            advertiser_id=advertiser.id,
            code="tagged",
            name="Tagged",
            currency="EUR",
            landing_url=f"{address}/",
            tag_orders=TagOrders.PENDING,
            now=now,
        )
        for code in ("blog", "news"):
            publishers.set_membership(
                session,
                program=program,
                publisher=publishers.add(session, code=code, name=code, now=now),
                status=MembershipStatus.APPROVED,
                actor="t",
                now=now,
            )


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    found = shutil.which("chromium")
    if found is None:
        if REQUIRE_SERVICES:
            pytest.fail("no chromium on the path")
        pytest.skip("no chromium on the path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=list(ARGUMENTS))
        yield browser
        browser.close()


@pytest.fixture
def context(chromium: Any) -> Iterator[BrowserContext]:
    made = chromium.new_context()
    yield made
    made.close()


@pytest.fixture
def page(context: BrowserContext) -> Page:
    return context.new_page()


def cookie(context: BrowserContext, name: str = "ts_clicks") -> Any:
    return next((one for one in context.cookies() if one["name"] == name), None)


def wait_for_cookie(page: Page, count: int = 1) -> list[str]:
    """The ids in the cookie, once there are so many."""
    page.wait_for_function(
        "count => (document.cookie.split('ts_clicks=')[1] || '').split(';')[0]"
        ".split('~').filter(Boolean).length === count",
        arg=count,
    )
    value: str = cookie(page.context)["value"]
    return value.split("~")


def report(page: Page, order: dict[str, Any] | None = None) -> int:
    """Report an order from the page; the status that the tracker answers with."""
    with page.expect_response("**/tag/conversion") as told:
        page.evaluate("order => tallystick('sale', order)", order or SALE)
    return told.value.status


def test_a_click_id_in_the_address_is_kept_on_the_shop_s_own_domain(
    scene: Scene, page: Page, context: BrowserContext
) -> None:
    click_id = scene.click_id("blog")
    called: list[str] = []
    page.on("request", lambda request: called.append(request.url))
    page.goto(f"{scene.page()}?ts_click={click_id}&ts_pub=news")

    assert wait_for_cookie(page) == [click_id]
    kept = cookie(context)
    assert (kept["domain"], kept["path"]) == ("shop.localhost", "/")
    assert (kept["sameSite"], kept["httpOnly"], kept["secure"]) == ("Lax", False, False)
    days = (kept["expires"] - time.time()) / 86400
    assert 29.9 < days < 30.1
    # The id is proof enough: the publisher named beside it is not asked about.
    assert scene.clicks() == []
    assert report(page) == 202
    (sold,) = scene.conversions()
    assert (sold.click_id, sold.channel, sold.amount_minor) == (click_id, "tag", 1250)
    assert scene.publisher_of(sold) == "blog"
    own = (scene.shop.address, scene.tracker)
    assert [one for one in called if not one.startswith(own)] == []


def test_a_page_linked_to_directly_is_a_click_of_its_publisher(
    scene: Scene, page: Page, context: BrowserContext
) -> None:
    address = scene.page()
    page.goto(f"{address}?ts_pub=news&s1=a%20b&other=1#x", referer="https://news.test/")

    (click_id,) = wait_for_cookie(page)
    (click,) = scene.clicks()
    assert (click.id, click.unbillable_reason) == (click_id, "")
    assert (click.landing_url, click.sub_ids) == (address, {"s1": "a b"})
    assert click.parameters["ts_note"] == "tag"
    assert page.url.endswith("?ts_pub=news&s1=a%20b&other=1#x")
    # The same visit again is the same visit.
    page.reload()
    assert report(page) == 202
    assert len(scene.clicks()) == 1
    (sold,) = scene.conversions()
    assert scene.publisher_of(sold) == "news"
    assert [one["name"] for one in context.cookies()] == ["ts_clicks"]


def test_clicks_are_kept_in_their_order_and_the_oldest_goes_first(scene: Scene, page: Page) -> None:
    ids = [scene.click_id("news" if at % 2 else "blog") for at in range(5)]
    address = scene.page('data-keep="3"')
    for at, click_id in enumerate(ids):
        page.goto(f"{address}?ts_click={click_id}")
        assert wait_for_cookie(page, min(at + 1, 3)) == ids[max(0, at - 2) : at + 1]
    # An old address that is opened again does not make its click younger.
    page.goto(f"{address}?ts_click={ids[3]}")
    assert wait_for_cookie(page, 3) == ids[2:]
    for other in ("short", "x" * 51 + "%0A", "x" * 52 + "~", ""):
        page.goto(f"{address}?ts_click={other}")
    assert wait_for_cookie(page, 3) == ids[2:]

    assert report(page) == 202
    (sold,) = scene.conversions()
    assert (sold.click_id, sold.click_ids) == (ids[4], ids[2:4])
    assert scene.publisher_of(sold) == "blog"


@pytest.mark.parametrize("attribute", ['data-clean="1"', "data-clean"])
def test_the_address_bar_is_left_alone_unless_the_shop_wants_it_clean(
    scene: Scene, page: Page, attribute: str
) -> None:
    address = scene.page(attribute)
    page.goto(f"{address}?a=1&ts_pub=blog&s1=x&b=2#part")

    wait_for_cookie(page)
    assert page.url == f"{address}?a=1&b=2#part"
    assert scene.clicks()[0].sub_ids == {"s1": "x"}


@pytest.mark.parametrize("how", ["attribute", "gpc", "link"])
def test_without_consent_nothing_is_stored_and_no_id_is_sent(
    scene: Scene, page: Page, context: BrowserContext, how: str
) -> None:
    if how == "gpc":
        page.add_init_script(
            "Object.defineProperty(navigator, 'globalPrivacyControl', {get: () => true})"
        )
    address = scene.page('data-consent="denied"' if how == "attribute" else "")
    with page.expect_response("**/tag/click") as told:
        page.goto(f"{address}?ts_pub=blog" + ("&cons=0" if how == "link" else ""))
    assert told.value.json() == {"click_id": None, "reason": "no_consent"}
    if how != "link":
        page.goto(f"{address}?ts_click={scene.click_id('blog')}")
    assert page.evaluate("new Promise(ok => tallystick('clicks', ok))") == []
    assert report(page) == 202

    assert context.cookies() == []
    assert page.evaluate("localStorage.length + sessionStorage.length") == 0
    (click,) = scene.clicks()
    assert (click.unbillable_reason, click.address, click.user_agent) == ("no_consent", "", "")
    (sold,) = scene.conversions()
    assert (sold.click_id, sold.click_ids) == (None, [])
    if how == "gpc":
        # The page cannot overrule the browser.
        page.evaluate("tallystick('consent', true)")
        assert page.evaluate("new Promise(ok => tallystick('clicks', ok))") == []
        assert context.cookies() == []


def test_consent_may_come_later_and_be_taken_back(
    scene: Scene, page: Page, context: BrowserContext
) -> None:
    address = scene.page("data-consent=denied")
    page.goto(f"{address}?ts_pub=blog")
    assert context.cookies() == []
    page.evaluate("tallystick('consent', true)")

    (click_id,) = wait_for_cookie(page)
    assert [one.unbillable_reason for one in scene.clicks()] == ["no_consent", ""]
    assert scene.clicks()[1].id == click_id
    page.evaluate("tallystick('consent', false)")
    assert context.cookies() == []
    assert report(page) == 202
    assert scene.conversions()[0].click_id is None
    assert len(scene.clicks()) == 2


TCF = (
    "<script>window.__tcfapi = function (command, version, told) {"
    " window.tell = function (data) { told(data, true); }; };</script>"
)


@pytest.mark.parametrize(
    ("data", "stores"),
    [
        ({"eventStatus": "tcloaded", "purpose": {"consents": {"1": True}}}, True),
        ({"eventStatus": "useractioncomplete", "purpose": {"consents": {"1": True}}}, True),
        ({"eventStatus": "tcloaded", "gdprApplies": False}, True),
        ({"eventStatus": "tcloaded", "purpose": {"consents": {"1": False, "7": True}}}, False),
        ({"eventStatus": "tcloaded", "gdprApplies": True}, False),
    ],
)
def test_a_consent_platform_is_asked_first(
    scene: Scene, page: Page, context: BrowserContext, *, data: dict[str, Any], stores: bool
) -> None:
    click_id = scene.click_id("blog")
    page.goto(f"{scene.page(head=TCF)}?ts_click={click_id}")
    page.evaluate("tell({eventStatus: 'cmpuishown', purpose: {consents: {1: true}}})")
    assert context.cookies() == []

    page.evaluate("data => tell(data)", data)
    ids = page.evaluate("new Promise(ok => tallystick('clicks', ok))")
    assert ids == ([click_id] if stores else [])
    assert (cookie(context) is not None) == stores


def test_a_vendor_s_consent_is_asked_for_by_its_number(
    scene: Scene, page: Page, context: BrowserContext
) -> None:
    click_id = scene.click_id("blog")
    address = scene.page("data-tcf-vendor=77", head=TCF)
    page.goto(f"{address}?ts_click={click_id}")
    told: dict[str, Any] = {"eventStatus": "tcloaded", "purpose": {"consents": {"1": True}}}
    page.evaluate("data => tell(data)", told | {"vendor": {"consents": {"76": True}}})
    assert context.cookies() == []
    page.evaluate("data => tell(data)", told | {"vendor": {"consents": {"77": True}}})
    assert wait_for_cookie(page) == [click_id]


def test_a_strict_policy_stops_nothing(scene: Scene, page: Page) -> None:
    scene.shop.policy = (
        f"default-src 'none'; script-src {scene.tracker}; connect-src {scene.tracker}; "
        "require-trusted-types-for 'script'; report-uri /csp"
    )
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    block = f'<script type="application/json" data-tallystick="sale">{json.dumps(SALE)}</script>'
    with page.expect_response("**/tag/conversion") as told:
        page.goto(f"{scene.page(body=block)}?ts_pub=blog")

    assert told.value.status == 202
    (click_id,) = cookie(page.context)["value"].split("~")
    (sold,) = scene.conversions()
    # The order waited for the click of the same page.
    assert sold.click_id == click_id
    assert scene.publisher_of(sold) == "blog"
    assert [one for one in said if "favicon" not in one] == []
    assert scene.shop.seen == []


def test_a_copy_of_the_shop_s_own_may_be_pinned(scene: Scene, page: Page) -> None:
    with page.expect_response("**/tag.js") as fetched:
        page.goto(scene.page())
    digest = base64.b64encode(hashlib.sha384(fetched.value.body()).digest()).decode()
    for path, pinned, works in (("/good", digest, True), ("/bad", digest[::-1], False)):
        scene.shop.pages[path] = (
            f'<!doctype html><script src="{scene.tracker}/tag.js" data-program="tagged" '
            f'integrity="sha384-{pinned}" crossorigin></script>'
        )
        page.goto(scene.shop.address + path)
        assert page.evaluate("typeof window.tallystick === 'function'") == works


def test_calls_before_the_tag_is_there_are_kept(scene: Scene, page: Page) -> None:
    early = (
        "<script>window.tallystick = function () {"
        " (tallystick.q = tallystick.q || []).push(arguments); };"
        f"tallystick('lead', {json.dumps(SALE)});</script>"
    )
    with page.expect_response("**/tag/conversion") as told:
        page.goto(f"{scene.page(head=early)}?ts_pub=news")
    assert told.value.status == 202
    (sold,) = scene.conversions()
    assert sold.event == "lead"
    assert scene.publisher_of(sold) == "news"


def test_the_shop_s_server_keeps_clicks_where_no_script_reads_them(
    scene: Scene, page: Page, context: BrowserContext
) -> None:
    address = scene.page('data-cookie-endpoint="/keep-click"')
    first = scene.click_id("blog")
    with page.expect_response("**/keep-click"):
        page.goto(f"{address}?ts_click={first}")
    with page.expect_response("**/keep-click"):
        page.goto(f"{address}?ts_pub=news")

    second = scene.clicks()[0].id
    kept = cookie(context)
    assert (kept["value"], kept["httpOnly"]) == (f"{first}~{second}", True)
    assert page.evaluate("document.cookie") == ""
    assert [json.loads(content) for _, content, _ in scene.shop.seen] == [
        {"click_id": first},
        {"click_id": second},
    ]


def test_when_the_shop_s_server_fails_the_tag_keeps_the_click(scene: Scene, page: Page) -> None:
    click_id = scene.click_id("blog")
    address = scene.page("data-cookie-endpoint=/broken")
    page.goto(f"{address}?ts_click={click_id}")

    assert wait_for_cookie(page) == [click_id]
    assert [path for path, _, _ in scene.shop.seen] == ["/broken"]


def test_a_click_that_was_made_up_earns_nobody_anything(
    scene: Scene, page: Page, context: BrowserContext
) -> None:
    genuine = scene.click_id("blog")
    forged = genuine[:-1] + ("A" if genuine[-1] != "A" else "B")
    page.goto(scene.page())
    context.add_cookies([{"name": "ts_clicks", "value": forged, "url": scene.shop.address}])
    assert report(page) == 202

    (sold,) = scene.conversions()
    assert sold.click_id == forged
    assert scene.publisher_of(sold) is None
    with unit_of_work(scene.engine) as session:
        decided = attribution.attribute(
            session,
            sold.id,
            signer=scene.signer,
            keys=CustomerKeys(b"customers of these tests"),
            now=clock.now(),
        )
        assert decided.reason == "click_id_forged"


def test_a_page_stuffed_into_a_frame_is_seen_as_what_it_is(scene: Scene, page: Page) -> None:
    scene.shop.pages["/stuffing"] = (
        f'<!doctype html><iframe hidden src="{scene.page()}?ts_pub=blog"></iframe>'
    )
    with page.expect_response("**/tag/click") as told:
        page.goto(scene.shop.address.replace("shop.localhost", "blog.localhost") + "/stuffing")

    assert told.value.status == 200
    (click,) = scene.clicks()
    assert click.sec_fetch_dest == "iframe"
    assert embedded_click.find(Evidence(sec_fetch_dest=click.sec_fetch_dest)) is not None


def test_another_site_s_page_is_not_believed(scene: Scene, page: Page) -> None:
    address = scene.page().replace("shop.localhost", "evil.localhost")
    said: list[str] = []
    page.on("console", lambda message: said.append(message.text))
    with page.expect_event("requestfailed"):
        page.goto(f"{address}?ts_pub=blog")
    assert any("CORS" in one for one in said)
    assert scene.clicks() == []
    assert page.evaluate("document.cookie") == ""


def test_an_unknown_publisher_leaves_no_trace_and_no_error(scene: Scene, page: Page) -> None:
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    with page.expect_response("**/tag/click") as told:
        page.goto(f"{scene.page()}?ts_pub=nobody")
    assert told.value.status == 404
    assert page.evaluate("new Promise(ok => tallystick('clicks', ok))") == []
    assert (scene.clicks(), errors, page.evaluate("document.cookie")) == ([], [], "")
