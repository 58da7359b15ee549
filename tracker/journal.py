"""A durable append-only journal: what `append` has returned for survives a crash and a power cut.

One process writes a directory. Appends of one tick of the event loop, and all that queue while the
disk is busy, share one write and one fdatasync (group commit): a batch forms by itself, no timer is
waited for. Segments, frames and reading are described in `tracker.journal_reader`.

When a write or a sync fails, everything unacknowledged is refused and the segment is given up:
after a failed sync the kernel may drop the pages and report success the next time, so that a second
try on the same file would prove nothing. A second later a new segment is tried, and so on until the
disk takes it; nobody has to restart anything after a full disk.
"""

import asyncio
import errno
import fcntl
import os
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from itertools import islice
from json import dumps
from pathlib import Path
from typing import Final, Literal
from uuid import UUID, uuid4

from kernel.errors import TooLarge, Unavailable
from tracker import journal_reader as disk
from tracker.journal_reader import FRAME_BYTES, HEADER_BYTES, Damage, Position, Repair

RETRY_SECONDS: Final = 1.0
PENDING_BYTES_MAX: Final = 64 * 2**20

UnavailableReason = Literal[
    "journal_full", "disk_full", "io_error", "overloaded", "closed", "identity_lost", "internal"
]
_NO_SPACE: Final = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class JournalUnavailable(Unavailable):
    """Nothing was acknowledged; `reason` says why. A record may be appended again later."""

    code = "journal_unavailable"

    def __init__(self, reason: UnavailableReason) -> None:
        super().__init__(f"The journal cannot record now ({reason}).", reason=reason)
        self.reason: UnavailableReason = reason


class JournalLocked(Unavailable):
    """Another process, or another Journal of this one, writes in this directory."""

    code = "journal_locked"


class RecordTooLarge(TooLarge):
    """A payload is over `record_bytes_max`; nothing of the call was appended."""

    code = "journal_record_too_large"


@dataclass(frozen=True, slots=True)
class JournalStats:
    """Counters since opening; `bytes_written` counts frames, `backlog` the appends in waiting."""

    records: int
    bytes_written: int
    batches: int
    failures: int
    backlog: int
    reason: UnavailableReason | None

    @property
    def state(self) -> Literal["ready", "unavailable", "closed"]:
        """Whether appends are taken; `reason` says why not."""
        if self.reason is None:
            return "ready"
        return "closed" if self.reason == "closed" else "unavailable"


@dataclass(slots=True)
class _Request:
    """The payloads of one call. They are acknowledged together or not at all."""

    payloads: Sequence[bytes]
    frames_bytes: int
    future: "asyncio.Future[list[Position]] | None" = None
    outcome: list[Position] | JournalUnavailable | None = None


