"""A tracker on a real socket, with either front, and a client that speaks bytes."""

import asyncio
import os
import signal
import socket
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Self

import uvicorn
from sqlalchemy.engine import Engine
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from kernel.keys import Keys
from kernel.settings import Settings
from kernel.tokens import Tokens
from tracker.click_core import is_link
from tracker.http_clicks import ClickApp
from tracker.http_protocol import DESK, ClickProtocol
from tracker.journal_process import WriterProcess
from tracker.node import TrackerNode, open_node

PATIENCE_SECONDS = 20


class Served:
    """One serving process's worth of tracker, in a thread."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        keys: Keys,
        *,
        fast: bool,
        access_log: bool = False,
    ) -> None:
        self._settings, self._engine, self._keys = settings, engine, keys
        self._click: list[ClickApp] = []
        self.node: TrackerNode
        self.loop: asyncio.AbstractEventLoop
        self.begun: list[str] = []
        self.clicks_over_asgi = 0
        self.gate = threading.Event()
        self.gate.set()
        self._app = Starlette(
            routes=[Route("/page", self._page, methods=["GET", "POST"])], lifespan=self._lifespan
        )
        config = uvicorn.Config(
            self._front,
            interface="asgi3",
            http=ClickProtocol if fast else "httptools",
            loop="uvloop",
            lifespan="on",
            log_config=None,
            access_log=access_log,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=2,
            timeout_graceful_shutdown=5,
        )
        self.server = uvicorn.Server(config)
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self._thread = threading.Thread(target=self.server.run, args=([self._listener],))

    @asynccontextmanager
    async def _lifespan(self, _app: Starlette) -> AsyncIterator[dict[str, Any]]:
        self.loop = asyncio.get_running_loop()
        self.node = await open_node(
            settings=self._settings,
            engine=self._engine,
            keys=self._keys,
            tokens=Tokens(self._keys, issuer="http://tracker.test"),
        )
        self._click.append(ClickApp(self.node))
        yield {DESK: self._click[0].desk}
        await self.node.close()

    async def _front(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and is_link(scope["path"]):
            self.clicks_over_asgi += 1
            await self._click[0](scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _page(self, request: Request) -> Response:
        text = f"{request.method} {request.url.query} {len(await request.body())}"
        self.begun.append(text)
        await asyncio.to_thread(self.gate.wait, PATIENCE_SECONDS)
        return PlainTextResponse(text)

    @property
    def writer(self) -> int:
        assert isinstance(self.node.journal._writer, WriterProcess)
        return self.node.journal._writer.pid

    @contextmanager
    def held_journal(self) -> Iterator[None]:
        """Nothing is committed meanwhile: the writer is stopped, not told."""
        os.kill(self.writer, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(self.writer, signal.SIGCONT)

    def run(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE_SECONDS)

    def start(self) -> None:
        self._thread.start()
        while not self.server.started:
            assert self._thread.is_alive()
            self._thread.join(0.01)

    def stop(self) -> None:
        self.gate.set()
        self.server.should_exit = True
        self._thread.join(PATIENCE_SECONDS)
        assert not self._thread.is_alive()

    def connect(self) -> "Client":
        return Client(self.port)


class Client:
    """A connection; says bytes, hears bytes."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_SECONDS)
        self._heard = b""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.socket.close()

    def say(self, said: bytes) -> None:
        self.socket.sendall(said)

    def hear_head(self) -> bytes:
        """One head, with its blank line."""
        while b"\r\n\r\n" not in self._heard:
            chunk = self.socket.recv(65536)
            assert chunk, self._heard
            self._heard += chunk
        head, _, self._heard = self._heard.partition(b"\r\n\r\n")
        return head + b"\r\n\r\n"

    def hear(self, count: int) -> bytes:
        """So many bytes."""
        while len(self._heard) < count:
            chunk = self.socket.recv(65536)
            assert chunk, self._heard
            self._heard += chunk
        heard, self._heard = self._heard[:count], self._heard[count:]
        return heard

    def hear_all(self) -> bytes:
        """Everything until the other side closes."""
        parts = [self._heard]
        self._heard = b""
        while True:
            try:
                chunk = self.socket.recv(65536)
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                return b"".join(parts)
            parts.append(chunk)

    def hears_nothing(self, seconds: float) -> bool:
        self.socket.settimeout(seconds)
        try:
            chunk = self.socket.recv(1, socket.MSG_PEEK)
        except TimeoutError:
            return not self._heard
        finally:
            self.socket.settimeout(PATIENCE_SECONDS)
        assert chunk, "closed"
        return False
