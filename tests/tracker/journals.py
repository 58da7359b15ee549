"""Journals on real files: written in one call, read as the shipper reads."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tracker.journal import Journal, open_journal
from tracker.journal_reader import Damage, Position, read_batch


def opened(directory: Path, *, with_process: bool = False, **limits: int) -> Journal:
    defaults = {"segment_bytes_max": 2**16, "journal_bytes_max": 2**24, "record_bytes_max": 2**12}
    return open_journal(directory, with_process=with_process, **(defaults | limits))


@contextmanager
def writing(directory: Path, *, with_process: bool = False, **limits: int) -> Iterator[Journal]:
    journal = opened(directory, with_process=with_process, **limits)
    try:
        yield journal
    finally:
        journal.sync_close()


def write(directory: Path, *payloads: bytes, **limits: int) -> list[Position]:
    with writing(directory, with_process=False, **limits) as journal:
        return journal.sync_append_many(payloads)


def read_all(
    directory: Path, position: Position | None = None, *, records_max: int = 7
) -> tuple[list[tuple[Position, bytes]], list[Damage], Position | None]:
    """Everything from `position`, read in small batches as the shipper would."""
    records: list[tuple[Position, bytes]] = []
    damage: list[Damage] = []
    while True:
        batch = read_batch(directory, position, records_max=records_max, bytes_max=4096)
        records += [(record.position, record.payload) for record in batch.records]
        damage += batch.damage
        position = batch.next_position
        if not batch.records:
            return records, damage, position


def payloads(directory: Path) -> list[bytes]:
    records, damage, _ = read_all(directory)
    assert damage == []
    return [payload for _, payload in records]


def flip(path: Path, offset: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[offset] ^= 1 << bit
    path.write_bytes(content)
