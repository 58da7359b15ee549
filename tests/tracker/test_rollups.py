import json
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, select

from kernel.database import unit_of_work
from network.models import Program, Publisher
from tests import make
from tracker import rollups
from tracker.rollup_models import RollupDay, RollupHour, RollupVisitor

PHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605 Mobile/15E148"
LAPTOP = "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0"


@pytest.fixture
def network(engine: Engine) -> Iterator[tuple[Session, Program, Publisher, Publisher]]:
    with unit_of_work(engine) as session:
        program = make.program(session)
        one = make.publisher(session, member_of=program)
        two = make.publisher(session, member_of=program)
        yield session, program, one, two


@pytest.fixture
def click(
    network: tuple[Session, Program, Publisher, Publisher], now: datetime
) -> Callable[..., dict[str, Any]]:
    _, program, one, _ = network

    def row(**facts: Any) -> dict[str, Any]:
        return {
            "program_id": program.id,
            "publisher_id": one.id,
            "at": now,
            "unbillable_reason": "",
            "visitor_key": "v1",
            "user_agent": PHONE,
            "country": "DE",
            "sub_ids": {},
        } | facts

    return row


def sums(session: Session, dimension: str, column: str = "clicks") -> dict[tuple[int, str], int]:
    query = select(RollupDay).where(RollupDay.dimension == dimension, RollupDay.currency == "")
    return {
        (row.publisher_number, row.value): getattr(row, column)
        for row in session.exec(query)
        if getattr(row, column)
    }


def test_a_click_counts_in_its_hour_its_day_and_under_what_it_carries(
    network: Any, click: Any, now: datetime
) -> None:
    session, program, one, _ = network
    make.count_clicks(
        session,
        [
            click(sub_ids={"s1": "blue", "s6": "kept elsewhere"}, link="abc"),
            click(country=None, user_agent="", visitor_key=""),
        ],
        values_max=10,
    )

    [hour] = session.exec(select(RollupHour)).all()
    assert hour.hour == int(now.timestamp()) // 3600
    assert (hour.program_number, hour.publisher_number) == (program.number, one.number)
    assert (hour.clicks, hour.unique_clicks, hour.filtered_clicks) == (2, 1, 0)
    number = one.number
    assert sums(session, "") == {(number, ""): 2}
    assert sums(session, "country") == {(number, "DE"): 1, (number, ""): 1}
    assert sums(session, "device") == {(number, "mobile"): 1, (number, "unknown"): 1}
    assert sums(session, "s1") == {(number, "blue"): 1}
    assert sums(session, "link") == {(number, "abc"): 1}
    dimensions = set(session.exec(select(RollupDay.dimension)))
    assert dimensions == {"", "country", "device", "s1", "link"}


def test_what_may_not_earn_is_counted_apart_with_its_reason(network: Any, click: Any) -> None:
    session, _, one, _ = network
    make.count_clicks(
        session,
        [
            click(unbillable_reason="head"),
            click(unbillable_reason="paused"),
            click(unbillable_reason="no_consent", visitor_key="", user_agent=""),
            click(),
        ],
        values_max=10,
    )

    number = one.number
    assert sums(session, "", "clicks") == {(number, ""): 2}
    assert sums(session, "", "filtered_clicks") == {(number, ""): 2}
    assert sums(session, "", "unique_clicks") == {(number, ""): 1}
    assert sums(session, "reason", "filtered_clicks") == {
        (number, "head"): 1,
        (number, "paused"): 1,
    }
    assert sums(session, "reason", "clicks") == {(number, "no_consent"): 1}


