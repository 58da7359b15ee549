import json
from pathlib import Path
from typing import Any

import pytest

from server import crediting, pricing

AT = "2026-03-15T12:00:00Z"
DAYS = {"A": "2026-03-01T12:00:00Z", "B": "2026-03-08T12:00:00Z", "C": "2026-03-15T11:59:30Z"}


def entry(model: str, publishers: str = "ABC", **params: Any) -> dict[str, Any]:
    touches = [{"publisher": one, "at": DAYS[one]} for one in publishers]
    return {"model": model, "touches": touches, "converted_at": AT, "params": params}


def test_every_published_vector_is_computed_as_published(shared_data: Path) -> None:
    path = shared_data.parent / "vectors" / "commission.json"
    if not path.is_file():
        pytest.skip(f"no commission vectors at {path}")
    document = json.loads(path.read_text())

    answer, ok = pricing.run({"attribution": document["attribution"]})

    assert ok, answer
    assert len(answer["attribution"]) == 10
    assert answer["attribution"][2] == {
        "id": "M3",
        "computed": {
            "weights": {"pA": "1/3", "pB": "1/3", "pC": "1/3"},
            "reason": "linear",
            "split_of_1000_minor": {"pA": 334, "pB": 333, "pC": 333},
        },
        "expect": {
            "weights": {"pA": "1/3", "pB": "1/3", "pC": "1/3"},
            "split_of_1000_minor": {"pA": 334, "pB": 333, "pC": 333},
        },
        "ok": True,
    }


LEAD = [
    {"at": "2026-03-01T00:00:00Z", "weights": {"B": "1"}},
    {"at": "2026-02-01T00:00:00Z", "weights": {"A": "1"}},
]
SAVE = {"code": "SAVE", "operator": "STARTS_WITH", "publisher": "Z"}
CASES = [
    (entry("position"), {"A": "2/5", "B": "1/5", "C": "2/5"}, "position"),
    (entry("position", "AC"), {"A": "1/2", "C": "1/2"}, "position"),
    (
        entry("position", first_percent="50", middle_percent="20", last_percent=30),
        {"A": "1/2", "B": "1/5", "C": "3/10"},
        "position",
    ),
    (entry("split"), {"A": "2/5", "B": "1/5", "C": "2/5"}, "split"),
    (entry("split", "AC", missing_contributor="split"), {"A": "1/2", "C": "1/2"}, "split"),
    (entry("split", excluded=["B"]), {"A": "2/5", "C": "3/5"}, "split"),
    (entry("stand_down", stand_down_seconds=60), {"B": "1"}, "last_click"),
    (entry("stand_down", stand_down_seconds=29), {"C": "1"}, "last_click"),
    (entry("linear", stand_down_seconds=60), {"A": "1/2", "B": "1/2"}, "linear"),
    (
        entry("in_cart", cart_at="2026-03-07T00:00:00Z", threshold_seconds=600, base="linear"),
        {"A": "1/2", "B": "1/2"},
        "linear",
    ),
    (entry("in_cart", "C", cart_at=AT[:11] + "11:00:00Z", reject_solo=True), {}, "in_cart"),
    (
        entry("preferred_partner", preferred=[{"publisher": "A", "to": "2026-03-15"}]),
        {"A": "1"},
        "preferred_partner",
    ),
    (
        entry("preferred_partner", preferred=[{"publisher": "A", "to": AT}]),
        {"C": "1"},
        "last_click",
    ),
    (
        entry("preferred_partner", "B", preferred=[{"publisher": "A", "clickless": True}]),
        {"A": "1"},
        "preferred_partner",
    ),
    (entry("channel_dedup", channel="AW", affiliate_channel="aw"), {"C": "1"}, "last_click"),
    (entry("linear", "AB", channel="seo", affiliate_channel=["aw"]), {}, "other_channel"),
    (entry("coupon", coupon="save10", coupons=[SAVE]), {"Z": "1"}, "coupon_exclusive"),
    (
        entry("coupon", coupon="save10", coupons=[SAVE | {"effect": "owner"}]),
        {"C": "1"},
        "last_click",
    ),
    (
        entry("coupon", "", coupon="save10", coupons=[SAVE | {"effect": "owner"}]),
        {"Z": "1"},
        "coupon_owner",
    ),
    (
        entry("coupon", coupon="save10", coupons=[{"code": "AVE", "operator": "CONTAINS",
                                                   "effect": "suppressed"}]),
        {},
        "coupon_suppressed",
    ),
    (entry("lead_then_sale", "", earlier=LEAD), {"B": "1"}, "same_customer"),
    (entry("lead_then_sale", "", earlier=LEAD, within_days=14), {}, "no_click_id"),
    (entry("lead_then_sale", "C", earlier=LEAD), {"C": "1"}, "last_click"),
    (
        entry("markov", "BA", paths=[{"path": ["A", "conv"], "count": 3}, ["B", "conv"]]),
        {"A": "3/4", "B": "1/4"},
        "markov",
    ),
    (entry("markov", "AB", removal={"A": "0.75", "B": "1/2"}), {"A": "3/5", "B": "2/5"}, "markov"),
    (entry("last_click", windows={"C": 0}, window_hours=240), {"B": "1"}, "last_click"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "weights", "reason"), CASES)
def test_models_and_guards(given: dict[str, Any], weights: dict[str, str], reason: str) -> None:
    computed, expect, ok = crediting.evaluate({**given, "expect_weights": weights})

    assert ok, computed
    assert expect == {"weights": weights}
    assert (computed["weights"], computed["reason"]) == (weights, reason)


@pytest.mark.parametrize(
    "expect",
    [
        {"expect_weights": {"C": "0.5"}},
        {"expect_split_of_7_minor": {"C": 6}},
        {"expect_reason": "linear"},
        {"expect_colour": "red"},
        {"expect": {"weights": {}}},
    ],
)
def test_a_wrong_expectation_is_not_ok(expect: dict[str, Any]) -> None:
    assert crediting.evaluate(entry("last_click") | expect)[2] is False


def test_weights_may_be_written_as_decimals() -> None:
    given = entry("position", "AC") | {"expect": {"weights": {"A": "0.5", "C": 0.5, "B": 0}}}
    assert crediting.evaluate(given)[2] is True


@pytest.mark.parametrize(
    ("broken", "reason"),
    [
        (entry("astrology"), "model"),
        (entry("linear", speed=1), "params.speed"),
        (entry("position", first_percent="60", last_percent="60"), "params.last_percent"),
        (entry("shapley", coalitions={"A": "1"}), "coalitions"),
        ({"model": "linear", "touches": [{"publisher": "A", "at": "soon"}]}, "converted_at"),
    ],
)
def test_what_is_not_known_is_named(broken: dict[str, Any], reason: str) -> None:
    answer, ok = pricing.run({"attribution": [broken, entry("last_click")]})

    assert not ok
    assert [one["ok"] for one in answer["attribution"]] == [False, True]
    assert reason in answer["attribution"][0]["reason"]
