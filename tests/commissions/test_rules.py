"""The pricing engine: what a plan refuses, what it pays, and what stays true of any history."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commissions.rules import (
    CounterKey,
    EventError,
    Order,
    Plan,
    PlanError,
    Priced,
    counter_keys,
    evaluate,
    needs_replay,
    parse_events,
    parse_plan,
    price_order,
    replay_span,
)

AT = "2026-03-10T12:00:00Z"


def plan_of(*rules: dict[str, Any], **program: Any) -> Plan:
    return parse_plan({"currency": "EUR", "timezone": "UTC", **program}, list(rules))


def base(rule_id: str = "r", **fields: Any) -> dict[str, Any]:
    if "tiers" not in fields:
        fields = {"pay": {"percent": "5"}, **fields}
    return {"id": rule_id, "kind": "base", **fields}


def tiers(*levels: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "mode": "graduated",
        "measure": "commissionable",
        "window": "calendar_month",
        "levels": list(levels),
        **fields,
    }


def sale(sale_id: str, *nets: int, publisher: str = "p1", at: str = AT, **more: Any) -> Any:
    lines = more.pop("lines", [{"net_minor": net} for net in nets])
    return {"id": sale_id, "publisher": publisher, "at": at, "lines": lines, **more}


def change(kind: str, sale_id: str, at: str = "2026-03-20T12:00:00Z", **more: Any) -> Any:
    return {"type": kind, "conversion": sale_id, "at": at, **more}


def priced(plan: Plan, *events: Any) -> dict[str, Priced]:
    return evaluate(plan, parse_events(events, plan.zone))


def amounts(plan: Plan, *events: Any) -> list[int]:
    return [one.commission_minor for one in priced(plan, *events).values()]


def problems(document: Any, rules: Any = None) -> dict[str, str]:
    with pytest.raises(PlanError) as refused:
        parse_plan(document, rules)
    return dict(refused.value.problems)


PROGRAM = {"currency": "EUR", "regions": {"DACH": ["DE", "AT", "CH"], "EU": ["DE", "FR"]}}


@pytest.mark.parametrize(
    ("rule", "path", "reason"),
    [
        (base(pay={"percent": "-1"}), "rules[0].pay.percent", "must not be negative"),
        (base(pay={"percent": 5.0}), "rules[0].pay.percent", "must be a decimal string"),
        (base(pay={"percent": "1e2"}), "rules[0].pay.percent", "must be a decimal string"),
        (base(pay={"percent": "1001"}), "rules[0].pay.percent", "must be at most 1000"),
        (base(pay={"fixed_minor": -1}), "rules[0].pay.fixed_minor", "must not be negative"),
        (base(pay={"fixed_minor": True}), "rules[0].pay.fixed_minor", "must be an integer"),
        (base(pay={}), "rules[0].pay", "pays nothing it names"),
        (base(surprise=1), "rules[0].surprise", "unknown field"),
        (base(pay={"percent": "5", "cpc": 1}), "rules[0].pay.cpc", "unknown field"),
        (base(when={"moon": ["full"]}), "rules[0].when.moon", "unknown field"),
        (base(when={"country": ["DE", "UK"]}), "rules[0].when.country", "unknown country: UK"),
        (base(when={"region": ["LATAM"]}), "rules[0].when.region", "unknown region: LATAM"),
        (base(when={"sku": []}), "rules[0].when.sku", "names at least one value"),
        (base(kind="assist"), "rules[0].kind", "not supported"),
        (
            {"id": "b", "kind": "bonus", "pay": {"percent": "1", "window": "lifetime"}},
            "rules[0].pay.window",
            "only with threshold_minor or once_per_publisher",
        ),
        (base(pay={"percent_of_commission": "1"}), "rules[0].pay", "pays nothing it names"),
        (
            base(effective_from="2026-02-01", effective_to="2026-02-01"),
            "rules[0].effective_to",
            "must be after effective_from",
        ),
        (
            base(tiers={"measure": "count", "window": "lifetime", "levels": [{"from": 0}]}),
            "rules[0].tiers.mode",
            "missing",
        ),
        (
            base(tiers=tiers({"from": 5, "percent": "1"}, {"from": 5, "percent": "2"})),
            "rules[0].tiers.levels[1].from",
            "must be above 5, where the level before begins",
        ),
        (base(tiers=tiers()), "rules[0].tiers.levels", "names at least one level"),
        (
            base(tiers=tiers({"from": 0, "percent": "1"}, window="rolling_0d")),
            "rules[0].tiers.window",
            "rolling over 1 to 366 days",
        ),
        (
            base(tiers=tiers({"from": 0, "percent": "1"}, window="campaign")),
            "rules[0].tiers.start",
            "missing",
        ),
        (
            base(tiers=tiers({"from": 0, "percent": "1"}, window="fortnight")),
            "rules[0].tiers.window",
            "not supported",
        ),
        (
            base(tiers=tiers({"from": 0, "percent": "1"}, mode="status", window="lifetime")),
            "rules[0].tiers.window",
            "status needs the window before, and lifetime has none",
        ),
        (
            base(tiers=tiers({"from": 0, "percent": "1"}, mode="order", measure="units")),
            "rules[0].tiers.window",
            "an order tier looks at its own order: must be order",
        ),
        (
            base(
                effective_to="2026-01-01",
                tiers=tiers(
                    {"from": 0, "percent": "1"},
                    window="campaign",
                    start="2026-02-01",
                    end="2026-03-01",
                ),
            ),
            "rules[0].effective_to",
            "the rule is never in force while its campaign is",
        ),
        (
            base(tiers=tiers({"from": 0, "percent": "1"}, scope=["site"])),
            "rules[0].tiers.scope",
            "site: not supported",
        ),
        (
            base(tiers=tiers({"from": 0, "percent": "1"}, tz="Mars/Olympus")),
            "rules[0].tiers.tz",
            "unknown time zone",
        ),
    ],
)
def test_a_rule_the_engine_cannot_keep_is_refused(
    rule: dict[str, Any], path: str, reason: str
) -> None:
    assert problems(PROGRAM, [rule])[path].startswith(reason)


@pytest.mark.parametrize(
    ("field", "value", "path", "reason"),
    [
        ("currency", "EURO", "currency", "unknown currency code"),
        ("currency", None, "currency", "missing"),
        ("timezone", "../etc", "timezone", "unknown time zone"),
        ("rounding", "up", "rounding", "not supported"),
        ("regions", {"EU": ["XX"]}, "regions.EU", "unknown country: XX"),
        ("country_basis", ["ip"], "country_basis", "names fields 'country' or 'country_...'"),
        ("rate_clock", "invoiced", "rate_clock", "not supported"),
        ("caps", {"per_publisher_window_count": 1}, "caps.window", "missing"),
        ("caps", {"budget_minor": 1, "window": "campaign"}, "caps.start", "missing"),
        ("caps", {"per_publisher_window_minor": 1}, "caps.window", "missing"),
        ("fx", {"pivot": "USD", "rates": {"2026-01-02": {"GBP": "0.8"}}}, "fx.rates", "2026-01-02"),
    ],
)
def test_a_program_field_the_engine_cannot_keep_is_refused(
    field: str, value: Any, path: str, reason: str
) -> None:
    assert problems({**PROGRAM, field: value}, [base()])[path].startswith(reason)


def test_every_problem_is_listed_at_once() -> None:
    found = problems({"currency": "???"}, [base(extra=1), base(pay={"percent": "-2"})])
    assert set(found) == {"currency", "rules[0].extra", "rules[1].pay.percent"}


def test_limits_hold() -> None:
    assert "rules" in problems(PROGRAM, [base(f"r{at}", priority=at) for at in range(501)])
    levels = [{"from": at, "percent": "1"} for at in range(51)]
    assert "rules[0].tiers.levels" in problems(PROGRAM, [base(tiers=tiers(*levels))])
    assert problems(PROGRAM, []) == {"rules": "names at least one rule"}
    assert problems("text", [base()])[""] == "must be an object"
    with pytest.raises(EventError, match="at most 1000 entries"):
        parse_events([sale("c", *[1] * 1001)], plan_of(base()).zone)


def test_rules_may_stand_inside_the_document() -> None:
    inside = parse_plan({**PROGRAM, "rules": [base()]})
    assert inside == parse_plan(PROGRAM, [base()])


def test_a_tie_only_ids_decide_is_refused_for_a_new_plan_and_kept_for_an_old_one() -> None:
    rules = [base("b", when={"region": ["EU"]}), base("a", when={"region": ["DACH"]})]
    found = problems(PROGRAM, rules)
    assert found == {
        "rules[0]": (
            "ambiguous: rules a and b have the same priority 0 and specificity, "
            "and both match country DE"
        )
    }
    old = parse_plan(PROGRAM, rules, publishing=False)
    assert old.warnings == tuple(found.items())
    assert [rule.id for rule in old.base_rules] == ["a", "b"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"when": {"country": ["DE"]}}, {"when": {"country": ["FR"]}}),
        ({"when": {"country": ["DE"]}}, {"when": {"region": ["DACH"]}}),
        ({"priority": 1}, {}),
        ({"effective_to": "2026-03-01"}, {"effective_from": "2026-03-01"}),
        ({"when": {"max_order_minor": 99}}, {"when": {"over_order_minor": 99}}),
    ],
)
def test_rules_that_never_meet_or_are_ordered_are_no_tie(
    first: dict[str, Any], second: dict[str, Any]
) -> None:
    plan = parse_plan(PROGRAM, [base("a", **first), base("b", **second)])
    assert plan.warnings == ()


def test_a_tie_a_later_start_decides_is_a_warning() -> None:
    plan = parse_plan(PROGRAM, [base("a"), base("b", effective_from="2026-02-01")])
    assert plan.warnings == (
        (
            "rules[0]",
            (
                "ambiguous: rules b and a have the same priority 0 and specificity, "
                "and both match every order"
            ),
        ),
    )


def test_a_tie_says_what_both_rules_match() -> None:
    when = {"category": ["books", "music"], "publisher_group": ["gold"], "min_order_minor": 1}
    other = {"category": ["music", "toys"], "publisher_group": ["gold"], "min_order_minor": 5}
    assert problems(PROGRAM, [base("a", when=when), base("b", when=other)]) == {
        "rules[1]": (
            "ambiguous: rules a and b have the same priority 0 and specificity, and both "
            "match publisher_group gold, category music, orders within the bounds of both"
        )
    }


def test_rule_versions_follow_the_time_of_occurrence_and_ends_are_exclusive() -> None:
    plan = plan_of(
        base("old", effective_to="2026-03-01T00:00:00Z"),
        base("new", pay={"percent": "7"}, effective_from="2026-03-01T00:00:00Z"),
    )
    before = sale("c1", 10000, at="2026-02-28T23:59:59Z", received_at="2026-03-09T00:00:00Z")
    assert amounts(plan, before, sale("c2", 10000, at="2026-03-01T00:00:00Z")) == [500, 700]


@pytest.mark.parametrize(
    ("when", "facts"),
    [
        ({"publisher": ["p1"]}, {}),
        ({"publisher_group": ["gold"]}, {"publisher_groups": ["silver", "gold"]}),
        ({"coupon": ["SAVE"]}, {"coupon": "SAVE"}),
        ({"sku": ["s1"]}, {"lines": [{"net_minor": 10000, "sku": "s1"}]}),
        ({"category": ["x"]}, {"lines": [{"net_minor": 10000, "category": "x"}]}),
        ({"customer": ["new"]}, {"customer": "new"}),
        ({"country": ["DE", "FR"]}, {"country": "FR"}),
        ({"region": ["DACH"]}, {"country": "AT"}),
        ({"device": ["mobile"]}, {"device": "mobile"}),
        ({"site": ["de"]}, {"site": "de"}),
        ({"min_order_minor": 10000}, {}),
        ({"within_months_of_first": 3}, {"months_since_first": 2}),
    ],
)
def test_each_condition_matches_only_what_it_names(
    when: dict[str, Any], facts: dict[str, Any]
) -> None:
    plan = parse_plan(PROGRAM, [base("d"), base("r", pay={"percent": "9"}, when=when)])
    matching = priced(plan, sale("c", 10000, **facts))["c"]
    assert (matching.commission_minor, matching.rule_ids) == (900, ("r",))
    # An attribute the order lacks never matches; the publisher is the one it always has.
    other = sale("c", 9999, publisher="p2")
    assert priced(plan, other)["c"].rule_ids == ("d",)


def test_an_order_no_rule_matches_pays_nothing_and_says_so() -> None:
    one = priced(plan_of(base(when={"country": ["DE"]})), sale("c", 10000))["c"]
    assert one.commission_minor == 0
    (line,) = one.explanation["lines"]
    assert line["why"] == "no rule matches"
    assert line["losers"] == [{"rule_id": "r", "reason": "country is unknown"}]


def test_the_explanation_shows_rule_slices_and_losers() -> None:
    plan = parse_plan(
        PROGRAM,
        [
            base("default"),
            base(
                "de",
                when={"country": ["DE"]},
                tiers=tiers({"from": 0, "percent": "5"}, {"from": 100000, "percent": "7.5"}),
            ),
        ],
    )
    result = priced(plan, sale("c1", 60000, country="DE"), sale("c2", 90001, country="DE"))["c2"]
    assert json.loads(json.dumps(result.explanation)) == result.explanation
    (line,) = result.explanation["lines"]
    assert line["rule_id"] == "de"
    assert line["why"] == "matches country"
    assert line["losers"] == [
        {
            "rule_id": "default",
            "reason": "outranked by de: country is more specific than every order",
        }
    ]
    assert line["base_minor"] == "90001"
    assert (line["tier"]["before"], line["tier"]["after"]) == ("60000", "150001")
    assert [(part["level"], part["size"], part["percent"]) for part in line["slices"]] == [
        (0, "40000", "5"),
        (100000, "50001", "15/2"),
    ]
    assert line["exact"] == "230003/40"
    assert line["commission_minor"] == 5750
    assert result.commission_minor == 5750


@pytest.mark.parametrize(
    ("boundary", "commission"), [("split", 5500), ("after", 6300), ("before", 4500)]
)
def test_an_order_crossing_a_boundary(boundary: str, commission: int) -> None:
    levels = ({"from": 0, "percent": "5"}, {"from": 100000, "percent": "7"})
    plan = plan_of(base(tiers=tiers(*levels, boundary=boundary)))
    assert amounts(plan, sale("c1", 60000), sale("c2", 50000, 40000)) == [3000, commission]


@pytest.mark.parametrize(
    ("window", "first", "second", "same"),
    [
        ("calendar_day", "2026-03-29T00:30:00+01:00", "2026-03-29T23:30:00+02:00", True),
        ("calendar_day", "2026-03-28T23:30:00+01:00", "2026-03-29T00:30:00+01:00", False),
        ("calendar_week", "2026-03-02T00:00:00+01:00", "2026-03-08T23:59:59+01:00", True),
        ("calendar_week", "2026-03-08T23:59:59+01:00", "2026-03-09T00:00:00+01:00", False),
        ("calendar_month", "2026-03-31T23:59:59+02:00", "2026-04-01T00:00:00+02:00", False),
        ("calendar_quarter", "2026-01-01T00:00:00+01:00", "2026-03-31T23:00:00+02:00", True),
        ("calendar_quarter", "2026-03-31T23:00:00+02:00", "2026-04-01T00:00:00+02:00", False),
        ("calendar_year", "2025-12-31T23:00:00Z", "2026-12-31T22:59:59Z", True),
        ("calendar_year", "2025-12-31T22:59:59Z", "2025-12-31T23:00:00Z", False),
        ("lifetime", "2001-01-01T00:00:00Z", "2026-03-01T00:00:00Z", True),
    ],
)
def test_windows_follow_the_calendar_of_their_zone(
    window: str, first: str, second: str, *, same: bool
) -> None:
    levels = ({"from": 1, "fixed_minor": 100}, {"from": 2, "fixed_minor": 200})
    plan = plan_of(base(tiers=tiers(*levels, measure="count", window=window, tz="Europe/Berlin")))
    assert amounts(plan, sale("c1", 0, at=first), sale("c2", 0, at=second)) == [
        100,
        200 if same else 100,
    ]


def test_sales_count_what_other_rules_pay_and_commissionable_does_not() -> None:
    def paid(measure: str) -> list[int]:
        levels = ({"from": 0, "percent": "5"}, {"from": 10000, "percent": "10"})
        plan = plan_of(
            base("tiered", tiers=tiers(*levels, measure=measure)),
            base("gift", when={"category": ["gift"]}, pay={"percent": "0"}),
        )
        gift = sale("c1", lines=[{"net_minor": 10000, "category": "gift"}])
        return amounts(plan, gift, sale("c2", 10000))

    assert paid("sales") == [0, 1000]
    assert paid("commissionable") == [0, 500]


def test_fixed_pay_is_once_an_order_and_per_unit_follows_the_units() -> None:
    lines = [{"net_minor": 100, "qty": 2}, {"net_minor": 100, "qty": 3}]
    per_order = plan_of(base(pay={"fixed_minor": 700}))
    per_unit = plan_of(base(pay={"fixed_minor": 700, "per": "unit"}))
    assert amounts(per_order, sale("c", lines=lines)) == [700]
    assert amounts(per_unit, sale("c", lines=lines)) == [3500]
    first_line_refunded = change("refund", "c", amount_minor=100)
    assert amounts(per_order, sale("c", lines=lines), first_line_refunded) == [700]
    assert amounts(per_unit, sale("c", lines=lines), first_line_refunded) == [2100]


@pytest.mark.parametrize(
    ("rounding", "round_at", "commission"),
    [
        ("half_up", "line", 9),
        ("half_even", "line", 6),
        ("down", "line", 6),
        ("half_up", "order", 8),
        ("half_even", "order", 8),
        ("down", "order", 7),
    ],
)
def test_rounding_modes_and_where_they_apply(rounding: str, round_at: str, commission: int) -> None:
    plan = plan_of(base(), rounding=rounding, round_at=round_at)
    one = priced(plan, sale("c", 50, 50, 50))["c"]
    assert one.commission_minor == commission
    assert sum(line.commission_minor for line in one.lines) == commission


def test_order_minimum_and_maximum_clamp_after_rounding() -> None:
    plan = plan_of(base(caps={"per_order_minor": 1000, "min_per_order_minor": 100}))
    assert amounts(plan, sale("a", 1000), sale("b", 10000), sale("c", 20000, 20001)) == [
        100,
        500,
        1000,
    ]
    assert amounts(plan, sale("a", 1000), change("cancel", "a")) == [0]


@pytest.mark.parametrize("kind", ["cancel", "decline"])
def test_what_is_taken_back_leaves_the_counter(kind: str) -> None:
    levels = ({"from": 1, "fixed_minor": 100}, {"from": 2, "fixed_minor": 200})
    plan = plan_of(base(tiers=tiers(*levels, measure="count")))
    result = priced(plan, sale("c1", 10), sale("c2", 10), change(kind, "c1"), change(kind, "c1"))
    assert [one.commission_minor for one in result.values()] == [0, 100]
    assert result["c1"].contributions == {}


def test_a_held_order_is_priced_in_place_and_counts_only_when_released() -> None:
    levels = ({"from": 1, "fixed_minor": 100}, {"from": 2, "fixed_minor": 200})
    plan = plan_of(base(tiers=tiers(*levels, measure="count")))
    events = [sale("c1", 10), change("hold", "c1"), sale("c2", 10)]
    assert amounts(plan, *events) == [100, 100]
    assert priced(plan, *events)["c1"].status == "held"
    assert amounts(plan, *events, change("release", "c1")) == [100, 200]


def test_counting_approved_orders_only() -> None:
    levels = ({"from": 1, "fixed_minor": 100}, {"from": 2, "fixed_minor": 200})
    plan = plan_of(base(tiers=tiers(*levels, measure="count", counts="approved")))
    events = [sale("c1", 10), sale("c2", 10)]
    assert amounts(plan, *events) == [100, 100]
    assert amounts(plan, *events, change("approve", "c1")) == [100, 200]


def test_after_the_freeze_a_refund_takes_back_its_own_share_and_restates_nothing() -> None:
    levels = ({"from": 0, "percent": "5"}, {"from": 100000, "percent": "7"})
    plan = plan_of(base(tiers=tiers(*levels, mode="volume", freeze_days=30)))
    events = [sale("c1", 60000), sale("c2", 50000)]
    assert amounts(plan, *events) == [4200, 3500]
    in_time = change("refund", "c2", at="2026-04-30T23:59:59Z", amount_minor=25000)
    too_late = change("refund", "c2", at="2026-05-01T00:00:00Z", amount_minor=25000)
    assert amounts(plan, *events, in_time) == [3000, 1250]
    assert amounts(plan, *events, too_late) == [4200, 1750]
    assert amounts(plan, *events, change("cancel", "c2", at="2026-05-01T00:00:00Z")) == [4200, 0]


def test_an_order_reported_after_the_freeze_is_paid_and_moves_no_level() -> None:
    levels = ({"from": 0, "percent": "5"}, {"from": 100000, "percent": "7"})
    plan = plan_of(base(tiers=tiers(*levels, mode="volume", freeze_days=30)))
    first = sale("c1", 60000)
    in_time = sale("c2", 50000, received_at="2026-04-30T23:59:59Z")
    too_late = sale("c2", 50000, received_at="2026-05-01T00:00:00Z")
    assert amounts(plan, first, in_time) == [4200, 3500]
    assert amounts(plan, first, too_late) == [3000, 2500]


def test_a_volume_flat_goes_to_the_order_that_reaches_the_level_exactly() -> None:
    levels = ({"from": 0, "percent": "5"}, {"from": 20000, "percent": "5", "flat_minor": 99})
    plan = plan_of(base(tiers=tiers(*levels, mode="volume")))
    events = [sale("c1", 10000), sale("c2", 10000), sale("c3", 10000)]
    assert amounts(plan, *events) == [500, 599, 500]
    assert amounts(plan, *events, change("cancel", "c1")) == [0, 500, 599]


def test_caps_are_used_up_in_booking_order_and_say_what_they_cut() -> None:
    caps = {"per_publisher_window_minor": 700, "window": "calendar_month", "budget_minor": 1000}
    plan = plan_of(base(), caps=caps)
    events = [
        sale("c1", 10000),
        sale("c2", 10000),
        sale("c3", 10000, publisher="p2"),
        sale("c4", 10000, publisher="p2", at="2026-04-10T00:00:00Z"),
    ]
    assert amounts(plan, *events) == [500, 200, 300, 0]
    cut = priced(plan, *events)["c2"]
    assert cut.uncapped_minor == 500
    assert cut.explanation["caps"] == [{"cap": "publisher", "cap_minor": 700, "from": 500}]
    assert amounts(plan, *events, change("cancel", "c1")) == [0, 500, 500, 0]


def test_a_status_ignores_reversals_that_came_after_its_window_opened() -> None:
    levels = ({"from": 0, "percent": "5"}, {"from": 100000, "percent": "7"})
    plan = plan_of(base(tiers=tiers(*levels, mode="status")))
    events = [sale("c1", 120000, at="2026-02-10T00:00:00Z"), sale("c2", 10000)]
    in_time = change("cancel", "c1", at="2026-02-28T23:59:59Z")
    late = change("cancel", "c1", at="2026-03-01T00:00:00Z")
    assert amounts(plan, *events) == [6000, 700]
    assert amounts(plan, *events, in_time) == [0, 500]
    assert amounts(plan, *events, late) == [0, 700]


def test_a_threshold_bonus_is_paid_once_a_window_and_withdrawn_below_it() -> None:
    pay = {"threshold_minor": 20000, "fixed_minor": 1000, "window": "calendar_month"}
    plan = plan_of(base(), {"id": "b", "kind": "bonus", "pay": pay})
    events = [sale("c1", 10000), sale("c2", 10000), sale("c3", 10000)]
    assert amounts(plan, *events) == [500, 1500, 500]
    assert amounts(plan, *events, change("cancel", "c1")) == [0, 500, 1500]
    assert amounts(plan, *events, change("cancel", "c1"), change("cancel", "c2")) == [0, 0, 500]


@pytest.mark.parametrize(
    ("events", "reason"),
    [
        ([change("cancel", "ghost")], "unknown conversion"),
        ([sale("c", 1), sale("c", 1)], "duplicate conversion id"),
        ([sale("c", 1, mystery=1)], "unknown field"),
        ([sale("c", -1)], "must not be negative"),
        ([sale("c")], "at least one line"),
        ([{**sale("c", 1), "type": "rerate"}], "not supported"),
        ([sale("c", 1), change("refund", "c")], "a refund names an amount or a qty"),
        ([sale("c", lines=[{"net_minor": 1, "gross_minor": 1}])], "exclude one another"),
        ([sale("c", 1, at="yesterday")], "ISO 8601"),
    ],
)
def test_events_that_make_no_sense_are_refused(events: list[Any], reason: str) -> None:
    with pytest.raises(EventError, match=reason):
        parse_events(events, plan_of(base()).zone)


@pytest.mark.parametrize(
    ("event", "reason"),
    [
        (change("refund", "c", amount_minor=101), "amount exceeds"),
        (change("refund", "c", qty=2), "qty exceeds"),
        (change("refund", "c", line=1, amount_minor=1), "no such line"),
    ],
)
def test_a_refund_of_more_than_there_is_is_refused(event: Any, reason: str) -> None:
    with pytest.raises(EventError, match=reason):
        priced(plan_of(base()), sale("c", 100), event)


def test_an_order_in_a_currency_without_a_rate_is_refused() -> None:
    with pytest.raises(EventError, match="no rate for USD on 2026-03-10"):
        priced(plan_of(base()), sale("c", 100, currency="USD"))


def test_counter_keys_name_rule_scope_and_window_start() -> None:
    rule = base(tiers=tiers({"from": 0, "percent": "5"}, scope=["category", "publisher"]))
    plan = plan_of(rule, timezone="America/Los_Angeles")
    lines = [{"net_minor": 1, "category": "b"}, {"net_minor": 2, "category": "a"}]
    order = order_of(plan, sale("c", lines=lines))
    start = "2026-03-01T08:00:00+00:00"
    assert counter_keys(plan, order) == (
        CounterKey("r", (("publisher", "p1"), ("category", "a")), start),
        CounterKey("r", (("publisher", "p1"), ("category", "b")), start),
    )


def order_of(plan: Plan, event: Any) -> Order:
    (order,) = parse_events([event], plan.zone)
    assert isinstance(order, Order)
    return order


def test_tiers_that_restate_earlier_orders_need_a_replay() -> None:
    level = {"from": 0, "percent": "5"}
    volume = plan_of(base(tiers=tiers(level, mode="volume")))
    order = order_of(volume, sale("c", 1))
    assert needs_replay(volume, order)
    with pytest.raises(ValueError, match="needs a replay"):
        price_order(volume, order, {})
    assert not needs_replay(plan_of(base(tiers=tiers(level))), order)
    assert needs_replay(plan_of(base(), caps={"budget_minor": 1}), order)


def test_the_replay_span_is_closed_under_the_plans_windows() -> None:
    level = {"from": 0, "percent": "5"}
    week = base("w", priority=1, tiers=tiers(level, window="calendar_week"))
    month = base("m", tiers=tiers(level))
    order = order_of(plan_of(month), sale("c", 1))
    march = (datetime(2026, 3, 1, tzinfo=UTC), datetime(2026, 4, 1, tzinfo=UTC))
    assert replay_span(plan_of(month), order) == march
    start, end = replay_span(plan_of(week, month), order)
    # The span must begin and end where a month and a week begin together.
    assert start == datetime(2025, 12, 1, tzinfo=UTC)
    assert end == datetime(2026, 6, 1, tzinfo=UTC)
    lifetime = plan_of(base(tiers=tiers(level, window="lifetime")))
    assert replay_span(lifetime, order) == (None, None)
    once = {"fixed_minor": 1, "threshold_minor": 9, "window": "calendar_month"}
    bonus = {"id": "b", "kind": "bonus", "pay": once}
    assert replay_span(plan_of(base(), bonus), order) == march
    # Whoever had it in another month does not get it again.
    ever = {**bonus, "pay": {**once, "once_per_publisher": True}}
    assert replay_span(plan_of(base(), ever), order) == (None, None)


# Histories for the properties: three publishers, two months, refunds, decisions and holds.

LEVELS = (
    {"from": 0, "percent": "3.3"},
    {"from": 5000, "percent": "5"},
    {"from": 20000, "percent": "7.7"},
)
ORDINALS = ({"from": 1, "percent": "2"}, {"from": 3, "percent": "4", "flat_minor": 50})
GRADUATED = plan_of(
    base("all", tiers=tiers(*LEVELS)),
    base("books", when={"category": ["books"]}, tiers=tiers(*ORDINALS, measure="units")),
    base("music", when={"category": ["music"]}, tiers=tiers(*LEVELS, measure="sales")),
    base("toys", when={"category": ["toys"]}, tiers=tiers(*ORDINALS, measure="count")),
    base("de", when={"country": ["DE"]}, priority=-1, pay={"percent": "1", "fixed_minor": 7}),
    base("vip", when={"customer": ["new"]}, tiers=tiers(*LEVELS, boundary="after")),
    {"id": "bonus", "kind": "bonus", "when": {"country": ["DE"]}, "pay": {"percent": "0.5"}},
)
VOLUME = plan_of(
    base("all", tiers=tiers(*LEVELS, mode="volume")),
    base(
        "books",
        when={"category": ["books"]},
        tiers=tiers(*ORDINALS, mode="volume", measure="count"),
    ),
    base("music", when={"category": ["music"]}, tiers=tiers(*LEVELS, mode="status")),
    caps={"per_publisher_window_minor": 3000, "window": "calendar_month"},
)
PLANS = st.sampled_from([GRADUATED, VOLUME])

LINES = st.fixed_dictionaries(
    {"net_minor": st.integers(0, 9000), "qty": st.integers(1, 4)},
    optional={"category": st.sampled_from(["books", "music", "toys", "other"])},
)


@st.composite
def sales(draw: st.DrawFn) -> list[Any]:
    facts = st.fixed_dictionaries(
        {
            "publisher": st.sampled_from(["p1", "p2", "p3"]),
            "at": st.sampled_from(["2026-03-05T00:00:00Z", "2026-03-30T00:00:00Z", "2026-04-02"]),
            "lines": st.lists(LINES, min_size=1, max_size=3),
        },
        optional={"country": st.sampled_from(["DE", "FR"]), "customer": st.just("new")},
    )
    return [
        {"id": f"c{at}", **one}
        for at, one in enumerate(draw(st.lists(facts, min_size=1, max_size=6)))
    ]


@st.composite
def histories(draw: st.DrawFn) -> list[Any]:
    booked = draw(sales())
    left = {one["id"]: [line["net_minor"] for line in one["lines"]] for one in booked}
    kinds = st.sampled_from(["refund", "cancel", "approve", "decline", "hold", "release"])
    later = []
    for kind, sale_id in draw(
        st.lists(st.tuples(kinds, st.sampled_from(sorted(left))), max_size=6)
    ):
        more = {}
        if kind == "refund":
            line = draw(st.integers(0, len(left[sale_id]) - 1))
            amount = draw(st.integers(0, left[sale_id][line]))
            if not amount:
                continue
            left[sale_id][line] -= amount
            more = {"line": line, "amount_minor": amount}
        later.append(change(kind, sale_id, at="2026-04-03T00:00:00Z", **more))
    return [*booked, *later]


def payees(result: Mapping[str, Priced]) -> dict[tuple[str, str], int]:
    return {
        (conversion, publisher): minor
        for conversion, one in result.items()
        for publisher, minor in one.payees.items()
    }


@settings(max_examples=60, deadline=None)
@given(events=sales())
def test_appending_from_counters_is_the_same_as_the_fold(events: list[Any]) -> None:
    fold = priced(GRADUATED, *events)
    counters: dict[CounterKey, int | Fraction] = {}
    for event in events:
        order = order_of(GRADUATED, event)
        keys = counter_keys(GRADUATED, order)
        one = price_order(GRADUATED, order, {key: counters.get(key, 0) for key in keys})
        assert one == fold[order.id]
        assert set(one.contributions) <= set(keys)
        for key, size in one.contributions.items():
            counters[key] = counters.get(key, 0) + size


@settings(max_examples=60, deadline=None)
@given(plan=PLANS, events=histories())
def test_booked_differences_sum_to_the_final_evaluation(plan: Plan, events: list[Any]) -> None:
    booked: dict[tuple[str, str], int] = {}
    for upto in range(1, len(events) + 1):
        # What a caller posts: a key that disappeared would be taken back in full.
        before, now = (
            payees(priced(plan, *events[: upto - 1])),
            payees(priced(plan, *events[:upto])),
        )
        for key in before.keys() | now.keys():
            booked[key] = booked.get(key, 0) + now.get(key, 0) - before.get(key, 0)
    final = priced(plan, *events)
    assert booked == payees(final)
    for one in final.values():
        assert one.commission_minor == sum(one.payees.values()) >= 0
        assert one.commission_minor <= one.uncapped_minor


@settings(max_examples=60, deadline=None)
@given(plan=PLANS, events=histories())
def test_cancelling_everything_leaves_nothing(plan: Plan, events: list[Any]) -> None:
    cancels = [change("cancel", one["id"], at="2026-04-03") for one in events if "id" in one]
    result = priced(plan, *events, *cancels)
    assert {one.commission_minor for one in result.values()} == {0}
    assert all(not one.contributions for one in result.values())


@settings(max_examples=60, deadline=None)
@given(plan=PLANS, events=histories(), order=st.permutations(["p1", "p2", "p3"]))
def test_the_order_of_different_publishers_events_changes_nothing(
    plan: Plan, events: list[Any], order: list[str]
) -> None:
    owners = {one["id"]: one["publisher"] for one in events if "id" in one}
    regrouped = sorted(
        events, key=lambda one: order.index(owners[one.get("id", one.get("conversion"))])
    )
    assert payees(priced(plan, *regrouped)) == payees(priced(plan, *events))


@settings(max_examples=60, deadline=None)
@given(nets=st.lists(st.integers(1, 30000), min_size=1, max_size=8))
def test_rising_graduated_rates_never_pay_more_than_the_same_table_as_volume(
    nets: list[int],
) -> None:
    history = [sale(f"c{at}", net) for at, net in enumerate(nets)]
    graduated = sum(amounts(plan_of(base(tiers=tiers(*LEVELS))), *history))
    volume = sum(amounts(plan_of(base(tiers=tiers(*LEVELS, mode="volume"))), *history))
    assert graduated <= volume + len(nets)
