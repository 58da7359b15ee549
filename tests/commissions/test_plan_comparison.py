"""What one plan pays beside another: found lower where it can be, and never missed."""

from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commissions import plan_comparison
from commissions.plan_comparison import Finding, Verdict
from commissions.rules import Plan, PlanError, evaluate, parse_events, parse_plan

START = datetime(2026, 3, 1, tzinfo=UTC)
CATEGORIES = ("books", "toys")
COUNTRIES = ("DE", "FR", "US")
REGIONS = {"EU": ["DE", "FR"], "DACH": ["DE"]}


def plan_of(*rules: dict[str, Any], **program: Any) -> Plan:
    document = {"currency": "EUR", "regions": REGIONS, "rules": list(rules), **program}
    return parse_plan(document, publishing=False)


def flat(rule_id: str, percent: str, **fields: Any) -> dict[str, Any]:
    return {"id": rule_id, "pay": {"percent": percent}, **fields}


def tiered(rule_id: str, *levels: dict[str, Any], **fields: Any) -> dict[str, Any]:
    when = {"when": fields.pop("when")} if "when" in fields else {}
    tiers = {"mode": "volume", "measure": "count", "window": "calendar_month", **fields}
    return {"id": rule_id, "tiers": {**tiers, "levels": list(levels)}, **when}


def lowered(before: Plan, after: Plan) -> list[tuple[str | None, str | None, str, str]]:
    found = plan_comparison.lowered(plan_comparison.compare(before, after, START))
    return [(one.before, one.after, one.path, one.reason) for one in found]


def bonus(pay: dict[str, Any]) -> dict[str, Any]:
    return {"id": "b", "kind": "bonus", "pay": {**pay, "window": "calendar_month"}}


