"""Runs that pay publishers what is payable, once.

A run claims what each commission is worth and has not been claimed, negative after a refund of
what was paid, and sums it by publisher and currency. Money moves in the ledger when the run is
approved (payable -> in transit) and when the bank has paid (in transit -> bank).
"""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from commissions import ledger
from commissions.models import (
    Commission,
    CommissionStatus,
    CommissionStep,
    Payout,
    PayoutDecision,
    PayoutLine,
    PayoutRun,
    PayoutStatus,
)
from commissions.reasons import Reason
from kernel import audit, log
from kernel.errors import Conflict, NotFound, Refused, invalid
from kernel.ids import new_id
from kernel.money import format_amount
from network.models import Publisher
from tracker.models import Conversion

_log = log.get(__name__)
_BANK = "bank:payouts"
_REFERENCE_CHARS_MAX = 140
_NOTE_CHARS_MAX = 2000
# What stands aside is worth nothing, but has been claimed if it was paid before.
_CLAIMABLE = (
    CommissionStatus.PAYABLE,
    CommissionStatus.PAID,
    CommissionStatus.DECLINED,
    CommissionStatus.REVERSED,
    CommissionStatus.CAPPED,
)
_CSV_COLUMNS = (
    "payout_id",
    "publisher_code",
    "publisher_name",
    "amount",
    "currency",
    "lines",
    "reference",
)


class WrongPayoutState(Conflict):
    """The run is in a state from which this step does not lead on; `state` names it."""

    code = "payout_state"


class SameEyes(Refused):
    """Who proposed a run may not approve it."""

    code = "payout_same_eyes"


@dataclass(frozen=True, slots=True)
class _Due:
    publisher_id: str
    currency: str
    amount_minor: int


class _ClaimedMeanwhile(Exception):
    """A commission changed between being read and being claimed."""


def propose(session: Session, *, actor: str, now: datetime, minimum_minor: int = 0) -> PayoutRun:
    """A draft run over everything payable and unclaimed.

    Who is owed nothing, or less than the minimum in minor units of the currency, is listed in
    `skipped` and nothing of theirs is claimed. So is a publisher whose payout failed: it stops
    nobody else's.
    """
    if minimum_minor < 0:
        raise invalid("minimum_minor", "range", "must not be negative")
    run = PayoutRun(
        id=new_id("run", at=now),
        status=PayoutStatus.DRAFT,
        proposed_by=str(actor),
        proposed_at=now,
        skipped=[],
    )
    session.add(run)
    session.flush()
    skipped = []
    for due in _due(session):
        reason = _claim(session, run, due, minimum_minor=minimum_minor, now=now)
        if reason:
            skipped.append(
                {
                    "publisher_id": due.publisher_id,
                    "currency": due.currency,
                    "amount_minor": due.amount_minor,
                    "reason": str(reason),
                }
            )
    run.skipped = skipped
    session.add(run)
    _decide(session, run.id, "propose", actor=actor, note="", now=now)
    session.flush()
    return run


def approve(
    session: Session, run_id: str, *, actor: str, now: datetime, four_eyes: bool = False
) -> PayoutRun:
    """Approve a draft: the money leaves what is payable and is in transit.

    With `four_eyes`, SameEyes when the actor proposed it. WrongPayoutState unless it is a draft.
    """
    run = _get(session, run_id)
    if four_eyes and run.proposed_by == str(actor):
        raise SameEyes("somebody else than who proposed the run must approve it")
    _move(session, run, (PayoutStatus.DRAFT,), PayoutStatus.APPROVED, now=now)
    _post(session, run_id, "approve", "payable", "in_transit", actor=actor, now=now)
    _decide(session, run_id, "approve", actor=actor, note="", now=now)
    return run


