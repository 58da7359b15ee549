"""A durable append-only journal: what `append` has returned for survives a crash and a power cut.

One journal writes a directory. Appends of one tick of the event loop, and all that queue while the
disk is busy, share one write and one fdatasync (group commit): a batch forms by itself, no timer is
waited for. Segments, frames and reading are described in `tracker.journal_reader`, what happens
when a disk refuses in `tracker.journal_segments`.

A server's journal has a writer process (`tracker.journal_writer`). When that dies, everything
unacknowledged is refused and another is started. Tools write in their own thread.
"""

import asyncio
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Literal
from uuid import UUID

from kernel import log
from kernel.errors import TooLarge
from tracker import journal_segments, metrics
from tracker.journal_process import Told, WriterProcess
from tracker.journal_reader import FRAME_BYTES, Damage, Position, Repair, Tail
from tracker.journal_reader import RECORD_BYTES_LIMIT as _RECORD_BYTES_LIMIT
from tracker.journal_segments import (
    RETRY_SECONDS,
    Call,
    JournalLocked,
    JournalUnavailable,
    Limits,
    Outcome,
    Segments,
    UnavailableReason,
)
from tracker.journal_writer import Report, report_of

__all__ = [
    "Done",
    "Journal",
    "JournalLocked",
    "JournalStats",
    "JournalUnavailable",
    "RecordTooLarge",
    "open_journal",
]

PENDING_BYTES_MAX: Final = 64 * 2**20
_log = log.get(__name__)

# Told the outcome of one call, in the event loop's thread; must not raise.
Done = Callable[[Outcome], object]
_Positions = asyncio.Future[list[Position]]


class RecordTooLarge(TooLarge):
    """A payload is over `record_bytes_max`; nothing of the call was appended."""

    code = "journal_record_too_large"


@dataclass(frozen=True, slots=True)
class JournalStats:
    """Counters since opening; `bytes_written` counts frames, `backlog` the appends in waiting.

    After the loss of a writer process the first four begin anew.
    """

    records: int
    bytes_written: int
    batches: int
    failures: int
    backlog: int
    reason: UnavailableReason | None
    writers_lost: int = 0

    @property
    def state(self) -> Literal["ready", "unavailable", "closed"]:
        """Whether appends are taken; `reason` says why not."""
        if self.reason is None:
            return "ready"
        return "closed" if self.reason == "closed" else "unavailable"


class _OwnHand:
    """The writer of tools: commits in the caller's thread, and tells at once."""

    def __init__(self, segments: Segments) -> None:
        self.segments = segments
        self.identity, self.tail = segments.identity, segments.tail
        self._told: Told = _nobody

    @property
    def report(self) -> Report:
        """How the journal fares; what failed a while ago is tried again before."""
        self.segments.recover()
        return report_of(self.segments, [])

    def attach(self, _loop: object, told: Told, _lost: object) -> None:
        self._told = told

    def send(self, calls: Sequence[Call]) -> None:
        self._told(report_of(self.segments, self.segments.commit(calls)))

    def drain(self) -> None:
        """Nothing is ever under way."""

    def detach(self) -> None:
        self._told = _nobody

    def close(self) -> None:
        self.segments.close()


