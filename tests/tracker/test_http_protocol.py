"""Both fronts on real sockets: the same bytes in, the same answers out, the same records kept."""

import logging
import os
import re
import signal
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from prometheus_client import REGISTRY
from sqlalchemy.engine import Engine

from kernel.keys import Keys
from kernel.settings import Settings
from tests.tracker.serving import Served
from tracker import events
from tracker.journal_reader import Position, read_batch

# More than the buffers of two kernels hold.
REQUESTS_UNREAD_MAX = 40_000
LINK = b"GET /c/shop/blog%b HTTP/1.1\r\nHost: t\r\n%b\r\n"
PAGE = b"GET /page?%b HTTP/1.1\r\nHost: t\r\n\r\n"
LAST = b"GET /page?last HTTP/1.1\r\nHost: t\r\nConnection: close\r\n\r\n"
_CLICK_ID = re.compile(rb"[A-Za-z0-9_-]{52}")
_DATE = re.compile(rb"\r\ndate: [^\r]+\r\n")

Open = Callable[..., Served]


@pytest.fixture
def open_served(
    settings: Settings,
    keys: Keys,
    sqlite_engine: Engine,
    world: Any,  # noqa: ARG001 - the network must be there first
) -> Iterator[Open]:
    opened: list[Served] = []

    def make(*, fast: bool, access_log: bool = False, **changes: object) -> Served:
        changed = settings.model_copy(update=changes)
        one = Served(changed, sqlite_engine, keys, fast=fast, access_log=access_log)
        one.start()
        opened.append(one)
        return one

    yield make
    for one in opened:
        one.stop()


@pytest.fixture(params=[True, False], ids=["fast", "asgi"])
def served(request: pytest.FixtureRequest, open_served: Open) -> Served:
    return open_served(fast=request.param)


@pytest.fixture
def fast(open_served: Open) -> Served:
    return open_served(fast=True)


def link(query: bytes = b"", headers: bytes = b"") -> bytes:
    return LINK % (query, headers)


def plain(answer: bytes) -> bytes:
    """An answer without what differs from one to the next."""
    return _DATE.sub(b"\r\ndate: D\r\n", _CLICK_ID.sub(b"ID", answer))


def statuses(heard: bytes) -> list[int]:
    return [int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3})", heard)]


class Records:
    """What a served tracker has journalled since the last look."""

    def __init__(self, served: Served) -> None:
        self._directory: Path = served.node.directory
        self._position: Position | None = None

    def new(self) -> list[events.ClickSeen]:
        found: list[events.ClickSeen] = []
        while True:
            batch = read_batch(self._directory, self._position, records_max=500, bytes_max=2**20)
            assert batch.damage == []
            self._position = batch.next_position
            if not batch.records:
                return found
            for record in batch.records:
                event = events.decode(record.payload)
                assert isinstance(event, events.ClickSeen)
                found.append(event)


def comparable(seen: events.ClickSeen) -> tuple[object, ...]:
    fields = {name: getattr(seen, name) for name in seen.__struct_fields__}
    return tuple(value for name, value in fields.items() if name not in {"id", "at"})


def exchange(served: Served, said: bytes) -> bytes:
    with served.connect() as client:
        client.say(said)
        return client.hear_all()


# ---- one request, whatever it is: both fronts say and keep the same

