"""The journal on real files: killed writers, torn tails, flipped bits, full disks, readers."""

import asyncio
import os
import random
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tracker.journals import flip, opened, payloads, read_all, write, writing
from tracker.journal import (
    Journal,
    JournalLocked,
    JournalUnavailable,
    RecordTooLarge,
    _OwnHand,
)
from tracker.journal_reader import (
    FRAME_BYTES,
    HEADER_BYTES,
    Framing,
    Position,
    backlog,
    journal_id,
    read_batch,
    read_synced,
    remove_shipped,
    segment_numbers,
    segment_path,
)
from tracker.journal_segments import lock

ROOT = Path(__file__).resolve().parents[2]
KILL_ROUNDS = 6

WRITER = """
import asyncio, os, sys
from pathlib import Path
from tracker.journal import open_journal

async def main(directory, number):
    journal = open_journal(
        directory, segment_bytes_max=20_000, journal_bytes_max=2**30, record_bytes_max=1000,
        with_process=len(sys.argv) > 3,
    )
    async def client():
        nonlocal number
        while True:
            mine, number = number, number + 1
            at = await journal.append(b"%d " % mine + b"x" * (mine % 300))
            os.write(1, b"%d %d %d\\n" % (mine, at.segment, at.offset))
    await asyncio.gather(*(client() for _ in range(8)))

asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2])))
"""

# A file size limit makes the kernel refuse a write halfway through, as a full disk does.
LIMITED_WRITER = """
import asyncio, resource, sys
from pathlib import Path
from tracker.journal import JournalUnavailable, open_journal

def limit(size):
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))

async def main(directory):
    journal = open_journal(
        directory, segment_bytes_max=2**20, journal_bytes_max=2**20, record_bytes_max=200
    )
    limit(1000)
    for number in range(20):
        try:
            await journal.append(b"%03d" % number * 30)
            print("ack", number)
        except JournalUnavailable as error:
            print("refused", number, error.reason, journal.stats().state)
    limit(100)
    await asyncio.sleep(1.3)
    print("still", journal.stats().state)
    limit(resource.RLIM_INFINITY)
    while journal.stats().state != "ready":
        await asyncio.sleep(0.05)
    await journal.append(b"after")
    print("ack after")
    await journal.close()

asyncio.run(main(Path(sys.argv[1])))
"""


@pytest.fixture(params=[False, True], ids=["own hand", "process"])
def with_process(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


def wait_until_ready(journal: Journal) -> None:
    deadline = time.monotonic() + 10
    while journal.stats().state != "ready" and time.monotonic() < deadline:
        time.sleep(0.05)
    assert journal.stats().state == "ready"


def wait_until_free(directory: Path) -> None:
    """A writer process sees the end of its line a moment after its server is killed."""
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        with suppress(JournalLocked):
            os.close(lock(directory))
            return
        time.sleep(0.01)
    raise AssertionError("the lock is still held")


def python(script: str, *arguments: object) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603 - our own interpreter and script
        [sys.executable, "-c", script, *map(str, arguments)],
        stdout=subprocess.PIPE,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )


# ---- appending and reading


def test_what_is_appended_is_read_in_order_across_segments_and_restarts(tmp_path: Path) -> None:
    expected = []
    for start in (0, 50):
        with writing(tmp_path, segment_bytes_max=200) as journal:
            for number in range(start, start + 50):
                payload = b"%d" % number * (1 + number % 5)
                [position] = journal.sync_append_many([payload])
                expected.append((position, payload))
            assert (journal.repairs, journal.damage) == ((), ())
    records, damage, end = read_all(tmp_path)
    assert records == expected
    assert damage == []
    assert [position for position, _ in records] == sorted(position for position, _ in records)
    assert len(segment_numbers(tmp_path)) > 4
    assert read_batch(tmp_path, end, records_max=9, bytes_max=9).records == []
    assert read_all(tmp_path, records[60][0])[0] == expected[60:]


