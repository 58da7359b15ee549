from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, select

from kernel.database import reading, unit_of_work
from network.models import Program, Publisher
from tests import make
from tracker import click_days, rollup_checks, rollup_orders, rollups
from tracker.rollup_models import RollupDay, RollupHour, RollupVisitor

TODAY = datetime(2026, 3, 10, tzinfo=UTC)
TABLES = ("rollup_hour", "rollup_day", "rollup_width", "rollup_visitor", "rollup_conversion")


class Facts:
    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        with unit_of_work(engine) as session:
            self.program: Program = make.program(session)
            self.who: Publisher = make.publisher(session, member_of=self.program)
            rows = [self._click(session, number) for number in range(60)]
            for start in (0, 25, 50):
                make.count_clicks(session, rows[start : start + 25], values_max=3)
            order = make.conversion(
                session, self.program, self.who, occurred_at=TODAY + timedelta(hours=3)
            )
            rollup_orders.refresh(session, [order.id])

    def _click(self, session: Session, number: int) -> dict[str, Any]:
        made = make.click(
            session,
            self.program,
            self.who,
            at=TODAY + timedelta(minutes=(number * 517) % 1440),
            country=("DE", "FR", None)[number % 3],
            visitor_key=f"v{number % 20}",
            unbillable_reason="head" if number % 7 == 0 else "",
            sub_ids={"s1": f"x{number % 11}"},
            user_agent="",
        )
        return made.model_dump()

    def check(self, values_max: int = 3) -> list[str]:
        with reading(self.engine) as session:
            return list(
                rollup_checks.check(
                    session, now=TODAY + timedelta(hours=20), days=2, values_max=values_max
                )
            )

    def execute(self, statement: str) -> None:
        with unit_of_work(self.engine) as session:
            session.execute(sa.text(statement))

    def days(self) -> list[tuple[Any, ...]]:
        """Rows as they stand, without the unique clicks and without rows of zeros."""
        table = RollupDay.metadata.tables["rollup_day"]
        columns = [column for column in table.columns if column.name != "unique_clicks"]
        with reading(self.engine) as session:
            rows = [tuple(row) for row in session.execute(sa.select(*columns))]
        return sorted(row for row in rows if any(row[6:]))


@pytest.fixture
def facts(engine: Engine) -> Facts:
    return Facts(engine)


def test_sums_kept_while_recording_equal_the_facts(facts: Facts) -> None:
    assert facts.check() == []
    assert any(rollups.MORE in row for row in facts.days())


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE rollup_hour SET clicks = clicks + 1",
        "UPDATE rollup_day SET sales_minor = sales_minor + 1 WHERE dimension = ''",
        "UPDATE rollup_day SET filtered_clicks = 0 WHERE dimension = 'country'",
        "UPDATE rollup_hour SET unique_clicks = unique_clicks + 1",
        "DELETE FROM rollup_day WHERE dimension = 's1' AND value = '(more)'",
        "DELETE FROM rollup_conversion",
    ],
)
def test_damage_is_found_named_and_mended(facts: Facts, damage: str) -> None:
    sound = facts.days()
    facts.execute(damage)

    [found] = facts.check()
    assert found.startswith("2026-03-10: ")

    rollup_checks.rebuild(facts.engine, TODAY.date(), values_max=3, accept_fewer=True)
    assert facts.check() == []
    assert facts.days() == sound


def test_a_day_is_made_again_from_nothing(facts: Facts) -> None:
    sound = [row for row in facts.days() if row[0] != "s1"]
    with unit_of_work(facts.engine) as session:
        for table in TABLES:
            session.execute(sa.delete(RollupDay.metadata.tables[table]))

    made = rollup_checks.rebuild(facts.engine, TODAY.date(), values_max=3)
    again = rollup_checks.rebuild(facts.engine, TODAY.date(), values_max=3)

    assert made.clicks == 60
    assert again == rollup_checks.Rebuilt(rows=0, clicks=0)
    assert facts.check() == []
    # Which of many values has a row of its own depends on which came first.
    assert [row for row in facts.days() if row[0] != "s1"] == sound


def test_a_day_that_is_made_again_names_as_many_values_as_may_be(facts: Facts) -> None:
    with unit_of_work(facts.engine) as session:
        for table in TABLES:
            session.execute(sa.delete(RollupDay.metadata.tables[table]))

    rollup_checks.rebuild(facts.engine, TODAY.date(), values_max=3)

    with reading(facts.engine) as session:
        named = session.exec(
            select(RollupDay.value).where(RollupDay.dimension == "s1", RollupDay.currency == "")
        ).all()
    assert len(named) == 4
    assert rollups.MORE in named


def test_clicks_recorded_while_a_day_is_mended_are_kept(facts: Facts) -> None:
    facts.execute("DELETE FROM rollup_hour")
    with reading(facts.engine) as session:
        missing = rollup_checks.differences(session, _day(), values_max=3)
        with unit_of_work(facts.engine) as writing:
            late = make.click(writing, facts.program, facts.who, at=TODAY, user_agent="")
            make.count_clicks(writing, [late.model_dump()], values_max=3)
    with unit_of_work(facts.engine) as session:
        rollups.store(session, missing, values_max=3)

    assert facts.check() == []


def _day() -> int:
    return rollup_checks.day_number(TODAY.date())


def test_a_day_whose_clicks_were_let_go_is_not_emptied(facts: Facts) -> None:
    assert click_days.retire(facts.engine, keep_days=1, now=TODAY + timedelta(days=9)) == 1
    before = facts.days()

    with pytest.raises(rollup_checks.FactsGone):
        rollup_checks.rebuild(facts.engine, TODAY.date(), values_max=3)

    assert facts.days() == before


def test_impressions_have_no_facts_and_are_left_alone(facts: Facts) -> None:
    with unit_of_work(facts.engine) as session:
        seen = {"program_id": facts.program.id, "publisher_id": facts.who.id, "at": TODAY}
        rollups.add_impressions(session, [seen], values_max=3)

    assert facts.check() == []
    rollup_checks.rebuild(facts.engine, TODAY.date(), values_max=3)
    with reading(facts.engine) as session:
        assert sum(session.exec(select(RollupHour.impressions))) == 1


def test_old_hours_and_marks_are_let_go_and_days_stay(facts: Facts) -> None:
    later = TODAY + timedelta(days=12)

    def prune(rows_max: int = 100, hours_days: int = 10) -> int:
        with unit_of_work(facts.engine) as session:
            return rollup_checks.prune(
                session, now=later, hours_days=hours_days, visitor_days=3, rows_max=rows_max
            )

    days = facts.days()
    assert prune(hours_days=12, rows_max=5) == 5
    while prune(rows_max=5):
        pass
    with reading(facts.engine) as session:
        assert session.exec(select(RollupHour)).all() == []
        assert session.exec(select(RollupVisitor)).all() == []
    assert facts.days() == days
