"""Repeated reports are found by their time, and results of files may be let go

The old code may still run against the new schema while nodes are replaced: add columns as
nullable or with a server default, and drop nothing that the version before reads.
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    # Of the first report of an order, which nearly all are, it holds nothing.
    op.create_index(
        "ix_arrival_last_at",
        "arrival",
        ["last_at"],
        sqlite_where=sa.text("result <> 'accepted'"),
        postgresql_where=sa.text("result <> 'accepted'"),
    )
    if op.get_bind().dialect.name == "sqlite":
        for verb in ("update", "delete"):
            op.execute(f"DROP TRIGGER order_upload_row_no_{verb}")
    else:
        op.execute("DROP TRIGGER order_upload_row_append_only ON order_upload_row")


def downgrade() -> None:
    raise NotImplementedError("the way back is the backup from before")
