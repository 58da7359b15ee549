"""What a tracker process holds: 1,000 programs, 1,000 publishers, 20,000 places, 100,000 links.

The process is the one that `serve --only tracker` starts. Its resident memory is read from the
kernel after requests for `/c/` and `/l/` links: with a network of one program, with all programs
and no short link, and with all short links. Then one more link is made, and the time until the
running node follows it is taken, with the time that the node's refresh took.
"""

import http.client
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy.engine import Engine
from sqlmodel import SQLModel

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from kernel import clock
from kernel.database import checkpoint, connect, reading, unit_of_work
from kernel.keys import load as load_keys
from kernel.settings import Settings
from network.models import Advertiser, Membership, Program, Publisher, RoutingVersion
from server import migrate
from tracker.models import Link
from tracker.routing import open_routing

PROGRAMS = 1_000
PUBLISHERS = 1_000
PLACES_PER_PUBLISHER = 20
LINKS = 100_000
REQUESTS = 4_000
CHUNK = 5_000
WAIT_SECONDS = 60
BUDGET_MEBIBYTES = 150
ROOT = Path(__file__).resolve().parent.parent
RESULT = ROOT / "benchmarks" / "results" / "memory.txt"
SERVE = (
    "import sys; from kernel.settings import load; from server import children; "
    "children.serve_http(load(), descriptor=int(sys.argv[1]), only_tracker=True)"
)


@dataclass(frozen=True)
class Network:
    """A size of network, and the files of a node of it."""

    name: str
    settings: Settings
    programs: int
    links: int


def fill(network: Network) -> None:
    """A database with a network of this size."""
    migrate.upgrade(network.settings.database)
    engine = connect(network.settings.database)
    load_keys(network.settings)
    now = clock.now()
    insert(engine, Advertiser, [{"id": "adv_1", "name": "Shops", "created_at": now}])
    insert(engine, Program, [program(number, now) for number in range(1, network.programs + 1)])
    publishers = [
        {"id": f"pub_{n}", "number": n, "code": f"site-{n}", "name": f"Site {n}"}
        | {"fallback_url": "", "created_at": now}
        for n in range(1, PUBLISHERS + 1)
    ]
    insert(engine, Publisher, publishers)
    places = [
        {"id": f"mem_{n}_{k}", "program_id": f"prg_{1 + (n * 7 + k) % network.programs}"}
        | {"publisher_id": f"pub_{n}", "status": "approved", "created_at": now}
        for n in range(1, PUBLISHERS + 1)
        for k in range(min(PLACES_PER_PUBLISHER, network.programs))
    ]
    insert(engine, Membership, places)
    insert(engine, Link, [link(number, network.programs, now) for number in range(network.links)])
    with unit_of_work(engine) as session:
        session.add(RoutingVersion(version=1, links=network.links))
    checkpoint(engine)
    engine.dispose()


def program(number: int, now: datetime) -> dict[str, object]:
    host = f"www.shop-{number}.example"
    return {
        "id": f"prg_{number}",
        "number": number,
        "advertiser_id": "adv_1",
        "code": f"shop-{number}",
        "name": f"Shop {number}",
        "currency": "EUR",
        "landing_url": f"https://{host}/start?source=network",
        "allowed_domains": [host, f"shop-{number}.example"],
        "created_at": now,
    }


def link(number: int, programs: int, now: datetime) -> dict[str, object]:
    shop = 1 + number % programs
    return {
        "id": f"lnk_{number}",
        "code": f"c{number:07d}",
        "program_id": f"prg_{shop}",
        "publisher_id": f"pub_{1 + number % PUBLISHERS}",
        "destination": f"https://www.shop-{shop}.example/products/category/item-{number}.html",
        "sub_ids": {"s1": f"placement-{number % 100}"},
        "name": "",
        "status": "active",
        "change": number + 1,
        "created_at": now,
    }


def insert(engine: Engine, model: type[SQLModel], rows: list[dict[str, object]]) -> None:
    for at in range(0, len(rows), CHUNK):
        with unit_of_work(engine) as session:
            session.add_all(model(**row) for row in rows[at : at + CHUNK])


