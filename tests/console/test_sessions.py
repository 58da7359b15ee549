"""Signing in and out, how often a password may be tried, and which forms are trusted."""

from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from starlette.testclient import TestClient

from fraud.models import FlagDecision
from kernel.settings import Settings
from network.models import ConsoleSession
from tests.console.world import EMAILS, PASSWORD, Browser, World, application

WRONG = "The e-mail address or the password is wrong."


def _count(engine: Engine, model: type[ConsoleSession] | type[FlagDecision]) -> int:
    with engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(model)).scalar_one()


def test_right_password_signs_in(browser: Browser, world: World) -> None:
    answer = browser.sign_in("manager")

    cookie = answer.headers["set-cookie"]
    assert answer.status_code == 303
    assert answer.headers["location"] == "/"
    assert cookie.startswith("tallystick_session=")
    assert "HttpOnly" in cookie
    assert "SameSite=lax" in cookie
    assert "Secure" not in cookie
    assert browser.open("/").status_code == 200
    assert _count(world.engine, ConsoleSession) == 1


@pytest.mark.parametrize("email", [EMAILS["manager"], "nobody@network.example"])
def test_wrong_sign_in_does_not_say_what_was_wrong(
    browser: Browser, world: World, email: str
) -> None:
    answer = browser.send("/sign-in", on="/sign-in", email=email, password="not the password")

    assert answer.status_code == 401
    assert WRONG in answer.text
    assert "tallystick_session" not in answer.headers.get("set-cookie", "")
    assert _count(world.engine, ConsoleSession) == 0


def test_too_many_wrong_passwords_stop_the_right_one_too(
    sqlite_engine: Engine, settings: Settings, world: World
) -> None:
    few = settings.model_copy(update={"sign_in_attempts_max": 3})
    with TestClient(application(few, sqlite_engine), follow_redirects=False) as client:
        browser = Browser(client)
        statuses = [browser.sign_in("manager", password="wrong").status_code for _ in range(4)]
        right = browser.sign_in("manager")

    assert statuses == [401, 401, 401, 429]
    assert right.status_code == 429
    assert right.headers["retry-after"] == "900"
    assert "Too many attempts" in right.text
    assert _count(world.engine, ConsoleSession) == 0


def test_one_account_is_throttled_from_any_address_and_others_are_not(
    sqlite_engine: Engine, settings: Settings, world: World
) -> None:
    del world
    few = settings.model_copy(update={"sign_in_attempts_max": 3})
    app = application(few, sqlite_engine)
    for peer in ("198.51.100.1", "198.51.100.2"):
        with TestClient(app, follow_redirects=False, client=(peer, 1)) as client:
            Browser(client).sign_in("manager", password="wrong")
            Browser(client).sign_in("manager", password="wrong")
    with TestClient(app, follow_redirects=False, client=("198.51.100.3", 1)) as client:
        browser = Browser(client)
        assert browser.sign_in("manager").status_code == 429
        assert browser.sign_in("publisher").status_code == 303


def test_right_passwords_are_not_counted(
    sqlite_engine: Engine, settings: Settings, world: World
) -> None:
    del world
    few = settings.model_copy(update={"sign_in_attempts_max": 2})
    with TestClient(application(few, sqlite_engine), follow_redirects=False) as client:
        browser = Browser(client)
        for _ in range(4):
            assert browser.sign_in("manager").status_code == 303
            browser.send("/sign-out", on="/")


def test_sign_in_goes_on_to_the_page_that_was_asked_for(browser: Browser, world: World) -> None:
    del world
    asked = browser.open("/conversions?status=held")
    assert asked.headers["location"] == "/sign-in?next=%2Fconversions%3Fstatus%3Dheld"

    answer = browser.send(
        "/sign-in",
        on=asked.headers["location"],
        email=EMAILS["manager"],
        password=PASSWORD,
        next="/conversions?status=held",
    )

    assert answer.headers["location"] == "/conversions?status=held"