@dataclass(eq=False, slots=True)
class Journal:
    """An open journal; see `open_journal`. For one event loop at a time, not to be used after fork.

    `repairs` and `damage` say what opening found at the end of the newest segment.
    """

    identity: UUID
    repairs: tuple[Repair, ...]
    damage: tuple[Damage, ...]
    _writer: WriterProcess | _OwnHand
    _record_bytes_max: int
    _lock_file: int
    # Only the loop's thread touches what follows: no lock, and no record can be acknowledged that
    # was swapped out of the list before it was written.
    _loop: asyncio.AbstractEventLoop | None = None
    _calls: list[Call] = field(default_factory=list)
    _dones: list[Done] = field(default_factory=list)
    _pending_bytes: int = 0
    _in_flight: list[Done] = field(default_factory=list)
    _flush_due: bool = False
    _is_closed: bool = False
    _is_lost: bool = False
    _writers_lost: int = 0
    _restarting: "asyncio.Future[None] | None" = None

    async def append(self, payload: bytes) -> Position:
        """Where the payload's frame begins, once it is on stable storage.

        JournalUnavailable: it was not acknowledged and may be appended again. RecordTooLarge: it
        never can be. A cancelled caller's record may still be written.
        """
        return (await self.submit((payload,)))[0]

    async def append_many(self, payloads: Call) -> list[Position]:
        """The positions of all payloads, in order and next to one another, after one sync.

        All are acknowledged or none is. A crash before that may leave the first few behind.
        """
        return await self.submit(payloads)

    def submit(self, payloads: Call) -> _Positions:
        """`append_many` without a coroutine; raises at once or through the future.

        Must be called in the event loop's thread.
        """
        future: _Positions = asyncio.get_running_loop().create_future()
        self.record(payloads, partial(_resolve, future, payloads))
        return future

    def record(self, payloads: Call, done: Done) -> None:
        """`submit` for whoever wants no future: `done` is told the outcome once, never sooner.

        Raises what refuses the call at once; then `done` is not called. An outcome that is a text
        is the reason of a JournalUnavailable. Outcomes come in the order of the calls.
        """
        size = self._admit(payloads)
        if self._pending_bytes + size > PENDING_BYTES_MAX:
            raise JournalUnavailable("overloaded")
        self.attach()
        self._enqueue(payloads, size, done)

    def sync_append_many(self, payloads: Call) -> list[Position]:
        """`append_many` for tools without an event loop and without a writer process."""
        if isinstance(self._writer, WriterProcess):
            raise TypeError("a journal with a writer process is appended to in an event loop")
        self._admit(payloads)
        [outcome] = self._writer.segments.commit([payloads])
        if isinstance(outcome, str):
            raise JournalUnavailable(outcome)
        return _positions(outcome, payloads)

    def attach(self) -> None:
        """Follow the writer from the running loop, as the first append would.

        A writer process that dies is then replaced even while nothing is appended.
        """
        loop = asyncio.get_running_loop()
        if self._loop is loop:
            return
        if self._in_flight:
            if self._loop is not None and not self._loop.is_closed():
                raise RuntimeError("the journal is in use by another event loop")
            # What an earlier, closed loop left behind has nobody waiting for it.
            self._writer.drain()
        self._loop, self._flush_due, self._pending_bytes = loop, False, 0
        self._calls, self._dones, self._in_flight = [], [], []
        self._writer.attach(loop, self._told, self._lost)

    def stats(self) -> JournalStats:
        """Counters and state for metrics and readiness."""
        report = self._writer.report
        return JournalStats(
            report.records,
            report.bytes_written,
            report.batches,
            report.failures,
            backlog=len(self._dones) + len(self._in_flight),
            reason=self._reason(),
            writers_lost=self._writers_lost,
        )

    async def close(self) -> None:
        """Wait until every append so far is synced or refused, then release the directory.

        Later appends raise JournalUnavailable('closed'); a second close does nothing.
        """
        if self._is_closed:
            return
        self.attach()
        # An empty call queued behind all others: when it is answered, so are they.
        barrier = asyncio.get_running_loop().create_future()
        if not self._is_lost:
            self._enqueue((), 0, barrier.set_result)
        self._is_closed = True
        if self._restarting is not None:
            await asyncio.wait([self._restarting])
        elif not self._is_lost:
            await barrier
        # In the loop's own thread, which alone may touch what the loop listens to.
        self._writer.detach()
        await asyncio.to_thread(self._release)

    def sync_close(self) -> None:
        """`close` for users of `sync_append_many`."""
        if not self._is_closed:
            self._is_closed = True
            self._release()

    def _reason(self) -> UnavailableReason | None:
        if self._is_closed:
            return "closed"
        return "writer_lost" if self._is_lost else self._writer.report.reason

    def _admit(self, payloads: Call) -> int:
        """The bytes that the call takes on disk; raises what speaks against it at once."""
        reason = self._reason()
        if reason is not None:
            raise JournalUnavailable(reason)
        total = 0
        for payload in payloads:
            if len(payload) > self._record_bytes_max:
                message = (
                    f"A record has {len(payload)} bytes; the limit is {self._record_bytes_max}."
                )
                raise RecordTooLarge(message, limit_bytes=self._record_bytes_max)
            if not payload:
                raise ValueError("an empty payload cannot be appended")
            total += FRAME_BYTES + len(payload)
        return total

    def _enqueue(self, payloads: Call, size: int, done: Done) -> None:
        self._calls.append(payloads)
        self._dones.append(done)
        self._pending_bytes += size
        if not self._in_flight and not self._flush_due and self._loop is not None:
            # At the end of this tick, so that everything the tick still brings shares the sync.
            self._flush_due = True
            self._loop.call_soon(self._flush)

    def _flush(self) -> None:
        self._flush_due = False
        if not self._dones or self._in_flight:
            return
        calls, self._calls = self._calls, []
        self._in_flight, self._dones = self._dones, []
        self._pending_bytes = 0
        self._writer.send(calls)

    def _told(self, report: Report) -> None:
        if not report.outcomes:
            return
        dones, self._in_flight = self._in_flight, []
        # First give the disk what queued meanwhile, then wake those who waited.
        if isinstance(self._writer, WriterProcess):
            self._flush()
        for done, outcome in zip(dones, report.outcomes, strict=True):
            _tell(done, outcome)

    def _lost(self) -> None:
        """Refuse whatever is not acknowledged, and start another writer."""
        _log.error("journal_writer_lost", journal=str(self.identity))
        metrics.JOURNAL_WRITERS_LOST.inc()
        self._is_lost = True
        self._writers_lost += 1
        refused = self._in_flight + self._dones
        self._in_flight, self._dones, self._calls, self._pending_bytes = [], [], [], 0
        for done in refused:
            _tell(done, "writer_lost")
        self._restart()

    def _restart(self) -> None:
        writer, loop = self._writer, self._loop
        if self._is_closed or loop is None or not isinstance(writer, WriterProcess):
            return
        self._restarting = loop.run_in_executor(None, writer.restart)
        self._restarting.add_done_callback(self._restarted)

    def _restarted(self, restarting: "asyncio.Future[None]") -> None:
        self._restarting = None
        loop = self._loop
        if restarting.cancelled() or loop is None:
            return
        error = restarting.exception()
        if error is not None:
            _log.error("journal_writer_not_started", journal=str(self.identity), error=str(error))
            loop.call_later(RETRY_SECONDS, self._restart)
            return
        tail = self._writer.tail
        _log.warning(
            "journal_writer_started",
            journal=str(self.identity),
            repairs=len(tail.repairs),
            damage=[str(damage.position) for damage in tail.damage],
        )
        self._is_lost = False
        self._writer.attach(loop, self._told, self._lost)

    def _release(self) -> None:
        self._writer.close()
        os.close(self._lock_file)


