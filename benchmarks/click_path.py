"""What a durable click costs, as ratios of one run; and whether one is ever lost.

    python benchmarks/click_path.py [--seconds 3] [--rounds 5]
    python benchmarks/click_path.py --kill [--clicks 1000000] [--minutes 30]

Every candidate is a server of its own on a free port of this machine, measured one after another in
interleaved rounds; a table shows medians. Load and servers share the processors: compare within a
table only. Needs Linux; uses wrk and nginx where they are installed.
"""

import argparse
import os
import platform
import re
import shutil
import statistics
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mmdb_writer import MMDBWriter
from netaddr import IPSet  # type: ignore[import-untyped]  # what mmdb_writer takes; ships no types

from benchmarks.redirects import kill
from benchmarks.redirects.load import Result, closed, open_loop
from benchmarks.redirects.machine import HERE, Server, free_port, python
from tracker import agents

RESULT = Path(__file__).resolve().parent / "results" / "click_path.txt"
SHARED_DATA = Path(
    os.environ.get("TALLYSTICK_SHARED_DATA", Path(__file__).resolve().parents[2] / "shared/data")
)
SECRET = "a secret of the benchmark, long enough to be one"  # noqa: S105 - of servers that end with it
ROBOT_WORDS_MAX = 1500
MMDB_NETWORKS = 4000
SLOW_DISK_MS = "4"
OPEN_LOOP_RATES = (500, 2000)
NGINX = """
worker_processes 1;
daemon off;
pid {folder}/nginx.pid;
error_log stderr crit;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  keepalive_requests 1000000000;
  client_body_temp_path {folder};
  proxy_temp_path {folder};
  fastcgi_temp_path {folder};
  uwsgi_temp_path {folder};
  scgi_temp_path {folder};
  server {{ listen 127.0.0.1:{port}; location / {{ return 302 https://shop.test/start; }} }}
}}
"""


@dataclass
class Candidate:
    """A server under measurement, and its rounds by number of connections."""

    name: str
    server: Server
    rounds: dict[int, list[tuple[Result, float]]] = field(default_factory=dict)

    def measure(self, connections: int, seconds: float) -> None:
        """One round, with the processor time of the server's whole tree."""
        before = self.server.cpu_seconds()
        result = closed(self.server.port, connections, seconds)
        used = self.server.cpu_seconds() - before
        self.rounds.setdefault(connections, []).append((result, used))

    def per_second(self, connections: int) -> float:
        return statistics.median(result.per_second for result, _ in self.rounds[connections])

    def p50_ms(self, connections: int) -> float:
        return statistics.median(result.p50_ms for result, _ in self.rounds[connections])

    def p99_ms(self, connections: int) -> float:
        return statistics.median(result.p99_ms for result, _ in self.rounds[connections])

    def cpu_us(self, connections: int) -> float:
        return statistics.median(
            used / max(1, result.requests) * 1e6 for result, used in self.rounds[connections]
        )

    def failed(self) -> int:
        return sum(result.failed for rounds in self.rounds.values() for result, _ in rounds)