_TOKEN = st.text("abcdefghijklmnopqrstuvwxyz-", min_size=1, max_size=12).map(str.encode)
_VALUE = st.one_of(
    st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=40).map(str.encode),
    st.binary(max_size=40).map(lambda raw: re.sub(rb"[\r\n]", b"", raw)),
)
_HEADERS = st.lists(
    st.one_of(
        st.tuples(
            st.sampled_from(
                [
                    b"User-Agent",
                    b"REFERER",
                    b"accept-language",
                    b"Sec-Fetch-Dest",
                    b"sec-purpose",
                    b"Purpose",
                    b"X-Forwarded-For",
                    b"Cookie",
                    b"x-moz",
                ]
            ),
            st.one_of(_VALUE, st.sampled_from([b"prefetch", b"1.2.3.4, 5.6.7.8", b"zh-CN", b""])),
        ),
        st.tuples(_TOKEN, _VALUE),
        st.sampled_from(
            [
                (b"Content-Length", b"0"),
                (b"Expect", b"100-continue"),
                (b"Upgrade", b"websocket"),
                (b"Connection", b"Upgrade"),
                (b"Connection", b"keep-alive"),
                (b"Transfer-Encoding", b"identity"),
            ]
        ),
    ),
    max_size=6,
)
_SEGMENT = st.one_of(
    st.sampled_from([b"shop", b"blog"]),
    st.sampled_from(
        [b"shop", b"blog", b"other", b"paused", b"stranger", b"%73hop", b"", b"..", b"%"]
    ),
    st.binary(max_size=6),
)
_WILD_TARGET = st.builds(
    lambda prefix, one, two, mark, query: prefix + one + b"/" + two + mark + query,
    st.sampled_from([b"/c/", b"/c/", b"/c/", b"/%63/", b"//c/", b"http://t/c/", b"/C/"]),
    _SEGMENT,
    _SEGMENT,
    st.sampled_from([b"", b"?", b"??", b"#", b"?x#"]),
    st.one_of(
        st.binary(max_size=30),
        st.sampled_from(
            [
                b"s1=a&s2=b+c",
                b"url=https%3A%2F%2Fshop.test%2Fp%3Fa%3D1",
                b"url=https://evil.test/",
                b"u=%0d%0aSet-Cookie:x",
                b"cons=0",
                b"s1=%00%ff",
            ]
        ),
    ),
)
_LINK_TARGET = st.builds(
    lambda link, query: b"/c/" + link + query,
    st.sampled_from(
        [b"shop/blog", b"other/blog", b"paused/blog", b"shop/stranger", b"shop/%62log"]
    ),
    st.one_of(
        st.just(b""),
        st.text("abcs12345=&%+/?:.url", max_size=40).map(lambda text: b"?" + text.encode()),
        st.just(b"?url=https%3A%2F%2Fshop.test%2Fp%3Fa%3D1&s2=x"),
    ),
)
_TARGET = st.one_of(_LINK_TARGET, _LINK_TARGET, _WILD_TARGET)
_REQUEST = st.builds(
    lambda method, target, version, headers: b"".join(
        (
            *(method, b" ", target, b" HTTP/", version, b"\r\n"),
            *(b"%b: %b\r\n" % header for header in headers),
            b"\r\n",
        )
    ),
    st.sampled_from([b"GET", b"GET", b"GET", b"HEAD", b"POST", b"OPTIONS", b"PURGE", b"get", b""]),
    _TARGET,
    st.sampled_from([b"1.1", b"1.1", b"1.1", b"1.0", b"2.0", b"0.9", b"9"]),
    _HEADERS,
)


def test_both_fronts_say_and_keep_the_same(open_served: Open) -> None:
    pair = [open_served(fast=fast, url_bytes_max=256) for fast in (True, False)]
    records = [Records(one) for one in pair]
    kept = []

    @settings(
        max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow], database=None
    )
    @example(request=link(b"?s1=x"))
    @example(request=link(b"?" + b"x" * 300))
    @example(request=link().replace(b"GET", b"HEAD"))
    @example(request=link(headers=b"Content-Length: 3\r\n") + b"abc")
    @example(request=link(headers=b"Transfer-Encoding: chunked\r\n") + b"1\r\na\r\n0\r\n\r\n")
    @example(request=link(headers=b"User-Agent: a\r\nUser-Agent: b\r\n"))
    @given(request=_REQUEST)
    def same(request: bytes) -> None:
        heard = [plain(exchange(one, request + LAST)) for one in pair]
        assert heard[0] == heard[1]
        # What is refused after its head may be recorded while the refusal is on its way already.
        seen: list[list[Any]] = [[], []]
        deadline = time.monotonic() + 10
        while True:
            for so_far, found in zip(seen, records, strict=True):
                so_far += [comparable(one) for one in found.new()]
            if seen[0] == seen[1] or time.monotonic() > deadline:
                break
            time.sleep(0.01)
        assert seen[0] == seen[1]
        kept.extend(seen[0])

    same()
    assert len(kept) > 15
    assert 0 < pair[0].clicks_over_asgi < pair[1].clicks_over_asgi


# ---- the connection


def test_version_1_0_and_connection_close_end_the_connection(served: Served) -> None:
    for said in (
        b"GET /c/shop/blog HTTP/1.0\r\n\r\n",
        b"GET /c/shop/blog HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        link(headers=b"Connection: close\r\n"),
        link(headers=b"Connection: CLOSE\r\n"),
    ):
        heard = exchange(served, said)
        assert heard.startswith(b"HTTP/1.1 302 Found\r\ndate: ")
        assert heard.endswith(b"\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")


