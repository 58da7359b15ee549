"""The click below ASGI: uvicorn's HTTP protocol, with links answered from the parser's callbacks.

A plain GET or HEAD for a link is decided by the same core and recorded in the same journal as over
ASGI, without a scope, a task and messages for it. Everything else, and every link request that is
out of the ordinary (a body, an upgrade, an expectation, an earlier answer not finished), goes to
the base class untouched and so to the ASGI front. Answers leave in the order of their requests.

The base class is no stable interface of uvicorn: `tracker.http_front` says whether this one may be
used with the uvicorn that is installed. Where it may not, the ASGI front alone answers.
"""

import asyncio
from collections import deque
from typing import Any, Final, Protocol

from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol
from uvicorn.server import ServerState

from tracker.click_answers import Answer, is_whole, lines_of
from tracker.click_core import PREFIX, SHORT_PREFIX, ClickRequest, Decision, is_link
from tracker.click_headers import NOT_PLAIN, read_headers
from tracker.http_clicks import Answered

DESK: Final = "click_desk"
"""The key of the desk in the lifespan's state, by which a protocol finds it."""

_LINK: Final = PREFIX.encode()
_PREFIXES: Final = (_LINK, SHORT_PREFIX.encode())
_METHODS: Final = {b"GET": "GET", b"HEAD": "HEAD"}
_NOT_PLAIN: Final = frozenset(name.decode("ascii") for name in NOT_PLAIN)
_WAITING_MAX: Final = 256


class Desk(Protocol):
    """What decides and records: `tracker.http_clicks.ClickDesk`."""

    def decide(self, request: ClickRequest) -> Decision:
        """The decision about a request."""

    def record(self, decision: Decision, answered: Answered) -> None:
        """Call `answered` with the answer as soon as it may leave."""


class _Deaf:
    """Stands where the base class tells a request's task that something happened."""

    def set(self) -> None:
        """Nobody waits."""


class _Waiting:
    """A link request whose answer has not left: to the base class, a cycle under way.

    One that ends its connection never becomes complete, so that whatever the client has sent after
    it is queued behind it and not begun.
    """

    __slots__ = ("answer", "disconnected", "is_head", "keep_alive", "protocol", "response_complete")
    message_event: Final = _Deaf()

    def __init__(self, protocol: "ClickProtocol", *, is_head: bool, keep_alive: bool) -> None:
        self.protocol = protocol
        self.is_head = is_head
        self.keep_alive = keep_alive
        self.answer: Answer | None = None
        self.response_complete = False
        self.disconnected = False

    def answered(self, answer: Answer) -> None:
        """The answer may leave, when those before it have."""
        self.answer = answer
        self.protocol.send_ready()


