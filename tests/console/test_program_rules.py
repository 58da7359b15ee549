"""The rules of attribution of a program: read in words, published as versions."""

from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import Session, col, select

from kernel import clock
from kernel.database import unit_of_work
from tests.console.world import Browser, World
from tracker import attribution_terms
from tracker.models import AttributionTerms

FORM = {
    "model": "split",
    "initiator_percent": "30",
    "contributor_percent": "20",
    "converter_percent": "50",
    "missing_contributor": "split",
    "window_hours": "72",
    "stand_down_seconds": "45",
    "in_cart_seconds": "600",
    "in_cart_rejects_solo": "yes",
    "source_1": "coupon",
    "source_2": "click",
    "customer_choice": "latest",
    "channels": "affiliate\r\npartner",
    "excluded": "trail",
    "more": '{"rules": [{"id": "leads", "when": {"event": ["lead"]}, "window_hours": 168}]}',
}


def path(world: World) -> str:
    return f"/programs/{world.program.id}/attribution"


def published(world: World) -> list[AttributionTerms]:
    with Session(world.engine) as session:
        return list(session.exec(select(AttributionTerms).order_by(col(AttributionTerms.version))))


def send(browser: Browser, world: World, **fields: Any) -> Any:
    return browser.send(path(world), on=path(world), **fields)


def test_an_advertiser_publishes_the_next_version(browser: Browser, world: World) -> None:
    browser.sign_in("advertiser")

    answer = send(browser, world, **FORM)

    assert answer.status_code == 303
    [version] = published(world)
    assert version.document == {
        "model": "split",
        "params": {
            "initiator_percent": "30",
            "contributor_percent": "20",
            "converter_percent": "50",
            "missing_contributor": "split",
        },
        "window_hours": 72,
        "stand_down_seconds": 45,
        "in_cart_seconds": 600,
        "in_cart_rejects_solo": True,
        "sources": ["coupon", "click"],
        "customer_choice": "latest",
        "channels": ["affiliate", "partner"],
        "excluded": [world.publisher.id],
        "rules": [{"id": "leads", "when": {"event": ["lead"]}, "window_hours": 168}],
    }
    page = browser.open(answer.headers["location"]).text
    assert "The version is published." in page
    for sentence in (
        "Split by role (30 % to who began it, 20 % to who helped, 50 % to who completed it; ",
        "where nobody helped, the two others share that part)",
        "3 days after the click",
        "a click in the last 45 seconds before the order displaces nobody&#39;s earlier one",
        "The owner of the coupon → Clicks, by the model",
        "an order that names another channel than affiliate, partner pays nobody",
        "event lead",
        "7 days after the click",
    ):
        assert sentence in page, sentence
    assert "the first order" not in page
    assert '<textarea id="excluded" name="excluded" rows="3"' in page
    assert ">trail</textarea>" in page


def test_versions_are_in_force_coming_or_replaced(browser: Browser, world: World) -> None:
    now = clock.now()
    with unit_of_work(world.engine) as session:
        for days in (-90, -9, 9):
            attribution_terms.publish(
                session,
                program_id=world.program.id,
                document={"window_hours": 1_000 + days},
                effective_from=now + timedelta(days=days),
                actor="t",
                now=now,
            )
    browser.sign_in("manager")

    page = browser.open(path(world)).text

    versions = page[page.index('id="versions"') :]
    places = [versions.index(word) for word in ("Coming", "In force", "Replaced")]
    assert places == sorted(places)
    in_force = page[page.index('id="now"') : page.index('id="next"')]
    assert "991 hours after the click" in in_force
    # The form begins with the newest version, which is not the one in force.
    assert 'name="window_hours" type="text" value="1009"' in page


def test_a_time_is_read_in_the_program_s_zone(browser: Browser, world: World) -> None:
    browser.sign_in("manager")

    assert send(browser, world, effective_from="2026-07-01T09:30").status_code == 303

    [version] = published(world)
    assert version.effective_from.isoformat() == "2026-07-01T07:30:00+00:00"


@pytest.mark.parametrize(
    ("role", "fields", "sentence"),
    [
        ("advertiser", {"effective_from": "2026-01-01T00:00"}, "Only a manager may publish"),
        ("manager", {"effective_from": "soon"}, "A day and time look like"),
        ("manager", {"window_hours": "0"}, "The window is a whole number of hours"),
        ("manager", {"stand_down_seconds": "9999"}, "The stand-down is a whole number"),
        ("manager", {"model": "linear", "half_life_days": "7"}, "belongs to another model"),
        ("manager", {"model": "position", "first_percent": "x"}, "A part is a percentage"),
        (
            "manager",
            {"model": "position", "first_percent": "60", "last_percent": "60"},
            "at most 100 % together",
        ),
        ("manager", {"source_1": "click", "source_2": "click"}, "in the list once"),
        ("manager", {"excluded": "nobody-here"}, "no publisher here"),
        ("manager", {"excluded": "group:none"}, "a group that is not in the JSON"),
        ("manager", {"more": "{"}, "are not JSON"),
        ("manager", {"more": '{"rules": [{"id": "x"}]}'}, "rules[0].when"),
    ],
)
def test_what_is_wrong_is_said_and_kept_in_the_form(
    browser: Browser, world: World, role: str, fields: dict[str, Any], sentence: str
) -> None:
    browser.sign_in(role)

    answer = send(browser, world, **{"channels": "kept as typed", **fields})

    assert answer.status_code == 400
    assert sentence in answer.text
    assert "kept as typed</textarea>" in answer.text
    assert published(world) == []


def test_the_pages_are_chinese_for_a_chinese_browser(browser: Browser, world: World) -> None:
    browser.sign_in("manager")
    send(browser, world, **FORM)

    for subpage in ("", "/attribution", "/coupons", "/tracking"):
        page = browser.open(f"/programs/{world.program.id}{subpage}", **{"accept-language": "zh"})
        assert page.status_code == 200
        assert "优惠券" in page.text
        assert "Coupons" not in page.text
    assert "发起方 30%" in browser.open(path(world), **{"accept-language": "zh"}).text
