"""Short links, fallback pages and signed deep links

The old code may still run against the new schema while nodes are replaced: add columns as
nullable or with a server default, and drop nothing that the version before reads.
"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def _text(name: str, default: str | None = None) -> sa.Column[str]:
    kind = sqlmodel.sql.sqltypes.AutoString()
    return sa.Column(name, kind, nullable=False, server_default=default)


def upgrade() -> None:
    op.add_column("program", _text("fallback_url", default=""))
    op.add_column(
        "program",
        sa.Column("requires_signed_links", sa.Boolean(), nullable=False, server_default=sa.false()),
    )
    op.add_column("publisher", _text("fallback_url", default=""))
    op.add_column(
        "routing_version", sa.Column("links", sa.BigInteger(), nullable=False, server_default="0")
    )
    op.add_column("click", _text("link", default=""))
    op.create_table(
        "link",
        _text("id"),
        _text("code"),
        _text("program_id"),
        _text("publisher_id"),
        _text("destination"),
        sa.Column("sub_ids", sa.JSON(), nullable=False),
        _text("name"),
        _text("status"),
        sa.Column("change", sa.BigInteger(), nullable=False),
        sa.Column("created_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.ForeignKeyConstraint(["program_id"], ["program.id"], name="fk_link_program_id_program"),
        sa.ForeignKeyConstraint(
            ["publisher_id"], ["publisher.id"], name="fk_link_publisher_id_publisher"
        ),
        sa.PrimaryKeyConstraint("id", name="pk_link"),
        sa.UniqueConstraint("code", name="uq_link_code"),
        sa.UniqueConstraint("change", name="uq_link_change"),
    )
    op.create_index("ix_link_program_id", "link", ["program_id"])
    op.create_index("ix_link_publisher_id_program_id", "link", ["publisher_id", "program_id"])


def downgrade() -> None:
    raise NotImplementedError("the way back is the backup from before")
