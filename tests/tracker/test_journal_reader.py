"""What a reader makes of a journal: synced frames only, every damage is named and kept."""

import os
import shutil
from pathlib import Path

import pytest

from tests.tracker.journals import flip, payloads, read_all, write, writing
from tracker.journal_reader import (
    FRAME_BYTES,
    HEADER_BYTES,
    Damage,
    Framing,
    Position,
    backlog,
    encode_synced,
    journal_id,
    read_batch,
    read_synced,
    remove_shipped,
    segment_numbers,
    segment_path,
)


def test_a_record_over_bytes_max_is_still_read(tmp_path: Path) -> None:
    write(tmp_path, b"a", b"x" * 3000, b"b")
    sizes = []
    position = None
    for _ in range(3):
        batch = read_batch(tmp_path, position, records_max=10, bytes_max=20)
        sizes.append([len(record.payload) for record in batch.records])
        position = batch.next_position
    assert sizes == [[1], [3000], [1]]


def test_positions_are_ordered() -> None:
    assert Position(1, 900) < Position(2, 44) < Position(2, 45)
    assert str(Position(12, 345)) == "12:345"


def test_a_reader_sees_nothing_that_is_not_synced(tmp_path: Path) -> None:
    """An intact frame on disk that the writer has not declared synced does not exist yet."""
    with writing(tmp_path) as journal:
        [position] = journal.sync_append_many([b"synced"])
        offset = position.offset + FRAME_BYTES + len(b"synced")
        framing = Framing.of(journal.identity, position.segment)
        with segment_path(tmp_path, 1).open("ab") as file:
            file.write(framing.prefix(b"unsynced", offset) + b"unsynced")
        assert payloads(tmp_path) == [b"synced"]
        assert backlog(tmp_path, None) == FRAME_BYTES + len(b"synced")
        (tmp_path / "synced").write_bytes(b"\xff" * 20)
        assert read_batch(tmp_path, None, records_max=9, bytes_max=99).records == []


# ---- torn tails and damage


def test_a_tail_torn_at_any_byte_is_repaired(tmp_path: Path) -> None:
    """A power cut inside the last, unacknowledged frame: the synced file is older than it."""
    origin = tmp_path / "origin"
    with writing(origin) as journal:
        journal.sync_append_many([b"one", b"two"])
        synced = (origin / "synced").read_bytes()
        [last] = journal.sync_append_many([b"the last one"])
    size = segment_path(origin, 1).stat().st_size
    assert size == last.offset + FRAME_BYTES + len(b"the last one")
    for cut in range(last.offset, size):
        directory = tmp_path / str(cut)
        shutil.copytree(origin, directory)
        (directory / "synced").write_bytes(synced)
        torn = segment_path(directory, 1).read_bytes()[last.offset : cut]
        os.truncate(segment_path(directory, 1), cut)
        with writing(directory) as journal:
            assert journal.damage == ()
            if torn:
                [repair] = journal.repairs
                assert (repair.position, repair.length_bytes) == (last, len(torn))
                assert repair.kept_in.name == f"torn-0000000001-{last.offset:012d}.bin"
                assert repair.kept_in.read_bytes() == torn
            else:
                assert journal.repairs == ()
            journal.sync_append_many([b"afterwards"])
        assert segment_path(directory, 1).stat().st_size == last.offset
        assert payloads(directory) == [b"one", b"two", b"afterwards"]


@pytest.mark.parametrize("synced", [None, b"", b"\0" * 20, b"garbage garbage!....."])
def test_written_frames_survive_a_lost_synced_file(tmp_path: Path, synced: bytes | None) -> None:
    """After a power cut `synced` may hold anything; the opener works it out from the frames."""
    write(tmp_path, b"one", b"two")
    (tmp_path / "synced").unlink()
    if synced is not None:
        (tmp_path / "synced").write_bytes(synced)
    assert read_batch(tmp_path, None, records_max=9, bytes_max=999).records == []
    write(tmp_path, b"three")
    assert payloads(tmp_path) == [b"one", b"two", b"three"]


