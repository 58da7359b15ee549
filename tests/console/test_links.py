"""Links in the console: a publisher builds and retires its own, a manager sees everybody's."""

import re
from html import unescape
from urllib.parse import quote

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from kernel.audit import AuditEntry
from kernel.database import unit_of_work
from network import programs
from tests.console.world import HOSTILE, Browser, World
from tracker.models import Link, LinkStatus

PAGE = "https://shop.example/p/1?a=1&b=2"


def links_of(engine: Engine) -> list[Link]:
    with Session(engine) as session:
        return list(session.exec(select(Link).order_by(col(Link.id))))


def value_of(text: str, field: str) -> str:
    found = re.search(rf'<input id="{field}"[^>]* value="([^"]*)"', text)
    assert found is not None
    return unescape(found.group(1))


def make(browser: Browser, world: World, **fields: str) -> str:
    sent = {"program": world.program.id, "do": "short", **fields}
    answer = browser.client.post("/links", data={"csrf_token": browser.token("/links"), **sent})
    assert answer.status_code == 303, answer.text
    location: str = answer.headers["location"]
    return location


def test_a_publisher_makes_a_short_link_and_retires_it(browser: Browser, world: World) -> None:
    browser.sign_in("publisher")

    location = make(browser, world, url=PAGE, s1="news", name=HOSTILE, code="spring-tea")
    shown = browser.open(location)

    [link] = links_of(world.engine)
    assert (link.code, link.destination, link.sub_ids) == ("spring-tea", PAGE, {"s1": "news"})
    assert (link.publisher_id, link.name) == (world.publisher.id, HOSTILE)
    assert "The short link is made." in shown.text
    assert value_of(shown.text, "short") == "http://127.0.0.1:8000/l/spring-tea"
    assert value_of(shown.text, "long") == (
        f"http://127.0.0.1:8000/c/lumen/trail?url={quote(PAGE, safe='')}&s1=news"
    )
    assert 'src="data:image/svg+xml;base64,' in shown.text
    assert "<script" not in shown.text
    assert "/l/spring-tea" in browser.open("/links").text

    answer = browser.send(f"/links/{link.id}/retire", on=f"/links/{link.id}")
    assert answer.status_code == 303
    [link] = links_of(world.engine)
    assert (link.status, link.change) == (LinkStatus.RETIRED, 2)
    text = browser.open(f"/links/{link.id}").text
    assert "This link is retired." in text
    assert "/retire" not in text
    with Session(world.engine) as session:
        entries = session.exec(select(AuditEntry).where(AuditEntry.subject_id == link.id)).all()
    assert [entry.action for entry in entries] == ["link.create", "link.retire"]


def test_the_long_link_is_only_shown(browser: Browser, world: World) -> None:
    browser.sign_in("publisher")
    answer = browser.send(
        "/links", on="/links", program=world.program.id, url=PAGE, s2="x y", do="build", code="zzz"
    )
    assert answer.status_code == 200
    expected = f"http://127.0.0.1:8000/c/lumen/trail?url={quote(PAGE, safe='')}&s2=x%20y"
    assert value_of(answer.text, "built") == expected
    assert value_of(answer.text, "url") == PAGE
    assert links_of(world.engine) == []


def test_where_links_are_signed_the_console_signs(browser: Browser, world: World) -> None:
    with unit_of_work(world.engine) as session:
        program = programs.get(session, world.program.id)
        programs.set_tracking(
            session, program, requires_signed_links=True, actor="t", now=program.created_at
        )
    browser.sign_in("publisher")
    answer = browser.send(
        "/links", on="/links", program=world.program.id, url=PAGE, do="build", code=""
    )
    assert re.search(r"&sig=[\w-]{22}$", value_of(answer.text, "built"))


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"url": "https://evil.example/"}, "not on one of the program"),
        ({"url": "javascript:alert(1)"}, "must be a plain address"),
        ({"url": "https://shop.example\\@evil.example"}, "must be a plain address"),
        ({"code": "A b"}, "A code is 3 to 64"),
        ({"code": "admin"}, "kept for the network"),
        ({"program": ""}, "Choose a program."),
        ({"program": "prg_none"}, "not yours to see"),
        ({"s1": "x" * 300}, "s1"),
    ],
)
def test_what_is_wrong_is_said_and_nothing_is_made(
    browser: Browser, world: World, fields: dict[str, str], sentence: str
) -> None:
    browser.sign_in("publisher")
    sent = {"program": world.program.id, "do": "short", **fields}
    answer = browser.client.post("/links", data={"csrf_token": browser.token("/links"), **sent})
    assert answer.status_code in {400, 404}
    assert sentence in unescape(answer.text)
    assert links_of(world.engine) == []


def test_a_code_is_given_once(browser: Browser, world: World) -> None:
    browser.sign_in("publisher")
    make(browser, world, code="once")
    answer = browser.send("/links", on="/links", program=world.program.id, code="once", do="short")
    assert answer.status_code == 409
    assert "Another short link has this code" in answer.text
    assert len(links_of(world.engine)) == 1


def test_managers_see_all_and_others_nothing(browser: Browser, world: World) -> None:
    browser.sign_in("publisher")
    path = make(browser, world, code="mine").partition("?")[0]
    with unit_of_work(world.engine) as session:
        theirs = Link(
            id="lnk_theirs",
            code="theirs",
            program_id=world.other_program.id,
            publisher_id=world.other_publisher.id,
            sub_ids={},
            change=9,
            created_at=world.program.created_at,
        )
        session.add(theirs)
    assert "/l/theirs" not in browser.open("/links").text
    assert browser.open("/links/lnk_theirs").status_code == 404
    refused = browser.send("/links/lnk_theirs/retire", on=path)
    assert refused.status_code == 404

    browser.client.cookies.clear()
    browser.sign_in("manager")
    text = browser.open("/links").text
    assert "/l/theirs" in text
    assert "/l/mine" in text
    assert "Build a link" not in text
    assert browser.send("/links", on=path, program=world.program.id).status_code == 403
    assert browser.send("/links/lnk_theirs/retire", on="/links/lnk_theirs").status_code == 303
    assert {link.code: link.status for link in links_of(world.engine)} == {
        "mine": "active",
        "theirs": "retired",
    }

    browser.client.cookies.clear()
    browser.sign_in("advertiser")
    assert browser.open("/links").status_code == 403
    assert browser.open(path).status_code == 403
    assert 'href="/links"' not in browser.open("/").text


def test_a_long_list_has_pages(browser: Browser, world: World) -> None:
    with unit_of_work(world.engine) as session:
        for number in range(60):
            session.add(
                Link(
                    id=f"lnk_{number:03d}",
                    code=f"code-{number:03d}",
                    program_id=world.program.id,
                    publisher_id=world.publisher.id,
                    sub_ids={},
                    change=number + 1,
                    created_at=world.program.created_at,
                )
            )
    browser.sign_in("publisher")
    first = browser.open("/links").text
    assert first.count("/l/code-") == 50
    found = re.search(r'href="(/links\?cursor=[^"]+)"', first)
    assert found is not None
    second = browser.open(unescape(found.group(1))).text
    assert second.count("/l/code-") == 10
    assert "/l/code-000" in second
    assert browser.open("/links?cursor=nonsense").status_code == 400
