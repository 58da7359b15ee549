"""What is owed: plan versions, bookings and the ledger (facts), and the states read from them."""

from datetime import date, datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from kernel.database import Count, Minor, append_only, json_column, sequence_key
from network.documents import DocumentVersion


def _number(default: str, sa_type: Any = sa.Integer) -> Any:
    # The default is the database's too: rows that were there before have it.
    return Field(
        default=int(default), sa_type=sa_type, sa_column_kwargs={"server_default": default}
    )


def _part(**options: Any) -> Any:
    """Which of the publishers that share a conversion; 0 is the one for whom it counts."""
    return Field(default=0, sa_type=sa.Integer, sa_column_kwargs={"server_default": "0"}, **options)


class CommissionStatus(StrEnum):
    """`pending -> approved -> payable -> paid`, and what stands aside."""

    PENDING = "pending"
    APPROVED = "approved"
    PAYABLE = "payable"
    PAID = "paid"
    HELD = "held"
    DECLINED = "declined"
    REVERSED = "reversed"
    CAPPED = "capped"


class PayoutStatus(StrEnum):
    """`draft -> approved -> exported -> settled`; a draft or an approved one may be cancelled."""

    DRAFT = "draft"
    APPROVED = "approved"
    EXPORTED = "exported"
    SETTLED = "settled"
    CANCELLED = "cancelled"


class PlanVersion(DocumentVersion, table=True):
    """One published version of a program's commission plan, in force from `effective_from`.

    Append-only: a change is a later version. `document` is what `rules.parse_plan` reads.
    """

    __tablename__ = "plan_version"
    __table_args__ = (sa.UniqueConstraint("program_id", "version"), append_only())

    program_id: str = Field(foreign_key="program.id", index=True)


class Commission(SQLModel, table=True):
    """Where a publisher's commission for one conversion stands. Bookings and ledger are the truth.

    A conversion that several publishers share has a row for each. Part 0 is the publisher for whom
    the conversion counts; only that row has what counts for tiers (`base_minor`, `units`). The
    shares are fractions of the conversion's whole commission, and `position` orders them.

    `amount_minor` is the sum of its bookings; `claimed_minor` what payouts hold or have paid of it;
    `uncapped_minor` what it was without caps and budget when it was booked last.
    `plan_version_id` was chosen by `occurred_at` and stays.
    """

    __table_args__ = (
        sa.Index("ix_commission_window", "program_id", "publisher_id", "occurred_at"),
        sa.Index("ix_commission_status_lock_at", "status", "lock_at"),
        sa.Index("ix_commission_publisher_id_status", "publisher_id", "status"),
    )

    conversion_id: str = Field(foreign_key="conversion.id", primary_key=True)
    part: int = _part(primary_key=True)
    id: str = Field(unique=True)
    seq: int = Field(index=True, sa_type=sa.BigInteger, description="Booking order, by conversion.")
    position: int = _number("0")
    share_numerator: int = _number("1", sa.BigInteger)
    share_denominator: int = _number("1", sa.BigInteger)
    program_id: str = Field(foreign_key="program.id")
    publisher_id: str = Field(foreign_key="publisher.id")
    advertiser_id: str = Field(foreign_key="advertiser.id", index=True)
    currency: str
    plan_version_id: str | None = Field(default=None, foreign_key="plan_version.id")
    status: str
    reason: str = Field(default="", description="Reason code when it stands aside, is 0 or fell.")
    occurred_at: datetime
    lock_at: datetime
    base_minor: Minor = 0
    units: Count = 0
    amount_minor: Minor = 0
    claimed_minor: Minor = 0
    uncapped_minor: Minor = _number("0", sa.BigInteger)
    updated_at: datetime


class Booking(SQLModel, table=True):
    """One change of one commission, and why. Append-only; `delta_minor` may be negative or zero."""

    __table_args__ = (append_only(),)

    seq: int | None = sequence_key()
    id: str = Field(unique=True)
    key: str = Field(
        unique=True, description="What caused it; a repeat finds it and books nothing."
    )
    conversion_id: str = Field(foreign_key="conversion.id", index=True)
    part: int = _part()
    kind: str = Field(description="`accrue`, `refund`, `cancel`, `decline`, `tier_true_up` ...")
    delta_minor: Minor
    total_minor: Minor
    explanation: dict[str, Any] = json_column()
    at: datetime


class FxRate(SQLModel, table=True):
    """How much of `currency` is one of `base` on a day, by one source. Append-only.

    `rate` is an exact decimal text. A correction is a later `version`.
    """

    __tablename__ = "fx_rate"
    __table_args__ = (
        sa.UniqueConstraint("source", "day", "base", "currency", "version"),
        sa.Index("ix_fx_rate_currency_day", "currency", "day"),
        append_only(),
    )

    id: str = Field(primary_key=True)
    source: str
    day: date
    base: str
    currency: str
    rate: str
    version: int
    actor: str
    recorded_at: datetime


