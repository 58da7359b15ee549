"""Work that the clock asks for: plain functions for the worker's schedule, tests and tools."""

from datetime import datetime, timedelta

from sqlalchemy.engine import Engine
from sqlmodel import col, select

from commissions import accruals, plan_jobs
from feeds import imports
from feeds.models import FeedSource
from kernel import log
from kernel.database import checkpoint, let_others_write, reading, unit_of_work
from kernel.outbox import acquire, release
from kernel.settings import Settings
from tracker import click_days, customers, link_checks, rollup_checks, uploads, visitors

_log = log.get(__name__)
_SWEEP_ROWS = 200
_PRUNED_ROWS = 5_000
# At 2 requests of 10 seconds each, well within the lease.
_LOOKS = 10
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


def maintain(engine: Engine, settings: Settings, *, now: datetime) -> None:
    """Keep the database's own files small, and nothing longer than the settings say."""
    checkpoint(engine)
    click_days.make_ahead(engine, now=now)
    retired = click_days.retire(engine, keep_days=settings.click_days, now=now)
    if retired:
        _log.info("clicks_retired", days=retired)
    visitors.forget(engine, now=now)


def prune_rollups(engine: Engine, settings: Settings, *, owner: str, now: datetime) -> int:
    """Let go of hours and marks of visitors past their time, in short transactions; rows gone."""
    gone = 0
    while True:
        with unit_of_work(engine) as session:
            if not acquire(session, "rollups", owner=owner, seconds=_LEASE_SECONDS, now=now):
                return gone
            batch = rollup_checks.prune(
                session,
                now=now,
                hours_days=settings.rollup_hours_days,
                visitor_days=settings.rollup_visitor_days,
                rows_max=_PRUNED_ROWS,
            )
            if batch == 0:
                release(session, "rollups", owner=owner)
                return gone
        gone += batch
        let_others_write(engine)


def check_links(engine: Engine, settings: Settings, *, owner: str, now: datetime) -> int:
    """Look at the pages that are due, one of a host; how many. Nothing is locked meanwhile."""
    with unit_of_work(engine) as session:
        if not acquire(session, "links", owner=owner, seconds=_LEASE_SECONDS, now=now):
            return 0
        link_checks.forget(session, now=now)
    with reading(engine) as session:
        targets = link_checks.due(session, settings, now=now, limit=_LOOKS)
    for target in targets:
        found = link_checks.look(target.url, settings)
        with unit_of_work(engine) as session:
            link_checks.keep(session, target, found, settings, now=now)
    with unit_of_work(engine) as session:
        release(session, "links", owner=owner)
    return len(targets)


def forget(engine: Engine, settings: Settings, *, now: datetime) -> None:
    """Drop customers not seen for long, and what orders waited for that nothing has matched."""
    with unit_of_work(engine) as session:
        customers.forget(
            session,
            known_before=now - timedelta(days=settings.known_customer_days_max),
            wanted_before=now - timedelta(days=settings.unmatched_order_days_max),
        )


def forget_uploads(engine: Engine, settings: Settings, *, owner: str, now: datetime) -> int:
    """Let go of files of orders past their time, in short transactions; rows and files gone."""
    if not settings.upload_days:
        return 0
    gone = 0
    while True:
        with unit_of_work(engine) as session:
            if not acquire(session, "uploads", owner=owner, seconds=_LEASE_SECONDS, now=now):
                return gone
            batch = uploads.forget(
                session,
                done_before=now - timedelta(days=settings.upload_days),
                rows_max=_PRUNED_ROWS,
            )
            if batch == 0:
                release(session, "uploads", owner=owner)
                return gone
        gone += batch
        let_others_write(engine)


def work_plan_jobs(engine: Engine, *, owner: str, clock: plan_jobs.Clock) -> int:
    """Do what simulations and re-rates have to do that nobody else is at; how many moved."""
    with reading(engine) as session:
        waiting = plan_jobs.waiting(session)
    return sum(plan_jobs.work(engine, job_id, owner=owner, clock=clock) for job_id in waiting)


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
