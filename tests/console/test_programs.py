"""Programs on the console: managers see all, advertisers their own, publishers none."""

from typing import Any

import pytest

from tests.console.world import Browser, World

SUBPAGES = ("", "/attribution", "/coupons", "/tracking")
FORMS = (
    "/attribution",
    "/coupons",
    "/coupons/cpn_x/end",
    "/tracking",
    "/tag-orders",
    "/signing-secrets",
    "/signing-secrets/sgn_x/retire",
)


@pytest.mark.parametrize("subpage", SUBPAGES)
def test_an_advertiser_sees_its_own_programs_and_no_other(
    browser: Browser, world: World, subpage: str
) -> None:
    browser.sign_in("advertiser")

    own = browser.open(f"/programs/{world.program.id}{subpage}")

    assert own.status_code == 200
    assert world.program.name in own.text
    assert browser.open(f"/programs/{world.other_program.id}{subpage}").status_code == 404
    listed = browser.open("/programs").text
    assert world.program.id in listed
    assert world.other_program.id not in listed


def test_an_advertiser_is_not_told_from_which_score_its_orders_are_held(
    browser: Browser, world: World
) -> None:
    browser.sign_in("advertiser")
    assert "Held from" not in browser.open(f"/programs/{world.program.id}").text
    browser.send("/sign-out", on="/")
    browser.sign_in("manager")
    assert "Held from" in browser.open(f"/programs/{world.program.id}").text


@pytest.mark.parametrize("path", FORMS)
def test_nobody_changes_another_party_s_program(browser: Browser, world: World, path: str) -> None:
    fields: dict[str, Any] = {"codes": "A", "click_parameter": "x", "tag_orders": "accepted"}
    browser.sign_in("advertiser")
    answer = browser.send(f"/programs/{world.other_program.id}{path}", on="/", **fields)
    assert answer.status_code == 404
    browser.send("/sign-out", on="/")
    browser.sign_in("publisher")
    answer = browser.send(f"/programs/{world.program.id}{path}", on="/", **fields)
    assert answer.status_code == 403


@pytest.mark.parametrize("path", FORMS)
def test_a_form_without_its_token_changes_nothing(
    browser: Browser, world: World, path: str
) -> None:
    browser.sign_in("manager")

    answer = browser.client.post(f"/programs/{world.program.id}{path}", data={"codes": "A"})

    assert answer.status_code == 403
    page = browser.open(f"/programs/{world.program.id}/tracking").text
    assert "0 of 5 in force" in page
