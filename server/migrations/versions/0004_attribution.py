"""Attribution

Terms and coupons of programs, shares, traces, and what matches an order that was nobody's.

The old code may still run against the new schema while nodes are replaced: add columns as
nullable or with a server default, and drop nothing that the version before reads.
"""

import sqlalchemy as sa
import sqlmodel.sql.sqltypes
from alembic import op

from kernel.database import append_only_ddl

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_APPEND_ONLY = ("attribution_terms", "attribution_share", "attribution_superseded")
# What was decided so far was one click of one publisher.
_SHARES = (
    "INSERT INTO attribution_share "
    "(conversion_id, position, publisher_id, numerator, denominator, role, click_id) "
    "SELECT conversion_id, 0, publisher_id, 1, 1, 'converter', click_id "
    "FROM attribution WHERE publisher_id IS NOT NULL"
)
# A decision for nobody may become one for somebody, once a copy of it is kept; nothing else.
_MAY_CHANGE = (
    "OLD.publisher_id IS NULL AND NEW.publisher_id IS NOT NULL "
    "AND NEW.conversion_id = OLD.conversion_id AND EXISTS (SELECT 1 FROM attribution_superseded "
    "WHERE attribution_superseded.conversion_id = OLD.conversion_id)"
)
_SQLITE = (
    "DROP TRIGGER attribution_no_update",
    (
        "CREATE TRIGGER attribution_no_update BEFORE UPDATE ON attribution "
        f"WHEN NOT ({_MAY_CHANGE}) "
        "BEGIN SELECT RAISE(ABORT, 'attribution is append-only'); END"
    ),
)
_POSTGRESQL = (
    "DROP TRIGGER attribution_append_only ON attribution",
    (
        "CREATE TRIGGER attribution_append_only BEFORE DELETE OR TRUNCATE ON attribution "
        "FOR EACH STATEMENT EXECUTE FUNCTION tallystick_append_only()"
    ),
    (
        "CREATE OR REPLACE FUNCTION tallystick_attribution_changes() RETURNS trigger AS $$ "
        f"BEGIN IF {_MAY_CHANGE} THEN RETURN NEW; END IF; "
        "RAISE EXCEPTION 'attribution is append-only'; END $$ LANGUAGE plpgsql"
    ),
    (
        "CREATE TRIGGER attribution_no_update BEFORE UPDATE ON attribution "
        "FOR EACH ROW EXECUTE FUNCTION tallystick_attribution_changes()"
    ),
)


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sqlmodel.sql.sqltypes.AutoString(), nullable=nullable)


def _time(name: str, *, nullable: bool = False) -> sa.Column[object]:
    return sa.Column(name, sqlmodel.sql.sqltypes.UTCDateTime(), nullable=nullable)


def upgrade() -> None:
    op.create_table(
        "attribution_terms",
        _text("id"),
        _text("program_id"),
        sa.Column("version", sa.Integer(), nullable=False),
        _time("effective_from"),
        sa.Column("document", sa.JSON(), nullable=False),
        _text("content_hash"),
        _text("published_by"),
        _time("published_at"),
        sa.ForeignKeyConstraint(
            ["program_id"], ["program.id"], name=op.f("fk_attribution_terms_program_id")
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_attribution_terms")),
        sa.UniqueConstraint(
            "program_id", "version", name=op.f("uq_attribution_terms_program_id_version")
        ),
    )
    op.create_table(
        "attribution_share",
        _text("conversion_id"),
        sa.Column("position", sa.Integer(), nullable=False),
        _text("publisher_id"),
        sa.Column("numerator", sa.BigInteger(), nullable=False),
        sa.Column("denominator", sa.BigInteger(), nullable=False),
        _text("role"),
        _text("click_id", nullable=True),
        sa.ForeignKeyConstraint(
            ["conversion_id"], ["conversion.id"], name=op.f("fk_attribution_share_conversion_id")
        ),
        sa.ForeignKeyConstraint(
            ["publisher_id"], ["publisher.id"], name=op.f("fk_attribution_share_publisher_id")
        ),
        sa.PrimaryKeyConstraint("conversion_id", "position", name=op.f("pk_attribution_share")),
    )
    op.create_index("ix_attribution_share_publisher_id", "attribution_share", ["publisher_id"])
    op.create_table(
        "attribution_superseded",
        _text("conversion_id"),
        _text("reason"),
        _text("terms_id", nullable=True),
        sa.Column("trace", sa.JSON(), nullable=False),
        _time("decided_at"),
        _time("superseded_at"),
        sa.ForeignKeyConstraint(
            ["conversion_id"],
            ["conversion.id"],
            name=op.f("fk_attribution_superseded_conversion_id"),
        ),
        sa.PrimaryKeyConstraint("conversion_id", name=op.f("pk_attribution_superseded")),
    )
    _coupons()
    _matching()
    _columns()
    op.execute(_SHARES)
    dialect = op.get_bind().dialect.name
    for statement in _SQLITE if dialect == "sqlite" else _POSTGRESQL:
        op.execute(statement)
    for table in _APPEND_ONLY:
        for statement in append_only_ddl(dialect, table):
            op.execute(statement)


def _coupons() -> None:
    op.create_table(
        "coupon",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        _text("id"),
        _text("program_id"),
        _text("publisher_id", nullable=True),
        _text("code"),
        _text("key"),
        _text("operator"),
        _text("effect"),
        _time("starts_at", nullable=True),
        _time("ends_at", nullable=True),
        _text("created_by"),
        _time("created_at"),
        sa.ForeignKeyConstraint(["program_id"], ["program.id"], name=op.f("fk_coupon_program_id")),
        sa.ForeignKeyConstraint(
            ["publisher_id"], ["publisher.id"], name=op.f("fk_coupon_publisher_id")
        ),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_coupon")),
        sa.UniqueConstraint("id", name=op.f("uq_coupon_id")),
    )
    op.create_index("ix_coupon_program_id_key", "coupon", ["program_id", "key"])
    op.create_index("ix_coupon_publisher_id", "coupon", ["publisher_id"])


def _matching() -> None:
    op.create_table(
        "known_customer",
        _text("key"),
        _text("conversion_id"),
        _time("occurred_at"),
        sa.ForeignKeyConstraint(
            ["conversion_id"], ["conversion.id"], name=op.f("fk_known_customer_conversion_id")
        ),
        sa.PrimaryKeyConstraint("key", "conversion_id", name=op.f("pk_known_customer")),
    )
    op.create_index("ix_known_customer_occurred_at", "known_customer", ["occurred_at"])
    op.create_table(
        "match_wanted",
        _text("kind"),
        _text("key"),
        _text("conversion_id"),
        _text("program_id"),
        _time("occurred_at"),
        sa.ForeignKeyConstraint(
            ["conversion_id"], ["conversion.id"], name=op.f("fk_match_wanted_conversion_id")
        ),
        sa.PrimaryKeyConstraint("kind", "key", "conversion_id", name=op.f("pk_match_wanted")),
    )
    op.create_index("ix_match_wanted_occurred_at", "match_wanted", ["occurred_at"])


def _columns() -> None:
    op.add_column("attribution", sa.Column("trace", sa.JSON(), nullable=False, server_default="{}"))
    op.add_column("attribution", _text("terms_id", nullable=True))


def downgrade() -> None:
    raise NotImplementedError("the way back is the backup from before")
