"""Work that the clock asks for: plain functions for the worker's schedule, tests and tools."""

from datetime import datetime, timedelta

from sqlalchemy.engine import Engine
from sqlmodel import col, select

from commissions import accruals
from feeds import imports
from feeds.models import FeedSource
from kernel import log
from kernel.database import checkpoint, let_others_write, reading, unit_of_work
from kernel.outbox import acquire, release
from kernel.settings import Settings

_log = log.get(__name__)
_SWEEP_ROWS = 200
_LEASE_SECONDS = 1_200


def sweep(engine: Engine, *, owner: str, now: datetime) -> int:
    """Approve and make payable what its lock date allows, in short transactions; rows moved."""
    moved = 0
    while True:
        with unit_of_work(engine) as session:
            if not acquire(session, "sweep", owner=owner, seconds=_LEASE_SECONDS, now=now):
                return moved
            batch = accruals.sweep(session, now=now, rows_max=_SWEEP_ROWS)
            if batch == 0:
                release(session, "sweep", owner=owner)
                return moved
        moved += batch
        let_others_write(engine)


def maintain(engine: Engine) -> None:
    """Keep the database's own files small."""
    checkpoint(engine)


def pull_feeds(engine: Engine, settings: Settings, *, owner: str, now: datetime) -> None:
    """Pull every source whose time has come, one after the other; a failure stops only itself."""
    with reading(engine) as session:
        due = list(
            session.exec(
                select(FeedSource.id).where(
                    FeedSource.url != "", col(FeedSource.next_pull_at) <= now
                )
            )
        )
    for source_id in due:
        with unit_of_work(engine) as session:
            if not acquire(
                session, f"feed:{source_id}", owner=owner, seconds=_LEASE_SECONDS, now=now
            ):
                continue
            source = session.get_one(FeedSource, source_id)
            source.next_pull_at = now + timedelta(minutes=settings.feed_refresh_minutes)
        try:
            imports.pull(engine, source_id, settings=settings, now=now)
        except Exception as error:  # noqa: BLE001 - see below
            # A bad feed is recorded by the import itself; this is a database or disk in trouble,
            # and the other feeds must not wait for it.
            _log.exception("feed_pull_failed", source_id=source_id, exc_info=error)
