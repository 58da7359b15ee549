"""What becomes of orders that a browser reports

The old code may still run against the new schema while nodes are replaced: add columns as
nullable or with a server default, and drop nothing that the version before reads.
"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "program",
        sa.Column(
            "tag_orders",
            sqlmodel.sql.sqltypes.AutoString(),
            nullable=False,
            server_default="refused",
        ),
    )


def downgrade() -> None:
    raise NotImplementedError("the way back is the backup from before")
