"""Acknowledged events that could not be recorded: kept with their reason, for the advertiser."""

from datetime import datetime
from typing import Any

from sqlmodel import Session

from kernel.ids import new_id
from tracker.models import IntakeRefusal


def refuse(
    session: Session,
    *,
    program_id: str,
    order_id: str,
    code: str,
    detail: str,
    payload: dict[str, Any],
    now: datetime,
) -> None:
    """Record, in the transaction at hand, that an event was not recorded, and why."""
    session.add(
        IntakeRefusal(
            id=new_id("rfs", at=now),
            program_id=program_id,
            order_id=order_id,
            code=code,
            detail=detail,
            payload=payload,
            at=now,
        )
    )
