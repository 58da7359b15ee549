"""Lines with tax and revenue: read, added up, hashed, recorded by every way in, and taken back."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.database import reading
from kernel.errors import InvalidInput
from tests.tracker.test_order_fields import FORM, JSON
from tests.tracker.test_orders import EUR, fields_of
from tests.tracker.test_uploads import get, upload, work
from tracker import conversions
from tracker.events import Item
from tracker.models import Conversion, ConversionChange, ConversionItem
from tracker.order_items import net_minor
from tracker.orders import content_hash, differences, from_pairs, parse_order

BASE: dict[str, Any] = {"order_id": "1", "currency": "EUR"}


@pytest.mark.parametrize(
    ("gross", "percent", "net"),
    [
        (11_900, "19", 10_000),
        (10, "19", 8),
        (105, "5", 100),
        (1, "100", 1),
        (3, "100", 2),
        (1_077, "7.7", 1_000),
        (100, "0", 100),
        (0, "19", 0),
    ],
)
def test_the_net_is_rounded_half_up(gross: int, percent: str, net: int) -> None:
    assert net_minor(Item("", "", 1, gross, percent)) == net


def test_a_line_without_tax_is_net_already() -> None:
    assert net_minor(Item("", "", 1, 500)) is None


@given(st.integers(0, 10**15), st.integers(0, 100 * 10**6))
def test_the_net_is_exact_to_half_a_unit(gross: int, millionths: int) -> None:
    percent = f"{millionths // 10**6}.{millionths % 10**6:06d}"
    net = net_minor(Item("", "", 1, gross, percent))
    assert net is not None
    assert 0 <= net <= gross
    assert abs(net - Fraction(gross * 100) / (100 + Fraction(percent))) <= Fraction(1, 2)


def test_items_say_gross_or_amount_and_the_order_is_their_sum() -> None:
    items = [
        {"gross": "119.00", "vat_percent": "19.0", "revenue": "11.90"},
        {"sku": "b", "amount": "10.00"},
    ]
    order = parse_order({**BASE, "items": items}, EUR)
    assert order.amount_minor == 12_900
    assert order.items == (
        Item("", "", 1, 11_900, "19", 1_190),
        Item("b", "", 1, 1_000),
    )
    assert parse_order({**BASE, "items": items, "amount": "129.00"}, EUR) == order
    assert fields_of({**BASE, "items": items, "amount": "110.00"}) == ["amount"]


def test_an_order_without_items_is_the_line_itself() -> None:
    said = {"gross": "11.90", "vat_percent": 19, "revenue": {"minor": 50, "currency": "EUR"}}
    order = parse_order({"order_id": "1", "currency": "EUR", **said}, EUR)
    assert (order.amount_minor, order.items) == (1_190, (Item("", "", 1, 1_190, "19", 50),))
    assert parse_order({**BASE, **said, "amount": "11.90"}, EUR) == order
    by_amount = parse_order({**BASE, "amount": "11.90", "revenue": "0.50"}, EUR)
    assert by_amount.items == (Item("", "", 1, 1_190, None, 50),)
    as_object = {"gross": {"minor": 1_190, "currency": "EUR"}, "vat_percent": "19"}
    assert parse_order({"order_id": "1", **as_object}, EUR).amount_minor == 1_190


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ({"gross": "1.00"}, "vat_percent"),
        ({"amount": "1.00", "vat_percent": "19"}, "vat_percent"),
        ({"gross": "1.00", "vat_percent": "100.1"}, "vat_percent"),
        ({"gross": "1.00", "vat_percent": "-1"}, "vat_percent"),
        ({"gross": "1.00", "vat_percent": "1.1234567"}, "vat_percent"),
        ({"gross": "1.00", "vat_percent": 19.5}, "vat_percent"),
        ({"gross": "1.00", "vat_percent": True}, "vat_percent"),
        ({"gross": "1.001", "vat_percent": "19"}, "gross"),
        ({"amount": "1.00", "revenue": "-1.00"}, "revenue"),
        ({"amount": "0.00", "revenue": "1.00"}, "revenue"),
        ({"amount": "1.00", "revenue": {"minor": 1, "currency": "USD"}}, "currency"),
    ],
)
def test_what_is_wrong_with_a_line_is_named(line: dict[str, Any], name: str) -> None:
    assert fields_of({**BASE, "items": [line]}) == [f"items[0].{name}"]
    assert fields_of({**BASE, **line}) == [name]


def test_a_line_s_fields_belong_to_one_place() -> None:
    both = {"amount": "1.00", "gross": "1.00", "vat_percent": "0"}
    assert fields_of({**BASE, "items": [both]}) == ["items[0].gross"]
    assert fields_of({**BASE, "items": [{"amount": "1.00"}], "revenue": "1.00"}) == ["revenue"]
    assert fields_of({**BASE, "items": [{"revenue": "1.00"}]}) == ["items[0].amount"]


def test_tax_and_revenue_are_part_of_what_is_said() -> None:
    lines: list[dict[str, Any]] = [
        {"amount": "1.00"},
        {"gross": "1.00", "vat_percent": "0"},
        {"gross": "1.00", "vat_percent": "19"},
        {"amount": "1.00", "revenue": "0.10"},
    ]
    orders = [parse_order({**BASE, "items": [line]}, EUR) for line in lines]
    assert len({content_hash("p", one) for one in orders}) == 4
    assert all(differences(orders[0], one) == ["items"] for one in orders[1:])


def test_columns_of_a_postback() -> None:
    pairs = [("item_gross[]", ""), ("item_gross[]", "1.19"), ("item_amount[]", "2.00")]
    pairs += [("item_amount[]", ""), ("item_vat_percent[]", ""), ("item_vat_percent[]", "19")]
    pairs += [("item_revenue[]", "0.20"), ("item_revenue[]", "")]
    order = parse_order({**BASE, **from_pairs(pairs)}, EUR)
    assert order.items == (Item("", "", 1, 200, None, 20), Item("", "", 1, 119, "19"))
    with pytest.raises(InvalidInput, match=r"item_revenue\[\]"):
        from_pairs([one for one in pairs if one != ("item_revenue[]", "")])


FACTS = {"site": "shop-de", "country_billing": "at", "country_site": "DE"}
LINES = {
    "item_sku[]": ["a", "b"],
    "item_gross[]": ["11.90", ""],
    "item_vat_percent[]": ["19", ""],
    "item_amount[]": ["", "5.00"],
    "item_revenue[]": ["", "0.50"],
}


def test_every_way_in_says_the_same_and_is_recorded(tracker: Any, world: Any) -> None:
    body = {
        **{name: value for name, value in JSON.items() if name != "amount"},
        **FACTS,
        "customer": "reactivated",
        "items": [
            {"sku": "a", "gross": "11.90", "vat_percent": "19"},
            {"sku": "b", "amount": "5.00", "revenue": "0.50"},
        ],
    }
    first = tracker.api(world.advertiser, "/v1/conversions", body)
    assert first.status_code == 202, first.text
    form = {name: value for name, value in FORM.items() if name != "amount"}
    form |= {**FACTS, "customer": "reactivated", "token": world.token, **LINES}
    assert tracker.http.post("/postback", data=form).json() == {**first.json(), "duplicate": True}
    tracker.ship()
    [row] = tracker.rows(Conversion)
    assert (row.amount_minor, row.site, row.customer) == (1_690, "shop-de", "reactivated")
    assert (row.country_billing, row.country_site) == ("AT", "DE")
    items = tracker.rows(ConversionItem)
    assert [
        (one.amount_minor, one.vat_percent, one.net_minor, one.revenue_minor) for one in items
    ] == [
        (1_190, "19", 1_000, None),
        (500, None, None, 50),
    ]
    # What was recorded is the report again, so a repeat is one after it is shipped, too.
    with reading(tracker.engine) as session:
        assert (
            content_hash(row.program_id, conversions.reported_order(session, row))
            == row.content_hash
        )
    assert tracker.http.post("/postback", data=form).json()["duplicate"] is True


def test_refunds_are_in_the_figure_that_was_reported(tracker: Any, world: Any) -> None:
    tracker.api(
        world.advertiser,
        "/v1/conversions",
        {**BASE, "gross": "11.90", "vat_percent": "19"},
    )
    tracker.ship()
    path = "/v1/conversions/1/refunds"
    over = tracker.api(world.advertiser, path, {"amount": "11.91"})
    assert (over.status_code, over.json()["remaining"]["minor"]) == (422, 1_190)
    assert tracker.api(world.advertiser, path, {"amount": "11.90"}).status_code == 202
    tracker.ship()
    assert [one.amount_minor for one in tracker.rows(ConversionChange)] == [1_190]


def test_a_file_s_row_is_one_line(tracker: Any, world: Any) -> None:
    content = (
        "order_id;gross;vat_percent;revenue;currency;site;country_billing;amount\n"
        "1;11,90;19,0;0,50;EUR;de;AT;\n"
        "2;;;1,00;EUR;;;10,00\n"
        "3;11,90;;;EUR;;;\n"
    )
    job = upload(tracker, world.advertiser, content.encode(), "?decimal=,").json()
    assert job["unused_columns"] == ""
    work(tracker, job["id"])
    rows = get(tracker, world.advertiser, f"{job['id']}/rows").json()["data"]
    assert [(one["status"], one["field"]) for one in rows] == [
        ("accepted", ""),
        ("accepted", ""),
        ("invalid", "vat_percent"),
    ]
    tracker.ship()
    items = tracker.rows(ConversionItem)
    assert [(one.amount_minor, one.vat_percent, one.revenue_minor) for one in items] == [
        (1_190, "19", 50),
        (1_000, None, 100),
    ]
