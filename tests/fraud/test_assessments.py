from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from fraud.assessments import assess, assess_many
from fraud.checks import check
from fraud.models import Assessment, Flag
from kernel.database import unit_of_work
from kernel.errors import NotFound
from tracker import day_files
from tracker.attribution import NotAttributed

Make = Callable[[Session], Any]
NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)


@pytest.fixture
def session(sqlite_engine: Engine) -> Iterator[Session]:
    with unit_of_work(sqlite_engine) as opened:
        yield opened


def codes(assessment: Assessment) -> list[str]:
    return [reason["code"] for reason in assessment.reasons]


def flags(session: Session) -> list[Flag]:
    return list(session.exec(select(Flag)))


def test_held_order_is_flagged_once_with_its_reasons(
    engine: Engine, network: Make, now: datetime
) -> None:
    with unit_of_work(engine) as session:
        made = network(session)
        made.click(sec_fetch_dest="iframe")
        first = assess(session, made.order(), now=now)
        program_id, publisher_id = made.program.id, made.publisher.id
    with unit_of_work(engine) as session:
        again = assess(session, "cnv", now=now + timedelta(hours=1))
        (flag,) = flags(session)
        assert again.id == first.id
        assert session.exec(select(sa.func.count()).select_from(Assessment)).one() == 1
        assert list(check(session)) == []
    assert (again.score, again.action, again.at) == (73, "hold", now)
    assert again.reasons == [
        {
            "code": "embedded_click",
            "group": "client",
            "points": 450,
            "hard": True,
            "billable": False,
            "ivt_class": "sivt",
            "value": "iframe",
            "baseline": "document",
            "text": "The link was loaded as part of a page instead of being followed.",
        }
    ]
    assert (flag.conversion_id, flag.assessment_id) == ("cnv", first.id)
    assert (flag.program_id, flag.publisher_id, flag.score) == (program_id, publisher_id, 73)


def test_flood_counts_one_visitor_of_one_program_in_the_hour_before(
    engine: Engine, network: Make, now: datetime
) -> None:
    with unit_of_work(engine) as session:
        made = network(session)
        clicked = made.click().at
        for number in range(48):
            made.click(f"near{number}", at=clicked - timedelta(seconds=3_599))
        for name, changes in {
            "old": {"at": clicked - timedelta(seconds=3_600)},
            "later": {"at": clicked + timedelta(milliseconds=1)},
            "elsewhere": {"program_id": "other"},
            "somebody": {"visitor_key": "other"},
        }.items():
            made.click(name, **changes)
        forty_nine = assess(session, made.order("forty_nine"), now=now)
        made.click("fiftieth", at=clicked - timedelta(minutes=30))
        fifty = assess(session, made.order("fifty"), now=now)
    assert (forty_nine.score, forty_nine.action, forty_nine.reasons) == (3, "allow", [])
    assert [(reason["code"], reason["value"]) for reason in fifty.reasons] == [("click_flood", 50)]


@pytest.mark.parametrize(
    ("click", "order", "expected"),
    [
        ({}, {}, (3, "allow", [])),
        ({"agent_class": "bot"}, {}, (73, "hold", ["bot_user_agent"])),
        ({"agent_class": "empty", "user_agent": " "}, {}, (38, "tag", ["empty_user_agent"])),
        ({"is_hosting": True, "country": "US"}, {}, (38, "tag", ["hosting_network"])),
        ({"sec_purpose": "prefetch"}, {}, (3, "tag", ["prefetch"])),
        # The column counts the clicks before this one.
        ({"duplicates": 1}, {}, (3, "allow", [])),
        ({"duplicates": 2}, {}, (9, "tag", ["duplicate_clicks"])),
        ({"country": "US"}, {}, (12, "allow", ["country_flip"])),
        ({"country": "US"}, {"country": None}, (3, "allow", [])),
        ({"country": "US"}, {"seconds": 86_400}, (3, "allow", [])),
        ({}, {"seconds": 1.999}, (73, "hold", ["fast_order"])),
        ({}, {"seconds": 4}, (18, "tag", ["fast_order"])),
        # An order before its click is a clock that is off, however little.
        ({}, {"seconds": -0.5}, (3, "allow", [])),
        ({"visitor_key": ""}, {}, (3, "allow", [])),
    ],
)
def test_what_a_recorded_click_says(
    session: Session,
    network: Make,
    click: dict[str, Any],
    order: dict[str, Any],
    expected: tuple[int, str, list[str]],
) -> None:
    made = network(session)
    made.click(**click)
    found = assess(session, made.order(**order), now=NOW)
    assert (found.score, found.action, codes(found)) == expected
    assert len(flags(session)) == (found.action == "hold")


