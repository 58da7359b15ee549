"""What an order may look like, and what two reports of it have in common."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commissions.countries import COUNTRIES as PLAN_COUNTRIES
from kernel.errors import InvalidInput
from tracker.events import Item, Order
from tracker.fields import COUNTRIES, parse_time
from tracker.orders import (
    Terms,
    content_hash,
    differences,
    from_pairs,
    parse_order,
    refuse_unknown,
)

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)
EUR = Terms(currency="EUR", days_back_max=30, items_max=3, now=NOW)


def fields_of(values: dict[str, Any], terms: Terms = EUR) -> list[str]:
    with pytest.raises(InvalidInput) as caught:
        parse_order(values, terms)
    return [problem.field for problem in caught.value.problems]


def test_a_whole_order() -> None:
    order = parse_order(
        {
            "order_id": "A-1",
            "click_id": "x" * 52,
            "event": "lead_paid",
            "amount": "12.50",
            "currency": "EUR",
            "country": "de",
            "customer": "new",
            "coupon": "SPRING",
            "status": "approved",
            "occurred_at": "2026-03-09T13:00:00.1239+01:00",
            "items": [
                {"sku": "a", "category": "books", "qty": 2, "amount": "10.00"},
                {"amount": {"minor": 250, "currency": "EUR"}},
            ],
        },
        EUR,
    )
    assert order == Order(
        order_id="A-1",
        event="lead_paid",
        currency="EUR",
        amount_minor=1250,
        click_id="x" * 52,
        country="DE",
        customer="new",
        coupon="SPRING",
        status="approved",
        occurred_at=datetime(2026, 3, 9, 12, 0, 0, 123000, tzinfo=UTC),
        items=(Item("a", "books", 2, 1000), Item("", "", 1, 250)),
    )


def test_an_order_needs_only_its_id() -> None:
    order = parse_order({"order_id": "1", "click_id": "", "country": None}, EUR)
    assert order == Order(order_id="1", event="sale", currency="EUR", amount_minor=0)


def test_the_sum_of_the_items_is_the_amount() -> None:
    values = {"order_id": "1", "currency": "EUR", "items": [{"amount": "1.10"}, {"amount": "2.20"}]}
    assert parse_order(values, EUR).amount_minor == 330


def test_money_objects_carry_their_currency() -> None:
    values: dict[str, Any] = {"order_id": "1", "amount": {"minor": 5, "currency": "EUR"}}
    assert parse_order(values, EUR).amount_minor == 5
    values = {"order_id": "1", "items": [{"amount": {"minor": 7, "currency": "EUR"}}]}
    assert parse_order(values, EUR).amount_minor == 7


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"order_id": ""}, "order_id"),
        ({"order_id": "x" * 129}, "order_id"),
        ({"order_id": "a\nb"}, "order_id"),
        ({"order_id": 12}, "order_id"),
        ({"event": "Sale"}, "event"),
        ({"event": "x" * 33}, "event"),
        ({"amount": "1.234"}, "amount"),
        ({"amount": "1.230"}, "amount"),
        ({"amount": "1,23"}, "amount"),
        ({"amount": "-1.00"}, "amount"),
        ({"amount": "1e3"}, "amount"),
        ({"amount": "٣"}, "amount"),
        ({"amount": 12.5}, "amount"),
        ({"amount": 12}, "amount"),
        ({"amount": "99999999999999.99"}, "amount"),
        ({"amount": {"minor": 1.5, "currency": "EUR"}}, "amount"),
        ({"amount": {"minor": True, "currency": "EUR"}}, "amount"),
        ({"amount": {"minor": -1, "currency": "EUR"}}, "amount"),
        ({"amount": {"minor": 1}}, "amount"),
        ({"amount": {"minor": 1, "currency": "USD"}}, "currency"),
        ({"currency": "USD"}, "currency"),
        ({"currency": "eur"}, "currency"),
        ({"currency": None}, "currency"),
        ({"country": "UK"}, "country"),
        ({"country": "EU"}, "country"),
        ({"country": "D"}, "country"),
        ({"country": 1}, "country"),
        ({"customer": "old"}, "customer"),
        ({"coupon": "x" * 129}, "coupon"),
        ({"status": "paid"}, "status"),
        ({"click_id": "x" * 256}, "click_id"),
        ({"occurred_at": "2026-03-10"}, "occurred_at"),
        ({"occurred_at": "2026-03-10T12:00:00"}, "occurred_at"),
        ({"occurred_at": 1773144000}, "occurred_at"),
        ({"occurred_at": "2026-03-10T12:05:01Z"}, "occurred_at"),
        ({"occurred_at": "2026-02-08T11:59:59Z"}, "occurred_at"),
        ({"occurred_at": "0001-01-01T00:00:00+14:00"}, "occurred_at"),
        ({"items": {}}, "items"),
        ({"items": [{}] * 4}, "items"),
        ({"items": ["x"]}, "items[0]"),
        ({"items": [{"amount": "12.50", "price": "1"}]}, "items[0].price"),
        ({"items": [{"sku": "a"}]}, "items[0].amount"),
        ({"items": [{"amount": "12.50", "qty": 0}]}, "items[0].qty"),
        ({"items": [{"amount": "12.50", "qty": 1.5}]}, "items[0].qty"),
        ({"items": [{"amount": "12.49"}]}, "amount"),
        ({"items": [{"amount": "12.50"}, {"amount": "0.01"}]}, "amount"),
    ],
)
def test_a_broken_rule_names_its_field(change: dict[str, Any], field: str) -> None:
    good = {"order_id": "1", "amount": "12.50", "currency": "EUR"}
    assert field in fields_of({**good, **change})


def test_every_broken_rule_is_named_at_once() -> None:
    values = {"amount": "1.234", "currency": "EUR", "country": "XX", "customer": "who"}
    assert fields_of(values) == ["order_id", "amount", "country", "customer"]


def test_decimals_follow_the_currency() -> None:
    yen = Terms(currency="JPY", days_back_max=None, items_max=3, now=NOW)
    values = {"order_id": "1", "amount": "100", "currency": "JPY"}
    assert parse_order(values, yen).amount_minor == 100
    assert fields_of({**values, "amount": "100.0"}, yen) == ["amount"]
    dinar = Terms(currency="KWD", days_back_max=None, items_max=3, now=NOW)
    values = {"order_id": "1", "amount": "1.234", "currency": "KWD"}
    assert parse_order(values, dinar).amount_minor == 1234


def test_how_far_back_an_order_may_lie() -> None:
    edge = {"order_id": "1", "occurred_at": "2026-02-08T12:00:00Z"}
    assert parse_order(edge, EUR).occurred_at == NOW - timedelta(days=30)
    without_limit = Terms(currency="EUR", days_back_max=None, items_max=3, now=NOW)
    old = {"order_id": "1", "occurred_at": "1999-01-01T00:00:00Z"}
    assert parse_order(old, without_limit).occurred_at == datetime(1999, 1, 1, tzinfo=UTC)
    soon = {"order_id": "1", "occurred_at": "2026-03-10T12:05:00Z"}
    assert parse_order(soon, EUR).occurred_at == NOW + timedelta(minutes=5)


def test_unknown_fields_of_json_are_named() -> None:
    refuse_unknown({"order_id": "1", "token": "t"}, "token")
    with pytest.raises(InvalidInput) as caught:
        refuse_unknown({"order_id": "1", "orderid": "1", "token": "t"})
    assert [problem.field for problem in caught.value.problems] == ["orderid", "token"]


def test_postback_parameters_become_values() -> None:
    pairs = [
        ("order_id", "1"),
        ("utm_source", "junk"),
        ("item_sku[]", "a"),
        ("item_sku[]", "b"),
        ("item_amount[]", "1.00"),
        ("item_amount[]", "2.00"),
        ("item_qty[]", "2"),
        ("item_qty[]", "1"),
        ("item_colour[]", "red"),
        ("order_id", "1"),
    ]
    values = from_pairs(pairs)
    assert values == {
        "order_id": "1",
        "items": [
            {"sku": "a", "amount": "1.00", "qty": "2"},
            {"sku": "b", "amount": "2.00", "qty": "1"},
        ],
    }
    order = parse_order({**values, "currency": "EUR"}, EUR)
    assert order.items == (Item("a", "", 2, 100), Item("b", "", 1, 200))


def test_contradictory_parameters_are_refused() -> None:
    with pytest.raises(InvalidInput, match="order_id"):
        from_pairs([("order_id", "1"), ("order_id", "2")])
    with pytest.raises(InvalidInput) as caught:
        from_pairs([("item_sku[]", "a"), ("item_amount[]", "1"), ("item_amount[]", "2")])
    assert caught.value.problems[0].field == "item_sku[]"


def test_equal_content_has_equal_hashes() -> None:
    one = {"order_id": "1", "amount": "5.00", "currency": "EUR", "country": "de"}
    same = {"order_id": "1", "amount": {"minor": 500, "currency": "EUR"}, "country": "DE"}
    first, second = parse_order(one, EUR), parse_order(same, EUR)
    assert content_hash("p", first) == content_hash("p", second)
    assert differences(first, second) == []
    assert content_hash("q", first) != content_hash("p", first)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"amount": "5.01"}, "amount"),
        ({"click_id": "x"}, "click_id"),
        ({"country": "FR"}, "country"),
        ({"customer": "new"}, "customer"),
        ({"coupon": "C"}, "coupon"),
        ({"status": "approved"}, "status"),
        ({"occurred_at": "2026-03-10T11:00:00Z"}, "occurred_at"),
        ({"items": [{"amount": "5.00"}]}, "items"),
    ],
)
def test_every_field_makes_a_difference(change: dict[str, Any], name: str) -> None:
    base = {"order_id": "1", "amount": "5.00", "currency": "EUR", "country": "DE"}
    first, second = parse_order(base, EUR), parse_order({**base, **change}, EUR)
    assert differences(first, second) == [name]
    assert content_hash("p", first) != content_hash("p", second)


@given(st.text(max_size=40))
def test_any_text_as_a_time(text: str) -> None:
    instant = parse_time(text)
    assert instant is None or instant.tzinfo is UTC


def test_the_countries_are_those_a_plan_may_name() -> None:
    assert COUNTRIES == PLAN_COUNTRIES
