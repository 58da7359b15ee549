"""Sound books pass; each invariant, broken by hand in a copy, is named with what shows it."""

import os
import subprocess
import sys
from datetime import datetime, timedelta
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, select

from commissions import accruals, payouts
from commissions.reasons import Reason
from kernel import clock
from kernel.database import append_only_ddl, unit_of_work
from kernel.settings import Settings
from network.models import Program, Publisher
from server import audit
from server.tables import append_only_tables
from tests import make
from tracker import click_days, day_files, journal
from tracker.models import JournalPosition
from tracker.rollup_models import RollupHour

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.fixture
def books(sqlite_engine: Engine, now: datetime) -> Engine:
    """Sound books, see `fill`."""
    fill(sqlite_engine, now)
    return sqlite_engine


def fill(engine: Engine, now: datetime) -> None:
    """Three orders: one paid, one pending, one declined; and a publisher with no part in them."""
    with unit_of_work(engine) as session:
        program = make.program(session)
        who = make.publisher(session, member_of=program)
        make.publisher(session, code="other")
        make.plan(session, program)
        sold = []
        for days in (40, 0, 0):
            at = now - timedelta(days=days)
            click = make.click(session, program, who, at=at - timedelta(hours=1))
            sold.append(
                make.conversion(
                    session,
                    program,
                    who,
                    clicked=click,
                    occurred_at=at,
                    items=[{"amount_minor": 4_000}, {"amount_minor": 6_000}],
                )
            )
            accruals.accrue(session, sold[-1].id, hold_reason=None, now=at)
        accruals.void(
            session, sold[2].id, reason=Reason.FRAUD_CONFIRMED, actor="usr_manager", now=now
        )
        while accruals.sweep(session, now=now, rows_max=100):
            pass
        run = payouts.propose(session, actor="usr_manager", now=now)
        payouts.approve(session, run.id, actor="usr_second", now=now)
        payouts.export_csv(session, run.id, actor="usr_second", now=now)
        payouts.settle(session, run.id, reference="B-1", actor="usr_second", now=now)
        session.add(
            JournalPosition(
                journal_id="j-1", segment=1, offset=10, clicks=3, conversions=3, updated_at=now
            )
        )


def tamper(engine: Engine, *statements: str) -> None:
    """Change what may not be changed, as somebody with the file in hand could."""
    with engine.begin() as connection:
        for table in append_only_tables():
            for verb in ("update", "delete"):
                connection.exec_driver_sql(f"DROP TRIGGER {table}_no_{verb}")
        for statement in statements:
            assert connection.exec_driver_sql(statement).rowcount > 0, statement
        for table in append_only_tables():
            for restored in append_only_ddl("sqlite", table):
                connection.exec_driver_sql(restored)


def found(engine: Engine, settings: Settings) -> list[tuple[int, str]]:
    return [
        (finding.invariant, f"{finding.subject}: {finding.detail}")
        for finding in audit.run(engine, settings)
    ]


def test_sound_books_pass(books: Engine, settings: Settings) -> None:
    assert found(books, settings) == []
    tamper(books)
    assert found(books, settings) == []


BROKEN = [
    (1, "UPDATE journal_position SET conversions = 4", "4 were shipped, 3 are stored"),
    (1, "UPDATE journal_position SET clicks = 2", "2 were shipped, the days count 3"),
    (1, "UPDATE journal_position SET damaged = 1", "1 damaged records were met"),
    (1, "DELETE FROM conversion_item WHERE line = 1", "amount 10000, its items sum to 4000"),
    (2, "UPDATE balance SET debits_minor = debits_minor + 1", ""),
    (2, "UPDATE posting SET amount_minor = amount_minor + 1", ""),
    (3, "UPDATE booking SET delta_minor = delta_minor + 1", "bookings sum to"),
    (5, "UPDATE payout SET amount_minor = amount_minor + 1", "its lines sum to 1000"),
    (5, "UPDATE commission SET claimed_minor = 0 WHERE claimed_minor > 0", "payouts claim"),
    (6, "UPDATE commission SET reason = '' WHERE status = 'declined'", "without a reason"),
    (1, "UPDATE click_day SET clicks = clicks + 1 WHERE clicks = 1", "2 counted, 1 stored"),
    (9, "UPDATE attribution_share SET denominator = 3", "its shares sum to 1/3"),
    (9, "UPDATE attribution_share SET numerator = 2", "its shares sum to 2"),
    (9, "UPDATE attribution_share SET numerator = 0", "not more than nothing"),
    (9, "UPDATE attribution_share SET denominator = 0", "not more than nothing"),
    (9, "DELETE FROM attribution_share", "its shares sum to 0"),
    (9, "UPDATE attribution SET publisher_id = NULL", "has shares, and nobody is paid"),
    (3, "UPDATE commission SET amount_minor = amount_minor + 1", "a replay of its plan gives"),
    (3, "UPDATE commission SET plan_version_id = NULL WHERE amount_minor > 0", "no plan applies"),
    (4, "UPDATE plan_version SET content_hash = 'x'", "not the one that was published"),
    (7, "UPDATE commission SET publisher_id = (SELECT max(id) FROM publisher)", "another party's"),
    (7, "UPDATE commission SET occurred_at = lock_at", ""),
    (5, "UPDATE payout SET status = 'exported'", "differs by"),
]


