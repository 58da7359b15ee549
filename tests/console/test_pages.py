"""Every page, for every role: shown, refused or not found; and never what is another party's."""

from html import escape

import pytest
from sqlalchemy.engine import Engine
from starlette.testclient import TestClient

from kernel.database import connect
from kernel.settings import Settings
from tests.console.world import HOSTILE, Browser, World, application, build

MANAGER_PAGES = (
    "/flags",
    "/flags?status=all",
    "/flags/{flag}",
    "/payouts",
    "/groups",
)
PROGRAM_PAGES = (
    "/programs",
    "/programs/{program}",
    "/programs/{program}/attribution",
    "/programs/{program}/coupons",
    "/programs/{program}/tracking",
    "/refusals",
)
SHARED_PAGES = ("/", "/conversions", "/conversions?order=oldest", "/conversions/{held}")


def _path(pattern: str, world: World) -> str:
    return pattern.format(flag=world.flag_id, program=world.program.id, held=world.held.id)


@pytest.mark.parametrize("role", ["manager", "publisher", "advertiser"])
@pytest.mark.parametrize("pattern", [*MANAGER_PAGES, *SHARED_PAGES, *PROGRAM_PAGES])
def test_page_by_role(browser: Browser, world: World, role: str, pattern: str) -> None:
    allowed = role == "manager" or pattern in SHARED_PAGES
    if pattern in PROGRAM_PAGES:
        allowed = role != "publisher"
    browser.sign_in(role)

    answer = browser.open(_path(pattern, world))

    assert answer.status_code == (200 if allowed else 403)
    assert answer.headers["cache-control"] == "no-store"
    assert "default-src 'none'" in answer.headers["content-security-policy"]
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["referrer-policy"] == "same-origin"
    assert "style=" not in answer.text
    assert "<script" not in answer.text


@pytest.mark.parametrize("pattern", [*MANAGER_PAGES, *SHARED_PAGES, *PROGRAM_PAGES])
def test_page_signed_out_leads_to_sign_in(browser: Browser, world: World, pattern: str) -> None:
    answer = browser.open(_path(pattern, world))

    assert answer.status_code == 303
    assert answer.headers["location"].startswith("/sign-in")


@pytest.mark.parametrize(
    "path",
    ["/flags/flg_none", "/payouts/run_none", "/programs/prg_none", "/conversions/cnv_none"],
)
def test_unknown_id_is_a_404_page(browser: Browser, world: World, path: str) -> None:
    del world
    browser.sign_in("manager")

    answer = browser.open(path)

    assert answer.status_code == 404
    assert "There is no such page" in answer.text


@pytest.mark.parametrize("role", ["publisher", "advertiser"])
def test_other_partys_rows_are_not_there(browser: Browser, world: World, role: str) -> None:
    browser.sign_in(role)

    assert browser.open(f"/conversions/{world.other.id}").status_code == 404
    for path in ("/", "/conversions", "/conversions?order=oldest", "/conversions?order_id=X-9"):
        page = browser.open(path).text
        assert world.other.id not in page
        assert world.other_program.name not in page
        assert world.other_publisher.name not in page
    assert world.held.id in browser.open("/conversions").text


def test_advertiser_sees_its_own_refusals_only(browser: Browser, world: World) -> None:
    del world
    browser.sign_in("advertiser")

    page = browser.open("/refusals").text

    assert "R-1" in page
    assert "R-2" not in page


@pytest.mark.parametrize(
    "pattern", ["/", "/conversions", "/conversions/{pending}", "/refusals", "/programs/{program}"]
)
def test_hostile_texts_are_escaped(browser: Browser, world: World, pattern: str) -> None:
    browser.sign_in("manager")

    page = browser.open(pattern.format(pending=world.pending.id, program=world.program.id)).text

    assert HOSTILE not in page
    assert "<script" not in page
    assert escape(HOSTILE, quote=False).replace('"', "&#34;").replace("'", "&#39;") in page


def test_sub_ids_are_shown_escaped(browser: Browser, world: World) -> None:
    browser.sign_in("publisher")

    page = browser.open(f"/conversions/{world.pending.id}").text

    assert "s1=&lt;script&gt;" in page


def test_filters_narrow_the_list(browser: Browser, world: World) -> None:
    browser.sign_in("manager")

    by_order = browser.open("/conversions?order_id=C-3").text
    by_status = browser.open("/conversions?status=held").text
    by_program = browser.open(f"/conversions?program={world.other_program.id}").text
    by_day = browser.open("/conversions?to=2001-01-01").text

    assert world.payable.id in by_order
    assert world.held.id not in by_order
    assert world.held.id in by_status
    assert world.payable.id not in by_status
    assert world.other.id in by_program
    assert world.held.id not in by_program
    assert "Nothing matches." in by_day


@pytest.mark.parametrize(
    "query", ["status=odd", "from=yesterday", "to=2026-13-01", "cursor=%21", "order=random"]
)
def test_filter_out_of_range_is_a_400_page(browser: Browser, world: World, query: str) -> None:
    del world
    browser.sign_in("manager")

    assert browser.open(f"/conversions?{query}").status_code == 400


def test_amounts_are_exact_and_times_are_in_the_programs_zone(
    browser: Browser, world: World
) -> None:
    browser.sign_in("manager")

    page = browser.open(f"/conversions/{world.payable.id}").text
    yen = browser.open(f"/conversions/{world.other.id}").text

    assert '1,234.56 <span class="currency">EUR</span>' in page
    assert '123.46 <span class="currency">EUR</span>' in page
    assert 'class="zone">CE' in page
    assert '9,800 <span class="currency">JPY</span>' in yen


def test_conversion_explains_its_commission(browser: Browser, world: World) -> None:
    browser.sign_in("publisher")

    page = browser.open(f"/conversions/{world.payable.id}").text

    assert "Version 1 of the commission plan applies" in page
    assert "The last click before the order decides" in page
    assert "Payable" in page


def test_evidence_is_for_managers(browser: Browser, world: World) -> None:
    browser.sign_in("manager")
    assert "Declared bot" in browser.open(f"/conversions/{world.held.id}").text
    assert "450 points" in browser.open(f"/flags/{world.flag_id}").text

    browser.send("/sign-out", on="/")
    browser.sign_in("publisher")
    own = browser.open(f"/conversions/{world.held.id}").text
    assert "Declared bot" not in own
    assert world.flag_id not in own
    assert "The order is on hold until a manager has looked at it." in own


def test_terms_are_readable(browser: Browser, world: World) -> None:
    browser.sign_in("manager")

    page = browser.open(f"/programs/{world.program.id}").text

    assert "<strong>10 %</strong>" in page
    assert "every order" in page


def test_stylesheet_may_be_kept(browser: Browser) -> None:
    answer = browser.open("/static/console.css")

    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/css")
    assert "immutable" in answer.headers["cache-control"]


@pytest.mark.services
def test_pages_on_postgresql(settings: Settings, postgres_url: str) -> None:
    engine: Engine = connect(postgres_url)
    world = build(engine)
    try:
        with TestClient(application(settings, engine), follow_redirects=False) as client:
            browser = Browser(client)
            browser.sign_in("manager")
            for pattern in (*MANAGER_PAGES, *SHARED_PAGES, *PROGRAM_PAGES):
                assert browser.open(_path(pattern, world)).status_code == 200
    finally:
        engine.dispose()