def open_journal(
    directory: Path,
    *,
    segment_bytes_max: int,
    journal_bytes_max: int,
    record_bytes_max: int,
    with_process: bool = False,
) -> Journal:
    """Open the journal in `directory`, made if absent, and go on in a new segment.

    A torn tail of the newest segment is cut off and kept in `torn-<segment>-<offset>.bin`. Bytes in
    front of intact frames, or behind which synced frames are missing, are damage: left where they
    are, copied aside and reported. Limits are bytes on disk. JournalLocked when somebody writes
    here already; JournalUnavailable when the tail cannot be checked. A disk too full for a new
    segment gives a journal in state 'unavailable' that becomes ready by itself.

    `with_process` is for servers: the disk then never holds up the event loop.
    """
    if not 0 < record_bytes_max <= _RECORD_BYTES_LIMIT:
        raise ValueError(f"record_bytes_max must be 1 to {_RECORD_BYTES_LIMIT}")
    limits = Limits(segment_bytes_max, journal_bytes_max, record_bytes_max)
    with ExitStack() as opened:
        lock_file = journal_segments.lock(directory)
        opened.callback(os.close, lock_file)
        writer: WriterProcess | _OwnHand
        if with_process:
            writer = WriterProcess(directory, limits, lock_file)
        else:
            writer = _OwnHand(journal_segments.open_segments(directory, limits))
        opened.pop_all()
    tail: Tail = writer.tail
    return Journal(writer.identity, tail.repairs, tail.damage, writer, record_bytes_max, lock_file)


def _positions(place: tuple[int, int], payloads: Call) -> list[Position]:
    segment, offset = place
    positions = []
    for payload in payloads:
        positions.append(Position(segment, offset))
        offset += FRAME_BYTES + len(payload)
    return positions


def _resolve(future: _Positions, payloads: Call, outcome: Outcome) -> None:
    if future.done():
        return
    if isinstance(outcome, str):
        future.set_exception(JournalUnavailable(outcome))
    else:
        future.set_result(_positions(outcome, payloads))


def _tell(done: Done, outcome: Outcome) -> None:
    try:
        done(outcome)
    except Exception:  # noqa: BLE001 - one caller's mistake must not keep the others waiting
        _log.exception("journal_caller_failed")


def _nobody(_report: Report) -> None:
    """Where news goes while nobody listens."""
