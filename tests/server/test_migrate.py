from pathlib import Path

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy.engine import Engine

from kernel.database import connect
from server import migrate
from server.tables import append_only_tables, is_in_main_database, metadata


def test_migrations_build_exactly_the_schema_of_the_models(engine: Engine) -> None:
    with engine.connect() as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "compare_type": True,
                "include_object": is_in_main_database(engine.dialect.name),
            },
        )

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

    # One statement's trigger for all on PostgreSQL; an attribution's changes are judged row by row.
    is_one = engine.dialect.name == "postgresql" and table != "attribution"
    assert found == (1 if is_one else 2)


def test_conversions_are_numbered_and_stay_what_they_were(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'before.db'}"
    command.upgrade(migrate.config(url), "0002")
    engine = connect(url)
    with engine.begin() as connection:
        _insert(connection, "advertiser", id="a")
        _insert(connection, "program", id="p", advertiser_id="a")
        for number in range(3):
            _insert(connection, "conversion", id=f"c{number}", program_id="p", order_id=number)
            _insert(connection, "conversion_item", conversion_id=f"c{number}", line=0)

    migrate.upgrade(url)

    with engine.connect() as connection:
        found = connection.execute(sa.text("SELECT id, seq, number, relation FROM conversion"))
        assert [tuple(row) for row in found] == [(f"c{one}", one + 1, 1, "") for one in range(3)]
        items = connection.execute(sa.text("SELECT count(*) FROM conversion_item"))
        assert items.scalar_one() == 3
        with pytest.raises(sa.exc.IntegrityError, match="append-only"):
            connection.execute(sa.text("UPDATE conversion SET event = 'other'"))
    engine.dispose()


def _insert(connection: sa.Connection, table: str, **values: object) -> None:
    """A row with something in every column that must have something."""
    for column in sa.inspect(connection).get_columns(table):
        needed = not column["nullable"] and column["default"] is None
        if needed and column["name"] not in {*values, "seq"}:
            kind = str(column["type"])
            filler = {"JSON": "[]", "DATETIME": "2026-01-01 00:00:00.000000"}.get(kind)
            is_number = kind in {"INTEGER", "BIGINT", "BOOLEAN"}
            values[column["name"]] = filler or (0 if is_number else "x")
    names = ", ".join(values)
    marks = ", ".join(f":{name}" for name in values)
    connection.execute(sa.text(f"INSERT INTO {table} ({names}) VALUES ({marks})"), values)  # noqa: S608 - our own names
