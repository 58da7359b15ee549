"""Sums of what was seen, kept while it is recorded, so that a report never reads the clicks.

All of it can be made again from the facts (`rollup_checks`), so none of it is append-only. Hours
and days are counted from 1970 in UTC; programs and publishers stand here by their short numbers,
publisher 0 being nobody. Counts of visits stand in rows without a currency, what orders brought in
the row of its currency: the two kinds of writer never wait for one another's rows.
"""

from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from kernel.database import Count, Minor, json_column


class RollupHour(SQLModel, table=True):
    """One hour of one publisher on one program. Let go after `rollup_hour_days`."""

    __tablename__ = "rollup_hour"
    __table_args__ = (
        sa.Index("ix_rollup_hour_program_number_hour", "program_number", "hour"),
        sa.Index("ix_rollup_hour_publisher_number_hour", "publisher_number", "hour"),
        {"sqlite_with_rowid": False},
    )

    hour: Count = Field(primary_key=True, sa_type=sa.BigInteger)
    program_number: Count = Field(primary_key=True, sa_type=sa.BigInteger)
    publisher_number: Count = Field(primary_key=True, sa_type=sa.BigInteger)
    currency: str = Field(primary_key=True)
    impressions: Count = 0
    clicks: Count = 0
    filtered_clicks: Count = 0
    unique_clicks: Count = 0
    conversions: Count = 0
    sales_minor: Minor = 0
    refunded_minor: Minor = 0
    commission_minor: Minor = 0


class RollupDay(SQLModel, table=True):
    """One UTC day of one publisher on one program, whole or by one dimension's value.

    `dimension` is empty for the whole. A dimension's rows sum to the whole, but for `link` and the
    sub-ids, which have no row for what carries none.
    """

    __tablename__ = "rollup_day"
    __table_args__ = (
        sa.Index("ix_rollup_day_program_number", "program_number", "dimension", "day"),
        sa.Index("ix_rollup_day_publisher_number", "publisher_number", "dimension", "day"),
        {"sqlite_with_rowid": False},
    )

    dimension: str = Field(primary_key=True)
    day: Count = Field(primary_key=True, sa_type=sa.BigInteger)
    program_number: Count = Field(primary_key=True, sa_type=sa.BigInteger)
    publisher_number: Count = Field(primary_key=True, sa_type=sa.BigInteger)
    value: str = Field(primary_key=True)
    currency: str = Field(primary_key=True)
    impressions: Count = 0
    clicks: Count = 0
    filtered_clicks: Count = 0
    unique_clicks: Count = 0
    conversions: Count = 0
    sales_minor: Minor = 0
    refunded_minor: Minor = 0
    commission_minor: Minor = 0


class RollupWidth(SQLModel, table=True):
    """How many values of a dimension have a row of their own on a day; past a limit they share.

    Far from the limit it may be more than there are: nobody has looked which of them came again.
    """

    __tablename__ = "rollup_width"
    __table_args__ = ({"sqlite_with_rowid": False},)

    day: Count = Field(primary_key=True, sa_type=sa.BigInteger)
    program_number: Count = Field(primary_key=True, sa_type=sa.BigInteger)
    publisher_number: Count = Field(primary_key=True, sa_type=sa.BigInteger)
    dimension: str = Field(primary_key=True)
    value_count: Count = 0


class RollupVisitor(SQLModel, table=True):
    """Who was counted as unique on a day: a hash over program, publisher and visitor key.

    Let go after `rollup_visitor_days`.
    """

    __tablename__ = "rollup_visitor"
    __table_args__ = ({"sqlite_with_rowid": False},)

    day: Count = Field(primary_key=True, sa_type=sa.BigInteger)
    visitor: Count = Field(primary_key=True, sa_type=sa.BigInteger)


class RollupConversion(SQLModel, table=True):
    """What the sums hold of one conversion: what must be taken out again when it changes."""

    __tablename__ = "rollup_conversion"
    __table_args__ = (sa.Index("ix_rollup_conversion_hour", "hour"),)

    conversion_id: str = Field(primary_key=True)
    hour: Count
    program_number: Count
    publisher_number: Count
    currency: str
    sales_minor: Minor
    refunded_minor: Minor
    commission_currency: str
    commission_minor: Minor
    click_id: str
    link: str
    country: str
    device: str
    sub_ids: dict[str, str] = json_column()
    others: dict[str, int] = json_column(
        default_factory=dict,
        sa_column_kwargs={"server_default": "{}"},
        description="Commission of the other publishers that share it, by their numbers.",
    )


class LinkTarget(SQLModel, table=True):
    """A page that links lead to, met on clicks, and what a look at it last found.

    `outcome` is empty until the first look, then `ok` or why not; `failures` counts in a row.
    """

    __tablename__ = "link_target"
    __table_args__ = (
        sa.Index("ix_link_target_next_check_at", "next_check_at"),
        sa.Index("ix_link_target_host_checked_at", "host", "checked_at"),
    )

    program_id: str = Field(foreign_key="program.id", primary_key=True)
    url_hash: str = Field(primary_key=True)
    url: str
    host: str
    publisher_id: str = Field(description="Whose click led here first.")
    seen_day: Count
    next_check_at: datetime
    checked_at: datetime | None = None
    outcome: str = ""
    status: int = 0
    failures: int = 0
