"""The two processes that the story of kill -9 kills: a tracker, and its shipper.

    kill_nine_child.py serve DATABASE_URL DATA_DIR SECRET SOCKET_DESCRIPTOR
    kill_nine_child.py ship  DATABASE_URL DATA_DIR SECRET DIE_AT_STEP

The shipper ends when nothing is left to ship, or dies at the given step (0: never).
"""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import uvicorn
from starlette.applications import Starlette
from starlette.types import Receive, Scope, Send

from kernel import clock, http, ratelimit
from kernel.database import connect
from kernel.keys import load
from kernel.settings import Settings
from kernel.tokens import Tokens
from tracker.geo import GeoResolver
from tracker.http import ROUTES, ClickApp
from tracker.node import open_node
from tracker.shipper import ship_all


async def serve(settings: Settings, descriptor: int) -> None:
    keys = load(settings)
    engine = connect(settings.database)
    tokens = Tokens(keys, issuer="http://tracker.test")
    app = Starlette(routes=list(ROUTES))
    app.state.context = http.Context(
        settings=settings,
        engine=engine,
        keys=keys,
        tokens=tokens,
        limiter=ratelimit.Limiter(requests_per_minute=10**6),
    )
    app.state.node = await open_node(settings=settings, engine=engine, keys=keys, tokens=tokens)
    click = ClickApp(app.state.node)

    async def front(scope: Scope, receive: Receive, send: Send) -> None:
        await (click if scope["path"].startswith("/c/") else app)(scope, receive, send)

    config = uvicorn.Config(front, lifespan="off", log_level="error", proxy_headers=False)
    await uvicorn.Server(config).serve(sockets=[socket.socket(fileno=descriptor)])


def ship(settings: Settings, die_at: int) -> None:
    steps = 0

    def step(_name: str) -> None:
        nonlocal steps
        steps += 1
        if steps == die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    engine, keys, geo = connect(settings.database), load(settings), GeoResolver(None)
    while ship_all(
        engine,
        settings.data_dir / "journal",
        keys=keys,
        geo=geo,
        settings=settings,
        now=clock.now(),
        step=step,
    ):
        pass
    engine.dispose()


def main(mode: str, url: str, data_dir: str, secret: str, number: str) -> None:
    settings = Settings(
        database_url=url,
        data_dir=Path(data_dir),
        secret=secret,
        ship_batch_records_max=20,
        journal_segment_bytes_max=2**16,
    )
    if mode == "serve":
        asyncio.run(serve(settings, int(number)))
    else:
        ship(settings, int(number))


if __name__ == "__main__":
    main(*sys.argv[1:])
