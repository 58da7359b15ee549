import csv
import hashlib
from collections import Counter
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from server import retail
from server.retail import COUNTRIES, Book, Item, Order, Refund, Remark, UnknownCountry, read

AT = datetime(2011, 1, 10, 9, 30, tzinfo=UTC)


def row(invoice: str, **facts: str) -> Mapping[str, str]:
    """A line of the file: three mugs at 2.50 for customer 17850 in Britain."""
    return {
        "InvoiceNo": invoice,
        "StockCode": "22914",
        "Description": "MUG",
        "Quantity": "3",
        "InvoiceDate": "2011-01-10 09:30:00",
        "UnitPrice": "2.5",
        "CustomerID": "17850.0",
        "Country": "United Kingdom",
    } | facts


def cancelled(invoice: str, quantity: str = "-3", **facts: str) -> Mapping[str, str]:
    return row(invoice, Quantity=quantity, InvoiceDate="2011-01-12 10:00:00", **facts)


def test_lines_of_an_invoice_make_one_order() -> None:
    book = read([row("1"), row("1", StockCode="POST", Quantity="1", UnitPrice="18.00")])

    assert book == Book(
        orders=[
            Order(
                order_id="1",
                customer_id="17850",
                country_name="United Kingdom",
                occurred_at=AT,
                customer="new",
                items=(
                    Item(row=2, sku="22914", category="goods", quantity=3, amount_minor=750),
                    Item(row=3, sku="POST", category="postage", quantity=1, amount_minor=1800),
                ),
            )
        ]
    )
    assert book.orders[0].amount_minor == 2550
    assert book.orders[0].country == "GB"


def test_a_customer_is_new_once() -> None:
    book = read([row("1"), row("2", InvoiceDate="2011-01-11 09:30:00"), row("3", CustomerID="9.0")])

    assert [(order.order_id, order.customer) for order in book.orders] == [
        ("1", "new"),
        ("3", "new"),
        ("2", "returning"),
    ]


def test_an_order_without_customer_is_sold_and_remarked() -> None:
    book = read([row("1", CustomerID="")])

    assert [(order.order_id, order.customer_id, order.customer) for order in book.orders] == [
        ("1", "", None)
    ]
    assert book.remarks == [Remark(2, "no_customer", "United Kingdom", 750)]


@pytest.mark.parametrize(
    ("facts", "amount_minor"),
    [
        ({"UnitPrice": "0.0"}, 0),
        ({"Quantity": "-3"}, -750),
        ({"Quantity": "0"}, 0),
        ({"UnitPrice": "-11062.06", "Quantity": "1"}, -1_106_206),
        ({"UnitPrice": "-2.5", "Quantity": "-3"}, 750),
    ],
)
def test_what_cannot_be_sold_is_remarked_and_not_sold(
    facts: Mapping[str, str], amount_minor: int
) -> None:
    book = read([row("1", **facts)])

    assert book == Book(remarks=[Remark(2, "price_not_above_zero", "United Kingdom", amount_minor)])


@pytest.mark.parametrize(
    ("facts", "amount_minor"),
    [({"UnitPrice": "0.0"}, 0), ({"quantity": "3"}, 750), ({"UnitPrice": "-2.5"}, 750)],
)
def test_a_cancelled_line_that_takes_nothing_back_is_no_refund(
    facts: dict[str, str], amount_minor: int
) -> None:
    book = read([row("1"), cancelled("C2", **facts)])

    assert book.refunds == []
    assert book.remarks == [Remark(3, "price_not_above_zero", "United Kingdom", amount_minor)]


def test_a_cancellation_takes_back_the_latest_earlier_sale_of_customer_and_code() -> None:
    later = {"InvoiceDate": "2011-01-11 09:30:00"}
    book = read(
        [
            row("1"),
            row("2", StockCode="85048", **later),
            row("2", **later),
            row("3", CustomerID="12345.0", **later),
            row("4", InvoiceDate="2011-01-12 10:01:00"),
            cancelled("C5", "-2"),
        ]
    )

    assert book.refunds == [
        Refund(
            refund_id="C5-7",
            order_id="2",
            line=1,
            country_name="United Kingdom",
            occurred_at=datetime(2011, 1, 12, 10, 0, tzinfo=UTC),
            quantity=2,
            amount_minor=500,
        )
    ]
    assert book.remarks == []


def test_more_cancelled_than_sold_refunds_the_sale_and_remarks_the_rest() -> None:
    book = read([row("1"), cancelled("C2", "-5")])

    assert [(refund.order_id, refund.quantity, refund.amount_minor) for refund in book.refunds] == [
        ("1", 3, 750)
    ]
    assert book.remarks == [Remark(3, "cancels_more_than_was_sold", "United Kingdom", -500)]


