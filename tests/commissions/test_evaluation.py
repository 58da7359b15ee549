"""The engine against a slow evaluation written apart from it, straight from the definitions.

The oracle reads the JSON itself, works in fractions, loops over everything for every order, and
knows no counter keys, windows or statuses of the engine. Months in UTC, one line an order.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from commissions.rules import evaluate, parse_events, parse_plan
from tests.commissions.histories import PERCENTS

RANKS = ("publisher", "category", "customer", "country")


def half_up(value: Fraction) -> int:
    return (2 * value.numerator + value.denominator) // (2 * value.denominator)


class Oracle:
    """What every order of a history is worth at its end."""

    def __init__(self, document: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> None:
        self.rules = document["rules"]
        self.orders = [one for one in events if "id" in one]
        self.changes = [one for one in events if "id" not in one]

    def state(self, order: Mapping[str, Any], before: str = "9999") -> tuple[Fraction, bool, bool]:
        """(remaining net, is it paid for, does it count) after the changes before a day."""
        net = Fraction(order["lines"][0]["net_minor"])
        dead = held = False
        declined = False
        for one in self.changes:
            if one["conversion"] != order["id"] or one["at"] >= before:
                continue
            net -= one.get("amount_minor", 0)
            dead |= one["type"] == "cancel"
            if one["type"] in {"approve", "decline"}:
                declined = one["type"] == "decline"
            if one["type"] in {"hold", "release"}:
                held = one["type"] == "hold"
        live = net > 0 and not dead and not declined
        return net, live, live and not held

    def rule(self, order: Mapping[str, Any]) -> Any:
        line = order["lines"][0]
        facts = {
            "publisher": order["publisher"],
            "category": line.get("category"),
            "customer": order.get("customer"),
            "country": order.get("country"),
        }
        matching = [
            one
            for one in self.rules
            if all(facts[name] in values for name, values in one["when"].items())
        ]
        if not matching:
            return None
        best = max((one["priority"], self.rank(one)) for one in matching)
        return min(
            (one for one in matching if (one["priority"], self.rank(one)) == best),
            key=lambda one: str(one["id"]),
        )

    def rank(self, rule: Mapping[str, Any]) -> list[bool]:
        return [name in rule["when"] for name in RANKS]

    def measure(self, tiers: Mapping[str, Any], net: Fraction) -> Fraction:
        return Fraction(1) if tiers["measure"] == "count" else net

    def counted(
        self, order: Mapping[str, Any], rule: Mapping[str, Any], month: str, before: str = "9999"
    ) -> list[tuple[Mapping[str, Any], Fraction]]:
        """The orders of a month that count under a rule for this order's publisher."""
        tiers, found = rule["tiers"], []
        for other in self.orders:
            net, _, counts = self.state(other, before)
            same = other["publisher"] == order["publisher"] and other["at"][:7] == month
            if counts and same and other["at"] < before and self.rule(other) is rule:
                found.append((other, self.measure(tiers, net)))
        return found

    def amount(self, order: Mapping[str, Any]) -> int:
        net, live, _ = self.state(order)
        rule = self.rule(order)
        if rule is None or not live:
            return 0
        if "pay" in rule:
            return half_up(net * Fraction(rule["pay"]["percent"]) / 100)
        tiers = rule["tiers"]
        levels = [(one["from"], Fraction(one["percent"]) / 100) for one in tiers["levels"]]
        month = order["at"][:7]
        if tiers["mode"] == "graduated":
            earlier = self.orders[: self.orders.index(order)]
            sizes = [size for one, size in self.counted(order, rule, month) if one in earlier]
            return half_up(self.slices(tiers, levels, sum(sizes, Fraction(0)), net))
        if tiers["mode"] == "volume":
            total = sum((size for _, size in self.counted(order, rule, month)), Fraction(0))
            total = max(total, Fraction(1)) if tiers["measure"] == "count" else total
            return half_up(net * self.level(levels, total))
        last = f"2026-{int(month[5:]) - 1:02d}"
        known = self.counted(order, rule, last, before=f"{month}-01")
        total = sum((size for _, size in known), Fraction(0))
        return half_up(net * self.level(levels, total, entry=True))

    def level(
        self, levels: list[tuple[int, Fraction]], measure: Fraction, *, entry: bool = False
    ) -> Fraction:
        found = levels[0][1] if entry else Fraction(0)
        for start, rate in levels:
            found = rate if measure >= start else found
        return found

    def slices(
        self,
        tiers: Mapping[str, Any],
        levels: list[tuple[int, Fraction]],
        before: Fraction,
        net: Fraction,
    ) -> Fraction:
        if tiers["measure"] == "count":
            return net * self.level(levels, before + 1)
        paid = Fraction(0)
        for at, (start, rate) in enumerate(levels):
            end = levels[at + 1][0] if at + 1 < len(levels) else before + net
            part = min(before + net, Fraction(end)) - max(before, Fraction(start))
            paid += max(part, Fraction(0)) * rate
        return paid


