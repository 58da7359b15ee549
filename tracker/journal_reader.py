"""What a journal looks like on disk, and how another process reads it while it grows.

A directory holds one journal: `journal.json` (its random id), segments `0000000001.log`, ... and
`synced`, the position up to which the writer has made everything durable.

    segment = header 44, frame, frame, ...
    header  = "TSJRNL", version 2 | journal id 16 | number 8 | end of previous segment 8 | crc 4
    frame   = payload length 4 | crc 4 | payload

Numbers are big-endian. A frame's crc covers the journal, segment, offset and length besides the
payload: a frame that was moved, doubled or brought from elsewhere is as wrong as one with a flipped
bit. A header says where the segment before it ends, because a segment abandoned after a failed sync
may carry bytes behind its last acknowledged frame that nobody was promised.

Bytes that are not an intact frame are damage. Damage is reported with its position and copied to a
file of its own before reading moves past it; nothing here ever deletes a byte that was not shipped.
"""

import json
import os
import re
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from struct import Struct
from typing import Final, Literal, NamedTuple
from uuid import UUID
from zlib import crc32

# Lengths below 2^24 start with a zero byte, which makes looking for the next frame cheap.
RECORD_BYTES_LIMIT: Final = 2**24 - 1
FORMAT_VERSION: Final = 1
IDENTITY_FILE: Final = "journal.json"
SYNCED_FILE: Final = "synced"

_MAGIC: Final = b"TSJRNL" + FORMAT_VERSION.to_bytes(2, "big")
_HEADER: Final = Struct(">8s16sQQI")
_FRAME: Final = Struct(">II")
_PLACE: Final = Struct(">QQI")
_SYNCED: Final = Struct(">QQI")
HEADER_BYTES: Final = _HEADER.size
FRAME_BYTES: Final = _FRAME.size
_SEGMENT_NAME: Final = re.compile(r"([0-9]{10})\.log", re.ASCII)
_FRAME_START: Final = re.compile(rb"\x00(?!\x00\x00\x00)", re.DOTALL)
_TORN_READ_TRIES: Final = 5

DamageReason = Literal["checksum", "missing", "header", "position_ahead"]


class Position(NamedTuple):
    """A byte in the journal. Positions of one journal only ever grow; its text form is `3:1044`."""

    segment: int
    offset: int

    def __str__(self) -> str:
        return f"{self.segment}:{self.offset}"


class Record(NamedTuple):
    """One payload as it was appended, and where its frame begins."""

    position: Position
    payload: bytes


@dataclass(frozen=True, slots=True)
class Damage:
    """`length_bytes` from `position` that should be frames and are not.

    checksum: bytes are there and wrong (a copy is kept in `damaged-<segment>-<offset>.bin`);
    missing: bytes or whole segments (length 0: unknown) are gone; header: only the segment's header
    is wrong; position_ahead: the reader claims to have read more than was ever written here.
    """

    position: Position
    length_bytes: int
    reason: DamageReason


@dataclass(frozen=True, slots=True)
class Batch:
    """Records in order, where to go on, and what could not be read on the way."""

    records: list[Record]
    next_position: Position | None
    damage: list[Damage]


@dataclass(frozen=True, slots=True)
class Repair:
    """A torn tail cut off at opening: bytes never acknowledged, kept in the file `kept_in`."""

    position: Position
    length_bytes: int
    kept_in: Path


@dataclass(frozen=True, slots=True)
class Tail:
    """What opening found at the end of the newest segment."""

    last: Position
    repairs: tuple[Repair, ...] = ()
    damage: tuple[Damage, ...] = ()


def segment_path(directory: Path, segment: int) -> Path:
    """The file of a segment."""
    return directory / f"{segment:010d}.log"


def segment_numbers(directory: Path) -> list[int]:
    """The numbers of the segments on disk, ascending."""
    matches = (_SEGMENT_NAME.fullmatch(path.name) for path in directory.iterdir())
    return sorted(int(match[1]) for match in matches if match)


def segment_bytes(directory: Path, segment: int) -> int:
    """The size of a segment's file; 0 when it is gone, removed by the shipper meanwhile."""
    try:
        return segment_path(directory, segment).stat().st_size
    except FileNotFoundError:
        return 0


def journal_id(directory: Path) -> UUID | None:
    """The journal's random id, or None where no journal has been made yet (or its id is lost).

    Whoever stores a position stores this beside it: a position means nothing in another journal.
    """
    try:
        return UUID(json.loads((directory / IDENTITY_FILE).read_bytes())["journal_id"])
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None


def encode_header(identity: UUID, segment: int, previous_end: int) -> bytes:
    """The first bytes of a segment."""
    body = _HEADER.pack(_MAGIC, identity.bytes, segment, previous_end, 0)[:-4]
    return body + crc32(body).to_bytes(4, "big")


