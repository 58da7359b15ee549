"""The files of a journal in the hand of their one writer: frames in, one write and one sync, ends.

When a write or a sync fails, everything unacknowledged is refused and the segment is given up:
after a failed sync the kernel may drop the pages and report success the next time, so that a second
try on the same file would prove nothing. A second later a new segment is tried, and so on until the
disk takes it; nobody has to restart anything after a full disk.
"""

import errno
import fcntl
import os
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from json import dumps
from pathlib import Path
from typing import Final, Literal
from uuid import UUID, uuid4

from kernel.errors import Unavailable
from tracker import journal_reader as disk
from tracker.journal_reader import FRAME_BYTES, HEADER_BYTES, Position, Tail

RETRY_SECONDS: Final = 1.0

UnavailableReason = Literal[
    "journal_full",
    "disk_full",
    "io_error",
    "overloaded",
    "closed",
    "identity_lost",
    "writer_lost",
    "internal",
]
# Where the first frame of a call begins, as segment and offset; or why nothing of it was recorded.
Outcome = tuple[int, int] | UnavailableReason
# The payloads of one call: they are recorded next to one another, or none of them is.
Call = Sequence[bytes]
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


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes on disk that a segment, a whole journal and one record may take."""

    segment_bytes_max: int
    journal_bytes_max: int
    record_bytes_max: int


@dataclass(slots=True)
class Segments:
    """The open files; made by `open_segments`. For one thread.

    The counters count since opening; `failure` says why nothing is recorded at present.
    """

    directory: Path
    identity: UUID
    tail: Tail
    limits: Limits
    end: Position
    synced_file: int
    failure: UnavailableReason | None = None
    records: int = 0
    bytes_written: int = 0
    batches: int = 0
    failures: int = 0
    # Where the segment before `end.segment` ends, and what all but that one take on disk.
    _previous_end: int = 0
    _other_bytes: int = 0
    _file: int | None = None
    _published: Position | None = None
    _retry_at: float = 0.0

    def commit(self, calls: Sequence[Call]) -> list[Outcome]:
        """Record the calls in order with one sync for each segment; an outcome for each call."""
        outcomes: list[Outcome] = []
        group: list[Call] = []
        group_bytes = 0
        for call in calls:
            size = frames_bytes(call)
            room = self.limits.segment_bytes_max - self.end.offset - group_bytes
            if group and size > room:
                outcomes += self._commit_group(group, group_bytes)
                group, group_bytes = [], 0
            group.append(call)
            group_bytes += size
        return outcomes + self._commit_group(group, group_bytes)

    def wait_seconds(self) -> float | None:
        """How long the writer may rest: until the next attempt, or None without limit."""
        if self.failure is None and self._published == self.end:
            return None
        return max(0.0, self._retry_at - time.monotonic())

    def recover(self) -> None:
        """Try again what failed, when it is time to."""
        if self.wait_seconds() == 0.0:
            self._attempt(self._resume)

    def close(self) -> None:
        """Let go of the files. Whatever was acknowledged is synced already."""
        for file in (self._file, self.synced_file):
            if file is not None:
                os.close(file)

    def _commit_group(self, group: list[Call], group_bytes: int) -> list[Outcome]:
        """The place of every call after one sync, or one reason for all."""
        places: list[Outcome] = []
        if self.failure is None:
            self._attempt(lambda: places.extend(self._write(group, group_bytes)))
        if self.failure is not None:
            return [self.failure] * len(group)
        return places

    def _write(self, group: list[Call], group_bytes: int) -> list[Outcome]:
        if group_bytes == 0:
            return [(self.end.segment, self.end.offset)] * len(group)
        self._require_room(group_bytes)
        file = self._file
        overfull = self.end.offset + group_bytes > self.limits.segment_bytes_max
        if file is None or (overfull and self.end.offset > HEADER_BYTES):
            # Everything in the old segment is synced: each group ends with a sync. A call larger
            # than a segment gets one of its own.
            file = self._start_segment()
        segment, offset = self.end.segment, self.end.offset
        prefix = disk.Framing.of(self.identity, segment).prefix
        parts: list[bytes] = []
        places: list[Outcome] = []
        for call in group:
            places.append((segment, offset))
            for payload in call:
                parts += (prefix(payload, offset), payload)
                offset += FRAME_BYTES + len(payload)
        unwritten = memoryview(b"".join(parts))
        while unwritten:
            unwritten = unwritten[os.pwrite(file, unwritten, offset - len(unwritten)) :]
        os.fdatasync(file)
        self.end = Position(segment, offset)
        self.records += len(parts) // 2
        self.bytes_written += group_bytes
        self.batches += 1
        return places

    def _start_segment(self) -> int:
        """Go on in a new segment; it and its name are durable before anything is written to it."""
        file, self._file = self._file, None
        if file is not None:
            os.close(file)
        # A segment that failed before its first acknowledgement is replaced by a new file, so that
        # a full disk tried every second does not leave a trail of empty ones.
        if self._published is None or self.end.offset > HEADER_BYTES:
            number, previous_end = self.end.segment + 1, self.end.offset
        else:
            number, previous_end = self.end.segment, self._previous_end
        path = disk.segment_path(self.directory, number)
        header = disk.encode_header(self.identity, number, previous_end)
        room = HEADER_BYTES + FRAME_BYTES + self.limits.record_bytes_max
        disk.write_durably(path, header, reserve_bytes=room)
        self._file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        self.end, self._previous_end = Position(number, HEADER_BYTES), previous_end
        self._measure()
        return self._file

    def _measure(self) -> None:
        """Count again what the other segments take; the shipper removes them from outside."""
        self._other_bytes = sum(
            disk.segment_bytes(self.directory, number)
            for number in disk.segment_numbers(self.directory)
            if number != self.end.segment
        )

    def _require_room(self, more_bytes: int) -> None:
        """JournalUnavailable when the journal may not grow by this much."""
        bytes_max = self.limits.journal_bytes_max
        if self._other_bytes + self.end.offset + more_bytes > bytes_max:
            self._measure()
            if self._other_bytes + self.end.offset + more_bytes > bytes_max:
                raise JournalUnavailable("journal_full")

    def _attempt(self, step: Callable[[], object]) -> None:
        """Do this and be ready, or stop acknowledging until a later attempt succeeds."""
        try:
            step()
        except JournalUnavailable as full:
            self._fail(full.reason, abandon=False)
        except OSError as error:
            self._fail(reason_of(error), abandon=True)
        except Exception:  # noqa: BLE001 - whatever it is, nobody may wait for ever
            self._fail("internal", abandon=True)
        else:
            self.failure = None
            self._publish()

    def _publish(self) -> None:
        """Tell readers how far the journal is durable.

        The file is written after the sync it speaks of and is itself never synced. After a killed
        process the page cache still holds the last, true value. After a power cut it holds an
        older value (true as well: what was synced stays synced) or bytes whose crc is wrong (then
        readers wait). Either way the next opener repairs the tail, syncs it and writes it anew.
        """
        if self._published == self.end:
            return
        try:
            os.pwrite(self.synced_file, disk.encode_synced(self.identity, self.end), 0)
        except OSError:
            # The records are safe, readers merely do not see them yet: tried again in a second.
            self._retry_at = time.monotonic() + RETRY_SECONDS
        else:
            self._published = self.end

    def _fail(self, reason: UnavailableReason, *, abandon: bool) -> None:
        """Refuse until a later attempt; with `abandon` never touch this segment's file again."""
        self.failures += 1
        self.failure = reason
        self._retry_at = time.monotonic() + RETRY_SECONDS
        if abandon and self._file is not None:
            file, self._file = self._file, None
            # Best effort: the next segment's header says where this one ends, whatever is left.
            with suppress(OSError):
                os.ftruncate(file, self.end.offset)
            with suppress(OSError):
                os.close(file)

    def _resume(self) -> None:
        """Have an open segment and, after a failure, room for the largest record; or raise."""
        if self._file is None:
            self._start_segment()
        if self.failure is not None:
            self._require_room(FRAME_BYTES + self.limits.record_bytes_max)


