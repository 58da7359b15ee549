"""What pricing an order costs in the pure engine, without a database, on one core.

A plan of 50 rules as programs have them (regions, categories, articles, publishers, coupons, a
graduated tier) and orders of one line. Measured: `price_order` given the counters, which it also
moves; the same with every explanation as JSON, as a booking stores it; `evaluate` over all events
at once; and preparing and pricing in two steps, as bookings do. The baseline, in the same run, is
the definition written down plainly: every rule looked at for every order, and fractions.
"""

import json
import os
import platform
import random
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from fractions import Fraction
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from commissions.folding import opened
from commissions.order_events import Order
from commissions.rules import (
    CounterKey,
    Plan,
    evaluate,
    parse_events,
    parse_plan,
    price_order,
    price_prepared,
)
from kernel import clock
from kernel.money import round_fraction

RULES = 50
ORDERS = int(os.environ.get("PRICING_ORDERS", "50000"))
ROUNDS = 5
GOAL = 100_000
RESULT = Path(__file__).resolve().parent / "results" / "pricing.txt"
COUNTRIES = ("DE", "FR", "US", "GB", "IT", "ES", "PL", "BR", "MX", "JP")

Counters = dict[CounterKey, Any]


def plan_document() -> dict[str, Any]:
    rules: list[dict[str, Any]] = [
        {"id": "default", "pay": {"percent": "4"}},
        {
            "id": "gold",
            "when": {"publisher_group": ["gold"]},
            "tiers": {
                "mode": "graduated",
                "measure": "sales",
                "window": "calendar_month",
                "levels": [
                    {"from": 0, "percent": "5"},
                    {"from": 1_000_000, "percent": "6.5"},
                    {"from": 5_000_000, "percent": "8"},
                ],
            },
        },
    ]
    mix: tuple[tuple[str, str, int], ...] = (
        ("region", "R", 9),
        ("category", "cat", 15),
        ("sku", "sku", 10),
        ("publisher", "pub", 12),
        ("coupon", "SAVE", 2),
    )
    for name, prefix, count in mix:
        for at in range(count):
            pay = {"percent": f"{at % 7 + 2}.{at % 4}5"}
            rules.append({"id": f"{name}{at}", "when": {name: [f"{prefix}{at}"]}, "pay": pay})
    rules[-1]["caps"] = {"per_order_minor": 2500}
    rules[-3]["effective_from"] = "2026-03-10"
    regions = {f"R{at}": [COUNTRIES[at]] for at in range(9)}
    program = {"currency": "EUR", "timezone": "Europe/Berlin", "regions": regions}
    return {**program, "rules": rules}


def order_documents(count: int) -> list[dict[str, Any]]:
    dice = random.Random(1)  # noqa: S311 - the same orders in every run
    return [
        {
            "id": f"c{at}",
            "publisher": f"pub{dice.randrange(400)}",
            "publisher_groups": ["gold"] if dice.randrange(5) == 0 else [],
            "at": f"2026-03-{1 + 28 * at // count:02d}T{dice.randrange(24):02d}:00:00Z",
            "country": dice.choice(COUNTRIES),
            **({"coupon": f"SAVE{dice.randrange(3)}"} if dice.randrange(20) == 0 else {}),
            "lines": [
                {
                    "net_minor": dice.randrange(100, 50_000),
                    "qty": dice.randrange(1, 4),
                    "category": f"cat{dice.randrange(30)}",
                    "sku": f"sku{dice.randrange(2000)}",
                }
            ],
        }
        for at in range(count)
    ]


def appended(plan: Plan, orders: Sequence[Order]) -> list[int]:
    counters: Counters = {}
    paid = []
    for order in orders:
        priced = price_order(plan, order, counters)
        for key, size in priced.contributions.items():
            counters[key] = counters.get(key, 0) + size
        paid.append(priced.commission_minor)
    return paid


def explained(plan: Plan, orders: Sequence[Order]) -> list[int]:
    counters: Counters = {}
    paid = []
    for order in orders:
        priced = price_order(plan, order, counters)
        for key, size in priced.contributions.items():
            counters[key] = counters.get(key, 0) + size
        json.dumps(priced.explanation)
        paid.append(priced.commission_minor)
    return paid


def in_two_steps(plan: Plan, orders: Sequence[Order]) -> list[int]:
    counters: Counters = {}
    paid = []
    for order in orders:
        _, prepared = opened(plan, order)
        priced = price_prepared(plan, prepared, counters)
        for key, size in priced.contributions.items():
            counters[key] = counters.get(key, 0) + size
        paid.append(priced.commission_minor)
    return paid


