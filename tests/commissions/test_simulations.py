"""A draft beside the books: exact totals by publisher, region and category, and nothing written."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import Session, select

from commissions import accruals, fx_rates, plan_jobs, simulations
from commissions.fx_rates import Quote
from commissions.models import Booking
from commissions.periods import Period
from commissions.rules import parse_plan
from kernel.database import reading, unit_of_work
from kernel.errors import InvalidInput
from kernel.outbox import acquire
from network.models import Program, Publisher
from tests import make
from tests.make import NOW

START, END = NOW - timedelta(days=20), NOW + timedelta(days=1)
BOOKS = {"category": "books", "amount_minor": 6_000}
TOYS = {"category": "toys", "amount_minor": 4_000}


def draft(*rules: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"currency": "EUR", "rules": list(rules), **more}


def sell(session: Session, program: Program, who: Publisher, **facts: Any) -> None:
    made = make.conversion(session, program, who, **facts)
    accruals.accrue(session, made.id, hold_reason=None, now=made.received_at)


def row(found: list[dict[str, Any]], key: str) -> tuple[int, int, int]:
    [one] = [one for one in found if one["key"] == key]
    return one["orders"], one["booked_minor"], one["simulated_minor"]


def test_a_draft_is_compared_with_what_was_booked(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program = make.program(session)
        one, other = make.publisher(session), make.publisher(session)
        make.plan(session, program)
        sell(session, program, one, country="DE", items=[BOOKS, TOYS])
        sell(session, program, one, country="US", items=[TOYS], amount_minor=4_000)
        sell(session, program, other, country="FR", items=[BOOKS], amount_minor=6_000)
        sell(session, program, other, occurred_at=NOW - timedelta(days=40))
    plan = parse_plan(
        draft(
            {"id": "all", "pay": {"percent": "5"}},
            {"id": "books", "pay": {"percent": "15"}, "when": {"category": ["books"]}},
            regions={"EU": ["DE", "FR"]},
        )
    )
    told: list[tuple[int, int]] = []
    with reading(engine) as session:
        found = simulations.run(
            session,
            Period(program.id, START, END),
            plan,
            progress=lambda done, total: told.append((done, total)),
        ).as_json()

    assert row([found["all"]], "") == (3, 2000, 2200)
    assert row(found["publishers"], one.id) == (2, 1400, 1300)
    assert row(found["publishers"], other.id) == (1, 600, 900)
    assert row(found["regions"], "EU") == (2, 1600, 2000)
    assert row(found["regions"], "US") == (1, 400, 200)
    assert row(found["categories"], "books") == (2, 1200, 1800)
    assert row(found["categories"], "toys") == (2, 800, 400)
    assert (found["orders_raised"], found["orders_lowered"]) == (2, 1)
    assert (told[0], told[-1], len(told)) == ((0, 3), (3, 3), 3)


def test_counters_are_those_of_the_whole_window(engine: Engine) -> None:
    tiers = {
        "mode": "graduated",
        "measure": "count",
        "window": "calendar_month",
        "levels": [{"from": 1, "percent": "5"}, {"from": 3, "percent": "20"}],
    }
    with unit_of_work(engine) as session:
        program = make.program(session)
        who = make.publisher(session)
        make.plan(session, program)
        for day in (1, 2, 3):
            sell(session, program, who, occurred_at=NOW.replace(day=day))
    with reading(engine) as session:
        found = simulations.run(
            session,
            Period(program.id, NOW.replace(day=3), NOW),
            parse_plan(draft({"id": "t", "tiers": tiers})),
            progress=lambda *_: None,
        )
    # The two orders before the period are what makes its only one the third.
    assert (found.all.orders, found.all.booked_minor, found.all.simulated_minor) == (1, 1000, 2000)


def test_an_exclusive_coupon_pays_its_owner_in_the_draft(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program = make.program(session)
        one, owner = make.publisher(session), make.publisher(session)
        make.plan(session, program)
        sell(session, program, one, coupon="OWN")
    plan = parse_plan(
        draft({"id": "all", "pay": {"percent": "10"}}, exclusive_coupons={"OWN": owner.id})
    )
    with reading(engine) as session:
        period = Period(program.id, START, END)
        found = simulations.run(session, period, plan, progress=lambda *_: None).as_json()
    assert row(found["publishers"], one.id) == (1, 1000, 0)
    assert row(found["publishers"], owner.id) == (0, 0, 1000)


def test_shares_and_other_currencies_are_simulated_as_they_are_booked(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program = make.program(session)
        one, other = make.publisher(session), make.publisher(session)
        make.plan(session, program)
        sell(session, program, one, currency="USD", amount_minor=3_000)
        quote = Quote(NOW.date() - timedelta(days=1), "EUR", "USD", "2")
        fx_rates.record(session, "ecb", [quote], actor="t", now=NOW)
        sell(session, program, other, currency="USD", amount_minor=20_000)
        sell(session, program, one, shares=[(one, 2, 3), (other, 1, 3)])
    plan = parse_plan(draft({"id": "all", "pay": {"percent": "5"}}))
    with reading(engine) as session:
        period = Period(program.id, START, END)
        found = simulations.run(session, period, plan, progress=lambda *_: None).as_json()

    # The first order still waits for its rate: it earns nothing in either.
    assert row([found["all"]], "") == (3, 2000, 1000)
    assert row(found["publishers"], one.id) == (2, 667, 333)
    assert row(found["publishers"], other.id) == (1, 1333, 667)
    assert found["orders_unconvertible"] == 1


def test_a_simulation_is_a_job_and_books_nothing(engine: Engine) -> None:
    document = draft({"id": "all", "pay": {"percent": "12"}})
    with unit_of_work(engine) as session:
        program = make.program(session)
        make.plan(session, program)
        sell(session, program, make.publisher(session))
        period = Period(program.id, START, END)
        job = plan_jobs.add_simulation(session, period, document, actor="usr_m", now=NOW)
        with pytest.raises(InvalidInput, match="currency"):
            plan_jobs.add_simulation(
                session, period, document | {"currency": "USD"}, actor="usr_m", now=NOW
            )
        for _ in range(plan_jobs.OPEN_MAX - 1):
            plan_jobs.add_simulation(session, period, document, actor="usr_m", now=NOW)
        with pytest.raises(plan_jobs.TooManyJobs):
            plan_jobs.add_simulation(session, period, document, actor="usr_m", now=NOW)
    assert plan_jobs.work(engine, job.id, owner="worker", clock=lambda: NOW)

    with reading(engine) as session:
        kept = session.get_one(type(job), job.id)
        assert (kept.status, kept.done, kept.total) == ("done", 1, 1)
        assert kept.result["all"]["difference_minor"] == 200
        assert kept.document == document
        assert [one.kind for one in session.exec(select(Booking))] == ["accrue"]
        assert len(plan_jobs.waiting(session)) == plan_jobs.OPEN_MAX - 1


def test_a_job_belongs_to_one_worker_at_a_time(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session)
        period = Period(program.id, START, END)
        document = draft({"id": "all", "pay": {"percent": "12"}})
        job = plan_jobs.add_simulation(session, period, document, actor="usr_m", now=NOW)
        acquire(session, f"plan-job:{job.id}", owner="first", seconds=60, now=NOW)

    assert not plan_jobs.work(sqlite_engine, job.id, owner="second", clock=lambda: NOW)
    later = NOW + timedelta(seconds=61)
    assert plan_jobs.work(sqlite_engine, job.id, owner="second", clock=lambda: later)
