"""The network of `world.py`, served to a test client."""

from collections.abc import Iterator

import pytest
from sqlalchemy.engine import Engine

from kernel import clock
from kernel.database import unit_of_work
from kernel.settings import Settings
from tests.partner_api.world import Api, World, build_world, make_context


@pytest.fixture
def world(sqlite_engine: Engine) -> World:
    # In the present, because tokens and terms are judged by the real clock.
    with unit_of_work(sqlite_engine) as session:
        return build_world(session, now=clock.now())


@pytest.fixture
def api(sqlite_engine: Engine, settings: Settings, world: World) -> Iterator[Api]:  # noqa: ARG001 - the rows are needed, not the names
    made = Api(make_context(sqlite_engine, settings))
    with made.http:
        yield made


@pytest.fixture
def world_on_both(engine: Engine) -> World:
    """The same network, on SQLite and then on PostgreSQL."""
    with unit_of_work(engine) as session:
        return build_world(session, now=clock.now())


@pytest.fixture
def api_on_both(engine: Engine, settings: Settings, world_on_both: World) -> Iterator[Api]:  # noqa: ARG001 - as above
    made = Api(make_context(engine, settings))
    with made.http:
        yield made