class ConversionRate(SQLModel, table=True):
    """The rate by which an order of another currency is converted, whatever comes later.

    One of `currency` is `to_rate / from_rate` of `into`; each of the two is what one of a common
    base was worth, and the base itself has the rate 1 and no id. `waited`: the order was booked
    before there was a rate. Append-only.
    """

    __tablename__ = "conversion_rate"
    __table_args__ = append_only()

    conversion_id: str = Field(foreign_key="conversion.id", primary_key=True)
    program_id: str = Field(foreign_key="program.id", index=True)
    currency: str
    into: str
    day: date = Field(description="The older of the days of the two rates.")
    source: str
    from_rate_id: str | None = Field(default=None, foreign_key="fx_rate.id")
    from_rate: str
    to_rate_id: str | None = Field(default=None, foreign_key="fx_rate.id")
    to_rate: str
    waited: bool = False
    fixed_at: datetime


class RateWanted(SQLModel, table=True):
    """An order that is booked at nothing until there is a rate for its currency."""

    __tablename__ = "rate_wanted"

    conversion_id: str = Field(foreign_key="conversion.id", primary_key=True)
    program_id: str
    currency: str
    into: str
    day: date


class CommissionStep(SQLModel, table=True):
    """One step of a commission from a status to a status, with who and why. Append-only."""

    __tablename__ = "commission_step"
    __table_args__ = (append_only(),)

    seq: int | None = sequence_key()
    conversion_id: str = Field(foreign_key="conversion.id", index=True)
    part: int = _part()
    from_status: str
    to_status: str
    reason: str = ""
    actor: str
    at: datetime


class Account(SQLModel, table=True):
    """A ledger account: a path such as `pub:{publisher_id}:pending`, in one currency."""

    __table_args__ = (sa.UniqueConstraint("path", "currency"),)

    id: int | None = sequence_key()
    path: str
    kind: str = Field(description="`asset`, `liability`, `revenue` or `expense`.")
    currency: str


class Transaction(SQLModel, table=True):
    """Postings that belong together. `key` is unique; `request_hash` refuses the key's reuse."""

    __tablename__ = "ledger_transaction"
    __table_args__ = append_only()

    id: int | None = sequence_key()
    key: str = Field(unique=True)
    request_hash: str
    kind: str
    correlation: str = Field(index=True, description="The conversion or payout it is about.")
    actor: str
    reason: str = ""
    effective_at: datetime
    recorded_at: datetime


class Posting(SQLModel, table=True):
    """One debit, one credit, one currency, more than zero: it cannot be out of balance."""

    __table_args__ = (
        sa.CheckConstraint("amount_minor > 0", name="amount_positive"),
        sa.CheckConstraint("debit_id <> credit_id", name="two_accounts"),
        append_only(),
    )

    transaction_id: int = Field(
        foreign_key="ledger_transaction.id", primary_key=True, sa_type=sa.BigInteger
    )
    line: int = Field(primary_key=True)
    debit_id: int = Field(foreign_key="account.id", index=True, sa_type=sa.BigInteger)
    credit_id: int = Field(foreign_key="account.id", index=True, sa_type=sa.BigInteger)
    currency: str
    amount_minor: Minor


class Balance(SQLModel, table=True):
    """The sums of an account's postings, kept in the same transaction as they are."""

    account_id: int = Field(foreign_key="account.id", primary_key=True, sa_type=sa.BigInteger)
    debits_minor: Minor = 0
    credits_minor: Minor = 0


class PayoutRun(SQLModel, table=True):
    """One look at what is payable: its payouts, and who was left out for which reason."""

    __tablename__ = "payout_run"

    id: str = Field(primary_key=True)
    status: str
    proposed_by: str
    proposed_at: datetime
    skipped: list[dict[str, Any]] = json_column()


class Payout(SQLModel, table=True):
    """Money for one publisher in one currency. `amount_minor` is the sum of its lines, fixed."""

    id: str = Field(primary_key=True)
    run_id: str = Field(foreign_key="payout_run.id", index=True)
    publisher_id: str = Field(foreign_key="publisher.id", index=True)
    currency: str
    amount_minor: Minor
    status: str
    reference: str = Field(default="", description="What the bank calls it, once settled.")
    updated_at: datetime


class PayoutLine(SQLModel, table=True):
    """What a payout pays of one commission; negative for a refund after payment. Append-only.

    The commission is the one of the conversion that is the payout's publisher's.
    """

    __tablename__ = "payout_line"
    __table_args__ = append_only()

    payout_id: str = Field(foreign_key="payout.id", primary_key=True)
    conversion_id: str = Field(foreign_key="conversion.id", primary_key=True, index=True)
    amount_minor: Minor


class PayoutDecision(SQLModel, table=True):
    """Who moved a payout run on, and when. Append-only."""

    __tablename__ = "payout_decision"
    __table_args__ = append_only()

    seq: int | None = sequence_key()
    run_id: str = Field(foreign_key="payout_run.id", index=True)
    payout_id: str | None = Field(default=None, foreign_key="payout.id")
    action: str
    actor: str
    note: str = ""
    at: datetime
