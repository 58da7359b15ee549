"""How long before it lowers rates a program's plan must be published, and where that was waived."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime, timedelta
from itertools import pairwise

from sqlmodel import Session, col, select

from commissions.plan_comparison import Finding
from commissions.plan_models import PlanNotice, PlanWaiver
from kernel import audit
from kernel.errors import invalid

DAYS_MAX = 366
REASON_CHARS = (10, 500)


def days_at(session: Session, program_id: str, at: datetime) -> int:
    """The notice period in force, in days; 0 where none was ever set.

    A shorter one holds only once the longer one before it has run out, so that nobody can promise a
    month and take it back in a minute.
    """
    rows = session.exec(
        select(PlanNotice)
        .where(PlanNotice.program_id == program_id, col(PlanNotice.set_at) <= at)
        .order_by(col(PlanNotice.seq))
    ).all()
    if not rows:
        return 0
    running = (
        one.days for one, later in pairwise(rows) if later.set_at + timedelta(days=one.days) > at
    )
    return max(rows[-1].days, *running, 0)


def set_days(session: Session, program_id: str, days: int, *, actor: str, now: datetime) -> None:
    """Promise this many days from now on; a repeat changes nothing."""
    if not 0 <= days <= DAYS_MAX:
        raise invalid("notice_days", "range", f"must be 0 to {DAYS_MAX}")
    last = session.exec(
        select(PlanNotice)
        .where(PlanNotice.program_id == program_id)
        .order_by(col(PlanNotice.seq).desc())
        .limit(1)
    ).first()
    before = last.days if last else 0
    if days == before:
        return
    session.add(PlanNotice(program_id=program_id, days=days, set_by=actor, set_at=now))
    audit.record(
        session,
        actor=actor,
        action="plan.notice",
        subject_id=program_id,
        now=now,
        before=before,
        after=days,
    )
    session.flush()


def earliest(session: Session, program_id: str, now: datetime) -> datetime:
    """From when on a version published now may lower anybody's rates."""
    return now + timedelta(days=days_at(session, program_id, now))


def check_reason(reason: str, *, field: str) -> str:
    """A reason that publishers will read: a sentence, and not a page."""
    low, high = REASON_CHARS
    text = reason.strip()
    if not low <= len(text) <= high:
        raise invalid(field, "length", f"must have {low} to {high} characters")
    return text


def waive(
    session: Session,
    plan_version_id: str,
    *,
    reason: str,
    earliest_at: datetime,
    lowered: Sequence[Finding],
    actor: str,
    now: datetime,
) -> None:
    """Note that a version lowers rates sooner than promised; publishers read the reason."""
    session.add(
        PlanWaiver(
            plan_version_id=plan_version_id,
            reason=reason,
            earliest_at=earliest_at,
            lowered=[as_json(one) for one in lowered],
            waived_by=actor,
            waived_at=now,
        )
    )
    audit.record(
        session,
        actor=actor,
        action="plan.waive_notice",
        subject_id=plan_version_id,
        now=now,
        reason=reason,
    )
    session.flush()


def waivers(session: Session, version_ids: Sequence[str]) -> dict[str, PlanWaiver]:
    """The waivers of these versions, by version."""
    query = select(PlanWaiver).where(col(PlanWaiver.plan_version_id).in_(version_ids))
    return {one.plan_version_id: one for one in session.exec(query)}


def as_json(finding: Finding) -> dict[str, object]:
    """A finding as it is kept and sent."""
    return {**asdict(finding), "where": dict(finding.where)}
