from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session

from commissions import accruals, payouts
from commissions.checks import check
from commissions.models import Commission
from kernel.database import unit_of_work
from tests import make
from tests.make import NOW

DUE = NOW + timedelta(days=40)


def _books(session: Session) -> None:
    """Two publishers, one paid run and one open, something held and something declined."""
    program = make.program(session)
    make.plan(session, program)
    who, other = make.publisher(session), make.publisher(session)
    for one in (who, who, other, other):
        sale = make.conversion(session, program, one)
        accruals.accrue(session, sale.id, hold_reason=None, now=NOW)
    accruals.sweep(session, now=DUE, rows_max=100)
    run = payouts.propose(session, actor="usr_1", now=DUE)
    payouts.approve(session, run.id, actor="usr_2", now=DUE)
    held = make.conversion(session, program, who)
    accruals.accrue(session, held.id, hold_reason="fraud_suspected", now=DUE)
    declined = make.conversion(session, program, who, reported_status="declined")
    accruals.accrue(session, declined.id, hold_reason=None, now=DUE)


# ruff: noqa: S608 - the statements are these, and break a database on purpose
ONE = "(SELECT min(conversion_id) FROM commission)"
HAND_BROKEN = [
    (
        2,
        "posting",
        ["posting"],
        "UPDATE posting SET currency = 'USD' WHERE transaction_id = 1",
    ),
    (2, "transaction", ["posting"], "DELETE FROM posting WHERE transaction_id = 1"),
    (2, "account", [], "UPDATE balance SET debits_minor = debits_minor + 1 WHERE account_id = 1"),
    (2, "conversion", ["posting"], "UPDATE posting SET amount_minor = 7 WHERE transaction_id = 1"),
    (2, "account pub", [], f"UPDATE commission SET status = 'held' WHERE conversion_id = {ONE}"),
    (3, "conversion", ["booking"], "UPDATE booking SET delta_minor = 7 WHERE kind = 'decline'"),
    (3, "conversion", [], f"DELETE FROM commission WHERE conversion_id = {ONE}"),
    (
        3,
        "conversion",
        ["conversion"],
        f"UPDATE conversion SET amount_minor = 10010 WHERE id = {ONE}",
    ),
    (
        3,
        "conversion",
        [],
        f"UPDATE commission SET plan_version_id = NULL WHERE conversion_id = {ONE}",
    ),
    (5, "payout", [], "UPDATE payout SET amount_minor = amount_minor + 1"),
    (5, "payout", ["payout_line"], f"DELETE FROM payout_line WHERE conversion_id = {ONE}"),
    (5, "conversion", [], f"UPDATE commission SET claimed_minor = 0 WHERE conversion_id = {ONE}"),
    (5, "account pub", [], "UPDATE payout SET status = 'settled'"),
    (6, "conversion", [], "UPDATE commission SET reason = '' WHERE status = 'held'"),
    (6, "conversion", [], "UPDATE commission SET reason = '' WHERE status = 'declined'"),
]


@pytest.mark.parametrize(("invariant", "subject", "locked", "statement"), HAND_BROKEN)
def test_what_was_broken_by_hand_is_named(
    sqlite_engine: Engine, invariant: int, subject: str, locked: list[str], statement: str
) -> None:
    with unit_of_work(sqlite_engine) as session:
        _books(session)
        assert list(check(session)) == []
    connection = sqlite_engine.raw_connection()
    cursor = connection.cursor()
    cursor.execute("PRAGMA foreign_keys = OFF")
    for table in locked:
        cursor.execute(f"DROP TRIGGER {table}_no_update")
        cursor.execute(f"DROP TRIGGER {table}_no_delete")
    cursor.execute(statement)
    connection.commit()
    connection.close()

    with unit_of_work(sqlite_engine) as session:
        found = [one for one in check(session) if one.invariant != 4]

        assert any(
            one.invariant == invariant and one.subject.startswith(subject) for one in found
        ), found


@pytest.mark.parametrize("table", ["booking", "posting", "plan_version", "payout_line"])
def test_a_dropped_trigger_is_named(engine: Engine, table: str) -> None:
    name, on = f"{table}_no_update", ""
    if engine.dialect.name == "postgresql":
        name, on = f"{table}_append_only", f" ON {table}"
    with unit_of_work(engine) as session:
        _books(session)
        session.execute(sa.text(f"DROP TRIGGER {name}{on}"))

        found = list(check(session))

        assert [(one.invariant, one.subject) for one in found] == [(4, f"table {table}")]
        assert name in found[0].detail


def test_sound_books_have_no_problem_on_either_database(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        _books(session)
        assert list(check(session)) == []
        assert session.execute(sa.select(sa.func.count()).select_from(Commission)).scalar() == 6
