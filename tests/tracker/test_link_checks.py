"""Looks at pages: what is remembered, what is asked for and how often, on a real local server."""

import threading
from collections.abc import Iterator
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import Session, select

from kernel.database import reading, unit_of_work
from kernel.outbox import acquire
from kernel.settings import Settings
from network.models import Program
from server import chores
from tests import make
from tracker import link_checks
from tracker.link_checks import Look, Outcome
from tracker.rollup_models import LinkTarget


class Shop:
    """A server on this machine that answers by path and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.agents: set[str] = set()
        self.answers: dict[tuple[str, str], int] = {}
        shop = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                shop.asked.append((self.command, self.path))
                shop.agents.add(self.headers["User-Agent"])
                status = shop.answers.get((self.command, self.path))
                self.send_response(status or shop.answers.get(("", self.path), 200))
                self.send_header("Location", "/landed")
                self.send_header("Content-Length", "0")
                self.end_headers()

            do_HEAD = do_GET  # noqa: N815 - the name http.server looks for

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - stdlib's name
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def url(self, path: str, host: str = "127.0.0.1") -> str:
        return f"http://{host}:{self.server.server_address[1]}{path}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)


@pytest.fixture
def shop() -> Iterator[Shop]:
    made = Shop()
    yield made
    made.close()


@pytest.fixture
def limits(settings: Settings) -> Settings:
    return settings.model_copy(update={"link_check_private_hosts": "127.0.0.1,localhost"})


@pytest.mark.parametrize(
    ("answers", "found", "asked"),
    [
        ({}, Look(Outcome.OK, 200), ["HEAD"]),
        ({("HEAD", "/p"): 405}, Look(Outcome.OK, 200), ["HEAD", "GET"]),
        ({("", "/p"): 404}, Look(Outcome.GONE, 404), ["HEAD", "GET"]),
        ({("", "/p"): 410}, Look(Outcome.GONE, 410), ["HEAD", "GET"]),
        ({("", "/p"): 500}, Look(Outcome.SERVER_ERROR, 500), ["HEAD", "GET"]),
        ({("", "/p"): 403}, Look(Outcome.UNCLEAR, 403), ["HEAD", "GET"]),
        ({("", "/p"): 429}, Look(Outcome.UNCLEAR, 429), ["HEAD"]),
        ({("", "/p"): 503}, Look(Outcome.UNCLEAR, 503), ["HEAD"]),
    ],
)
def test_an_answer_is_judged(
    shop: Shop, limits: Settings, answers: Any, found: Look, asked: list[str]
) -> None:
    shop.answers = answers

    assert link_checks.look(shop.url("/p"), limits) == found
    assert shop.asked == [(method, "/p") for method in asked]
    assert shop.agents == {f"Tallystick-LinkCheck/1 (+{limits.public_url})"}


def test_redirects_are_followed_to_what_is_there(shop: Shop, limits: Settings) -> None:
    shop.answers = {("", "/p"): 302, ("", "/landed"): 404}

    assert link_checks.look(shop.url("/p"), limits) == Look(Outcome.GONE, 404)


def test_what_cannot_be_reached_and_what_may_not_be_asked(
    shop: Shop, limits: Settings, settings: Settings
) -> None:
    assert link_checks.look(shop.url("/p"), settings).outcome is Outcome.UNCLEAR
    local = shop.url("/p").replace("127.0.0.1", "localhost").partition(":")[0]
    assert local == "http"
    assert link_checks.look("http://127.0.0.1/p", settings) == Look(Outcome.UNREACHABLE, 0)
    assert shop.asked == []
    shop.close()
    assert link_checks.look(shop.url("/p"), limits) == Look(Outcome.UNREACHABLE, 0)
    assert link_checks.look("ftp://shop.example/p", limits) == Look(Outcome.UNCLEAR, 0)


def note(session: Session, program: Program, *urls: str, now: datetime, **limits: int) -> None:
    who = make.publisher(session)
    landings = [
        link_checks.Landing(program.id, who.id, "head" if url.endswith("head") else "", url)
        for url in urls
    ]
    link_checks.note(session, landings, now=now, **({"targets_max": 100} | limits))


def pages(engine: Engine) -> dict[str, LinkTarget]:
    with reading(engine) as session:
        return {target.url: target for target in session.exec(select(LinkTarget))}


def test_pages_are_met_on_clicks_once_and_up_to_a_limit(engine: Engine, now: datetime) -> None:
    with unit_of_work(engine) as session:
        program = make.program(session)
        note(session, program, "https://a.example/1#top", "https://a.example/1", now=now)
        note(session, program, "https://a.example/2", "https://a.example/head", "", now=now)
        note(session, program, "https://a.example/1", now=now + timedelta(days=2))
        many = [f"https://a.example/n{number}" for number in range(40)]
        note(session, program, *many, now=now, targets_max=9)

    found = pages(engine)
    assert len(found) == 9
    assert found["https://a.example/1"].seen_day - found["https://a.example/2"].seen_day == 2
    assert {"https://a.example/head", "https://a.example/1#top"} & found.keys() == set()


def check(engine: Engine, limits: Settings, now: datetime) -> int:
    return chores.check_links(engine, limits, owner="test", now=now)


def test_a_page_is_looked_at_once_a_day_and_a_failure_is_remembered(
    engine: Engine, shop: Shop, limits: Settings, now: datetime
) -> None:
    url = shop.url("/p")
    shop.answers = {("", "/p"): 404}
    with unit_of_work(engine) as session:
        note(session, make.program(session), url, now=now)

    assert [check(engine, limits, now + timedelta(hours=hours)) for hours in (0, 1, 23)] == [
        1,
        0,
        0,
    ]
    assert shop.asked == [("HEAD", "/p"), ("GET", "/p")]
    target = pages(engine)[url]
    assert (target.outcome, target.status, target.failures) == ("gone", 404, 1)
    assert target.checked_at is not None

    assert check(engine, limits, now + timedelta(hours=24)) == 1
    assert pages(engine)[url].failures == 2
    shop.answers = {}
    assert check(engine, limits, now + timedelta(hours=48)) == 1
    target = pages(engine)[url]
    assert (target.outcome, target.status, target.failures) == ("ok", 200, 0)


def test_a_host_rests_and_a_program_has_a_few_looks_an_hour(
    engine: Engine, shop: Shop, limits: Settings, now: datetime
) -> None:
    with unit_of_work(engine) as session:
        program = make.program(session)
        urls = [shop.url(f"/{number}", host) for number in range(4) for host in _HOSTS]
        note(session, program, *urls, now=now)

    def after(seconds: int) -> int:
        return check(engine, limits, now + timedelta(seconds=seconds))

    # Two hosts, each left alone for 30 seconds; four looks at the program's pages in an hour.
    assert [after(one) for one in (0, 29, 31, 62, 3_599, 3_601, 3_632)] == [2, 0, 2, 0, 0, 2, 2]
    assert len({path for _, path in shop.asked}) == 4


_HOSTS = ("127.0.0.1", "localhost")


def test_pages_nobody_clicks_to_are_forgotten(
    engine: Engine, shop: Shop, limits: Settings, now: datetime
) -> None:
    with unit_of_work(engine) as session:
        note(session, make.program(session), shop.url("/p"), now=now)

    assert check(engine, limits, now + timedelta(days=31)) == 0
    assert pages(engine) == {}
    assert shop.asked == []


def test_another_worker_s_turn_is_left_to_it(
    engine: Engine, shop: Shop, limits: Settings, now: datetime
) -> None:
    with unit_of_work(engine) as session:
        note(session, make.program(session), shop.url("/p"), now=now)
        assert acquire(session, "links", owner="other", seconds=60, now=now)

    assert check(engine, limits, now) == 0
    assert shop.asked == []
