"""Every table of the house, imported once, for migrations and tests."""

from sqlmodel import SQLModel

import commissions.models
import feeds.models
import fraud.models
import kernel.audit
import kernel.idempotency
import kernel.outbox
import network.models
import tracker.models

# Importing a module is what registers its tables.
MODULES = (
    kernel.audit,
    kernel.idempotency,
    kernel.outbox,
    network.models,
    tracker.models,
    fraud.models,
    commissions.models,
    feeds.models,
)

metadata = SQLModel.metadata


def append_only_tables() -> list[str]:
    """Names of the tables whose rows the database itself keeps from changing."""
    return sorted(
        table.name for table in metadata.sorted_tables if table.info.get("append_only", False)
    )
