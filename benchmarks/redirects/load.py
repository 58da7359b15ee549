"""Clients: wrk where it is installed, else a closed loop of ours; an open loop for latencies."""

import asyncio
import re
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass, field

import uvloop

BROWSER = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/139.0.0.0 Safari/537.36"
)
HEADERS = {
    "User-Agent": BROWSER,
    "Accept": "text/html,application/xhtml+xml,*/*;q=0.8",
    "Accept-Language": "de,en;q=0.5",
    "Referer": "https://blog.test/a-post",
    "Sec-Fetch-Dest": "document",
    "Sec-Fetch-Mode": "navigate",
    "Sec-Fetch-User": "?1",
}
PATH = "/c/shop/blog?s1=post-17&s2=top"
_UNITS = {"us": 0.001, "ms": 1.0, "s": 1000.0}


@dataclass
class Result:
    """Requests of one round, their rate, and latencies in milliseconds."""

    requests: int
    per_second: float
    p50_ms: float
    p99_ms: float
    failed: int = 0


def closed(port: int, connections: int, seconds: float) -> Result:
    """As many requests as are answered in this time, each connection one at a time."""
    if shutil.which("wrk") is None:
        return _in_process_of_its_own(port, connections, seconds)
    command = ["wrk", "-t1", f"-c{connections}", f"-d{max(1, round(seconds))}s", "--latency"]
    for name, value in HEADERS.items():
        command += ["-H", f"{name}: {value}"]
    said = subprocess.run(  # noqa: S603 - our own arguments
        [*command, f"http://127.0.0.1:{port}{PATH}"], capture_output=True, text=True, check=True
    ).stdout
    failed = re.search(r"Non-2xx or 3xx responses: (\d+)", said)
    return Result(
        requests=int(_found(r"(\d+) requests in", said)),
        per_second=float(_found(r"Requests/sec:\s+([\d.]+)", said)),
        p50_ms=_milliseconds(_found(r"(?m)^\s+50%\s+(\S+)", said)),
        p99_ms=_milliseconds(_found(r"(?m)^\s+99%\s+(\S+)", said)),
        failed=int(failed[1]) if failed else 0,
    )


def _found(pattern: str, text: str) -> str:
    match = re.search(pattern, text)
    if match is None:
        raise RuntimeError(f"wrk said: {text}")
    return match[1]


def _milliseconds(text: str) -> float:
    match = re.fullmatch(r"([\d.]+)([a-z]+)", text)
    if match is None:
        raise RuntimeError(f"wrk said {text}")
    return float(match[1]) * _UNITS[match[2]]


def request_bytes() -> bytes:
    lines = [f"GET {PATH} HTTP/1.1", "Host: 127.0.0.1"]
    lines += [f"{name}: {value}" for name, value in HEADERS.items()]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@dataclass
class _Tally:
    latencies_s: list[float] = field(default_factory=list)
    failed: int = 0
    ends_at: float = 0.0


class _ClosedClient(asyncio.Protocol):
    """Asks again as soon as it is answered."""

    def __init__(self, tally: _Tally) -> None:
        self._tally, self._request = tally, request_bytes()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport
        self._ask()

    def _ask(self) -> None:
        self._asked_at = time.perf_counter()
        self._transport.write(self._request)  # type: ignore[attr-defined]  # a stream's transport

    def data_received(self, data: bytes) -> None:
        now = time.perf_counter()
        self._tally.latencies_s.append(now - self._asked_at)
        self._tally.failed += not data.startswith(b"HTTP/1.1 30")
        if now < self._tally.ends_at:
            self._ask()


async def _closed(port: int, connections: int, seconds: float) -> Result:
    tally = _Tally(ends_at=time.perf_counter() + seconds)
    loop = asyncio.get_running_loop()
    for _ in range(connections):
        await loop.create_connection(lambda: _ClosedClient(tally), "127.0.0.1", port)
    await asyncio.sleep(seconds)
    return _result(tally, seconds)


def _result(tally: _Tally, seconds: float) -> Result:
    ordered = sorted(tally.latencies_s) or [0.0]
    count = len(tally.latencies_s)
    return Result(
        requests=count,
        per_second=count / seconds,
        p50_ms=ordered[len(ordered) // 2] * 1000,
        p99_ms=ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)] * 1000,
        failed=tally.failed,
    )


def _in_process_of_its_own(port: int, connections: int, seconds: float) -> Result:
    said = subprocess.run(  # noqa: S603 - our own interpreter and file
        [sys.executable, __file__, str(port), str(connections), str(seconds)],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    requests, per_second, p50_ms, p99_ms, failed = said.split()
    return Result(int(requests), float(per_second), float(p50_ms), float(p99_ms), int(failed))


class _OpenClient(asyncio.Protocol):
    """Asks when it is time to, and counts from when it was time, not from when it could."""

    def __init__(self, tally: _Tally) -> None:
        self._tally, self._request = tally, request_bytes()
        self._due: list[float] = []
        self._is_busy = False

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = transport

    def due(self, at: float) -> None:
        self._due.append(at)
        if not self._is_busy:
            self._ask()

    def _ask(self) -> None:
        self._is_busy = True
        self._transport.write(self._request)  # type: ignore[attr-defined]  # a stream's transport

    def data_received(self, data: bytes) -> None:
        self._tally.latencies_s.append(time.perf_counter() - self._due.pop(0))
        self._tally.failed += not data.startswith(b"HTTP/1.1 30")
        self._is_busy = False
        if self._due:
            self._ask()


async def _open(port: int, connections: int, seconds: float, per_second: float) -> Result:
    tally, loop = _Tally(), asyncio.get_running_loop()
    clients = []
    for _ in range(connections):
        _, client = await loop.create_connection(lambda: _OpenClient(tally), "127.0.0.1", port)
        clients.append(client)
    start, asked = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - start) < seconds:
        while asked < elapsed * per_second:
            clients[asked % connections].due(start + asked / per_second)
            asked += 1
        await asyncio.sleep(0.0005)
    await asyncio.sleep(0.5)
    return _result(tally, seconds)


def open_loop(port: int, connections: int, seconds: float, per_second: float) -> Result:
    """A constant rate, whatever the server does; late answers are counted from their due time."""
    return uvloop.run(_open(port, connections, seconds, per_second))


if __name__ == "__main__":
    result = uvloop.run(_closed(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3])))
    sys.stdout.write(
        f"{result.requests} {result.per_second} {result.p50_ms} {result.p99_ms} {result.failed}\n"
    )