def test_an_acknowledged_tail_that_vanished_is_damage_not_a_torn_write(tmp_path: Path) -> None:
    [_, last] = write(tmp_path, b"one", b"two")
    path = segment_path(tmp_path, 1)
    os.truncate(path, last.offset + 5)
    lost = Damage(last, FRAME_BYTES + 3, "checksum")
    with writing(tmp_path) as journal:
        assert journal.repairs == ()
        assert journal.damage == (lost,)
        journal.sync_append_many([b"three"])
    records, damage, _ = read_all(tmp_path)
    assert [payload for _, payload in records] == [b"one", b"three"]
    assert damage == [lost]
    assert path.stat().st_size == last.offset + 5


def test_a_flipped_bit_in_the_middle_is_reported_wherever_it_is(tmp_path: Path) -> None:
    """Every byte of the middle frame in turn; its neighbours are kept, its bytes are set aside."""
    origin = tmp_path / "origin"
    [_, middle, after] = write(origin, b"one", b"the middle", b"three")
    for offset in range(middle.offset, after.offset):
        directory = tmp_path / str(offset)
        shutil.copytree(origin, directory)
        flip(segment_path(directory, 1), offset, bit=offset % 8)
        wrong = segment_path(directory, 1).read_bytes()
        expected = Damage(middle, after.offset - middle.offset, "checksum")
        with writing(directory) as journal:
            assert journal.damage == (expected,)
            assert journal.repairs == ()
        assert segment_path(directory, 1).read_bytes() == wrong
        records, damage, _ = read_all(directory)
        assert [payload for _, payload in records] == [b"one", b"three"]
        assert damage == [expected]
        kept = directory / f"damaged-0000000001-{middle.offset:012d}.bin"
        assert kept.read_bytes() == wrong[middle.offset : after.offset]


def test_a_flipped_bit_in_a_sealed_segment_is_found_by_the_reader(tmp_path: Path) -> None:
    positions = write(tmp_path, b"one", b"two", b"three")
    write(tmp_path, b"four")
    flip(segment_path(tmp_path, 1), positions[2].offset + FRAME_BYTES + 1)
    records, damage, end = read_all(tmp_path)
    assert [payload for _, payload in records] == [b"one", b"two", b"four"]
    assert damage == [Damage(positions[2], FRAME_BYTES + 5, "checksum")]
    assert end is not None
    assert remove_shipped(tmp_path, end) == 1
    assert (tmp_path / f"damaged-0000000001-{positions[2].offset:012d}.bin").stat().st_size == 13


def test_moved_and_doubled_frames_are_damage(tmp_path: Path) -> None:
    [first, second, third] = write(tmp_path, b"aaaa", b"bbbb", b"cccc")
    path = segment_path(tmp_path, 1)
    content = path.read_bytes()
    a, b = content[first.offset : second.offset], content[second.offset : third.offset]
    for changed in (b + a, a + a, b + b):
        path.write_bytes(content[: first.offset] + changed + content[third.offset :])
        records, damage, _ = read_all(tmp_path)
        survivors = [(first, b"aaaa"), (second, b"bbbb")]
        kept = [pair for pair in survivors if pair in records]
        assert records == [*kept, (third, b"cccc")]
        assert sum(found.length_bytes for found in damage) == len(a) * (2 - len(kept))
        assert len(kept) == (0 if changed == b + a else 1)


def test_a_copied_segment_is_damage_and_not_read_twice(tmp_path: Path) -> None:
    write(tmp_path, b"one", b"two")
    shutil.copy(segment_path(tmp_path, 1), segment_path(tmp_path, 2))
    with writing(tmp_path) as journal:
        assert journal.damage == (Damage(Position(2, 0), HEADER_BYTES, "header"),)
        [repair] = journal.repairs
        assert repair.position == Position(2, HEADER_BYTES)
        journal.sync_append_many([b"three"])
    records, _, _ = read_all(tmp_path)
    assert [payload for _, payload in records] == [b"one", b"two", b"three"]


def test_a_damaged_header_costs_no_record(tmp_path: Path) -> None:
    write(tmp_path, b"one")
    write(tmp_path, b"two")
    write(tmp_path, b"three")
    flip(segment_path(tmp_path, 2), 30)
    records, damage, _ = read_all(tmp_path)
    assert [payload for _, payload in records] == [b"one", b"two", b"three"]
    assert damage == [Damage(Position(2, 0), HEADER_BYTES, "header")]


