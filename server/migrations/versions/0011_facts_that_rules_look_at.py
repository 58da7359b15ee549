"""Facts that rules of commission plans look at, and exchange rates

Of orders before it nothing more is known than was: their new columns are empty, which matches no
condition.

The old code may still run against the new schema while nodes are replaced: add columns as
nullable or with a server default, and drop nothing that the version before reads.
"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

from kernel.database import append_only_ddl

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None

_APPEND_ONLY = ("publisher_group_change", "fx_rate", "conversion_rate")


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sqlmodel.sql.sqltypes.AutoString(), nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sqlmodel.sql.sqltypes.UTCDateTime(), nullable=nullable)


def _documents(name: str) -> sa.Column[object]:
    return sa.Column(name, sa.JSON(), nullable=False, server_default="[]")


def upgrade() -> None:
    op.add_column("program", _documents("other_currencies"))
    for name in ("site", "country_billing", "country_site"):
        op.add_column("conversion", _text(name, nullable=True))
    op.add_column("conversion_item", _text("vat_percent", nullable=True))
    for name in ("net_minor", "revenue_minor"):
        op.add_column("conversion_item", sa.Column(name, sa.BigInteger(), nullable=True))
    op.add_column("attribution", _text("click_device", nullable=True))
    op.add_column("attribution", _documents("publisher_groups"))
    op.add_column("attribution", _time("customer_since", nullable=True))
    op.add_column("attribution", sa.Column("months_since_first", sa.Integer(), nullable=True))
    _groups()
    _rates()
    for table in _APPEND_ONLY:
        for statement in append_only_ddl(op.get_bind().dialect.name, table):
            op.execute(statement)


def _groups() -> None:
    op.create_table(
        "publisher_group",
        _text("id"),
        _text("code"),
        _text("name"),
        _text("program_id", nullable=True),
        _time("created_at"),
        sa.ForeignKeyConstraint(
            ["program_id"], ["program.id"], name=op.f("fk_publisher_group_program_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_publisher_group")),
        sa.UniqueConstraint("code", name=op.f("uq_publisher_group_code")),
    )
    op.create_index("ix_publisher_group_program_id", "publisher_group", ["program_id"])
    op.create_table(
        "publisher_group_change",
        sa.Column(
            "seq",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        _text("group_id"),
        _text("publisher_id"),
        sa.Column("is_member", sa.Boolean(), nullable=False),
        _time("at"),
        _text("actor"),
        _time("recorded_at"),
        sa.ForeignKeyConstraint(
            ["group_id"],
            ["publisher_group.id"],
            name=op.f("fk_publisher_group_change_group_id"),
        ),
        sa.ForeignKeyConstraint(
            ["publisher_id"],
            ["publisher.id"],
            name=op.f("fk_publisher_group_change_publisher_id"),
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_publisher_group_change")),
    )
    op.create_index("ix_publisher_group_change_group_id", "publisher_group_change", ["group_id"])
    op.create_index(
        "ix_publisher_group_change_publisher_id_at",
        "publisher_group_change",
        ["publisher_id", "at"],
    )


def _rates() -> None:
    op.create_table(
        "fx_rate",
        _text("id"),
        _text("source"),
        sa.Column("day", sa.Date(), nullable=False),
        _text("base"),
        _text("currency"),
        _text("rate"),
        sa.Column("version", sa.Integer(), nullable=False),
        _text("actor"),
        _time("recorded_at"),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fx_rate")),
        sa.UniqueConstraint(
            "source",
            "day",
            "base",
            "currency",
            "version",
            name=op.f("uq_fx_rate_source_day_base_currency_version"),
        ),
    )
    op.create_index("ix_fx_rate_currency_day", "fx_rate", ["currency", "day"])
    op.create_table(
        "conversion_rate",
        _text("conversion_id"),
        _text("program_id"),
        _text("currency"),
        _text("into"),
        sa.Column("day", sa.Date(), nullable=False),
        _text("source"),
        _text("from_rate_id", nullable=True),
        _text("from_rate"),
        _text("to_rate_id", nullable=True),
        _text("to_rate"),
        sa.Column("waited", sa.Boolean(), nullable=False),
        _time("fixed_at"),
        sa.ForeignKeyConstraint(
            ["conversion_id"], ["conversion.id"], name=op.f("fk_conversion_rate_conversion_id")
        ),
        sa.ForeignKeyConstraint(
            ["program_id"], ["program.id"], name=op.f("fk_conversion_rate_program_id")
        ),
        sa.ForeignKeyConstraint(
            ["from_rate_id"], ["fx_rate.id"], name=op.f("fk_conversion_rate_from_rate_id")
        ),
        sa.ForeignKeyConstraint(
            ["to_rate_id"], ["fx_rate.id"], name=op.f("fk_conversion_rate_to_rate_id")
        ),
        sa.PrimaryKeyConstraint("conversion_id", name=op.f("pk_conversion_rate")),
    )
    op.create_index("ix_conversion_rate_program_id", "conversion_rate", ["program_id"])
    op.create_table(
        "rate_wanted",
        _text("conversion_id"),
        _text("program_id"),
        _text("currency"),
        _text("into"),
        sa.Column("day", sa.Date(), nullable=False),
        sa.ForeignKeyConstraint(
            ["conversion_id"], ["conversion.id"], name=op.f("fk_rate_wanted_conversion_id")
        ),
        sa.PrimaryKeyConstraint("conversion_id", name=op.f("pk_rate_wanted")),
    )


def downgrade() -> None:
    raise NotImplementedError("the way back is the backup from before")