def read_header(directory: Path, segment: int) -> tuple[UUID, int] | None:
    """(journal id, end of the previous segment) from an intact header, else None."""
    try:
        with segment_path(directory, segment).open("rb") as file:
            raw = file.read(HEADER_BYTES)
    except FileNotFoundError:
        return None
    if len(raw) < HEADER_BYTES:
        return None
    magic, identity, number, previous_end, crc = _HEADER.unpack(raw)
    if (magic, number, crc) != (_MAGIC, segment, crc32(raw[:-4])):
        return None
    return UUID(bytes=identity), previous_end


def encode_synced(identity: UUID, position: Position) -> bytes:
    """The content of the `synced` file."""
    crc = crc32(_PLACE.pack(position.segment, position.offset, 0), crc32(identity.bytes))
    return _SYNCED.pack(position.segment, position.offset, crc)


def read_synced(directory: Path, identity: UUID) -> Position | None:
    """How far the writer has synced, or None when the file is absent or does not check out."""
    for _ in range(_TORN_READ_TRIES):
        try:
            raw = (directory / SYNCED_FILE).read_bytes()[: _SYNCED.size]
        except FileNotFoundError:
            return None
        if len(raw) < _SYNCED.size:
            return None
        position = Position(*_SYNCED.unpack(raw)[:2])
        # The writer overwrites these few bytes in place and a read may see half of it.
        if raw == encode_synced(identity, position):
            return position
    return None


@dataclass(frozen=True, slots=True)
class Framing:
    """Writes and checks the frames of one segment."""

    seed: int
    segment: int

    @classmethod
    def of(cls, identity: UUID, segment: int) -> "Framing":
        """The framing of this journal's segment."""
        return cls(crc32(identity.bytes), segment)

    def prefix(self, payload: bytes, offset: int) -> bytes:
        """The 8 bytes that go before a payload whose frame begins at `offset`."""
        length = len(payload)
        place = crc32(_PLACE.pack(self.segment, offset, length), self.seed)
        return _FRAME.pack(length, crc32(payload, place))

    def length_at(self, data: bytes, at: int) -> int:
        """What the frame at `data[at]` says its size with prefix is; 0 when that is impossible."""
        if at + FRAME_BYTES > len(data):
            return 0
        length: int = _FRAME.unpack_from(data, at)[0]
        return FRAME_BYTES + length if 0 < length <= RECORD_BYTES_LIMIT else 0

    def end_of_frame(self, data: bytes, at: int, base: int) -> int | None:
        """Where the intact frame at `data[at]` ends, or None. `base` is the offset of `data[0]`."""
        size = self.length_at(data, at)
        payload = data[at + FRAME_BYTES : at + size]
        if not size or at + size > len(data):
            return None
        intact = self.prefix(payload, base + at) == data[at : at + FRAME_BYTES]
        return at + size if intact else None

    def take(self, data: bytes, base: int, records: list[Record], records_max: int) -> int:
        """Add intact frames at the start of `data` until there are `records_max`; their length."""
        # `end_of_frame` again and again, written out: every event of the network passes here.
        at, segment, place_of, new = 0, self.segment, _PLACE.pack, tuple.__new__
        last, frame_at = len(data) - FRAME_BYTES, _FRAME.unpack_from
        while at <= last and len(records) < records_max:
            length, crc = frame_at(data, at)
            payload = data[at + FRAME_BYTES : at + FRAME_BYTES + length]
            place = crc32(place_of(segment, base + at, length), self.seed)
            if crc32(payload, place) != crc or len(payload) != length or length == 0:
                break
            # A named tuple's own way to make one takes as long as checking the frame.
            records.append(new(Record, (new(Position, (segment, base + at)), payload)))
            at += FRAME_BYTES + length
        return at

    def find_frame(self, data: bytes, at: int, base: int) -> int | None:
        """The first index from `at` on where an intact frame begins, or None."""
        # An offset is part of every crc, so that a frame is only found where it was written. What a
        # client put into a payload cannot pose as one: it cannot know the journal's id.
        for candidate in _FRAME_START.finditer(data, at):
            if self.end_of_frame(data, candidate.start(), base) is not None:
                return candidate.start()
        return None


