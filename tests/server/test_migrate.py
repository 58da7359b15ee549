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

_FILLERS = {
    "JSON": "[]",
    "DATETIME": "2026-01-01 00:00:00.000000",
    "TIMESTAMP": "2026-01-01 00:00:00+00",
    "INTEGER": 0,
    "BIGINT": 0,
    "BOOLEAN": False,
}


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


@pytest.mark.services
def test_clicks_of_a_postgresql_database_move_into_their_days(empty_postgres_url: str) -> None:
    url = empty_postgres_url
    command.upgrade(migrate.config(url), "0005")
    engine = connect(url)
    # Either side of two midnights in UTC, and one that a session in another zone would misplace.
    times = (
        "2026-03-08 23:59:59.999+00",
        "2026-03-09 00:00:00+00",
        "2026-03-09 23:30:00-01",
        "2026-03-10 12:00:00+00",
        "2026-03-10 12:00:00.001+00",
    )
    with engine.begin() as connection:
        _insert(connection, "advertiser", id="a")
        _insert(connection, "program", id="p", advertiser_id="a")
        _insert(connection, "publisher", id="q")
        for number, at in enumerate(times):
            facts = {"program_id": "p", "publisher_id": "q", "sub_ids": f'{{"s1": "{number}"}}'}
            _insert(connection, "click", id=f"c{number}", at=at, duplicates=number, **facts)

    migrate.upgrade(url)
    migrate.upgrade(url)

    with engine.connect() as connection:
        rows = connection.execute(
            sa.text(
                "SELECT id, tableoid::regclass::text, duplicates, carried_clicks, origin, "
                "sub_ids ->> 's1' FROM click ORDER BY id"
            )
        )
        assert [tuple(row) for row in rows] == [
            ("c0", "click_20260308", 0, 0, 0, "0"),
            ("c1", "click_20260309", 1, 0, 0, "1"),
            ("c2", "click_20260310", 2, 0, 0, "2"),
            ("c3", "click_20260310", 3, 0, 0, "3"),
            ("c4", "click_20260310", 4, 0, 0, "4"),
        ]
        days = connection.execute(
            sa.text(
                "SELECT day::text, clicks, retired_clicks, last_at AT TIME ZONE 'UTC' "
                "FROM click_day ORDER BY day"
            )
        )
        assert [(*row[:3], str(row[3])) for row in days][:3] == [
            ("2026-03-08", 1, 0, "2026-03-08 23:59:59.999000"),
            ("2026-03-09", 1, 0, "2026-03-09 00:00:00"),
            ("2026-03-10", 3, 0, "2026-03-10 12:00:00.001000"),
        ]
        # A click that comes later finds its day, and the same id is refused a second time.
        with pytest.raises(sa.exc.IntegrityError, match="click_20260310_pkey"):
            connection.execute(
                sa.text("INSERT INTO click SELECT * FROM click WHERE id = 'c3'"),
            )
    with engine.connect() as connection:
        assert not sa.inspect(connection).has_table("click_before_days")
    engine.dispose()


def _insert(connection: sa.Connection, table: str, **values: object) -> None:
    """A row with something in every column that must have something."""
    for column in sa.inspect(connection).get_columns(table):
        needed = not column["nullable"] and column["default"] is None
        if needed and column["name"] not in {*values, "seq"}:
            kind = str(column["type"])
            values[column["name"]] = _FILLERS.get(kind, "x")
    names = ", ".join(values)
    marks = ", ".join(f":{name}" for name in values)
    connection.execute(sa.text(f"INSERT INTO {table} ({names}) VALUES ({marks})"), values)  # noqa: S608 - our own names


def test_what_was_booked_for_one_publisher_stays_booked_as_it_was(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'before.db'}"
    command.upgrade(migrate.config(url), "0010")
    engine = connect(url)
    with engine.begin() as connection:
        for table in ("advertiser", "publisher"):
            _insert(connection, table, id=table[0])
        _insert(connection, "program", id="p", advertiser_id="a")
        _insert(connection, "conversion", id="c", program_id="p")
        _insert(
            connection,
            "commission",
            conversion_id="c",
            program_id="p",
            publisher_id="p",
            advertiser_id="a",
            plan_version_id=None,
            seq=1,
            amount_minor=700,
            claimed_minor=700,
        )
        _insert(connection, "booking", conversion_id="c", total_minor=700)
        _insert(connection, "payout_run", id="r")
        _insert(connection, "payout", id="y", run_id="r", publisher_id="p")
        _insert(connection, "payout_line", payout_id="y", conversion_id="c", amount_minor=700)

    migrate.upgrade(url)

    with engine.connect() as connection:
        found = connection.execute(
            sa.text(
                "SELECT part, share_numerator, share_denominator, amount_minor, uncapped_minor, "
                "claimed_minor FROM commission"
            )
        )
        assert [tuple(row) for row in found] == [(0, 1, 1, 700, 700, 700)]
        booked = connection.execute(sa.text("SELECT part, total_minor FROM booking"))
        assert [tuple(row) for row in booked] == [(0, 700)]
        paid = connection.execute(sa.text("SELECT conversion_id, amount_minor FROM payout_line"))
        assert [tuple(row) for row in paid] == [("c", 700)]
        with pytest.raises(sa.exc.IntegrityError, match="append-only"):
            connection.execute(sa.text("UPDATE payout_line SET amount_minor = 1"))
    engine.dispose()
