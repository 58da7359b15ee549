"""Follow-up work leaves in the transaction that caused it, and is done at least once, in order.

A row names a kind, a subject and a lane. Rows of one lane are worked in the order they were
written, by one worker at a time (a lease), so that what follows an order never overtakes it;
lanes run side by side. Consecutive rows whose kinds end in the same handler are worked together, as
many as fit into the time a transaction may last. When such a batch fails it is taken back and
worked again in halves until the row that fails stands alone: it is tried again with a growing pause
and parked after `attempts_max`; meanwhile later rows of its subject wait and everyone else's go on.
"""

import gc
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Field, Session, SQLModel, col, select

from kernel import log
from kernel.database import let_others_write, reading, sequence_key, unit_of_work

_log = log.get(__name__)
_ROWS_PER_LOOK = 1000
_GROWTH = 4
# The last quarter of a transaction's time is left free: rows differ, and a batch too small to use
# it well costs more than the next transaction.
_USED = 0.75
_ERROR_CHARS_MAX = 500


class FollowUp(NamedTuple):
    """What a handler is given of a row."""

    kind: str
    subject_id: str


Handler = Callable[[Session, Sequence[FollowUp], datetime], None]
"""(session, rows, now); must tolerate a second delivery, also within one call.

The last handler of a kind must do what it would do given the rows one after the other; those before
it prepare its work and look at no other row. An error means that nothing is done for any of them.
"""


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
    .where(_TABLE.c.seq.in_(sa.bindparam("rows", expanding=True)))
    .values(done_at=sa.bindparam("at", type_=_TABLE.c.done_at.type))
)


class _Due(NamedTuple):
    """What working a row needs of it. Not an entity: thousands pass through one session."""

    seq: int
    kind: str
    subject_id: str
    attempts: int

    @property
    def follow_up(self) -> FollowUp:
        """The row as handlers see it."""
        return FollowUp(self.kind, self.subject_id)


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


@dataclass(slots=True)
class _Pace:
    """How many rows are worked together: as many as fit, found out by growing from one.

    `suspect` is the last row of a batch that failed, by lane: up to it batches are halved until
    the row that fails stands alone.
    """

    rows: int = 1
    row_seconds: float = 0.0
    suspect: dict[str, int] = field(default_factory=dict)

    def rows_max(self, seconds_left: float) -> int:
        """How many rows to try in the time that is left; at least one."""
        fitting = self.rows
        if self.row_seconds:
            fitting = min(fitting, int(_USED * seconds_left / self.row_seconds))
        return max(1, fitting)

    def worked(self, rows: int, seconds: float) -> None:
        """A batch went well: the next may be larger."""
        self.row_seconds = seconds / rows
        self.rows = min(max(self.rows, rows * _GROWTH), _ROWS_PER_LOOK)

    def failed(self, lane: str, rows: Sequence[_Due]) -> None:
        """A batch failed: halve it; behind a row that fails by itself, begin with one again."""
        if len(rows) > 1:
            self.suspect[lane] = rows[-1].seq
        else:
            self.suspect.pop(lane, None)
            self.rows = 1


@dataclass(frozen=True, slots=True)
class _Work:
    """What a drain goes by."""

    handlers: Mapping[str, Sequence[Handler]]
    owner: str
    limits: Limits
    clock: Callable[[], datetime]
    pace: _Pace


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
    work = _Work(handlers, owner, limits, clock, _Pace())
    while True:
        with reading(engine) as session:
            lanes = _due_lanes(session, now=clock())
        progress = sum(_drain_lane(engine, lane, work) for lane in lanes)
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


def _drain_lane(engine: Engine, lane: str, work: _Work) -> int:
    lease = f"outbox:{lane}"
    done = 0
    while True:
        with unit_of_work(engine) as session:
            seconds = work.limits.lease_seconds
            if not acquire(session, lease, owner=work.owner, seconds=seconds, now=work.clock()):
                return done
            tried, worked = _work_rows(session, lane, work)
            if not tried:
                release(session, lease, owner=work.owner)
                return done
        done += worked
        let_others_write(engine)


