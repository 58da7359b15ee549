"""Orders in other currencies than their program's: what is taken in, what is refused, refunds."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from kernel import clock
from kernel.database import unit_of_work
from network import programs, reporting_terms
from tests.tracker.test_http_orders import fields_of as fields_of_answer
from tests.tracker.test_orders import EUR, fields_of
from tracker.models import Conversion, ConversionChange, IntakeRefusal
from tracker.order_fields import STATUSES
from tracker.orders import parse_order

OPEN = replace(EUR, other_currencies=("JPY", "KWD", "USD"))


@pytest.mark.parametrize(
    ("values", "currency", "minor"),
    [
        ({"amount": "1.00", "currency": "EUR"}, "EUR", 100),
        ({"amount": "1.00", "currency": "USD"}, "USD", 100),
        ({"amount": "1", "currency": "JPY"}, "JPY", 1),
        ({"amount": "1.234", "currency": "KWD"}, "KWD", 1_234),
        ({"amount": {"minor": 7, "currency": "USD"}}, "USD", 7),
        ({"items": [{"amount": {"minor": 7, "currency": "USD"}}]}, "USD", 7),
        ({"gross": {"minor": 7, "currency": "USD"}, "vat_percent": "5"}, "USD", 7),
        ({}, "EUR", 0),
    ],
)
def test_an_order_is_in_the_currency_it_names(
    values: dict[str, Any], currency: str, minor: int
) -> None:
    order = parse_order({"order_id": "1", **values}, OPEN)
    assert (order.currency, order.amount_minor) == (currency, minor)


@pytest.mark.parametrize(
    ("values", "fields"),
    [
        ({"amount": "1.00", "currency": "GBP"}, ["currency"]),
        ({"amount": "1.00"}, ["currency"]),
        ({"amount": "1.5", "currency": "JPY"}, ["amount"]),
        ({"amount": {"minor": 7, "currency": "GBP"}}, ["currency"]),
        ({"amount": {"minor": 7, "currency": "USD"}, "currency": "EUR"}, ["currency"]),
        (
            {
                "currency": "USD",
                "amount": "1.00",
                "items": [{"amount": {"minor": 100, "currency": "EUR"}}],
            },
            ["items[0].currency"],
        ),
        (
            {"currency": "USD", "amount": "1.00", "tax": {"minor": 1, "currency": "EUR"}},
            ["currency"],
        ),
    ],
)
def test_one_order_has_one_currency_that_is_taken_in(
    values: dict[str, Any], fields: list[str]
) -> None:
    assert fields_of({"order_id": "1", **values}, OPEN) == fields


def take_in(tracker: Any, currencies: Sequence[str]) -> None:
    with unit_of_work(tracker.engine) as session:
        program = programs.find(session, "shop")
        reporting_terms.set_reporting(
            session,
            program,
            duplicate_modes={},
            status_words={},
            statuses=STATUSES,
            other_currencies=currencies,
            actor="t",
            now=clock.now(),
        )
    tracker.run(tracker.node.refresh)


def order(tracker: Any, world: Any, **more: Any) -> Any:
    body = {"order_id": "1", "amount": "100", "currency": "JPY", **more}
    return tracker.api(world.advertiser, "/v1/conversions", body)


def refund(tracker: Any, world: Any, **body: Any) -> Any:
    return tracker.api(world.advertiser, "/v1/conversions/1/refunds", body)


def test_a_program_takes_in_what_it_lists(tracker: Any, world: Any) -> None:
    assert fields_of_answer(order(tracker, world)) == ["currency"]
    take_in(tracker, ["JPY"])
    assert order(tracker, world).status_code == 202
    assert order(tracker, world, order_id="2", currency="EUR").status_code == 202
    assert fields_of_answer(order(tracker, world, order_id="3", currency="USD")) == ["currency"]
    take_in(tracker, [])
    assert fields_of_answer(order(tracker, world, order_id="4")) == ["currency"]
    tracker.ship()
    rows = [(one.currency, one.amount_minor) for one in tracker.rows(Conversion)]
    assert rows == [("JPY", 100), ("EUR", 10_000)]


def test_a_refund_is_in_the_order_s_currency(tracker: Any, world: Any) -> None:
    take_in(tracker, ["JPY", "USD"])
    order(tracker, world)
    tracker.ship()
    for wrong in ({"amount": "10"}, {"amount": "10.00", "currency": "USD"}):
        assert fields_of_answer(refund(tracker, world, **wrong)) == ["currency"]
    assert fields_of_answer(refund(tracker, world, amount="10.5", currency="JPY")) == ["amount"]
    assert refund(tracker, world, amount="101", currency="JPY").status_code == 422
    assert refund(tracker, world, amount="10", currency="JPY").status_code == 202
    as_object = refund(tracker, world, amount={"minor": 90, "currency": "JPY"})
    assert as_object.status_code == 202, as_object.text
    tracker.ship()
    assert [one.amount_minor for one in tracker.rows(ConversionChange)] == [10, 90]
    assert tracker.rows(IntakeRefusal) == []