def write_durably(path: Path, content: bytes, *, reserve_bytes: int = 0) -> None:
    """Put a complete file in place, or leave what was there; on stable storage when it returns.

    With `reserve_bytes` the file system must also have that much room, else OSError.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:
            if reserve_bytes:
                os.posix_fallocate(file.fileno(), 0, reserve_bytes)
                os.ftruncate(file.fileno(), 0)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_directory(path.parent)


def sync_directory(directory: Path) -> None:
    """Make created, renamed and removed names durable."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def keep_aside(directory: Path, kind: str, position: Position, content: bytes) -> Path | None:
    """Save bytes that are no frames as `<kind>-<segment>-<offset>.bin`; an existing copy stays."""
    if not content:
        return None
    path = directory / f"{kind}-{position.segment:010d}-{position.offset:012d}.bin"
    if not path.exists():
        write_durably(path, content)
    return path


@dataclass(slots=True)
class _Reading:
    """One call of read_batch: what it may still take and what it has found."""

    directory: Path
    identity: UUID
    records_max: int
    bytes_left: int
    records: list[Record] = field(default_factory=list)
    damage: list[Damage] = field(default_factory=list)

    @property
    def full(self) -> bool:
        return len(self.records) >= self.records_max or self.bytes_left <= 0

    def read_sealed(self, at: Position, numbers: list[int], synced: Position) -> Position:
        """Read from a segment with a successor; the start of that one when nothing is left."""
        following = next((number for number in numbers if number > at.segment), synced.segment)
        header = read_header(self.directory, following)
        if following == at.segment + 1 and header is not None and header[0] == self.identity:
            end = header[1]
        else:
            # Without its successor's word a segment ends where its file does.
            end = max(at.offset, segment_bytes(self.directory, at.segment))
        if following > at.segment + 1:
            self._report(Position(at.segment + 1, 0), 0, "missing")
        at = self.read_segment(at, end)
        return at if at.offset < end else Position(following, HEADER_BYTES)

    def read_segment(self, at: Position, end: int) -> Position:
        """Read frames from `at` up to offset `end`, both of the same segment, until full."""
        if at.offset > end:
            self._report(at, 0, "position_ahead")
            return at
        if at.offset == end:
            return at
        try:
            file = segment_path(self.directory, at.segment).open("rb", buffering=0)
        except FileNotFoundError:
            self._report(at, end - at.offset, "missing")
            return Position(at.segment, end)
        with closing(file):
            if at.offset == HEADER_BYTES:
                header = read_header(self.directory, at.segment)
                if header is None or header[0] != self.identity:
                    self._report(Position(at.segment, 0), HEADER_BYTES, "header")
            offset = at.offset
            while offset < end and not self.full:
                offset = self._read_frames(file.fileno(), at.segment, offset, end)
        return Position(at.segment, offset)

    def _read_frames(self, descriptor: int, segment: int, offset: int, end: int) -> int:
        """Take what intact frames one read brings; past damage when it begins with damage."""
        framing = Framing.of(self.identity, segment)
        # A frame larger than the whole allowance is still taken when it is the first, or the
        # reader would stand before it for ever.
        data = _pread(descriptor, min(max(self.bytes_left, FRAME_BYTES), end - offset), offset)
        size = framing.length_at(data, 0)
        if len(data) < size <= end - offset:
            if self.records:
                self.bytes_left = 0
                return offset
            data = _pread(descriptor, size, offset)
        at = framing.take(data, offset, self.records, self.records_max)
        self.bytes_left -= at
        if at:
            return offset + at
        return self._pass_damage(descriptor, framing, offset, end)

    def _pass_damage(self, descriptor: int, framing: Framing, offset: int, end: int) -> int:
        position = Position(framing.segment, offset)
        rest = _pread(descriptor, end - offset, offset)
        found = framing.find_frame(rest, 1, offset)
        wrong = rest if found is None else rest[:found]
        keep_aside(self.directory, "damaged", position, wrong)
        stop = end if found is None else offset + found
        self._report(position, stop - offset, "checksum" if wrong else "missing")
        return stop

    def _report(self, position: Position, length_bytes: int, reason: DamageReason) -> None:
        self.damage.append(Damage(position, length_bytes, reason))


def _pread(descriptor: int, length: int, offset: int) -> bytes:
    """Up to `length` bytes, less only where the file ends."""
    parts: list[bytes] = []
    while length > 0 and (part := os.pread(descriptor, length, offset)):
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return b"".join(parts)