@pytest.mark.parametrize("target", ["https://evil.example/", "//evil.example", "/\\evil.example"])
def test_sign_in_leads_to_no_other_site(browser: Browser, world: World, target: str) -> None:
    del world
    answer = browser.send(
        "/sign-in", on="/sign-in", email=EMAILS["manager"], password=PASSWORD, next=target
    )

    assert answer.headers["location"] == "/"


def test_sign_out_ends_the_session(browser: Browser, world: World) -> None:
    browser.sign_in("manager")
    stolen = browser.client.cookies["tallystick_session"]

    answer = browser.send("/sign-out", on="/")

    assert answer.status_code == 303
    assert _count(world.engine, ConsoleSession) == 0
    browser.client.cookies.set("tallystick_session", stolen)
    assert browser.open("/").headers["location"] == "/sign-in"


def test_expired_session_leads_to_sign_in(browser: Browser, world: World) -> None:
    browser.sign_in("manager")
    with world.engine.begin() as connection:
        past = datetime.now(UTC) - timedelta(seconds=1)
        connection.execute(sa.update(ConsoleSession).values(expires_at=past))

    assert browser.open("/").headers["location"] == "/sign-in"


def test_cookie_is_bound_to_the_host_over_https(
    sqlite_engine: Engine, settings: Settings, world: World
) -> None:
    del world
    secure = settings.model_copy(update={"base_url": "https://net.example"})
    with TestClient(
        application(secure, sqlite_engine), base_url="https://net.example", follow_redirects=False
    ) as client:
        cookie = Browser(client).sign_in("manager").headers["set-cookie"]

    assert cookie.startswith("__Host-tallystick_session=")
    assert "Secure" in cookie
    assert "Path=/" in cookie


@pytest.mark.parametrize(
    ("_case", "fields", "headers"),
    [
        ("no token", {"csrf_token": ""}, {}),
        ("another token", {"csrf_token": "x" * 43}, {}),
        ("foreign origin", {}, {"origin": "https://evil.example"}),
        ("opaque origin", {}, {"origin": "null"}),
        ("cross-site", {}, {"sec-fetch-site": "cross-site"}),
        ("same-site", {}, {"sec-fetch-site": "same-site"}),
    ],
)
def test_untrusted_form_changes_nothing(
    browser: Browser,
    world: World,
    _case: str,
    fields: dict[str, str],
    headers: dict[str, str],
) -> None:
    browser.sign_in("manager")
    page = f"/flags/{world.flag_id}"

    answer = browser.send(
        f"{page}/decision",
        on=page,
        headers=headers,
        **{"outcome": "cleared", "note": "looked at it", **fields},
    )

    assert answer.status_code == 403
    assert _count(world.engine, FlagDecision) == 0


def test_own_origin_is_trusted(browser: Browser, world: World) -> None:
    browser.sign_in("manager")
    page = f"/flags/{world.flag_id}"

    answer = browser.send(
        f"{page}/decision",
        on=page,
        headers={"origin": "http://testserver", "sec-fetch-site": "same-origin"},
        outcome="cleared",
        note="looked at it",
    )

    assert answer.status_code == 303
    assert _count(world.engine, FlagDecision) == 1


def test_sign_in_form_needs_its_token_too(browser: Browser, world: World) -> None:
    answer = browser.client.post(
        "/sign-in", data={"email": EMAILS["manager"], "password": PASSWORD}
    )

    assert answer.status_code == 403
    assert _count(world.engine, ConsoleSession) == 0


def test_form_over_the_limit_is_refused(browser: Browser, world: World) -> None:
    browser.sign_in("manager")
    page = f"/flags/{world.flag_id}"

    answer = browser.send(f"{page}/decision", on=page, outcome="cleared", note="x" * 70_000)

    assert answer.status_code == 413
    assert _count(world.engine, FlagDecision) == 0


@pytest.mark.parametrize("role", ["publisher", "advertiser"])
def test_other_roles_cannot_send_a_managers_form(browser: Browser, world: World, role: str) -> None:
    browser.sign_in(role)

    answer = browser.send(
        f"/flags/{world.flag_id}/decision", on="/", outcome="cleared", note="mine"
    )

    assert answer.status_code == 403
    assert _count(world.engine, FlagDecision) == 0
