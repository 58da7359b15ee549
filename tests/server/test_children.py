"""The shipper as a process: it moves what is there before it obeys, and outlives its database."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from kernel.database import unit_of_work
from kernel.keys import load
from kernel.settings import Settings
from server import children
from tests import make
from tracker import events, journal
from tracker.click_ids import RANDOM_BYTES
from tracker.node import click_id_signer
from tracker.shipper import Shipped

REPOSITORY = Path(__file__).resolve().parents[2]
CLICKS = 40


def journalled(settings: Settings, engine: Engine) -> set[str]:
    """Clicks that a tracker acknowledged and nobody has shipped; their ids."""
    with unit_of_work(engine) as session:
        program = make.program(session)
        who = make.publisher(session, member_of=program)
        signer = click_id_signer(load(settings))
        seen = [
            events.ClickSeen(
                id=signer.mint(
                    at=make.NOW,
                    program_number=program.number,
                    publisher_number=who.number,
                    random_bytes=os.urandom(RANDOM_BYTES),
                ),
                at=make.NOW,
                program_number=program.number,
                publisher_number=who.number,
                page=program.landing_url,
                address=f"192.0.2.{number}",
                user_agent="Mozilla/5.0 Gecko/",
            )
            for number in range(CLICKS)
        ]
    opened = journal.open_journal(
        settings.data_dir / "journal" / "1",
        segment_bytes_max=settings.journal_segment_bytes_max,
        journal_bytes_max=settings.journal_bytes_max,
        record_bytes_max=settings.journal_record_bytes_max,
    )
    opened.sync_append_many([events.encode(one) for one in seen])
    opened.sync_close()
    return {one.id for one in seen}


@pytest.mark.parametrize("broker_url", ["", "amqp://guest:guest@127.0.0.1:1//"])
def test_a_shipper_that_is_told_to_stop_ships_first(
    settings: Settings, sqlite_engine: Engine, broker_url: str
) -> None:
    clicks = journalled(settings, sqlite_engine)
    assert settings.secret is not None
    with subprocess.Popen(
        [sys.executable, "-m", "server", "child", "shipper"],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "TALLYSTICK_DATA_DIR": str(settings.data_dir),
            "TALLYSTICK_SECRET": settings.secret.get_secret_value(),
            "TALLYSTICK_BROKER_URL": broker_url,
        },
    ) as shipper:
        try:
            deadline = time.monotonic() + 30
            found: set[str] = set()
            while not found and time.monotonic() < deadline:
                time.sleep(0.05)
                found = {click.id for click in make.clicks(sqlite_engine)}
            shipper.send_signal(signal.SIGTERM)
            # A broker that is away used to hold up every batch, and the end, for six seconds.
            code = shipper.wait(timeout=4)
        finally:
            # Whatever failed here, nobody waits for a child that nobody told.
            shipper.kill()

    assert {click.id for click in make.clicks(sqlite_engine)} == clicks
    assert code == 0
    if not broker_url:  # It rang, so that somebody looks at the outbox at once.
        assert list((settings.data_dir / "broker" / "messages").iterdir())


def test_a_database_that_is_away_is_waited_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(children, "_TROUBLE_PAUSE_SECONDS", 0.01)

    def away(**_facts: object) -> Shipped:
        raise sa.exc.OperationalError("SELECT 1", {}, Exception("gone"))

    moved = children._ship_patiently(away, threading.Event())

    assert not moved
    assert moved == Shipped()
    capsys.readouterr()


def test_any_other_error_is_not_hidden() -> None:
    def broken(**_facts: object) -> Shipped:
        raise ValueError("a mistake of ours")

    with pytest.raises(ValueError, match="a mistake of ours"):
        children._ship_patiently(broken, threading.Event())
