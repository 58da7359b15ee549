from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, select

from commissions import notices, plans
from commissions.models import PlanVersion
from commissions.plan_models import PlanNotice, PlanWaiver
from kernel.audit import AuditEntry
from kernel.database import unit_of_work
from kernel.errors import InvalidInput, NotFound, TooLarge
from network.models import Program
from tests import make
from tests.make import NOW

FLAT = {"id": "flat", "pay": {"percent": "5"}}
TIE_WITH_B = (
    "ambiguous: rules b and flat have the same priority 0 and specificity, "
    "and both match every order"
)


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


def _rule(percent: str) -> dict[str, Any]:
    return {"currency": "EUR", "rules": [{"id": "flat", "pay": {"percent": percent}}]}


def test_lower_rates_wait_for_the_notice_period(engine: Engine) -> None:
    soon, in_time = NOW + timedelta(days=13, hours=23), NOW + timedelta(days=14)
    with unit_of_work(engine) as session:
        program = make.program(session)
        _publish(session, program)
        notices.set_days(session, program.id, 14, actor="usr_1", now=NOW)
        with pytest.raises(plans.NoticeTooShort) as refused:
            _publish(session, program, document=_rule("4.9"), effective_from=soon)

        assert refused.value.message == (
            "lowers flat before 2026-03-24T12:00:00.000Z, the earliest date allowed"
        )
        assert refused.value.facts["earliest_at"] == "2026-03-24T12:00:00.000Z"
        assert refused.value.facts["lowered"] == [
            {
                "verdict": "lowered",
                "before": "flat",
                "after": "flat",
                "where": {},
                "path": "",
                "reason": "lower_rate",
            }
        ]
        assert len(plans.versions(session, program.id)) == 1
        _publish(session, program, document=_rule("4.9"), effective_from=in_time)
        _publish(session, program, document=_rule("5.1"), effective_from=soon)
        assert session.exec(select(PlanWaiver)).all() == []


def test_what_ends_before_the_notice_does_is_not_too_soon_by_what_follows(
    sqlite_engine: Engine,
) -> None:
    """A rule that runs out inside a version lowers from then on, and not from its start."""
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session)
        _publish(session, program)
        notices.set_days(session, program.id, 10, actor="usr_1", now=NOW)
        ends = NOW + timedelta(days=11)
        document = _rule("9")
        document["rules"][0]["effective_to"] = ends.isoformat()

        _publish(session, program, document=document)

        document["rules"][0]["effective_to"] = (NOW + timedelta(days=9)).isoformat()
        with pytest.raises(plans.NoticeTooShort):
            _publish(session, program, document=document)


def test_a_scheduled_raise_is_promised_too(sqlite_engine: Engine) -> None:
    later = NOW + timedelta(days=3)
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session)
        _publish(session, program)
        _publish(session, program, document=_rule("8"), effective_from=later)
        notices.set_days(session, program.id, 10, actor="usr_1", now=NOW)

        # Before the raise seven percent are more than what is in force.
        _publish(session, program, document=_rule("7"))
        with pytest.raises(plans.NoticeTooShort):
            _publish(session, program, document=_rule("7"), effective_from=later)


def test_without_a_notice_period_nothing_is_lowered_for_the_past(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session)
        _publish(session, program, effective_from=NOW - timedelta(days=30))
        _publish(session, program, document=_rule("4"))
        yesterday = NOW - timedelta(days=1)
        with pytest.raises(plans.NoticeTooShort):
            _publish(session, program, document=_rule("4"), effective_from=yesterday)
        with pytest.raises(InvalidInput, match="notice_waiver"):
            _publish(
                session,
                program,
                document=_rule("4"),
                effective_from=yesterday,
                waiver="typo",
            )
        with pytest.raises(InvalidInput, match="must not lie in the past"):
            _publish(session, program, effective_from=yesterday, allow_past=False)

        corrected = _publish(
            session,
            program,
            document=_rule("4"),
            effective_from=yesterday,
            waiver="It was agreed as four percent.",
        )

        [waiver] = session.exec(select(PlanWaiver)).all()
        assert waiver.plan_version_id == corrected.id
        assert (waiver.reason, waiver.earliest_at, waiver.waived_by) == (
            "It was agreed as four percent.",
            NOW,
            "usr_1",
        )
        assert "plan.waive_notice" in session.exec(select(AuditEntry.action)).all()


def test_a_shorter_notice_holds_when_the_longer_one_has_run_out(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program = make.program(session)
        assert notices.days_at(session, program.id, NOW) == 0
        notices.set_days(session, program.id, 30, actor="usr_1", now=NOW)
        notices.set_days(session, program.id, 30, actor="usr_1", now=NOW)
        later = NOW + timedelta(days=2)
        notices.set_days(session, program.id, 7, actor="usr_1", now=later)

        for days, expected in [(0, 30), (1, 30), (31, 30), (32, 7), (400, 7)]:
            assert notices.days_at(session, program.id, NOW + timedelta(days=days)) == expected
        assert [one.days for one in session.exec(select(PlanNotice))] == [30, 7]
        with pytest.raises(InvalidInput):
            notices.set_days(session, program.id, 367, actor="usr_1", now=NOW)


def test_a_draft_is_checked_without_being_published(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session)
        first = _publish(session, program)
        ends = NOW + timedelta(days=9)
        _publish(session, program, effective_from=ends)
        facts: dict[str, Any] = {"program_id": program.id, "effective_from": NOW, "now": NOW}

        good = plans.check(session, document=_rule("6"), **facts)
        tie = {"id": "b", "pay": {"percent": "9"}}
        bad = plans.check(session, document={"currency": "EUR", "rules": [FLAT, tie]}, **facts)

        assert good.is_publishable
        assert (good.replaced and good.replaced.id, good.ends) == (first.id, ends)
        assert [(one.verdict, one.before) for one in good.findings] == [("raised", "flat")]
        assert not bad.is_publishable
        assert [(one.field, one.message) for one in bad.problems] == [("rules[0]", TIE_WITH_B)]
        assert len(plans.versions(session, program.id)) == 2
