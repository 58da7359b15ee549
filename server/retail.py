"""Reads the order file of a shop (UCI Online Retail's columns) into orders, refunds and remarks.

Pure: rows in, values out. Nothing is dropped without a remark: a line that cannot be sold (price
or quantity not above zero), a line without customer, a cancellation without its sale.
"""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from zoneinfo import ZoneInfo

CURRENCY = "GBP"
_ZONE = ZoneInfo("Europe/London")
_POSTAGE = frozenset({"POST", "DOT", "C2", "M", "BANK CHARGES", "AMAZONFEE"})

COUNTRIES: Mapping[str, str | None] = {
    "Australia": "AU",
    "Austria": "AT",
    "Bahrain": "BH",
    "Belgium": "BE",
    "Brazil": "BR",
    "Canada": "CA",
    "Channel Islands": "JE",  # Jersey and Guernsey are two codes; the file does not say which
    "Cyprus": "CY",
    "Czech Republic": "CZ",
    "Denmark": "DK",
    "EIRE": "IE",
    "European Community": None,  # not a country
    "Finland": "FI",
    "France": "FR",
    "Germany": "DE",
    "Greece": "GR",
    "Hong Kong": "HK",
    "Iceland": "IS",
    "Israel": "IL",
    "Italy": "IT",
    "Japan": "JP",
    "Lebanon": "LB",
    "Lithuania": "LT",
    "Malta": "MT",
    "Netherlands": "NL",
    "Norway": "NO",
    "Poland": "PL",
    "Portugal": "PT",
    "RSA": "ZA",
    "Saudi Arabia": "SA",
    "Singapore": "SG",
    "Spain": "ES",
    "Sweden": "SE",
    "Switzerland": "CH",
    "USA": "US",
    "United Arab Emirates": "AE",
    "United Kingdom": "GB",
    "Unspecified": None,
}


@dataclass(frozen=True, slots=True)
class Item:
    """One line of an order; `row` is its line in the file."""

    row: int
    sku: str
    category: str
    quantity: int
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Order:
    """One invoice."""

    order_id: str
    customer_id: str
    country_name: str
    occurred_at: datetime
    customer: str | None
    items: tuple[Item, ...]

    @property
    def country(self) -> str | None:
        """The ISO code of the country, where the file names one."""
        return COUNTRIES[self.country_name]

    @property
    def amount_minor(self) -> int:
        """The sum of the lines, in pence."""
        return sum(item.amount_minor for item in self.items)


@dataclass(frozen=True, slots=True)
class Refund:
    """A cancelled line, matched to the line it takes back."""

    refund_id: str
    order_id: str
    line: int
    country_name: str
    occurred_at: datetime
    quantity: int
    amount_minor: int


@dataclass(frozen=True, slots=True)
class Remark:
    """A row that was not sent as it stands, and why."""

    row: int
    code: str
    country_name: str
    amount_minor: int


@dataclass(slots=True)
class Book:
    """Everything the file says."""

    orders: list[Order] = field(default_factory=list)
    refunds: list[Refund] = field(default_factory=list)
    remarks: list[Remark] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class _Row:
    number: int
    invoice: str
    sku: str
    quantity: int
    at: datetime
    amount_minor: int
    customer_id: str
    country_name: str


class UnknownCountry(ValueError):
    """The file names a country that `COUNTRIES` does not map."""


def read(rows: Iterable[Mapping[str, str]]) -> Book:
    """The book of a file's rows (a DictReader's), in the order of time the file has."""
    book = Book()
    sales: dict[str, list[_Row]] = defaultdict(list)
    cancelled: list[_Row] = []
    for number, raw in enumerate(rows, start=2):
        row = _row(number, raw)
        is_cancelled = row.invoice.startswith("C")
        # A cancelled line has the price of its sale and a negative quantity.
        quantity = -row.quantity if is_cancelled else row.quantity
        if quantity <= 0 or row.amount_minor * row.quantity <= 0:
            book.remarks.append(_remark(row, "price_not_above_zero"))
        elif is_cancelled:
            cancelled.append(row)
        else:
            sales[row.invoice].append(row)
    book.orders = _orders(sales, book.remarks)
    _match(book, cancelled)
    return book


