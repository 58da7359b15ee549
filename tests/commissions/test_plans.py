from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, select

from commissions import plans
from commissions.models import PlanVersion
from kernel.audit import AuditEntry
from kernel.database import unit_of_work
from kernel.errors import InvalidInput, NotFound, TooLarge
from network.models import Program
from tests import make
from tests.make import NOW

FLAT = {"id": "flat", "pay": {"percent": "5"}}


def _publish(session: Session, program: Program, **facts: Any) -> PlanVersion:
    given: dict[str, Any] = {
        "program_id": program.id,
        "document": {"currency": "EUR", "rules": [FLAT]},
        "effective_from": NOW,
        "actor": "usr_1",
        "now": NOW,
    }
    return plans.publish(session, **given | facts)


def test_versions_count_up_and_are_chosen_by_time(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program = make.program(session)
        first = _publish(session, program)
        second = _publish(session, program, effective_from=NOW + timedelta(days=10))
        same_start = _publish(session, program, effective_from=NOW)

        assert [first.version, second.version, same_start.version] == [1, 2, 3]
        assert first.content_hash == same_start.content_hash
        for days, expected in [(-1, None), (0, same_start), (9, same_start), (10, second)]:
            at = NOW + timedelta(days=days)
            found = plans.version_at(session, program.id, at)
            assert (found and found.id) == (expected and expected.id)
            chosen = plans.choose(plans.facts_of(session, program.id), at)
            assert (chosen and chosen.id) == (expected and expected.id)
        assert [one.version for one in plans.versions(session, program.id)] == [3, 2, 1]
        actions = session.exec(select(AuditEntry.action)).all()
        assert actions == ["plan.publish"] * 3


def test_a_published_version_cannot_be_changed(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        _publish(session, make.program(session))
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), unit_of_work(engine) as session:
        session.execute(sa.update(PlanVersion).values(version=9))


@pytest.mark.parametrize(
    ("document", "path"),
    [
        ({"currency": "USD", "rules": [FLAT]}, "currency"),
        ({"currency": "EUR", "rules": []}, "rules"),
        (
            {"currency": "EUR", "rules": [{"id": "a", "pay": {"percent": 5}}]},
            "rules[0].pay.percent",
        ),
        ({"currency": "EUR", "rules": [FLAT], "country_basis": ["country_ship"]}, "country_basis"),
        (
            {"currency": "EUR", "rules": [FLAT, FLAT | {"id": "b", "when": {"device": ["pda"]}}]},
            "rules[1].when.device",
        ),
        (
            {"currency": "EUR", "rules": [FLAT | {"when": {"customer": ["loyal"]}}]},
            "rules[0].when.customer",
        ),
        (
            {"currency": "EUR", "rules": [FLAT | {"when": {"publisher_group": ["gold"]}}]},
            "rules[0].when.publisher_group",
        ),
        (
            {"currency": "EUR", "rules": [FLAT | {"when": {"publisher": ["nobody"]}}]},
            "rules[0].when.publisher",
        ),
        (
            {"currency": "EUR", "rules": [FLAT], "exclusive_coupons": {"X": "nobody"}},
            "exclusive_coupons.X",
        ),
    ],
)
def test_a_plan_that_would_not_do_what_it_says_is_refused(
    sqlite_engine: Engine, document: dict[str, Any], path: str
) -> None:
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session)
        with pytest.raises(InvalidInput) as refused:
            _publish(session, program, document=document)

        assert path in [problem.field for problem in refused.value.problems]
        assert session.exec(select(PlanVersion)).all() == []


def test_limits_and_unknown_programs(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session)
        with pytest.raises(NotFound):
            _publish(session, program, program_id="prg_unknown")
        with pytest.raises(TooLarge):
            _publish(session, program, document={"rules": ["x" * 1_000_001]})
        with pytest.raises(InvalidInput, match="effective_from"):
            _publish(session, program, effective_from=NOW.replace(tzinfo=None))
        assert session.exec(select(PlanVersion)).all() == []
