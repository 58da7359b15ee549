"""Roll-ups for reports, and pages that links lead to

The old code may still run against the new schema while nodes are replaced: add columns as
nullable or with a server default, and drop nothing that the version before reads.
"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "rollup_conversion",
        sa.Column("conversion_id", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("hour", sa.BigInteger(), nullable=False),
        sa.Column("program_number", sa.BigInteger(), nullable=False),
        sa.Column("publisher_number", sa.BigInteger(), nullable=False),
        sa.Column("currency", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("sales_minor", sa.BigInteger(), nullable=False),
        sa.Column("refunded_minor", sa.BigInteger(), nullable=False),
        sa.Column("commission_currency", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("commission_minor", sa.BigInteger(), nullable=False),
        sa.Column("click_id", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("link", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("country", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("device", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("sub_ids", sa.JSON(), nullable=False),
        sa.PrimaryKeyConstraint("conversion_id", name=op.f("pk_rollup_conversion")),
    )
    op.create_index("ix_rollup_conversion_hour", "rollup_conversion", ["hour"], unique=False)
    op.create_table(
        "rollup_day",
        sa.Column("dimension", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("day", sa.BigInteger(), nullable=False),
        sa.Column("program_number", sa.BigInteger(), nullable=False),
        sa.Column("publisher_number", sa.BigInteger(), nullable=False),
        sa.Column("value", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("currency", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("impressions", sa.BigInteger(), nullable=False),
        sa.Column("clicks", sa.BigInteger(), nullable=False),
        sa.Column("filtered_clicks", sa.BigInteger(), nullable=False),
        sa.Column("unique_clicks", sa.BigInteger(), nullable=False),
        sa.Column("conversions", sa.BigInteger(), nullable=False),
        sa.Column("sales_minor", sa.BigInteger(), nullable=False),
        sa.Column("refunded_minor", sa.BigInteger(), nullable=False),
        sa.Column("commission_minor", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "dimension",
            "day",
            "program_number",
            "publisher_number",
            "value",
            "currency",
            name=op.f("pk_rollup_day"),
        ),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_rollup_day_program_number",
        "rollup_day",
        ["program_number", "dimension", "day"],
        unique=False,
    )
    op.create_index(
        "ix_rollup_day_publisher_number",
        "rollup_day",
        ["publisher_number", "dimension", "day"],
        unique=False,
    )
    op.create_table(
        "rollup_hour",
        sa.Column("hour", sa.BigInteger(), nullable=False),
        sa.Column("program_number", sa.BigInteger(), nullable=False),
        sa.Column("publisher_number", sa.BigInteger(), nullable=False),
        sa.Column("currency", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("impressions", sa.BigInteger(), nullable=False),
        sa.Column("clicks", sa.BigInteger(), nullable=False),
        sa.Column("filtered_clicks", sa.BigInteger(), nullable=False),
        sa.Column("unique_clicks", sa.BigInteger(), nullable=False),
        sa.Column("conversions", sa.BigInteger(), nullable=False),
        sa.Column("sales_minor", sa.BigInteger(), nullable=False),
        sa.Column("refunded_minor", sa.BigInteger(), nullable=False),
        sa.Column("commission_minor", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "hour", "program_number", "publisher_number", "currency", name=op.f("pk_rollup_hour")
        ),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_rollup_hour_program_number_hour",
        "rollup_hour",
        ["program_number", "hour"],
        unique=False,
    )
    op.create_index(
        "ix_rollup_hour_publisher_number_hour",
        "rollup_hour",
        ["publisher_number", "hour"],
        unique=False,
    )
    op.create_table(
        "rollup_visitor",
        sa.Column("day", sa.BigInteger(), nullable=False),
        sa.Column("visitor", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("day", "visitor", name=op.f("pk_rollup_visitor")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "rollup_width",
        sa.Column("day", sa.BigInteger(), nullable=False),
        sa.Column("program_number", sa.BigInteger(), nullable=False),
        sa.Column("publisher_number", sa.BigInteger(), nullable=False),
        sa.Column("dimension", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("value_count", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint(
            "day", "program_number", "publisher_number", "dimension", name=op.f("pk_rollup_width")
        ),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "link_target",
        sa.Column("program_id", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("url_hash", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("url", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("host", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("publisher_id", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("seen_day", sa.BigInteger(), nullable=False),
        sa.Column("next_check_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.Column("checked_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True),
        sa.Column("outcome", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("status", sa.Integer(), nullable=False),
        sa.Column("failures", sa.Integer(), nullable=False),
        sa.ForeignKeyConstraint(
            ["program_id"], ["program.id"], name=op.f("fk_link_target_program_id")
        ),
        sa.PrimaryKeyConstraint("program_id", "url_hash", name=op.f("pk_link_target")),
    )
    op.create_index(
        "ix_link_target_host_checked_at", "link_target", ["host", "checked_at"], unique=False
    )
    op.create_index("ix_link_target_next_check_at", "link_target", ["next_check_at"], unique=False)


def downgrade() -> None:
    raise NotImplementedError("the way back is the backup from before")
