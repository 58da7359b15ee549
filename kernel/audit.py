"""Who did what, when, to what: a row for each action someone may have to answer for."""

from datetime import datetime
from typing import Any

from sqlmodel import Field, Session, SQLModel

from kernel.database import append_only, json_column, sequence_key
from kernel.ids import new_id


class AuditEntry(SQLModel, table=True):
    """An action taken. Append-only."""

    __tablename__ = "audit_entry"
    __table_args__ = append_only()

    seq: int | None = sequence_key()
    id: str = Field(unique=True)
    at: datetime = Field(index=True)
    actor: str
    action: str
    subject_id: str = Field(index=True)
    facts: dict[str, Any] = json_column()


def record(
    session: Session, *, actor: str, action: str, subject_id: str, now: datetime, **facts: Any
) -> None:
    """Add the entry to the transaction at hand, so that it stands or falls with the action."""
    session.add(
        AuditEntry(
            id=new_id("aud", at=now),
            at=now,
            actor=actor,
            action=action,
            subject_id=subject_id,
            facts=facts,
        )
    )
