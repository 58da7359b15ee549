"""Bring a database to the schema of this version, from empty or from any earlier one."""

import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy.engine import make_url

from kernel import clock
from kernel.database import connect
from tracker import click_days

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
    engine = connect(url)
    try:
        click_days.upgrade(engine, now=clock.now())
    finally:
        engine.dispose()


def is_current(url: str) -> bool:
    """Whether the database has the schema of this version."""
    engine = connect(url)
    try:
        with engine.connect() as connection:
            found = MigrationContext.configure(connection).get_current_revision()
    finally:
        engine.dispose()
    return found == ScriptDirectory.from_config(config(url)).get_current_head()


def write(message: str) -> None:
    """A new migration from what the models have and the newest schema has not, to be reviewed."""
    with TemporaryDirectory() as folder:
        url = f"sqlite:///{folder}/schema.db"
        upgrade(url)
        scripts = ScriptDirectory.from_config(config(url))
        number = f"{int(scripts.get_current_head() or 0) + 1:04d}"
        command.revision(config(url), message, autogenerate=True, rev_id=number)


if __name__ == "__main__":
    write(sys.argv[1])
