"""Simulations and re-rates as jobs: kept in the database, worked by any worker, one at a time each.

What a job finds out it finds by reading, and begins anew after a crash. What a confirmed re-rate
books is committed part by part together with how far it came, so it goes on where it stopped.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from commissions import notices, periods, plans, rerates, simulations
from commissions.periods import Period
from commissions.plan_models import JobKind, JobStatus, PlanJob
from commissions.rerates import Mandate, Part, Rerate
from commissions.rules import parse_plan
from kernel import audit, log
from kernel.database import let_others_write, scanning, unit_of_work
from kernel.errors import Conflict, InvalidInput, NotFound
from kernel.ids import new_id
from kernel.outbox import acquire, release

_log = log.get(__name__)
_LEASE_SECONDS: Final = 300
_NOTE_SECONDS: Final = 1.0
OPEN_MAX: Final = 10
_PUBLISHERS_SHOWN: Final = 200
WAITING: Final = (JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.CONFIRMED)
Clock = Callable[[], datetime]


class TooManyJobs(Conflict):
    """The program has as many jobs that are not done as it may."""

    code = "too_many_jobs"


class NotConfirmable(Conflict):
    """Only a re-rate that was previewed can be confirmed or dismissed."""

    code = "not_confirmable"


class _LostError(Exception):
    """Another worker goes on with the job."""


def add_simulation(
    session: Session, period: Period, document: Mapping[str, Any], *, actor: str, now: datetime
) -> PlanJob:
    """Have a draft played over a period; InvalidInput names what is wrong with the document."""
    periods.check_bounds(period.start, period.end)
    draft = plans.check(
        session, program_id=period.program_id, document=document, effective_from=now, now=now
    )
    if draft.problems:
        raise InvalidInput(list(draft.problems))
    return _add(session, JobKind.SIMULATE, period, actor=actor, now=now, document=dict(document))


def add_rerate(
    session: Session, period: Period, *, reason: str, actor: str, now: datetime
) -> PlanJob:
    """Have it found out what rating the period's orders again would change; books nothing."""
    periods.check_bounds(period.start, period.end)
    reason = notices.check_reason(reason, field="reason")
    known = plans.facts_of(session, period.program_id)
    if not known:
        raise NotFound("the program has no plan", kind="plan_version")
    newest = max(one.version for one in known)
    return _add(
        session,
        JobKind.RERATE,
        period,
        actor=actor,
        now=now,
        reason=reason,
        version_max=newest,
    )


def get(session: Session, program_id: str, job_id: str, kind: JobKind) -> PlanJob:
    """A job of the program; NotFound for any other."""
    job = session.get(PlanJob, job_id)
    if job is None or job.program_id != program_id or job.kind != kind:
        raise NotFound("no such job", kind=str(kind))
    return job


def page(
    session: Session, program_id: str, kind: JobKind, *, before_id: str | None = None, limit: int
) -> list[PlanJob]:
    """Jobs of the program, newest first."""
    query = select(PlanJob).where(PlanJob.program_id == program_id, PlanJob.kind == kind)
    if before_id:
        query = query.where(col(PlanJob.id) < before_id)
    return list(session.exec(query.order_by(col(PlanJob.id).desc()).limit(limit)))


def confirm(
    session: Session, program_id: str, job_id: str, *, actor: str, now: datetime
) -> PlanJob:
    """Have a previewed re-rate booked. A repeat changes nothing; NotConfirmable otherwise."""
    return _decide(session, program_id, job_id, JobStatus.CONFIRMED, actor=actor, now=now)


def dismiss(
    session: Session, program_id: str, job_id: str, *, actor: str, now: datetime
) -> PlanJob:
    """Let a previewed re-rate go; nothing is booked. A repeat changes nothing."""
    return _decide(session, program_id, job_id, JobStatus.DISMISSED, actor=actor, now=now)


def waiting(session: Session) -> list[str]:
    """Jobs with something to do, oldest first."""
    query = select(PlanJob.id).where(col(PlanJob.status).in_(WAITING))
    return list(session.exec(query.order_by(col(PlanJob.id))))


def work(engine: Engine, job_id: str, *, owner: str, clock: Clock) -> bool:
    """Do what a job has to do now; False when another worker is at it, or nothing is left."""
    with unit_of_work(engine) as session:
        if not _hold(session, job_id, owner, clock()):
            return False
        job = session.get_one(PlanJob, job_id)
        todo = _TASKS.get((JobKind(job.kind), job.status == JobStatus.CONFIRMED))
    if todo is None or job.status not in WAITING:
        return False
    try:
        todo(engine, job, owner, clock)
    except _LostError:
        return False
    except Exception as error:
        if isinstance(error, sa.exc.OperationalError):
            raise
        _log.exception("plan_job_failed", job=job_id, exc_info=error)
        _end(engine, job_id, JobStatus.FAILED, owner, clock, detail=type(error).__name__)
    return True


