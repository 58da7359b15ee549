"""Whatever was acknowledged is in the database exactly once, whoever is killed and when.

A tracker and a shipper run as processes of their own and die by SIGKILL: at every step of a batch,
and at moments nobody chose.
"""

import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from json import loads
from pathlib import Path
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import select

from kernel import clock
from kernel.database import reading, unit_of_work
from kernel.outbox import OutboxRow
from network import access, programs, publishers
from network.models import MembershipStatus
from tests import make
from tracker.models import ClickDay, Conversion, IntakeRefusal, JournalPosition

CHILD = Path(__file__).with_name("kill_nine_child.py")
REPOSITORY = CHILD.parents[2]
SECRET = "a secret of the tests, long enough to be one"
STEPS_OF_A_BATCH = 10


@dataclass
class Acknowledged:
    """What the clients were promised."""

    clicks: set[str] = field(default_factory=set)
    conversions: dict[str, str] = field(default_factory=dict)


class Story:
    def __init__(self, engine: Engine, url: str, data_dir: Path) -> None:
        self.engine, self.url, self.data_dir = engine, url, data_dir
        self.acknowledged = Acknowledged()
        self.token = self._make_network()
        self._orders = iter(range(10**6))
        self._lock = threading.Lock()

    def _make_network(self) -> str:
        now = clock.now()
        with unit_of_work(self.engine) as session:
            advertiser = programs.add_advertiser(session, name="Acme", now=now)
            program = programs.add(
                session,
                advertiser_id=advertiser.id,
                code="shop",
                name="Shop",
                currency="EUR",
                landing_url="https://shop.test/",
                now=now,
            )
            publisher = publishers.add(session, code="blog", name="Blog", now=now)
            publishers.set_membership(
                session,
                program=program,
                publisher=publisher,
                status=MembershipStatus.APPROVED,
                actor="t",
                now=now,
            )
            return access.add_postback_token(session, program=program, actor="t", now=now)

    def child(self, mode: str, number: int, *descriptors: int) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(  # noqa: S603 - our own interpreter and file
            [sys.executable, str(CHILD), mode, self.url, str(self.data_dir), SECRET, str(number)],
            cwd=REPOSITORY,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
            pass_fds=descriptors,
        )

    @contextmanager
    def server(self) -> Iterator[int]:
        """A tracker on a port of its own, killed at the end without a word."""
        with socket.socket() as listening:
            listening.bind(("127.0.0.1", 0))
            listening.listen(64)
            port = listening.getsockname()[1]
            process = self.child("serve", listening.fileno(), listening.fileno())
            try:
                yield port
            finally:
                process.kill()
                process.wait()

    def visit(self, port: int) -> None:
        """One click and one order with its id; what is answered is remembered."""
        connection = HTTPConnection("127.0.0.1", port, timeout=20)
        try:
            connection.request("GET", "/c/shop/blog", headers={"User-Agent": "Mozilla/5.0 Gecko/"})
            location = connection.getresponse().headers["Location"]
            click_id = parse_qs(urlsplit(location).query)["ts_click"][0]
            with self._lock:
                self.acknowledged.clicks.add(click_id)
                order_id = str(next(self._orders))
            connection.close()
            query = {"token": self.token, "order_id": order_id, "click_id": click_id}
            connection.request("GET", "/postback?" + urlencode(query))
            answer = connection.getresponse()
            body = loads(answer.read())
            assert (answer.status, body["duplicate"]) == (202, False)
            with self._lock:
                self.acknowledged.conversions[body["conversion_id"]] = order_id
        finally:
            connection.close()

    def check(self) -> None:
        clicks = [click.id for click in make.clicks(self.engine)]
        with reading(self.engine) as session:
            by_day = list(session.exec(select(ClickDay)))
            conversions = dict(session.exec(select(Conversion.id, Conversion.order_id)).all())
            followed = list(session.exec(select(OutboxRow.subject_id)))
            counted = session.execute(
                sa.select(
                    sa.func.sum(sa.column("clicks")), sa.func.sum(sa.column("conversions"))
                ).select_from(sa.table(str(JournalPosition.__tablename__)))
            ).one()
            refused = list(session.exec(select(IntakeRefusal)))
        assert self.acknowledged.clicks <= set(clicks)
        assert self.acknowledged.conversions.items() <= conversions.items()
        assert sorted(followed) == sorted(conversions)
        assert tuple(counted) == (len(clicks), len(conversions))
        assert sum(row.clicks for row in by_day) == len(clicks)
        assert refused == []


@pytest.fixture
def story(engine: Engine, database_url: str, tmp_path: Path) -> Story:
    return Story(engine, database_url, tmp_path / "var")


def test_killed_at_every_step_of_a_batch(story: Story) -> None:
    with story.server() as port:
        for _ in range(STEPS_OF_A_BATCH * 10 + 5):
            story.visit(port)
    for step in range(1, STEPS_OF_A_BATCH + 1):
        shipper = story.child("ship", step)
        assert shipper.wait(timeout=60) == -signal.SIGKILL
    assert story.child("ship", 0).wait(timeout=60) == 0
    story.check()
    assert len(story.acknowledged.clicks) == len(story.acknowledged.conversions) == 105


def test_killed_at_random(story: Story) -> None:
    chance = random.Random(9)  # noqa: S311 - moments, not secrets
    for _ in range(3):
        with story.server() as port:
            story.visit(port)
            threads = [
                threading.Thread(target=_visit_until_killed, args=(story, port)) for _ in range(4)
            ]
            shipper = story.child("ship", 0)
            for thread in threads:
                thread.start()
            time.sleep(chance.uniform(0.5, 1.5))
            shipper.kill()
            shipper.wait()
            time.sleep(chance.uniform(0, 0.3))
        for thread in threads:
            thread.join(timeout=30)
    assert story.child("ship", 0).wait(timeout=60) == 0
    story.check()
    assert len(story.acknowledged.conversions) >= 3


def _visit_until_killed(story: Story, port: int) -> None:
    try:
        while True:
            story.visit(port)
    except (OSError, HTTPException, ValueError):
        # Cut off in the middle: whether that one counts is open, and either is right.
        return
