"""`tallystick serve`: one supervisor, its children, and an end that loses nothing.

The supervisor opens the listening socket before anything else, starts the children in sessions of
their own (Ctrl-C reaches only the supervisor), starts one again when it dies, and stops them in
order: web first (no new events), then the shipper (moves what the journal holds), then the worker.
Every child holds the reading end of a pipe whose writing end only the supervisor has: when the
supervisor dies, however it dies, the children see the end of the pipe and stop themselves.
"""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from itertools import groupby

from kernel import log
from kernel.settings import Settings

_log = log.get(__name__)
STOP_SECONDS = 30
_RESTART_PAUSE_SECONDS_MAX = 15.0
_HEALTHY_SECONDS = 10.0
_LOOK_SECONDS = 0.2
LIFELINE_VARIABLE = "_TALLYSTICK_LIFELINE"

ROLES: dict[str, tuple[str, ...]] = {
    "all": ("web", "shipper", "worker"),
    "tracker": ("tracker", "shipper"),
    "web": ("web", "shipper"),
}
"""What `--only` may name, and the children it means. Every node that journals also ships."""
_LISTENING = frozenset({"web", "tracker"})


class PortTaken(Exception):
    """Something else listens on the address."""


@dataclass(slots=True)
class Child:
    """One process of the house and how it fares."""

    name: str
    arguments: list[str]
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    start_again_at: float = 0.0
    pause_seconds: float = 0.5
    descriptors: tuple[int, ...] = field(default=())


class Supervisor:
    """Starts, watches and stops the children."""

    def __init__(self, settings: Settings, *, only: str, with_worker: bool = True) -> None:
        self._settings = settings
        self._socket = listen(settings)
        self._lifeline_read, self._lifeline_write = os.pipe()
        self._stopping = threading.Event()
        names = [name for name in ROLES[only] if with_worker or name != "worker"]
        self._children = [
            self._child(name)
            for name in names
            for _ in range(settings.serve_processes if name in _LISTENING else 1)
        ]

    @property
    def port(self) -> int:
        """The port in use; differs from the setting when that is 0."""
        return int(self._socket.getsockname()[1])

    def run(self) -> None:
        """Serve until SIGINT or SIGTERM, then stop everything in order."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, lambda *_: self._stopping.set())
        for child in self._children:
            self._start(child)
        while not self._stopping.wait(_LOOK_SECONDS):
            for child in self._children:
                self._look_after(child)
        self._stop_all()

    def _child(self, name: str) -> Child:
        arguments = [sys.executable, "-m", "server", "child", name]
        if name in _LISTENING:
            number = self._socket.fileno()
            return Child(name, [*arguments, "--descriptor", str(number)], descriptors=(number,))
        return Child(name, arguments)

    def _start(self, child: Child) -> None:
        child.process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            child.arguments,
            pass_fds=(*child.descriptors, self._lifeline_read),
            env={
                **os.environ,
                LIFELINE_VARIABLE: str(self._lifeline_read),
                "TALLYSTICK_PORT": str(self.port),
            },
            start_new_session=True,
        )
        child.started_at = time.monotonic()

    def _look_after(self, child: Child) -> None:
        now = time.monotonic()
        if child.process is None:
            if now >= child.start_again_at:
                self._start(child)
            return
        code = child.process.poll()
        if code is None:
            return
        if now - child.started_at > _HEALTHY_SECONDS:
            child.pause_seconds = 0.5
        _log.error("child_died", child=child.name, code=code, again_in_seconds=child.pause_seconds)
        child.process = None
        child.start_again_at = now + child.pause_seconds
        child.pause_seconds = min(child.pause_seconds * 2, _RESTART_PAUSE_SECONDS_MAX)

    def _stop_all(self) -> None:
        self._socket.close()
        for _, same in groupby(self._children, key=lambda child: child.name):
            stop(*(child.process for child in same))
        os.close(self._lifeline_write)


def listen(settings: Settings) -> socket.socket:
    """The listening socket; PortTaken when the address is in use."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((settings.host, settings.port))
    except OSError as error:
        opened.close()
        raise PortTaken(
            f"cannot listen on {settings.host}:{settings.port} ({error.strerror}); "
            "another server is running there, or set TALLYSTICK_PORT (make run PORT=...)"
        ) from error
    opened.listen(1024)
    opened.set_inheritable(True)
    return opened


def stop(*processes: subprocess.Popen[bytes] | None) -> None:
    """SIGTERM for all, patience, SIGKILL for those who have not ended."""
    running = [process for process in processes if process is not None and process.poll() is None]
    for process in running:
        process.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for process in running:
        try:
            process.wait(timeout=max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def die_with_supervisor() -> None:
    """Stop this child, as SIGTERM would, when the supervisor is gone."""
    number = os.environ.get(LIFELINE_VARIABLE)
    if number is None:
        return

    def watch() -> None:
        # Blocks until the writing end is closed, which the kernel does for a killed supervisor too.
        os.read(int(number), 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, name="lifeline", daemon=True).start()
