"""The writer process: killed at any moment, refused by its disk, orphaned; and nobody is misled."""

import asyncio
import os
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tracker.journals import opened, payloads
from tests.tracker.test_journal import wait_until_free
from tracker.journal import Journal, JournalLocked, JournalUnavailable, open_journal
from tracker.journal_process import WriterProcess
from tracker.journal_reader import read_batch, segment_numbers

ROOT = Path(__file__).resolve().parents[2]

# A server that dies without a word, and says before who writes for it.
SERVER = """
import asyncio, os, sys, time
from pathlib import Path
from tracker.journal import open_journal

async def main():
    journal = open_journal(
        Path(sys.argv[1]), segment_bytes_max=2**16, journal_bytes_max=2**24,
        record_bytes_max=2**12, with_process=True,
    )
    await journal.append(b"acknowledged")
    print(journal._writer.pid, flush=True)
    time.sleep(60)

asyncio.run(main())
"""


def writer_of(journal: Journal) -> WriterProcess:
    assert isinstance(journal._writer, WriterProcess)
    return journal._writer


def is_running(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def until(state: str, journal: Journal) -> None:
    deadline = time.monotonic() + 10
    while journal.stats().state != state:
        assert time.monotonic() < deadline, journal.stats()
        await asyncio.sleep(0.01)


def test_a_killed_writer_acknowledges_nothing_more_and_is_replaced(tmp_path: Path) -> None:
    async def scenario() -> set[bytes]:
        journal = opened(tmp_path, with_process=True)
        acknowledged = set()
        for round_number in range(3):
            before = b"before %d" % round_number
            await journal.append(before)
            acknowledged.add(before)
            first = writer_of(journal).pid
            # Stopped, so that what follows is certainly under way when it dies.
            os.kill(first, signal.SIGSTOP)
            waiting = [journal.submit([b"lost %d" % number]) for number in range(5)]
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            queued = journal.submit([b"queued"])
            os.kill(first, signal.SIGKILL)
            outcomes = await asyncio.gather(*waiting, queued, return_exceptions=True)
            assert [type(one) for one in outcomes] == [JournalUnavailable] * 6
            assert {one.reason for one in outcomes if isinstance(one, JournalUnavailable)} == {
                "writer_lost"
            }
            with pytest.raises(JournalUnavailable) as refusal:
                await journal.append(b"too early")
            assert refusal.value.reason == "writer_lost"
            assert journal.stats().state == "unavailable"
            await until("ready", journal)
            assert journal.stats().writers_lost == round_number + 1
            assert writer_of(journal).pid != first
        await journal.append(b"after")
        await journal.close()
        return acknowledged | {b"after"}

    acknowledged = asyncio.run(scenario())
    found = payloads(tmp_path)
    assert acknowledged <= set(found)
    assert b"too early" not in found
    assert len(found) == len(set(found)) or {one for one in found if found.count(one) > 1} <= {
        *(b"lost %d" % number for number in range(5)),
        b"queued",
    }


def test_an_idle_journal_replaces_its_writer_too(tmp_path: Path) -> None:
    async def scenario() -> None:
        journal = opened(tmp_path, with_process=True)
        journal.attach()
        first = writer_of(journal).pid
        os.kill(first, signal.SIGKILL)
        await until("unavailable", journal)
        await until("ready", journal)
        assert not is_running(first)
        await journal.close()

    asyncio.run(scenario())


def test_a_journal_closes_while_its_writer_is_being_replaced(tmp_path: Path) -> None:
    async def scenario() -> int:
        journal = opened(tmp_path, with_process=True)
        await journal.append(b"one")
        os.kill(writer_of(journal).pid, signal.SIGKILL)
        await until("unavailable", journal)
        await journal.close()
        assert journal.stats().state == "closed"
        return writer_of(journal).pid

    assert not is_running(asyncio.run(scenario()))
    wait_until_free(tmp_path)
    assert payloads(tmp_path) == [b"one"]


def test_a_killed_server_leaves_no_writer_and_no_lock(tmp_path: Path) -> None:
    with subprocess.Popen(  # noqa: S603 - our own interpreter and script
        [sys.executable, "-c", SERVER, str(tmp_path)], cwd=ROOT, stdout=subprocess.PIPE
    ) as server:
        assert server.stdout is not None
        writer = int(server.stdout.readline())
        assert is_running(writer)
        with pytest.raises(JournalLocked):
            opened(tmp_path)
        # Only the end of its line ends a writer: others must have given it everything before.
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(writer, number)

        server.kill()

    wait_until_free(tmp_path)
    assert not is_running(writer)
    assert payloads(tmp_path) == [b"acknowledged"]


def test_the_lock_is_held_while_the_writer_is_being_replaced(tmp_path: Path) -> None:
    async def scenario() -> None:
        journal = opened(tmp_path, with_process=True)
        journal.attach()
        os.kill(writer_of(journal).pid, signal.SIGKILL)
        while journal.stats().state != "ready" or not journal.stats().writers_lost:
            with pytest.raises(JournalLocked):
                opened(tmp_path)
            await asyncio.sleep(0.005)
        await journal.close()

    asyncio.run(scenario())


def test_a_full_disk_is_told_and_cured(tmp_path: Path) -> None:
    async def scenario() -> None:
        journal = opened(tmp_path, with_process=True)
        await journal.append(b"x" * 500)
        limit = (600, resource.RLIM_INFINITY)
        resource.prlimit(writer_of(journal).pid, resource.RLIMIT_FSIZE, limit)
        with pytest.raises(JournalUnavailable) as refusal:
            await journal.append(b"y" * 500)
        assert refusal.value.reason == "disk_full"
        with pytest.raises(JournalUnavailable):
            await journal.append(b"z")
        assert journal.stats().state == "unavailable"
        assert journal.stats().failures == 1
        unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
        resource.prlimit(writer_of(journal).pid, resource.RLIMIT_FSIZE, unlimited)
        # Nobody appends: the writer tries by itself and says when it succeeded.
        await until("ready", journal)
        await journal.append(b"after")
        await journal.close()

    asyncio.run(scenario())
    assert payloads(tmp_path) == [b"x" * 500, b"after"]
    assert segment_numbers(tmp_path) == [1, 2]


def test_batches_larger_than_the_line_arrive_whole(tmp_path: Path) -> None:
    async def scenario() -> None:
        journal = open_journal(
            tmp_path,
            segment_bytes_max=2**26,
            journal_bytes_max=2**30,
            record_bytes_max=2**20,
            with_process=True,
        )
        big = [os.urandom(2**20) for _ in range(12)]
        first = journal.submit(big[:6])
        await asyncio.sleep(0)
        second = journal.submit(big[6:])
        assert len(await first) == len(await second) == 6
        assert journal.stats().batches == 2
        await journal.close()
        batch = read_batch(tmp_path, None, records_max=99, bytes_max=2**30)
        assert [record.payload for record in batch.records] == big

    asyncio.run(scenario())


def test_more_than_may_wait_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracker.journal.PENDING_BYTES_MAX", 1000)

    async def scenario() -> None:
        journal = opened(tmp_path, with_process=True)
        accepted = [journal.submit([b"x" * 92]) for _ in range(10)]
        with pytest.raises(JournalUnavailable) as refusal:
            journal.submit([b"y"])
        assert refusal.value.reason == "overloaded"
        await asyncio.gather(*accepted)
        await journal.append(b"z")
        await journal.close()

    asyncio.run(scenario())
    assert payloads(tmp_path) == [b"x" * 92] * 10 + [b"z"]


def test_an_open_that_cannot_be_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "0000000001.log").write_bytes(b"no header")
    with pytest.raises(JournalUnavailable) as refusal:
        opened(tmp_path, with_process=True)
    assert refusal.value.reason == "identity_lost"
    wait_until_free(tmp_path)


def test_one_callers_mistake_keeps_nobody_waiting(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    async def scenario() -> None:
        journal = opened(tmp_path, with_process=True)

        def mistaken(_outcome: object) -> None:
            raise ValueError("a caller's mistake")

        journal.record([b"one"], mistaken)
        await journal.append(b"two")
        await journal.close()

    asyncio.run(scenario())
    assert payloads(tmp_path) == [b"one", b"two"]
    # Where it is said depends on whether a test before this one has set logs up.
    assert "a caller's mistake" in caplog.text.join(capsys.readouterr())


def test_tools_do_not_use_a_journal_with_a_process(tmp_path: Path) -> None:
    journal = opened(tmp_path, with_process=True)
    with pytest.raises(TypeError, match="event loop"):
        journal.sync_append_many([b"x"])
    journal.sync_close()