def _add(
    session: Session, kind: JobKind, period: Period, *, actor: str, now: datetime, **facts: Any
) -> PlanJob:
    open_jobs = (
        select(sa.func.count())
        .select_from(PlanJob)
        .where(PlanJob.program_id == period.program_id, col(PlanJob.status).in_(WAITING))
    )
    if session.exec(open_jobs).one() >= OPEN_MAX:
        raise TooManyJobs(f"a program has at most {OPEN_MAX} jobs at once", limit=OPEN_MAX)
    given: dict[str, Any] = {
        "id": new_id("job", at=now),
        "kind": kind,
        "program_id": period.program_id,
        "status": JobStatus.QUEUED,
        "actor_id": actor,
        "from_at": period.start,
        "to_at": period.end,
        "document": {},
        "result": {},
        "created_at": now,
        "updated_at": now,
    }
    job = PlanJob(**given | facts)
    session.add(job)
    audit.record(
        session,
        actor=actor,
        action=f"plan.{kind}",
        subject_id=job.id,
        now=now,
        program_id=period.program_id,
    )
    session.flush()
    return job


def _decide(
    session: Session,
    program_id: str,
    job_id: str,
    status: JobStatus,
    *,
    actor: str,
    now: datetime,
) -> PlanJob:
    locked = session.exec(select(PlanJob).where(PlanJob.id == job_id).with_for_update())
    locked.one_or_none()
    job = get(session, program_id, job_id, JobKind.RERATE)
    is_repeat = job.status == status or (
        status is JobStatus.CONFIRMED and job.status == JobStatus.DONE
    )
    if is_repeat:
        return job
    if job.status != JobStatus.PREVIEWED:
        raise NotConfirmable("only a previewed re-rate can be confirmed or dismissed")
    job.status, job.updated_at, job.confirmed_by = status, now, actor
    job.done, job.cursor = 0, ""
    if status is JobStatus.DISMISSED:
        job.finished_at = now
    session.add(job)
    audit.record(session, actor=actor, action=f"plan.rerate.{status}", subject_id=job.id, now=now)
    session.flush()
    return job


def _hold(session: Session, job_id: str, owner: str, now: datetime) -> bool:
    return acquire(session, f"plan-job:{job_id}", owner=owner, seconds=_LEASE_SECONDS, now=now)


def _period(job: PlanJob) -> Period:
    return Period(job.program_id, job.from_at, job.to_at)


def _note(engine: Engine, job_id: str, owner: str, clock: Clock, **facts: Any) -> None:
    with unit_of_work(engine) as session:
        if not _hold(session, job_id, owner, clock()):
            raise _LostError
        job = session.get_one(PlanJob, job_id)
        job.sqlmodel_update({**facts, "updated_at": clock()})
        session.add(job)


def _end(
    engine: Engine, job_id: str, status: JobStatus, owner: str, clock: Clock, **facts: Any
) -> None:
    ended = None if status is JobStatus.PREVIEWED else clock()
    _note(engine, job_id, owner, clock, status=status, finished_at=ended, **facts)
    with unit_of_work(engine) as session:
        release(session, f"plan-job:{job_id}", owner=owner)


class _Teller:
    """Writes how far a job came, once a second at most: bookings wait for the same writer."""

    def __init__(self, engine: Engine, job_id: str, owner: str, clock: Clock) -> None:
        self._facts = engine, job_id, owner, clock
        self._next = 0.0

    def __call__(self, done: int, total: int) -> None:
        if time.monotonic() < self._next:
            return
        self._next = time.monotonic() + _NOTE_SECONDS
        _note(*self._facts, status=JobStatus.RUNNING, done=done, total=total)


def _simulate(engine: Engine, job: PlanJob, owner: str, clock: Clock) -> None:
    draft = parse_plan(job.document, publishing=False)
    tell = _Teller(engine, job.id, owner, clock)
    with scanning(engine) as session:
        found = simulations.run(session, _period(job), draft, progress=tell)
    done = found.all.orders
    _end(
        engine,
        job.id,
        JobStatus.DONE,
        owner,
        clock,
        done=done,
        total=done,
        result=found.as_json(),
    )


def _preview(engine: Engine, job: PlanJob, owner: str, clock: Clock) -> None:
    tell = _Teller(engine, job.id, owner, clock)
    totals = Totals()
    with scanning(engine) as session:
        total = periods.count(session, _period(job))
        tell(0, total)
        rerate = Rerate(session, _period(job), job.version_max)
        for publisher_id in periods.parts(session, _period(job), rerate.plans):
            for part in _pieces(rerate, publisher_id):
                totals.add(part)
                tell(totals.orders, total)
    _end(
        engine,
        job.id,
        JobStatus.PREVIEWED,
        owner,
        clock,
        done=totals.orders,
        total=total,
        result={"preview": totals.as_json()},
    )


