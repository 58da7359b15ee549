"""What each process of `tallystick serve` does until it is told to stop."""

import gc
import signal
import socket
import threading
import time
from collections.abc import Callable
from functools import partial

import sqlalchemy as sa
import uvicorn

from kernel import clock, keys, log
from kernel.database import connect
from kernel.settings import Settings
from server import app
from server.processes import die_with_supervisor
from tracker import http_front, shipper
from tracker.geo import GeoResolver
from tracker.node import JOURNAL_FOLDER

_log = log.get(__name__)
_RING_SECONDS = 0.3
_LAST_RING_SECONDS = 1.0
_TROUBLE_PAUSE_SECONDS = 2.0
_OBJECTS_BEFORE_GC = 1_000_000
_DRAIN_SECONDS = 10


def serve_http(settings: Settings, *, descriptor: int, only_tracker: bool) -> None:
    """Answer requests on an inherited listening socket."""
    die_with_supervisor()
    front = http_front.choose(settings.click_front)
    if settings.click_front == "auto" and front.why_not_fast:
        _log.warning("click_front_is_asgi", reason=front.why_not_fast)
    server = uvicorn.Server(
        uvicorn.Config(
            app.build(settings, only_tracker=only_tracker, front=front),
            http=front.protocol,
            loop="uvloop",
            lifespan="on",
            log_config=None,
            access_log=False,
            server_header=False,
            # The peer's own address must reach the tracker, which judges X-Forwarded-For itself.
            proxy_headers=False,
            timeout_graceful_shutdown=_DRAIN_SECONDS,
        )
    )
    server.run(sockets=[socket.socket(fileno=descriptor)])


def ship(settings: Settings) -> None:
    """Move what this node's journals hold into the database, and ring when something came."""
    die_with_supervisor()
    # Celery is heavy to import and only this role rings it.
    from server import worker  # noqa: PLC0415

    stopping = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    engine = connect(settings.database, pool_size=2)
    ship_all = partial(
        shipper.ship_all,
        engine,
        settings.data_dir / JOURNAL_FOLDER,
        keys=keys.load(settings),
        geo=GeoResolver(settings.geoip_dir),
        settings=settings,
    )
    bell = _Bell(worker.ring)
    # A batch is thousands of short-lived rows without cycles; looking for cycles among them, and
    # among what was loaded before them, took a third of the shipper's time.
    gc.freeze()
    gc.set_threshold(_OBJECTS_BEFORE_GC, 50, 100)
    while True:
        last = stopping.is_set()
        moved = _ship_patiently(ship_all, stopping)
        bell.touch(owed=moved.records > 0, now=last)
        if last and not moved:
            break
        if not moved:
            stopping.wait(settings.ship_idle_milliseconds / 1000)
    bell.wait()
    engine.dispose()


class _Bell:
    """Rings in a thread of its own: a broker that is away keeps a caller for seconds."""

    def __init__(self, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._ringing = threading.Thread()
        self._rung_at = 0.0
        self._owed = False

    def touch(self, *, owed: bool, now: bool) -> None:
        """Ring if something came since the last time, not too often and never twice at once."""
        self._owed = self._owed or owed
        due = now or time.monotonic() - self._rung_at > _RING_SECONDS
        if self._owed and due and not self._ringing.is_alive():
            self._ringing = threading.Thread(target=self._ring, name="bell", daemon=True)
            self._ringing.start()
            self._rung_at, self._owed = time.monotonic(), False

    def wait(self) -> None:
        """Let the last ring be heard, if it is soon."""
        if self._ringing.ident is not None:
            self._ringing.join(timeout=_LAST_RING_SECONDS)


def _ship_patiently(
    ship_all: Callable[..., shipper.Shipped], stopping: threading.Event
) -> shipper.Shipped:
    try:
        return ship_all(now=clock.now())
    except sa.exc.SQLAlchemyError as error:
        # Nothing is lost: the journal keeps what the database does not have yet.
        _log.warning("database_unreachable", error=type(error).__name__)
        stopping.wait(_TROUBLE_PAUSE_SECONDS)
        return shipper.Shipped()


def work(*, with_beat: bool) -> None:
    """Run the Celery worker."""
    die_with_supervisor()
    from server import worker  # noqa: PLC0415 - importing it connects to the broker

    worker.run(with_beat=with_beat)
