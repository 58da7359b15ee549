"""Clicks stand in days: partitions on PostgreSQL, files beside the database on SQLite

The rows of a SQLite database stay in `click_before_days` until `server.migrate` has moved them into
their files, which are outside of what a migration's transaction covers.
"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

_BEFORE = "click_before_days"
_DAY = "(at AT TIME ZONE 'UTC')::date"


def upgrade() -> None:
    op.create_table(
        "click_day",
        sa.Column("day", sa.Date(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("opened_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.Column("last_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True),
        sa.Column("clicks", sa.BigInteger(), nullable=False),
        sa.Column("retired_clicks", sa.BigInteger(), nullable=False),
        sa.Column("retired_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True),
        sa.PrimaryKeyConstraint("day", name=op.f("pk_click_day")),
    )
    op.create_table(
        "visitor_salt",
        sa.Column("starts_on", sa.Date(), nullable=False),
        sa.Column("ends_on", sa.Date(), nullable=False),
        sa.Column("salt", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.PrimaryKeyConstraint("starts_on", name=op.f("pk_visitor_salt")),
    )
    op.rename_table("click", _BEFORE)
    if op.get_bind().dialect.name == "postgresql":
        _partition()


def _partition() -> None:
    connection = op.get_bind()
    columns = [
        str(name)
        for (name,) in connection.execute(
            sa.text(
                "SELECT attname FROM pg_attribute WHERE attrelid = CAST(:name AS regclass) "
                "AND attnum > 0 AND NOT attisdropped ORDER BY attnum"
            ),
            {"name": _BEFORE},
        )
    ]
    op.execute(
        "CREATE TABLE click (LIKE click_before_days INCLUDING DEFAULTS, "
        "carried_clicks integer NOT NULL DEFAULT 0, origin bigint NOT NULL DEFAULT 0) "
        "PARTITION BY RANGE (at)"
    )
    op.execute(f"ALTER TABLE {_BEFORE} RENAME CONSTRAINT pk_click TO pk_{_BEFORE}")
    op.execute("ALTER TABLE click ADD CONSTRAINT pk_click PRIMARY KEY (id, at)")
    op.create_index("ix_click_visitor_key_at", "click", ["visitor_key", "at"], unique=False)
    days = connection.execute(
        sa.text(f"SELECT {_DAY}, count(*), max(at) FROM {_BEFORE} GROUP BY 1")  # noqa: S608 - our own table
    ).all()
    for day, clicks, last_at in days:
        op.execute(
            f"CREATE TABLE click_{day:%Y%m%d} PARTITION OF click FOR VALUES "
            f"FROM ('{day} 00:00:00+00') TO ('{day.fromordinal(day.toordinal() + 1)} 00:00:00+00')"
        )
        connection.execute(
            sa.text(
                "INSERT INTO click_day (day, generation, opened_at, last_at, clicks,"
                " retired_clicks) VALUES (:day, 0, now(), :last_at, :clicks, 0)"
            ),
            {"day": day, "last_at": last_at, "clicks": clicks},
        )
    names = ", ".join(columns)
    op.execute(f"INSERT INTO click ({names}) SELECT {names} FROM {_BEFORE}")  # noqa: S608 - our own columns
    op.execute(f"DROP TABLE {_BEFORE}")


def downgrade() -> None:
    raise NotImplementedError("the way back is the backup from before")
