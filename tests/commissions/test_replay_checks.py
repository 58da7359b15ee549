"""A replay finds nothing in histories booked by the house, and every amount changed afterwards."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Engine
from sqlmodel import Session

from commissions import accruals, replay_checks, replay_reading
from commissions.problems import Problem
from commissions.replay_reading import Part, Span
from kernel.database import unit_of_work
from tests import make
from tests.commissions.test_batches import EVENTS, LATER, PLANS, SIZES, _History, work
from tests.make import NOW
from tracker.models import ChangeKind

# Nine weeks: a crossing with its true-ups, a held order that is released, one that comes in late
# and one of another network's history, refunds of a part and of what is frozen, a cancellation.
STORY = [
    *(("sale", 1, 9_000), ("sale", 3, 12_000), ("held", 1, 8_000), ("sale", 7, 7_000)),
    *(("sale", 5, 11_000), ("part", 0, 1_000), ("sale", 9, 10_000), ("sale", 11, 5_000)),
    *(("release", 2, 1), ("sale", 2, 6_000), ("approved", 3, 4_000), ("declined", 4, 3_000)),
    *(("cancel", 1, 1), ("sale", 1, 12_000), ("sale", 0, 5_000), ("refund", 0, 2_500)),
    *(("approve", 3, 1), ("sale", 1, 9_500), ("decline", 6, 1), ("void", 5, 1), ("refund", 2, 99)),
    *(("sale", 3, 8_000), ("sale", 4, 8_000), ("refund", 3, 500), ("refund", 9, 700)),
]


def replayed(session: Session, period: Span = (None, None)) -> list[Problem]:
    return [
        problem
        for part in replay_reading.parts(session, period=period)
        for problem in replay_checks.check(session, part)
    ]


def unlock(session: Session, *tables: str) -> None:
    """Let rows be changed that cannot be, as somebody with the database in hand could."""
    for table in tables:
        if session.get_bind().dialect.name == "postgresql":
            session.execute(sa.text(f"DROP TRIGGER {table}_append_only ON {table}"))
        else:
            for verb in ("update", "delete"):
                session.execute(sa.text(f"DROP TRIGGER {table}_no_{verb}"))


# ruff: noqa: S608 - the statements are these, and break a database on purpose
def falsify(session: Session, conversion_id: str) -> int:
    """Book one minor unit too much, in a way that contradicts nothing but the plan; what is due.

    For whoever the last booking of the order was for, where several publishers share it.
    """
    last = session.execute(
        sa.text(
            "SELECT seq, part FROM booking WHERE conversion_id = :one ORDER BY seq DESC LIMIT 1"
        ),
        {"one": conversion_id},
    ).one()
    given = {"one": conversion_id, "seq": last.seq, "part": last.part}
    own = "WHERE conversion_id = :one AND part = :part"
    due = session.execute(sa.text(f"SELECT amount_minor FROM commission {own}"), given).scalar_one()
    session.execute(
        sa.text(
            "UPDATE booking SET delta_minor = delta_minor + 1, total_minor = total_minor + 1 "
            "WHERE seq = :seq"
        ),
        given,
    )
    session.execute(sa.text(f"UPDATE commission SET amount_minor = amount_minor + 1 {own}"), given)
    return int(due)


def named(session: Session, pick: int) -> None:
    """Falsify one of the commissions and see the replay name it, and no other."""
    ids = session.execute(sa.text("SELECT conversion_id FROM commission ORDER BY seq")).scalars()
    some = list(ids)
    if not some:
        return
    one = some[pick % len(some)]
    due = falsify(session, one)
    ((invariant, subject, detail),) = (
        (found.invariant, found.subject, found.detail) for found in replayed(session)
    )
    assert (invariant, subject) == (3, f"conversion {one}")
    assert detail == f"a replay of its plan gives {due}, booked is {due + 1}"


@pytest.mark.parametrize("name", PLANS)
@settings(max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(events=EVENTS, sizes=SIZES, pick=st.integers(0, 30))
def test_one_minor_unit_too_much_is_named_in_any_history(
    sqlite_engine: Engine,
    name: str,
    events: Sequence[tuple[str, int, int]],
    sizes: list[int],
    pick: int,
) -> None:
    with Session(sqlite_engine) as session:
        history = _History(session, name)
        history.tell(events)
        work(session, history.rows, sizes)
        assert replayed(session) == []
        unlock(session, "booking")
        named(session, pick)
        session.rollback()


@pytest.mark.parametrize("held_max", [0, replay_checks.HELD_MAX])
def test_every_order_of_every_kind_of_plan_is_proved_on_either_database(
    engine: Engine, monkeypatch: pytest.MonkeyPatch, held_max: int
) -> None:
    monkeypatch.setattr(replay_checks, "HELD_MAX", held_max)
    with Session(engine) as session:
        unlock(session, "booking")
        for name in PLANS:
            history = session.begin_nested()
            told = _History(session, name)
            told.tell(STORY)
            work(session, told.rows, [len(told.rows)])
            assert replayed(session) == [], name
            kinds = set(session.execute(sa.text("SELECT kind FROM booking")).scalars())
            assert {"accrue", "refund", "cancel", "hold", "release", "void"} <= kinds
            for pick in range(0, len(told.sales), 4):
                falsified = session.begin_nested()
                named(session, pick)
                falsified.rollback()
            history.rollback()


@pytest.mark.parametrize("name", ["volume", "graduated, later volume", "budget", "cap"])
def test_true_ups_are_among_what_is_proved(sqlite_engine: Engine, name: str) -> None:
    with Session(sqlite_engine) as session:
        told = _History(session, name)
        told.tell(STORY)
        work(session, told.rows, [5])
        query = "SELECT conversion_id FROM booking WHERE kind = 'tier_true_up' ORDER BY seq"
        trued_up = session.execute(sa.text(query)).scalars().first()
        assert trued_up is not None
        unlock(session, "booking")
        due = falsify(session, trued_up)

        (found,) = replayed(session)

        assert found.subject == f"conversion {trued_up}"
        assert found.detail == f"a replay of its plan gives {due}, booked is {due + 1}"


def test_two_versions_in_one_window_are_each_replayed_over_all_its_orders(
    sqlite_engine: Engine,
) -> None:
    with Session(sqlite_engine) as session:
        told = _History(session, "volume, later graduated")
        told.tell(STORY)
        work(session, told.rows, [1])
        versions = session.execute(
            sa.text("SELECT DISTINCT plan_version_id FROM commission WHERE plan_version_id <> ''")
        ).scalars()
        assert len(list(versions)) == 2
        assert LATER["volume, later graduated"]
        assert replayed(session) == []


REFUNDED, WHOLE = "conversion_id = '{0}'", "conversion_id = '{1}'"


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        (f"DELETE FROM booking WHERE {WHOLE}", "has no booking of its order"),
        ("DELETE FROM conversion WHERE id = '{1}'", "has a commission and no order"),
        (f"UPDATE commission SET plan_version_id = NULL WHERE {WHOLE}", "no plan applies, booked"),
        (
            f"UPDATE commission SET plan_version_id = 'x' WHERE {WHOLE}",
            "be evaluated: no such plan",
        ),
        ("UPDATE conversion_change SET amount_minor = 4000", "gives 600, booked is 500"),
        (
            "UPDATE conversion SET amount_minor = 20000 WHERE id = '{1}'",
            "gives 2000, booked is 1000",
        ),
        (f"DELETE FROM booking WHERE {REFUNDED} AND kind = 'refund'", "gives 1000, booked is 500"),
    ],
)
def test_what_no_longer_gives_what_was_booked_is_named_and_stops_nothing(
    sqlite_engine: Engine, statement: str, words: str
) -> None:
    with Session(sqlite_engine) as session:
        session.execute(sa.text("PRAGMA defer_foreign_keys = ON"))
        program, who = make.program(session), make.publisher(session)
        make.plan(session, program)
        first, second = (make.conversion(session, program, who) for _ in range(2))
        make.change(session, first, ChangeKind.REFUND, amount_minor=5_000)
        refund = accruals.Task(accruals.CHANGES, first.id)
        accruals.book(session, [_task(first), _task(second), refund], now=NOW)
        assert replayed(session) == []
        unlock(session, "booking", "conversion", "conversion_change")
        session.execute(sa.text(statement.format(first.id, second.id)))

        (found,) = replayed(session)

        assert found.invariant == 3
        assert words in found.detail
        session.rollback()


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DELETE FROM booking WHERE conversion_id = '{0}' AND kind = 'accrue'", "of its order"),
        ("DELETE FROM booking WHERE conversion_id = '{0}'", "has no booking of its order"),
        ("DELETE FROM conversion WHERE id = '{0}'", "has a commission and no order"),
        ("UPDATE conversion SET amount_minor = 30000 WHERE id = '{0}'", "booked is 250"),
    ],
)
def test_what_is_gone_stops_no_replay_that_looks_back_at_orders(
    sqlite_engine: Engine, statement: str, words: str
) -> None:
    with Session(sqlite_engine) as session:
        session.execute(sa.text("PRAGMA defer_foreign_keys = ON"))
        program, who = make.program(session), make.publisher(session)
        make.plan(session, program, *PLANS["status of days"][0])
        sale = make.conversion(session, program, who)
        make.change(session, sale, ChangeKind.REFUND, amount_minor=5_000)
        refund = accruals.Task(accruals.CHANGES, sale.id)
        accruals.book(session, [_task(sale), refund], now=NOW)
        assert replayed(session) == []
        unlock(session, "booking", "conversion")
        session.execute(sa.text(statement.format(sale.id)))

        (found,) = replayed(session)

        assert (found.invariant, found.subject) == (3, f"conversion {sale.id}")
        assert words in found.detail
        session.rollback()


def test_only_what_occurred_in_the_period_is_asked_about_and_all_that_decides_is_read(
    sqlite_engine: Engine,
) -> None:
    with Session(sqlite_engine) as session:
        told = _History(session, "graduated")
        told.tell(STORY)
        work(session, told.rows, [3])
        unlock(session, "booking")
        late = max(told.sales, key=lambda one: one.occurred_at)
        due = falsify(session, late.id)
        day = timedelta(days=1)

        assert replayed(session, (None, late.occurred_at)) == []
        (found,) = replayed(session, (late.occurred_at, late.occurred_at + day))

        assert found.subject == f"conversion {late.id}"
        assert found.detail == f"a replay of its plan gives {due}, booked is {due + 1}"


def test_what_a_replay_gives_to_somebody_else_is_named(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        program, who, owner = (
            make.program(session),
            make.publisher(session),
            make.publisher(session),
        )
        make.plan(session, program, exclusive_coupons={"OWN": owner.id})
        sale = make.conversion(session, program, who, coupon="OWN")
        work(session, [_task(sale)], [1])
        assert replayed(session) == []
        session.execute(sa.text(f"UPDATE commission SET publisher_id = '{who.id}'"))

        found = {(one.subject, one.detail) for one in replayed(session)}

    assert found == {
        (f"conversion {sale.id}", "a replay of its plan gives 0, booked is 1000"),
        (f"conversion {sale.id}", f"a replay of its plan gives 1000, booked is 0 for {owner.id}"),
    }


def _task(sale: Any) -> Any:
    return accruals.Task(accruals.ACCRUE, sale.id)


def test_orders_of_a_version_published_meanwhile_are_for_the_next_audit(
    sqlite_engine: Engine,
) -> None:
    with Session(sqlite_engine) as session:
        program, who, other = (
            make.program(session),
            make.publisher(session),
            make.publisher(session),
        )
        make.plan(session, program)
        sale = make.conversion(session, program, who)
        work(session, [_task(sale)], [1])
        before = replay_reading.parts(session)
        make.plan(session, program, *PLANS["volume of all"][0], effective_from=NOW)
        some = [
            make.conversion(session, program, one, occurred_at=NOW) for one in (other, who, who)
        ]
        work(session, [_task(one) for one in some], [1])

        found = [one for part in before for one in replay_checks.check(session, part)]

        assert before == [Part(program.id, (who.id,), 1)]
        assert found == []
        assert replayed(session) == []