def frames_bytes(call: Call) -> int:
    """What the payloads of a call take on disk."""
    return FRAME_BYTES * len(call) + sum(map(len, call))


def open_segments(directory: Path, limits: Limits) -> Segments:
    """Repair the newest segment and go on in a new one. The caller holds the directory's lock.

    JournalUnavailable when the tail cannot be checked. A disk too full for a new segment gives
    segments with a `failure`, which `recover` cures when it can.
    """
    with ExitStack() as opened:
        try:
            identity = _identity(directory)
            tail = disk.repair_tail(directory, identity)
            flags = os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC
            synced_file = os.open(directory / disk.SYNCED_FILE, flags, 0o644)
        except OSError as error:
            raise JournalUnavailable(reason_of(error)) from error
        opened.callback(os.close, synced_file)
        segments = Segments(directory, identity, tail, limits, tail.last, synced_file)
        segments.recover()
        opened.pop_all()
    return segments


def lock(directory: Path) -> int:
    """A descriptor that holds the directory, made if absent, until its last copy is closed.

    JournalLocked when somebody holds it already.
    """
    directory.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise JournalLocked(f"Another process writes the journal in {directory}.") from error
    return descriptor


def reason_of(error: OSError) -> UnavailableReason:
    """The word for an error of the disk."""
    return "disk_full" if error.errno in _NO_SPACE else "io_error"


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