@dataclass(slots=True)
class _Segments:
    """The files. After opening, the writer thread alone uses this; others only read counters."""

    directory: Path
    identity: UUID
    segment_bytes_max: int
    journal_bytes_max: int
    record_bytes_max: int
    end: Position
    synced_file: int
    # Where the segment before `end.segment` ends, and what all but that one take on disk.
    previous_end: int = 0
    other_bytes: int = 0
    file: int | None = None
    published: Position | None = None
    failure: UnavailableReason | None = None
    retry_at: float = 0.0
    records: int = 0
    bytes_written: int = 0
    batches: int = 0
    failures: int = 0

    def start_segment(self) -> int:
        """Go on in a new segment; it and its name are durable before anything is written to it."""
        file, self.file = self.file, None
        if file is not None:
            os.close(file)
        # A segment that failed before its first acknowledgement is replaced by a new file, so that
        # a full disk tried every second does not leave a trail of empty ones.
        if self.published is None or self.end.offset > HEADER_BYTES:
            number, previous_end = self.end.segment + 1, self.end.offset
        else:
            number, previous_end = self.end.segment, self.previous_end
        path = disk.segment_path(self.directory, number)
        header = disk.encode_header(self.identity, number, previous_end)
        room = HEADER_BYTES + FRAME_BYTES + self.record_bytes_max
        disk.write_durably(path, header, reserve_bytes=room)
        self.file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        self.end, self.previous_end = Position(number, HEADER_BYTES), previous_end
        self.measure()
        return self.file

    def measure(self) -> None:
        """Count again what the other segments take; the shipper removes them from outside."""
        self.other_bytes = sum(
            disk.segment_bytes(self.directory, number)
            for number in disk.segment_numbers(self.directory)
            if number != self.end.segment
        )

    def require_room(self, frames_bytes: int) -> None:
        """JournalUnavailable when the journal may not grow by this much."""
        if self.other_bytes + self.end.offset + frames_bytes > self.journal_bytes_max:
            self.measure()
            if self.other_bytes + self.end.offset + frames_bytes > self.journal_bytes_max:
                raise JournalUnavailable("journal_full")

    def commit(self, requests: list[_Request]) -> None:
        """Write and sync the requests in order, one sync for each segment; set their outcomes."""
        group: list[_Request] = []
        group_bytes = 0
        for request in requests:
            room = self.segment_bytes_max - self.end.offset - group_bytes
            if group and request.frames_bytes > room:
                self.commit_group(group, group_bytes)
                group, group_bytes = [], 0
            group.append(request)
            group_bytes += request.frames_bytes
        self.commit_group(group, group_bytes)

    def commit_group(self, group: list[_Request], group_bytes: int) -> None:
        """Acknowledge the whole group after one sync, or refuse the whole group."""
        if self.failure is None:
            self.attempt(lambda: self._write(group, group_bytes))
        for request in group:
            if request.outcome is None:
                request.outcome = JournalUnavailable(self.failure or "internal")

    def _write(self, group: list[_Request], group_bytes: int) -> None:
        if group_bytes == 0:
            return
        self.require_room(group_bytes)
        file = self.file
        overfull = self.end.offset + group_bytes > self.segment_bytes_max
        if file is None or (overfull and self.end.offset > HEADER_BYTES):
            # Everything in the old segment is synced: each group ends with a sync. A call larger
            # than a segment gets one of its own.
            file = self.start_segment()
        offset = self.end.offset
        framing = disk.Framing.of(self.identity, self.end.segment)
        parts: list[bytes] = []
        positions: list[Position] = []
        for payload in (payload for request in group for payload in request.payloads):
            positions.append(Position(framing.segment, offset))
            parts += (framing.prefix(payload, offset), payload)
            offset += FRAME_BYTES + len(payload)
        unwritten = memoryview(b"".join(parts))
        while unwritten:
            unwritten = unwritten[os.pwrite(file, unwritten, offset - len(unwritten)) :]
        os.fdatasync(file)
        self.end = Position(framing.segment, offset)
        self.records += len(positions)
        self.bytes_written += group_bytes
        self.batches += 1
        remaining = iter(positions)
        for request in group:
            request.outcome = list(islice(remaining, len(request.payloads)))

    def attempt(self, step: Callable[[], object]) -> None:
        """Do this and be ready, or stop acknowledging until a later attempt succeeds."""
        try:
            step()
        except JournalUnavailable as full:
            self._fail(full.reason, abandon=False)
        except OSError as error:
            self._fail(_reason(error), abandon=True)
        except Exception:  # noqa: BLE001 - whatever it is, nobody may wait for ever
            self._fail("internal", abandon=True)
        else:
            self.failure = None
            self.publish()

    def publish(self) -> None:
        """Tell readers how far the journal is durable.

        The file is written after the sync it speaks of and is itself never synced. After a killed
        process the page cache still holds the last, true value. After a power cut it holds an
        older value (true as well: what was synced stays synced) or bytes whose crc is wrong (then
        readers wait). Either way the next opener repairs the tail, syncs it and writes it anew.
        """
        if self.published == self.end:
            return
        try:
            os.pwrite(self.synced_file, disk.encode_synced(self.identity, self.end), 0)
        except OSError:
            # The records are safe, readers merely do not see them yet: tried again in a second.
            self.retry_at = time.monotonic() + RETRY_SECONDS
        else:
            self.published = self.end

    def _fail(self, reason: UnavailableReason, *, abandon: bool) -> None:
        """Refuse until a later attempt; with `abandon` never touch this segment's file again."""
        self.failures += 1
        self.failure = reason
        self.retry_at = time.monotonic() + RETRY_SECONDS
        if abandon and self.file is not None:
            file, self.file = self.file, None
            # Best effort: the next segment's header says where this one ends, whatever is left.
            with suppress(OSError):
                os.ftruncate(file, self.end.offset)
            with suppress(OSError):
                os.close(file)

    def wait_seconds(self) -> float | None:
        """How long the thread may sleep: until the next attempt, or None without limit."""
        if self.failure is None and self.published == self.end:
            return None
        return max(0.0, self.retry_at - time.monotonic())

    def resume(self) -> None:
        """Have an open segment and, after a failure, room for the largest record; or raise."""
        if self.file is None:
            self.start_segment()
        if self.failure is not None:
            self.require_room(FRAME_BYTES + self.record_bytes_max)


