"""The demo shop's pages without the demo's server behind them; tests/stories buys there."""

import json
from typing import Any

import pytest

from kernel import keys
from kernel.clock import now
from kernel.settings import Settings
from tests.console.world import Browser, World
from tracker.node import click_id_signer

SHOP = "/demo/shop"
ORDER = f"{SHOP}/orders/JUG-0123abcd"


@pytest.fixture
def open_shop(settings: Settings, world: World) -> None:
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    shop: dict[str, Any] = {
        "id": world.advertiser.id,
        "name": "Jug & Kettle",
        "postback_token": "pbt_x",
        "program": world.program.code,
        "program_id": world.program.id,
        "currency": "EUR",
        "landing_url": "http://127.0.0.1:8000/demo/shop",
        "short_links": ["teatime-jug"],
        "coupon": "COVE10",
    }
    (settings.data_dir / "demo.json").write_text(json.dumps({"shop": shop}))


@pytest.mark.parametrize("path", [SHOP, ORDER])
@pytest.mark.parametrize("document", [None, "{}", '{"shop": 1}'])
def test_a_server_without_the_demo_has_no_shop(
    browser: Browser, settings: Settings, path: str, document: str | None
) -> None:
    if document is not None:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        (settings.data_dir / "demo.json").write_text(document)

    assert browser.open(path).status_code == 404


@pytest.mark.usefixtures("open_shop")
@pytest.mark.parametrize("path", [SHOP, f"{ORDER}?way=tag"])
def test_only_these_pages_may_run_the_tag(browser: Browser, path: str) -> None:
    answer = browser.open(path)

    assert answer.status_code == 200
    policy = answer.headers["content-security-policy"]
    assert policy.startswith("default-src 'none';")
    assert "script-src 'self'" in policy
    assert "unsafe" not in policy
    assert '<script src="/tag.js"' in answer.text
    other = browser.open("/sign-in")
    assert "script-src" not in other.headers["content-security-policy"]


@pytest.mark.usefixtures("open_shop")
def test_it_shows_genuine_clicks_and_no_others(
    browser: Browser, world: World, settings: Settings
) -> None:
    genuine = click_id_signer(keys.load(settings)).mint(
        at=now(), program_number=world.program.number, publisher_number=world.publisher.number
    )
    forged = ("A" if genuine[20] != "A" else "B").join((genuine[:20], genuine[21:]))
    browser.client.cookies.set("ts_clicks", f"{forged}~<b>junk~{genuine}")

    page = browser.open(SHOP).text

    assert genuine in page
    assert forged not in page
    assert "junk" not in page
    assert "Click of Trail" in page


@pytest.mark.usefixtures("open_shop")
def test_a_visit_with_a_direct_link_looks_again_when_the_tag_has_told(browser: Browser) -> None:
    answer = browser.open(f"{SHOP}?ts_pub=trail")

    assert answer.headers["refresh"] == "2; url=/demo/shop"
    assert "refresh" not in browser.open(SHOP).headers


@pytest.mark.usefixtures("open_shop")
def test_the_tag_s_order_is_data_that_nothing_breaks_out_of(browser: Browser) -> None:
    hostile = "</script><script>alert(1)</script>"

    page = browser.open(ORDER).text
    assert 'data-tallystick="sale">{' not in page
    answer = browser.client.get(ORDER, params={"way": "tag", "coupon": hostile})

    assert hostile not in answer.text
    assert "<script>alert" not in answer.text
    assert answer.text.count("<script") == 2
    assert '"amount": "40.00"' in answer.text
    assert answer.headers["refresh"] == "2"


@pytest.mark.usefixtures("open_shop")
@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({"way": "guess"}, 400),
        ({"way": "tag", "coupon": "x" * 65}, 400),
        ({"way": "tag", "coupon": "a\x00b"}, 400),
        ({"way": "tag", "order": "../x"}, 400),
    ],
)
def test_an_order_that_is_none_is_refused(
    browser: Browser, fields: dict[str, Any], status: int
) -> None:
    assert browser.send(SHOP, on=SHOP, **fields).status_code == status


@pytest.mark.usefixtures("open_shop")
def test_buying_needs_the_page_s_own_form(browser: Browser) -> None:
    assert browser.client.post(SHOP, data={"way": "tag"}).status_code == 403
    assert browser.open(f"{SHOP}/orders/B-2").status_code == 404


@pytest.mark.usefixtures("open_shop")
def test_a_purchase_by_the_tag_leads_to_its_order(browser: Browser) -> None:
    answer = browser.send(SHOP, on=SHOP, way="tag", coupon="COVE10")

    assert answer.status_code == 303
    path, _, query = answer.headers["location"].partition("?")
    assert path.startswith(f"{SHOP}/orders/JUG-")
    assert query == "way=tag&coupon=COVE10"


@pytest.mark.usefixtures("open_shop")
def test_a_network_that_does_not_answer_is_said(browser: Browser, settings: Settings) -> None:
    # Nothing listens on port 1.
    object.__setattr__(settings, "port", 1)

    answer = browser.send(SHOP, on=SHOP, way="server")

    assert answer.status_code == 503
