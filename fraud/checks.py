"""What must hold between assessments, flags and decisions, looked up in the database."""

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa
from sqlmodel import Session, col

from fraud.assessments import HELD_ACTIONS
from fraud.models import Assessment, Flag, FlagDecision, Outcome
from kernel.audit import AuditEntry
from tracker.models import Attribution, Conversion


@dataclass(frozen=True, slots=True)
class Problem:
    """A broken rule: its stable code, what it is about, a sentence."""

    code: str
    subject_id: str
    message: str

    def __str__(self) -> str:
        return f"{self.code} {self.subject_id}: {self.message}"


def check(session: Session) -> Iterator[Problem]:
    """Everything found wrong; nothing when all is well. Changes nothing."""
    yield from _flags_without_grounds(session)
    yield from _holds_without_flag(session)
    yield from _decisions_unlike_their_audit(session)


def _flags_without_grounds(session: Session) -> Iterator[Problem]:
    grounds = sa.and_(
        col(Assessment.id) == col(Flag.assessment_id),
        col(Assessment.conversion_id) == col(Flag.conversion_id),
        col(Assessment.action).in_(sorted(HELD_ACTIONS)),
    )
    query = (
        sa.select(col(Flag.id)).outerjoin(Assessment, grounds).where(col(Assessment.id).is_(None))
    )
    for flag_id in session.execute(query).scalars():
        yield Problem("flag_without_grounds", flag_id, "no assessment holds its conversion")


def _holds_without_flag(session: Session) -> Iterator[Problem]:
    query = (
        sa.select(col(Assessment.id))
        .join(Attribution, col(Attribution.conversion_id) == col(Assessment.conversion_id))
        .join(Conversion, col(Conversion.id) == col(Assessment.conversion_id))
        .outerjoin(Flag, col(Flag.conversion_id) == col(Assessment.conversion_id))
        .where(
            col(Assessment.action).in_(sorted(HELD_ACTIONS)),
            col(Attribution.publisher_id).is_not(None),
            # A test order never counts, whoever it names.
            col(Conversion.is_test).is_(False),
            col(Flag.id).is_(None),
        )
    )
    for assessment_id in session.execute(query).scalars():
        yield Problem("hold_without_flag", assessment_id, "holds a commission that nobody reviews")


def _decisions_unlike_their_audit(session: Session) -> Iterator[Problem]:
    # One decision a flag is the table's key. That it is the one somebody took is in the audit.
    entries = (
        sa.select(
            col(AuditEntry.subject_id).label("flag_id"),
            sa.func.count().label("entries"),
            sa.func.min(col(AuditEntry.action)).label("action"),
        )
        .where(col(AuditEntry.action).in_([f"flag.{outcome}" for outcome in Outcome]))
        .group_by(col(AuditEntry.subject_id))
        .subquery()
    )
    as_decided = sa.and_(
        entries.c.entries == 1, entries.c.action == sa.literal("flag.") + col(FlagDecision.outcome)
    )
    unlike = sa.or_(entries.c.flag_id.is_(None), sa.not_(as_decided))
    decided = (
        sa.select(col(FlagDecision.flag_id))
        .outerjoin(entries, entries.c.flag_id == col(FlagDecision.flag_id))
        .where(unlike)
    )
    for flag_id in session.execute(decided).scalars():
        yield Problem("decision_unlike_audit", flag_id, "not decided once, as its audit entry says")
    undecided = (
        sa.select(entries.c.flag_id)
        .outerjoin(FlagDecision, col(FlagDecision.flag_id) == entries.c.flag_id)
        .where(col(FlagDecision.flag_id).is_(None))
    )
    for flag_id in session.execute(undecided).scalars():
        yield Problem("decision_missing", flag_id, "its audit names a decision that is not stored")
