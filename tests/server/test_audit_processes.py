"""Several processes find what one finds, also while somebody books."""

from collections.abc import Sequence

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import Session

from commissions import accruals
from commissions.accruals import Task
from kernel.database import unit_of_work
from kernel.settings import Settings
from network.models import Program, Publisher
from server import audit, audit_processes
from server.audit import Finding, Scope
from tests import make
from tests.commissions.test_batches import PLANS
from tests.commissions.test_replay_checks import falsify, unlock
from tests.make import NOW
from tracker.models import Conversion, JournalPosition


def book(session: Session, program: Program, publishers: Sequence[Publisher]) -> list[Conversion]:
    """An order for each, shipped and booked."""
    sales = [make.conversion(session, program, who) for who in publishers]
    accruals.book(session, [Task(accruals.ACCRUE, one.id) for one in sales], now=NOW)
    position = session.get(JournalPosition, "j-1") or JournalPosition(
        journal_id="j-1", segment=1, offset=1, updated_at=NOW
    )
    position.conversions += len(sales)
    session.add(position)
    return sales


def network(session: Session) -> tuple[list[Program], list[Publisher]]:
    programs = []
    for name in ("flat", "volume of all", "graduated", "budget"):
        programs.append(make.program(session))
        rules, document = PLANS[name]
        make.plan(session, programs[-1], *rules, **document)
    return programs, [make.publisher(session) for _ in range(3)]


def told(
    engine: Engine, settings: Settings, *, processes: int
) -> tuple[list[Finding], dict[str, tuple[int, int]]]:
    said: dict[str, tuple[int, int]] = {}

    def progress(what: str, done: int, total: int) -> None:
        assert done >= said.get(what, (0, 0))[0]
        said[what] = done, total

    found = audit_processes.run(engine, settings, Scope(), processes=processes, progress=progress)
    return list(found), said


def test_several_processes_find_what_one_finds(
    engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_processes, "_ORDERS_MIN", 0)
    with unit_of_work(engine) as session:
        programs, publishers = network(session)
        sales = [sale for program in programs for sale in book(session, program, publishers)]
        unlock(session, "booking")
        due = falsify(session, sales[4].id)
        falsify(session, sales[7].id)
    alone = list(audit.run(engine, settings))

    found, said = told(engine, settings, processes=2)

    assert found == alone
    assert [one.subject for one in found if one.invariant == 3 and "replay" in one.detail] == [
        f"conversion {sales[4].id}",
        f"conversion {sales[7].id}",
    ]
    assert f"a replay of its plan gives {due}, booked is {due + 1}" in {one.detail for one in found}
    assert said["orders"] == (12, 12)
    assert said["steps"][0] == said["steps"][1]


def test_an_order_that_is_booked_meanwhile_is_no_problem(
    engine: Engine, settings: Settings
) -> None:
    with unit_of_work(engine) as session:
        programs, publishers = network(session)
        for program in programs:
            book(session, program, publishers)
    booked = 0

    def progress(what: str, done: int, _total: int) -> None:
        nonlocal booked
        if what == "steps" and done % 4 == 0:
            with unit_of_work(engine) as session:
                somebody = make.publisher(session)
                for program in programs:
                    booked += len(book(session, program, [*publishers, somebody]))

    found = list(audit_processes.run(engine, settings, Scope(), processes=1, progress=progress))

    assert found == []
    assert booked > 50


def test_of_very_many_findings_the_first_are_listed_and_the_rest_is_said_to_be_there(
    sqlite_engine: Engine, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit, "FINDINGS_MAX", 2)
    with unit_of_work(sqlite_engine) as session:
        programs, publishers = network(session)
        sales = book(session, programs[0], publishers)
        unlock(session, "booking")
        for sale in sales:
            falsify(session, sale.id)

    found = [
        one
        for one in told(sqlite_engine, settings, processes=1)[0]
        if one.subject == "replay" or "replay" in one.detail
    ]

    assert len(found) == 3
    assert found[-1].detail == "more than 2 of these; the others are not listed"
