"""An audit row stands or falls with the action, and nothing changes it afterwards."""

from datetime import UTC, datetime

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, select

from kernel import audit
from kernel.audit import AuditEntry
from kernel.database import connect, reading, unit_of_work
from kernel.errors import Refused


def note(session: Session, now: datetime) -> None:
    audit.record(
        session, actor="usr_1", action="flag.clear", subject_id="cnv_1", now=now, note="\u597d", n=1
    )


def entries(engine: Engine) -> list[AuditEntry]:
    with reading(engine) as session:
        return list(session.exec(select(AuditEntry).order_by(sa.text("seq"))))


def test_who_did_what_when_to_what(engine: Engine, now: datetime) -> None:
    with unit_of_work(engine) as session:
        note(session, now)
        note(session, now)

    first, second = entries(engine)
    assert (first.actor, first.action, first.subject_id) == ("usr_1", "flag.clear", "cnv_1")
    assert first.facts == {"note": "\u597d", "n": 1}
    assert first.at.replace(tzinfo=UTC) == now
    assert first.id.startswith("aud_")
    assert first.id != second.id
    assert (first.seq, second.seq) == (1, 2)


def test_an_action_that_fails_leaves_no_entry(engine: Engine, now: datetime) -> None:
    def act() -> None:
        with unit_of_work(engine) as session:
            note(session, now)
            session.flush()
            raise Refused("no")

    with pytest.raises(Refused):
        act()

    assert entries(engine) == []


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE audit_entry SET actor = 'nobody'",
        "DELETE FROM audit_entry",
        "DELETE FROM audit_entry WHERE seq = 1",
    ],
)
def test_the_database_refuses_to_change_an_entry(
    engine: Engine, now: datetime, statement: str
) -> None:
    with unit_of_work(engine) as session:
        note(session, now)

    with (
        pytest.raises(sa.exc.DBAPIError, match="audit_entry is append-only"),
        unit_of_work(engine) as session,
    ):
        session.execute(sa.text(statement))

    assert [entry.actor for entry in entries(engine)] == ["usr_1"]


@pytest.mark.services
def test_postgresql_refuses_to_empty_the_table(postgres_url: str, now: datetime) -> None:
    engine = connect(postgres_url)
    try:
        with unit_of_work(engine) as session:
            note(session, now)
        with (
            pytest.raises(sa.exc.DBAPIError, match="audit_entry is append-only"),
            unit_of_work(engine) as session,
        ):
            session.execute(sa.text("TRUNCATE audit_entry"))
        assert len(entries(engine)) == 1
    finally:
        engine.dispose()


def test_bug_insert_or_replace_went_round_the_append_only_trigger(
    sqlite_engine: Engine, now: datetime
) -> None:
    with unit_of_work(sqlite_engine) as session:
        note(session, now)

    with (
        pytest.raises(sa.exc.DBAPIError, match="audit_entry is append-only"),
        unit_of_work(sqlite_engine) as session,
    ):
        session.execute(
            sa.text(
                "INSERT OR REPLACE INTO audit_entry "
                "SELECT seq, id, at, 'nobody', action, subject_id, facts FROM audit_entry"
            )
        )

    assert [entry.actor for entry in entries(sqlite_engine)] == ["usr_1"]