def evaluated(plan: Plan, orders: Sequence[Order]) -> list[int]:
    return [one.commission_minor for one in evaluate(plan, orders).values()]


def naive(document: dict[str, Any], orders: Sequence[dict[str, Any]]) -> list[int]:
    """The same plan by the definition: no index, no memory, fractions, times read as they come."""
    counters: dict[tuple[str, int], Fraction] = {}
    ranked = sorted(document["rules"], key=_rank, reverse=True)
    zone = parse_plan(document).zone
    paid = []
    for order in orders:
        line = order["lines"][0]
        at = datetime.fromisoformat(order["at"]).astimezone(zone)
        held = {
            "publisher": [order["publisher"]],
            "publisher_group": order["publisher_groups"],
            "coupon": [order.get("coupon")],
            "sku": [line["sku"]],
            "category": [line["category"]],
            "region": [
                name for name, one in document["regions"].items() if order["country"] in one
            ],
        }
        rule = next(
            one
            for one in ranked
            if at
            >= datetime.fromisoformat(one.get("effective_from", "2000-01-01")).replace(tzinfo=zone)
            and all(
                any(value in values for value in held[name])
                for name, values in one.get("when", {}).items()
            )
        )
        net = Fraction(line["net_minor"])
        counter = (order["publisher"], at.month)
        before = counters.get(counter, Fraction(0))
        counters[counter] = before + net
        if "tiers" in rule:
            exact = _graduated(rule["tiers"]["levels"], before, net)
        else:
            exact = net * Fraction(rule["pay"]["percent"]) / 100
        minor = round_fraction(exact)
        paid.append(min(minor, rule.get("caps", {}).get("per_order_minor", minor)))
    return paid


def _rank(rule: dict[str, Any]) -> int:
    order = ("region", "category", "sku", "coupon", "publisher_group", "publisher")
    return max((order.index(name) + 1 for name in rule.get("when", {})), default=0)


def _graduated(levels: Sequence[dict[str, Any]], before: Fraction, net: Fraction) -> Fraction:
    exact = Fraction(0)
    for at, level in enumerate(levels):
        end = Fraction(levels[at + 1]["from"]) if at + 1 < len(levels) else before + net
        part = min(before + net, end) - max(before, Fraction(level["from"]))
        exact += max(part, Fraction(0)) * Fraction(level["percent"]) / 100
    return exact


def per_second(work: Callable[[], list[int]], expect: list[int] | None, rounds: int) -> float:
    """Orders in a second of one core; the middle of the rounds, and never of a wrong result."""
    found = []
    for _ in range(rounds):
        start = time.process_time()
        paid = work()
        found.append(len(paid) / (time.process_time() - start))
        if expect is not None and paid != expect:
            raise SystemExit("the amounts differ")
    return statistics.median(found)


def measure(count: int = ORDERS, rounds: int = ROUNDS) -> str:
    document, orders = plan_document(), order_documents(count)
    if len(document["rules"]) != RULES:
        raise SystemExit(f"the plan has {len(document['rules'])} rules")
    plan = parse_plan(document, publishing=False)
    parsed = [one for one in parse_events(orders, plan.zone) if isinstance(one, Order)]
    expect = naive(document, orders)
    baseline = per_second(lambda: naive(document, orders), expect, 1)
    speed = per_second(lambda: appended(plan, parsed), expect, rounds)
    batch = per_second(lambda: evaluated(plan, parsed), expect, rounds)
    steps = per_second(lambda: in_two_steps(plan, parsed), expect, rounds)
    words = per_second(lambda: explained(plan, parsed), expect, 1)
    return "\n".join(
        (
            f"date      {clock.now():%Y-%m-%d %H:%M} UTC",
            f"machine   {platform.machine()}, {platform.system()}, {os.cpu_count()} cores",
            f"load      {os.getloadavg()[0]:.1f}",
            f"python    {platform.python_version()}",
            f"work      {count} orders of one line, {RULES} rules, {len(set(expect))} amounts",
            f"price     {speed:.0f} orders/s and core given counters (goal {GOAL})",
            f"evaluate  {batch:.0f} orders/s and core, all events at once",
            f"prepared  {steps:.0f} orders/s and core, prepared and priced in two steps",
            f"explained {words:.0f} orders/s and core, with the explanation as JSON",
            f"baseline  {baseline:.0f} orders/s and core: every rule, in fractions",
            f"ratio     {speed / baseline:.1f} times the baseline",
        )
    )


if __name__ == "__main__":
    shown = measure()
    print(shown)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(shown + "\n")
