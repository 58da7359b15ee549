"""Celery's side of the house, in a process of its own: importing it opens broker and database."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
DESCRIBE = """
import json
from server import worker
conf = worker.app.conf
print(json.dumps({
    "tasks": sorted(name for name in worker.app.tasks if name.startswith("tallystick.")),
    "schedule": {
        name: [entry["task"], entry["schedule"], entry["options"]["expires"]]
        for name, entry in conf.beat_schedule.items()
    },
    "broker": conf.broker_url,
    "accept": conf.accept_content,
    "remote_control": conf.worker_enable_remote_control,
}))
"""
RING = "from server import worker; worker.ring()"
MAINTAIN = "from server import worker; worker.maintain()"


def run(script: str, folder: Path, **settings: str) -> str:
    done = subprocess.run(  # noqa: S603 - our own interpreter and scripts
        [sys.executable, "-c", script],
        cwd=folder.parent,
        env={
            **os.environ,
            "PYTHONPATH": str(REPOSITORY),
            "TALLYSTICK_DATA_DIR": str(folder),
            **{f"TALLYSTICK_{name.upper()}": text for name, text in settings.items()},
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def folder(sqlite_url: str, tmp_path: Path) -> Path:
    assert sqlite_url
    return tmp_path / "var"


def test_what_is_scheduled_exists(folder: Path) -> None:
    found: dict[str, Any] = json.loads(run(DESCRIBE, folder))

    assert sorted(task for task, _, _ in found["schedule"].values()) == found["tasks"]
    assert found["tasks"] == [
        "tallystick.check_links",
        "tallystick.drain",
        "tallystick.forget",
        "tallystick.maintain",
        "tallystick.plan_jobs",
        "tallystick.prune_rollups",
        "tallystick.pull_feeds",
        "tallystick.sweep",
    ]
    # A message that nobody took until the next one is due would only pile up.
    assert all(every == expires for _, every, expires in found["schedule"].values())
    assert (found["broker"], found["accept"]) == ("filesystem://", ["json"])
    assert found["remote_control"] is False


def test_the_folder_broker_keeps_its_messages_on_one_disk_and_forgets_old_ones(
    folder: Path,
) -> None:
    run(RING, folder)

    broker = folder / "broker"
    assert {path.name for path in broker.iterdir()} == {"messages", "control", "processed"}
    (message,) = (broker / "messages").iterdir()
    assert b"tallystick.drain" in message.read_bytes()
    old, new = broker / "processed" / "old.msg", broker / "processed" / "new.msg"
    for path in (old, new):
        path.write_text("{}")
    an_hour_ago = time.time() - 3_600
    os.utime(old, (an_hour_ago, an_hour_ago))

    run(MAINTAIN, folder)

    assert [path.name for path in (broker / "processed").iterdir()] == ["new.msg"]
    assert message.exists()
    assert not list(folder.parent.glob("celerybeat*"))


WATCHED = """
import os, sys
from kombu.transport import filesystem
from server import worker

seen = []

def watch(event, arguments):
    folder = os.path.join(os.environ["TALLYSTICK_DATA_DIR"], "broker", "messages")
    if event in ("open", "os.rename", "fcntl.lockf", "fcntl.flock") and os.path.isdir(folder):
        for name in os.listdir(folder):
            seen.append(os.path.getsize(os.path.join(folder, name)))

sys.addaudithook(watch)
for _ in range(3):
    worker.ring()
os.listdir(".")
print(len(seen), 0 in seen)
with worker.app.connection_for_read() as connection:
    print(type(connection.default_channel).__module__)
"""


def test_a_message_that_is_still_written_is_not_taken_by_a_worker(folder: Path) -> None:
    # Celery stopped on the empty file: `Unrecoverable error: JSONDecodeError`.
    looks, module = run(WATCHED, folder).splitlines()

    assert int(looks.split()[0]) > 0
    assert looks.endswith(" False")
    assert module == "server.folder_broker"
    assert len(list((folder / "broker" / "messages").iterdir())) == 3
    assert not list((folder / "broker" / "processed").iterdir())


def test_another_broker_needs_no_folder(folder: Path) -> None:
    found = json.loads(run(DESCRIBE, folder, broker_url="redis://127.0.0.1:1/0"))

    assert found["broker"] == "redis://127.0.0.1:1/0"
    assert not (folder / "broker").exists()


def test_a_doorbell_that_cannot_be_rung_stops_nobody(folder: Path) -> None:
    run(RING, folder, broker_url="amqp://guest:guest@127.0.0.1:1//")