@contextmanager
def tracker(settings: Settings) -> Iterator[tuple[int, int]]:
    """A running tracker: (process, port)."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(128)
        port = listening.getsockname()[1]
        os.set_inheritable(listening.fileno(), True)  # noqa: FBT003 - the name says it
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and code
            [sys.executable, "-c", SERVE, str(listening.fileno())],
            env={**os.environ, "TALLYSTICK_DATA_DIR": str(settings.data_dir)},
            cwd=ROOT,
            pass_fds=[listening.fileno()],
        )
        try:
            yield process.pid, port
        finally:
            process.terminate()
            process.wait()


def ask(connection: http.client.HTTPConnection, path: str) -> int:
    connection.request("GET", path, headers={"User-Agent": "Mozilla/5.0 Gecko/ Firefox/140.0"})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def ready(port: int) -> http.client.HTTPConnection:
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=WAIT_SECONDS)
        try:
            if ask(connection, "/healthz") == http.HTTPStatus.OK:
                return connection
        except OSError:
            connection.close()
            time.sleep(0.1)
    raise TimeoutError("the tracker did not start")


def memory_of(pid: int) -> tuple[float, float]:
    """(resident now, most so far) in mebibytes."""
    said = Path(f"/proc/{pid}/status").read_text().splitlines()
    sizes = {line.split(":")[0]: line.split()[1] for line in said if line.startswith("Vm")}
    return int(sizes["VmRSS"]) / 1024, int(sizes["VmHWM"]) / 1024


def measure(network: Network) -> str:
    fill(network)
    started = time.monotonic()
    with tracker(network.settings) as (pid, port):
        connection = ready(port)
        start_seconds = time.monotonic() - started
        for number in range(REQUESTS):
            path = f"/c/shop-{1 + number % network.programs}/site-{1 + number % PUBLISHERS}"
            assert ask(connection, path) == http.HTTPStatus.FOUND, path  # noqa: S101 - or it measures nothing
            if network.links:
                path = f"/l/c{number * 17 % network.links:07d}"
                assert ask(connection, path) == http.HTTPStatus.FOUND, path  # noqa: S101 - as above
        resident, most = memory_of(pid)
        shown = (
            f"{network.name:34} {resident:6.1f} MiB resident, {most:6.1f} MiB at most, "
            f"answers {start_seconds:.1f} s after its start"
        )
        if network.links:
            shown += f"\n{'one more link is followed after':34} {follow(network, connection):.2f} s"
    return shown


def follow(network: Network, connection: http.client.HTTPConnection) -> float:
    """Seconds from the commit of a new link to the first visitor that is sent on by it."""
    engine = connect(network.settings.database)
    row = link(network.links, network.programs, clock.now()) | {"code": "brand-new"}
    insert(engine, Link, [row])
    with unit_of_work(engine) as session:
        session.get_one(RoutingVersion, 1).links += 1
    made = time.monotonic()
    while ask(connection, "/l/brand-new") != http.HTTPStatus.FOUND:
        time.sleep(0.01)
    engine.dispose()
    return time.monotonic() - made


def refresh_milliseconds(network: Network) -> tuple[float, float]:
    """What a refresh costs a node: with nothing new, and with one new link."""
    engine = connect(network.settings.database)
    held = open_routing(network.settings.data_dir / "benchmark.json", engine)
    started = time.perf_counter()
    held.refresh(engine)
    nothing = time.perf_counter() - started
    row = link(network.links + 1, network.programs, clock.now()) | {"code": "newest"}
    insert(engine, Link, [row])
    with unit_of_work(engine) as session:
        session.get_one(RoutingVersion, 1).links += 1
    started = time.perf_counter()
    held.refresh(engine)
    one = time.perf_counter() - started
    with reading(engine):
        found = held.table.links.find("newest")
    engine.dispose()
    assert found is not None  # noqa: S101 - or it measured nothing
    return 1000 * nothing, 1000 * one


def main(folder: Path) -> str:
    networks = [
        Network("one program, no link", Settings(data_dir=folder / "small"), 1, 0),
        Network(f"{PROGRAMS:,} programs, no link", Settings(data_dir=folder / "mid"), PROGRAMS, 0),
        Network(
            f"{PROGRAMS:,} programs, {LINKS:,} links",
            Settings(data_dir=folder / "large"),
            PROGRAMS,
            LINKS,
        ),
    ]
    lines = [
        f"date      {clock.now():%Y-%m-%d %H:%M} UTC",
        f"machine   {platform.machine()}, {platform.system()}, {os.cpu_count()} cores",
        f"load      {os.getloadavg()[0]:.1f}",
        f"python    {platform.python_version()}",
        f"network   {PUBLISHERS:,} publishers, {PLACES_PER_PUBLISHER} programs each",
        f"budget    {BUDGET_MEBIBYTES} MiB for a tracker process",
        *(measure(one) for one in networks),
    ]
    nothing, one = refresh_milliseconds(networks[-1])
    lines.append(f"{'a refresh of the node takes':34} {nothing:.1f} ms; {one:.1f} ms with a link")
    return "\n".join(lines)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        found = main(Path(made))
    print(found)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(found + "\n")