def test_a_missing_segment_is_reported(tmp_path: Path) -> None:
    for payload in (b"one", b"two", b"three"):
        write(tmp_path, payload)
    segment_path(tmp_path, 2).unlink()
    records, damage, _ = read_all(tmp_path)
    assert [payload for _, payload in records] == [b"one", b"three"]
    assert damage == [Damage(Position(2, 0), 0, "missing")]


def test_a_position_beyond_the_journal_is_reported(tmp_path: Path) -> None:
    write(tmp_path, b"one")
    for ahead in (Position(1, 5000), Position(9, HEADER_BYTES)):
        batch = read_batch(tmp_path, ahead, records_max=9, bytes_max=999)
        assert batch.records == []
        assert batch.next_position == ahead
        assert batch.damage == [Damage(ahead, 0, "position_ahead")]


def test_lost_segments_never_give_their_numbers_to_new_ones(tmp_path: Path) -> None:
    """A reader that has seen 2:x must not meet other records under positions below it."""
    write(tmp_path, b"one")
    write(tmp_path, b"two")
    segment_path(tmp_path, 1).unlink()
    segment_path(tmp_path, 2).unlink()
    with writing(tmp_path) as journal:
        assert journal.damage == (Damage(Position(1, 0), 0, "missing"),)
        [position] = journal.sync_append_many([b"three"])
    assert position == Position(3, HEADER_BYTES)


# ---- the shipper's housekeeping


def test_only_segments_wholly_before_the_position_are_removed(tmp_path: Path) -> None:
    for payload in (b"one", b"two", b"three", b"four"):
        write(tmp_path, payload)
    assert remove_shipped(tmp_path, Position(1, 10**6)) == 0
    assert remove_shipped(tmp_path, Position(3, HEADER_BYTES), keep_segments=2) == 0
    assert remove_shipped(tmp_path, Position(3, HEADER_BYTES), keep_segments=1) == 1
    assert segment_numbers(tmp_path) == [2, 3, 4]
    assert payloads(tmp_path) == [b"two", b"three", b"four"]
    assert remove_shipped(tmp_path, Position(99, 0)) == 2
    assert segment_numbers(tmp_path) == [4]
    assert payloads(tmp_path) == [b"four"]
    write(tmp_path, b"five")
    assert payloads(tmp_path) == [b"four", b"five"]


def test_backlog_counts_synced_frames_behind_the_position(tmp_path: Path) -> None:
    [_, second] = write(tmp_path, b"one", b"two")
    write(tmp_path, b"three")
    frame = FRAME_BYTES + 3
    assert backlog(tmp_path, None) == 3 * frame + 2
    assert backlog(tmp_path, second) == 2 * frame + 2
    assert backlog(tmp_path, Position(2, HEADER_BYTES)) == frame + 2
    assert backlog(tmp_path, Position(2, HEADER_BYTES + frame + 2)) == 0


def test_a_directory_without_a_journal_is_an_empty_one(tmp_path: Path) -> None:
    batch = read_batch(tmp_path, None, records_max=1, bytes_max=1)
    assert (batch.records, batch.next_position, batch.damage) == ([], None, [])
    assert backlog(tmp_path, None) == 0
    assert remove_shipped(tmp_path, Position(9, 9)) == 0
    assert list(tmp_path.iterdir()) == []


def test_synced_of_another_journal_is_not_believed(tmp_path: Path) -> None:
    write(tmp_path / "a", b"one")
    write(tmp_path / "b", b"one")
    identity = journal_id(tmp_path / "a")
    assert identity is not None
    assert read_synced(tmp_path / "a", identity) is not None
    shutil.copy(tmp_path / "b" / "synced", tmp_path / "a" / "synced")
    assert read_synced(tmp_path / "a", identity) is None
    (tmp_path / "a" / "synced").write_bytes(encode_synced(identity, Position(1, 50)))
    assert read_synced(tmp_path / "a", identity) == Position(1, 50)