def _work_rows(session: Session, lane: str, work: _Work) -> tuple[int, int]:
    """(batches tried, rows worked or noted as failed) in the time of one transaction."""
    rows = _next_rows(session, lane, now=work.clock())
    seconds_max = work.limits.batch_milliseconds / 1000
    deadline = time.monotonic() + seconds_max
    waiting: set[str] = set()
    done: list[tuple[list[int], datetime]] = []
    tried = worked = at = 0
    while at < len(rows):
        if rows[at].subject_id in waiting:
            at += 1
            continue
        left = deadline - time.monotonic()
        if tried and left < (1 - _USED) * seconds_max:
            break
        batch = _batch(rows, at, lane, work, seconds_left=left, waiting=waiting)
        now = work.clock()
        tried += 1
        error = _work_batch(session, lane, batch, work, now=now)
        if error is not None and len(batch) > 1:
            continue
        if error is None:
            done.append(([row.seq for row in batch], now))
        else:
            _note_failure(session, batch[0], error, work.limits.attempts_max, now=now)
            waiting.add(batch[0].subject_id)
        worked += len(batch)
        at += len(batch)
    for numbers, at_last in done:
        # At the end: work and mark leave in the same transaction either way.
        session.execute(_DONE, {"rows": numbers, "at": at_last})
    return tried, worked


def _batch(
    rows: Sequence[_Due],
    start: int,
    lane: str,
    work: _Work,
    *,
    seconds_left: float,
    waiting: set[str],
) -> list[_Due]:
    """The rows from `start` on that are worked together."""
    ending = _last(work.handlers, rows[start])
    rows_max = work.pace.rows_max(seconds_left)
    suspect = work.pace.suspect.get(lane, 0)
    if rows[start].seq <= suspect:
        suspects = sum(row.seq <= suspect for row in rows[start : start + rows_max])
        rows_max = max(1, suspects // 2)
    batch = [rows[start]]
    for row in rows[start + 1 : start + rows_max]:
        if row.subject_id in waiting or _last(work.handlers, row) is not ending:
            break
        batch.append(row)
    return batch


def _last(handlers: Mapping[str, Sequence[Handler]], row: _Due) -> Handler | None:
    return handlers[row.kind][-1] if row.kind in handlers else None


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


def _work_batch(
    session: Session, lane: str, rows: Sequence[_Due], work: _Work, *, now: datetime
) -> Exception | None:
    began = time.monotonic()
    # A savepoint a batch: what fails takes back its own half-done work and nobody else's.
    try:
        with _without_collections(), session.begin_nested():
            _handle(session, [row.follow_up for row in rows], work.handlers, now)
    except Exception as error:  # noqa: BLE001 - whatever a handler raises must not stop the lane
        work.pace.failed(lane, rows)
        return error
    work.pace.worked(len(rows), time.monotonic() - began)
    return None


@contextmanager
def _without_collections() -> Iterator[None]:
    """No look for cyclic garbage while a batch is worked.

    Until it is done nearly all of its thousands of objects are in use, and looking through them
    again and again took a fifth of its time. Collections that another thread needs come a fraction
    of a second later.
    """
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def _handle(
    session: Session,
    rows: Sequence[FollowUp],
    handlers: Mapping[str, Sequence[Handler]],
    now: datetime,
) -> None:
    for kind in dict.fromkeys(row.kind for row in rows):
        for handler in handlers[kind][:-1]:
            handler(session, [row for row in rows if row.kind == kind], now)
    handlers[rows[0].kind][-1](session, rows, now)


def _storable(text: str) -> str:
    # An error may quote what a stranger sent. What no database takes as text must not keep the
    # failure from being noted, or the row would stop its lane for ever.
    cut = text[:_ERROR_CHARS_MAX].replace("\0", "\ufffd")
    return cut.encode(errors="replace").decode()


def _note_failure(
    session: Session, row: _Due, error: Exception, attempts_max: int, *, now: datetime
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