ENTERED = {"from": 3, "percent": "5", "flat_minor": 50}
BASKET = {"mode": "order", "window": "order", "measure": "units"}
LOW, HIGH = {"from": 1, "percent": "5"}, {"from": 3, "percent": "8"}
FLAT = plan_of(flat("all", "5"))
TIERED = plan_of(tiered("all", LOW, HIGH))
FIXED = plan_of(
    {"id": "books", "pay": {"fixed_minor": 100}, "when": {"category": ["books"]}},
    {"id": "toys", "pay": {"fixed_minor": 100}, "when": {"category": ["toys"]}},
)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (FLAT, FLAT),
        (FLAT, plan_of(flat("other-id", "5.5"))),
        (FLAT, plan_of(flat("all", "5"), flat("de", "6", when={"country": ["DE"]}))),
        (FLAT, plan_of(tiered("all", LOW, HIGH))),
        (FLAT, plan_of(flat("all", "5"), {"id": "b", "kind": "bonus", "pay": {"percent": "1"}})),
        (plan_of(flat("de", "5", when={"country": ["DE"]})), FLAT),
        (plan_of(flat("de", "5", when={"region": ["EU"]})), FLAT),
        (TIERED, plan_of(tiered("t", LOW, {"from": 2, "percent": "8"}))),
        (TIERED, plan_of(flat("all", "8"))),
        (plan_of(tiered("de", LOW, HIGH, when={"country": ["DE"]})), TIERED),
    ],
)
def test_what_pays_at_least_as_much_is_not_lower(before: Plan, after: Plan) -> None:
    assert lowered(before, after) == []


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        (FLAT, plan_of(flat("all", "4.9")), ("all", "all", "", "lower_rate")),
        (
            FLAT,
            plan_of(flat("all", "6"), flat("de", "4", when={"country": ["DE"]})),
            ("all", "de", "", "lower_rate"),
        ),
        (FLAT, plan_of(flat("de", "9", when={"country": ["DE"]})), ("all", None, "", "no_rule")),
        (
            FLAT,
            plan_of(flat("all", "5", caps={"per_order_minor": 1})),
            ("all", "all", "", "lower_cap"),
        ),
        (
            plan_of(flat("all", "5", caps={"min_per_order_minor": 9})),
            FLAT,
            ("all", "all", "", "lower_minimum"),
        ),
        (TIERED, plan_of(flat("all", "7.9")), ("all", "all", "", "lower_rate")),
        (
            TIERED,
            plan_of(tiered("all", LOW, {"from": 4, "percent": "8"})),
            ("all", "all", "", "lower_rate"),
        ),
        (
            TIERED,
            plan_of(tiered("all", LOW, HIGH, window="calendar_quarter")),
            ("all", "all", "", "other_tiers"),
        ),
        # What the dearer rule takes away no longer counts for the tiers of the other.
        (
            TIERED,
            plan_of(tiered("all", LOW, HIGH), flat("books", "9", when={"category": ["books"]})),
            ("all", "all", "", "other_counter"),
        ),
        # An order with both was paid twice one euro.
        (FIXED, plan_of({"id": "a", "pay": {"fixed_minor": 100}}), ("books", "a", "", "merged")),
        (
            FLAT,
            plan_of(flat("all", "5"), caps={"budget_minor": 5}),
            (None, None, "caps.budget_minor", "lower_cap"),
        ),
        (
            FLAT,
            plan_of(flat("all", "5"), suppressed_coupons=["X"]),
            (None, None, "suppressed_coupons.X", "coupon_suppressed"),
        ),
        (
            FLAT,
            plan_of(flat("all", "5"), exclusive_coupons={"X": "p1"}),
            (None, None, "exclusive_coupons.X", "coupon_owner"),
        ),
        (FLAT, plan_of(flat("all", "5"), rounding="down"), (None, None, "rounding", "rounding")),
        (
            plan_of(flat("all", "5"), {"id": "b", "kind": "bonus", "pay": {"percent": "1"}}),
            plan_of(flat("all", "9"), {"id": "b", "kind": "bonus", "pay": {"percent": "0.5"}}),
            (None, None, "rules.b", "lower_bonus"),
        ),
        # A smaller order reaches the lower threshold, and takes its share of less.
        (
            plan_of(flat("all", "5"), bonus({"percent": "1", "threshold_minor": 900})),
            plan_of(flat("all", "5"), bonus({"percent": "1", "threshold_minor": 100})),
            (None, None, "rules.b", "lower_bonus"),
        ),
        # What the dearer rule takes away is no longer in the basket that the rule looks at.
        (
            plan_of(tiered("all", LOW, HIGH, **BASKET)),
            plan_of(
                tiered("all", LOW, HIGH, **BASKET), flat("books", "9", when={"category": ["books"]})
            ),
            ("all", "all", "", "other_counter"),
        ),
        # Orders from before the rule was in force were in its counter.
        (
            TIERED,
            plan_of({**tiered("all", LOW, HIGH), "effective_from": "2026-02-10T00:00:00Z"}),
            ("all", "all", "", "other_counter"),
        ),
        # Orders of other countries may pass the level whose flat amount an order was due.
        (
            plan_of(tiered("de", ENTERED, when={"country": ["DE"]})),
            plan_of(tiered("all", ENTERED)),
            ("de", "all", "", "other_counter"),
        ),
        # What is paid once an order does not hang on the base, the counter that decides it does.
        (
            plan_of(tiered("all", {"from": 0, "fixed_minor": 5}, measure="commissionable")),
            plan_of(
                {
                    **tiered("all", {"from": 0, "fixed_minor": 5}, measure="commissionable"),
                    "base": "revenue",
                }
            ),
            ("all", "all", "", "other_base"),
        ),
    ],
)
def test_what_may_pay_less_is_named(
    before: Plan, after: Plan, expected: tuple[str | None, str | None, str, str]
) -> None:
    assert expected in lowered(before, after)


def test_a_finding_says_for_whom() -> None:
    after = plan_of(flat("all", "6"), flat("de", "4", when={"country": ["DE"]}))

    assert plan_comparison.compare(FLAT, after, START) == (
        Finding(Verdict.LOWERED, "all", "de", {"country": "DE"}, reason="lower_rate"),
        Finding(Verdict.RAISED, "all", "all", {}),
    )


def test_only_what_is_in_force_in_the_span_counts() -> None:
    ends = datetime(2026, 4, 1, tzinfo=UTC)
    after = plan_of(flat("march", "9", effective_to="2026-04-01T00:00:00Z"))

    assert plan_comparison.lowered(plan_comparison.compare(FLAT, after, START, ends)) == []
    [found] = plan_comparison.lowered(plan_comparison.compare(FLAT, after, START))
    assert (found.reason, found.where) == ("no_rule", {"at": ends.isoformat()})


def test_a_rule_that_nothing_can_match_pays_nobody() -> None:
    nowhere = {"country": ["FR"], "region": ["DACH"]}
    before = plan_of(flat("all", "5"), flat("nowhere", "0", when=nowhere))

    assert lowered(before, plan_of(flat("all", "0"), flat("nowhere", "9", when=nowhere))) == [
        ("all", "all", "", "lower_rate")
    ]