@settings(max_examples=25, deadline=None)
@given(
    calls=st.lists(st.lists(st.binary(min_size=1, max_size=300), max_size=5), max_size=12),
    segment_bytes_max=st.integers(50, 2000),
    records_max=st.integers(1, 5),
    bytes_max=st.integers(1, 800),
)
def test_any_payloads_come_back_for_any_sizes(
    calls: list[list[bytes]], segment_bytes_max: int, records_max: int, bytes_max: int
) -> None:
    with tempfile.TemporaryDirectory() as name:
        directory, expected = Path(name), []
        with writing(directory, segment_bytes_max=segment_bytes_max) as journal:
            for call in calls:
                expected += list(zip(journal.sync_append_many(call), call, strict=True))
        position, found = None, []
        for _ in range(len(expected) + 1):
            batch = read_batch(directory, position, records_max=records_max, bytes_max=bytes_max)
            assert batch.damage == []
            assert len(batch.records) <= records_max
            found += [(record.position, record.payload) for record in batch.records]
            position = batch.next_position
        assert found == expected
        assert backlog(directory, position) == 0


def test_one_tick_shares_one_sync_and_the_rest_share_the_next(tmp_path: Path) -> None:
    async def scenario() -> None:
        journal = opened(tmp_path, with_process=True)
        positions = await asyncio.gather(*(journal.append(b"%d" % n) for n in range(100)))
        assert positions == sorted(positions)
        stats = journal.stats()
        assert (stats.records, stats.batches, stats.backlog) == (100, 1, 0)
        assert stats.bytes_written == 10 * (FRAME_BYTES + 1) + 90 * (FRAME_BYTES + 2)
        first = journal.submit([b"first"])
        await asyncio.sleep(0)  # the writer has it now
        rest = [journal.submit([b"rest"]) for _ in range(50)]
        assert journal.stats().backlog == 51
        await asyncio.gather(first, *rest)
        assert journal.stats().batches == 3
        assert await journal.append_many([]) == []
        await journal.close()

    asyncio.run(scenario())
    assert len(payloads(tmp_path)) == 151


def test_a_cancelled_append_leaves_the_others_alone(
    tmp_path: Path,
    with_process: bool,  # noqa: FBT001 - a fixture
) -> None:
    async def scenario() -> list[Position]:
        journal = opened(tmp_path, with_process=with_process)
        cancelled = asyncio.ensure_future(journal.append(b"gone away"))
        others = [asyncio.ensure_future(journal.append(b"stays")) for _ in range(3)]
        await asyncio.sleep(0)
        cancelled.cancel()
        positions = await asyncio.gather(*others)
        await journal.close()
        assert cancelled.cancelled()
        return positions

    positions = asyncio.run(scenario())
    records = dict(read_all(tmp_path)[0])
    assert [records[position] for position in positions] == [b"stays"] * 3


def test_close_waits_for_pending_appends_and_refuses_later_ones(
    tmp_path: Path,
    with_process: bool,  # noqa: FBT001 - a fixture
) -> None:
    async def scenario() -> None:
        journal = opened(tmp_path, with_process=with_process)
        pending = [journal.submit([b"%d" % number]) for number in range(20)]
        await journal.close()
        assert all(future.done() and future.exception() is None for future in pending)
        assert journal.stats().state == "closed"
        with pytest.raises(JournalUnavailable) as caught:
            await journal.append(b"late")
        assert caught.value.reason == "closed"
        await journal.close()

    asyncio.run(scenario())
    assert payloads(tmp_path) == [b"%d" % number for number in range(20)]


def test_one_journal_serves_one_loop_after_another(
    tmp_path: Path,
    with_process: bool,  # noqa: FBT001 - a fixture
) -> None:
    with writing(tmp_path, with_process=with_process) as journal:
        asyncio.run(journal.append(b"one"))
        asyncio.run(journal.append(b"two"))
    assert payloads(tmp_path) == [b"one", b"two"]


def test_refused_payloads_leave_nothing_behind(tmp_path: Path) -> None:
    with writing(tmp_path, record_bytes_max=10) as journal:
        with pytest.raises(RecordTooLarge) as caught:
            journal.sync_append_many([b"fits", b"x" * 11])
        assert caught.value.facts == {"limit_bytes": 10}
        with pytest.raises(ValueError, match="empty"):
            journal.sync_append_many([b"fits", b""])
        journal.sync_append_many([b"x" * 10])
    assert payloads(tmp_path) == [b"x" * 10]


def test_a_call_larger_than_a_segment_gets_its_own(tmp_path: Path) -> None:
    with writing(tmp_path, segment_bytes_max=200) as journal:
        journal.sync_append_many([b"before"])
        positions = journal.sync_append_many([b"x" * 100] * 10)
        [after] = journal.sync_append_many([b"after"])
    assert {position.segment for position in positions} == {2}
    assert after == Position(3, HEADER_BYTES)
    assert payloads(tmp_path) == [b"before", *[b"x" * 100] * 10, b"after"]


