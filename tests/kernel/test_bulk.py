"""Rows written past SQLAlchemy read back as if it had written them."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import col, select

from commissions.models import PayoutRun
from kernel import bulk
from kernel.database import reading, unit_of_work

TABLE = PayoutRun.metadata.tables["payout_run"]
INSERT = bulk.Insert(TABLE, "id", "status", "proposed_by", "proposed_at", "skipped")
NOON = datetime(2026, 3, 10, 12, 0, 0, 123456, tzinfo=UTC)


def row(number: int, **facts: Any) -> dict[str, Any]:
    given = {"id": f"run_{number}", "status": "draft", "proposed_by": "usr", "proposed_at": NOON}
    return given | {"skipped": []} | facts


def test_values_go_through_the_column_types(engine: Engine) -> None:
    elsewhere = NOON.astimezone(timezone(timedelta(hours=9)))
    document = [{"text": '\u00e9\u4e2d "q"', "none": None, "number": 10**30, "list": [1, True]}]
    with unit_of_work(engine) as session:
        INSERT(session, [])
        INSERT(session, [row(1), row(2, proposed_at=elsewhere, skipped=document), row(3)])

    with reading(engine) as session:
        found = session.exec(select(PayoutRun).order_by(col(PayoutRun.id))).all()
        assert [one.proposed_at for one in found] == [NOON] * 3
        assert [one.skipped for one in found] == [[], document, []]
        written = session.execute(sa.select(TABLE).order_by(TABLE.c.id)).all()
    with unit_of_work(engine) as session:
        session.execute(sa.delete(TABLE))
        session.execute(sa.insert(TABLE), [row(1), row(2, skipped=document), row(3)])
    with reading(engine) as session:
        assert session.execute(sa.select(TABLE).order_by(TABLE.c.id)).all() == written


def test_the_database_numbers_the_rows_in_their_order(engine: Engine) -> None:
    step = PayoutRun.metadata.tables["outbox"]
    insert = bulk.Insert(
        step, "kind", "subject_id", "lane", "recorded_at", "attempts", "last_error"
    )
    rows = [
        {
            "kind": "k",
            "subject_id": f"s{number}",
            "lane": "l",
            "recorded_at": NOON,
            "attempts": 0,
            "last_error": "",
        }
        for number in range(1500)
    ]
    with unit_of_work(engine) as session:
        insert(session, rows)

    with reading(engine) as session:
        found = session.execute(sa.select(step.c.subject_id).order_by(step.c.seq)).scalars().all()
    assert found == [f"s{number}" for number in range(1500)]


def test_a_row_that_is_there_already_takes_the_new_values_by_its_key(engine: Engine) -> None:
    keep = bulk.Insert(TABLE, "id", "status", "proposed_by", "proposed_at", "skipped", key="id")
    with unit_of_work(engine) as session:
        INSERT(session, [row(1), row(2)])
        keep(session, [row(2, status="approved", skipped=[{"a": 1}]), row(3)])

    with reading(engine) as session:
        found = session.exec(select(PayoutRun).order_by(col(PayoutRun.id))).all()
        assert [(one.id, one.status, one.skipped) for one in found] == [
            ("run_1", "draft", []),
            ("run_2", "approved", [{"a": 1}]),
            ("run_3", "draft", []),
        ]


def test_a_row_that_is_there_already_stays_as_it_is_and_is_not_counted(engine: Engine) -> None:
    keep = bulk.Insert(TABLE, "id", "status", "proposed_by", "proposed_at", "skipped", unless="id")
    with unit_of_work(engine) as session:
        assert keep.rows(session, []) == 0
        assert keep.rows(session, [("run_1", "draft", "usr", NOON, [])]) == 1
        again: list[tuple[Any, ...]] = [
            ("run_1", "approved", "usr", NOON, []),
            ("run_2", "draft", "usr", NOON, []),
        ]
        assert keep.rows(session, again) == 1

    with reading(engine) as session:
        found = session.exec(select(PayoutRun).order_by(col(PayoutRun.id))).all()
        assert [(one.id, one.status) for one in found] == [("run_1", "draft"), ("run_2", "draft")]


def test_a_time_without_a_zone_is_refused(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        with pytest.raises(ValueError, match="zone"):
            INSERT(session, [row(1, proposed_at=NOON.replace(tzinfo=None))])
        assert session.exec(select(PayoutRun)).all() == []


def test_numbers_are_given_once_and_rows_that_are_numbered_later_come_after(
    engine: Engine,
) -> None:
    steps = PayoutRun.metadata.tables["ledger_transaction"]
    names = [one.name for one in steps.c if one.name != "id"]
    facts = {"effective_at": NOON, "recorded_at": NOON}

    def values(key: str) -> list[Any]:
        return [facts.get(name, key) for name in names]

    with unit_of_work(engine) as session:
        taken = list(bulk.numbers(session, steps.c.id, 3))
        bulk.Insert(steps, "id", *names).rows(session, [[one, *values(f"k{one}")] for one in taken])
        bulk.Insert(steps, *names).rows(session, [values("later")])
        more = list(bulk.numbers(session, steps.c.id, 1))

        found = session.execute(sa.select(steps.c.id).order_by(steps.c.id)).scalars().all()
    assert found == [*taken, taken[-1] + 1]
    assert more[0] > found[-1]
