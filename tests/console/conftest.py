"""A signed-out browser at the console of a small network."""

from collections.abc import Iterator

import pytest
from sqlalchemy.engine import Engine
from starlette.testclient import TestClient

from kernel.settings import Settings
from tests.console.world import Browser, World, application, build


@pytest.fixture
def world(sqlite_engine: Engine) -> World:
    return build(sqlite_engine)


@pytest.fixture
def browser(settings: Settings, sqlite_engine: Engine) -> Iterator[Browser]:
    with TestClient(application(settings, sqlite_engine), follow_redirects=False) as client:
        yield Browser(client)