# Requests for the writer thread, and whom to tell when each has its outcome.
_Work = tuple[list[_Request], Callable[[], object]]


@dataclass(eq=False, slots=True)
class Journal:
    """An open journal; see `open_journal`. For one event loop at a time, not to be used after fork.

    `repairs` and `damage` say what opening found at the end of the newest segment.
    """

    identity: UUID
    repairs: tuple[Repair, ...]
    damage: tuple[Damage, ...]
    _segments: _Segments
    _lock_file: int
    _work: "queue.SimpleQueue[_Work | None]" = field(default_factory=queue.SimpleQueue)
    _loop: asyncio.AbstractEventLoop | None = None
    # Only the loop's thread touches these four: no lock, and no record can be acknowledged that
    # was swapped out of the list before it was written.
    _pending: list[_Request] = field(default_factory=list)
    _pending_bytes: int = 0
    _in_flight: int = 0
    _flush_due: bool = False
    _closed: bool = False
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._run, name="journal-writer", daemon=True)
        self._thread.start()

    async def append(self, payload: bytes) -> Position:
        """Where the payload's frame begins, once it is on stable storage.

        JournalUnavailable: it was not acknowledged and may be appended again. RecordTooLarge: it
        never can be. A cancelled caller's record may still be written.
        """
        return (await self.submit((payload,)))[0]

    async def append_many(self, payloads: Sequence[bytes]) -> list[Position]:
        """The positions of all payloads, in order and next to one another, after one sync.

        All are acknowledged or none is. A crash before that may leave the first few behind.
        """
        return await self.submit(payloads)

    def submit(self, payloads: Sequence[bytes]) -> "asyncio.Future[list[Position]]":
        """`append_many` without a coroutine, for protocols; raises at once or through the future.

        Must be called in the event loop's thread.
        """
        request = self._request(payloads)
        if self._pending_bytes + request.frames_bytes > PENDING_BYTES_MAX:
            raise JournalUnavailable("overloaded")
        return self._enqueue(request)

    def sync_append_many(self, payloads: Sequence[bytes]) -> list[Position]:
        """`append_many` for tools without an event loop: blocks this thread until synced."""
        request = self._request(payloads)
        done: Future[None] = Future()
        self._work.put(([request], lambda: done.set_result(None)))
        done.result()
        if isinstance(request.outcome, list):
            return request.outcome
        raise request.outcome or JournalUnavailable("internal")

    def stats(self) -> JournalStats:
        """Counters and state for metrics and readiness."""
        files, waiting = self._segments, len(self._pending) + self._in_flight
        reason = "closed" if self._closed else files.failure
        counted = (files.records, files.bytes_written, files.batches, files.failures)
        return JournalStats(*counted, backlog=waiting, reason=reason)

    async def close(self) -> None:
        """Wait until every append so far is synced or refused, then release the directory.

        Later appends raise JournalUnavailable('closed'); a second close does nothing.
        """
        if self._closed:
            return
        # An empty request queued behind all others: when it is answered, so are they.
        barrier = self._enqueue(_Request((), 0, outcome=[]))
        self._closed = True
        await barrier
        await asyncio.to_thread(self._release)

    def sync_close(self) -> None:
        """`close` for users of `sync_append_many`; the writer thread finishes what it was given."""
        if not self._closed:
            self._closed = True
            self._release()

    def _request(self, payloads: Sequence[bytes]) -> _Request:
        if self._closed:
            raise JournalUnavailable("closed")
        if self._segments.failure is not None:
            raise JournalUnavailable(self._segments.failure)
        record_bytes_max = self._segments.record_bytes_max
        total = 0
        for payload in payloads:
            if len(payload) > record_bytes_max:
                message = f"A record has {len(payload)} bytes; the limit is {record_bytes_max}."
                raise RecordTooLarge(message, limit_bytes=record_bytes_max)
            if not payload:
                raise ValueError("an empty payload cannot be appended")
            total += FRAME_BYTES + len(payload)
        return _Request(payloads, total, outcome=None if payloads else [])

    def _enqueue(self, request: _Request) -> "asyncio.Future[list[Position]]":
        loop = asyncio.get_running_loop()
        if self._loop is not loop:
            if self._in_flight and self._loop is not None and not self._loop.is_closed():
                raise RuntimeError("the journal is in use by another event loop")
            # What an earlier, closed loop left behind has nobody waiting for it.
            self._loop, self._in_flight, self._flush_due = loop, 0, False
            self._pending, self._pending_bytes = [], 0
        future = request.future = loop.create_future()
        self._pending.append(request)
        self._pending_bytes += request.frames_bytes
        if not self._in_flight and not self._flush_due:
            # At the end of this tick, so that everything the tick still brings shares the sync.
            self._flush_due = True
            loop.call_soon(self._flush)
        return future

    def _flush(self) -> None:
        self._flush_due = False
        loop, requests = self._loop, self._pending
        if loop is None or not requests:
            return
        self._pending, self._pending_bytes, self._in_flight = [], 0, len(requests)
        self._work.put((requests, lambda: loop.call_soon_threadsafe(self._delivered, requests)))

    def _delivered(self, requests: list[_Request]) -> None:
        self._in_flight = 0
        # First give the disk what queued meanwhile, then wake those who waited.
        self._flush()
        for request in requests:
            future = request.future
            if future is None or future.done():
                continue
            if isinstance(request.outcome, list):
                future.set_result(request.outcome)
            else:
                future.set_exception(request.outcome or JournalUnavailable("internal"))

    def _run(self) -> None:
        files = self._segments
        while True:
            try:
                work = self._work.get(timeout=files.wait_seconds())
            except queue.Empty:
                files.attempt(files.resume)
                continue
            if work is None:
                return
            requests, deliver = work
            files.commit(requests)
            # The loop may be closed already; then nobody is left to be told.
            with suppress(RuntimeError):
                deliver()

    def _release(self) -> None:
        self._work.put(None)
        self._thread.join()
        for file in (self._segments.file, self._segments.synced_file, self._lock_file):
            if file is not None:
                os.close(file)