def export_csv(session: Session, run_id: str, *, actor: str, now: datetime) -> str:
    """The payment file of an approved run (RFC 4180), which is exported with it.

    Made again it is the same, byte for byte, and nothing is recorded. WrongPayoutState for a
    draft or a cancelled run.
    """
    run = _get(session, run_id)
    made_before = (PayoutStatus.EXPORTED, PayoutStatus.SETTLED)
    if run.status not in made_before:
        _move(session, run, (PayoutStatus.APPROVED,), PayoutStatus.EXPORTED, now=now)
        _decide(session, run_id, "export", actor=actor, note="", now=now)
    counts = sa.func.count(col(PayoutLine.conversion_id))
    rows = session.execute(
        sa.select(Payout, Publisher, counts)
        .join(Publisher, col(Publisher.id) == col(Payout.publisher_id))
        .join(PayoutLine, col(PayoutLine.payout_id) == col(Payout.id))
        .where(col(Payout.run_id) == run_id)
        .group_by(col(Payout.id), col(Publisher.id))
        .order_by(col(Publisher.code), col(Payout.currency), col(Payout.id))
    )
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_CSV_COLUMNS)
    for payout, publisher, lines in rows:
        writer.writerow(
            [
                payout.id,
                _safe(publisher.code),
                _safe(publisher.name),
                format_amount(payout.amount_minor, payout.currency),
                payout.currency,
                lines,
                run_id,
            ]
        )
    return text.getvalue()


def settle(
    session: Session, run_id: str, *, reference: str, actor: str, now: datetime
) -> PayoutRun:
    """The bank has paid an exported run: commissions paid in full are `paid`.

    `reference` is what the bank calls it. WrongPayoutState unless the run was exported.
    """
    if not 0 < len(reference.strip()) <= _REFERENCE_CHARS_MAX:
        raise invalid("reference", "length", f"must have 1 to {_REFERENCE_CHARS_MAX} characters")
    run = _get(session, run_id)
    _move(
        session,
        run,
        (PayoutStatus.EXPORTED,),
        PayoutStatus.SETTLED,
        reference=reference.strip(),
        now=now,
    )
    _post(session, run_id, "settle", "in_transit", _BANK, actor=actor, now=now)
    _mark_paid(session, run_id, actor=actor, now=now)
    _decide(session, run_id, "settle", actor=actor, note=reference.strip(), now=now)
    return run


def cancel(session: Session, run_id: str, *, actor: str, note: str, now: datetime) -> PayoutRun:
    """Call off a draft or an approved run: its claims are free and its money payable again.

    A note says why. WrongPayoutState once the run was exported, because the bank may have it.
    """
    if not 0 < len(note.strip()) <= _NOTE_CHARS_MAX:
        raise invalid("note", "length", f"must have 1 to {_NOTE_CHARS_MAX} characters")
    run = _get(session, run_id)
    before = run.status
    allowed = (PayoutStatus.DRAFT, PayoutStatus.APPROVED)
    _move(session, run, allowed, PayoutStatus.CANCELLED, now=now)
    if before == PayoutStatus.APPROVED:
        _post(session, run_id, "cancel", "in_transit", "payable", actor=actor, now=now)
    line = (
        sa.select(sa.func.sum(col(PayoutLine.amount_minor)))
        .join(Payout, col(Payout.id) == col(PayoutLine.payout_id))
        .where(
            col(Payout.run_id) == run_id,
            col(PayoutLine.conversion_id) == col(Commission.conversion_id),
            col(Payout.publisher_id) == col(Commission.publisher_id),
        )
        .scalar_subquery()
    )
    session.execute(
        sa.update(Commission)
        .where(_is_in(run_id, Commission.metadata.tables["commission"]))
        .values(claimed_minor=col(Commission.claimed_minor) - line)
        .execution_options(synchronize_session=False)
    )
    _forget_commissions(session)
    _decide(session, run_id, "cancel", actor=actor, note=note.strip(), now=now)
    return run


def runs(session: Session, *, limit: int) -> list[PayoutRun]:
    """The newest runs first."""
    query = select(PayoutRun).order_by(col(PayoutRun.proposed_at).desc(), col(PayoutRun.id).desc())
    return list(session.exec(query.limit(limit)))


def get(session: Session, run_id: str) -> PayoutRun:
    """The run; NotFound when there is none."""
    return _get(session, run_id)


def payouts_of(session: Session, run_id: str) -> list[Payout]:
    """The payouts of a run, by publisher and currency."""
    query = (
        select(Payout)
        .where(Payout.run_id == run_id)
        .order_by(col(Payout.publisher_id), col(Payout.currency))
    )
    return list(session.exec(query))


