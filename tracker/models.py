"""What was seen: clicks, conversions, what advertisers said about them later, what was refused."""

from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from kernel.database import Count, Minor, append_only, json_column, sequence_key


class ChangeKind(StrEnum):
    """What an advertiser says about an order after reporting it."""

    REFUND = "refund"
    CANCEL = "cancel"
    APPROVE = "approve"
    DECLINE = "decline"


class Click(SQLModel, table=True):
    """A visitor sent by a publisher to a program. Never changed; the id describes itself.

    `unbillable_reason` is empty for a click that may earn. `visitor_key` is a keyed hash of
    address and agent: equal for repeats of one visitor, useless to anyone without the key.
    """

    __table_args__ = (
        sa.Index("ix_click_program_id_visitor_key_at", "program_id", "visitor_key", "at"),
        sa.Index("ix_click_publisher_id_at", "publisher_id", "at"),
        sa.Index("ix_click_at", "at"),
    )

    id: str = Field(primary_key=True)
    at: datetime
    program_id: str
    publisher_id: str
    imported: bool = False
    unbillable_reason: str = ""
    landing_url: str = ""
    sub_ids: dict[str, str] = json_column()
    parameters: dict[str, str] = json_column()
    address: str = ""
    visitor_key: str = ""
    user_agent: str = ""
    agent_class: str = ""
    referrer: str = ""
    accept_language: str = ""
    sec_fetch_dest: str | None = None
    sec_fetch_mode: str | None = None
    sec_fetch_user: str | None = None
    sec_purpose: str | None = None
    country: str | None = None
    country_source: str = ""
    is_hosting: bool = False
    duplicates: int = Field(
        default=0, description="Clicks of this visitor on this program within the window before."
    )


class Conversion(SQLModel, table=True):
    """An order (or lead ...) as the advertiser reported it. Append-only.

    (`program_id`, `order_id`, `event`) is unique and `id` is derived from it; `content_hash` tells
    a repeat from a conflict. `seq` is the booking order.
    """

    __table_args__ = (
        sa.UniqueConstraint("program_id", "order_id", "event"),
        sa.Index("ix_conversion_program_id_occurred_at", "program_id", "occurred_at"),
        append_only(),
    )

    seq: int | None = sequence_key()
    id: str = Field(unique=True)
    program_id: str = Field(foreign_key="program.id")
    order_id: str = Field(index=True)
    event: str
    occurred_at: datetime
    received_at: datetime
    currency: str
    amount_minor: Minor
    country: str | None = None
    customer: str | None = None
    coupon: str | None = None
    click_id: str | None = Field(default=None, index=True)
    reported_status: str = ""
    content_hash: str
    channel: str = Field(description="`postback`, `api` or `import`.")
    imported: bool = False


class ConversionItem(SQLModel, table=True):
    """One line of an order. `amount_minor` is the line's total, not the price of one piece."""

    __tablename__ = "conversion_item"
    __table_args__ = append_only()

    conversion_id: str = Field(foreign_key="conversion.id", primary_key=True)
    line: int = Field(primary_key=True)
    sku: str = ""
    category: str = ""
    quantity: Count = 1
    amount_minor: Minor


class Attribution(SQLModel, table=True):
    """Who brought a conversion, and why; nobody when `publisher_id` is empty. Append-only."""

    __table_args__ = append_only()

    conversion_id: str = Field(foreign_key="conversion.id", primary_key=True)
    publisher_id: str | None = Field(default=None, foreign_key="publisher.id", index=True)
    click_id: str | None = None
    clicked_at: datetime | None = None
    source: str = Field(description="What decided: `click`, or `none`.")
    reason: str
    decided_at: datetime


class ConversionChange(SQLModel, table=True):
    """A refund, cancellation, approval or refusal of an order by its advertiser. Append-only.

    `key` makes a repeat harmless. `amount_minor` is what a refund takes back (of `line`, if given).
    """

    __tablename__ = "conversion_change"
    __table_args__ = append_only()

    seq: int | None = sequence_key()
    id: str = Field(unique=True)
    key: str = Field(unique=True)
    conversion_id: str = Field(foreign_key="conversion.id", index=True)
    kind: str
    line: int | None = None
    amount_minor: Minor = 0
    quantity: Count = 0
    reason: str = ""
    content_hash: str
    occurred_at: datetime
    received_at: datetime


class IntakeRefusal(SQLModel, table=True):
    """An acknowledged event that could not be recorded when it was shipped, with the reason.

    Listed for the advertiser: a conflict met while the database was away, a refund of more than
    was left. Append-only.
    """

    __tablename__ = "intake_refusal"
    __table_args__ = append_only()

    seq: int | None = sequence_key()
    id: str = Field(unique=True)
    program_id: str = Field(index=True)
    order_id: str = Field(index=True)
    code: str
    detail: str
    payload: dict[str, Any] = json_column()
    at: datetime


class JournalPosition(SQLModel, table=True):
    """How far a journal is in the database; moves in the transaction that stores its events."""

    __tablename__ = "journal_position"

    journal_id: str = Field(primary_key=True)
    segment: Count
    offset: Count
    clicks: Count = 0
    conversions: Count = 0
    damaged: Count = 0
    updated_at: datetime