# ---- one writer, one identity


def test_a_second_opener_is_refused_until_the_first_closes(tmp_path: Path) -> None:
    with writing(tmp_path) as journal:
        journal.sync_append_many([b"one"])
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
        with pytest.raises(JournalLocked):
            opened(tmp_path)
        script = (
            "import sys; from pathlib import Path; from tracker.journal import *\n"
            "try: open_journal(Path(sys.argv[1]), segment_bytes_max=999,"
            " journal_bytes_max=9999, record_bytes_max=99)\n"
            "except JournalLocked: print('locked')"
        )
        process = python(script, tmp_path)
        assert process.communicate(timeout=30)[0] == b"locked\n"
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    write(tmp_path, b"two")
    assert payloads(tmp_path) == [b"one", b"two"]


def test_the_id_is_stable_and_recovered_from_a_segment(tmp_path: Path) -> None:
    assert journal_id(tmp_path) is None
    write(tmp_path, b"one")
    identity = journal_id(tmp_path)
    assert identity is not None
    (tmp_path / "journal.json").unlink()
    with writing(tmp_path) as journal:
        assert journal.identity == journal_id(tmp_path) == identity
    assert payloads(tmp_path) == [b"one"]
    write(tmp_path / "other", b"one")
    assert journal_id(tmp_path / "other") != identity


def test_no_new_id_is_invented_beside_segments_that_have_lost_theirs(tmp_path: Path) -> None:
    write(tmp_path, b"one")
    (tmp_path / "journal.json").write_text("{}")
    flip(segment_path(tmp_path, 1), 10)
    with pytest.raises(JournalUnavailable) as caught:
        opened(tmp_path)
    assert caught.value.reason == "identity_lost"
    assert segment_numbers(tmp_path) == [1]


# ---- killed writers


def test_no_acknowledged_record_is_lost_to_kill_9(tmp_path: Path, with_process: bool) -> None:  # noqa: FBT001 - a fixture
    """Rounds of kill -9 at random moments; every acknowledged record is there once, in place."""
    seeded = random.Random(20260304)  # noqa: S311 - moments to kill at, repeatable
    acknowledged: dict[int, Position] = {}
    watched: list[tuple[Position, bytes]] = []
    position: Position | None = None
    for round_number in range(KILL_ROUNDS):
        arguments = ["with process"] if with_process else []
        process = python(WRITER, tmp_path, round_number * 1_000_000, *arguments)
        assert process.stdout is not None
        first = process.stdout.readline()
        until = time.monotonic() + seeded.uniform(0.0, 0.4)
        while time.monotonic() < until:
            # The shipper's view meanwhile, from this other process.
            batch = read_batch(tmp_path, position, records_max=500, bytes_max=10**6)
            assert batch.damage == []
            watched += [(record.position, record.payload) for record in batch.records]
            position = batch.next_position
        process.kill()
        output = first + process.communicate()[0]
        wait_until_free(tmp_path)
        for line in output.splitlines(keepends=True):
            if line.endswith(b"\n"):
                number, segment, offset = map(int, line.split())
                acknowledged[number] = Position(segment, offset)
    with writing(tmp_path) as journal:
        assert journal.damage == ()
    records, damage, _ = read_all(tmp_path, records_max=500)
    assert damage == []
    numbers = [int(payload.split()[0]) for _, payload in records]
    assert numbers == sorted(set(numbers))
    found = dict(zip(numbers, records, strict=True))
    assert len(acknowledged) >= KILL_ROUNDS
    for number, place in acknowledged.items():
        assert found[number] == (place, b"%d " % number + b"x" * (number % 300))
    assert records[: len(watched)] == watched


def test_a_reader_follows_a_running_writer(tmp_path: Path) -> None:
    seen: list[int] = []
    position: Position | None = None
    process = python(WRITER, tmp_path, 0)
    try:
        deadline = time.monotonic() + 20
        while len(seen) < 2000 and time.monotonic() < deadline:
            batch = read_batch(tmp_path, position, records_max=100, bytes_max=10**5)
            assert batch.damage == []
            seen += [int(record.payload.split()[0]) for record in batch.records]
            position = batch.next_position
            if position is not None:
                remove_shipped(tmp_path, position)
    finally:
        process.kill()
        process.communicate()
    assert len(seen) >= 2000
    assert seen == list(range(len(seen)))
    assert len(segment_numbers(tmp_path)) <= 3


