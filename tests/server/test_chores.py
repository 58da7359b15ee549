"""Work of the clock: by one at a time, and a failure stops only itself."""

from datetime import datetime, timedelta

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import Session, select

from commissions import accruals
from commissions.models import Commission
from feeds import imports
from feeds.models import FeedImport, FeedSource
from kernel.database import reading, unit_of_work
from kernel.outbox import Lease, acquire, release
from kernel.settings import Settings
from network.models import Program
from server import chores
from tests import make
from tracker.models import OrderUpload, OrderUploadRow


@pytest.fixture
def ripe(engine: Engine, now: datetime) -> datetime:
    """Three commissions, and a time at which the lock dates of all have passed."""
    with unit_of_work(engine) as session:
        program = make.program(session)
        who = make.publisher(session, member_of=program)
        make.plan(session, program)
        for _ in range(3):
            sold = make.conversion(session, program, who, items=[{"amount_minor": 10_000}])
            accruals.accrue(session, sold.id, hold_reason=None, now=now)
    return now + timedelta(days=31)


def statuses(engine: Engine) -> list[str]:
    with reading(engine) as session:
        return sorted(session.exec(select(Commission.status)))


def test_a_sweep_makes_payable_what_its_lock_date_allows(
    engine: Engine, ripe: datetime, now: datetime
) -> None:
    assert chores.sweep(engine, owner="me", now=now) == 0
    assert statuses(engine) == ["pending"] * 3

    moved = chores.sweep(engine, owner="me", now=ripe)

    assert moved > 0
    assert statuses(engine) == ["payable"] * 3
    assert chores.sweep(engine, owner="me", now=ripe) == 0
    with reading(engine) as session:
        assert list(session.exec(select(Lease))) == []


def test_a_sweep_leaves_the_work_to_whoever_is_at_it(engine: Engine, ripe: datetime) -> None:
    with unit_of_work(engine) as session:
        assert acquire(session, "sweep", owner="another", seconds=60, now=ripe)

    assert chores.sweep(engine, owner="me", now=ripe) == 0

    assert statuses(engine) == ["pending"] * 3
    assert chores.sweep(engine, owner="me", now=ripe + timedelta(seconds=61)) > 0
    assert statuses(engine) == ["payable"] * 3


def add_sources(engine: Engine, now: datetime, *urls: str) -> list[str]:
    with unit_of_work(engine) as session:
        program = make.program(session)
        sources = [
            imports.add_source(
                session, program_id=program.id, name=f"feed {url}", url=url, actor="test", now=now
            )
            for url in urls
        ]
        return [source.id for source in sources]


def next_pulls(engine: Engine) -> dict[str, datetime | None]:
    with reading(engine) as session:
        return {source.id: source.next_pull_at for source in session.exec(select(FeedSource))}


def test_a_feed_that_fails_stops_no_other_and_is_tried_again_later(
    engine: Engine, settings: Settings, now: datetime
) -> None:
    # Both point at this machine, which is not reached unless an operator allows it.
    sources = add_sources(engine, now, "http://127.0.0.1:1/a.tsv", "http://127.0.0.1:1/b.tsv")

    chores.pull_feeds(engine, settings, owner="me", now=now)

    with reading(engine) as session:
        looks = list(session.exec(select(FeedImport)))
    assert sorted(look.source_id for look in looks) == sorted(sources)
    assert {look.status for look in looks} == {"failed"}
    later = now + timedelta(minutes=settings.feed_refresh_minutes)
    assert next_pulls(engine) == dict.fromkeys(sources, later)

    chores.pull_feeds(engine, settings, owner="me", now=now + timedelta(minutes=1))
    with reading(engine) as session:
        assert len(list(session.exec(select(FeedImport)))) == 2


