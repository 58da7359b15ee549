"""Celery: the doorbell and the clock of background work. The only door to it.

A message says "look again", nothing more: what is to be done stands in rows with leases, so a lost
or doubled message is harmless on every broker. The default broker is a folder, which needs no
server; kombu's folder transport forgets a message whose worker dies, and beat rings again.
"""

import os
import threading
import time
import warnings
from pathlib import Path
from typing import Any

from celery import Celery
from celery.beat import Service
from celery.exceptions import SecurityWarning

from kernel import clock, keys, log, settings
from kernel.database import connect
from kernel.outbox import Limits, drain
from server import chores, folder_broker, pipeline

_log = log.get(__name__)
_CONFIGURED = settings.load()
_PROCESSED_MESSAGES_KEPT_SECONDS = 600
# Beat sleeps no longer than this, so that it hears quickly that it should stop.
_BEAT_SECONDS_MAX = 1


def _folder_transport(root: Path) -> dict[str, Any]:
    # Incoming and outgoing are the same folder; a message is moved to `processed` on the same disk,
    # because kombu would otherwise copy it to the system's temporary folder, where two workers can
    # both take it.
    folders = {name: root / name for name in ("messages", "control", "processed")}
    for folder in folders.values():
        folder.mkdir(parents=True, exist_ok=True)
    return {
        "data_folder_in": str(folders["messages"]),
        "data_folder_out": str(folders["messages"]),
        "control_folder": str(folders["control"]),
        "processed_folder": str(folders["processed"]),
        "store_processed": True,
        "polling_interval": 0.2,
    }


def _transport(configured: settings.Settings) -> dict[str, Any]:
    if configured.broker_url:
        return {"broker_url": configured.broker_url}
    return {
        "broker_url": "filesystem://",
        "broker_transport": f"{folder_broker.__name__}:{folder_broker.Transport.__name__}",
        "broker_transport_options": _folder_transport(configured.data_dir / "broker"),
    }


app = Celery("tallystick")
app.conf.update(
    **_transport(_CONFIGURED),
    task_ignore_result=True,
    task_serializer="json",
    accept_content=["json"],
    timezone="UTC",
    worker_hijack_root_logger=False,
    worker_enable_remote_control=False,
    worker_send_task_events=False,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    worker_redirect_stdouts=False,
    # In memory: every task here is due again within seconds of a start, and a file of past runs
    # is one more thing that a crash can break.
    beat_scheduler="celery.beat:Scheduler",
    beat_schedule={
        "drain": {"task": "tallystick.drain", "schedule": 2.0, "options": {"expires": 2}},
        "sweep": {"task": "tallystick.sweep", "schedule": 15.0, "options": {"expires": 15}},
        "maintain": {"task": "tallystick.maintain", "schedule": 20.0, "options": {"expires": 20}},
        "forget": {"task": "tallystick.forget", "schedule": 3600.0, "options": {"expires": 3600}},
        "plan_jobs": {"task": "tallystick.plan_jobs", "schedule": 3.0, "options": {"expires": 3}},
        "pull_feeds": {
            "task": "tallystick.pull_feeds",
            "schedule": 30.0,
            "options": {"expires": 30},
        },
        "check_links": {
            "task": "tallystick.check_links",
            "schedule": 60.0,
            "options": {"expires": 60},
        },
        "prune_rollups": {
            "task": "tallystick.prune_rollups",
            "schedule": 3600.0,
            "options": {"expires": 3600},
        },
    },
)

_engine = connect(_CONFIGURED.database, pool_size=_CONFIGURED.worker_threads + 2)
_handlers = pipeline.handlers(keys.load(_CONFIGURED))


def _owner() -> str:
    return f"{os.uname().nodename}:{os.getpid()}:{threading.get_ident()}"


@app.task(name="tallystick.drain")
def drain_outbox() -> None:
    """Work what the outbox holds."""
    drain(
        _engine,
        _handlers,
        owner=_owner(),
        limits=Limits(
            batch_milliseconds=_CONFIGURED.outbox_batch_milliseconds,
            attempts_max=_CONFIGURED.outbox_attempts_max,
            lease_seconds=_CONFIGURED.outbox_lease_seconds,
        ),
        clock=clock.now,
    )


@app.task(name="tallystick.sweep")
def sweep() -> None:
    """Move commissions whose lock date has passed."""
    chores.sweep(_engine, owner=_owner(), now=clock.now())


@app.task(name="tallystick.maintain")
def maintain() -> None:
    """Fold SQLite's log into its file, let old clicks go and drop messages delivered long ago."""
    chores.maintain(_engine, _CONFIGURED, now=clock.now())
    if not _CONFIGURED.broker_url:
        _prune(_CONFIGURED.data_dir / "broker" / "processed")


@app.task(name="tallystick.forget")
def forget() -> None:
    """Drop what is remembered of customers, unmatched orders and files for longer than allowed."""
    chores.forget(_engine, _CONFIGURED, now=clock.now())
    chores.forget_uploads(_engine, _CONFIGURED, owner=_owner(), now=clock.now())


@app.task(name="tallystick.plan_jobs")
def plan_jobs() -> None:
    """Play draft plans over the past, and rate orders again that a manager has confirmed."""
    chores.work_plan_jobs(_engine, owner=_owner(), clock=clock.now)


@app.task(name="tallystick.pull_feeds")
def pull_feeds() -> None:
    """Pull the feeds whose time has come."""
    chores.pull_feeds(_engine, _CONFIGURED, owner=_owner(), now=clock.now())


@app.task(name="tallystick.prune_rollups")
def prune_rollups() -> None:
    """Let go of roll-ups that are past their time."""
    chores.prune_rollups(_engine, _CONFIGURED, owner=_owner(), now=clock.now())


@app.task(name="tallystick.check_links")
def check_links() -> None:
    """Look at pages that links lead to."""
    chores.check_links(_engine, _CONFIGURED, owner=_owner(), now=clock.now())


def ring() -> None:
    """Tell a worker that the outbox has something; failing to is a delay of seconds, not a loss."""
    try:
        drain_outbox.apply_async(expires=5, retry=False)
    except Exception as error:  # noqa: BLE001 - no broker of any kind may stop the shipper
        _log.warning("doorbell_failed", error=type(error).__name__)


def run(*, with_beat: bool) -> None:
    """Work until told to stop."""
    # A container's only user is often root; our messages are JSON that names a task and carries
    # nothing, which is what the warning is about.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    arguments = [
        "--quiet",
        "worker",
        "--pool=threads",
        f"--concurrency={_CONFIGURED.worker_threads}",
        "--loglevel=WARNING",
        "--without-gossip",
        "--without-mingle",
        "--without-heartbeat",
    ]
    # A thread of ours, not `--beat`: that forks a process which a killed worker leaves behind,
    # ringing for ever beside the beat of the next worker.
    beat = Service(app, max_interval=_BEAT_SECONDS_MAX, scheduler_cls=app.conf.beat_scheduler)
    ticking = threading.Thread(target=beat.start, name="beat", daemon=True)
    if with_beat:
        ticking.start()
    try:
        app.worker_main(arguments)
    finally:
        beat.stop()
        if with_beat:
            ticking.join(timeout=2 * _BEAT_SECONDS_MAX)


def _prune(folder: Path) -> None:
    oldest = time.time() - _PROCESSED_MESSAGES_KEPT_SECONDS
    for path in folder.iterdir():
        if path.stat().st_mtime < oldest:
            path.unlink(missing_ok=True)