# ---- refusing disks


def test_a_full_disk_refuses_without_acknowledging_and_recovers(tmp_path: Path) -> None:
    process = python(LIMITED_WRITER, tmp_path)
    output = process.communicate(timeout=30)[0].decode().splitlines()
    assert process.returncode == 0
    frame = FRAME_BYTES + 90
    fitting = (1000 - HEADER_BYTES) // frame
    assert output == [
        *(f"ack {number}" for number in range(fitting)),
        *(f"refused {number} disk_full unavailable" for number in range(fitting, 20)),
        "still unavailable",
        "ack after",
    ]
    expected = [b"%03d" % number * 30 for number in range(fitting)]
    assert payloads(tmp_path) == [*expected, b"after"]
    assert segment_numbers(tmp_path) == [1, 2]
    # The half-written frame of the refused append was taken back.
    assert segment_path(tmp_path, 1).stat().st_size == HEADER_BYTES + fitting * frame
    with writing(tmp_path) as journal:
        assert (journal.repairs, journal.damage) == ((), ())
    assert payloads(tmp_path) == [*expected, b"after"]


def test_a_failed_sync_is_never_tried_again_on_the_same_file(tmp_path: Path) -> None:
    """/dev/null takes writes and refuses fdatasync: the kernel's own error, at the right place."""

    async def scenario() -> None:
        journal = opened(tmp_path)
        await journal.append(b"good")
        assert isinstance(journal._writer, _OwnHand)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, journal._writer.segments._file or -1)
        os.close(null)
        waiting = [journal.submit([b"lost %d" % number]) for number in range(3)]
        results = await asyncio.gather(*waiting, return_exceptions=True)
        assert [type(result) for result in results] == [JournalUnavailable] * 3
        with pytest.raises(JournalUnavailable) as caught:
            await journal.append(b"lost at once")
        assert caught.value.reason == "io_error"
        stats = journal.stats()
        assert (stats.state, stats.reason, stats.failures) == ("unavailable", "io_error", 1)
        # What a failed sync may leave in the file: intact frames that nobody was promised.
        end = read_synced(tmp_path, journal.identity)
        assert end is not None
        framing = Framing.of(journal.identity, 1)
        lost = framing.prefix(b"lost 0", end.offset) + b"lost 0"
        segment_path(tmp_path, 1).write_bytes(segment_path(tmp_path, 1).read_bytes() + lost)
        await asyncio.to_thread(wait_until_ready, journal)
        assert await journal.append(b"good again") == Position(2, HEADER_BYTES)
        await journal.close()

    asyncio.run(scenario())
    assert payloads(tmp_path) == [b"good", b"good again"]


def test_a_segment_that_failed_while_empty_is_replaced(tmp_path: Path) -> None:
    """A disk that stays full must not leave a trail of segments, nor break their chain."""
    write(tmp_path, b"one")
    with writing(tmp_path) as journal:
        assert isinstance(journal._writer, _OwnHand)
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, journal._writer.segments._file or -1)
        os.close(null)
        with pytest.raises(JournalUnavailable):
            journal.sync_append_many([b"lost"])
        wait_until_ready(journal)
        journal.sync_append_many([b"two"])
    assert segment_numbers(tmp_path) == [1, 2]
    assert payloads(tmp_path) == [b"one", b"two"]


def test_a_full_journal_refuses_until_the_shipper_has_made_room(tmp_path: Path) -> None:
    payload = b"x" * 92
    with writing(
        tmp_path, segment_bytes_max=400, journal_bytes_max=2000, record_bytes_max=100
    ) as journal:
        written = 0
        while written < 100 and journal.stats().state == "ready":
            with suppress(JournalUnavailable):
                journal.sync_append_many([payload])
                written += 1
        assert journal.stats().reason == "journal_full"
        assert 10 < written < 20
        assert sum(path.stat().st_size for path in tmp_path.glob("*.log")) <= 2000
        records, damage, end = read_all(tmp_path)
        assert (len(records), damage) == (written, [])
        time.sleep(1.2)
        assert journal.stats().reason == "journal_full"
        assert end is not None
        assert remove_shipped(tmp_path, end) >= 3
        wait_until_ready(journal)
        [position] = journal.sync_append_many([b"room again"])
    assert read_all(tmp_path, end)[0] == [(position, b"room again")]
