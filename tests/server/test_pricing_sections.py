"""Documents of our own for the sections beside commissions, with values worked by hand."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from server import pricing


def one(section: str, entry: Any) -> dict[str, Any]:
    answer, ok = pricing.run({section: [entry]})
    (found,) = answer[section]
    assert found["ok"] is ok
    return dict(found)


def computed(section: str, entry: Any) -> Any:
    found = one(section, entry)
    assert "reason" not in found, found
    return found["computed"]


@pytest.mark.parametrize(
    ("rule", "start", "expect"),
    [
        (
            {"lock": {"after": "month_end", "days": 28, "at": "end_of_day"}, "pay": {"days": 7}},
            {"action_month": "2026-01"},
            {"locked_from": "2026-03-01", "invoice": "2026-04-01", "paid": "2026-03-08"},
        ),
        (
            {"pay": {"after": "month_end", "months": 2, "day": 10}},
            {"earning_month": "2025-12"},
            {"paid": "2026-02-10"},
        ),
        (
            {"approve_after_days": 7, "net_days": 30, "roll": "following", "calendar": "TARGET"},
            {"created": "2026-02-25"},
            {"approved": "2026-03-04", "paid": "2026-04-07"},
        ),
        (
            {"window": "calendar_quarter", "freeze_days": 0},
            {"window": "2026-Q2"},
            {"frozen_from": "2026-07-01T00:00:00"},
        ),
    ],
)
def test_schedules(rule: Any, start: Any, expect: Any) -> None:
    entry = {"id": "S", "title": "t", "rule": rule, "input": start}
    assert computed("schedules", entry) == expect
    assert one("schedules", {**entry, "expect": expect})["ok"]
    name = next(iter(expect))
    assert not one("schedules", {**entry, "expect": {name: "2026-01-01"}})["ok"]


@pytest.mark.parametrize(
    ("entry", "expect"),
    [
        (
            {"min_minor": 5000, "balance_before_minor": -6000, "earned_minor": 1000},
            {"balance_minor": -5000, "paid_minor": 0, "carried_minor": -5000},
        ),
        (
            {"payable_minor": 10001, "reserve_percent": "10"},
            {"reserved_minor": 1000, "paid_minor": 9001, "carried_minor": 0},
        ),
        (
            {"payable_minor": 50, "reserve_released_minor": 1000, "min_minor": 1000},
            {"paid_minor": 1050},
        ),
        (
            {"payable_minor": 1001, "tax": {"regime": "backup", "rate_percent": "24"}},
            {"withheld_minor": 240, "paid_minor": 761},
        ),
        (
            {"payable_minor": 1000, "tax": {"regime": "1099-NEC", "tin": True}},
            {"withheld_minor": 0, "paid_minor": 1000},
        ),
        (
            {
                "payable_minor": 1000,
                "tax": {"regime": "1042-S", "rate_percent": "30", "treaty_rate_percent": "5"},
            },
            {"withheld_minor": 50},
        ),
        (
            {
                "currency": "EUR",
                "payable_minor": 1000,
                "vat": {"payer": "FR", "payee": "FR", "payee_vat_id": True, "rate_percent": "20"},
                "payout_currency": "JPY",
                "rate": "163.45",
            },
            {"vat_minor": 200, "invoice_minor": 1200, "payout_minor": 1961, "paid_minor": 1000},
        ),
    ],
)
def test_payouts(entry: Any, expect: Any) -> None:
    found = computed("payouts", {"id": "N", **entry})
    assert {name: found[name] for name in expect} == expect
    assert one("payouts", {"id": "N", **entry, "expect": expect})["ok"]


RATES = {
    "2024-03-28": {"USD": "1.0811", "GBP": "0.8551", "JPY": "163.45"},
    "2024-04-02": {"USD": "1.0749", "GBP": "0.8551", "JPY": "163.01"},
}


@pytest.mark.parametrize(
    ("entry", "minor"),
    [
        ({"amount_minor": 1037, "from": "GBP", "to": "JPY", "per_eur": RATES["2024-03-28"]}, 1982),
        (
            {
                "amount_minor": 1037,
                "from": "GBP",
                "to": "JPY",
                "rates": RATES,
                "date": "2024-04-01",
            },
            1982,
        ),
        (
            {
                "amount_minor": -10000,
                "from": "USD",
                "to": "EUR",
                "fx": {"pivot": "EUR", "source": "ECB", "rates": RATES},
                "date": "2024-04-02",
            },
            -9303,
        ),
        ({"amount_minor": 10000, "from": "EUR", "to": "USD", "per_eur": "1.0811"}, 10811),
        ({"amount_minor": 100, "from": "USD", "to": "KWD", "rate": "0.3075"}, 308),
        (
            {"amount_minor": 100, "from": "USD", "to": "KWD", "rate": "0.3075", "rounding": "down"},
            307,
        ),
        (
            {
                "amount_minor": 100,
                "from": "USD",
                "to": "KWD",
                "rate": "0.3085",
                "rounding": "half_even",
            },
            308,
        ),
        ({"amount_minor": 7, "from": "EUR", "to": "EUR", "per_eur": {}}, 7),
    ],
)
def test_fx(entry: Any, minor: int) -> None:
    assert computed("fx", {"id": "X", **entry})["minor"] == minor
    assert one("fx", {"id": "X", **entry, "expect_minor": minor})["ok"]
    assert one("fx", {"id": "X", **entry, "expect": minor})["ok"]
    assert not one("fx", {"id": "X", **entry, "expect_minor": minor + 1})["ok"]


def posting(debit: str, credit: str, amount: int, currency: str = "EUR") -> dict[str, Any]:
    return {"debit": debit, "credit": credit, "currency": currency, "amount_minor": amount}


LEDGER = {
    "id": "L",
    "transactions": [
        {"key": "a", "event": "top-up", "postings": [posting("bank", "adv", 100)]},
        {"key": "b", "postings": [posting("adv", "pub", 30), posting("fx", "pub", 5, "USD")]},
        {"key": "c", "postings": [posting("pub", "adv", 30)]},
    ],
}


def test_ledger() -> None:
    balances = {"adv|EUR": -100, "bank|EUR": 100, "fx|USD": 5, "pub|USD": -5}
    assert computed("ledger", LEDGER) == {"balances": balances}
    assert one("ledger", {**LEDGER, "expect_balances": {**balances, "pub|EUR": 0}})["ok"]
    assert not one("ledger", {**LEDGER, "expect_balances": {"adv|EUR": -100}})["ok"]
    other_sign = {**LEDGER, "sign": "positive = credit balance"}
    assert computed("ledger", other_sign)["balances"]["adv|EUR"] == 100


def test_a_transaction_that_comes_twice_counts_once_and_with_other_content_is_refused() -> None:
    twice = {**LEDGER, "transactions": [*LEDGER["transactions"], LEDGER["transactions"][0]]}
    assert computed("ledger", twice) == computed("ledger", LEDGER)
    other = {"key": "a", "postings": [posting("bank", "adv", 101)]}
    changed = {**LEDGER, "transactions": [*LEDGER["transactions"], other]}
    assert "transactions[3].key: another transaction" in one("ledger", changed)["reason"]


LOG = {
    "leaves_hex": ["", "00"],
    "empty_root": "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "roots_by_size": [
        "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
        "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    ],
    "inclusion": [{"index": 0, "size": 2, "path": [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"]}],
    "consistency": [{"from": 1, "to": 2, "path": [
        "96a296d224f285c67bee93c30f8a309157f0daa35dc5b87e410b78630a09cfc7"]}],
    "tiles": {"path_of_index_1001": "x001/001", "tree_size_257": {"level0_full": 1}},
}  # fmt: skip


def test_a_log_says_its_own_expectations() -> None:
    answer, ok = pricing.run({"tlog": LOG})
    assert ok
    assert answer["tlog"][0]["id"] == "tlog"
    assert answer["tlog"][0]["computed"]["tiles"]["tree_size_257"] == {
        "level0_full": 1,
        "level0_partial": 1,
        "level1_partial": 1,
    }
    asked = {"leaves_hex": ["aa"], "inclusion": [{"index": 0, "size": 1}]}
    assert computed("tlog", asked)["inclusion"] == [{"index": 0, "size": 1, "path": []}]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("empty_root", "00"),
        ("roots_by_size", LOG["roots_by_size"][:1]),  # type: ignore[index]  # a list of roots
        ("inclusion", [{"index": 0, "size": 2, "path": []}]),
        ("consistency", [{"from": 1, "to": 2, "path": ["00"]}]),
        ("tiles", {"path_of_index_1001": "x001/002"}),
        ("signed_note", {"vkey": "no", "note": "no", "valid": True}),
    ],
)
def test_a_log_that_differs_says_where(name: str, value: Any) -> None:
    answer, ok = pricing.run({"tlog": {**LOG, name: value}})
    assert not ok
    assert answer["tlog"][0]["reason"] == f"differs: {name}"


@pytest.mark.parametrize(
    ("section", "entry", "reason"),
    [
        ("schedules", {}, "rule: must be an object"),
        ("schedules", {"rule": {"net_days": 1}, "input": {}}, "input.action_month: missing"),
        ("schedules", {"rule": {"net_days": 1}, "input": {}, "moon": 1}, "moon: unknown field"),
        (
            "schedules",
            {"rule": {"window": "calendar_month"}, "input": {"window": "March"}},
            "input.window: must be",
        ),
        ("payouts", {}, "payable_minor: missing"),
        ("payouts", {"payable_minor": "5"}, "payable_minor: must be an integer"),
        ("payouts", {"payable_minor": 5, "currency": "EURO"}, "currency: unknown currency code"),
        ("payouts", {"payable_minor": 5, "tax": {}}, "tax.regime: missing"),
        ("payouts", {"payable_minor": 5, "payout_currency": "PLN"}, "currency: missing"),
        (
            "payouts",
            {"payable_minor": 5, "currency": "EUR", "payout_currency": "PLN", "rate": "0"},
            "rate: a rate is above zero",
        ),
        (
            "payouts",
            {"payable_minor": 5, "vat": {"payer": "DE", "payee": "XX", "payee_vat_id": True}},
            "vat.payee: unknown country: XX",
        ),
        ("fx", {"amount_minor": 1, "from": "EUR", "to": "USD"}, "rate: names one of"),
        ("fx", {"amount_minor": 1, "from": "EUR", "to": "USD", "rate": 1.1}, "rate: must be a dec"),
        ("fx", {"amount_minor": 1, "from": "EUR", "to": "USD", "rate": "0"}, "rate: a rate is"),
        (
            "fx",
            {"amount_minor": 1, "from": "EUR", "to": "USD", "rates": RATES, "date": "2024-01-01"},
            "NoRate: no rate for USD on 2024-01-01",
        ),
        ("ledger", {"transactions": [{"key": "a"}]}, "transactions[0].postings: names at least"),
        (
            "ledger",
            {"transactions": [{"key": "a", "postings": [posting("x", "x", 1)]}]},
            "credit: must be another account",
        ),
        (
            "ledger",
            {"transactions": [{"key": "a", "postings": [posting("x", "y", 0)]}]},
            "amount_minor: must be above zero",
        ),
        ("tlog", {"leaves_hex": ["zz"]}, "ValueError"),
        ("tlog", {"inclusion": [{"index": 1, "size": 1}]}, "MerkleError"),
        ("tlog", {"tiles": {"moon": 1}}, "tiles.moon: is not known"),
    ],
)
def test_a_malformed_entry_is_named_and_the_others_are_computed(
    section: str, entry: dict[str, Any], reason: str
) -> None:
    good = {"id": "A", "total_minor": 5, "weights": [1], "expect": [5]}
    answer, ok = pricing.run({section: [entry], "allocations": [good]})
    assert not ok
    assert answer["allocations"][0]["ok"]
    assert (answer[section][0]["ok"], answer[section][0]["computed"]) == (False, None)
    assert reason in answer[section][0]["reason"]


JUNK = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=6,
)
GOOD: list[tuple[str, dict[str, Any]]] = [
    ("schedules", {"rule": {"pay": {"days": [1]}}, "input": {"created": "2026-01-01"}}),
    ("payouts", {"payable_minor": 5, "tax": {"regime": "x", "rate_percent": "1"}}),
    ("fx", {"amount_minor": 1, "from": "EUR", "to": "USD", "rates": RATES}),
    ("ledger", LEDGER),
    ("tlog", LOG),
    ("allocations", {"total_minor": 5, "weights": [1]}),
]


@settings(max_examples=80, deadline=None)
@given(which=st.sampled_from(GOOD), junk=JUNK, data=st.data())
def test_whatever_an_entry_holds_the_command_answers(
    which: tuple[str, dict[str, Any]], junk: Any, data: st.DataObject
) -> None:
    section, entry = which[0], copy.deepcopy(which[1])
    name = data.draw(st.sampled_from(sorted(entry)))
    held = entry[name]
    if isinstance(held, dict) and data.draw(st.booleans()):
        held[data.draw(st.sampled_from(sorted(held)))] = junk
    else:
        entry[name] = junk
    answer, _ = pricing.run({section: [entry]})
    assert len(answer[section]) == 1
