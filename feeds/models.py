"""What can be promoted: where items come from, the items, and the rows that were refused."""

from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from kernel.database import Count, Minor, json_column, sequence_key


class ImportStatus(StrEnum):
    """How a look at a source ended; `failed` and `unchanged` leave the catalogue as it was."""

    IMPORTED = "imported"
    UNCHANGED = "unchanged"
    FAILED = "failed"


class FeedSource(SQLModel, table=True):
    """A program's product feed: a URL that is pulled, or uploads when `url` is empty."""

    __tablename__ = "feed_source"

    id: str = Field(primary_key=True)
    program_id: str = Field(foreign_key="program.id", index=True)
    name: str
    url: str = ""
    etag: str = ""
    last_modified: str = ""
    next_pull_at: datetime | None = Field(default=None, index=True)
    created_at: datetime


class FeedImport(SQLModel, table=True):
    """One look at a source and what came of it."""

    __tablename__ = "feed_import"

    id: str = Field(primary_key=True)
    source_id: str = Field(foreign_key="feed_source.id", index=True)
    status: str
    detail: str = ""
    format: str = ""
    rows: Count = 0
    added: Count = 0
    changed: Count = 0
    unchanged: Count = 0
    removed: Count = 0
    rejected: Count = 0
    at: datetime


class Rejection(SQLModel, table=True):
    """A row of a feed that was not taken, or taken with a warning, and the rule it broke."""

    seq: int | None = sequence_key()
    import_id: str = Field(foreign_key="feed_import.id", index=True)
    row: Count
    item_id: str = ""
    column: str = ""
    rule: str
    severity: str
    message: str


class Product(SQLModel, table=True):
    """An item of a catalogue. A removed one stays as a tombstone (`removed_at`)."""

    __table_args__ = (
        sa.UniqueConstraint("source_id", "item_id"),
        sa.Index("ix_product_program_id_seq", "program_id", "seq"),
    )

    id: str = Field(primary_key=True)
    seq: int = Field(
        unique=True, sa_type=sa.BigInteger, description="Rises with every change of any item."
    )
    source_id: str = Field(foreign_key="feed_source.id")
    program_id: str = Field(foreign_key="program.id")
    item_id: str
    group_id: str = ""
    title: str
    description: str = ""
    brand: str = ""
    gtin14: str = ""
    mpn: str = ""
    condition: str = ""
    category: str = ""
    link: str
    image_link: str = ""
    availability: str
    price_minor: Minor
    sale_price_minor: int | None = Field(default=None, sa_type=sa.BigInteger)
    currency: str
    extra: dict[str, Any] = json_column()
    fingerprint: str
    updated_at: datetime
    removed_at: datetime | None = None
