"""Follow-up work leaves in the transaction that caused it, and is done at least once, in order.

A row names a kind, a subject and a lane. Rows of one lane are worked in the order they were
written, by one worker at a time (a lease), so that what follows an order never overtakes it;
lanes run side by side. A handler that fails is tried again with a growing pause and parked after
`attempts_max`; meanwhile later rows of the same subject wait and everyone else's go on.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Field, Session, SQLModel, col, select

from kernel import log
from kernel.database import let_others_write, reading, sequence_key, unit_of_work

_log = log.get(__name__)
_ROWS_PER_LOOK = 200
_ERROR_CHARS_MAX = 500

Handler = Callable[[Session, str, datetime], None]
"""(session, subject_id, now); must tolerate a second delivery."""


class OutboxRow(SQLModel, table=True):
    """One follow-up. `done_at` empty: to be done; `parked_at` set: waits for a person."""

    __tablename__ = "outbox"
    __table_args__ = (sa.Index("ix_outbox_open", "done_at", "lane", "seq"),)

    seq: int | None = sequence_key()
    kind: str
    subject_id: str = Field(index=True)
    lane: str
    recorded_at: datetime
    attempts: int = 0
    next_attempt_at: datetime | None = None
    last_error: str = ""
    parked_at: datetime | None = None
    done_at: datetime | None = None


_TABLE = OutboxRow.metadata.tables["outbox"]
_DONE = (
    sa.update(_TABLE)
    .where(_TABLE.c.seq == sa.bindparam("row"))
    .values(done_at=sa.bindparam("at", type_=_TABLE.c.done_at.type))
)


class _Due(NamedTuple):
    """What working a row needs of it. Not an entity: thousands pass through one session."""

    seq: int
    kind: str
    subject_id: str
    attempts: int


class Lease(SQLModel, table=True):
    """Who works on a named thing, until when."""

    __tablename__ = "lease"

    name: str = Field(primary_key=True)
    owner: str
    until: datetime


@dataclass(frozen=True, slots=True)
class Limits:
    """How long one transaction may last, how often a row is tried, how long a lease holds."""

    batch_milliseconds: int
    attempts_max: int
    lease_seconds: int


def append(session: Session, kind: str, subject_id: str, *, lane: str, now: datetime) -> None:
    """Add a follow-up to the transaction at hand."""
    session.add(OutboxRow(kind=kind, subject_id=subject_id, lane=lane, recorded_at=now))


def pending(session: Session) -> int:
    """Follow-ups not done and not parked."""
    query = (
        select(sa.func.count())
        .select_from(OutboxRow)
        .where(col(OutboxRow.done_at).is_(None), col(OutboxRow.parked_at).is_(None))
    )
    return session.exec(query).one()


def drain(
    engine: Engine,
    handlers: Mapping[str, Sequence[Handler]],
    *,
    owner: str,
    limits: Limits,
    clock: Callable[[], datetime],
) -> int:
    """Work every open lane that nobody else is on, until nothing is due; tries made come back."""
    done = 0
    while True:
        with reading(engine) as session:
            lanes = _due_lanes(session, now=clock())
        progress = sum(
            _drain_lane(engine, lane, handlers, owner=owner, limits=limits, clock=clock)
            for lane in lanes
        )
        done += progress
        if not progress:
            return done


def acquire(session: Session, name: str, *, owner: str, seconds: int, now: datetime) -> bool:
    """Take or renew the lease; False when another owner's has not run out."""
    lease = session.exec(select(Lease).where(Lease.name == name).with_for_update()).one_or_none()
    if lease is None:
        return _acquire_first(session, name, owner=owner, until=now + timedelta(seconds=seconds))
    if lease.owner != owner and lease.until > now:
        return False
    lease.owner, lease.until = owner, now + timedelta(seconds=seconds)
    return True


def _acquire_first(session: Session, name: str, *, owner: str, until: datetime) -> bool:
    # No row could be locked, so on PostgreSQL two owners can arrive here at once; the second waits
    # for the first one's transaction and then learns that the name is taken.
    try:
        with session.begin_nested():
            session.add(Lease(name=name, owner=owner, until=until))
    except sa.exc.IntegrityError:
        return False
    return True


def release(session: Session, name: str, *, owner: str) -> None:
    """Give the lease back; a repeat, or another owner's, changes nothing."""
    session.execute(sa.delete(Lease).where(col(Lease.name) == name, col(Lease.owner) == owner))