class Bench:
    """The candidates and what is said about them."""

    def __init__(self, folder: Path, *, seconds: float, rounds: int) -> None:
        self._folder, self._seconds, self._rounds = folder, seconds, rounds
        self.lines: list[str] = []

    def say(self, line: str = "") -> None:
        print(line, flush=True)
        self.lines.append(line)

    def ours(self, name: str, *, front: str = "auto", **environment: str) -> Server:
        """One serving process of ours."""
        port = free_port()
        folder = self._folder / re.sub(r"\W", "-", name)
        given = {
            "TALLYSTICK_DATA_DIR": str(folder),
            "TALLYSTICK_SECRET": SECRET,
            "TALLYSTICK_CLICK_FRONT": front,
            "TALLYSTICK_PORT": str(port),
            "PYTHONPATH": str(HERE / "hooks"),
        }
        return Server(python("ours.py", str(port)), port, {**given, **environment})

    @contextmanager
    def race(self, servers: dict[str, Server], *counts: int) -> Iterator[dict[str, Candidate]]:
        """Interleaved rounds of all of them; a table; and their end."""
        candidates = {name: Candidate(name, server) for name, server in servers.items()}
        with ExitStack() as running:
            for candidate in candidates.values():
                running.callback(candidate.server.stop)
                closed(candidate.server.port, 8, 1)  # warm
            for connections in counts:
                for _ in range(self._rounds):
                    for candidate in candidates.values():
                        candidate.measure(connections, self._seconds)
                self._table(list(candidates.values()), connections)
            yield candidates

    def _table(self, candidates: Sequence[Candidate], connections: int) -> None:
        self.say(f"{connections} connections{'':24}req/s   CPU us/req   p50 ms   p99 ms")
        for one in candidates:
            self.say(
                f"  {one.name:36}{one.per_second(connections):8.0f}"
                f"{one.cpu_us(connections):13.1f}{one.p50_ms(connections):9.2f}"
                f"{one.p99_ms(connections):9.2f}"
            )
            if one.failed():
                self.say(f"    {one.failed()} answers were no redirect")

    def target(self, what: str, value: float, wanted: float, *, at_most: bool = False) -> None:
        """A ratio beside its target."""
        met = value <= wanted if at_most else value >= wanted
        sign = "<=" if at_most else ">="
        self.say(f"  {what:62}{value:7.2f}  (target {sign} {wanted}: {'met' if met else 'MISSED'})")

    def durable(self) -> None:
        """A durable click against a route that does nothing."""
        self.say("== Durable click (synced before the answer) against a bare Starlette redirect")
        port = free_port()
        servers = {
            "bare Starlette route, no click": Server(python("bare.py", str(port)), port),
            "ours, fast front": self.ours("fast"),
            "ours, ASGI front": self.ours("asgi", front="asgi"),
        }
        with self.race(servers, 1, 64, 128) as raced:
            bare, fast, asgi = raced.values()
            for count in (64, 128):
                self.target(
                    f"fast front / bare, req/s, {count} connections",
                    fast.per_second(count) / bare.per_second(count),
                    1.3,
                )
            for count in (64, 128):
                self.target(
                    f"ASGI front / bare, req/s, {count} connections",
                    asgi.per_second(count) / bare.per_second(count),
                    0.6,
                )
            self.target(
                "fast front / bare, p50 at one connection",
                fast.p50_ms(1) / bare.p50_ms(1),
                2,
                at_most=True,
            )
            self._open_loop([bare, fast, asgi])

    def _open_loop(self, candidates: Sequence[Candidate]) -> None:
        self.say("open loop, 64 connections, from the time a request was due:")
        for rate in OPEN_LOOP_RATES:
            for one in candidates:
                result = open_loop(one.server.port, 64, self._seconds, rate)
                self.say(
                    f"  {one.name:36}{rate:6} a second   p50 {result.p50_ms:7.2f} ms"
                    f"   p99 {result.p99_ms:7.2f} ms"
                )

    def straightforward(self) -> None:
        """Against the same features by the book."""
        self.say("\n== Against a straightforward tracker (SQLModel, geoip2, one regex; SQLite)")
        folder = self._folder / "straightforward"
        folder.mkdir()
        _write_country_files(folder)
        (folder / "robots.txt").write_text("\n".join(_robot_words()))
        port = free_port()
        servers = {
            "straightforward": Server(python("straightforward.py", str(port), str(folder)), port),
            "ours, fast front": self.ours("fast-2"),
        }
        with self.race(servers, 64) as raced:
            other, fast = raced.values()
            self.target(
                "fast front / straightforward, req/s, 64 connections",
                fast.per_second(64) / other.per_second(64),
                30,
            )

    def slow_disk(self) -> None:
        """What group commit is for."""
        self.say(f"\n== A disk that takes {SLOW_DISK_MS} ms longer for every sync")
        slow = {"BENCH_SYNC": SLOW_DISK_MS}
        servers = {
            "ours, a sync for every click": self.ours("each", BENCH_PER_CLICK="1", **slow),
            "ours, group commit": self.ours("group", **slow),
        }
        with self.race(servers, 64, 128) as raced:
            each, group = raced.values()
            for count in (64, 128):
                self.target(
                    f"group commit / sync per click, req/s, {count} connections",
                    group.per_second(count) / each.per_second(count),
                    12,
                )

    def cpu(self) -> None:
        """What is left when the disk is free, against the floor."""
        self.say("\n== Processor time without syncs, against nginx `return 302`")
        servers = {"ours, fast front, no sync": self.ours("nosync", BENCH_SYNC="none")}
        if (nginx := _nginx(self._folder)) is not None:
            servers["nginx, return 302"] = nginx
        else:
            self.say("  nginx is not installed: no ratio")
        with self.race(servers, 64) as raced:
            ours, *others = raced.values()
            for other in others:
                self.target(
                    "fast front / nginx, CPU per request",
                    ours.cpu_us(64) / other.cpu_us(64),
                    2.5,
                    at_most=True,
                )