def test_a_visitor_is_unique_once_a_day_for_each_publisher_across_batches(
    network: Any, click: Any, now: datetime
) -> None:
    session, _, one, two = network
    make.count_clicks(session, [click(), click(at=now + timedelta(hours=2))], values_max=10)
    make.count_clicks(
        session,
        [
            click(at=now + timedelta(hours=3), country="FR"),
            click(publisher_id=two.id),
            click(at=now + timedelta(days=1)),
            click(visitor_key="v2", country="FR"),
        ],
        values_max=10,
    )

    uniques = {
        (row.day - rollups.hour_of(now) // 24, row.publisher_number): row.unique_clicks
        for row in session.exec(select(RollupDay).where(RollupDay.dimension == ""))
    }
    assert uniques == {(0, one.number): 2, (0, two.number): 1, (1, one.number): 1}
    by_country = session.exec(
        select(RollupDay.value, sa.func.sum(RollupDay.unique_clicks))
        .where(RollupDay.dimension == "country")
        .group_by(RollupDay.value)
    ).all()
    assert dict(by_country) == {"DE": 3, "FR": 1}
    assert len(session.exec(select(RollupVisitor)).all()) == 4


def test_values_past_the_limit_share_a_row_and_none_is_dropped(network: Any, click: Any) -> None:
    session, _, one, two = network
    for batch in (["a", "b"], ["a", "c", "d"], ["d", "b", "e"]):
        make.count_clicks(session, [click(sub_ids={"s1": value}) for value in batch], values_max=3)
    make.count_clicks(
        session, [click(publisher_id=two.id, sub_ids={"s1": "d", "s2": "d"})], values_max=3
    )

    number = one.number
    assert sums(session, "s1") == {
        (number, "a"): 2,
        (number, "b"): 2,
        (number, "c"): 1,
        (number, rollups.MORE): 3,
        (two.number, "d"): 1,
    }
    assert sums(session, "s2") == {(two.number, "d"): 1}


def test_impressions_stand_beside_clicks(network: Any, click: Any) -> None:
    session, _, one, _ = network
    make.count_clicks(session, [click()], values_max=10)
    rollups.add_impressions(
        session,
        [click(count=250, sub_ids={"s1": "top"}), click(country="FR", user_agent=LAPTOP)],
        values_max=10,
    )

    assert sums(session, "", "impressions") == {(one.number, ""): 251}
    assert sums(session, "country", "impressions") == {
        (one.number, "DE"): 250,
        (one.number, "FR"): 1,
    }
    assert sums(session, "s1", "impressions") == {(one.number, "top"): 250}
    assert sums(session, "", "clicks") == {(one.number, ""): 1}
    assert sums(session, "device", "impressions") == {
        (one.number, "mobile"): 250,
        (one.number, "desktop"): 1,
    }


def test_hashes_of_visitors_differ_between_programs_and_publishers() -> None:
    assert len({rollups.visitor_hash(p, q, "v") for p in range(30) for q in range(30)}) == 900
    assert 0 <= rollups.visitor_hash(1, 2, "v") < 2**63


def test_a_day_without_statistics_is_not_read_whole_for_each_value(engine: Engine) -> None:
    """PostgreSQL took the index of the program then: seconds for a batch at the limit of values."""
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite takes the index with the most columns")
    with unit_of_work(engine) as session:
        session.execute(
            sa.text(
                "INSERT INTO rollup_day SELECT 's1', 20000, 1, one % 40, 'v' || one, '', "
                "0, 1, 0, 0, 0, 0, 0, 0 FROM generate_series(1, 4000) AS one"
            )
        )
        asked = [["s1", 20000, 1, one % 40, f"v{one}"] for one in (7, 3999, 5000)]
        given = {"given": json.dumps(asked)}
        statement = rollups._KNOWN_VALUES["postgresql"]
        found = session.execute(statement, given).all()
        plan = session.execute(sa.text(f"EXPLAIN {statement}"), given).scalars().all()

    assert sorted(map(tuple, found)) == [("s1", 20000, 1, 7, "v7"), ("s1", 20000, 1, 39, "v3999")]
    assert any("using pk_rollup_day" in line for line in plan)
    assert not any("ix_rollup_day" in line or "Seq Scan" in line for line in plan)
