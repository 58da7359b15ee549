"""Random plans over the whole vocabulary, and random histories of orders under them."""

from typing import Any

from hypothesis import strategies as st

COUNTRIES = ("DE", "FR", "US")
PUBLISHERS = ("p1", "p2", "p3")
WINDOWS = (
    "calendar_day",
    "calendar_week",
    "calendar_month",
    "calendar_quarter",
    "calendar_year",
    "lifetime",
    "campaign",
    "order",
    "rolling_10d",
)
CAMPAIGN = {"start": "2026-03-05", "end": "2026-04-02"}
PERCENTS = st.sampled_from(["0", "1", "2.5", "3.333333", "7.7", "12"])
AMOUNTS = st.integers(0, 900)


def _window(draw: st.DrawFn, mode: str) -> dict[str, Any]:
    if mode == "order":
        return {"window": "order"}
    names = [
        name
        for name in WINDOWS
        if mode != "status" or name not in {"lifetime", "campaign", "order"}
    ]
    name = draw(st.sampled_from(names))
    return {"window": name, **(CAMPAIGN if name == "campaign" else {})}


@st.composite
def tier_documents(draw: st.DrawFn, modes: tuple[str, ...]) -> dict[str, Any]:
    mode = draw(st.sampled_from(modes))
    measure = draw(st.sampled_from(["count", "units", "sales", "commissionable"]))
    scale = 1 if measure in {"count", "units"} else 2500
    starts = sorted(draw(st.sets(st.integers(0, 6), min_size=1, max_size=3)))
    document: dict[str, Any] = {
        "mode": mode,
        "measure": measure,
        "scope": draw(
            st.sampled_from(
                [
                    ["publisher"],
                    ["program"],
                    ["publisher", "category"],
                    ["country"],
                    ["publisher", "region"],
                    ["publisher_group"],
                ]
            )
        ),
        "counts": draw(st.sampled_from(["live", "live", "approved"])),
        "freeze_days": draw(st.sampled_from([0, 5, 30])),
        "levels": [
            {
                "from": start * scale,
                "percent": draw(PERCENTS),
                "per_unit": draw(st.sampled_from(["0", "12.5"])),
                "fixed_minor": draw(st.sampled_from([0, 0, 31])),
                "flat_minor": draw(st.sampled_from([0, 0, 77])),
            }
            for start in starts
        ],
        **_window(draw, mode),
    }
    if mode == "graduated":
        document["boundary"] = draw(st.sampled_from(["split", "after", "before"]))
    return document


def _when(draw: st.DrawFn) -> dict[str, Any]:
    conditions: list[dict[str, Any]] = [
        {},
        {"country": ["DE"]},
        {"region": ["EU"]},
        {"category": ["books"]},
        {"category": ["books", "toys"]},
        {"publisher": ["p1"]},
        {"publisher_group": ["gold"]},
        {"customer": ["new"]},
        {"coupon": ["SAVE"]},
        {"sku": ["s1"]},
        {"min_order_minor": 2000},
        {"over_order_minor": 4000},
        {"max_order_minor": 6000},
        {"within_months_of_first": 6},
    ]
    return {**draw(st.sampled_from(conditions)), **draw(st.sampled_from(conditions))}


def _caps(draw: st.DrawFn) -> dict[str, Any]:
    return draw(
        st.sampled_from(
            [
                {},
                {},
                {"per_unit_minor": 60},
                {"per_order_minor": 300},
                {"min_per_order_minor": 40, "per_order_minor": 500},
            ]
        )
    )


@st.composite
def rule_documents(draw: st.DrawFn, number: int, modes: tuple[str, ...]) -> dict[str, Any]:
    is_tiered = bool(modes) and draw(st.booleans())
    rule: dict[str, Any] = {
        "id": f"r{number}",
        "kind": "base",
        "priority": draw(st.integers(0, 1)),
        "base": draw(st.sampled_from(["net", "net", "revenue"])),
        "when": _when(draw),
        "caps": _caps(draw),
    }
    if is_tiered:
        return {**rule, "tiers": draw(tier_documents(modes))}
    if draw(st.integers(0, 3)) == 0:
        rule |= {"effective_from": "2026-03-10", "effective_to": "2026-03-28"}
    pay = {"percent": draw(PERCENTS), "per_unit": "0.5", "fixed_minor": draw(AMOUNTS)}
    return {**rule, "pay": pay}


@st.composite
def bonus_documents(draw: st.DrawFn, number: int) -> dict[str, Any]:
    rule = {"id": f"b{number}", "kind": "bonus", "when": _when(draw), "caps": _caps(draw)}
    kind = draw(st.integers(0, 4))
    if kind == 0:
        return {**rule, "tiers": draw(tier_documents(("graduated", "volume", "status", "order")))}
    pay: dict[str, Any] = {"percent_of_commission": "10", "percent": "0.5", "fixed_minor": 9}
    if kind == 1:
        pay |= {"threshold_minor": 5000, "window": "calendar_month"}
    elif kind == 2:
        pay |= {"once_per_publisher": True}
    elif kind == 3:
        pay |= {"once_per_publisher": True, "threshold_minor": 4000, "window": "calendar_week"}
    return {**rule, "pay": pay}


