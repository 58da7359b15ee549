"""Databases as users have them: migrated SQLite files, PostgreSQL where it runs.

Every test gets a database as the migrations leave it: SQLite copies a migrated template file,
PostgreSQL has one database a process, which is emptied after each test. Nothing is mocked.
"""

import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import hypothesis
import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine, make_url

import server.tables  # noqa: F401 - registers every table
from kernel.database import checkpoint, connect
from kernel.settings import Settings
from tests.databases import PostgresDatabase, administer

REPOSITORY = Path(__file__).resolve().parent.parent
REQUIRE_SERVICES = os.environ.get("TALLYSTICK_REQUIRE_SERVICES") == "1"
POSTGRES_URL = os.environ.get(
    "TALLYSTICK_TEST_POSTGRES_URL", "postgresql://postgres@127.0.0.1:5432/postgres"
)
SHARED_DATA = Path(os.environ.get("TALLYSTICK_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)


# A loaded machine, or a clone without a cache of examples, is slow and not wrong: no property is
# judged by the clock.
hypothesis.settings.register_profile(
    "house", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("house")


def pytest_configure() -> None:
    # What the developer's shell says about a running server must not reach the tests.
    for name in list(os.environ):
        if name.startswith("TALLYSTICK_") and name not in {
            "TALLYSTICK_REQUIRE_SERVICES",
            "TALLYSTICK_SHARED_DATA",
            "TALLYSTICK_TEST_POSTGRES_URL",
        }:
            del os.environ[name]


@pytest.fixture
def now() -> datetime:
    return NOW


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of real data; tests that need it are skipped where it is absent."""
    if not SHARED_DATA.is_dir():
        pytest.skip(f"no shared data at {SHARED_DATA} (set TALLYSTICK_SHARED_DATA)")
    return SHARED_DATA


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(
        data_dir=tmp_path / "var",
        secret="a secret of the tests, long enough to be one",
    )


def _migrate(url: str) -> None:
    # In a process of its own: Alembic's engine must not leave a pool behind in ours.
    subprocess.run(  # noqa: S603 - our own interpreter and module
        [
            sys.executable,
            "-c",
            "import sys; from server.migrate import upgrade; upgrade(sys.argv[1])",
            url,
        ],
        check=True,
        cwd=REPOSITORY,
        capture_output=True,
    )


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("template") / "template.db"
    _migrate(f"sqlite:///{path}")
    engine = connect(f"sqlite:///{path}")
    checkpoint(engine)
    engine.dispose()
    return path


@pytest.fixture
def sqlite_url(sqlite_template: Path, tmp_path: Path) -> str:
    """A migrated SQLite database of this test's own."""
    path = tmp_path / "var" / "tallystick.db"
    path.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(sqlite_template, path)
    return f"sqlite:///{path}"


def _database(name: str) -> str:
    return make_url(POSTGRES_URL).set(database=name).render_as_string(hide_password=False)


@pytest.fixture(scope="session")
def postgres_template() -> Iterator[str]:
    """The name of a migrated PostgreSQL template database."""
    name = f"tallystick_template_{uuid.uuid4().hex[:12]}"
    try:
        administer(POSTGRES_URL, f"CREATE DATABASE {name}")
    except sa.exc.OperationalError:
        if REQUIRE_SERVICES:
            raise
        pytest.skip(f"no PostgreSQL at {make_url(POSTGRES_URL).render_as_string()}")
    try:
        _migrate(_database(name))
        yield name
    finally:
        administer(POSTGRES_URL, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(scope="session")
def postgres_database(postgres_template: str) -> Iterator[PostgresDatabase]:
    """The database that the tests of this process use in turn."""
    database = PostgresDatabase(POSTGRES_URL, postgres_template)
    yield database
    database.drop()


@pytest.fixture
def postgres_url(postgres_database: PostgresDatabase) -> Iterator[str]:
    """A migrated PostgreSQL database with nothing in it."""
    yield postgres_database.url
    postgres_database.reset()


@pytest.fixture
def empty_postgres_url(postgres_template: str) -> Iterator[str]:
    """A PostgreSQL database without any table, for migrations on their way."""
    del postgres_template  # It says whether there is a server.
    name = f"tallystick_test_{uuid.uuid4().hex[:12]}"
    administer(POSTGRES_URL, f"CREATE DATABASE {name}")
    try:
        yield _database(name)
    finally:
        administer(POSTGRES_URL, f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


@pytest.fixture(params=["sqlite", pytest.param("postgres", marks=pytest.mark.services)])
def database_url(request: pytest.FixtureRequest) -> str:
    """A migrated database: the test runs once on SQLite and once on PostgreSQL."""
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = connect(database_url)
    yield made
    made.dispose()


@pytest.fixture
def sqlite_engine(sqlite_url: str) -> Iterator[Engine]:
    """For what does not differ between databases."""
    made = connect(sqlite_url)
    yield made
    made.dispose()