def open_journal(
    directory: Path, *, segment_bytes_max: int, journal_bytes_max: int, record_bytes_max: int
) -> Journal:
    """Open the journal in `directory`, made if absent, and go on in a new segment.

    A torn tail of the newest segment is cut off and kept in `torn-<segment>-<offset>.bin`. Bytes in
    front of intact frames, or behind which synced frames are missing, are damage: left where they
    are, copied aside and reported. Limits are bytes on disk. JournalLocked when somebody writes
    here already; JournalUnavailable when the tail cannot be checked. A disk too full for a new
    segment gives a journal in state 'unavailable' that becomes ready by itself.
    """
    if not 0 < record_bytes_max <= disk.RECORD_BYTES_LIMIT:
        raise ValueError(f"record_bytes_max must be 1 to {disk.RECORD_BYTES_LIMIT}")
    directory.mkdir(parents=True, exist_ok=True)
    with ExitStack() as opened:
        lock_file = _lock(directory)
        opened.callback(os.close, lock_file)
        try:
            identity = _identity(directory)
            tail = disk.repair_tail(directory, identity)
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
            synced_file = os.open(directory / disk.SYNCED_FILE, flags, 0o644)
        except OSError as error:
            raise JournalUnavailable(_reason(error)) from error
        segments = _Segments(
            directory,
            identity,
            segment_bytes_max=segment_bytes_max,
            journal_bytes_max=journal_bytes_max,
            record_bytes_max=record_bytes_max,
            end=tail.last,
            synced_file=synced_file,
        )
        segments.attempt(segments.resume)
        opened.pop_all()
    return Journal(identity, tail.repairs, tail.damage, segments, lock_file)


def _lock(directory: Path) -> int:
    """The descriptor that holds the directory until it is closed or the process ends."""
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise JournalLocked(f"Another process writes the journal in {directory}.") from error
    return descriptor


def _identity(directory: Path) -> UUID:
    """The journal's id: from its file, else from the newest intact header, else a new one."""
    identity = disk.journal_id(directory)
    if identity is not None:
        return identity
    numbers = disk.segment_numbers(directory)
    headers = (disk.read_header(directory, number) for number in reversed(numbers))
    identity = next((header[0] for header in headers if header is not None), None)
    if identity is None and numbers:
        # A new id beside old segments would make every frame in them look like damage.
        raise JournalUnavailable("identity_lost")
    identity = identity or uuid4()
    content = dumps({"format": disk.FORMAT_VERSION, "journal_id": str(identity)}) + "\n"
    disk.write_durably(directory / disk.IDENTITY_FILE, content.encode())
    return identity


def _reason(error: OSError) -> UnavailableReason:
    return "disk_full" if error.errno in _NO_SPACE else "io_error"
