"""Rows written past SQLAlchemy read back as if it had written them."""

from datetime import UTC, datetime, timedelta, timezone
from typing import Any

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
