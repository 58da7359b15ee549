"""What the pages say about who brought an order, and the rules and coupons of a program."""

from kernel.database import unit_of_work
from tests import make
from tests.console.world import Browser, World
from tracker import attribution_terms, coupons


def test_a_program_page_shows_its_rules_and_coupons(browser: Browser, world: World) -> None:
    browser.sign_in("manager")
    page = f"/programs/{world.program.id}"
    assert "Last click</dd>" in browser.open(page).text
    with unit_of_work(world.engine) as session:
        attribution_terms.publish(
            session,
            program_id=world.program.id,
            document={"stand_down_seconds": 45},
            effective_from=make.NOW,
            actor="t",
            now=make.NOW,
        )
        coupons.add(
            session,
            [{"code": "<b>SAVE</b>", "effect": "suppressed", "operator": "CONTAINS"}],
            program_id=world.program.id,
            actor="t",
            now=make.NOW,
        )
    text = browser.open(page).text
    assert "a click in the last 45 seconds before the order" in text
    assert "&lt;b&gt;SAVE&lt;/b&gt;" in text
    assert "pays nobody" in text
    assert "<b>SAVE" not in text


def test_the_page_of_an_order_says_who_brought_it(browser: Browser, world: World) -> None:
    browser.sign_in("publisher")
    text = browser.open(f"/conversions/{world.pending.id}").text
    assert "Who brought the order" in text
    assert "The last click before the order decides" in text
