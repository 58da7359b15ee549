"""Commission plans in words."""

from datetime import UTC, datetime
from typing import Any

from commissions.models import PlanVersion
from console import terms

NOW = datetime(2026, 3, 10, 12, tzinfo=UTC)


def _read(*rules: dict[str, Any], **document: Any) -> terms.Terms:
    version = PlanVersion(
        id="pln_1",
        program_id="prg_1",
        version=1,
        effective_from=NOW,
        document={"currency": "EUR", "rules": list(rules), **document},
        content_hash="",
        published_by="usr_1",
        published_at=NOW,
    )
    return terms.read(version, lambda message: message)


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
