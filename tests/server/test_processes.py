"""Real processes: a supervisor, its children, and what happens when one of them does not obey."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from kernel.settings import Settings
from server import processes

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 30

# What `serve` runs, with children that only say what happens to them.
SUPERVISOR = """
import sys
from kernel import log
from kernel.settings import Settings
from server.processes import Child, Supervisor
log.configure()
supervisor = Supervisor(Settings(port=0), only="all")
names, script = sys.argv[1].split(), sys.argv[2]
supervisor._children = [Child(name, [sys.executable, "-c", script, name]) for name in names]
supervisor.run()
print("end", flush=True)
"""
# A line is one write: several children share the pipe, and `print` writes a line in pieces when
# Python runs unbuffered.
OBEDIENT = """
import os, signal, sys, time
from server.processes import die_with_supervisor
name = sys.argv[1]
def say(*words):
    os.write(1, (" ".join(words) + "\\n").encode())
def stop(*_):
    say("stops", name)
    os._exit(0)
signal.signal(signal.SIGTERM, stop)
die_with_supervisor()
say("up", name, os.environ["TALLYSTICK_PORT"])
if name == "weak":
    os._exit(3)
while True:
    time.sleep(1)
"""
STUBBORN = """
import os, signal, sys, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
if os.fork() == 0:
    signal.pause()
print("up", flush=True)
while True:
    time.sleep(1)
"""


@contextmanager
def started(script: str, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(  # noqa: S603 - our own interpreter and scripts
        [sys.executable, "-c", script, *arguments],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.communicate(timeout=PATIENCE_SECONDS)


def lines(process: subprocess.Popen[str], count: int) -> list[str]:
    assert process.stdout is not None
    return [process.stdout.readline().strip() for _ in range(count)]


def rest(process: subprocess.Popen[str]) -> list[str]:
    """What is still said until every process that holds the output has ended."""
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    return said.split("\n")[:-1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_children_know_the_port_and_are_stopped_in_order(number: signal.Signals) -> None:
    with started(SUPERVISOR, "web shipper worker", OBEDIENT) as supervisor:
        up = lines(supervisor, 3)
        assert all(line.startswith("up ") for line in up), up
        ports = {line.split()[2] for line in up}
        os.kill(supervisor.pid, number)

        assert rest(supervisor) == ["stops web", "stops shipper", "stops worker", "end"]

    assert {line.split()[1] for line in up} == {"web", "shipper", "worker"}
    assert len(ports) == 1
    assert ports != {"0"}
    assert supervisor.returncode == 0


def test_a_child_that_dies_is_started_again() -> None:
    with started(SUPERVISOR, "weak", OBEDIENT) as supervisor:
        first, second = lines(supervisor, 2)
        supervisor.terminate()
        _, logged = supervisor.communicate(timeout=PATIENCE_SECONDS)

    assert re.fullmatch(r"up weak \d+", first)
    assert second == first
    said = json.loads(logged.splitlines()[0])
    assert (said["event"], said["child"], said["code"]) == ("child_died", "weak", 3)
    assert supervisor.returncode == 0


def test_children_stop_themselves_when_the_supervisor_is_killed() -> None:
    with started(SUPERVISOR, "web shipper", OBEDIENT) as supervisor:
        lines(supervisor, 2)
        supervisor.kill()

        # The output ends only when the children have ended, too.
        assert sorted(rest(supervisor)) == ["stops shipper", "stops web"]


def test_a_child_without_supervisor_watches_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(processes.LIFELINE_VARIABLE, raising=False)

    processes.die_with_supervisor()


def test_who_does_not_stop_when_asked_is_killed_with_its_children(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.3)
    with subprocess.Popen(  # noqa: S603 - our own interpreter and script
        [sys.executable, "-c", STUBBORN], stdout=subprocess.PIPE, start_new_session=True
    ) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"

        processes.stop(child)

        assert child.returncode == -signal.SIGKILL
        assert child.stdout.read() == b""  # held open by the grandchild until it has ended


def test_stopping_what_has_ended_is_harmless() -> None:
    with subprocess.Popen([sys.executable, "-c", "raise SystemExit(7)"]) as child:
        child.wait()

        processes.stop(child)
        processes.stop(None)

        assert child.returncode == 7


def test_a_taken_port_is_named_with_the_way_out(settings: Settings) -> None:
    with closing(socket.socket()) as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]

        with pytest.raises(processes.PortTaken) as refusal:
            processes.listen(settings.model_copy(update={"port": port}))

    assert str(refusal.value) == (
        f"cannot listen on 127.0.0.1:{port} (Address already in use); another server is running "
        "there, or set TALLYSTICK_PORT (make run PORT=...)"
    )


def test_the_socket_listens_before_any_child_runs(settings: Settings) -> None:
    with closing(processes.listen(settings.model_copy(update={"port": 0}))) as opened:
        with closing(socket.create_connection(opened.getsockname(), timeout=5)) as visitor:
            assert visitor.getpeername() == opened.getsockname()
        assert opened.get_inheritable()


def test_every_node_that_journals_ships() -> None:
    assert {name for name, roles in processes.ROLES.items() if "shipper" in roles} == {
        "all",
        "tracker",
        "web",
    }


def test_more_listening_processes_are_started_and_stopped_together() -> None:
    settings = Settings(port=0, serve_processes=3)
    supervisor = processes.Supervisor(settings, only="all")
    names = [child.name for child in supervisor._children]
    assert names == ["web", "web", "web", "shipper", "worker"]
    assert len({child.descriptors for child in supervisor._children if child.descriptors}) == 1
    supervisor._socket.close()

    with started(SUPERVISOR, "web web web shipper", OBEDIENT) as process:
        lines(process, 4)
        process.terminate()
        assert rest(process) == ["stops web"] * 3 + ["stops shipper", "end"]
