"""Which front answers clicks on this process: the protocol below ASGI, or ASGI alone, and why."""

import asyncio
from dataclasses import dataclass
from typing import Any, Final, Literal

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

from tracker.click_answers import Answer, HeaderBlock
from tracker.click_core import ClickRequest, Decision
from tracker.http_clicks import Answered
from tracker.http_protocol import DESK, ClickProtocol

# The releases whose protocol was read and tested; pyproject.toml pins the same range.
UVICORN_MIN: Final = (0, 54)
UVICORN_END: Final = (0, 60)
_BUILT_UPON: Final = (
    "_unset_keepalive_if_required",
    "connection_lost",
    "connection_made",
    "data_received",
    "on_header",
    "on_headers_complete",
    "on_message_begin",
    "on_message_complete",
    "on_response_complete",
    "on_url",
    "resume_writing",
    "send_400_response",
    "shutdown",
    "timeout_keep_alive_handler",
)
_REHEARSAL: Final = (
    b"GET /c/1 HTTP/1.1\r\nhost: x\r\n\r\n"
    b"GET /page HTTP/1.1\r\nhost: x\r\n\r\n"
    b"GET /c/2 HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"
)
_REHEARSED: Final = (
    b"HTTP/1.1 302 Found\r\nlocation: /c/1\r\n\r\n"
    b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n/page"
    b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\nconnection: close\r\n\r\n/c/2"
)
_REHEARSAL_SECONDS: Final = 5


@dataclass(frozen=True, slots=True)
class Front:
    """The front in use. `why_not_fast` is empty for the fast one, else the reason in words."""

    name: Literal["fast", "asgi"]
    why_not_fast: str = ""

    @property
    def protocol(self) -> type[asyncio.Protocol] | Literal["httptools"]:
        """What uvicorn's `http` option must be."""
        return ClickProtocol if self.name == "fast" else "httptools"


def choose(setting: Literal["auto", "asgi"], version: str = uvicorn.__version__) -> Front:
    """The front for a setting and the uvicorn that is installed. Not to be called in a loop."""
    if setting == "asgi":
        return Front("asgi", "the setting click_front asks for it")
    reason = why_not(version)
    return Front("asgi", reason) if reason else Front("fast")


def why_not(version: str = uvicorn.__version__) -> str:
    """Why the fast front must not be used with this uvicorn; empty when it may be.

    Looks at the version and at the methods built upon, and lets a link, a page and a link through
    a connection made of memory. Not to be called in an event loop.
    """
    numbers = tuple(int(part) for part in version.split(".")[:2] if part.isdigit())
    if not UVICORN_MIN <= numbers < UVICORN_END:
        low, end = (".".join(map(str, bound)) for bound in (UVICORN_MIN, UVICORN_END))
        return f"uvicorn {version} is not in the range {low} to below {end}"
    missing = [name for name in _BUILT_UPON if name not in vars(HttpToolsProtocol)]
    if missing:
        return f"uvicorn {version} has no {', '.join(missing)}"
    try:
        said = asyncio.run(_rehearse())
    except Exception as error:  # noqa: BLE001 - whatever it is, the ASGI front works without us
        return f"the self-check failed: {error!r}"
    return "" if said == _REHEARSED else f"the self-check gave {said!r}"


async def _rehearse() -> bytes:
    """What a client would see of the rehearsal until its connection is closed."""
    desk, transport = _RehearsalDesk(), _RehearsalTransport()
    config = Config(_rehearsal_app, log_config=None, access_log=False, lifespan="off")
    protocol = ClickProtocol(config, ServerState(), {DESK: desk}, asyncio.get_running_loop())
    protocol.connection_made(transport)
    protocol.data_received(_REHEARSAL)
    await asyncio.sleep(0)
    desk.release()
    await asyncio.wait_for(transport.closed.wait(), _REHEARSAL_SECONDS)
    protocol.connection_lost(None)
    return bytes(transport.said)


class _RehearsalDesk:
    """Redirects to the request's own path, when it is told to."""

    def __init__(self) -> None:
        self._held: list[tuple[Decision, Answered]] = []

    def decide(self, request: ClickRequest) -> Decision:
        return Decision(Answer(302, HeaderBlock.of(), request.path), "billable")

    def record(self, decision: Decision, answered: Answered) -> None:
        self._held.append((decision, answered))

    def release(self) -> None:
        for decision, answered in self._held:
            answered(decision.answer)


class _RehearsalTransport(asyncio.Transport):
    """A connection that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.said = bytearray()
        self.closed = asyncio.Event()

    def write(self, data: Any) -> None:
        self.said += data

    def close(self) -> None:
        self.closed.set()

    def is_closing(self) -> bool:
        return self.closed.is_set()

    def pause_reading(self) -> None:
        """Everything has been read already."""

    def resume_reading(self) -> None:
        """Everything has been read already."""


async def _rehearsal_app(scope: Scope, _receive: Receive, send: Send) -> None:
    path = scope["path"].encode()
    headers = [(b"content-length", b"%d" % len(path))]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": path})