def lines_of(session: Session, payout_id: str) -> list[PayoutLine]:
    """What a payout pays of which commission, in booking order."""
    query = (
        select(PayoutLine)
        .join(Conversion, col(Conversion.id) == col(PayoutLine.conversion_id))
        .where(PayoutLine.payout_id == payout_id)
        .order_by(col(Conversion.seq))
    )
    return list(session.exec(query))


def of_publisher(session: Session, publisher_id: str) -> list[Payout]:
    """The publisher's payouts, newest first."""
    query = (
        select(Payout)
        .join(PayoutRun, col(PayoutRun.id) == col(Payout.run_id))
        .where(Payout.publisher_id == publisher_id)
        .order_by(col(PayoutRun.proposed_at).desc(), col(Payout.id).desc())
    )
    return list(session.exec(query))


def decisions(session: Session, run_id: str) -> list[PayoutDecision]:
    """Who moved the run on, in order."""
    query = select(PayoutDecision).where(PayoutDecision.run_id == run_id)
    return list(session.exec(query.order_by(col(PayoutDecision.seq))))


def _due(session: Session) -> list[_Due]:
    unclaimed = col(Commission.amount_minor) - col(Commission.claimed_minor)
    query = (
        sa.select(col(Commission.publisher_id), col(Commission.currency), sa.func.sum(unclaimed))
        .where(col(Commission.status).in_(_CLAIMABLE), unclaimed != 0)
        .group_by(col(Commission.publisher_id), col(Commission.currency))
        .order_by(col(Commission.publisher_id), col(Commission.currency))
    )
    return [
        _Due(publisher, currency, int(total))
        for publisher, currency, total in session.execute(query)
    ]


def _claim(
    session: Session, run: PayoutRun, due: _Due, *, minimum_minor: int, now: datetime
) -> Reason | None:
    """Make the publisher's payout; the reason when there is none."""
    if due.amount_minor <= 0:
        return Reason.NOT_POSITIVE
    if due.amount_minor < minimum_minor:
        return Reason.BELOW_MINIMUM
    try:
        with session.begin_nested():
            _make_payout(session, run, due, now)
    except _ClaimedMeanwhile:
        return Reason.CLAIMED_MEANWHILE
    except Exception as error:  # noqa: BLE001 - whatever goes wrong here must not stop the others
        _log.exception("payout_failed", publisher_id=due.publisher_id, exc_info=error)
        return Reason.PAYOUT_FAILED
    return None


def _make_payout(session: Session, run: PayoutRun, due: _Due, now: datetime) -> None:
    payout = Payout(
        id=new_id("pay", at=now),
        run_id=run.id,
        publisher_id=due.publisher_id,
        currency=due.currency,
        amount_minor=due.amount_minor,
        status=PayoutStatus.DRAFT,
        updated_at=now,
    )
    session.add(payout)
    session.flush()
    lines, claims = (
        PayoutLine.metadata.tables["payout_line"],
        Commission.metadata.tables["commission"],
    )
    unclaimed = claims.c.amount_minor - claims.c.claimed_minor
    open_claims = (
        claims.c.publisher_id == due.publisher_id,
        claims.c.currency == due.currency,
        claims.c.status.in_(_CLAIMABLE),
    )
    session.execute(
        sa.insert(lines).from_select(
            ["payout_id", "conversion_id", "amount_minor"],
            sa.select(sa.literal(payout.id), claims.c.conversion_id, unclaimed).where(
                *open_claims, unclaimed != 0
            ),
        )
    )
    line_minor = (
        sa.select(lines.c.amount_minor)
        .where(lines.c.payout_id == payout.id, lines.c.conversion_id == claims.c.conversion_id)
        .scalar_subquery()
    )
    # A second run that read the same rows waits here for the first one's commit and then finds
    # that what it read is claimed: fewer rows than lines, and its payout is rolled back.
    claimed: Any = session.execute(
        sa.update(claims)
        # The lines are of this publisher's commissions, which no other has a part in.
        .where(*open_claims, unclaimed == line_minor)
        .values(claimed_minor=claims.c.amount_minor)
    )
    count, total = session.execute(
        sa.select(sa.func.count(), sa.func.coalesce(sa.func.sum(lines.c.amount_minor), 0)).where(
            lines.c.payout_id == payout.id
        )
    ).one()
    if claimed.rowcount != count or total != due.amount_minor:
        raise _ClaimedMeanwhile
    _forget_commissions(session)


