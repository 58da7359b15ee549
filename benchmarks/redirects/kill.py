"""Clicks under SIGKILL: every process of a server dies at random, and no promise may break.

A click is promised when its client has read a whole redirect with a click id. After the last kill
the server ships what its journals hold, and every promise must be a row, once.
"""

import asyncio
import os
import platform
import random
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import uvloop

from benchmarks.redirects.load import request_bytes
from benchmarks.redirects.machine import REPOSITORY, free_port, python, tree

RESULT = Path(__file__).resolve().parents[1] / "results" / "kill.txt"
CLIENTS = 32
PAUSE_SECONDS = (0.5, 4.0)
SUPERVISOR_EVERY = 5
DRAIN_SECONDS_MAX = 1800
AGAIN_SECONDS_MAX = 60
# So long without a new row means that nothing more comes.
QUIET_SECONDS = 60
_CLICK_ID = re.compile(rb"location: \S*ts_click=([A-Za-z0-9_-]{52})\S*\r\n")
SECRET = "a secret of the benchmark, long enough to be one"  # noqa: S105 - of servers that end with it


class House:
    """`serve --only tracker` on a folder of its own: supervisor, tracker, writer, shipper."""

    def __init__(self, folder: Path, port: int) -> None:
        self.folder, self.port = folder, port
        self._environment = {
            **os.environ,
            "TALLYSTICK_DATA_DIR": str(folder),
            "TALLYSTICK_SECRET": SECRET,
            "TALLYSTICK_PORT": str(port),
            "TALLYSTICK_SERVE_PROCESSES": "2",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self._log = (folder.parent / "serve.log").open("ab")

    def start(self) -> None:
        """Start it; also after it was killed, when its children have ended."""
        self._process = subprocess.Popen(
            [sys.executable, "-m", "server", "serve", "--only", "tracker"],
            cwd=REPOSITORY,
            env=self._environment,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def below(self) -> list[int]:
        """Everything that the supervisor started, and what that started."""
        return tree(self._process.pid)[1:] if self._process else []

    def kill(self, chance: random.Random, *, supervisor: bool) -> str:
        """SIGKILL for one of them; who it was."""
        if self._process is None:
            return "nobody"
        if supervisor:
            orphans = self.below()
            self._process.kill()
            self._process.wait()
            _wait_for_the_end_of(orphans)
            self.start()
            return "supervisor"
        running = self.below()
        if not running:
            return "nobody"
        victim = chance.choice(running)
        try:
            words = Path(f"/proc/{victim}/cmdline").read_bytes().decode().split("\0")
            os.kill(victim, signal.SIGKILL)
        except OSError:
            return "nobody"
        if "tracker.journal_writer" in words:
            return "writer"
        return next((word for word in ("tracker", "shipper") if word in words), "other")

    def stop(self) -> None:
        """As Ctrl-C does."""
        if self._process is not None:
            self._process.send_signal(signal.SIGINT)
            self._process.wait(timeout=120)
        self._log.close()


def _wait_for_the_end_of(pids: list[int]) -> None:
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        if time.monotonic() > deadline:
            raise RuntimeError(f"processes outlived their supervisor: {pids}")
        time.sleep(0.05)


class Clients:
    """Visitors who remember every click id that they were given."""

    def __init__(self, port: int, clicks: int) -> None:
        self.promised: set[bytes] = set()
        self.untracked = 0
        self.cut_off = 0
        self._port, self._clicks, self._request = port, clicks, request_bytes()
        self.enough = asyncio.Event()

    async def visit(self) -> None:
        """Click until there are enough; connect again whenever that breaks."""
        while not self.enough.is_set():
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
            except OSError:
                await asyncio.sleep(0.05)
                continue
            try:
                while not self.enough.is_set():
                    writer.write(self._request)
                    self._note(await reader.readuntil(b"\r\n\r\n"))
            except (OSError, asyncio.IncompleteReadError):
                self.cut_off += 1
            finally:
                writer.close()

    def _note(self, head: bytes) -> None:
        if not head.startswith(b"HTTP/1.1 302 "):
            raise RuntimeError(f"no redirect: {head!r}")
        found = _CLICK_ID.search(head)
        if found is None:
            self.untracked += 1
            return
        if found[1] in self.promised:
            raise RuntimeError(f"promised twice: {found[1]!r}")
        self.promised.add(found[1])
        if len(self.promised) >= self._clicks:
            self.enough.set()


async def _until_served_again(clients: Clients) -> None:
    """Kills that find nothing running would prove nothing."""
    deadline, before = time.monotonic() + AGAIN_SECONDS_MAX, len(clients.promised)
    while len(clients.promised) < before + CLIENTS and time.monotonic() < deadline:  # noqa: ASYNC110 - a count is no event
        await asyncio.sleep(0.05)


async def _drive(house: House, clients: Clients, seconds_max: float) -> dict[str, int]:
    chance = random.Random(20261122)  # noqa: S311 - moments and victims, repeatable
    visits = [asyncio.create_task(clients.visit()) for _ in range(CLIENTS)]
    killed: dict[str, int] = {}
    began = time.monotonic()
    number = 0
    while not clients.enough.is_set() and time.monotonic() - began < seconds_max:
        try:
            await asyncio.wait_for(clients.enough.wait(), chance.uniform(*PAUSE_SECONDS))
        except TimeoutError:
            number += 1
            supervisor = number % SUPERVISOR_EVERY == 0
            who = await asyncio.to_thread(house.kill, chance, supervisor=supervisor)
            await _until_served_again(clients)
            killed[who] = killed.get(who, 0) + 1
            if number % 10 == 0:
                print(f"  {len(clients.promised)} promised, killed {killed}", flush=True)
        for visit in visits:
            if visit.done():
                visit.result()
    clients.enough.set()
    await asyncio.gather(*visits)
    return killed


def run(folder: Path, *, clicks: int, seconds_max: float) -> int:
    """0 when every promised click is in the database exactly once."""
    port = free_port()
    data = folder / "var"
    _make_network(data)
    house = House(data, port)
    clients = Clients(port, clicks)
    house.start()
    began, began_at, load = time.monotonic(), datetime.now(UTC), os.getloadavg()[0]
    try:
        killed = uvloop.run(_drive(house, clients, seconds_max))
        drove = time.monotonic() - began
        found, rows = _drain(data, clients.promised)
    finally:
        house.stop()
    missing = len(clients.promised - found)
    doubled = rows - len(found)
    said = (
        f"{began_at:%Y-%m-%d %H:%M} UTC, Python {platform.python_version()}, "
        f"{platform.machine()}, {os.cpu_count()} processors, load {load:.1f}\n"
        f"{len(clients.promised)} clicks promised in {drove:.0f} s, {clients.untracked} sent on "
        f"without an id, {clients.cut_off} connections cut off\n"
        f"killed: {killed}\n"
        f"rows {rows}, of them not promised {len(found - clients.promised)}, "
        f"promised but missing {missing}, doubled {doubled}\n"
    )
    print(said, end="")
    RESULT.write_text(said)
    return 0 if not missing and not doubled and clients.promised else 1


def _make_network(data: Path) -> None:
    environment = {
        **os.environ,
        "TALLYSTICK_DATA_DIR": str(data),
        "TALLYSTICK_SECRET": SECRET,
        "BENCH_ONLY_NETWORK": "1",
    }
    subprocess.run(python("ours.py", "0"), check=True, env=environment, cwd=REPOSITORY)  # noqa: S603 - our own script


def _drain(data: Path, promised: set[bytes]) -> tuple[set[bytes], int]:
    """The ids in the database once no more come, and the number of rows."""
    deadline = time.monotonic() + DRAIN_SECONDS_MAX
    last, since = -1, time.monotonic()
    while time.monotonic() < deadline and time.monotonic() - since < QUIET_SECONDS:
        count = sum(number for [number] in _ask(data, "SELECT count(*) FROM click"))
        if count != last:
            last, since = count, time.monotonic()
            print(f"  {count} rows of {len(promised)} promised", flush=True)
        time.sleep(2)
    ids = [one.encode() for [one] in _ask(data, "SELECT id FROM click")]
    return set(ids), len(ids)


def _ask(data: Path, query: str) -> Iterator[tuple[Any, ...]]:
    """The rows that each day's file has."""
    for path in sorted((data / "tallystick-clicks").glob("*.db")):
        with closing(sqlite3.connect(path, timeout=30)) as database:
            yield from database.execute(query)
