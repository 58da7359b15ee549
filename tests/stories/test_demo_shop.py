"""The first page of a newcomer, in a real browser: click, buy, and see both tracked."""

import re
import shutil
import time
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, sync_playwright

from tests.conftest import REQUIRE_SERVICES
from tests.stories.house import BROWSER, House

pytestmark = [pytest.mark.xdist_group("house"), pytest.mark.browser]

# An order that comes faster is held for a manager.
SHOPPING_SECONDS = 5.5


@pytest.fixture
def page() -> Iterator[Page]:
    found = shutil.which("chromium")
    if found is None:
        if REQUIRE_SERVICES:
            pytest.fail("no chromium on the path")
        pytest.skip("no chromium on the path")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=found, args=["--headless", "--no-sandbox", "--disable-gpu"]
        )
        # Headless browsers say so, and are held.
        yield browser.new_context(user_agent=BROWSER).new_page()
        browser.close()


def facts(page: Page) -> str:
    page.wait_for_selector("dl.facts", timeout=30_000)
    return re.sub(r"\s+", " ", page.inner_text("dl.facts"))


def test_a_newcomer_clicks_and_buys_by_tag_and_by_server(house: House, page: Page) -> None:
    shop = house.demo["shop"]
    assert shop["landing_url"] == f"{house.base_url}/demo/shop"
    assert f"begin     {shop['landing_url']}" in house.said

    page.goto(shop["landing_url"])
    assert "No click yet" in page.inner_text("main")
    page.click("text=A short link of Teatime Reviews")
    page.wait_for_selector("text=Click of Teatime Reviews")
    assert "ts_click=" in page.url
    page.click("text=A direct link of The Slow Home")
    page.wait_for_load_state("networkidle")
    page.goto(shop["landing_url"])
    assert page.locator("ol.steps li").count() == 2

    time.sleep(SHOPPING_SECONDS)
    page.click("text=Buy; the tag reports it")
    by_tag = facts(page)
    # Two clicks have halves each; of equal parts who completed the order is paid.
    assert "The Slow Home The first and the last click have the greater parts" in by_tag
    assert "4.00 EUR Pending" in by_tag
    page.click("text=Let the shop's server report the same order")
    page.wait_for_selector("text=POST /postback")
    for _ in range(20):
        page.reload()
        if "Postback" in facts(page):
            break
        time.sleep(0.5)
    assert "Tag of the page: Taken in" in facts(page)
    assert "Postback: Known already" in facts(page)

    page.goto(shop["landing_url"])
    page.fill("#coupon", shop["coupon"])
    page.click("text=Buy; the shop's server reports it")
    by_server = facts(page)
    assert "Coupon Cove The order's coupon belongs to this publisher alone." in by_server
    assert "4.00 EUR Pending" in by_server
    page.click("text=Look at it in the console")
    assert "/sign-in?next=%2Fconversions%2Fcnv_" in page.url
