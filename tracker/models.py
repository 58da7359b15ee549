"""What was seen: clicks, conversions, what advertisers said about them later, what was refused."""

from datetime import date, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from kernel.database import Count, Minor, append_only, json_column, sequence_key
from network.documents import DocumentVersion


class ChangeKind(StrEnum):
    """What an advertiser says about an order after reporting it."""

    REFUND = "refund"
    CANCEL = "cancel"
    APPROVE = "approve"
    DECLINE = "decline"


class Click(SQLModel, table=True):
    """A visitor sent by a publisher to a program. Never changed; the id describes itself.

    `unbillable_reason` is empty for a click that may earn. `visitor_key` is a keyed hash of
    address and agent: equal for repeats of one visitor while a salt lasts, useless afterwards.
    The rows of a UTC day stand apart, see `tracker.click_days`; there is no such table in the main
    SQLite database.
    """

    __table_args__ = (
        sa.Index("ix_click_visitor_key_at", "visitor_key", "at"),
        {"postgresql_partition_by": "RANGE (at)", "info": {"by_day": True}},
    )

    id: str = Field(primary_key=True)
    at: datetime = Field(primary_key=True)
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
    link: str = Field(default="", description="The code of the short link; empty without one.")
    carried_clicks: int = Field(
        default=0,
        description="Clicks of this visitor on this program in the hour before that stand under "
        "the salt before.",
    )
    origin: int = Field(
        default=0,
        sa_type=sa.BigInteger,
        description="Derived from the place of its record in a journal; equal for no other record.",
    )


class ClickDay(SQLModel, table=True):
    """A UTC day that has, or had, clicks. The sum of its counts is what was shipped of the day.

    `generation` grows when a day that was let go gets clicks again: these stand in a new place, so
    that nothing can be written to a place that is being removed.
    """

    __tablename__ = "click_day"

    day: date = Field(primary_key=True)
    generation: int = 0
    opened_at: datetime
    last_at: datetime | None = Field(default=None, description="Time of its latest click.")
    clicks: Count = 0
    retired_clicks: Count = 0
    retired_at: datetime | None = None


class VisitorSalt(SQLModel, table=True):
    """The random salt of the visitor keys of a period; deleted when the period is over."""

    __tablename__ = "visitor_salt"

    starts_on: date = Field(primary_key=True)
    ends_on: date = Field(description="The first day after the period.")
    salt: str


class LinkStatus(StrEnum):
    """A retired link leads to the fallback page; its code is never given out again."""

    ACTIVE = "active"
    RETIRED = "retired"


class Link(SQLModel, table=True):
    """A short link of a publisher to a program: `/l/{code}`.

    Only `status` changes, and with it `change`, the number by which trackers read what is new.
    """

    __table_args__ = (sa.Index("ix_link_publisher_id_program_id", "publisher_id", "program_id"),)

    id: str = Field(primary_key=True)
    code: str = Field(unique=True)
    program_id: str = Field(foreign_key="program.id", index=True)
    publisher_id: str = Field(foreign_key="publisher.id")
    destination: str = Field(
        default="", description="A page of the program; empty for its landing page."
    )
    sub_ids: dict[str, str] = json_column()
    name: str = ""
    status: str = LinkStatus.ACTIVE
    change: int = Field(unique=True, sa_type=sa.BigInteger)
    created_at: datetime


