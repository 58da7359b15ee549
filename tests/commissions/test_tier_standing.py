# ruff: noqa: RUF001 - Chinese has its own punctuation
"""How far a publisher is from the next level, and what is not its to know."""

from datetime import timedelta
from typing import Any

from sqlalchemy.engine import Engine
from sqlmodel import Session

from commissions import accruals, tier_standing
from commissions.tier_standing import Standing
from kernel.database import unit_of_work
from network.models import Program, Publisher
from tests import make
from tests.make import NOW


def tiers(mode: str, measure: str, *levels: tuple[int, str], **fields: Any) -> dict[str, Any]:
    return {
        "id": mode,
        "tiers": {
            "mode": mode,
            "measure": measure,
            "window": "calendar_month",
            "levels": [{"from": start, "percent": percent} for start, percent in levels],
            **fields,
        },
    }


def sell(session: Session, program: Program, who: Publisher, **facts: Any) -> None:
    made = make.conversion(session, program, who, **facts)
    accruals.accrue(session, made.id, hold_reason=None, now=made.received_at)


def figures(one: Standing) -> tuple[Any, ...]:
    return (
        one.measure,
        one.level.percent * 100 if one.level else None,
        one.following.percent * 100 if one.following else None,
        one.missing,
    )


def standing(session: Session, program: Program, who: Publisher) -> list[Standing]:
    return tier_standing.standings(session, program.id, who.id, now=NOW)


def test_orders_to_the_next_level(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program = make.program(session)
        who, other = make.publisher(session), make.publisher(session)
        assert standing(session, program, who) == []
        make.plan(session, program, tiers("volume", "count", (1, "5"), (4, "8")))

        [one] = standing(session, program, who)
        assert figures(one) == (0, 5, 8, 4)
        sell(session, program, who)
        sell(session, program, other)
        sell(session, program, who, occurred_at=NOW - timedelta(days=20))
        [one] = standing(session, program, who)

        assert figures(one) == (1, 5, 8, 3)
        assert tier_standing.words(one, "EUR", "en") == [
            "Rule volume has counted 1 (count) so far.",
            "It pays 5 % now.",
            "3 more orders to the next level, which pays 8 %.",
            "The window ends with 2026-03-31.",
        ]
        assert tier_standing.words(one, "EUR", "zh-Hans")[2] == (
            "再有 3 个订单即达下一档位，支付 8 %。"
        )
        for _ in range(3):
            sell(session, program, who)
        [one] = standing(session, program, who)
        assert figures(one) == (4, 8, None, None)
        assert "That is the highest level." in tier_standing.words(one, "EUR", "en")


def test_an_amount_to_the_next_level_for_each_region(engine: Engine) -> None:
    rule = tiers("graduated", "sales", (0, "5"), (22_000, "7"), scope=["publisher", "region"])
    with unit_of_work(engine) as session:
        program, who = make.program(session), make.publisher(session)
        make.plan(session, program, rule, regions={"EU": ["DE"], "US": ["US"]})
        sell(session, program, who, country="DE")
        sell(session, program, who, country="US", amount_minor=30_000)

        eu, us = standing(session, program, who)

        assert (eu.scope, figures(eu)) == ((("region", "EU"),), (10_000, 5, 7, 12_000))
        assert (us.scope, figures(us)) == ((("region", "US"),), (30_000, 7, None, None))
        assert "120.00 EUR more sales to the next level, which pays 7 %." in tier_standing.words(
            eu, "EUR", "en"
        )


def test_a_status_is_decided_by_the_window_before(engine: Engine) -> None:
    rule = tiers("status", "count", (0, "5"), (2, "9"))
    with unit_of_work(engine) as session:
        program, who = make.program(session), make.publisher(session)
        make.plan(session, program, rule)
        for _ in range(2):
            sell(session, program, who, occurred_at=NOW - timedelta(days=20))
        sell(session, program, who)

        [one] = standing(session, program, who)

        assert figures(one) == (1, 9, 9, 1)
        assert "1 more to the level that pays 9 % in the next window." in tier_standing.words(
            one, "EUR", "en"
        )


def test_others_are_not_counted_out_loud(sqlite_engine: Engine) -> None:
    shared = tiers("volume", "count", (1, "5"), (2, "8"), scope=["program"])
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session)
        who, other = make.publisher(session), make.publisher(session)
        own = {
            **tiers("graduated", "count", (1, "5")),
            "when": {"publisher": [other.id], "country": ["US"]},
        }
        make.plan(session, program, shared, own)
        for _ in range(2):
            sell(session, program, other, country="DE")

        assert [figures(one) for one in standing(session, program, who)] == [(None, 8, None, None)]