def test_a_kept_connection_answers_again_and_is_closed_when_idle(served: Served) -> None:
    with served.connect() as client:
        for _ in range(3):
            client.say(link())
            head = client.hear_head()
            assert statuses(head) == [302]
            assert b"connection:" not in head
        started = time.monotonic()
        assert client.hear_all() == b""
        # The keep-alive time of this server is 2 s; closing at once or never would both be wrong.
        assert 1 < time.monotonic() - started < 15


def test_a_connection_in_use_outlives_the_keep_alive_time(served: Served) -> None:
    with served.connect() as client:
        for _ in range(3):
            client.say(link() + PAGE % b"between")
            assert statuses(client.hear_head()) == [302]
            client.hear_head()
            assert client.hear(13) == b"GET between 0"
            # Of 2 s: three such pauses are longer than it, one is not.
            assert client.hears_nothing(0.9)
        assert client.hear_all() == b""


def test_a_request_that_is_coming_in_is_not_idle(served: Served) -> None:
    said = link(b"?s1=slow")
    with served.connect() as client:
        client.say(link())
        client.hear_head()
        client.say(said[:20])
        assert client.hears_nothing(2.5)
        client.say(said[20:])
        assert statuses(client.hear_head()) == [302]
        assert client.hear_all() == b""


def test_nothing_is_begun_behind_the_last_request_of_a_connection(served: Served) -> None:
    records = Records(served)
    said = link(b"?s1=1") + link(b"?s1=2", b"Connection: close\r\n") + link(b"?s1=3") + PAGE % b"4"
    heard = exchange(served, said)
    assert statuses(heard) == [302, 302]
    assert [one.query for one in records.new()] == ["s1=1", "s1=2"]
    assert served.begun == []


def test_a_refused_last_request_begins_nothing_either(served: Served) -> None:
    records = Records(served)
    said = link().replace(b"blog", b"nobody").replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")
    assert statuses(exchange(served, said + link(b"?s1=3"))) == [404]
    assert records.new() == []


def test_a_head_that_comes_in_pieces(served: Served) -> None:
    with served.connect() as client:
        client.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for number in link(b"?s1=pieces", b"User-Agent: a b\r\n"):
            client.say(bytes([number]))
        assert statuses(client.hear_head()) == [302]


def test_head_has_the_headers_and_no_body(served: Served) -> None:
    said = b"HEAD /c/nothing/here HTTP/1.1\r\nConnection: close\r\n\r\n"
    heard = exchange(served, said)
    assert statuses(heard) == [404]
    assert heard.endswith(b"\r\n\r\n")
    assert int(re.findall(rb"content-length: (\d+)", heard)[0]) > 100


# ---- order


def test_answers_leave_in_the_order_of_their_requests(served: Served) -> None:
    count = 60
    said = b"".join(
        PAGE % b"%d" % number if number % 5 == 3 else link(b"?s1=%d" % number)
        for number in range(count)
    )
    heard = exchange(served, said + LAST)
    assert statuses(heard) == [200 if number % 5 == 3 else 302 for number in range(count)] + [200]
    assert re.findall(rb"GET (\d+) 0", heard) == [b"%d" % number for number in range(3, count, 5)]


def test_a_page_does_not_overtake_a_click_that_waits_for_the_disk(served: Served) -> None:
    with served.connect() as client:
        with served.held_journal():
            client.say(link() + PAGE % b"after" + link(b"?s1=2"))
            assert client.hears_nothing(0.3)
            assert served.begun == []
        assert statuses(client.hear_head()) == [302]
        assert statuses(client.hear_head()) == [200]
        assert statuses(b"HTTP" + client.hear_head().partition(b"HTTP")[2]) == [302]


def test_a_click_does_not_overtake_a_page(served: Served) -> None:
    served.gate.clear()
    with served.connect() as client:
        client.say(PAGE % b"slow" + link(b"?s1=behind"))
        assert client.hears_nothing(0.3)
        served.gate.set()
        assert statuses(client.hear_head()) == [200]
        assert statuses(b"HTTP" + client.hear_head().partition(b"HTTP")[2]) == [302]


def test_a_refusal_does_not_overtake_a_click_that_waits(served: Served) -> None:
    with served.connect() as client:
        with served.held_journal():
            client.say(link() + link().replace(b"shop", b"none"))
            assert client.hears_nothing(0.2)
        assert statuses(client.hear_head()) == [302]
        assert statuses(client.hear_head()) == [404]


def test_what_cannot_be_parsed_is_refused_behind_the_answers_before_it(fast: Served) -> None:
    heard = exchange(fast, link() + link(b"?s1=2") + b"this is no HTTP\r\n\r\n")
    assert statuses(heard) == [302, 302, 400]
    assert heard.endswith(b"Invalid HTTP request received.")
    assert fast.clicks_over_asgi == 0


