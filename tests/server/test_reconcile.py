from typing import Any

import pytest

from server import reconcile
from server.reconcile import Difference
from server.retail import Book, read

BOOK_ROWS = (
    ("1", "22914", "3", "United Kingdom"),
    ("2", "22914", "4", "EIRE"),
    ("3", "22914", "2", "Unspecified"),
    ("C4", "22914", "-1", "EIRE"),
)


@pytest.fixture
def book() -> Book:
    """Orders of 7.50 (GB), 10.00 less a refund of 2.50 (IE) and 5.00 (no country)."""
    return read(
        {
            "InvoiceNo": invoice,
            "StockCode": sku,
            "Quantity": quantity,
            "InvoiceDate": f"2011-01-1{number} 09:30:00",
            "UnitPrice": "2.5",
            "CustomerID": "17850.0" if country == "EIRE" else "12345.0",
            "Country": country,
        }
        for number, (invoice, sku, quantity, country) in enumerate(BOOK_ROWS)
    )


def recorded(order_id: str, minor: int, refunded: int = 0, commission: int | None = 0) -> Any:
    def money(amount: int) -> dict[str, Any]:
        return {"minor": amount, "currency": "GBP"}

    return {
        "order_id": order_id,
        "amount": money(minor),
        "refunded": money(refunded),
        "commission": None if commission is None else money(commission),
    }


def test_equal_books_are_explained_without_a_difference(book: Book) -> None:
    result = reconcile.compare(
        book,
        [
            recorded("1", 750, commission=38),
            recorded("2", 1000, refunded=250, commission=45),
            recorded("3", 500, commission=None),
            recorded("1-live", 750, commission=38),
        ],
        {},
    )

    assert result.differences == []
    assert result.is_explained
    assert [
        (line.country, line.file_names, line.orders, line.file_minor, line.network_minor)
        for line in result.lines
    ] == [
        ("GB", {"United Kingdom"}, 1, 750, 750),
        ("IE", {"EIRE"}, 1, 750, 750),
        ("", {"Unspecified"}, 1, 500, 500),
    ]
    assert [line.commission_minor for line in result.lines] == [38, 45, 0]


def test_a_missing_order_is_named(book: Book) -> None:
    result = reconcile.compare(
        book, [recorded("2", 1000, refunded=250), recorded("3", 500)], refused={}
    )

    assert result.differences == [Difference("1", "GB", 750, 0, "missing in the network")]
    assert result.is_explained
    assert [line.difference_minor for line in result.lines] == [-750, 0, 0]


def test_a_missing_order_of_no_value_is_named_too(book: Book) -> None:
    book.refunds[0] = type(book.refunds[0])(
        refund_id="C4-5",
        order_id="2",
        line=0,
        country_name="EIRE",
        occurred_at=book.refunds[0].occurred_at,
        quantity=4,
        amount_minor=1000,
    )

    result = reconcile.compare(book, [recorded("1", 750), recorded("3", 500)], {})

    assert result.differences == [Difference("2", "IE", 0, 0, "missing in the network")]


def test_what_the_server_refused_comes_with_its_reason(book: Book) -> None:
    result = reconcile.compare(
        book,
        [recorded("2", 1000), recorded("3", 500)],
        {"1": "order_too_old", "C4-5": "refund_over_amount"},
    )

    assert result.differences == [
        Difference("1", "GB", 750, 0, "order_too_old"),
        Difference("2", "IE", 750, 1000, "refund_over_amount"),
    ]
    assert result.is_explained


def test_an_amount_that_differs_without_a_refusal_says_so(book: Book) -> None:
    result = reconcile.compare(
        book, [recorded("1", 749), recorded("2", 1000, refunded=250), recorded("3", 500)], {}
    )

    assert result.differences == [Difference("1", "GB", 750, 749, "amounts differ")]


def test_an_order_recorded_twice_is_not_explained(book: Book) -> None:
    result = reconcile.compare(
        book,
        [recorded("1", 750), recorded("1", 750), recorded("2", 1000, 250), recorded("3", 500)],
        {},
    )

    assert result.differences == []
    assert not result.is_explained
    assert result.lines[0].difference_minor == 750


def test_the_reading_of_country_names_is_shown() -> None:
    table = dict(reconcile.mapping_table())

    assert table["EIRE"] == "IE"
    assert table["RSA"] == "ZA"
    assert table["European Community"] == "(no country)"
    assert len(table) == 38