class Conversion(SQLModel, table=True):
    """An order (or lead ...) as the advertiser reported it. Append-only.

    (`program_id`, `order_id`, `event`) has one, unless the program takes further reports of an
    order in (its duplicate mode) or the order was restated; `number` counts them from 1. The `id`
    is derived from what is reported; `content_hash` tells a repeat from a conflict. `seq` is the
    booking order. `relation` says what a further one is: `new`, `add` or `edit`, of `related_id`.
    """

    __table_args__ = (
        sa.UniqueConstraint("program_id", "order_id", "event", "number"),
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
    click_ids: list[str] = json_column(default_factory=list)
    customer_id: str | None = None
    email_hash: str | None = None
    parent_order_id: str | None = None
    named_publisher: str | None = None
    paid_channel: str | None = Field(
        default=None, description="The marketing channel that the merchant pays for this order."
    )
    cart_at: datetime | None = None
    is_test: bool = False
    discount_minor: int | None = Field(default=None, sa_type=sa.BigInteger)
    tax_minor: int | None = Field(default=None, sa_type=sa.BigInteger)
    shipping_minor: int | None = Field(default=None, sa_type=sa.BigInteger)
    custom: dict[str, str] = json_column(default_factory=dict)
    content_hash: str
    channel: str = Field(description="`postback`, `pixel`, `tag`, `api`, `upload` or `import`.")
    imported: bool = False
    number: int = Field(default=1, sa_column_kwargs={"server_default": "1"})
    relation: str = Field(default="", sa_column_kwargs={"server_default": ""})
    related_id: str | None = None
    site: str | None = Field(default=None, description="The storefront or marketplace.")
    country_billing: str | None = None
    country_site: str | None = None


class ConversionItem(SQLModel, table=True):
    """One line of an order. `amount_minor` is the line's total, not the price of one piece.

    It is as reported: with a `vat_percent` it includes that tax, and `net_minor` was derived from
    it, once. Refunds are in the reported figure.
    """

    __tablename__ = "conversion_item"
    __table_args__ = append_only()

    conversion_id: str = Field(foreign_key="conversion.id", primary_key=True)
    line: int = Field(primary_key=True)
    sku: str = ""
    category: str = ""
    quantity: Count = 1
    amount_minor: Minor
    vat_percent: str | None = None
    net_minor: int | None = Field(default=None, sa_type=sa.BigInteger)
    revenue_minor: int | None = Field(default=None, sa_type=sa.BigInteger)


class AttributionTerms(DocumentVersion, table=True):
    """A version of the rules by which a program attributes its orders. Append-only.

    The version of an order is the one with the latest start not after it; of equal ones the later.
    """

    __tablename__ = "attribution_terms"
    __table_args__ = (sa.UniqueConstraint("program_id", "version"), append_only())


class Attribution(SQLModel, table=True):
    """Who brought a conversion, and why; nobody when `publisher_id` is empty.

    The decision in force. One for a publisher never changes; one for nobody is changed at most
    once, after a copy of it was added to `attribution_superseded`. The database sees to both.
    """

    __table_args__ = append_only()

    conversion_id: str = Field(foreign_key="conversion.id", primary_key=True)
    publisher_id: str | None = Field(
        default=None, foreign_key="publisher.id", index=True, description="Who is paid."
    )
    click_id: str | None = None
    clicked_at: datetime | None = None
    # Copied from the click, because commissions are replayed long after clicks are let go.
    click_country: str | None = None
    click_device: str | None = None
    sub_ids: dict[str, str] = json_column(default_factory=dict)
    # What is known of the payee and the customer when this is decided, because later it is
    # something else and commissions are replayed then, too.
    publisher_groups: list[str] = json_column(
        default_factory=list, sa_column_kwargs={"server_default": "[]"}
    )
    customer_since: datetime | None = Field(
        default=None, description="The customer's first order with this publisher; None: unknown."
    )
    months_since_first: int | None = None
    source: str = Field(
        description="What decided: `click`, `coupon`, `order`, `customer`, `publisher`, "
        "`preferred`, `manual`, or `none`."
    )
    reason: str
    terms_id: str | None = None
    trace: dict[str, Any] = json_column(default_factory=dict)
    decided_at: datetime


class AttributionShare(SQLModel, table=True):
    """A publisher's part of an attributed conversion, as an exact fraction. Append-only.

    The parts of a conversion sum to 1. `position` numbers them by their first touch.
    """

    __tablename__ = "attribution_share"
    __table_args__ = append_only()

    conversion_id: str = Field(foreign_key="conversion.id", primary_key=True)
    position: int = Field(primary_key=True)
    publisher_id: str = Field(foreign_key="publisher.id", index=True)
    numerator: Count
    denominator: Count
    role: str = Field(description="`initiator`, `contributor` or `converter`.")
    click_id: str | None = None


class AttributionSuperseded(SQLModel, table=True):
    """A decision for nobody that a later finding has replaced. Append-only."""

    __tablename__ = "attribution_superseded"
    __table_args__ = append_only()

    conversion_id: str = Field(foreign_key="conversion.id", primary_key=True)
    reason: str
    terms_id: str | None = None
    trace: dict[str, Any] = json_column(default_factory=dict)
    decided_at: datetime
    superseded_at: datetime


class Coupon(SQLModel, table=True):
    """A code of a program and what it does for whom. Only its end is ever changed.

    `key` is the code without regard to case, `publisher_id` empty for codes that pay nobody.
    """

    __table_args__ = (sa.Index("ix_coupon_program_id_key", "program_id", "key"),)

    seq: int | None = sequence_key()
    id: str = Field(unique=True)
    program_id: str = Field(foreign_key="program.id")
    publisher_id: str | None = Field(default=None, foreign_key="publisher.id", index=True)
    code: str
    key: str
    operator: str = Field(description="`EQUALS`, `CONTAINS`, `STARTS_WITH` or `ENDS_WITH`.")
    effect: str = Field(description="`owner`, `exclusive` or `suppressed`.")
    starts_at: datetime | None = None
    ends_at: datetime | None = None
    created_by: str
    created_at: datetime


class KnownCustomer(SQLModel, table=True):
    """An attributed conversion of a customer, found again by a keyed hash of who that is."""

    __tablename__ = "known_customer"

    key: str = Field(primary_key=True)
    conversion_id: str = Field(foreign_key="conversion.id", primary_key=True)
    occurred_at: datetime = Field(index=True)


class MatchWanted(SQLModel, table=True):
    """What would attribute a conversion that is nobody's yet: a customer, an order, a coupon."""

    __tablename__ = "match_wanted"

    kind: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    conversion_id: str = Field(foreign_key="conversion.id", primary_key=True)
    program_id: str
    occurred_at: datetime = Field(index=True)


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
    reason_code: str = Field(default="", sa_column_kwargs={"server_default": ""})
    content_hash: str
    occurred_at: datetime
    received_at: datetime


class Arrival(SQLModel, table=True):
    """Reports of a conversion that came in by one way with one result. Append-only.

    `result` says what became of them; `count` of them came from `at` to `last_at`. Of one way and
    result there may be several rows: what came later is a later row.
    """

    # Only of what repeats or contradicts: of most rows the index holds nothing.
    __table_args__ = (
        sa.Index(
            "ix_arrival_last_at",
            "last_at",
            sqlite_where=sa.text("result <> 'accepted'"),
            postgresql_where=sa.text("result <> 'accepted'"),
        ),
        append_only(),
    )

    seq: int | None = sequence_key()
    conversion_id: str = Field(foreign_key="conversion.id", index=True)
    channel: str
    result: str
    content_hash: str
    source: str = Field(default="", description="The row of an upload, or empty.")
    count: Count = 1
    at: datetime
    last_at: datetime


class OrderUpload(SQLModel, table=True):
    """A file of orders and what became of it; worked chunk by chunk by any node.

    `content` is the file, and empty once the upload is done or failed.
    """

    __tablename__ = "order_upload"

    id: str = Field(primary_key=True)
    program_id: str = Field(foreign_key="program.id", index=True)
    actor_id: str
    is_manager: bool = False
    file_name: str
    format: str
    options: dict[str, str] = json_column()
    content: bytes = Field(sa_type=sa.LargeBinary)
    content_bytes: Count
    content_hash: str
    status: str = Field(index=True)
    detail: str = ""
    rows_total: Count = 0
    rows_done: Count = 0
    accepted: Count = 0
    duplicates: Count = 0
    conflicts: Count = 0
    invalid: Count = 0
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None = None


class OrderUploadRow(SQLModel, table=True):
    """What became of one row of a file. Let go, with its file, after `upload_days`.

    `row` is its number in the file as a spreadsheet shows it, the header being row 1.
    """

    __tablename__ = "order_upload_row"

    upload_id: str = Field(foreign_key="order_upload.id", primary_key=True)
    row: int = Field(primary_key=True)
    status: str
    order_id: str = ""
    field: str = ""
    rule: str = ""
    message: str = ""
    conversion_id: str | None = None
    receipt: str | None = None


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