def _due(now: datetime) -> list[sa.ColumnElement[bool]]:
    return [
        col(OutboxRow.done_at).is_(None),
        col(OutboxRow.parked_at).is_(None),
        sa.or_(col(OutboxRow.next_attempt_at).is_(None), col(OutboxRow.next_attempt_at) <= now),
    ]


def _due_lanes(session: Session, *, now: datetime) -> list[str]:
    return list(session.exec(select(OutboxRow.lane).where(*_due(now)).distinct()))


def _drain_lane(
    engine: Engine,
    lane: str,
    handlers: Mapping[str, Sequence[Handler]],
    *,
    owner: str,
    limits: Limits,
    clock: Callable[[], datetime],
) -> int:
    lease = f"outbox:{lane}"
    done = 0
    while True:
        with unit_of_work(engine) as session:
            if not acquire(session, lease, owner=owner, seconds=limits.lease_seconds, now=clock()):
                return done
            worked = _work_batch(session, lane, handlers, limits=limits, clock=clock)
            if not worked:
                release(session, lease, owner=owner)
                return done
        done += worked
        let_others_write(engine)


def _work_batch(
    session: Session,
    lane: str,
    handlers: Mapping[str, Sequence[Handler]],
    *,
    limits: Limits,
    clock: Callable[[], datetime],
) -> int:
    rows = _next_rows(session, lane, now=clock())
    deadline = time.monotonic() + limits.batch_milliseconds / 1000
    waiting: set[str] = set()
    done: list[dict[str, object]] = []
    worked = 0
    for row in rows:
        if row.subject_id in waiting:
            continue
        now = clock()
        if _work_row(session, row, handlers, attempts_max=limits.attempts_max, now=now):
            done.append({"row": row.seq, "at": now})
        else:
            waiting.add(row.subject_id)
        worked += 1
        if time.monotonic() > deadline:
            break
    if done:
        # Together at the end: work and mark leave in the same transaction either way.
        session.execute(_DONE, done)
    return worked


def _next_rows(session: Session, lane: str, *, now: datetime) -> list[_Due]:
    earlier = sa.orm.aliased(OutboxRow)
    # A row that failed and waits for its next attempt holds back the later rows of its subject
    # only; a parked one holds them back until a person has looked.
    blocked = sa.exists().where(
        col(earlier.subject_id) == col(OutboxRow.subject_id),
        col(earlier.seq) < col(OutboxRow.seq),
        col(earlier.done_at).is_(None),
        sa.or_(col(earlier.parked_at).is_not(None), col(earlier.next_attempt_at) > now),
    )
    query = (
        sa.select(*(_TABLE.c[name] for name in _Due._fields))
        .where(col(OutboxRow.lane) == lane, *_due(now), ~blocked)
        .order_by(col(OutboxRow.seq))
        .limit(_ROWS_PER_LOOK)
    )
    return [_Due(*row) for row in session.execute(query)]


def _work_row(
    session: Session,
    row: _Due,
    handlers: Mapping[str, Sequence[Handler]],
    *,
    attempts_max: int,
    now: datetime,
) -> bool:
    # A savepoint a row: a poisoned row takes back its own half-done work and nobody else's.
    try:
        with session.begin_nested():
            for handler in handlers[row.kind]:
                handler(session, row.subject_id, now)
    except Exception as error:  # noqa: BLE001 - whatever a handler raises must not stop the lane
        _note_failure(session, row, error, attempts_max=attempts_max, now=now)
        return False
    return True


def _storable(text: str) -> str:
    # An error may quote what a stranger sent. What no database takes as text must not keep the
    # failure from being noted, or the row would stop its lane for ever.
    cut = text[:_ERROR_CHARS_MAX].replace("\0", "\ufffd")
    return cut.encode(errors="replace").decode()


def _note_failure(
    session: Session, row: _Due, error: Exception, *, attempts_max: int, now: datetime
) -> None:
    attempts = row.attempts + 1
    parked = attempts >= attempts_max
    session.execute(
        sa.update(_TABLE)
        .where(_TABLE.c.seq == row.seq)
        .values(
            attempts=attempts,
            last_error=_storable(f"{type(error).__name__}: {error}"),
            next_attempt_at=now + timedelta(seconds=2**attempts),
            parked_at=now if parked else None,
        )
    )
    _log.exception(
        "follow_up_failed",
        kind=row.kind,
        subject_id=row.subject_id,
        attempts=attempts,
        parked=parked,
        exc_info=error,
    )
