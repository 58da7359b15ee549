"""Coupons of a program on the console."""

from typing import Any

import pytest
from sqlmodel import Session, col, select

from kernel.settings import Settings
from tests.console.world import HOSTILE, Browser, World
from tracker.models import Coupon


def path(world: World) -> str:
    return f"/programs/{world.program.id}/coupons"


def send(browser: Browser, world: World, **fields: Any) -> Any:
    return browser.send(path(world), on=path(world), **fields)


def coupons_of(world: World) -> list[Coupon]:
    with Session(world.engine) as session:
        return list(session.exec(select(Coupon).order_by(col(Coupon.seq))))


def test_coupons_are_added_found_and_ended(browser: Browser, world: World) -> None:
    browser.sign_in("advertiser")

    answer = send(
        browser,
        world,
        codes="SPRING\r\n\r\n  ANNA10 ",
        effect="exclusive",
        publisher=world.publisher.id,
        **{"from": "2026-03-01", "to": "2026-03-31"},
    )

    assert answer.status_code == 303
    first, second = coupons_of(world)
    assert (first.code, second.code) == ("SPRING", "ANNA10")
    assert (first.effect, first.operator, first.publisher_id) == (
        "exclusive",
        "EQUALS",
        world.publisher.id,
    )
    # Whole days of Berlin, the last one included.
    assert first.starts_at is not None
    assert first.starts_at.isoformat() == "2026-02-28T23:00:00+00:00"
    assert first.ends_at is not None
    assert first.ends_at.isoformat() == "2026-03-31T22:00:00+00:00"
    page = browser.open(answer.headers["location"]).text
    assert "The coupons are added." in page
    assert "Ended" in page
    found = browser.open(f"{path(world)}?code=anna10").text
    assert "ANNA10" in found
    assert "SPRING" not in found
    assert "SPRING" not in browser.open(f"{path(world)}?publisher=pub_none").text


def test_a_coupon_is_ended_now_and_stays_listed(browser: Browser, world: World) -> None:
    browser.sign_in("manager")
    send(browser, world, codes="LEAK", effect="suppressed", operator="STARTS_WITH")
    [coupon] = coupons_of(world)
    assert coupon.ends_at is None
    assert "End now" in browser.open(path(world)).text

    answer = browser.send(f"{path(world)}/{coupon.id}/end", on=path(world))

    assert answer.status_code == 303
    assert coupons_of(world)[0].ends_at is not None
    page = browser.open(answer.headers["location"]).text
    assert "The coupon is ended." in page
    assert "End now" not in page
    assert "LEAK" in page
    assert browser.send(f"{path(world)}/cpn_none/end", on=path(world)).status_code == 404


@pytest.mark.parametrize(
    ("fields", "status", "sentence"),
    [
        ({"codes": ""}, 400, "Enter a code."),
        ({"codes": "A"}, 400, "Choose the publisher that the code belongs to."),
        ({"codes": "AB", "operator": "CONTAINS", "effect": "suppressed"}, 400, "at least 3"),
        ({"codes": "A\nB\nB", "effect": "suppressed"}, 409, "Nothing was added."),
        ({"codes": "A\nB" + "x" * 128, "effect": "suppressed"}, 400, "Line 2: A code has 1 to 128"),
        (
            {"codes": "A", "effect": "suppressed", "from": "2026-03-02", "to": "2026-03-01"},
            400,
            "The last day is before the first.",
        ),
        ({"codes": "A", "effect": "suppressed", "from": "soon"}, 400, "A date looks like"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_added(
    browser: Browser, world: World, fields: dict[str, str], status: int, sentence: str
) -> None:
    browser.sign_in("manager")

    answer = send(browser, world, **fields)

    assert answer.status_code == status
    assert sentence in answer.text
    assert coupons_of(world) == []


def test_a_foreign_publisher_owns_no_coupon(browser: Browser, world: World) -> None:
    browser.sign_in("advertiser")

    answer = send(browser, world, codes="A", publisher=world.other_publisher.id)

    assert answer.status_code == 400
    assert "none of the program&#39;s" in answer.text
    assert coupons_of(world) == []


def test_more_codes_than_at_once_are_refused(
    browser: Browser, world: World, settings: Settings
) -> None:
    browser.sign_in("manager")
    codes = "\n".join(f"C{number}" for number in range(settings.coupon_rows_max + 1))

    assert send(browser, world, codes=codes, effect="suppressed").status_code == 413
    assert coupons_of(world) == []


def test_codes_are_texts_and_no_markup(browser: Browser, world: World) -> None:
    browser.sign_in("manager")
    send(browser, world, codes=HOSTILE, effect="suppressed")

    page = browser.open(path(world)).text

    assert HOSTILE not in page
    assert "&lt;script&gt;" in page


def test_a_long_list_has_pages(browser: Browser, world: World) -> None:
    browser.sign_in("manager")
    send(browser, world, codes="\n".join(f"C{n:03}" for n in range(60)), effect="suppressed")

    first = browser.open(path(world)).text

    assert "C049" in first
    assert "C050" not in first
    following = first.split('rel="next"')[0].rsplit('href="', 1)[1].split('"')[0]
    second = browser.open(following.replace("&amp;", "&")).text
    assert "C050" in second
    assert "C049" not in second