def test_even_trouble_with_disk_or_database_stops_only_one_feed(
    engine: Engine,
    settings: Settings,
    now: datetime,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    sources = add_sources(engine, now, "http://127.0.0.1:1/a.tsv", "http://127.0.0.1:1/b.tsv")
    pulled: list[str] = []
    pull = imports.pull

    def troubled(engine: Engine, source_id: str, *, settings: Settings, now: datetime) -> object:
        pulled.append(source_id)
        if len(pulled) == 1:
            raise OSError("no space left on device")
        return pull(engine, source_id, settings=settings, now=now)

    monkeypatch.setattr(imports, "pull", troubled)

    chores.pull_feeds(engine, settings, owner="me", now=now)

    assert sorted(pulled) == sorted(sources)
    with reading(engine) as session:
        assert [look.source_id for look in session.exec(select(FeedImport))] == pulled[1:]
    capsys.readouterr()


def test_a_feed_that_somebody_pulls_is_left_to_them(
    engine: Engine, settings: Settings, now: datetime
) -> None:
    (source,) = add_sources(engine, now, "http://127.0.0.1:1/a.tsv")
    due = next_pulls(engine)
    with unit_of_work(engine) as session:
        assert acquire(session, f"feed:{source}", owner="another", seconds=60, now=now)

    chores.pull_feeds(engine, settings, owner="me", now=now)

    assert next_pulls(engine) == due
    with unit_of_work(engine) as session:
        assert list(session.exec(select(FeedImport))) == []
        release(session, f"feed:{source}", owner="another")


def test_sources_without_address_are_not_pulled(
    engine: Engine, settings: Settings, now: datetime
) -> None:
    add_sources(engine, now, "")

    chores.pull_feeds(engine, settings, owner="me", now=now + timedelta(days=1))

    with reading(engine) as session:
        assert list(session.exec(select(FeedImport))) == []


def test_maintenance_folds_the_log_into_the_file(
    sqlite_engine: Engine, settings: Settings, now: datetime
) -> None:
    with unit_of_work(sqlite_engine) as session:
        make.program(session)
    database = sqlite_engine.url.database
    assert database is not None
    with sqlite_engine.connect():  # SQLite empties its log itself when the last one leaves
        chores.maintain(sqlite_engine, settings, now=now)
        with open(f"{database}-wal", "rb") as log:  # noqa: PTH123 - a name, not a path object
            assert log.read() == b""


def add_upload(session: Session, program: Program, at: datetime, *, rows: int, done: bool) -> str:
    upload = OrderUpload(
        id=f"upl_{at:%Y%m%d}{rows}{done}",
        program_id=program.id,
        actor_id="t",
        file_name="f.csv",
        format="csv",
        options={},
        content=b"",
        content_bytes=1,
        content_hash="h",
        status="done" if done else "running",
        rows_total=rows,
        rows_done=rows,
        created_at=at,
        updated_at=at,
        finished_at=at if done else None,
    )
    session.add(upload)
    session.flush()
    session.add_all(
        OrderUploadRow(upload_id=upload.id, row=number + 2, status="accepted")
        for number in range(rows)
    )
    return upload.id


def uploads_kept(engine: Engine) -> tuple[list[str], int]:
    with reading(engine) as session:
        return (
            sorted(session.exec(select(OrderUpload.id))),
            len(session.exec(select(OrderUploadRow)).all()),
        )


def test_results_of_files_are_kept_as_long_as_the_setting_says(
    engine: Engine, settings: Settings, now: datetime, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Batches smaller than the files, so that one file goes in several transactions.
    monkeypatch.setattr(chores, "_PRUNED_ROWS", 3)
    kept_days = settings.model_copy(update={"upload_days": 30})
    with unit_of_work(engine) as session:
        program = make.program(session)
        add_upload(session, program, now - timedelta(days=31), rows=7, done=True)
        add_upload(session, program, now - timedelta(days=40), rows=3, done=True)
        open_one = add_upload(session, program, now - timedelta(days=60), rows=2, done=False)
        recent = add_upload(session, program, now - timedelta(days=29), rows=4, done=True)

    assert chores.forget_uploads(engine, kept_days, owner="me", now=now) == 12
    assert uploads_kept(engine) == (sorted([open_one, recent]), 6)
    assert chores.forget_uploads(engine, kept_days, owner="me", now=now) == 0
    with reading(engine) as session:
        assert list(session.exec(select(Lease))) == []


def test_results_of_files_may_be_kept_for_ever(
    sqlite_engine: Engine, settings: Settings, now: datetime
) -> None:
    with unit_of_work(sqlite_engine) as session:
        add_upload(session, make.program(session), now - timedelta(days=9_000), rows=2, done=True)

    for_ever = settings.model_copy(update={"upload_days": 0})

    assert chores.forget_uploads(sqlite_engine, for_ever, owner="me", now=now) == 0
    assert uploads_kept(sqlite_engine)[1] == 2


def test_files_are_left_to_whoever_is_at_them(
    sqlite_engine: Engine, settings: Settings, now: datetime
) -> None:
    with unit_of_work(sqlite_engine) as session:
        add_upload(session, make.program(session), now - timedelta(days=9_000), rows=2, done=True)
        assert acquire(session, "uploads", owner="another", seconds=60, now=now)

    assert chores.forget_uploads(sqlite_engine, settings, owner="me", now=now) == 0
    assert uploads_kept(sqlite_engine)[1] == 2