def test_every_broken_invariant_is_named_on_either_database(
    engine: Engine, settings: Settings, now: datetime
) -> None:
    fill(engine, now)
    with Session(engine) as session:
        for table in append_only_tables():
            if engine.dialect.name == "postgresql":
                session.execute(sa.text(f"ALTER TABLE {table} DISABLE TRIGGER USER"))
            else:
                for verb in ("update", "delete"):
                    session.execute(sa.text(f"DROP TRIGGER {table}_no_{verb}"))
        for invariant, statement, words in BROKEN:
            broken = session.begin_nested()
            session.execute(sa.text(statement))
            session.expire_all()

            findings = [
                (one.invariant, one.detail)
                for step in audit.steps(session, audit.Scope())
                for one in audit.take(session, settings, step)
            ]

            assert any(number == invariant and words in detail for number, detail in findings), (
                statement,
                findings,
            )
            broken.rollback()


def test_a_click_of_another_party_is_named(books: Engine, settings: Settings) -> None:
    click = make.clicks(books)[0]
    with day_files.beside(books).writing(day_files.Place(click.at.date())) as connection:
        changed = connection.exec_driver_sql("UPDATE click SET publisher_id = 'pub_other'")
        assert changed.rowcount == 1

    ((number, detail),) = found(books, settings)

    assert (number, detail.partition(": ")[2]) == (
        7,
        "is attributed to another party than its click's",
    )


def test_a_click_that_is_gone_is_missed_and_one_let_go_with_its_day_is_not(
    books: Engine, settings: Settings, now: datetime
) -> None:
    oldest = make.clicks(books)[0]
    with day_files.beside(books).writing(day_files.Place(oldest.at.date())) as connection:
        connection.exec_driver_sql("DELETE FROM click")
    missed = found(books, settings)
    with books.begin() as connection:
        connection.exec_driver_sql("UPDATE click_day SET opened_at = '2020-01-01 00:00:00.000000'")

    assert click_days.retire(books, keep_days=30, now=now) == 1

    day = oldest.at.date()
    assert missed == [(1, f"clicks of {day}: 1 counted, 0 stored")]
    assert found(books, settings) == []


def test_terms_that_were_changed_later_no_longer_give_what_was_booked(
    books: Engine, settings: Settings
) -> None:
    tamper(books, """UPDATE plan_version SET document = replace(document, '"10"', '"11"')""")

    # As an operator runs it: a process that has not read the terms before.
    done = subprocess.run(
        [sys.executable, "-m", "server", "audit"],
        cwd=REPOSITORY,
        env={**os.environ, "TALLYSTICK_DATA_DIR": str(settings.data_dir)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )

    assert done.returncode == 1
    broken = done.stdout.splitlines()
    assert all(line.startswith(f"BROKEN 3 ({audit.INVARIANTS[3]}): ") for line in broken[:-1]), (
        broken
    )
    assert broken[-1].startswith(f"BROKEN 4 ({audit.INVARIANTS[4]}): plan version ")
    assert "a replay of its plan gives 1100, booked is 1000" in done.stdout


@pytest.mark.parametrize("table", append_only_tables())
def test_a_table_that_could_be_changed_is_named(
    books: Engine, settings: Settings, table: str
) -> None:
    with books.begin() as connection:
        connection.exec_driver_sql(f"DROP TRIGGER {table}_no_delete")

    findings = found(books, settings)

    assert {number for number, _ in findings} == {4}
    assert any(table in detail for _, detail in findings)


def test_work_that_waits_for_a_person_is_named(
    books: Engine, settings: Settings, now: datetime
) -> None:
    with books.begin() as connection:
        connection.exec_driver_sql(
            "INSERT INTO outbox (kind, subject_id, lane, recorded_at, attempts, last_error,"
            " parked_at) VALUES ('conversion.recorded', 'cnv_x', 'prg_x', ?, 5, 'it broke', ?)",
            (now.isoformat(" "), now.isoformat(" ")),
        )

    assert found(books, settings) == [(1, "cnv_x: conversion.recorded is parked: it broke")]


def test_what_is_not_shipped_yet_is_named(books: Engine, settings: Settings) -> None:
    folder = Path(settings.data_dir) / "journal" / "1"
    assert not folder.exists()
    opened = journal.open_journal(
        folder,
        segment_bytes_max=settings.journal_segment_bytes_max,
        journal_bytes_max=settings.journal_bytes_max,
        record_bytes_max=settings.journal_record_bytes_max,
    )
    opened.sync_append_many([b"one record"])
    opened.sync_close()

    ((number, detail),) = found(books, settings)

    assert number == 1
    assert "bytes are not shipped yet; run again when idle" in detail


def test_sums_that_contradict_the_facts_are_found(books: Engine, settings: Settings) -> None:
    now = clock.now()
    with unit_of_work(books) as session:
        program, who = session.exec(select(Program)).one(), session.exec(select(Publisher)).first()
        assert who is not None
        seen = make.click(session, program, who, at=now)
        session.execute(sa.update(JournalPosition).values(clicks=4))
        make.count_clicks(session, [seen.model_dump()], values_max=settings.rollup_values_max)
    assert found(books, settings) == []

    with unit_of_work(books) as session:
        session.execute(sa.update(RollupHour).values(clicks=RollupHour.clicks + 2))

    [(invariant, text)] = found(books, settings)
    assert invariant == 8
    assert text.startswith(f"reports: {now:%Y-%m-%d}: ")
    assert "clicks -2" in text
    assert "tallystick rollups rebuild" in text
