"""The whole application in one process: what it answers where nothing, or too much, is asked."""

import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy.engine import Engine
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.testclient import TestClient

from kernel.database import unit_of_work
from kernel.settings import Settings
from network.models import RoutingVersion
from server import app, ops
from tests import make
from tests.conftest import REPOSITORY
from tracker.models import Link

NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"
PROBLEM = "application/problem+json"


@pytest.fixture
def client(settings: Settings, sqlite_url: str) -> Iterator[TestClient]:
    assert sqlite_url.endswith("var/tallystick.db")
    with TestClient(app.build(settings), follow_redirects=False) as opened:
        yield opened


@pytest.mark.parametrize("path", ["/v1/nothing", "/v1/conversions/x/nothing", "/nothing", "/.env"])
def test_an_unknown_address_is_a_problem_document(client: TestClient, path: str) -> None:
    answer = client.get(path)

    assert (answer.status_code, answer.headers["content-type"]) == (404, PROBLEM)
    document = answer.json()
    assert (document["code"], document["status"], document["instance"]) == ("not_found", 404, path)
    assert document["type"] == "/docs/errors#not_found"


def test_a_person_at_an_unknown_address_gets_a_page(client: TestClient) -> None:
    accept = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}

    page = client.get("/nothing", headers={**accept, "Accept-Language": "zh-CN"})
    data = client.get("/v1/nothing", headers=accept)

    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    assert 'lang="zh-Hans"' in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert (data.status_code, data.headers["content-type"]) == (404, PROBLEM)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/v1/status", {"GET", "HEAD"}),
        ("PUT", "/postback", {"GET", "HEAD", "POST"}),
        ("POST", "/healthz", {"GET", "HEAD"}),
        ("GET", "/sign-out", {"POST"}),
    ],
)
def test_another_method_is_refused_with_those_there_are(
    client: TestClient, method: str, path: str, allowed: set[str]
) -> None:
    answer = client.request(method, path)

    assert (answer.status_code, answer.headers["content-type"]) == (405, PROBLEM)
    assert answer.json()["code"] == "method_not_allowed"
    assert {name.strip() for name in answer.headers["allow"].split(",")} == allowed


def test_every_method_of_a_path_is_named(client: TestClient) -> None:
    answer = client.delete("/v1/conversions")

    assert answer.status_code == 405
    allowed = {name.strip() for name in answer.headers["allow"].split(",")}
    assert allowed == {"GET", "HEAD", "POST"}


def test_an_unexpected_error_says_nothing_about_itself(
    settings: Settings, sqlite_url: str, monkeypatch: pytest.MonkeyPatch, capfd: Any
) -> None:
    assert sqlite_url

    async def broken(_request: Request) -> Response:
        raise RuntimeError("the password is swordfish")

    monkeypatch.setattr(ops, "ROUTES", [*ops.ROUTES, Route("/broken", broken)])
    with TestClient(app.build(settings), raise_server_exceptions=False) as client:
        answer = client.get("/broken")

    assert (answer.status_code, answer.headers["content-type"]) == (500, PROBLEM)
    assert answer.json() == {
        "type": "/docs/errors#unexpected_error",
        "title": "This should not have happened",
        "status": 500,
        "code": "unexpected_error",
        "detail": "This should not have happened",
        "instance": "/broken",
    }
    capfd.readouterr()


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/healthz", 200),
        ("/metrics", 200),
        ("/docs", 200),
        ("/openapi.json", 200),
        ("/.well-known/jwks.json", 200),
        ("/sign-in", 200),
        ("/static/console.css", 200),
        ("/pixel.gif", 200),
        ("/console", 303),
        ("/v1/conversions", 401),
        ("/postback", 401),
        ("/nothing", 404),
    ],
)
def test_no_answer_may_be_sniffed_or_give_away_where_it_came_from(
    client: TestClient, path: str, status: int
) -> None:
    answer = client.get(path)

    assert answer.status_code == status
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] in {"same-origin", "no-referrer"}
    assert "server" not in answer.headers


def test_console_pages_cannot_be_framed_or_run_foreign_scripts(client: TestClient) -> None:
    answer = client.get("/sign-in")

    policy = answer.headers["content-security-policy"]
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["cache-control"] == "no-store"


