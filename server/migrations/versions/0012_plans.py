"""Notice periods of plans, where they were waived, and jobs that simulate and re-rate

The old code may still run against the new schema while nodes are replaced: add columns as
nullable or with a server default, and drop nothing that the version before reads.
"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

from kernel.database import append_only_ddl

revision = "0012"
down_revision = "0011"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "plan_job",
        sa.Column("id", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("kind", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("program_id", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("status", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("actor_id", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("from_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.Column("to_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.Column("document", sa.JSON(), nullable=False),
        sa.Column("version_max", sa.BigInteger(), nullable=False),
        sa.Column("reason", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("total", sa.BigInteger(), nullable=False),
        sa.Column("done", sa.BigInteger(), nullable=False),
        sa.Column("cursor", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("result", sa.JSON(), nullable=False),
        sa.Column("detail", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("confirmed_by", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("created_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.Column("updated_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.Column("finished_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=True),
        sa.ForeignKeyConstraint(
            ["program_id"], ["program.id"], name=op.f("fk_plan_job_program_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_plan_job")),
    )
    op.create_index(op.f("ix_plan_job_program_id_id"), "plan_job", ["program_id", "id"])
    op.create_index(op.f("ix_plan_job_status"), "plan_job", ["status"])

    op.create_table(
        "plan_notice",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("program_id", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("days", sa.BigInteger(), nullable=False),
        sa.Column("set_by", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("set_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["program_id"], ["program.id"], name=op.f("fk_plan_notice_program_id")
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_plan_notice")),
    )
    op.create_index(op.f("ix_plan_notice_program_id"), "plan_notice", ["program_id"])

    op.create_table(
        "plan_waiver",
        sa.Column("plan_version_id", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("reason", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("earliest_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.Column("lowered", sa.JSON(), nullable=False),
        sa.Column("waived_by", sqlmodel.sql.sqltypes.AutoString(), nullable=False),
        sa.Column("waived_at", sqlmodel.sql.sqltypes.UTCDateTime(), nullable=False),
        sa.ForeignKeyConstraint(
            ["plan_version_id"], ["plan_version.id"], name=op.f("fk_plan_waiver_plan_version_id")
        ),
        sa.PrimaryKeyConstraint("plan_version_id", name=op.f("pk_plan_waiver")),
    )
    dialect = op.get_bind().dialect.name
    for table in ("plan_notice", "plan_waiver"):
        for statement in append_only_ddl(dialect, table):
            op.execute(statement)


def downgrade() -> None:
    raise NotImplementedError("the way back is the backup from before")