def test_plans_that_look_at_too_much_are_not_called_equal() -> None:
    groups = [
        flat(f"g{at}", "5", when={"publisher_group": [f"g{at}"]}, priority=at) for at in range(9)
    ]

    assert lowered(plan_of(*groups), plan_of(*groups)) == [(None, None, "rules", "too_complex")]


def test_many_values_are_compared_by_what_the_rules_make_of_them() -> None:
    listed = [str(at) for at in range(400)]
    rules = [flat(f"r{at}", "5", when={"sku": listed[at : at + 4]}) for at in range(0, 400, 4)]
    rules += [flat(f"c{one}", "6", when={"country": [one]}) for one in COUNTRIES]
    higher = [{**rule, "pay": {"percent": "7"}} for rule in rules]

    assert lowered(plan_of(*rules), plan_of(*higher)) == []


_PERCENTS = st.sampled_from(["0", "3", "5", "8"])
_WHEN = st.fixed_dictionaries(
    {},
    optional={
        "category": st.lists(st.sampled_from(CATEGORIES), min_size=1, unique=True),
        "country": st.lists(st.sampled_from(COUNTRIES), min_size=1, max_size=2, unique=True),
        "region": st.lists(st.sampled_from(sorted(REGIONS)), min_size=1, max_size=1),
        "publisher": st.just(["p1"]),
        "min_order_minor": st.sampled_from([500, 1500]),
    },
)
_CAPS = st.fixed_dictionaries(
    {},
    optional={
        "per_unit_minor": st.sampled_from([20, 60]),
        "per_order_minor": st.sampled_from([90, 120]),
        "min_per_order_minor": st.sampled_from([10, 40]),
    },
)


_WINDOWS = {
    "graduated": ["calendar_month", "rolling_7d", "order"],
    "volume": ["calendar_month", "rolling_7d"],
    "status": ["calendar_month", "rolling_7d"],
    "order": ["order"],
}
_BASE = st.sampled_from(["net", "revenue"])
_FROM = st.sampled_from(["2026-02-01T00:00:00Z", "2026-03-05T00:00:00Z"])
_BONUS = st.fixed_dictionaries(
    {"percent": st.sampled_from(["1", "2"])},
    optional={
        "threshold_minor": st.sampled_from([500, 1500]),
        "once_per_publisher": st.booleans(),
        "fixed_minor": st.sampled_from([5, 9]),
    },
).map(lambda pay: pay | ({"window": "calendar_month"} if "threshold_minor" in pay else {}))
_PROGRAM = st.fixed_dictionaries(
    {},
    optional={
        "per_publisher_window_count": st.sampled_from([1, 3]),
        "per_publisher_window_minor": st.sampled_from([60, 200]),
    },
).map(lambda caps: caps | {"window": "calendar_month"} if caps else caps)
_PROGRAMS = _PROGRAM.map(lambda caps: (caps, caps)) | st.tuples(_PROGRAM, _PROGRAM)


@st.composite
def _levels(draw: st.DrawFn, start: int) -> list[dict[str, Any]]:
    starts = sorted(draw(st.sets(st.sampled_from([start, 2, 4, 1500]), min_size=1, max_size=3)))
    return [
        {"from": one, "percent": draw(_PERCENTS), "flat_minor": draw(st.sampled_from([0, 0, 7]))}
        for one in starts
    ]


@st.composite
def _pays(draw: st.DrawFn) -> dict[str, Any]:
    if draw(st.booleans()):
        return {"pay": {"percent": draw(_PERCENTS), "fixed_minor": draw(st.sampled_from([0, 9]))}}
    mode = draw(st.sampled_from(sorted(_WINDOWS)))
    own = ["order_total"] if mode == "order" else []
    measure = draw(st.sampled_from([*own, "count", "units", "sales", "commissionable"]))
    measure = "order_total" if (mode, measure) == ("order", "sales") else measure
    return {
        "tiers": {
            "mode": mode,
            "measure": measure,
            "window": draw(st.sampled_from(_WINDOWS[mode])),
            "scope": draw(st.sampled_from([["publisher"], ["program"]])),
            "levels": draw(_levels(1 if measure in {"count", "units"} else 0)),
        }
    }


@st.composite
def _rule(draw: st.DrawFn, rule_id: str) -> dict[str, Any]:
    fields = {"when": draw(_WHEN), "caps": draw(_CAPS), "base": draw(_BASE)}
    return {"id": rule_id, "effective_from": draw(_FROM), **fields, **draw(_pays())}