def test_a_tracker_has_no_console_and_no_lists(settings: Settings, sqlite_url: str) -> None:
    assert sqlite_url
    with TestClient(app.build(settings, only_tracker=True), follow_redirects=False) as tracker:
        found = {
            path: tracker.get(path).status_code
            for path in ("/healthz", "/readyz", "/sign-in", "/docs", "/v1/status", "/postback")
        }
        listed = tracker.get("/v1/conversions").status_code
        reported = tracker.post("/v1/conversions", json=[]).status_code

    assert found == {
        "/healthz": 200,
        "/readyz": 200,
        "/sign-in": 404,
        "/docs": 404,
        "/v1/status": 404,
        "/postback": 401,
    }
    assert (listed, reported) == (405, 401)


@pytest.mark.parametrize("only_tracker", [False, True])
def test_short_links_are_clicks_and_their_pictures_are_pages(
    settings: Settings, sqlite_engine: Engine, *, only_tracker: bool
) -> None:
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session, landing_url="https://shop.example/start")
        publisher = make.publisher(session, member_of=program)
        session.add(
            Link(
                id="lnk_1",
                code="spring",
                program_id=program.id,
                publisher_id=publisher.id,
                sub_ids={},
                change=1,
                created_at=program.created_at,
            )
        )
        session.add(RoutingVersion(links=1))
    application = app.build(settings, only_tracker=only_tracker)
    with TestClient(application, follow_redirects=False) as opened:
        click = opened.get("/l/spring", headers={"User-Agent": "Mozilla/5.0 Gecko/ Firefox/140.0"})
        picture = opened.get("/l/spring.png")
        nothing = opened.get("/l/spring.gif")

    assert click.status_code == 302
    assert click.headers["location"].startswith("https://shop.example/start?ts_click=")
    assert (picture.status_code, picture.headers["content-type"]) == (200, "image/png")
    assert (nothing.status_code, nothing.headers["x-robots-tag"]) == (404, "noindex")


def test_a_tracker_does_without_the_modules_of_pages_and_partners(settings: Settings) -> None:
    """They would cost every tracker process memory that its links need."""
    code = (
        "import sys; from server import app; from kernel.settings import Settings; "
        f"app.build(Settings(data_dir={str(settings.data_dir)!r}), only_tracker=True); "
        "print([name for name in sys.modules if name.split('.')[0] in ('console', 'partner_api')])"
    )

    said = subprocess.run(  # noqa: S603 - our own interpreter and code
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=REPOSITORY
    )

    assert said.stdout.strip() == "[]"


def test_without_its_database_it_is_healthy_and_says_what_is_missing(
    settings: Settings, sqlite_url: str
) -> None:
    assert sqlite_url
    with TestClient(app.build(settings)):
        pass  # which saves where links lead
    away = Settings(data_dir=settings.data_dir, secret=settings.secret, database_url=NOWHERE)

    with TestClient(app.build(away)) as client:
        health, readiness = client.get("/healthz"), client.get("/readyz")
        page, data = client.get("/sign-in"), client.get("/v1/status")

    assert (health.status_code, health.json()) == (200, {"status": "ok"})
    assert readiness.status_code == 200
    assert readiness.json() == {
        "status": "degraded",
        "database": "unreachable",
        "journal": "ready",
        "routing_version": readiness.json()["routing_version"],
        "click_front": "asgi",
    }
    assert (page.status_code, data.status_code) == (200, 401)


def test_nothing_starts_without_database_and_without_a_saved_table(settings: Settings) -> None:
    away = Settings(data_dir=settings.data_dir, secret=settings.secret, database_url=NOWHERE)

    with pytest.raises(Exception, match="rout") as refusal, TestClient(app.build(away)):
        pass

    assert type(refusal.value).__name__ == "RoutingUnavailable"
    assert not (settings.data_dir / "routing.json").exists()


def test_metrics_have_the_names_of_the_reference(client: TestClient) -> None:
    client.get("/postback", params={"token": "wrong"})

    text = client.get("/metrics").text

    names = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE tallystick")}
    assert {
        "tallystick_outbox_pending",
        "tallystick_outbox_parked",
        "tallystick_outbox_oldest_seconds",
        "tallystick_journal_backlog_bytes",
        "tallystick_events_shipped",
        "tallystick_database_reachable",
    } <= names
    assert 'tallystick_events_shipped{kind="click"} 0.0' in text