class ClickProtocol(HttpToolsProtocol):
    """uvicorn's protocol for httptools, and a shorter way for clicks."""

    cycle: Any  # a _Waiting besides the base class's own

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        # What these settings ask for, only the base class does.
        is_logged = config.access_log and self.access_log
        is_plain = not (is_logged or self.root_path or self.limit_concurrency)
        self._desk: Desk | None = app_state.get(DESK) if is_plain else None
        self._waiting: deque[_Waiting] = deque()
        self._malformed: str | None = None
        self._default_headers: list[tuple[bytes, bytes]] = []
        self._default_lines = b""
        self._idle_since: float | None = None

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
            self.timeout_keep_alive_task = None

    def on_message_begin(self) -> None:
        """Note nothing yet but the head: the scope is for requests that need one."""
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_header(self, name: bytes, value: bytes) -> None:
        """Keep a header; what it asks for is looked at when the head is whole."""
        self.headers.append((name.lower(), value))

    def on_headers_complete(self) -> None:
        """Answer a plain request for a link; hand everything else over."""
        if not self.url.startswith(_PREFIXES) or not self._take():
            self._hand_over()

    def on_message_complete(self) -> None:
        """A plain request ends with its head."""
        if self.cycle.__class__ is not _Waiting:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """Begin what waits in line, or wait for the next request for a while.

        The base class sets a timer for every answer and cancels it at the next request. One timer
        a connection does: when it rings, it goes on for as long as the silence was too short.
        """
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        self.flow.resume_reading()
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._set_timer(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        """Close the connection when it has been silent for long enough."""
        self.timeout_keep_alive_task = None
        if self._idle_since is None:
            # A request is coming in or under way; its end sets the timer again.
            return
        left_seconds = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left_seconds > 0:
            self._set_timer(left_seconds)
        else:
            super().timeout_keep_alive_handler()

    def resume_writing(self) -> None:
        """The client reads again: send what has become ready meanwhile."""
        super().resume_writing()
        self.flow.resume_reading()
        self.send_ready()

    def send_400_response(self, msg: str) -> None:
        """Refuse what cannot be parsed, after the answers to what came before it."""
        if self._waiting:
            self._malformed = msg
            self.flow.pause_reading()
        else:
            super().send_400_response(msg)

    def send_ready(self) -> None:
        """Send every answer that is ready and whose predecessors have left."""
        waiting, transport = self._waiting, self.transport
        while waiting and (answer := waiting[0].answer) is not None:
            if transport.is_closing():
                waiting.clear()
                return
            if self.flow.write_paused:
                # Whoever does not read his answers may not ask for more.
                self.flow.pause_reading()
                return
            self._send(waiting.popleft(), answer)

    def _set_timer(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            seconds, self.timeout_keep_alive_handler
        )

    def _unset_keepalive_if_required(self) -> None:
        """The base class's word for: this connection is not idle any more."""
        self._idle_since = None

    def _take(self) -> bool:
        """Whether this request is answered here; it is under way then."""
        desk, before, url = self._desk, self.cycle, self.url
        method = _METHODS.get(self.parser.get_method())
        if desk is None or method is None or b"#" in url:
            return False
        # Behind a request of the base class only the base class keeps the order, and behind an
        # answer that ends the connection nothing is begun.
        if (
            before is not None
            and not before.response_complete
            and (before.__class__ is not _Waiting or not before.keep_alive)
        ):
            return False
        path, _, query = url.partition(b"?")
        if not path.startswith(_LINK) and (b"%" in path or not is_link(path.decode("ascii"))):
            return False
        headers = read_headers(self.headers)
        if not _NOT_PLAIN.isdisjoint(headers):
            return False
        peer = self.client[0] if self.client else ""
        return self._answer(desk, ClickRequest(method, path, query, headers, peer))

    def _answer(self, desk: Desk, request: ClickRequest) -> bool:
        try:
            decision = desk.decide(request)
        except Exception:  # noqa: BLE001 - the ASGI front meets it again, where it becomes a 500
            return False
        # The core sees to it that no header breaks out of its line; this is the second lock.
        if not is_whole(decision.answer.location):
            return False
        parser = self.parser
        self.cycle = waiting = _Waiting(
            self,
            is_head=request.method == "HEAD",
            keep_alive=parser.get_http_version() != "1.0" and parser.should_keep_alive(),
        )
        self._waiting.append(waiting)
        if len(self._waiting) >= _WAITING_MAX:
            # What was read already is still taken; more is read when these are answered.
            self.flow.pause_reading()
        desk.record(decision, waiting.answered)
        return True

    def _hand_over(self) -> None:
        """Let the base class begin this request, as if we had not been there."""
        url, headers = self.url, self.headers
        super().on_message_begin()
        self.url = url
        for name, value in headers:
            super().on_header(name, value)
        super().on_headers_complete()

    def _send(self, waiting: _Waiting, answer: Answer) -> None:
        headers = self.server_state.default_headers
        if headers is not self._default_headers:
            # uvicorn makes a new list when the date changes.
            self._default_headers, self._default_lines = headers, lines_of(headers)
        self.transport.write(
            b"".join(
                (
                    STATUS_LINE[answer.status],
                    self._default_lines,
                    b"location: %b\r\n" % answer.location if answer.location else b"",
                    answer.block.lines,
                    b"\r\n" if waiting.keep_alive else b"connection: close\r\n\r\n",
                    b"" if waiting.is_head else answer.body,
                )
            )
        )
        if waiting.keep_alive:
            waiting.response_complete = True
        else:
            self.transport.close()
        if self._waiting:
            self.server_state.total_requests += 1
            return
        self.on_response_complete()
        if self._malformed is not None:
            super().send_400_response(self._malformed)
