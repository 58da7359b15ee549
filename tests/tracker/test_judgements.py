import random
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from babel.messages.extract import extract_from_file
from babel.messages.pofile import read_po
from hypothesis import given
from hypothesis import strategies as st

import tracker
from tracker import judgements
from tracker.judgements import Check, Share, Status, Traffic


def traffic(**facts: int) -> Traffic:
    known = {
        "clicks": 1_200,
        "unique_clicks": 1_000,
        "orders": 24,
        "clicks_before": 12_000,
        "orders_before": 240,
        "days": 3,
        "days_before": 28,
    }
    return Traffic(**(known | facts))


@pytest.mark.parametrize(
    ("orders", "status"),
    [
        (24, "green"),
        (15, "green"),
        (12, "amber"),
        (10, "amber"),
        (8, "red"),
        (3, "red"),
        (0, "red"),
    ],
)
def test_fewer_orders_than_the_history_lets_expect(orders: int, status: str) -> None:
    judged = judgements.judge_conversions(traffic(orders=orders), orders_min=10)

    assert judged is not None
    assert judged.status == status
    assert judged.numbers["number"] == 24
    assert (judged.numbers["least"], judged.numbers["most"]) == (15, 35)


def test_many_more_orders_are_worth_a_look() -> None:
    judged = judgements.judge_conversions(traffic(orders=60), orders_min=10)

    assert judged is not None
    assert (judged.status, judged.sentence) == (Status.AMBER, judgements._MORE)


def test_a_short_history_expects_nothing() -> None:
    assert judgements.judge_conversions(traffic(orders_before=9), orders_min=10) is None
    assert judgements.judge_conversions(traffic(clicks_before=0), orders_min=10) is None


def test_orders_without_clicks_are_expected_by_the_day() -> None:
    shop = traffic(clicks_before=20, clicks=2, orders_before=280, orders=30)

    judged = judgements.judge_conversions(shop, orders_min=10)

    assert judged is not None
    assert (judged.status, judged.numbers["number"]) == (Status.GREEN, 30)


def test_luck_alarms_nobody() -> None:
    """Over many honest pairs, red is about as rare as its threshold says."""
    dice = random.Random(11)  # noqa: S311 - a test's dice
    reds = 0
    for _ in range(2_000):
        before = sum(dice.random() < 0.02 for _ in range(1_500))
        now = sum(dice.random() < 0.02 for _ in range(300))
        facts = {"clicks": 300, "clicks_before": 1_500, "orders": now, "orders_before": before}
        judged = judgements.judge_conversions(traffic(**facts), orders_min=1)
        reds += judged is not None and judged.status is Status.RED
    assert reds <= 8


def silence(hours: int, by_hour: Mapping[int, int] | None = None, now: int = 480_012) -> Any:
    return judgements.judge_silence(
        orders_by_hour=by_hour or dict.fromkeys(range(24), 31),
        last_hour=now - hours - 1,
        now_hour=now,
        days=31,
        hours_min=6,
    )


def test_silence_is_judged_by_what_the_hours_usually_bring() -> None:
    assert silence(5) is None
    assert silence(6).status == "amber"
    assert silence(9).status == "red"
    assert silence(9).numbers == {
        "hours": 9,
        "number": 9,
        "orders_before": 744,
        "days_before": 31,
    }
    # A shop that sells in the evening is silent by day.
    evening = {20: 310, 21: 310}
    noon = 480_000 + 12
    assert silence(14 - 0, evening, now=noon + 8) is None
    assert silence(24, evening, now=noon).status == "red"
    assert silence(100, {3: 1}) is None


@given(
    count=st.integers(0, 500),
    more=st.integers(0, 500),
    percent=st.integers(1, 100),
)
def test_a_share_is_amber_from_the_percent_and_red_from_twice_that(
    count: int, more: int, percent: int
) -> None:
    orders = count + more
    judged = judgements.judge_share(
        Check.LATE, Share(count=count, orders=orders, days=3), amber_percent=percent, orders_min=10
    )

    if orders < 10:
        assert judged is None
        return
    assert judged is not None
    exact = 100 * count / orders
    wanted = "green"
    if count and exact >= percent:
        wanted = "red" if exact >= min(2 * percent, 100) else "amber"
    assert judged.status == wanted
    assert abs(int(judged.numbers["percent"]) - exact) <= 0.5


def test_a_share_that_was_always_so_is_no_news() -> None:
    def status(count: int, before: int) -> str:
        judged = judgements.judge_share(
            Check.NO_CLICK,
            Share(count=count, orders=100, days=3, count_before=before, orders_before=1_000),
            amber_percent=20,
            orders_min=10,
        )
        assert judged is not None
        return judged.status

    assert status(90, 900) == "green"
    assert status(90, 300) == "red"
    assert status(35, 100) == "amber"


def test_repeats_and_pages() -> None:
    assert judgements.judge_repeats(traffic(clicks=300, unique_clicks=100)) is None
    repeats = judgements.judge_repeats(traffic(clicks=301, unique_clicks=100))
    assert repeats is not None
    assert repeats.status == "amber"
    assert judgements.judge_links(pages=0, failing=0, broken=0, examples="") is None
    statuses = [
        judgements.judge_links(pages=4, failing=failing, broken=broken, examples="x")
        for failing, broken in ((0, 0), (1, 0), (2, 1))
    ]
    assert [one and one.status for one in statuses] == ["green", "amber", "red"]


def test_every_sentence_has_its_chinese_with_every_number() -> None:
    folder = Path(tracker.__file__).parent
    found = extract_from_file("python", folder / "judgements.py", keywords={"N_": None})
    sentences = {str(message[1]) for message in found}
    with (folder / "locale" / "zh-Hans.po").open("rb") as file:
        known = {str(entry.id): str(entry.string) for entry in read_po(file) if entry.id}
    translated = {english: known[english] for english in sentences}

    assert len(sentences) == 13
    marks = re.compile(r"\{\w+\}")
    for english, chinese in translated.items():
        assert chinese
        assert set(marks.findall(chinese)) == set(marks.findall(english))


@pytest.mark.parametrize(
    ("times", "status"), [(0, None), (9, None), (10, "amber"), (99, "amber"), (100, "red")]
)
def test_the_most_repeated_order_decides(times: int, status: str | None) -> None:
    same = judgements.SameOrders(
        channel="tag", count=1_000, orders=500, times=times, example="A", days=3
    )

    judged = judgements.judge_same_orders(same, times_min=10)

    assert (judged.status.value if judged else None) == status