def _pieces(rerate: Rerate, publisher_id: str | None) -> Iterator[Part]:
    if publisher_id is None or not rerate.is_piecemeal:
        yield rerate.part(publisher_id)
        return
    part, last = rerate.piece(publisher_id, 0)
    while last:
        yield part
        part, last = rerate.piece(publisher_id, last)


def _apply(engine: Engine, job: PlanJob, owner: str, clock: Clock) -> None:
    while True:
        with unit_of_work(engine) as session:
            if not _hold(session, job.id, owner, clock()):
                raise _LostError
            current = session.get_one(PlanJob, job.id)
            if not apply_next(session, current, now=clock()):
                break
        let_others_write(engine)
    _end(engine, job.id, JobStatus.DONE, owner, clock)


def apply_next(session: Session, job: PlanJob, *, now: datetime) -> bool:
    """Book the next part of a confirmed re-rate and note it in the job; False after the last."""
    plans.lock_program(session, job.program_id)
    rerate = Rerate(session, _period(job), job.version_max)
    step = _next_step(session, job, rerate)
    if step is None:
        return False
    part, job.cursor = step
    mandate = Mandate(job.id, job.confirmed_by, job.reason)
    rerates.apply(session, job.program_id, part.changes, mandate, now=now)
    applied = Totals.of(job.result.get("applied"))
    applied.add(part)
    job.done = applied.orders
    job.result = {**job.result, "applied": applied.as_json()}
    job.updated_at = now
    session.add(job)
    return True


_END = "\x7f"


def _next_step(session: Session, job: PlanJob, rerate: Rerate) -> tuple[Part, str] | None:
    """The next part and where it ends. The cursor is a publisher and the number of its order."""
    if job.cursor == _END:
        return None
    period = _period(job)
    publisher_id, _, number = job.cursor.partition("|")
    if next(periods.parts(session, period, rerate.plans), "") is None:
        return rerate.part(None), _END
    while True:
        if publisher_id and number:
            part, last = rerate.piece(publisher_id, int(number))
            if last:
                return part, f"{publisher_id}|{last}"
        following = periods.publisher_after(session, period, publisher_id)
        if following is None:
            return None
        if not rerate.is_piecemeal:
            return rerate.part(following), following
        publisher_id, number = following, "0"


class Totals:
    """What parts of a re-rate come to."""

    def __init__(self) -> None:
        self.orders = self.changed = self.raised = self.lowered = 0
        self.before_minor = self.after_minor = 0
        self.left: dict[str, int] = {}
        self.publishers: dict[str, dict[str, int]] = {}

    @classmethod
    def of(cls, found: Mapping[str, Any] | None) -> "Totals":
        """The totals that `as_json` wrote."""
        made = cls()
        for name, value in (found or {}).items():
            if name == "publishers":
                made.publishers = {row["publisher_id"]: _figures(row) for row in value}
            elif name != "difference_minor":
                setattr(made, name, dict(value) if name == "left" else value)
        return made

    def add(self, part: Part) -> None:
        """Count a part."""
        self.orders += part.orders
        for reason, count in part.left.items():
            self.left[reason] = self.left.get(reason, 0) + count
        for one in part.changes:
            self.changed += 1
            self.raised += one.after_minor > one.before_minor
            self.lowered += one.after_minor < one.before_minor
            self.before_minor += one.before_minor
            self.after_minor += one.after_minor
            empty = {"changed": 0, "before_minor": 0, "after_minor": 0}
            row = self.publishers.setdefault(one.publisher_id, empty)
            row["changed"] += 1
            row["before_minor"] += one.before_minor
            row["after_minor"] += one.after_minor

    def as_json(self) -> dict[str, Any]:
        """Ready to be kept and sent, with the publishers whose amounts move most."""

        def first(entry: tuple[str, dict[str, int]]) -> tuple[int, str]:
            return -abs(entry[1]["after_minor"] - entry[1]["before_minor"]), entry[0]

        ordered = sorted(self.publishers.items(), key=first)[:_PUBLISHERS_SHOWN]
        return {
            "orders": self.orders,
            "changed": self.changed,
            "raised": self.raised,
            "lowered": self.lowered,
            "before_minor": self.before_minor,
            "after_minor": self.after_minor,
            "difference_minor": self.after_minor - self.before_minor,
            "left": self.left,
            "publishers": [
                {
                    "publisher_id": publisher_id,
                    **row,
                    "difference_minor": row["after_minor"] - row["before_minor"],
                }
                for publisher_id, row in ordered
            ],
        }


def _figures(row: Mapping[str, int]) -> dict[str, int]:
    return {name: row[name] for name in ("changed", "before_minor", "after_minor")}


_TASKS: Final[dict[tuple[JobKind, bool], Callable[[Engine, PlanJob, str, Clock], None]]] = {
    (JobKind.SIMULATE, False): _simulate,
    (JobKind.RERATE, False): _preview,
    (JobKind.RERATE, True): _apply,
}