BARE = {"imported": True, "user_agent": "", "agent_class": "empty", "sec_fetch_dest": None}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, []),
        ({"duplicates": 40, "country": "US"}, []),
        ({"user_agent": "Googlebot/2.1", "agent_class": "bot"}, ["bot_user_agent"]),
        ({"is_hosting": True}, ["hosting_network"]),
    ],
)
def test_imported_click_is_judged_by_what_it_came_with_and_never_by_time(
    session: Session, network: Make, now: datetime, changes: dict[str, Any], expected: list[str]
) -> None:
    made = network(session)
    click = made.click(**(BARE | changes))
    for number in range(60):
        made.click(f"more{number}", at=click.at)
    assert codes(assess(session, made.order(seconds=0), now=now)) == expected


def test_program_sets_the_score_that_holds(session: Session, network: Make, now: datetime) -> None:
    made = network(session)
    made.click(agent_class="tool")
    assert assess(session, made.order("lenient"), now=now).action == "tag"
    made.program.hold_score = 38
    strict = assess(session, made.order("strict"), now=now)
    assert (strict.score, strict.action) == (38, "hold")
    assert [flag.conversion_id for flag in flags(session)] == ["strict"]


def test_nobodys_order_is_judged_and_not_flagged(
    session: Session, network: Make, now: datetime
) -> None:
    made = network(session)
    found = assess(session, made.order(click_id=None, seconds=0), now=now)
    assert (found.score, found.action, found.reasons) == (3, "allow", [])
    # Even under a threshold that holds everything: there is no commission to hold.
    made.program.hold_score = 1
    assert assess(session, made.order("second", click_id=None), now=now).action == "hold"
    assert flags(session) == []
    assert list(check(session)) == []


def test_a_test_order_is_judged_and_not_flagged(
    engine: Engine, network: Make, now: datetime
) -> None:
    # A test order that goes on from another order has that one's publisher.
    with unit_of_work(engine) as session:
        made = network(session)
        made.click(sec_fetch_dest="iframe")
        assessment = assess(session, made.order(is_test=True), now=now)
        assert assessment.action == "hold"
        assert flags(session) == []
        assert list(check(session)) == []


def test_lost_click_record_accuses_nobody(session: Session, network: Make, now: datetime) -> None:
    made = network(session)
    found = assess(session, made.order(click_id="never stored", seconds=0), now=now)
    assert (found.action, found.reasons) == ("allow", [])


def test_unknown_or_not_attributed_conversion_is_refused(
    session: Session, network: Make, now: datetime
) -> None:
    with pytest.raises(NotFound):
        assess(session, "nowhere", now=now)
    made = network(session)
    made.order(attributed=False)
    with pytest.raises(NotAttributed):
        assess(session, "cnv", now=now)
    assert list(session.exec(select(Assessment))) == []
    made.attribute("cnv", None)
    assert assess(session, "cnv", now=now).action == "allow"


def test_any_number_of_orders_costs_three_looks_and_one_insert(
    sqlite_engine: Engine, network: Make, now: datetime
) -> None:
    ids = [f"cnv{number}" for number in range(7)]
    with unit_of_work(sqlite_engine) as session:
        made = network(session)
        for one in ids:
            made.click(f"clk{one}")
            made.order(one, click_id=f"clk{one}")
    said: list[str] = []
    sa.event.listen(
        sqlite_engine,
        "before_cursor_execute",
        lambda _c, _cursor, statement, *_: said.append(statement.split()[0]),
    )
    with unit_of_work(sqlite_engine) as session:
        session.connection()
        said.clear()
        assess_many(session, ids, now=now)
    assert said == ["SELECT", "SELECT", "SELECT", "INSERT"]
    with unit_of_work(sqlite_engine) as session:
        session.connection()
        said.clear()
        assess_many(session, ids, now=now)
        assert said == ["SELECT"]
        found = session.exec(select(Assessment.conversion_id).order_by(col(Assessment.seq))).all()
        assert found == ids


def test_visitor_clicks_are_found_by_the_index(
    network: Make, session: Session, sqlite_engine: Engine
) -> None:
    clicked = network(session).click()
    reader = day_files.beside(sqlite_engine).reader(day_files.Place(clicked.at.date()))
    assert reader is not None
    with reader.connect() as connection:
        plan = connection.exec_driver_sql(
            "EXPLAIN QUERY PLAN SELECT id FROM click "
            "WHERE program_id = 'p' AND visitor_key = 'v' AND at > '1' AND at <= '2' LIMIT 1000"
        ).all()
    assert "ix_click_visitor_key_at (visitor_key=? AND at>? AND at<?)" in plan[0][-1]
