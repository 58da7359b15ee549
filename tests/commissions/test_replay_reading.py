from datetime import timedelta

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import Session

from commissions import accruals, plans, replay_reading
from commissions.accruals import Task
from commissions.replay_reading import Part
from tests import make
from tests.commissions.test_batches import PLANS
from tests.make import NOW

DAY = timedelta(days=1)


def test_parts_hold_whole_publishers_and_a_counter_for_all_holds_all_of_them(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(replay_reading, "ORDERS_A_PART", 3)
    with Session(sqlite_engine) as session:
        alone, joined = make.program(session), make.program(session)
        make.plan(session, alone)
        make.plan(session, joined, *PLANS["volume of all"][0])
        who = [make.publisher(session) for _ in range(4)]
        tasks = [
            Task(accruals.ACCRUE, make.conversion(session, program, one, occurred_at=at).id)
            for program in (alone, joined)
            for one, count in zip(who, (4, 2, 1, 1), strict=True)
            for at in [NOW - number * DAY for number in range(count)]
        ]
        accruals.book(session, tasks, now=NOW)

        found = replay_reading.parts(session)
        later = replay_reading.parts(session, program_id=joined.id, period=(NOW, NOW + DAY))

    first, second, third, fourth = (one.id for one in who)
    assert sorted(found, key=lambda one: (one.program_id, one.publisher_ids or ())) == [
        Part(alone.id, (first,), 4),
        Part(alone.id, (second, third), 3),
        Part(alone.id, (fourth,), 1),
        Part(joined.id, None, 8),
    ]
    assert [one.orders for one in found] == [8, 4, 3, 1]
    assert later == [Part(joined.id, None, 4, (NOW, NOW + DAY))]


def test_orders_come_in_the_order_in_which_they_were_booked(engine: Engine) -> None:
    with Session(engine) as session:
        program, who = make.program(session), make.publisher(session)
        version = make.plan(session, program)
        sales = [
            make.conversion(session, program, who, occurred_at=NOW - number * DAY)
            for number in range(4)
        ]
        booked = [sales[at].id for at in (2, 0, 3, 1)]
        for one in booked:
            accruals.book(session, [Task(accruals.ACCRUE, one)], now=NOW)
        (part,) = replay_reading.parts(session)

        ((ids, story),) = replay_reading.stories(session, part)
        ((some, _),) = replay_reading.stories(session, part, (NOW - 2 * DAY, NOW))
        (span,) = replay_reading.spans(session, part).items()

        assert list(ids) == booked
        assert set(story.facts) == set(booked)
        assert list(some) == [one for one in booked if one in {sales[1].id, sales[2].id}]
        assert span == (version.id, (NOW - 3 * DAY, NOW))


def test_what_decides_about_a_span_is_all_of_its_windows(sqlite_engine: Engine) -> None:
    with Session(sqlite_engine) as session:
        for name, months in (("graduated", (3, 4)), ("status", (2, 4))):
            version = make.plan(session, make.program(session), *PLANS[name][0])
            plan = plans.parsed(session, version.id)

            start, end = replay_reading.reach(plan, (NOW, NOW + DAY))

            assert start is not None
            assert end is not None
            assert (start.month, end.month, start.day, end.day) == (*months, 1, 1), name
        budget = make.plan(session, make.program(session), caps={"budget_minor": 1})
        whole = replay_reading.reach(plans.parsed(session, budget.id), (NOW, NOW))
    assert whole == (None, None)
