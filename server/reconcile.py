"""Compares an order file with what the network says it recorded, country by country and row by row.

Pure: the file's book and the API's rows in, lines and differences out.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from server.retail import COUNTRIES, Book


@dataclass(slots=True)
class CountryLine:
    """One country of the reconciliation, amounts in minor units."""

    country: str
    file_names: set[str] = field(default_factory=set)
    orders: int = 0
    file_minor: int = 0
    network_minor: int = 0
    commission_minor: int = 0

    @property
    def difference_minor(self) -> int:
        """What the network has more (or less) than the file."""
        return self.network_minor - self.file_minor


@dataclass(frozen=True, slots=True)
class Difference:
    """An order on which file and network do not say the same."""

    order_id: str
    country: str
    file_minor: int
    network_minor: int
    why: str


@dataclass(slots=True)
class Reconciliation:
    """All countries, and every difference with its reason."""

    lines: list[CountryLine]
    differences: list[Difference]

    @property
    def is_explained(self) -> bool:
        """Whether the differences named add up to the differences found."""
        named: dict[str, int] = defaultdict(int)
        for difference in self.differences:
            named[difference.country] += difference.network_minor - difference.file_minor
        return all(named[line.country] == line.difference_minor for line in self.lines)


def compare(
    book: Book, recorded: Iterable[Mapping[str, Any]], refused: Mapping[str, str]
) -> Reconciliation:
    """The reconciliation of sales less refunds; `refused` says why something was not taken."""
    expected = {order.order_id: order.amount_minor for order in book.orders}
    country_of = {order.order_id: order.country or "" for order in book.orders}
    refund_names: dict[str, list[str]] = defaultdict(list)
    for refund in book.refunds:
        expected[refund.order_id] -= refund.amount_minor
        refund_names[refund.order_id].append(refund.refund_id)
    lines = _lines(book, expected)
    found: dict[str, int] = {}
    for row in recorded:
        order_id = row["order_id"]
        if order_id not in expected:
            continue
        found[order_id] = row["amount"]["minor"] - row["refunded"]["minor"]
        line = lines[country_of[order_id]]
        line.network_minor += found[order_id]
        line.commission_minor += row["commission"]["minor"] if row["commission"] else 0
    differences = [
        Difference(
            order_id=order_id,
            country=country_of[order_id],
            file_minor=amount_minor,
            network_minor=found.get(order_id, 0),
            why=_why([order_id, *refund_names[order_id]], refused)
            or ("amounts differ" if order_id in found else "missing in the network"),
        )
        for order_id, amount_minor in expected.items()
        if found.get(order_id, 0) != amount_minor or order_id not in found
    ]
    return Reconciliation(sorted(lines.values(), key=lambda line: -line.file_minor), differences)


def _lines(book: Book, expected: Mapping[str, int]) -> dict[str, CountryLine]:
    lines: dict[str, CountryLine] = {}
    for order in book.orders:
        code = order.country or ""
        line = lines.setdefault(code, CountryLine(country=code))
        line.file_names.add(order.country_name)
        line.orders += 1
        line.file_minor += expected[order.order_id]
    return lines


def _why(names: list[str], refused: Mapping[str, str]) -> str:
    return "; ".join(refused[name] for name in names if name in refused)


def mapping_table() -> list[tuple[str, str]]:
    """How the file's country names were read, for everyone to see."""
    return [(name, code or "(no country)") for name, code in sorted(COUNTRIES.items())]
