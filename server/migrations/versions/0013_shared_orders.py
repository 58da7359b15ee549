"""Several publishers are paid for one order

What was booked so far was paid whole to one publisher: part 0, and the whole of it.

The old code may still run against the new schema while nodes are replaced: add columns as
nullable or with a server default, and drop nothing that the version before reads.
"""

import sqlalchemy as sa
from alembic import op

from kernel.database import append_only_ddl

revision = "0013"
down_revision = "0012"
branch_labels = None
depends_on = None

_COMMISSION = (
    ("part", sa.Integer(), "0"),
    ("position", sa.Integer(), "0"),
    ("share_numerator", sa.BigInteger(), "1"),
    ("share_denominator", sa.BigInteger(), "1"),
    ("uncapped_minor", sa.BigInteger(), "0"),
)


def _column(name: str, kind: sa.types.TypeEngine[int], default: str) -> sa.Column[int]:
    return sa.Column(name, kind, nullable=False, server_default=default)


def upgrade() -> None:
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    for table in ("booking", "commission_step"):
        op.add_column(table, _column("part", sa.Integer(), "0"))
    op.add_column(
        "rollup_conversion", sa.Column("others", sa.JSON(), nullable=False, server_default="{}")
    )
    for column in _COMMISSION:
        op.add_column("commission", _column(*column))
    # A payout says whose commission of a conversion its lines pay.
    with op.batch_alter_table("payout_line") as line:
        line.drop_constraint("fk_payout_line_conversion_id", type_="foreignkey")
        line.create_foreign_key(
            "fk_payout_line_conversion_id", "conversion", ["conversion_id"], ["id"]
        )
    with op.batch_alter_table("commission") as commission:
        commission.drop_constraint("pk_commission", type_="primary")
        commission.create_primary_key("pk_commission", ["conversion_id", "part"])
    # What a cap had not cut is what was booked; of the rest the bookings say it, and each has it
    # here again with the next event of its conversion.
    op.execute("UPDATE commission SET uncapped_minor = amount_minor")
    if is_sqlite:
        # The table was built anew, and its triggers went with the old one.
        for statement in append_only_ddl("sqlite", "payout_line"):
            op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("the way back is the backup from before")
