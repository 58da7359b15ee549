"""What is under way, counted where it waits."""

from pathlib import Path

from sqlalchemy.engine import Engine
from sqlmodel import Session

from network.access import Actor
from network.models import Role
from server import backlog
from tests import make
from tracker import order_files, uploads
from tracker.order_files import Reading

FILE = b"order_id,amount,currency\nA-1,12.50,EUR\nA-2,3.00,EUR\n"


def test_a_file_that_waits_is_under_way(engine: Engine, tmp_path: Path) -> None:
    """The demo shop's file was worked after `/v1/status` had said that nothing was under way."""
    with Session(engine) as session:
        before = backlog.status(session, tmp_path)
        program = make.program(session)
        upload = uploads.add(
            session,
            program_id=program.id,
            actor=Actor(id="usr_1", role=Role.MANAGER, party_id="", name="Mina"),
            file_name="orders.csv",
            content=FILE,
            content_hash="0" * 64,
            file=order_files.read(FILE, Reading(rows_max=100, decoded_bytes_max=10**6)),
            now=make.NOW,
        )

        waiting = backlog.status(session, tmp_path)
        uploads.fail(session, upload.id, "no columns", now=make.NOW)

        nothing = {"uploads_open": 0, "journal_bytes": 0, "outbox_pending": 0, "outbox_parked": 0}
        assert before == nothing
        assert waiting == {**nothing, "uploads_open": 1}
        assert backlog.status(session, tmp_path) == nothing
