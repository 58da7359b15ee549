"""Rating booked orders again: the difference is booked once, and a replay agrees with it."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from commissions import accruals, checks, explanations, fx_rates, payouts, plan_jobs, rerates
from commissions.accruals import Task
from commissions.fx_rates import Quote
from commissions.models import Booking, Commission, Transaction
from commissions.periods import Period
from commissions.plan_models import PlanJob
from commissions.reasons import Reason
from kernel.database import unit_of_work
from kernel.errors import InvalidInput, NotFound
from network.access import Actor
from network.models import Program, Publisher, Role
from tests import make
from tests.make import NOW
from tracker.models import ChangeKind, Conversion

MANAGER = Actor("usr_m", Role.MANAGER, "", "Manager")
START, END = NOW - timedelta(days=20), NOW + timedelta(days=1)
WHY = "The rate of March was published with a wrong digit."
VOLUME = {
    "mode": "volume",
    "measure": "count",
    "window": "calendar_month",
    "levels": [{"from": 1, "percent": "10"}, {"from": 3, "percent": "20"}],
}


def flat(percent: str, **fields: Any) -> dict[str, Any]:
    return {"id": "all", "pay": {"percent": percent}, **fields}


def sell(session: Session, program: Program, who: Publisher, **facts: Any) -> Conversion:
    made = make.conversion(session, program, who, **facts)
    accruals.accrue(session, made.id, hold_reason=None, now=made.received_at)
    return made


def job_of(session: Session, program: Program) -> PlanJob:
    period = Period(program.id, START, END)
    return plan_jobs.add_rerate(session, period, reason=WHY, actor="usr_m", now=NOW)


def work(engine: Engine, job_id: str) -> PlanJob:
    assert plan_jobs.work(engine, job_id, owner="worker", clock=lambda: NOW)
    return read(engine, job_id)


def read(engine: Engine, job_id: str) -> PlanJob:
    with unit_of_work(engine) as session:
        return session.get_one(PlanJob, job_id)


def confirm(engine: Engine, job: PlanJob) -> None:
    with unit_of_work(engine) as session:
        plan_jobs.confirm(session, job.program_id, job.id, actor="usr_m", now=NOW)


def amounts(engine: Engine) -> list[int]:
    with unit_of_work(engine) as session:
        return list(session.exec(select(Commission.amount_minor).order_by(col(Commission.seq))))


def problems(engine: Engine) -> list[Any]:
    with unit_of_work(engine) as session:
        return list(checks.check(session))


def test_a_correction_is_previewed_confirmed_and_booked_once(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program = make.program(session)
        who = make.publisher(session)
        first = make.plan(session, program, flat("10"))
        sales = [sell(session, program, who, amount_minor=10_000 + at) for at in range(3)]
        make.change(session, sales[1], ChangeKind.REFUND, amount_minor=5_000)
        make.change(session, sales[2], ChangeKind.CANCEL)
        for one in sales:
            accruals.apply_changes(session, one.id, now=NOW)
        second = make.plan(session, program, flat("15"), effective_from=START)
        job = job_of(session, program)
    assert amounts(engine) == [1000, 500, 0]

    previewed = work(engine, job.id)

    assert amounts(engine) == [1000, 500, 0]
    assert previewed.status == "previewed"
    preview = previewed.result["preview"]
    assert {name: preview[name] for name in ("orders", "changed", "raised", "lowered")} == {
        "orders": 3,
        "changed": 3,
        "raised": 2,
        "lowered": 0,
    }
    assert (preview["before_minor"], preview["after_minor"]) == (1500, 2250)
    assert preview["publishers"][0]["difference_minor"] == 750

    confirm(engine, job)
    done = work(engine, job.id)

    assert (done.status, done.done) == ("done", 3)
    assert done.result["applied"]["difference_minor"] == 750
    assert amounts(engine) == [1500, 750, 0]
    assert problems(engine) == []
    confirm(engine, job)
    assert not plan_jobs.work(engine, job.id, owner="worker", clock=lambda: NOW)
    with unit_of_work(engine) as session:
        booked = session.exec(select(Booking).where(Booking.kind == "rerate")).all()
        assert [one.delta_minor for one in booked] == [500, 250, 0]
        event = booked[0].explanation["event"]
        assert event["plan_before"] == {"id": first.id, "version": 1}
        assert event["plan_after"] == {"id": second.id, "version": 2}
        assert event["said"] == WHY
        posted = session.exec(select(Transaction.reason).where(Transaction.kind == "rerate"))
        assert len(posted.all()) == 2
        told = explanations.words(explanations.explain(session, MANAGER, sales[0].id), "en")
        assert "2026-03-10: rated again by version 2 of the plan instead of version 1: " in told[5]
        again = job_of(session, program)
    assert work(engine, again.id).result["preview"]["changed"] == 0


def test_what_was_paid_is_set_off_and_keeps_its_status(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program = make.program(session, hold_days=0)
        who = make.publisher(session)
        make.plan(session, program, flat("80"))
        sell(session, program, who)
        accruals.sweep(session, now=NOW + timedelta(hours=1), rows_max=10)
        accruals.sweep(session, now=NOW + timedelta(hours=1), rows_max=10)
        run = payouts.propose(session, actor="usr_a", now=NOW)
        payouts.approve(session, run.id, actor="usr_b", now=NOW)
        make.plan(
            session, program, flat("8"), effective_from=START, waiver="Eight, not eighty percent."
        )
        job = job_of(session, program)
    work(engine, job.id)
    confirm(engine, job)
    work(engine, job.id)

    assert amounts(engine) == [800]
    assert problems(engine) == []
    with unit_of_work(engine) as session:
        [commission] = session.exec(select(Commission)).all()
        assert commission.reason == Reason.RERATED
        assert commission.claimed_minor == 8000


def test_orders_from_before_any_plan_come_into_the_counters(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program = make.program(session)
        who = make.publisher(session)
        early = [
            sell(session, program, who, occurred_at=NOW - timedelta(days=2, hours=at))
            for at in range(2)
        ]
        make.plan(session, program, {"id": "v", "tiers": VOLUME}, effective_from=NOW)
        sell(session, program, who)
        make.plan(session, program, {"id": "v", "tiers": VOLUME}, effective_from=START)
        job = job_of(session, program)
    assert amounts(engine) == [0, 0, 1000]
    work(engine, job.id)
    confirm(engine, job)
    work(engine, job.id)

    # Three orders of the month now, so all three earn the second level.
    assert amounts(engine) == [2000, 2000, 2000]
    assert problems(engine) == []
    with unit_of_work(engine) as session:
        sell(session, program, who)
        commission = session.get_one(Commission, (early[0].id, 0))
        assert (commission.base_minor, commission.units, commission.reason) == (10_000, 1, "")
    assert amounts(engine) == [2000, 2000, 2000, 2000]
    assert problems(engine) == []


def _be_killed_before_the_commit(engine: Engine, job: PlanJob) -> None:
    with unit_of_work(engine) as session:
        plan_jobs.apply_next(session, session.get_one(PlanJob, job.id), now=NOW)
        raise RuntimeError("killed")


def test_a_re_rate_goes_on_where_it_was_killed(engine: Engine, monkeypatch: Any) -> None:
    monkeypatch.setattr(rerates, "PIECE_ROWS", 2)
    with unit_of_work(engine) as session:
        program = make.program(session)
        make.plan(session, program, flat("10"))
        for _ in range(2):
            who = make.publisher(session)
            for _ in range(3):
                sell(session, program, who)
        make.plan(session, program, flat("11"), effective_from=START)
        job = job_of(session, program)
    work(engine, job.id)
    confirm(engine, job)
    with unit_of_work(engine) as session:
        assert plan_jobs.apply_next(session, session.get_one(PlanJob, job.id), now=NOW)
    assert amounts(engine) == [1100, 1100, 1000, 1000, 1000, 1000]
    assert problems(engine) == []
    with pytest.raises(RuntimeError):
        _be_killed_before_the_commit(engine, job)
    assert read(engine, job.id).done == 2

    assert work(engine, job.id).done == 6
    assert amounts(engine) == [1100] * 6
    assert problems(engine) == []


def test_orders_are_never_moved_to_another_publisher(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program = make.program(session)
        who, owner = make.publisher(session), make.publisher(session)
        make.plan(session, program, flat("10"))
        sell(session, program, who, coupon="OWN")
        make.plan(
            session,
            program,
            flat("20"),
            effective_from=START,
            exclusive_coupons={"OWN": owner.id},
            waiver="The coupon was promised to its owner.",
        )
        job = job_of(session, program)
    assert work(engine, job.id).result["preview"]["left"] == {"other_payee": 1}
    confirm(engine, job)
    assert work(engine, job.id).result["applied"]["changed"] == 0
    assert amounts(engine) == [1000]
    assert problems(engine) == []


def test_shared_counters_are_rated_together(engine: Engine) -> None:
    shared = {"id": "v", "tiers": {**VOLUME, "scope": ["program"]}}
    with unit_of_work(engine) as session:
        program = make.program(session)
        make.plan(session, program, flat("10"))
        for _ in range(3):
            sell(session, program, make.publisher(session))
        make.plan(session, program, shared, effective_from=START)
        job = job_of(session, program)
    work(engine, job.id)
    confirm(engine, job)
    work(engine, job.id)

    assert amounts(engine) == [2000, 2000, 2000]
    assert problems(engine) == []


def test_what_is_not_previewed_is_not_booked(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session)
        with pytest.raises(NotFound):
            job_of(session, program)
        make.plan(session, program)
        job = job_of(session, program)
        with pytest.raises(plan_jobs.NotConfirmable):
            plan_jobs.confirm(session, program.id, job.id, actor="usr_m", now=NOW)
        with pytest.raises(InvalidInput):
            plan_jobs.add_rerate(
                session, Period(program.id, END, START), reason=WHY, actor="usr_m", now=NOW
            )
        with pytest.raises(InvalidInput):
            plan_jobs.add_rerate(
                session, Period(program.id, START, END), reason="typo", actor="usr_m", now=NOW
            )
    work(sqlite_engine, job.id)
    with unit_of_work(sqlite_engine) as session:
        plan_jobs.dismiss(session, program.id, job.id, actor="usr_m", now=NOW)
        plan_jobs.dismiss(session, program.id, job.id, actor="usr_m", now=NOW)
        with pytest.raises(plan_jobs.NotConfirmable):
            plan_jobs.confirm(session, program.id, job.id, actor="usr_m", now=NOW)
        assert session.exec(select(Booking)).all() == []


def test_a_shared_order_is_rated_again_by_its_shares(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program = make.program(session)
        first, second = make.publisher(session), make.publisher(session)
        make.plan(session, program, flat("10"))
        sell(session, program, first, shares=[(first, 2, 3), (second, 1, 3)])
    assert amounts(engine) == [667, 333]
    with unit_of_work(engine) as session:
        make.plan(session, program, flat("5"))
        job = job_of(session, program)
    previewed = work(engine, job.id)

    confirm(engine, previewed)
    work(engine, job.id)

    assert amounts(engine) == [333, 167]
    with unit_of_work(engine) as session:
        pinned = set(session.exec(select(Commission.plan_version_id)))
        booked = session.exec(
            select(Booking.part, Booking.delta_minor)
            .where(Booking.kind == rerates.KIND)
            .order_by(col(Booking.part))
        ).all()
    assert (len(pinned), [tuple(one) for one in booked]) == (1, [(0, -334), (1, -166)])
    assert problems(engine) == []


def test_an_order_that_waits_for_its_rate_moves_and_goes_on_waiting(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program = make.program(session)
        who = make.publisher(session)
        make.plan(session, program, flat("10"))
        waiting = sell(session, program, who, currency="USD")
        make.plan(session, program, flat("5"))
        job = job_of(session, program)
    previewed = work(engine, job.id)
    confirm(engine, previewed)
    work(engine, job.id)
    with unit_of_work(engine) as session:
        before = session.exec(select(Commission.amount_minor, Commission.reason)).one()
        quote = Quote(NOW.date(), "EUR", "USD", "2")
        fx_rates.record(session, "ecb", [quote], actor="t", now=NOW)
        accruals.book(session, [Task(accruals.RATED, waiting.id)], now=NOW)

    assert tuple(before) == (0, Reason.NO_RATE)
    assert amounts(engine) == [250]
    assert problems(engine) == []
