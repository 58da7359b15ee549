"""Commission plans in words."""

import ast
from pathlib import Path
from typing import Any

import commissions
from commissions import plan_words
from kernel.i18n import catalogue


def _read(*rules: dict[str, Any], **document: Any) -> plan_words.Terms:
    return plan_words.read(
        {"currency": "EUR", "rules": list(rules), **document}, lambda message: message
    )


def test_every_word_has_its_chinese() -> None:
    tree = ast.parse(Path(plan_words.__file__).read_text(encoding="utf-8"))
    messages = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id in {"N_", "gettext"}
        and isinstance(node.args[0], ast.Constant)
    }
    chinese = catalogue(commissions.__name__, "zh-Hans")

    assert len(messages) > 40
    assert [one for one in messages if chinese.gettext(str(one)) == one] == []


def test_a_plan_is_told_in_sentences() -> None:
    document = {
        "currency": "EUR",
        "rules": [
            {"id": "all", "pay": {"percent": "2.5"}, "caps": {"per_order_minor": 500}},
            {
                "id": "books",
                "when": {"category": ["books"]},
                "tiers": {
                    "mode": "volume",
                    "measure": "count",
                    "window": "calendar_month",
                    "levels": [{"from": 1, "percent": "5"}, {"from": 9, "percent": "7"}],
                },
            },
        ],
        "caps": {"budget_minor": 100_000},
    }

    volume = "Volume: the level reached pays for everything in the window"
    levels = "measured in orders per calendar month: 5 % from 1, 7 % from 9 for category books"
    assert plan_words.tell(document, "en") == [
        f"books: {volume}; {levels}",
        "all: 2.5 % (at most 5.00 EUR an order) for every order",
        "budget of 1,000.00 EUR",
    ]
    assert plan_words.tell({**document, "rules": []}, "en") == []
    assert "2.5%" in plan_words.tell(document, "zh-Hans")[1]


def test_rules_stand_in_order_of_choice_with_their_conditions() -> None:
    found = _read(
        {"id": "all", "pay": {"percent": "2.5"}},
        {
            "id": "de",
            "when": {"country": ["DE", "AT"], "min_order_minor": 5_000},
            "pay": {"percent": "8", "fixed_minor": 100},
            "caps": {"per_order_minor": 9_900},
        },
    )

    assert [rule.id for rule in found.rules] == ["de", "all"]
    assert found.rules[0].pays == "8 % + 1.00 EUR an order"
    assert found.rules[0].conditions == ("country DE, AT", "order of at least 50.00 EUR")
    assert found.rules[0].limits == ("at most 99.00 EUR an order",)
    assert found.rules[1].pays == "2.5 %"
    assert found.rules[1].conditions == ()


def test_tiers_name_their_levels() -> None:
    (rule,) = _read(
        {
            "id": "t",
            "tiers": {
                "mode": "volume",
                "measure": "commissionable",
                "window": "calendar_month",
                "levels": [{"from": 0, "percent": "5"}, {"from": 100_000, "percent": "7.25"}],
            },
        }
    ).rules

    assert rule.pays == ""
    assert rule.mode.endswith("measured in commissionable sales per calendar month")
    assert [(level.start, level.pays) for level in rule.levels] == [
        ("0.00 EUR", "5 %"),
        ("1,000.00 EUR", "7.25 %"),
    ]


def test_rates_finer_than_a_minor_unit_are_said_in_full() -> None:
    (rule,) = _read({"id": "u", "pay": {"per_unit": "0.25"}}).rules

    assert rule.pays == "0.0025 EUR a unit"


def test_bonuses_regions_and_caps_are_named() -> None:
    found = _read(
        {"id": "all", "when": {"region": ["EU"]}, "pay": {"percent": "4"}},
        {"id": "first", "kind": "bonus", "pay": {"fixed_minor": 2_500, "once_per_publisher": True}},
        {"id": "top", "kind": "bonus", "pay": {"percent_of_commission": "10"}},
        regions={"EU": ["FR", "DE"]},
        caps={"budget_minor": 1_000_000},
    )

    assert [rule.pays for rule in found.rules if rule.is_bonus] == [
        "25.00 EUR once per publisher",
        "10 % of the commission on top",
    ]
    assert found.regions == (("EU", "DE, FR"),)
    assert found.caps == ("budget of 10,000.00 EUR",)


def test_campaigns_caps_of_orders_and_bonuses_by_levels_are_named() -> None:
    campaign = {"window": "campaign", "start": "2026-03-01", "end": "2026-04-01"}
    levels = [{"from": 1, "percent_of_commission": "10"}, {"from": 3, "flat_minor": 500}]
    found = _read(
        {"id": "all", "pay": {"percent": "4"}},
        {
            "id": "more",
            "kind": "bonus",
            "tiers": {"mode": "graduated", "measure": "count", "levels": levels, **campaign},
        },
        {"id": "once", "kind": "bonus", "pay": {"percent": "2", "once_per_publisher": True}},
        caps={"per_publisher_window_count": 5, "budget_count": 9, "window": "calendar_month"},
    )

    tiered, once = (rule for rule in found.rules if rule.is_bonus)
    assert tiered.mode.endswith("measured in orders per campaign from 2026-03-01 to 2026-04-01")
    assert [(level.start, level.pays) for level in tiered.levels] == [
        ("1", "10 % of the commission on top"),
        ("3", "5.00 EUR once on reaching the level"),
    ]
    assert once.pays == "2 % once per publisher"
    assert found.caps == (
        "at most 5 paid orders per publisher and calendar month",
        "at most 9 paid orders in all",
    )