@st.composite
def plan_documents(
    draw: st.DrawFn,
    modes: tuple[str, ...] = ("graduated", "volume", "status", "order"),
    *,
    is_quick: bool = False,
) -> dict[str, Any]:
    """A plan; `is_quick` is one whose orders mostly go the short way."""
    count = draw(st.integers(1, 4))
    rules = [draw(rule_documents(number, modes)) for number in range(count)]
    rules.append({"id": "z", "kind": "base", "priority": -1, "pay": {"percent": "4"}})
    document: dict[str, Any] = {
        "currency": "EUR",
        "timezone": draw(st.sampled_from(["UTC", "America/Los_Angeles", "Pacific/Auckland"])),
        "rounding": draw(st.sampled_from(["half_up", "half_even", "down"])),
        "round_at": draw(st.sampled_from(["line", "order"])),
        "regions": {"EU": ["DE", "FR"], "DACH": ["DE", "AT"]},
        "country_basis": ["country_ship", "country"],
        "suppressed_coupons": ["LEAK"],
        "exclusive_coupons": {"ANNA": "p3"},
        "fx": {"pivot": "EUR", "rates": {"2026-01-02": {"USD": "1.0811"}}},
        "rules": rules,
    }
    if is_quick:
        return document
    document["rules"] += [draw(bonus_documents(at)) for at in range(draw(st.integers(0, 2)))]
    document["rate_clock"] = draw(st.sampled_from(["ordered", "ordered", "shipped", "approved"]))
    document["caps"] = draw(
        st.sampled_from(
            [
                {},
                {},
                {"budget_minor": 1500},
                {"budget_count": 3},
                {"per_publisher_window_minor": 600, "window": "calendar_month"},
                {"per_publisher_window_count": 2, "window": "campaign", **CAMPAIGN},
            ]
        )
    )
    return document


_LINES = st.fixed_dictionaries(
    {"net_minor": st.integers(0, 5000), "qty": st.integers(0, 3)},
    optional={
        "category": st.sampled_from(["books", "toys", "other"]),
        "sku": st.sampled_from(["s1", "s2"]),
        "revenue_minor": st.integers(0, 900),
    },
)
_DAYS = st.sampled_from(
    ["2026-03-01", "2026-03-08T11:00", "2026-03-20", "2026-03-31T23:30", "2026-04-01", "2026-04-09"]
)


@st.composite
def order_documents(draw: st.DrawFn, number: int, *, lines_max: int = 3) -> dict[str, Any]:
    facts = st.fixed_dictionaries(
        {
            "publisher": st.sampled_from(PUBLISHERS),
            "at": _DAYS,
            "lines": st.lists(_LINES, min_size=1, max_size=lines_max),
        },
        optional={
            "received_at": st.sampled_from(["2026-04-10", "2026-05-20"]),
            "country": st.sampled_from(COUNTRIES),
            "country_ship": st.sampled_from(COUNTRIES),
            "customer": st.sampled_from(["new", "returning", "reactivated"]),
            "coupon": st.sampled_from(["SAVE", "LEAK", "ANNA"]),
            "publisher_groups": st.sampled_from([["gold"], ["silver", "gold"]]),
            "currency": st.sampled_from(["EUR", "USD"]),
            "months_since_first": st.integers(0, 9),
            "shipped_at": st.just("2026-03-15"),
            "shares": st.just(
                [{"publisher": "p1", "weight": 1}, {"publisher": "p2", "weight": "2/3"}]
            ),
        },
    )
    return {"id": f"c{number}", **draw(facts)}


@st.composite
def histories(draw: st.DrawFn, orders_max: int = 6) -> list[dict[str, Any]]:
    """Orders, and refunds and decisions that follow them in any order and at any time."""
    count = draw(st.integers(1, orders_max))
    events: list[dict[str, Any]] = []
    left: dict[str, list[list[int]]] = {}
    for number in range(count):
        order = draw(order_documents(number))
        events.append(order)
        left[order["id"]] = [
            [one["net_minor"] or one.get("revenue_minor", 0), one["qty"]] for one in order["lines"]
        ]
        for _ in range(draw(st.integers(0, 2))):
            events += draw(_changes(left))
    return events


@st.composite
def _changes(draw: st.DrawFn, left: dict[str, list[list[int]]]) -> list[dict[str, Any]]:
    order_id = draw(st.sampled_from(sorted(left)))
    kind = draw(
        st.sampled_from(["refund", "refund", "cancel", "approve", "decline", "hold", "release"])
    )
    event = {
        "type": kind,
        "conversion": order_id,
        "at": draw(st.sampled_from(["2026-03-21", "2026-04-03", "2026-06-01"])),
    }
    if kind != "refund":
        return [event]
    line = draw(st.integers(0, len(left[order_id]) - 1))
    amount, qty = (draw(st.integers(0, most)) for most in left[order_id][line])
    if not amount and not qty:
        return []
    left[order_id][line][0] -= amount
    left[order_id][line][1] -= qty
    return [{**event, "line": line, "amount_minor": amount, "qty": qty}]