def minutes_before_order(order: Order) -> timedelta:
    """How long before its order the click came: 6 to 185 minutes, the same at every reading."""
    return timedelta(minutes=6 + number_of(order.order_id) % 180)


def number_of(text: str) -> int:
    """A number that a text always has, spread evenly."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big")


def _row(number: int, raw: Mapping[str, str]) -> _Row:
    if raw["Country"] not in COUNTRIES:
        raise UnknownCountry(f"row {number}: no code is known for {raw['Country']!r}")
    quantity = int(raw["Quantity"])
    local = datetime.fromisoformat(raw["InvoiceDate"]).replace(tzinfo=_ZONE)
    return _Row(
        number=number,
        invoice=raw["InvoiceNo"],
        sku=raw["StockCode"],
        quantity=quantity,
        at=local.astimezone(UTC),
        amount_minor=int(Decimal(raw["UnitPrice"]) * quantity * 100),
        customer_id=raw["CustomerID"].removesuffix(".0"),
        country_name=raw["Country"],
    )


def _remark(row: _Row, code: str, amount_minor: int | None = None) -> Remark:
    return Remark(
        row=row.number,
        code=code,
        country_name=row.country_name,
        amount_minor=row.amount_minor if amount_minor is None else amount_minor,
    )


def _orders(sales: Mapping[str, list[_Row]], remarks: list[Remark]) -> list[Order]:
    known: set[str] = set()
    orders = []
    for invoice, rows in sorted(sales.items(), key=lambda pair: (pair[1][0].at, pair[0])):
        first = rows[0]
        customer = None
        if first.customer_id:
            customer = "returning" if first.customer_id in known else "new"
            known.add(first.customer_id)
        else:
            remarks.extend(_remark(row, "no_customer") for row in rows)
        orders.append(
            Order(
                order_id=invoice,
                customer_id=first.customer_id,
                country_name=first.country_name,
                occurred_at=min(row.at for row in rows),
                customer=customer,
                items=tuple(
                    Item(
                        row=row.number,
                        sku=row.sku,
                        category="postage" if row.sku in _POSTAGE else "goods",
                        quantity=row.quantity,
                        amount_minor=row.amount_minor,
                    )
                    for row in rows
                ),
            )
        )
    return orders


@dataclass(slots=True)
class _Left:
    order: Order
    line: int
    amount_minor: int
    quantity: int


def _match(book: Book, cancelled: list[_Row]) -> None:
    """Pair each cancelled line with the latest earlier sale of the customer and stock code."""
    sold: dict[tuple[str, str], list[_Left]] = defaultdict(list)
    for order in book.orders:
        for line, item in enumerate(order.items):
            sold[order.customer_id, item.sku].append(
                _Left(order, line, item.amount_minor, item.quantity)
            )
    for row in cancelled:
        found = _latest(sold.get((row.customer_id, row.sku), []), row) if row.customer_id else None
        if found is None:
            book.remarks.append(_remark(row, "cancels_nothing_in_this_file"))
            continue
        amount_minor = min(-row.amount_minor, found.amount_minor)
        book.refunds.append(
            Refund(
                refund_id=f"{row.invoice}-{row.number}",
                order_id=found.order.order_id,
                line=found.line,
                country_name=found.order.country_name,
                occurred_at=row.at,
                quantity=min(-row.quantity, found.quantity),
                amount_minor=amount_minor,
            )
        )
        found.amount_minor -= amount_minor
        found.quantity -= min(-row.quantity, found.quantity)
        if amount_minor < -row.amount_minor:
            rest = row.amount_minor + amount_minor
            book.remarks.append(_remark(row, "cancels_more_than_was_sold", rest))


def _latest(candidates: list[_Left], row: _Row) -> _Left | None:
    for left in reversed(candidates):
        if left.order.occurred_at <= row.at and left.amount_minor > 0:
            return left
    return None