def test_a_line_cancelled_twice_is_refunded_once() -> None:
    book = read([row("1"), cancelled("C2"), cancelled("C3")])

    assert [refund.refund_id for refund in book.refunds] == ["C2-3"]
    assert book.remarks == [Remark(4, "cancels_nothing_in_this_file", "United Kingdom", -750)]


def test_a_line_cancelled_in_parts_is_refunded_up_to_its_sale() -> None:
    book = read([row("1"), cancelled("C2", "-1"), cancelled("C3", "-2")])

    assert [(refund.quantity, refund.amount_minor) for refund in book.refunds] == [
        (1, 250),
        (2, 500),
    ]
    assert book.remarks == []


@pytest.mark.parametrize(
    "sale", [{"StockCode": "85048"}, {"CustomerID": "1.0"}, {"InvoiceDate": "2011-01-12 10:00:01"}]
)
def test_a_cancellation_without_its_sale_is_remarked(sale: Mapping[str, str]) -> None:
    book = read([row("1", **sale), cancelled("C2")])

    assert book.refunds == []
    assert book.remarks == [Remark(3, "cancels_nothing_in_this_file", "United Kingdom", -750)]


def test_a_cancellation_without_customer_never_takes_back_a_stranger_s_sale() -> None:
    book = read([row("1", CustomerID=""), cancelled("C2", CustomerID="")])

    assert book.refunds == []
    assert [remark.code for remark in book.remarks] == [
        "no_customer",
        "cancels_nothing_in_this_file",
    ]


def test_an_unknown_country_stops_the_reading_and_names_its_row() -> None:
    with pytest.raises(UnknownCountry, match="row 3: no code is known for 'Atlantis'"):
        read([row("1"), row("2", Country="Atlantis")])


@pytest.mark.parametrize(
    ("local", "utc"),
    [
        ("2011-03-27 00:59:00", datetime(2011, 3, 27, 0, 59, tzinfo=UTC)),
        ("2011-03-27 02:00:00", datetime(2011, 3, 27, 1, 0, tzinfo=UTC)),
        ("2011-07-01 12:00:00", datetime(2011, 7, 1, 11, 0, tzinfo=UTC)),
        ("2011-10-30 02:00:00", datetime(2011, 10, 30, 2, 0, tzinfo=UTC)),
    ],
)
def test_times_are_local_in_the_file_and_utc_in_the_book(local: str, utc: datetime) -> None:
    (order,) = read([row("1", InvoiceDate=local)]).orders

    assert order.occurred_at == utc


def test_what_is_not_a_country_has_no_code() -> None:
    (order,) = read([row("1", Country="Unspecified")]).orders

    assert order.country is None
    assert {name for name, code in COUNTRIES.items() if code is None} == {
        "European Community",
        "Unspecified",
    }


def test_the_click_comes_minutes_before_the_order_and_at_every_reading_the_same() -> None:
    (order,) = read([row("536368")]).orders
    digest = hashlib.blake2b(b"536368", digest_size=8).digest()

    assert retail.minutes_before_order(order) == timedelta(
        minutes=6 + int.from_bytes(digest, "big") % 180
    )


def test_the_real_file_is_read_without_losing_a_line(shared_data: Path) -> None:
    with (shared_data / "orders" / "online_retail_30k.csv").open(newline="") as file:
        book = read(csv.DictReader(file))

    items = [item for order in book.orders for item in order.items]
    assert (len(book.orders), len({order.order_id for order in book.orders})) == (11_836, 11_836)
    assert (len(items), sum(item.amount_minor for item in items)) == (29_343, 60_192_564)
    assert (len(book.refunds), sum(refund.amount_minor for refund in book.refunds)) == (59, 124_140)
    remarked: Counter[str] = Counter()
    for remark in book.remarks:
        remarked[remark.code] += remark.amount_minor
    assert Counter(remark.code for remark in book.remarks) == {
        "cancels_more_than_was_sold": 6,
        "cancels_nothing_in_this_file": 561,
        "no_customer": 1_961,
        "price_not_above_zero": 37,
    }
    assert remarked == {
        "cancels_more_than_was_sold": -17_670,
        "cancels_nothing_in_this_file": -2_493_287,
        "no_customer": 2_638_987,
        "price_not_above_zero": 0,
    }
    # The file's 30,000 lines and their sum, counted without the reader under test.
    assert len(items) + 37 + 59 + 561 == 30_000
    assert 60_192_564 - 124_140 - 17_670 - 2_493_287 == 57_557_467
    assert Counter(order.customer for order in book.orders) == {
        "new": 3_546,
        "returning": 7_660,
        None: 630,
    }
    assert Counter(order.country for order in book.orders).most_common(3) == [
        ("GB", 10_633),
        ("FR", 260),
        ("DE", 258),
    ]
