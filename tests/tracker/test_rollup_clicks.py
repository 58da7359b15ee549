from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from random import Random
from typing import Any

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import Session, select

from kernel.database import reading, unit_of_work
from tests import make
from tracker import rollup_clicks, rollups
from tracker.rollup_models import RollupDay, RollupHour, RollupVisitor, RollupWidth

START = datetime(2026, 3, 9, 20, tzinfo=UTC)
AGENTS = (
    "",
    "curl/8",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605 Mobile/15E148",
    "Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0",
)
REASONS = ("", "", "", "head", "paused", "no_consent", "global_privacy_control")
SUB_IDS: Sequence[dict[str, str]] = (
    {},
    {"s1": "a"},
    {"s1": "b", "s2": 'quoted " and \\ both, {braces}', "s6": "kept elsewhere"},
    {"s5": "\u4e2d\u6587", "s1": ""},
    {"s1": rollups.MORE},
)


def one_by_one(
    rows: Sequence[dict[str, Any]], programs: dict[str, int], publishers: dict[str, int]
) -> rollups.Tally:
    """The sums as they are meant: each click by itself, the first of a visitor found by looking."""
    tally = rollups.Tally()
    seen: set[tuple[Any, ...]] = set()
    for row in rows:
        visitor = (row["at"].date(), row["program_id"], row["publisher_id"], row["visitor_key"])
        may_earn = bool(row["visitor_key"]) and not row["unbillable_reason"]
        tally.add(
            rollups.counts_of_click(
                row["unbillable_reason"], is_first=may_earn and visitor not in seen
            ),
            hour=rollups.hour_of(row["at"]),
            program=programs[row["program_id"]],
            publisher=publishers[row["publisher_id"]],
            currency="",
            values=rollups.values_of_click(row),
        )
        if may_earn:
            seen.add(visitor)
    return tally


def clicks(chance: Random, programs: list[str], publishers: list[str]) -> list[dict[str, Any]]:
    return [
        {
            "at": START + timedelta(minutes=chance.randrange(600)),
            "program_id": chance.choice(programs),
            "publisher_id": chance.choice(publishers),
            "unbillable_reason": chance.choice(REASONS),
            "sub_ids": chance.choice(SUB_IDS),
            "visitor_key": chance.choice(("", *map(str, range(30)))),
            "user_agent": chance.choice(AGENTS),
            "country": chance.choice((None, "DE", "FR")),
            "link": chance.choice(("", "abc", "xyz")),
        }
        for _ in range(chance.randrange(200))
    ]


def stored(session: Session) -> rollups.Tally:
    tally = rollups.Tally()
    for hour in session.exec(select(RollupHour)):
        *key, currency = hour.hour, hour.program_number, hour.publisher_number, hour.currency
        tally.hours[key[0], key[1], key[2], currency] = counters(hour)
    for day in session.exec(select(RollupDay)):
        of, by = day.program_number, day.publisher_number
        tally.days[day.dimension, day.day, of, by, day.value, day.currency] = counters(day)
    return tally


def counters(row: RollupHour | RollupDay) -> list[int]:
    return [getattr(row, name) for name in rollups.COUNTERS]


@pytest.mark.parametrize("seed", range(5))
def test_clicks_counted_together_are_those_counted_one_by_one(engine: Engine, seed: int) -> None:
    chance = Random(seed)  # noqa: S311 - a test's dice
    with unit_of_work(engine) as session:
        programs = [make.program(session) for _ in range(3)]
        publishers = [make.publisher(session) for _ in range(3)]
        ids = [one.id for one in programs], [one.id for one in publishers]
        batches = [clicks(chance, *ids) for _ in range(3)]
        every = [row for batch in batches for row in batch]
        for batch in batches:
            make.count_clicks(session, batch)

    expected = one_by_one(
        every,
        {one.id: one.number for one in programs},
        {one.id: one.number for one in publishers},
    )
    with reading(engine) as session:
        assert stored(session) == expected
        marked = session.exec(select(RollupVisitor)).all()
    uniques = rollups.COUNTERS.index("unique_clicks")
    assert len(marked) == sum(counts[uniques] for counts in expected.hours.values()) > 0


def test_a_batch_without_clicks_counts_nothing(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        make.count_clicks(session, [])
        assert stored(session) == rollups.Tally()


def test_the_hours_of_clicks_are_those_of_anything_else() -> None:
    times = [
        START + timedelta(hours=7, minutes=minute, microseconds=1) for minute in range(0, 999, 7)
    ]
    empty: list[Any] = [0] * len(times)
    made = rollup_clicks.Clicks(times, empty, empty, empty, empty, empty, empty, empty, empty)

    assert made.hours == [rollups.hour_of(at) for at in times]


def named_one_by_one(batches: Sequence[Sequence[str]], values_max: int) -> dict[str, int]:
    """Clicks by what they are counted under: the first values that come have rows of their own."""
    named: dict[str, int] = {}
    more = 0
    for batch in batches:
        for value in batch:
            if value in named or len(named) < values_max:
                named[value] = named.get(value, 0) + 1
            else:
                more += 1
    return named | ({rollups.MORE: more} if more else {})


@pytest.mark.parametrize("seed", range(8))
def test_the_first_values_are_named_however_the_limit_is_neared(engine: Engine, seed: int) -> None:
    chance = Random(seed)  # noqa: S311 - a test's dice
    # Small batches of few values keep coming back; large ones jump over the limit at once.
    batches = [
        [f"v{chance.randrange(chance.choice((4, 14)))}" for _ in range(chance.choice((1, 3, 9)))]
        for _ in range(14)
    ]
    with unit_of_work(engine) as session:
        program, who = make.program(session), make.publisher(session)
        for batch in batches:
            make.count_clicks(
                session,
                [
                    {
                        "at": START,
                        "program_id": program.id,
                        "publisher_id": who.id,
                        "unbillable_reason": "",
                        "sub_ids": {"s1": value},
                        "visitor_key": "",
                        "user_agent": "",
                    }
                    for value in batch
                ],
                values_max=10,
            )
        found = session.exec(
            select(RollupDay.value, RollupDay.clicks).where(RollupDay.dimension == "s1")
        )
        assert dict(found.all()) == named_one_by_one(batches, 10)
        [width] = session.exec(select(RollupWidth.value_count)).all()
        assert len(named_one_by_one(batches, 10).keys() - {rollups.MORE}) <= width <= 10
