"""Follow-ups: in order inside a lane, at least once, never twice at a time, never lost."""

import gc
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select
from structlog.testing import capture_logs

from kernel import outbox
from kernel.database import reading, unit_of_work
from kernel.errors import Refused
from kernel.outbox import FollowUp, Handler, Lease, Limits, OutboxRow
from tests.conftest import NOW

LIMITS = Limits(batch_milliseconds=200, attempts_max=3, lease_seconds=60)


class Clock:
    """A clock that stands until it is moved."""

    def __init__(self) -> None:
        self.at = NOW

    def __call__(self) -> datetime:
        return self.at

    def move(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


class Seen:
    """A handler that keeps what it was given, and fails for the subjects it is told to."""

    def __init__(self) -> None:
        self.subjects: list[str] = []
        self.failing: set[str] = set()

    def __call__(self, _session: Session, rows: Sequence[FollowUp], _now: datetime) -> None:
        subject_ids = [row.subject_id for row in rows]
        poisoned = self.failing & set(subject_ids)
        if poisoned and len(subject_ids) > 1:
            raise Refused("one of many is poisoned")
        # What a batch did before it failed is taken back; of a single row the try is kept.
        self.subjects += subject_ids
        if poisoned:
            raise Refused(f"{poisoned} is poisoned")


def each(act: Callable[[Session, str, datetime], None]) -> Handler:
    """A handler that does its subjects one after the other."""

    def handle(session: Session, rows: Sequence[FollowUp], now: datetime) -> None:
        for row in rows:
            act(session, row.subject_id, now)

    return handle


@pytest.fixture(autouse=True)
def logged() -> Iterator[list[MutableMapping[str, Any]]]:
    """What was logged, kept from the terminal, where tracebacks are slow to draw."""
    with capture_logs() as entries:
        yield entries


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def seen() -> Seen:
    return Seen()


def put(engine: Engine, *subjects: str, lane: str = "lane", kind: str = "k") -> None:
    with unit_of_work(engine) as session:
        for subject in subjects:
            outbox.append(session, kind, subject, lane=lane, now=NOW)
            session.flush()


def drain(
    engine: Engine,
    handlers: Handler | Mapping[str, Sequence[Handler]],
    clock: Callable[[], datetime],
    *,
    owner: str = "me",
    limits: Limits = LIMITS,
) -> int:
    table = handlers if isinstance(handlers, Mapping) else {"k": (handlers,)}
    return outbox.drain(engine, table, owner=owner, limits=limits, clock=clock)


def rows(engine: Engine) -> list[OutboxRow]:
    with reading(engine) as session:
        return list(session.exec(select(OutboxRow).order_by(col(OutboxRow.seq))))


def leases(engine: Engine) -> list[tuple[str, str]]:
    with reading(engine) as session:
        return [(lease.name, lease.owner) for lease in session.exec(select(Lease))]


def hold(engine: Engine, name: str, owner: str, *, seconds: int = 60, at: datetime = NOW) -> bool:
    with unit_of_work(engine) as session:
        return outbox.acquire(session, name, owner=owner, seconds=seconds, now=at)


def test_rows_of_a_lane_are_worked_once_in_the_order_they_were_written(
    engine: Engine, clock: Clock, seen: Seen
) -> None:
    subjects = [f"s{number % 7}" for number in range(450)]
    put(engine, *subjects)

    assert drain(engine, seen, clock) == 450

    assert seen.subjects == subjects
    assert all(row.done_at is not None for row in rows(engine))
    assert leases(engine) == []
    assert drain(engine, seen, clock) == 0
    assert len(seen.subjects) == 450


def test_a_row_leaves_only_with_the_transaction_that_caused_it(
    sqlite_engine: Engine, clock: Clock, seen: Seen
) -> None:
    def act() -> None:
        with unit_of_work(sqlite_engine) as session:
            outbox.append(session, "k", "s", lane="lane", now=NOW)
            session.flush()
            raise Refused("no")

    with pytest.raises(Refused):
        act()

    assert drain(sqlite_engine, seen, clock) == 0
    assert rows(sqlite_engine) == []


def test_the_handlers_of_a_kind_run_in_order_in_one_session(
    sqlite_engine: Engine, clock: Clock
) -> None:
    heard: list[tuple[str, str, datetime]] = []
    sessions: set[int] = set()

    def handler(name: str) -> Handler:
        def handle(session: Session, subject_id: str, now: datetime) -> None:
            heard.append((name, subject_id, now))
            sessions.add(id(session))

        return each(handle)

    put(sqlite_engine, "s", kind="a")
    put(sqlite_engine, "s", kind="b")

    drain(sqlite_engine, {"a": (handler("one"), handler("two")), "b": (handler("three"),)}, clock)

    assert heard == [("one", "s", NOW), ("two", "s", NOW), ("three", "s", NOW)]
    assert len(sessions) == 1


def test_a_failing_row_takes_back_its_own_work_and_nobody_elses(
    engine: Engine, clock: Clock
) -> None:
    def write(session: Session, subject_id: str, now: datetime) -> None:
        session.add(Lease(name=f"work:{subject_id}", owner="w", until=now))
        session.flush()

    def fail(_session: Session, subject_id: str, _now: datetime) -> None:
        if subject_id == "bad":
            raise ValueError("no")

    put(engine, "a", "bad", "b")

    drain(engine, {"k": (each(write), each(fail))}, clock)

    assert sorted(leases(engine)) == [("work:a", "w"), ("work:b", "w")]
    a, bad, b = rows(engine)
    assert a.done_at is not None
    assert b.done_at is not None
    assert (bad.done_at, bad.parked_at, bad.attempts) == (None, None, 1)
    assert bad.last_error == "ValueError: no"


def test_a_statement_that_the_database_refuses_spoils_only_its_own_row(
    engine: Engine, clock: Clock
) -> None:
    def write(session: Session, _subject_id: str, now: datetime) -> None:
        session.add(Lease(name="the same name", owner="w", until=now))

    put(engine, "a", "b", "c")

    drain(engine, each(write), clock)

    assert [row.done_at is not None for row in rows(engine)] == [True, False, False]
    assert rows(engine)[1].last_error.startswith("IntegrityError: ")
    assert len(rows(engine)[1].last_error) <= 500


class Batches:
    """A handler that writes a row for each subject, then fails where one of them is poisoned."""

    def __init__(self, *poisoned: str) -> None:
        self.poisoned = set(poisoned)
        self.sizes: list[int] = []

    def __call__(self, session: Session, rows: Sequence[FollowUp], now: datetime) -> None:
        self.sizes.append(len(rows))
        for row in rows:
            session.add(Lease(name=f"work:{row.subject_id}", owner=row.kind, until=now))
        session.flush()
        found = self.poisoned & {row.subject_id for row in rows}
        if found:
            raise Refused(f"{found} is poisoned")


def test_rows_are_worked_together_and_a_poisoned_one_is_found_by_halving(
    engine: Engine, clock: Clock
) -> None:
    subjects = [f"s{number:03d}" for number in range(300)]
    put(engine, *subjects)
    together = Batches("s150")

    drain(engine, together, clock, limits=Limits(60_000, 3, 60))

    done = [row.subject_id for row in rows(engine) if row.done_at is not None]
    assert done == [one for one in subjects if one != "s150"]
    assert sorted(name for name, _ in leases(engine)) == [f"work:{one}" for one in done]
    bad = next(row for row in rows(engine) if row.subject_id == "s150")
    assert (bad.attempts, bad.parked_at) == (1, None)
    # 1, 4, 16, 64 went well; the batch with the poisoned row was halved down to it.
    assert together.sizes[:4] == [1, 4, 16, 64]
    assert len(together.sizes) < 30
    assert max(together.sizes) > 64


def test_kinds_that_end_in_one_handler_are_worked_together_in_their_order(
    sqlite_engine: Engine, clock: Clock
) -> None:
    heard: list[tuple[str, list[tuple[str, str]]]] = []

    def handler(name: str) -> Handler:
        def handle(_session: Session, rows: Sequence[FollowUp], _now: datetime) -> None:
            heard.append((name, [tuple(row) for row in rows]))  # type: ignore[misc]  # pairs

        return handle

    first, last, other = handler("first"), handler("last"), handler("other")
    table = {"a": (first, last), "b": (last,), "c": (other,)}
    put(sqlite_engine, "warm", kind="b")
    for subject, kind in (("x", "a"), ("x", "b"), ("y", "a"), ("z", "c")):
        put(sqlite_engine, subject, kind=kind)

    drain(sqlite_engine, table, clock)

    assert heard == [
        ("last", [("b", "warm")]),
        ("first", [("a", "x"), ("a", "y")]),
        ("last", [("a", "x"), ("b", "x"), ("a", "y")]),
        ("other", [("c", "z")]),
    ]


def test_a_failing_row_holds_back_later_rows_of_its_subject_only(
    engine: Engine, clock: Clock, seen: Seen
) -> None:
    put(engine, "a", "b", "a", "c", "b")
    seen.failing = {"a"}

    drain(engine, seen, clock)
    assert seen.subjects == ["a", "b", "c", "b"]

    drain(engine, seen, clock)
    assert seen.subjects == ["a", "b", "c", "b"]

    seen.failing = set()
    clock.move(2)
    drain(engine, seen, clock)
    assert seen.subjects == ["a", "b", "c", "b", "a", "a"]
    assert all(row.done_at is not None for row in rows(engine))


def test_pauses_grow_and_the_last_attempt_parks_the_row(
    engine: Engine, clock: Clock, seen: Seen
) -> None:
    put(engine, "a", "a", "b")
    seen.failing = {"a"}
    pauses = []
    for _ in range(3):
        tries = seen.subjects.count("a")
        drain(engine, seen, clock)
        assert seen.subjects.count("a") == tries + 1
        row = rows(engine)[0]
        assert row.next_attempt_at is not None
        pause = row.next_attempt_at.replace(tzinfo=clock.at.tzinfo) - clock.at
        pauses.append(pause.total_seconds())
        clock.move(pause.total_seconds() - 1)
        drain(engine, seen, clock)
        assert seen.subjects.count("a") == tries + 1
        clock.move(1)

    assert pauses == [2, 4, 8]
    parked, waiting, other = rows(engine)
    assert (parked.parked_at is not None, parked.attempts) == (True, 3)
    assert (waiting.attempts, waiting.parked_at, waiting.done_at) == (0, None, None)
    assert other.done_at is not None

    # Parked means until a person has looked: neither it nor what follows it is tried again.
    clock.move(10**6)
    seen.failing = set()
    assert drain(engine, seen, clock) == 0
    assert seen.subjects == ["a", "b", "a", "a"]
    with reading(engine) as session:
        assert outbox.pending(session) == 1


def test_the_collector_rests_during_a_batch_and_goes_on_after_it_failed_or_not(
    sqlite_engine: Engine, clock: Clock
) -> None:
    put(sqlite_engine, "a", "b")
    rested: list[bool] = []

    def act(_session: Session, subject: str, _now: datetime) -> None:
        rested.append(not gc.isenabled())
        if subject == "b":
            raise ValueError(subject)

    limits = Limits(batch_milliseconds=200, attempts_max=1, lease_seconds=60)
    handlers = {"k": (each(act),)}
    outbox.drain(sqlite_engine, handlers, owner="w", limits=limits, clock=clock)

    assert (set(rested), gc.isenabled()) == ({True}, True)
    assert [row.done_at is not None for row in rows(sqlite_engine)] == [True, False]


def test_a_kind_that_nobody_handles_is_parked_and_stops_nobody(
    sqlite_engine: Engine, clock: Clock, seen: Seen
) -> None:
    put(sqlite_engine, "a", kind="unheard")
    put(sqlite_engine, "b")

    drain(
        sqlite_engine,
        seen,
        clock,
        limits=Limits(batch_milliseconds=1, attempts_max=1, lease_seconds=9),
    )

    unheard, heard = rows(sqlite_engine)
    assert unheard.parked_at is not None
    assert unheard.last_error == "KeyError: 'unheard'"
    assert heard.done_at is not None


@pytest.mark.parametrize("text", ["a\0b", "a\ud800b"])
def test_bug_an_error_that_quotes_what_no_database_stores_stopped_its_lane(
    engine: Engine, clock: Clock, text: str
) -> None:
    def fail(_session: Session, subject_id: str, _now: datetime) -> None:
        if subject_id == "bad":
            raise ValueError(text)

    put(engine, "bad", "good")

    drain(engine, each(fail), clock)

    bad, good = rows(engine)
    assert bad.last_error in {"ValueError: a\ufffdb", "ValueError: a?b"}
    assert bad.attempts == 1
    assert good.done_at is not None


def test_an_interrupt_takes_the_batch_back_and_nothing_is_lost(
    sqlite_engine: Engine, clock: Clock, seen: Seen
) -> None:
    def stop(_session: Session, subject_id: str, _now: datetime) -> None:
        if subject_id == "b":
            raise KeyboardInterrupt

    put(sqlite_engine, "a", "b")

    with pytest.raises(KeyboardInterrupt):
        drain(sqlite_engine, each(stop), clock)

    assert leases(sqlite_engine) == []
    assert drain(sqlite_engine, seen, clock, owner="other") == 2
    assert seen.subjects == ["a", "b"]


def test_a_batch_ends_in_time_and_keeps_what_it_did(sqlite_engine: Engine, clock: Clock) -> None:
    done_before: list[int] = []

    def slow(_session: Session, _subject_id: str, _now: datetime) -> None:
        done_before.append(sum(row.done_at is not None for row in rows(sqlite_engine)))
        time.sleep(0.02)

    put(sqlite_engine, *"abcd")

    drain(
        sqlite_engine,
        each(slow),
        clock,
        limits=Limits(batch_milliseconds=1, attempts_max=1, lease_seconds=9),
    )

    # Each row was committed before the next one began.
    assert done_before == [0, 1, 2, 3]


def test_a_second_owner_leaves_a_leased_lane_alone_and_works_the_others(
    engine: Engine, clock: Clock, seen: Seen
) -> None:
    put(engine, "a", lane="taken")
    put(engine, "b", lane="free")
    assert hold(engine, "outbox:taken", "other")

    assert drain(engine, seen, clock) == 1

    assert seen.subjects == ["b"]
    assert leases(engine) == [("outbox:taken", "other")]


def test_a_lease_that_ran_out_is_taken_over(engine: Engine, clock: Clock, seen: Seen) -> None:
    put(engine, "a", lane="taken")
    assert hold(engine, "outbox:taken", "dead", seconds=60)

    clock.move(59.999)
    assert drain(engine, seen, clock) == 0
    clock.move(0.001)
    assert drain(engine, seen, clock) == 1

    assert seen.subjects == ["a"]


def test_a_lease_is_renewed_by_its_owner_and_given_back_by_its_owner_only(
    sqlite_engine: Engine,
) -> None:
    assert hold(sqlite_engine, "x", "me")
    assert not hold(sqlite_engine, "x", "other")
    assert hold(sqlite_engine, "x", "me", at=NOW + timedelta(seconds=50))
    assert not hold(sqlite_engine, "x", "other", at=NOW + timedelta(seconds=100))
    for owner, left in (("other", 1), ("me", 0), ("me", 0)):
        with unit_of_work(sqlite_engine) as session:
            outbox.release(session, "x", owner=owner)
        assert len(leases(sqlite_engine)) == left


def test_pending_counts_what_is_neither_done_nor_parked(
    sqlite_engine: Engine, clock: Clock, seen: Seen
) -> None:
    put(sqlite_engine, "a", "b", "c")
    seen.failing = {"a"}
    with reading(sqlite_engine) as session:
        assert outbox.pending(session) == 3
    drain(sqlite_engine, seen, clock)

    with reading(sqlite_engine) as session:
        assert outbox.pending(session) == 1


def run_together(works: Sequence[Callable[[], object]]) -> list[BaseException]:
    """Run them in threads that start at once; what they raised."""
    failures: list[BaseException] = []
    together = threading.Barrier(len(works))

    def run(work: Callable[[], object]) -> None:
        together.wait(10)
        try:
            work()
        except BaseException as error:  # noqa: BLE001 - the caller asserts that there is none
            failures.append(error)

    threads = [threading.Thread(target=run, args=(work,)) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not any(thread.is_alive() for thread in threads)
    return failures


def test_two_workers_at_once_never_run_a_row_twice_and_keep_the_order(
    engine: Engine, clock: Clock
) -> None:
    heard: list[tuple[str, str]] = []
    lanes = [f"lane{number}" for number in range(4)]
    for number in range(20):
        for lane in lanes:
            put(engine, f"{lane}:{number}", lane=lane)

    def handle(_session: Session, subject_id: str, _now: datetime) -> None:
        heard.append((subject_id.partition(":")[0], subject_id))
        time.sleep(0.001)

    quick = Limits(batch_milliseconds=5, attempts_max=1, lease_seconds=60)
    failures = run_together(
        [
            lambda owner=owner: drain(engine, each(handle), clock, owner=owner, limits=quick)  # type: ignore[misc]  # mypy cannot infer a lambda's default
            for owner in ("one", "two")
        ]
    )
    drain(engine, each(handle), clock)

    assert failures == []
    assert max(Counter(subject for _, subject in heard).values()) == 1
    for lane in lanes:
        assert [subject for at, subject in heard if at == lane] == [
            f"{lane}:{number}" for number in range(20)
        ]
    assert all(row.done_at is not None for row in rows(engine))


def test_bug_two_owners_of_a_new_lease_met_as_an_integrity_error(engine: Engine) -> None:
    taken: list[bool] = []

    def take(name: str, owner: str) -> Callable[[], None]:
        def run() -> None:
            with unit_of_work(engine) as session:
                taken.append(outbox.acquire(session, name, owner=owner, seconds=60, now=NOW))
                time.sleep(0.02)

        return run

    for number in range(5):
        name = f"lease{number}"
        taken.clear()
        assert run_together([take(name, owner) for owner in ("one", "two", "three")]) == []
        assert sorted(taken) == [False, False, True]
