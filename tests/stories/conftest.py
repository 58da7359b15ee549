"""One demo network, loaded once a run; every server of a story works on a copy of its own."""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.stories.house import House, command


@pytest.fixture(scope="session")
def demo_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder as `tallystick demo load` leaves it. Copied, never used."""
    base = tmp_path_factory.getbasetemp()
    # The workers of one run share it: whoever comes first loads, the others wait.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    folder = shared / "demo-network"
    with (shared / "demo-network.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (folder / "demo.json").exists():
            loaded = command(folder, "demo", "load")
            assert loaded.returncode == 0, loaded.stderr
    return folder


@pytest.fixture
def demo_copy(demo_folder: Path, tmp_path: Path) -> Path:
    """A loaded data folder of this test's own."""
    folder = tmp_path / "var"
    shutil.copytree(demo_folder, folder)
    return folder


@pytest.fixture(scope="session")
def house(demo_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A running server that stories share: each has orders and visitors of its own."""
    folder = tmp_path_factory.mktemp("house") / "var"
    shutil.copytree(demo_folder, folder)
    opened = House(folder)
    try:
        yield opened.start()
        opened.stop()
    finally:
        opened.end()


@pytest.fixture
def open_house() -> Iterator[Callable[..., House]]:
    """Makes servers of this test's own; nothing of them is left afterwards."""
    opened: list[House] = []

    def make(folder: Path, *arguments: str, **settings: str) -> House:
        opened.append(House(folder, *arguments, **settings))
        return opened[-1]

    yield make
    for one in opened:
        one.end()
