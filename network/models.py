"""Parties, the programs that join them, and the credentials they come with."""

from datetime import datetime
from enum import StrEnum

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from kernel.database import append_only, json_column, sequence_key


class Role(StrEnum):
    """What a user or an API client is; also the scope of its tokens."""

    MANAGER = "manager"
    ADVERTISER = "advertiser"
    PUBLISHER = "publisher"


class ProgramStatus(StrEnum):
    """A paused program still redirects; its clicks are recorded as not billable."""

    ACTIVE = "active"
    PAUSED = "paused"


class TagOrders(StrEnum):
    """What becomes of orders that a browser reports, with nothing but the program's code.

    A pending one waits until the advertiser approves it; no time approves it.
    """

    REFUSED = "refused"
    PENDING = "pending"
    ACCEPTED = "accepted"


class MembershipStatus(StrEnum):
    """Only clicks of an approved membership are billable."""

    PENDING = "pending"
    APPROVED = "approved"
    SUSPENDED = "suspended"


class Advertiser(SQLModel, table=True):
    """Who pays for sales."""

    id: str = Field(primary_key=True)
    name: str
    created_at: datetime


class Program(SQLModel, table=True):
    """An advertiser's offer to publishers, in one currency and one time zone.

    `number` is the short name of the program inside click ids and never changes.
    """

    id: str = Field(primary_key=True)
    number: int = Field(unique=True, sa_type=sa.BigInteger)
    advertiser_id: str = Field(foreign_key="advertiser.id", index=True)
    code: str = Field(unique=True, description="What links use: `/c/{code}/...`.")
    name: str
    currency: str
    timezone: str = "UTC"
    status: str = ProgramStatus.ACTIVE
    landing_url: str
    allowed_domains: list[str] = json_column()
    click_parameter: str = "ts_click"
    fallback_url: str = Field(
        default="", description="Where visitors go when the program or the link is dead."
    )
    requires_signed_links: bool = Field(
        default=False, description="Whether a deep link without our signature is not followed."
    )
    attribution_window_hours: int = 30 * 24
    hold_days: int = 30
    hold_score: int = 65
    order_age_days_max: int = 30
    masks_order_ids: bool = False
    tag_orders: str = TagOrders.REFUSED
    duplicate_modes: dict[str, str] = json_column(
        default_factory=dict, sa_column_kwargs={"server_default": "{}"}
    )
    status_words: dict[str, str] = json_column(
        default_factory=dict, sa_column_kwargs={"server_default": "{}"}
    )
    other_currencies: list[str] = json_column(
        default_factory=list,
        sa_column_kwargs={"server_default": "[]"},
        description="Currencies of orders that are taken in beside the program's own.",
    )
    created_at: datetime


class Publisher(SQLModel, table=True):
    """Who sends visitors and earns commission. `code` is what links use."""

    id: str = Field(primary_key=True)
    number: int = Field(unique=True, sa_type=sa.BigInteger)
    code: str = Field(unique=True)
    name: str
    fallback_url: str = Field(
        default="", description="Where this publisher's visitors go from a dead program or link."
    )
    created_at: datetime


class Membership(SQLModel, table=True):
    """A publisher's place in a program."""

    __table_args__ = (sa.UniqueConstraint("program_id", "publisher_id"),)

    id: str = Field(primary_key=True)
    program_id: str = Field(foreign_key="program.id")
    publisher_id: str = Field(foreign_key="publisher.id", index=True)
    status: str = MembershipStatus.PENDING
    created_at: datetime


class PublisherGroup(SQLModel, table=True):
    """Publishers that plans may pay alike, known to them by `code`; of one program or of all."""

    __tablename__ = "publisher_group"

    id: str = Field(primary_key=True)
    code: str = Field(unique=True, description="What rules of commission plans name.")
    name: str
    program_id: str | None = Field(default=None, foreign_key="program.id", index=True)
    created_at: datetime


class PublisherGroupChange(SQLModel, table=True):
    """A publisher that is in a group from `at` on, or no longer. Append-only.

    At any time the change with the latest `at` not after it holds; of equal ones the later row.
    """

    __tablename__ = "publisher_group_change"
    __table_args__ = (
        sa.Index("ix_publisher_group_change_publisher_id_at", "publisher_id", "at"),
        append_only(),
    )

    seq: int | None = sequence_key()
    group_id: str = Field(foreign_key="publisher_group.id", index=True)
    publisher_id: str = Field(foreign_key="publisher.id")
    is_member: bool
    at: datetime
    actor: str
    recorded_at: datetime


class User(SQLModel, table=True):
    """A person who signs in to the console, acting for the party in `party_id`."""

    __tablename__ = "user_account"

    id: str = Field(primary_key=True)
    email: str = Field(unique=True)
    name: str
    password_hash: str
    role: str
    party_id: str | None = None
    language: str = "en"
    disabled_at: datetime | None = None
    created_at: datetime


class ApiClient(SQLModel, table=True):
    """A program that calls the API. The id is the OAuth client id; the secret is kept as a hash."""

    __tablename__ = "api_client"

    id: str = Field(primary_key=True)
    name: str
    secret_hash: str
    role: str
    party_id: str | None = None
    disabled_at: datetime | None = None
    created_at: datetime


class PostbackToken(SQLModel, table=True):
    """What an advertiser's server sends with `/postback`; several are valid during a rotation."""

    __tablename__ = "postback_token"

    id: str = Field(primary_key=True)
    program_id: str = Field(foreign_key="program.id", index=True)
    token_hash: str = Field(unique=True)
    retired_at: datetime | None = None
    created_at: datetime


class SigningSecret(SQLModel, table=True):
    """A key an advertiser signs its reports with; several are valid during a rotation.

    The secret itself is nowhere: it is derived from the master secret and the id.
    """

    __tablename__ = "signing_secret"

    id: str = Field(primary_key=True)
    program_id: str = Field(foreign_key="program.id", index=True)
    retired_at: datetime | None = None
    created_at: datetime


class ConsoleSession(SQLModel, table=True):
    """A signed-in browser; the cookie's id is kept as a hash, so a stolen table signs no one in."""

    __tablename__ = "console_session"

    id_hash: str = Field(primary_key=True)
    user_id: str = Field(foreign_key="user_account.id", index=True)
    csrf_token: str
    expires_at: datetime = Field(index=True)
    created_at: datetime


class RoutingVersion(SQLModel, table=True):
    """One row that rises with every change a tracker must know of.

    `links` is the number of the newest change of a short link; links are many and are read by it,
    one change at a time, where everything else is read anew when `version` moves.
    """

    __tablename__ = "routing_version"

    id: int = Field(default=1, primary_key=True)
    version: int = Field(default=0, sa_type=sa.BigInteger)
    links: int = Field(default=0, sa_type=sa.BigInteger)
