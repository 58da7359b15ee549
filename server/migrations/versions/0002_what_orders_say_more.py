"""What orders say more, and what an attribution keeps of its click

The old code may still run against the new schema while nodes are replaced: add columns as
nullable or with a server default, and drop nothing that the version before reads.
"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

from kernel.database import append_only_ddl

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_COPY = (
    "UPDATE attribution SET click_country = click.country, sub_ids = click.sub_ids "
    "FROM click WHERE click.id = attribution.click_id"
)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, sqlmodel.sql.sqltypes.AutoString(), nullable=True)


def _json(name: str, empty: str) -> sa.Column[str]:
    return sa.Column(name, sa.JSON(), nullable=False, server_default=empty)


def upgrade() -> None:
    op.add_column("attribution", _text("click_country"))
    op.add_column("attribution", _json("sub_ids", "{}"))
    for column in (
        _json("click_ids", "[]"),
        _text("customer_id"),
        _text("email_hash"),
        _text("parent_order_id"),
        _text("named_publisher"),
        _text("paid_channel"),
        sa.Column("cart_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True),
        sa.Column("is_test", sa.Boolean(), nullable=False, server_default=sa.false()),
        sa.Column("discount_minor", sa.BigInteger(), nullable=True),
        sa.Column("tax_minor", sa.BigInteger(), nullable=True),
        sa.Column("shipping_minor", sa.BigInteger(), nullable=True),
        _json("custom", "{}"),
    ):
        op.add_column("conversion", column)
    # Facts do not change, and these do not: they move to where replays look for them.
    dialect = op.get_bind().dialect.name
    if dialect == "sqlite":
        op.execute("DROP TRIGGER attribution_no_update")
        op.execute(_COPY)
        op.execute(append_only_ddl("sqlite", "attribution")[0])
    else:
        op.execute("ALTER TABLE attribution DISABLE TRIGGER attribution_append_only")
        op.execute(_COPY)
        op.execute("ALTER TABLE attribution ENABLE TRIGGER attribution_append_only")


def downgrade() -> None:
    raise NotImplementedError("the way back is the backup from before")
