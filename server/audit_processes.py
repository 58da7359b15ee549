"""The audit by several processes, each of which takes the next step that nobody has taken.

All of them see one snapshot on PostgreSQL. On SQLite each step has a snapshot of its own, taken
when it begins, so that the write-ahead log can be folded back between steps; no step compares with
what another one has read, so an order that is booked meanwhile is seen whole or not at all.
"""

import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from multiprocessing import get_context, parent_process
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session

from kernel.database import connect, reading, scanning, sort_on_disk
from kernel.settings import Settings
from server import audit
from server.audit import Finding, Scope, Step

# Below it, starting processes takes longer than what they save.
_ORDERS_MIN = 20_000
_LOOK_SECONDS = 0.2
_SAY_EVERY = 500
_OBJECTS_BEFORE_GC = 50_000

Progress = Callable[[str, int, int], None]
"""Hears of what, how many are done, and of how many."""


class _Worker(NamedTuple):
    """What a process needs for its steps; `done` counts the orders of all of them."""

    engine: Engine
    settings: Settings
    snapshot: str | None
    done: Any


_worker: _Worker | None = None


def run(
    engine: Engine, settings: Settings, scope: Scope, *, processes: int, progress: Progress
) -> Iterator[Finding]:
    """As `audit.run`, for a scope. Findings come in order, after the steps before them are done."""
    with reading(engine) as session:
        snapshot = _export(session)
        steps = audit.steps(session, scope)
        orders = sum(step.orders for step in steps)
        if snapshot is None:
            # Nothing more is read here, and the log of SQLite must not wait for us.
            session.rollback()
        if processes <= 1 or orders < _ORDERS_MIN:
            yield from _alone(engine, settings, steps, progress)
        else:
            begin = (engine.url.render_as_string(hide_password=False), settings, snapshot)
            yield from _together(begin, steps, processes, progress)


def _alone(
    engine: Engine, settings: Settings, steps: list[Step], progress: Progress
) -> Iterator[Finding]:
    told = _Told(steps, progress)
    for step in steps:
        with scanning(engine) as session:
            yield from audit.take(session, settings, step, told.orders)
        told.steps(1)


def _together(
    begin: tuple[str, Settings, str | None], steps: list[Step], processes: int, progress: Progress
) -> Iterator[Finding]:
    # A forked process would share our connections.
    context = get_context("spawn")
    done = context.Value("q", 0)
    pool = ProcessPoolExecutor(processes, context, initializer=_begin, initargs=(*begin, done))
    try:
        # Checks first: they are few and some are long. Parts of the replay come large ones first.
        futures = {
            at: pool.submit(_take, step)
            for at, step in sorted(enumerate(steps), key=lambda one: one[1].part is not None)
        }
        told = _Told(steps, progress)
        for at in range(len(steps)):
            yield from _result(futures[at], list(futures.values()), told, done)
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def _result(
    future: "Future[list[Finding]]",
    every: "list[Future[list[Finding]]]",
    told: "_Told",
    done: Any,
) -> list[Finding]:
    while True:
        wait([future], timeout=_LOOK_SECONDS)
        told.is_at(sum(one.done() for one in every), done.value)
        if future.done():
            return future.result()


class _Told:
    """What was said of the progress."""

    def __init__(self, steps: list[Step], progress: Progress) -> None:
        self._progress = progress
        self._steps_total = len(steps)
        self._orders_total = sum(step.orders for step in steps)
        self._steps = self._orders = 0
        self._said: dict[str, int] = {}
        self._said_at = 0.0

    def steps(self, count: int) -> None:
        """So many more steps are done."""
        self.is_at(self._steps + count, self._orders)

    def orders(self, count: int) -> None:
        """So many more orders are done."""
        self._orders += count
        if time.monotonic() - self._said_at > _LOOK_SECONDS:
            self.is_at(self._steps, self._orders)

    def is_at(self, steps: int, orders: int) -> None:
        """So much is done."""
        self._steps, self._orders, self._said_at = steps, orders, time.monotonic()
        for what, now, total in (
            ("orders", orders, self._orders_total),
            ("steps", steps, self._steps_total),
        ):
            if self._said.get(what, 0) != now:
                self._said[what] = now
                self._progress(what, now, total)


def _export(session: Session) -> str | None:
    """Let other connections see what this one sees, for as long as its transaction lasts."""
    if session.get_bind().dialect.name != "postgresql":
        return None
    return str(session.execute(sa.text("SELECT pg_export_snapshot()")).scalar_one())


def _begin(url: str, settings: Settings, snapshot: str | None, done: Any) -> None:
    """Become a process of the audit."""
    global _worker  # noqa: PLW0603 - how a pool hands its processes what they keep
    rest_collector()
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    threading.Thread(target=_die_with_parent, daemon=True).start()
    engine = connect(url, pool_size=1)
    sort_on_disk(engine)
    _worker = _Worker(engine, settings, snapshot, done)


def rest_collector() -> None:
    """Let the collector of this process look at new objects only, and seldom.

    A replay makes some hundred objects an order, which go with it and not in rings.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS_BEFORE_GC, 50, 100)


def _die_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _take(step: Step) -> list[Finding]:
    if _worker is None:  # pragma: no cover - the pool begins its processes
        raise RuntimeError("this process was not begun")
    worker = _worker
    counted = 0

    def say(count: int) -> None:
        nonlocal counted
        counted += count
        if counted >= _SAY_EVERY:
            flush()

    def flush() -> None:
        nonlocal counted
        with worker.done.get_lock():
            worker.done.value += counted
        counted = 0

    with _seeing(worker) as session:
        found = list(audit.take(session, worker.settings, step, say))
    flush()
    return found


@contextmanager
def _seeing(worker: _Worker) -> Iterator[Session]:
    with scanning(worker.engine) as session:
        if worker.snapshot is not None:
            name = worker.snapshot.replace("'", "")
            session.execute(sa.text(f"SET TRANSACTION SNAPSHOT '{name}'"))
        yield session