@st.composite
def _changed(draw: st.DrawFn, rule: dict[str, Any]) -> dict[str, Any]:
    if rule.get("kind") == "bonus":
        return rule | {"pay": draw(_BONUS)}
    if draw(st.integers(0, 6)) == 0:
        rest = {name: value for name, value in rule.items() if name not in {"pay", "tiers"}}
        return rest | draw(_pays())
    ways = {
        "when": _WHEN,
        "caps": _CAPS,
        "base": _BASE,
        "effective_from": _FROM,
        "priority": st.integers(0, 2),
    }
    name = draw(st.sampled_from(sorted(ways)))
    return rule | {name: draw(ways[name])}


@st.composite
def _plans(draw: st.DrawFn) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Rules, and the same after a few changes: most of what is random pays less for somebody."""
    rules = [draw(_rule(f"r{at}")) for at in range(draw(st.integers(1, 3)))]
    if draw(st.booleans()):
        rules.append({"id": "b", "kind": "bonus", "pay": draw(_BONUS)})
    after = [dict(rule) for rule in rules]
    for _ in range(draw(st.integers(1, 2))):
        at = draw(st.integers(0, len(after) - 1))
        change = draw(st.sampled_from(["add", "double", "change", "change"]))
        if change == "add":
            after.append({"id": f"n{len(after)}", "when": draw(_WHEN), "pay": {"percent": "9"}})
        elif change == "double":
            after.append(after[at] | {"id": f"d{len(after)}", "when": draw(_WHEN)})
        else:
            after[at] = draw(_changed(after[at]))
    return rules, after


@st.composite
def _orders(draw: st.DrawFn) -> list[dict[str, Any]]:
    return [
        {
            "id": f"s{at}",
            "publisher": draw(st.sampled_from(["p1", "p2"])),
            "at": f"2026-03-{draw(st.integers(1, 12)):02}T12:00:00Z",
            "country": draw(st.sampled_from([*COUNTRIES, None])),
            "lines": [
                {
                    "net_minor": draw(st.sampled_from([0, 250, 700, 1400])),
                    "qty": draw(st.integers(1, 2)),
                    "revenue_minor": draw(st.sampled_from([None, 100, 900])),
                    "category": draw(st.sampled_from([*CATEGORIES, None])),
                }
                for _ in range(draw(st.integers(1, 3)))
            ],
        }
        for at in range(draw(st.integers(1, 5)))
    ]


def _parsed(rules: list[dict[str, Any]], caps: dict[str, Any]) -> Plan | None:
    try:
        return plan_of(*rules, caps=caps)
    except PlanError:
        return None


@settings(max_examples=300)
@given(rules=_plans(), caps=_PROGRAMS, orders=_orders())
def test_nobody_earns_less_by_a_plan_that_is_not_lower(
    rules: tuple[list[dict[str, Any]], list[dict[str, Any]]],
    caps: tuple[dict[str, Any], dict[str, Any]],
    orders: list[dict[str, Any]],
) -> None:
    before, after = (_parsed(*one) for one in zip(rules, caps, strict=True))
    if before is None or after is None or lowered(before, after):
        return
    clean = [{name: v for name, v in order.items() if v is not None} for order in orders]
    for order in clean:
        order["lines"] = [
            {n: v for n, v in line.items() if v is not None} for line in order["lines"]
        ]
    events = parse_events(clean, before.zone)
    sums = []
    for plan in (before, after):
        earned: dict[str, int] = {}
        found = evaluate(plan, events)
        for order in clean:
            who = order["publisher"]
            earned[who] = earned.get(who, 0) + found[order["id"]].commission_minor
        sums.append(earned)

    assert all(sums[1][who] >= minor for who, minor in sums[0].items())


@pytest.mark.parametrize(
    ("before", "after", "path"),
    [
        ({}, {"caps": {"budget_count": 3}}, "caps.budget_count"),
        (
            {"caps": {"per_publisher_window_count": 9, "window": "calendar_month"}},
            {"caps": {"per_publisher_window_count": 9, "window": "calendar_year"}},
            "caps.per_publisher_window_count",
        ),
        ({"rate_clock": "shipped"}, {}, "rate_clock"),
    ],
)
def test_what_a_plan_may_say_since_counts_as_less_where_it_can_be(
    before: dict[str, Any], after: dict[str, Any], path: str
) -> None:
    document = {"currency": "EUR", "rules": [{"id": "flat", "pay": {"percent": "5"}}]}
    mine, theirs = (parse_plan({**document, **more}) for more in (before, after))

    assert [found[2] for found in lowered(mine, theirs)] == [path]
    assert lowered(theirs, theirs) == []
