"""One serving process of Tallystick on a small network. `BENCH_PER_CLICK=1` syncs every click."""

import os
import socket
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from kernel import clock, log
from kernel.database import connect, unit_of_work
from kernel.settings import Settings, load
from network import programs, publishers
from network.models import MembershipStatus
from server import children, migrate
from tracker import node
from tracker.journal import Done, Journal, JournalUnavailable, open_journal
from tracker.journal_process import WriterProcess
from tracker.journal_segments import Call


def make_network(settings: Settings) -> None:
    """The program `shop` and its publisher `blog`, once."""
    if (settings.data_dir / "tallystick.db").exists():
        return
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    migrate.upgrade(settings.database)
    engine, now = connect(settings.database), clock.now()
    with unit_of_work(engine) as session:
        advertiser = programs.add_advertiser(session, name="Acme", now=now)
        program = programs.add(
            session,
            advertiser_id=advertiser.id,
            code="shop",
            name="Shop",
            currency="EUR",
            landing_url="https://shop.test/start",
            now=now,
        )
        publishers.set_membership(
            session,
            program=program,
            publisher=publishers.add(session, code="blog", name="Blog", now=now),
            status=MembershipStatus.APPROVED,
            actor="benchmark",
            now=now,
        )
    engine.dispose()


def sync_every_click() -> None:
    """What a journal without group commit would do: one write and one sync for each click."""

    def record(self: Journal, payloads: Call, done: Done) -> None:
        if isinstance(self._writer, WriterProcess):
            raise JournalUnavailable("internal")
        [outcome] = self._writer.segments.commit([payloads])
        done(outcome)

    def open_own_hand(directory: Path, **given: Any) -> Journal:
        return open_journal(directory, **{**given, "with_process": False})

    Journal.record = record  # type: ignore[method-assign]  # the whole point of this variant
    vars(node)["open_journal"] = open_own_hand


if __name__ == "__main__":
    configured = load()
    log.configure("WARNING")
    make_network(configured)
    if os.environ.get("BENCH_ONLY_NETWORK"):
        sys.exit(0)
    if os.environ.get("BENCH_PER_CLICK"):
        sync_every_click()
    listener = socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=1024)
    children.serve_http(configured, descriptor=listener.detach(), only_tracker=True)