def test_more_requests_than_may_wait_are_all_answered(served: Served) -> None:
    count = 700
    with served.connect() as client, served.held_journal():
        client.say(link() * count)
        assert client.hears_nothing(0.2)
    heard = exchange(served, link() * count + LAST)
    assert statuses(heard) == [302] * count + [200]


# ---- the journal


def test_a_journal_that_cannot_record_sends_on_without_an_id(served: Served) -> None:
    def untracked() -> float:
        return REGISTRY.get_sample_value("tallystick_clicks_untracked_total") or 0

    before = untracked()
    served.run(served.node.journal.close())
    heard = exchange(served, link() + link() + LAST)
    assert statuses(heard) == [302, 302, 200]
    assert b"ts_click" not in heard
    assert heard.count(b"location: https://shop.test/start?ref=1#top\r\n") == 2
    assert untracked() == before + 2


def test_a_writer_that_dies_sends_on_without_an_id_and_the_next_click_has_one(
    served: Served,
) -> None:
    with served.connect() as client:
        first = served.writer
        os.kill(first, signal.SIGSTOP)
        client.say(link())
        assert client.hears_nothing(0.1)
        os.kill(first, signal.SIGKILL)
        head = client.hear_head()
        assert statuses(head) == [302]
        assert b"ts_click" not in head
        deadline = time.monotonic() + 10
        while served.node.journal.stats().state != "ready":
            assert time.monotonic() < deadline
            time.sleep(0.01)
        client.say(link())
        assert b"ts_click=" in client.hear_head()


def test_a_visitor_who_left_is_recorded_and_nobody_is_harmed(served: Served) -> None:
    records = Records(served)
    with served.held_journal():
        for number in range(3):
            with served.connect() as client:
                client.say(link(b"?s1=gone%d" % number))
                assert client.hears_nothing(0.1)
    assert statuses(exchange(served, link(b"?s1=stays", b"Connection: close\r\n"))) == [302]
    assert {one.query for one in records.new()} == {"s1=gone0", "s1=gone1", "s1=gone2", "s1=stays"}


def test_a_stopping_server_finishes_what_is_pending(served: Served) -> None:
    records = Records(served)
    with served.connect() as client:
        with served.held_journal():
            client.say(link(b"?s1=1") + link(b"?s1=2"))
            assert client.hears_nothing(0.2)
            served.server.should_exit = True
            assert client.hears_nothing(0.4)
        heard = client.hear_all()
    assert statuses(heard) == [302, 302]
    assert heard.endswith(b"connection: close\r\n\r\n")
    assert [one.query for one in records.new()] == ["s1=1", "s1=2"]


# ---- clients that do not read


def test_a_client_that_does_not_read_is_not_read_from(fast: Served) -> None:
    """Its requests stay where they are; the server's memory holds a bounded number of answers."""
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", fast.port))
        slow.settimeout(1)
        said = 0
        with suppress(TimeoutError):
            while said < REQUESTS_UNREAD_MAX:
                slow.sendall(link(headers=b"X-Padding: " + b"x" * 4096 + b"\r\n") * 100)
                said += 100
        assert said < REQUESTS_UNREAD_MAX
        taken = len(Records(fast).new())
        assert taken <= said + 100
        # Others are served meanwhile, and it gets everything once it reads.
        assert statuses(exchange(fast, LAST)) == [200]
        slow.settimeout(10)
        heard = b""
        while heard.count(b"HTTP/1.1 302") < taken:
            heard += slow.recv(2**20)
        assert set(statuses(heard)) == {302}


def test_dates_follow_the_clock(fast: Served) -> None:
    with fast.connect() as client:
        dates: set[bytes] = set()
        deadline = time.monotonic() + 10
        while len(dates) < 2:
            assert time.monotonic() < deadline
            client.say(link())
            dates.add(re.findall(rb"date: ([^\r]+)", client.hear_head())[0])
            time.sleep(0.05)


def test_a_server_with_an_access_log_leaves_clicks_to_asgi(open_served: Open) -> None:
    one = open_served(fast=True, access_log=True)
    logger, handler = logging.getLogger("uvicorn.access"), logging.Handler()
    lines: list[str] = []
    handler.emit = lambda record: lines.append(record.getMessage())  # type: ignore[method-assign]  # a handler of one line
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        assert statuses(exchange(one, link(headers=b"Connection: close\r\n"))) == [302]
    finally:
        logger.removeHandler(handler)
    assert (len(lines), one.clicks_over_asgi) == (1, 1)
