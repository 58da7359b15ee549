"""Publisher groups on the console."""

from typing import Any

from sqlmodel import Session, select

from network.models import PublisherGroup, PublisherGroupChange
from tests.console.world import HOSTILE, Browser, World


def test_a_manager_makes_a_group_and_fills_it(browser: Browser, world: World) -> None:
    browser.sign_in("manager")
    assert "No group yet." in browser.open("/groups").text
    made = browser.send(
        "/groups", on="/groups", code="gold", name=HOSTILE, program=world.program.id
    )
    assert (made.status_code, made.headers["location"]) == (303, "/groups/gold?done=group_kept")
    page = browser.open("/groups/gold").text
    assert HOSTILE not in page
    assert world.program.name in page
    codes = f" {world.publisher.code}\r\n\r\n{world.other_publisher.code}"
    fields: dict[str, Any] = {"publishers": codes, "from": "2026-03-01T10:00"}
    kept = browser.send("/groups/gold/members", on="/groups/gold", **fields)
    assert kept.headers["location"] == "/groups/gold?done=members_kept"
    left = browser.send("/groups/gold/members", on="/groups/gold", publishers=world.publisher.code)
    assert left.status_code == 303
    with Session(world.engine) as session:
        changes = session.exec(select(PublisherGroupChange)).all()
        assert [one.is_member for one in changes] == [True, True, False]
        assert {one.at.isoformat() for one in changes[:2]} == {"2026-03-01T10:00:00+00:00"}
    page = browser.open(kept.headers["location"]).text
    assert "1 publisher now" in page
    assert "came in" in page
    assert "Manager" in page
    assert "gold" in browser.open("/groups").text


def test_what_is_wrong_is_said_on_the_form(browser: Browser, world: World) -> None:
    browser.sign_in("manager")
    answer = browser.send("/groups", on="/groups", code="No!", name="x")
    assert answer.status_code == 400
    assert 'value="No!"' in answer.text
    browser.send("/groups", on="/groups", code="gold", name="Gold")
    answer = browser.send("/groups/gold/members", on="/groups/gold", publishers="nobody-here")
    assert answer.status_code == 400
    assert "nobody-here" in answer.text
    with Session(world.engine) as session:
        assert [one.code for one in session.exec(select(PublisherGroup))] == ["gold"]
        assert session.exec(select(PublisherGroupChange)).all() == []


def test_only_managers_are_led_there(browser: Browser, world: World) -> None:
    del world
    browser.sign_in("publisher")
    assert 'href="/groups"' not in browser.open("/").text
