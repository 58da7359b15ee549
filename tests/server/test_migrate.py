from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.engine import Engine

from server import migrate
from server.tables import append_only_tables, metadata


def test_migrations_build_exactly_the_schema_of_the_models(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True})

        differences = compare_metadata(context, metadata)

    assert differences == []


def test_a_second_upgrade_changes_nothing(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'fresh' / 'tallystick.db'}"
    migrate.upgrade(url)

    migrate.upgrade(url)

    assert migrate.is_current(url)


@pytest.mark.parametrize("table", append_only_tables())
def test_every_append_only_table_has_its_triggers(engine: Engine, table: str) -> None:
    query = (
        "SELECT count(*) FROM sqlite_master WHERE type = 'trigger' AND tbl_name = :table"
        if engine.dialect.name == "sqlite"
        else "SELECT count(*) FROM pg_trigger WHERE tgrelid = CAST(:table AS regclass) "
        "AND NOT tgisinternal"
    )
    with engine.connect() as connection:
        found = connection.execute(sa.text(query), {"table": table}).scalar_one()

    assert found == (2 if engine.dialect.name == "sqlite" else 1)
