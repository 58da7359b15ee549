"""What we make of what was seen: assessments, and the flags that people decide."""

from datetime import datetime
from enum import StrEnum
from typing import Any

from sqlmodel import Field, SQLModel

from kernel.database import append_only, json_column, sequence_key


class Outcome(StrEnum):
    """A manager's answer to a flag."""

    CLEARED = "cleared"
    CONFIRMED = "confirmed"


class Assessment(SQLModel, table=True):
    """The score of a conversion and the reasons that add up to it. Append-only."""

    __table_args__ = append_only()

    seq: int | None = sequence_key()
    id: str = Field(unique=True)
    conversion_id: str = Field(foreign_key="conversion.id", index=True)
    score: int
    action: str
    reasons: list[dict[str, Any]] = json_column()
    at: datetime


class Flag(SQLModel, table=True):
    """A conversion whose commission waits for a person. One per conversion. Append-only.

    Open until a FlagDecision names it.
    """

    __table_args__ = append_only()

    seq: int | None = sequence_key()
    id: str = Field(unique=True)
    conversion_id: str = Field(foreign_key="conversion.id", unique=True)
    assessment_id: str = Field(foreign_key="assessment.id")
    program_id: str = Field(foreign_key="program.id", index=True)
    publisher_id: str | None = Field(default=None, foreign_key="publisher.id", index=True)
    score: int
    at: datetime


class FlagDecision(SQLModel, table=True):
    """Who decided a flag, how, and with what words. One per flag. Append-only."""

    __tablename__ = "flag_decision"
    __table_args__ = append_only()

    flag_id: str = Field(foreign_key="flag.id", primary_key=True)
    outcome: str
    note: str
    decided_by: str
    decided_at: datetime