@st.composite
def documents(draw: st.DrawFn) -> dict[str, Any]:
    rules = []
    for number in range(draw(st.integers(1, 4))):
        names = draw(st.sets(st.sampled_from(RANKS), max_size=2))
        values = {
            "publisher": ["p1"],
            "category": ["books"],
            "customer": ["new"],
            "country": ["DE", "FR"],
        }
        rule: dict[str, Any] = {
            "id": f"r{number}",
            "priority": draw(st.integers(0, 1)),
            "when": {name: values[name] for name in names},
        }
        if draw(st.booleans()):
            rule["pay"] = {"percent": draw(PERCENTS)}
        else:
            measure = draw(st.sampled_from(["count", "commissionable"]))
            scale = 1 if measure == "count" else 3000
            starts = sorted(draw(st.sets(st.integers(0, 4), min_size=1, max_size=3)))
            rule["tiers"] = {
                "mode": draw(st.sampled_from(["graduated", "volume", "status"])),
                "measure": measure,
                "window": "calendar_month",
                "freeze_days": 1000,
                "levels": [{"from": one * scale, "percent": draw(PERCENTS)} for one in starts],
            }
        rules.append(rule)
    return {"currency": "EUR", "rules": rules}


@st.composite
def events(draw: st.DrawFn) -> list[dict[str, Any]]:
    days = sorted(
        draw(
            st.lists(
                st.sampled_from(["2026-02-10", "2026-03-01", "2026-03-20", "2026-04-05"]),
                min_size=1,
                max_size=7,
            )
        )
    )
    found: list[dict[str, Any]] = []
    for number, day in enumerate(days):
        net = draw(st.integers(1, 7000))
        order: dict[str, Any] = {
            "id": f"c{number}",
            "publisher": draw(st.sampled_from(["p1", "p2"])),
            "at": day,
            "lines": [{"net_minor": net}],
        }
        for name, value in (("country", "DE"), ("customer", "new")):
            order |= {name: value} if draw(st.booleans()) else {}
        if draw(st.booleans()):
            order["lines"] = [{"net_minor": net, "category": "books"}]
        found.append(order)
    for order in list(found):
        left = order["lines"][0]["net_minor"]
        for kind in draw(
            st.lists(
                st.sampled_from(["refund", "cancel", "approve", "decline", "hold", "release"]),
                max_size=2,
            )
        ):
            at = draw(st.sampled_from(["2026-02-25", "2026-03-25", "2026-04-10"]))
            change = {"type": kind, "conversion": order["id"], "at": max(at, order["at"])}
            if kind == "refund" and left:
                change["amount_minor"] = draw(st.integers(1, left))
                left -= change["amount_minor"]
            if kind != "refund" or "amount_minor" in change:
                found.append(change)
    return found


@settings(max_examples=80, deadline=None)
@given(document=documents(), history=events())
def test_the_engine_pays_what_the_definitions_say(
    document: dict[str, Any], history: list[dict[str, Any]]
) -> None:
    plan = parse_plan(document, publishing=False)
    found = evaluate(plan, parse_events(history, plan.zone))
    oracle = Oracle(document, history)
    assert {name: one.commission_minor for name, one in found.items()} == {
        order["id"]: oracle.amount(order) for order in oracle.orders
    }
