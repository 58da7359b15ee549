"""The process that writes a journal for a serving process, and the line between the two.

    python -m tracker.journal_writer DIRECTORY SOCKET LOCK SEGMENT_MAX JOURNAL_MAX RECORD_MAX

The serving process holds the other end of a socket pair and sends one batch of calls at a time; the
answer goes back after one write and one sync. A thread would have to win the interpreter's lock
back from a busy event loop after every system call; a process needs nobody's leave.

The writer ends when its line is closed, which the kernel does for a killed serving process too,
and not sooner: Ctrl-C and SIGTERM are for those who give it work. The directory's lock is a
descriptor that both hold, so that nobody else writes here while one of them lives.
"""

import os
import select
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Final

import msgspec

from tracker.journal_reader import Tail
from tracker.journal_segments import (
    JournalUnavailable,
    Limits,
    Outcome,
    Segments,
    UnavailableReason,
    open_segments,
)

_LENGTH_BYTES: Final = 4
_READ_BYTES: Final = 2**18
_encoder = msgspec.msgpack.Encoder(enc_hook=str)


class Report(msgspec.Struct, frozen=True, array_like=True):
    """An outcome for each call of the batch, in order, and how the journal fares since opening.

    Also sent without outcomes whenever `reason` changes: why nothing is recorded, None when it is.
    """

    outcomes: list[Outcome]
    reason: UnavailableReason | None
    records: int
    bytes_written: int
    batches: int
    failures: int


class Opened(msgspec.Struct, frozen=True, array_like=True):
    """The journal is open and `tail` was found at its end; or `refusal` says why it cannot be."""

    report: Report
    identity: str = ""
    tail: Tail | None = None
    refusal: UnavailableReason | None = None


def report_of(segments: Segments, outcomes: list[Outcome]) -> Report:
    """The report of these outcomes."""
    return Report(
        outcomes,
        segments.failure,
        segments.records,
        segments.bytes_written,
        segments.batches,
        segments.failures,
    )


def _to_path(kind: type[Path], value: str) -> Path:
    return kind(value)


_opened = msgspec.msgpack.Decoder(Opened, dec_hook=_to_path)
_report = msgspec.msgpack.Decoder(Report)
_decode_calls = msgspec.msgpack.Decoder(list[list[bytes]]).decode


class Line:
    """One end of the socket pair: messages with their length in front."""

    def __init__(self, end: socket.socket) -> None:
        self.socket = end
        self._received = bytearray()

    def receive(self) -> list[bytes]:
        """The messages that one read completes; EOFError when the other end is closed."""
        try:
            chunk = self.socket.recv(_READ_BYTES)
        except BlockingIOError:
            return []
        except OSError as error:
            raise EOFError from error
        if not chunk:
            raise EOFError
        if not self._received and len(chunk) == _length_of(chunk):
            return [chunk[_LENGTH_BYTES:]]
        self._received += chunk
        messages = []
        while _LENGTH_BYTES <= (length := _length_of(self._received)) <= len(self._received):
            messages.append(bytes(self._received[_LENGTH_BYTES:length]))
            del self._received[:length]
        return messages

    def wait(self) -> list[bytes]:
        """The next messages, however long they take; EOFError when there will be none."""
        while not (messages := self.receive()):
            pass
        return messages


def _length_of(received: bytes | bytearray) -> int:
    """The length of the first message with its prefix; 0 while the prefix is not whole."""
    if len(received) < _LENGTH_BYTES:
        return 0
    return _LENGTH_BYTES + int.from_bytes(received[:_LENGTH_BYTES], "big")


def pack(message: object) -> bytes:
    """A message as it goes over the line."""
    body = _encoder.encode(message)
    return len(body).to_bytes(_LENGTH_BYTES, "big") + body


def read_opened(message: bytes) -> Opened:
    """The first message of a writer."""
    return _opened.decode(message)


def read_report(message: bytes) -> Report:
    """Every later message of a writer."""
    return _report.decode(message)


def start(directory: Path, limits: Limits, lock: int) -> tuple[subprocess.Popen[bytes], Line]:
    """Start a writer; its first message is `Opened`, those that follow are reports."""
    ours, its = socket.socketpair()
    with its:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [
                sys.executable,
                "-P",
                "-m",
                "tracker.journal_writer",
                str(directory.absolute()),
                str(its.fileno()),
                str(lock),
                str(limits.segment_bytes_max),
                str(limits.journal_bytes_max),
                str(limits.record_bytes_max),
            ],
            pass_fds=(its.fileno(), lock),
            # It must find the same modules as we did, wherever we were started.
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(os.path.abspath, sys.path))},
        )
    return process, Line(ours)


def main(directory: str, end: str, _lock: str, *limits: str) -> None:
    """Write until the line is closed."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    line = Line(socket.socket(fileno=int(end)))
    try:
        segments = open_segments(Path(directory), Limits(*map(int, limits)))
    except JournalUnavailable as error:
        nothing = Report([], error.reason, 0, 0, 0, 0)
        line.socket.sendall(pack(Opened(nothing, refusal=error.reason)))
        return
    try:
        opened = Opened(report_of(segments, []), str(segments.identity), segments.tail)
        line.socket.sendall(pack(opened))
        while True:
            _serve(line, segments)
    except (EOFError, OSError):
        segments.close()


def _serve(line: Line, segments: Segments) -> None:
    """Commit one batch, or do what is due when none comes in time."""
    wait_seconds = segments.wait_seconds()
    if wait_seconds is not None and not select.select([line.socket], [], [], wait_seconds)[0]:
        before = segments.failure
        segments.recover()
        if segments.failure != before:
            line.socket.sendall(pack(report_of(segments, [])))
        return
    for message in line.wait():
        outcomes = segments.commit(_decode_calls(message))
        line.socket.sendall(pack(report_of(segments, outcomes)))


if __name__ == "__main__":
    main(*sys.argv[1:])