def _nginx(folder: Path) -> Server | None:
    found = shutil.which("nginx")
    if found is None:
        return None
    port = free_port()
    configuration = folder / "nginx.conf"
    configuration.write_text(NGINX.format(folder=folder, port=port))
    return Server([found, "-p", str(folder), "-c", str(configuration)], port)


def _write_country_files(folder: Path) -> None:
    for name, kind, row in (
        (
            "country",
            "GeoLite2-Country",
            {"country": {"iso_code": "DE", "names": {"en": "Germany"}}},
        ),
        (
            "asn",
            "GeoLite2-ASN",
            {"autonomous_system_number": 64500, "autonomous_system_organization": "Example"},
        ),
    ):
        writer = MMDBWriter(ip_version=4, database_type=kind)
        for number in range(MMDB_NETWORKS):
            network = f"{number % 120 + 1}.{number // 120}.0.0/16"
            writer.insert_network(IPSet([network]), row)
        writer.insert_network(IPSet(["127.0.0.0/8"]), row)
        writer.to_db_file(str(folder / f"{name}.mmdb"))


def _robot_words() -> list[str]:
    """Names of robots: from the samples of real ones where they are, else our own families."""
    samples = SHARED_DATA / "ua" / "bots_half.txt"
    if not samples.exists():
        return re.findall(r"[a-z]{4,}", " ".join((*agents._ROBOT_WORDS, *agents._TOOL_WORDS)))  # noqa: SLF001 - a benchmark may
    words: dict[str, None] = {}
    for line in samples.read_text(errors="replace").splitlines():
        for word in re.findall(
            r"[A-Za-z][\w.-]*(?:[Bb]ot|[Cc]rawl|[Ss]pider|[Ff]etch)[\w.-]*", line
        ):
            words.setdefault(word)
    return list(words)[:ROBOT_WORDS_MAX]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=3, help="length of a round")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--only", nargs="*", default=["durable", "straightforward", "slow_disk", "cpu"]
    )
    parser.add_argument("--kill", action="store_true", help="kill processes; is a click lost?")
    parser.add_argument("--clicks", type=int, default=1_000_000)
    parser.add_argument("--minutes", type=float, default=60, help="the longest --kill may take")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="click-path-") as name:
        if given.kill:
            return kill.run(Path(name), clicks=given.clicks, seconds_max=given.minutes * 60)
        bench = Bench(Path(name), seconds=given.seconds, rounds=given.rounds)
        loads = " ".join(f"{load:.1f}" for load in os.getloadavg())
        bench.say(
            f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, Python {platform.python_version()}, "
            f"{platform.machine()}, {os.cpu_count()} processors, load {loads}, "
            f"client {'wrk' if shutil.which('wrk') else 'of our own'}\n"
        )
        for part in given.only:
            getattr(bench, part)()
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text("\n".join(bench.lines) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
