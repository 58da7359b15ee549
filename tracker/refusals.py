"""Acknowledged events that could not be recorded: kept with their reason, for the advertiser."""

import base64
from datetime import datetime
from typing import Any, Final

from sqlmodel import Session, col, select

from kernel import log
from kernel.ids import new_id
from network.access import Actor, scope_to_party
from network.models import Program
from tracker.events import ClickSeen
from tracker.journal_reader import Damage, Record
from tracker.models import IntakeRefusal

_log = log.get(__name__)
_PAYLOAD_BYTES_KEPT: Final = 4096


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


def refuse_record(
    session: Session, journal: str, record: Record, reason: str, *, now: datetime
) -> None:
    """A record of a journal that no version of an event explains, or that the database refuses."""
    _log.error("journal_record_refused", journal=journal, position=str(record.position))
    refuse(
        session,
        program_id="",
        order_id="",
        code="record_unreadable",
        detail=reason[:500],
        payload={
            "journal": journal,
            "position": str(record.position),
            "base64": base64.b64encode(record.payload[:_PAYLOAD_BYTES_KEPT]).decode(),
            "bytes": len(record.payload),
        },
        now=now,
    )


def refuse_damage(session: Session, journal: str, damage: Damage, *, now: datetime) -> None:
    """Bytes of a journal that should be records and are not."""
    _log.error("journal_damaged", journal=journal, position=str(damage.position))
    refuse(
        session,
        program_id="",
        order_id="",
        code="journal_damaged",
        detail=damage.reason,
        payload={
            "journal": journal,
            "position": str(damage.position),
            "bytes": damage.length_bytes,
        },
        now=now,
    )


def refuse_click(session: Session, seen: ClickSeen, *, now: datetime) -> None:
    """A click of a program or publisher that does not exist."""
    refuse(
        session,
        program_id="",
        order_id="",
        code="unknown_link",
        detail="the program or the publisher of this click is not in the database",
        payload={
            "click_id": seen.id,
            "program_number": seen.program_number,
            "publisher_number": seen.publisher_number,
        },
        now=now,
    )


def page(
    session: Session,
    actor: Actor,
    *,
    program_id: str | None = None,
    order_id: str | None = None,
    after_seq: int | None = None,
    before_seq: int | None = None,
    limit: int,
) -> list[IntakeRefusal]:
    """Refusals that the actor may see: an advertiser those of its programs, a manager all.

    Oldest first from `after_seq` on; newest first when that is None. What named no program that
    exists is for managers alone. Publishers have none.
    """
    # Outer, because an unreadable record belongs to no program and must be seen by somebody.
    query = select(IntakeRefusal).outerjoin(
        Program, col(Program.id) == col(IntakeRefusal.program_id)
    )
    query = scope_to_party(query, actor, publisher=None, advertiser=col(Program.advertiser_id))
    seq = col(IntakeRefusal.seq)
    if program_id is not None:
        query = query.where(IntakeRefusal.program_id == program_id)
    if order_id is not None:
        query = query.where(IntakeRefusal.order_id == order_id)
    if before_seq is not None:
        query = query.where(seq < before_seq)
    if after_seq is not None:
        query = query.where(seq > after_seq)
    order = seq.desc() if after_seq is None else seq
    return list(session.exec(query.order_by(order).limit(limit)))
