"""Bring a database to the schema of this version, from empty or from any earlier one."""

from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import make_url

from kernel.database import connect

_SCRIPTS = Path(__file__).parent / "migrations"


def config(url: str) -> Config:
    """Alembic's configuration for a database URL, without a file."""
    made = Config()
    made.set_main_option("script_location", str(_SCRIPTS))
    made.attributes["url"] = url
    return made


def upgrade(url: str) -> None:
    """Run the migrations that are missing; a repeat changes nothing."""
    parsed = make_url(url)
    if parsed.drivername.startswith("sqlite") and parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    command.upgrade(config(url), "head")


def is_current(url: str) -> bool:
    """Whether the database has the schema of this version."""
    engine = connect(url)
    try:
        with engine.connect() as connection:
            found = MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()
    return found == ScriptDirectory.from_config(config(url)).get_current_head()
