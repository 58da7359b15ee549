"""What is promised about plans, and the jobs that try one out or correct what was booked."""

from datetime import datetime
from enum import StrEnum
from typing import Any

import sqlalchemy as sa
from sqlmodel import Field, SQLModel

from kernel.database import Count, append_only, json_column, sequence_key


class PlanNotice(SQLModel, table=True):
    """How many days before it lowers anybody's rates a plan must be published. Append-only.

    A program without one promises that nothing is lowered for orders from before.
    """

    __tablename__ = "plan_notice"
    __table_args__ = append_only()

    seq: int | None = sequence_key()
    program_id: str = Field(foreign_key="program.id", index=True)
    days: Count
    set_by: str
    set_at: datetime


class PlanWaiver(SQLModel, table=True):
    """That a version lowered rates sooner than promised, what it lowered, and why. Append-only."""

    __tablename__ = "plan_waiver"
    __table_args__ = append_only()

    plan_version_id: str = Field(foreign_key="plan_version.id", primary_key=True)
    reason: str
    earliest_at: datetime = Field(description="From when on the notice would have allowed it.")
    lowered: list[dict[str, Any]] = json_column()
    waived_by: str
    waived_at: datetime


class JobKind(StrEnum):
    """What a job does."""

    SIMULATE = "simulate"
    RERATE = "rerate"


class JobStatus(StrEnum):
    """`queued -> running -> done`; a re-rate waits as `previewed` until it is `confirmed`."""

    QUEUED = "queued"
    RUNNING = "running"
    PREVIEWED = "previewed"
    CONFIRMED = "confirmed"
    DONE = "done"
    FAILED = "failed"
    DISMISSED = "dismissed"


class PlanJob(SQLModel, table=True):
    """A simulation or a re-rate of the orders that occurred in [from_at, to_at).

    `cursor` says up to which orders a confirmed re-rate is booked; it moves in the transaction that
    books them. `version_max` is the newest version it goes by, `result` what it found.
    """

    __tablename__ = "plan_job"
    __table_args__ = (sa.Index("ix_plan_job_program_id_id", "program_id", "id"),)

    id: str = Field(primary_key=True)
    kind: str
    program_id: str = Field(foreign_key="program.id")
    status: str = Field(index=True)
    actor_id: str
    from_at: datetime
    to_at: datetime
    document: dict[str, Any] = json_column(description="The draft of a simulation.")
    version_max: Count = 0
    reason: str = Field(default="", description="Why a re-rate is made, for publishers to read.")
    total: Count = 0
    done: Count = 0
    cursor: str = ""
    result: dict[str, Any] = json_column()
    detail: str = Field(default="", description="Why it failed.")
    confirmed_by: str = ""
    created_at: datetime
    updated_at: datetime
    finished_at: datetime | None = None
