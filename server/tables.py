"""Every table of the house, imported once, for migrations and tests."""

from collections.abc import Callable
from typing import Any

import sqlalchemy as sa
from sqlmodel import SQLModel

import commissions.models
import commissions.plan_models
import feeds.models
import fraud.models
import kernel.audit
import kernel.idempotency
import kernel.outbox
import network.models
import tracker.models
import tracker.rollup_models

# Importing a module is what registers its tables.
MODULES = (
    kernel.audit,
    kernel.idempotency,
    kernel.outbox,
    network.models,
    tracker.models,
    tracker.rollup_models,
    fraud.models,
    commissions.models,
    commissions.plan_models,
    feeds.models,
)

metadata = SQLModel.metadata


def append_only_tables() -> list[str]:
    """Names of the tables whose rows the database itself keeps from changing."""
    return sorted(
        table.name for table in metadata.sorted_tables if table.info.get("append_only", False)
    )


def is_in_main_database(dialect: str) -> Callable[..., bool]:
    """Tells Alembic what to compare: all, but for tables that stand in day files on SQLite."""

    def judge(item: Any, _name: str, kind: str, _reflected: bool, _other: Any) -> bool:  # noqa: FBT001 - Alembic's own signature
        table = item if kind == "table" else getattr(item, "table", None)
        return not (
            dialect == "sqlite" and isinstance(table, sa.Table) and table.info.get("by_day", False)
        )

    return judge