def _get(session: Session, run_id: str) -> PayoutRun:
    run = session.get(PayoutRun, run_id, populate_existing=True)
    if run is None:
        raise NotFound("no such payout run", kind="payout_run")
    return run


def _move(
    session: Session,
    run: PayoutRun,
    allowed: Sequence[PayoutStatus],
    status: PayoutStatus,
    *,
    now: datetime,
    reference: str = "",
) -> None:
    """Take the run and its payouts to a state, if it still is where it may come from."""
    moved: Any = session.execute(
        sa.update(PayoutRun)
        .where(col(PayoutRun.id) == run.id, col(PayoutRun.status).in_(allowed))
        .values(status=status)
        .execution_options(synchronize_session=False)
    )
    session.refresh(run)
    if moved.rowcount != 1:
        raise WrongPayoutState(
            f"the run is {run.status}, and must be {' or '.join(allowed)} for this",
            state=run.status,
        )
    for payout in payouts_of(session, run.id):
        payout.status, payout.updated_at = status, now
        payout.reference = reference
        session.add(payout)
    session.flush()


def _post(
    session: Session,
    run_id: str,
    step: str,
    debit: str,
    credit: str,
    *,
    actor: str,
    now: datetime,
) -> None:
    def path(name: str, payout: Payout) -> str:
        return name if name == _BANK else f"pub:{payout.publisher_id}:{name}"

    entries = [
        ledger.Entry(
            key=f"payout:{payout.id}:{step}",
            kind=f"payout_{step}",
            correlation=payout.id,
            effective_at=now,
            postings=(
                (path(debit, payout), path(credit, payout), payout.currency, payout.amount_minor),
            ),
        )
        for payout in payouts_of(session, run_id)
    ]
    if entries:
        ledger.post_many(session, entries, actor=str(actor), now=now)


def _mark_paid(session: Session, run_id: str, *, actor: str, now: datetime) -> None:
    claims = Commission.metadata.tables["commission"]
    steps = CommissionStep.metadata.tables["commission_step"]
    fully = (
        _is_in(run_id, claims),
        claims.c.status == CommissionStatus.PAYABLE,
        claims.c.claimed_minor == claims.c.amount_minor,
    )
    session.execute(
        sa.insert(steps).from_select(
            ["conversion_id", "part", "from_status", "to_status", "reason", "actor", "at"],
            sa.select(
                claims.c.conversion_id,
                claims.c.part,
                claims.c.status,
                sa.literal(str(CommissionStatus.PAID)),
                claims.c.reason,
                sa.literal(str(actor)),
                sa.literal(now, type_=steps.c.at.type),
            ).where(*fully),
        )
    )
    session.execute(
        sa.update(claims).where(*fully).values(status=CommissionStatus.PAID, updated_at=now)
    )
    _forget_commissions(session)


def _is_in(run_id: str, claims: sa.Table) -> sa.ColumnElement[bool]:
    """Whether a payout of the run has a line for a commission: of its conversion, its publisher."""
    return sa.tuple_(claims.c.conversion_id, claims.c.publisher_id).in_(
        sa.select(col(PayoutLine.conversion_id), col(Payout.publisher_id))
        .join(Payout, col(Payout.id) == col(PayoutLine.payout_id))
        .where(col(Payout.run_id) == run_id)
    )


def _forget_commissions(session: Session) -> None:
    # They were changed by statements over many rows; what the session remembers of them is old.
    for held in session.identity_map.values():
        if isinstance(held, Commission):
            session.expire(held)


def _decide(
    session: Session, run_id: str, action: str, *, actor: str, note: str, now: datetime
) -> None:
    session.add(PayoutDecision(run_id=run_id, action=action, actor=str(actor), note=note, at=now))
    audit.record(
        session, actor=str(actor), action=f"payout.{action}", subject_id=run_id, now=now, note=note
    )
    session.flush()


def _safe(text: str) -> str:
    # A spreadsheet takes a cell that begins like this for a formula and runs it.
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r", "\n")) else text
