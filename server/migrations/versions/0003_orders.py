"""Orders that come in by several ways, files of orders, and secrets to sign them with

The old code may still run against the new schema while nodes are replaced: add columns as
nullable or with a server default, and drop nothing that the version before reads.
"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

from kernel.database import append_only_ddl

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_APPEND_ONLY = ("arrival", "order_upload_row")
_OLD_KEY = ("program_id", "order_id", "event")
_SEQUENCE = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _text(name: str, *, nullable: bool, server_default: str | None = None) -> sa.Column[str]:
    return sa.Column(
        name,
        sqlmodel.sql.sqltypes.AutoString(),
        nullable=nullable,
        server_default=server_default,
    )


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sqlmodel.sql.sqltypes.UTCDateTime(), nullable=nullable)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger(), nullable=False)


def upgrade() -> None:
    dialect = op.get_bind().dialect.name
    for name in ("duplicate_modes", "status_words"):
        op.add_column("program", sa.Column(name, sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("conversion_change", _text("reason_code", nullable=False, server_default=""))
    _number_conversions(dialect)
    op.create_table(
        "signing_secret",
        _text("id", nullable=False),
        _text("program_id", nullable=False),
        _time("retired_at", nullable=True),
        _time("created_at"),
        sa.ForeignKeyConstraint(
            ["program_id"], ["program.id"], name=op.f("fk_signing_secret_program_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_signing_secret")),
    )
    op.create_index(op.f("ix_signing_secret_program_id"), "signing_secret", ["program_id"])
    _create_arrivals()
    _create_uploads()
    for table in _APPEND_ONLY:
        for statement in append_only_ddl(dialect, table):
            op.execute(statement)


def _number_conversions(dialect: str) -> None:
    columns = (
        sa.Column("number", sa.Integer(), nullable=False, server_default="1"),
        _text("relation", nullable=False, server_default=""),
        _text("related_id", nullable=True),
    )
    old, new = (f"uq_conversion_{'_'.join(key)}" for key in (_OLD_KEY, (*_OLD_KEY, "number")))
    with op.batch_alter_table("conversion") as batch:
        for column in columns:
            batch.add_column(column)
        batch.drop_constraint(op.f(old), type_="unique")
        batch.create_unique_constraint(op.f(new), [*_OLD_KEY, "number"])
    if dialect == "sqlite":
        # SQLite built the table anew, without its triggers.
        for statement in append_only_ddl(dialect, "conversion"):
            op.execute(statement)


def _create_arrivals() -> None:
    op.create_table(
        "arrival",
        sa.Column("seq", _SEQUENCE, nullable=False),
        _text("conversion_id", nullable=False),
        *(_text(name, nullable=False) for name in ("channel", "result", "content_hash", "source")),
        _count("count"),
        _time("at"),
        _time("last_at"),
        sa.ForeignKeyConstraint(
            ["conversion_id"], ["conversion.id"], name=op.f("fk_arrival_conversion_id")
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_arrival")),
    )
    op.create_index(op.f("ix_arrival_conversion_id"), "arrival", ["conversion_id"])


def _create_uploads() -> None:
    op.create_table(
        "order_upload",
        *(_text(name, nullable=False) for name in ("id", "program_id", "actor_id")),
        sa.Column("is_manager", sa.Boolean(), nullable=False),
        *(_text(name, nullable=False) for name in ("file_name", "format")),
        sa.Column("options", sa.JSON(), nullable=False),
        sa.Column("content", sa.LargeBinary(), nullable=False),
        _count("content_bytes"),
        *(_text(name, nullable=False) for name in ("content_hash", "status", "detail")),
        *map(
            _count,
            ("rows_total", "rows_done", "accepted", "duplicates", "conflicts", "invalid"),
        ),
        _time("created_at"),
        _time("updated_at"),
        _time("finished_at", nullable=True),
        sa.ForeignKeyConstraint(
            ["program_id"], ["program.id"], name=op.f("fk_order_upload_program_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_order_upload")),
    )
    op.create_index(op.f("ix_order_upload_program_id"), "order_upload", ["program_id"])
    op.create_index(op.f("ix_order_upload_status"), "order_upload", ["status"])
    op.create_table(
        "order_upload_row",
        _text("upload_id", nullable=False),
        sa.Column("row", sa.Integer(), nullable=False),
        *(
            _text(name, nullable=False)
            for name in ("status", "order_id", "field", "rule", "message")
        ),
        *(_text(name, nullable=True) for name in ("conversion_id", "receipt")),
        sa.ForeignKeyConstraint(
            ["upload_id"], ["order_upload.id"], name=op.f("fk_order_upload_row_upload_id")
        ),
        sa.PrimaryKeyConstraint("upload_id", "row", name=op.f("pk_order_upload_row")),
    )


def downgrade() -> None:
    raise NotImplementedError("the way back is the backup from before")
