from datetime import UTC, datetime, timedelta
from pathlib import Path

from prometheus_client import REGISTRY
from sqlalchemy import Engine
from sqlmodel import Session

from server import journal_gauges
from tracker import events, journal_reader
from tracker.events import ClickSeen
from tracker.journal import Journal, open_journal
from tracker.models import JournalPosition

NOW = datetime(2026, 3, 8, 12, tzinfo=UTC)


def click(*, at: datetime, imported: bool = False) -> bytes:
    seen = ClickSeen("id", at, 1, 1, "https://shop.test/", imported=imported)
    return events.encode(seen)


def opened(journals: Path) -> Journal:
    return open_journal(
        journals / "1",
        segment_bytes_max=65_536,
        journal_bytes_max=1 << 20,
        record_bytes_max=4_096,
    )


def gauges(session: Session | None, journals: Path) -> tuple[float | None, ...]:
    journal_gauges.measure(session, journals, now=NOW)
    names = ("backlog_bytes", "oldest_seconds", "damaged")
    return tuple(REGISTRY.get_sample_value(f"tallystick_journal_{name}") for name in names)


def test_what_waits_while_the_database_is_away_is_measured(engine: Engine, tmp_path: Path) -> None:
    journals = tmp_path / "journal"
    assert gauges(None, journals)[:2] == (0.0, 0.0)
    journal = opened(journals)
    journal.sync_append_many([click(at=NOW - timedelta(hours=1))])
    first_bytes, oldest, _ = gauges(None, journals)
    assert (first_bytes or 0) > 0
    assert oldest == 3600.0

    position = journal_reader.read_synced(journals / "1", journal.identity)
    assert position is not None
    with Session(engine) as session:
        session.add(
            JournalPosition(
                journal_id=str(journal.identity),
                segment=position.segment,
                offset=position.offset,
                damaged=2,
                updated_at=NOW,
            )
        )
        session.flush()
        assert gauges(session, journals) == (0.0, 0.0, 2.0)

    past = click(at=NOW - timedelta(days=400), imported=True)
    unreadable = b"no event"
    journal.sync_append_many([past, unreadable, click(at=NOW - timedelta(seconds=7))])
    later_bytes, oldest, damaged = gauges(None, journals)
    assert (later_bytes or 0) > (first_bytes or 0)
    assert (oldest, damaged) == (7.0, 2.0)
    journal.sync_close()
