"""The serving process's side of its journal's writer process: start, talk, notice its death."""

import asyncio
import subprocess
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from uuid import UUID

from tracker import journal_writer
from tracker.journal_reader import Position, Tail
from tracker.journal_segments import Call, JournalUnavailable, Limits
from tracker.journal_writer import Line, Report

Told = Callable[[Report], object]
Lost = Callable[[], object]


class WriterProcess:
    """A writer process for one directory, whose lock the caller holds.

    For one event loop at a time: `attach` names who is told, in the loop's thread, what became of
    each batch in the order of `send`, and that the writer is lost. After that only `restart` and
    `close` are left.
    """

    identity: UUID
    tail: Tail
    report: Report
    _process: "subprocess.Popen[bytes]"
    _line: Line

    def __init__(self, directory: Path, limits: Limits, lock: int) -> None:
        self._directory, self._limits, self._lock = directory, limits, lock
        self._loop: asyncio.AbstractEventLoop | None = None
        self._told: Told = _nobody
        self._lost: Lost = _nobody
        self._unsent = memoryview(b"")
        self._start()

    @property
    def pid(self) -> int:
        """The process that writes at present."""
        return self._process.pid

    def attach(self, loop: asyncio.AbstractEventLoop, told: Told, lost: Lost) -> None:
        """Listen to the writer from this loop, and no longer from an earlier one."""
        self.detach()
        self._loop, self._told, self._lost = loop, told, lost
        loop.add_reader(self._line.socket, self._readable)

    def detach(self) -> None:
        """Listen no longer."""
        loop, self._loop = self._loop, None
        if loop is not None and not loop.is_closed():
            loop.remove_reader(self._line.socket)
            loop.remove_writer(self._line.socket)

    def send(self, calls: Sequence[Call]) -> None:
        """Give the writer a batch; never blocks. One batch at a time."""
        self._unsent = memoryview(journal_writer.pack(calls))
        self._write()
        if self._unsent and self._loop is not None:
            self._loop.add_writer(self._line.socket, self._write_rest)

    def drain(self) -> None:
        """Wait for the answer to the batch under way, when the loop that sent it is gone."""
        with suppress(EOFError, OSError):
            self._line.socket.settimeout(None)
            self._line.socket.sendall(self._unsent)
            while not any(self._understand(one).outcomes for one in self._line.wait()):
                pass
        self._unsent = memoryview(b"")
        self._line.socket.settimeout(0)

    def restart(self) -> None:
        """See the old process to its end and start another; blocks. JournalUnavailable: not yet."""
        self.close()
        self._start()

    def close(self) -> None:
        """Let the writer finish what it was given and see it to its end; blocks."""
        self.detach()
        self._line.socket.close()
        self._process.wait()

    def _start(self) -> None:
        try:
            self._process, self._line = journal_writer.start(
                self._directory, self._limits, self._lock
            )
        except OSError as error:
            raise JournalUnavailable("internal") from error
        try:
            opened = journal_writer.read_opened(self._line.wait()[0])
        except EOFError:
            self.close()
            raise JournalUnavailable("writer_lost") from None
        if opened.refusal is not None:
            self.close()
            raise JournalUnavailable(opened.refusal)
        self.report = opened.report
        self.identity, self.tail = UUID(opened.identity), opened.tail or Tail(Position(0, 0))
        self._unsent = memoryview(b"")
        self._line.socket.settimeout(0)

    def _understand(self, message: bytes) -> Report:
        self.report = journal_writer.read_report(message)
        return self.report

    def _write(self) -> None:
        try:
            self._unsent = self._unsent[self._line.socket.send(self._unsent) :]
        except BlockingIOError:
            return
        except OSError:
            # The reader will see the end of the line, too; it says what follows.
            self._unsent = memoryview(b"")

    def _write_rest(self) -> None:
        self._write()
        if not self._unsent and self._loop is not None:
            self._loop.remove_writer(self._line.socket)

    def _readable(self) -> None:
        try:
            for message in self._line.receive():
                self._told(self._understand(message))
        except EOFError:
            self.detach()
            self._lost()


def _nobody(*_said: object) -> None:
    """Where news goes while nobody listens."""