def read_batch(
    directory: Path, position: Position | None, *, records_max: int, bytes_max: int
) -> Batch:
    """Up to `records_max` records and about `bytes_max` bytes of frames from `position` on.

    None begins with the oldest segment there is. Only what the writer has synced is returned, so
    that a record read here can never vanish from the journal; an empty batch means there is nothing
    new. At least one record comes back when there is one, however large. The caller stores
    `next_position` in the transaction that stores the records. Damage is passed over and listed.
    """
    identity = journal_id(directory)
    synced = read_synced(directory, identity) if identity is not None else None
    if identity is None or synced is None:
        return Batch([], position, [])
    numbers = segment_numbers(directory)
    reading = _Reading(directory, identity, records_max, bytes_max)
    at = position or Position(numbers[0] if numbers else synced.segment, HEADER_BYTES)
    at = Position(at.segment, max(at.offset, HEADER_BYTES))
    while at.segment < synced.segment and not reading.full:
        at = reading.read_sealed(at, numbers, synced)
    if at.segment == synced.segment and not reading.full:
        at = reading.read_segment(at, synced.offset)
    elif at.segment > synced.segment:
        reading.damage.append(Damage(at, 0, "position_ahead"))
    return Batch(reading.records, at, reading.damage)


def _synced(directory: Path) -> Position | None:
    identity = journal_id(directory)
    return read_synced(directory, identity) if identity is not None else None


def remove_shipped(directory: Path, position: Position, *, keep_segments: int = 0) -> int:
    """Delete the segments wholly before `position` but the newest `keep_segments`; how many.

    Call it after the position is committed. The writer's own segment always stays.
    """
    synced = _synced(directory)
    if synced is None:
        return 0
    limit = min(position.segment, synced.segment)
    shipped = [number for number in segment_numbers(directory) if number < limit]
    for number in (removable := shipped[: max(0, len(shipped) - keep_segments)]):
        segment_path(directory, number).unlink(missing_ok=True)
    if removable:
        sync_directory(directory)
    return len(removable)


def backlog(directory: Path, position: Position | None) -> int:
    """Synced bytes of frames not read yet by a reader standing at `position`."""
    synced = _synced(directory)
    if synced is None:
        return 0
    at = position or Position(0, 0)
    total = 0
    for number in segment_numbers(directory):
        if not at.segment <= number <= synced.segment:
            continue
        start = max(HEADER_BYTES, at.offset if number == at.segment else 0)
        is_last = number == synced.segment
        total += max(0, (synced.offset if is_last else segment_bytes(directory, number)) - start)
    return total


def repair_tail(directory: Path, identity: UUID) -> Tail:
    """Check the newest segment, cut what was torn, and make durable what stays.

    The end it returns goes into the header of the next segment, which is always a new one: should
    this disk have lost frames that a reader has seen, no later frame can take their positions.
    """
    for leftover in directory.glob(".*.log.*"):
        leftover.unlink()
    synced = read_synced(directory, identity) or Position(0, 0)
    number = max([0, *segment_numbers(directory)])
    if number < synced.segment:
        return Tail(synced, damage=(Damage(Position(number + 1, 0), 0, "missing"),))
    if number == 0:
        return Tail(Position(0, 0))
    data = segment_path(directory, number).read_bytes()
    damage: list[Damage] = []
    header = read_header(directory, number)
    if header is None or header[0] != identity:
        damage.append(Damage(Position(number, 0), HEADER_BYTES, "header"))
    intact_end = _scan(directory, Framing.of(identity, number), data, damage)
    synced_end = synced.offset if synced.segment == number else HEADER_BYTES
    if intact_end < synced_end:
        # These were acknowledged: no torn write but loss, left in place for readers to report.
        lost = Position(number, intact_end)
        keep_aside(directory, "damaged", lost, data[intact_end:synced_end])
        reason: Literal["checksum", "missing"] = "checksum" if len(data) > intact_end else "missing"
        damage.append(Damage(lost, synced_end - intact_end, reason))
    end = Position(number, max(intact_end, synced_end))
    repairs = _cut(directory, end, data)
    return Tail(end, repairs, tuple(damage))


def _scan(directory: Path, framing: Framing, data: bytes, damage: list[Damage]) -> int:
    """Where the last intact frame ends; adds what is wrong before it to `damage`."""
    at = HEADER_BYTES
    while True:
        while (stop := framing.end_of_frame(data, at, 0)) is not None:
            at = stop
        found = framing.find_frame(data, at + 1, 0)
        if found is None:
            return at
        position = Position(framing.segment, at)
        keep_aside(directory, "damaged", position, data[at:found])
        damage.append(Damage(position, found - at, "checksum"))
        at = found


def _cut(directory: Path, end: Position, data: bytes) -> tuple[Repair, ...]:
    """Cut the segment at `end`, keeping what was behind it, and sync what stays."""
    torn = data[end.offset :]
    kept_in = keep_aside(directory, "torn", end, torn)
    descriptor = os.open(segment_path(directory, end.segment), os.O_WRONLY | os.O_CLOEXEC)
    try:
        if torn:
            os.ftruncate(descriptor, end.offset)
        # A killed writer may have left frames in the page cache only. They are about to be
        # published as synced, so they must be.
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return (Repair(end, len(torn), kept_in),) if kept_in is not None else ()
