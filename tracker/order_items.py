"""The lines of an order, and the one amount that they are.

An item's `amount` is the total of its line. With `gross` and `vat_percent` instead, it is a total
that includes that tax: it is kept as it was reported, and what commission is paid on is derived
from it, once. The amount of an order is the sum of what its lines were reported with.
"""

import re
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Any, Final

from kernel.money import MAX_MINOR, round_fraction
from tracker.events import Item
from tracker.fields import Fields
from tracker.order_amounts import read_amount

LINE_FIELDS: Final = ("gross", "vat_percent", "revenue")
LINE_MONEY: Final = ("gross", "revenue")
ITEM_FIELDS: Final = ("sku", "category", "qty", "amount", *LINE_FIELDS)
_WORD_CHARS_MAX: Final = 128
_QUANTITY_MAX: Final = 10**9
_VAT_PERCENT_MAX: Final = 100
_WHOLE_NUMBER: Final = re.compile(r"[0-9]{1,10}", re.ASCII)
_PERCENT: Final = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,6})?", re.ASCII)


def net_minor(item: Item) -> int | None:
    """What is left of a line's amount without its tax, in whole minor units; None without one.

    An invoice shows its net in minor units, so it is rounded (half up) before any rate.
    """
    if item.vat_percent is None:
        return None
    return round_fraction(Fraction(item.amount_minor * 100) / (100 + Fraction(item.vat_percent)))


def read_items(fields: Fields, currency: str, *, items_max: int) -> tuple[Item, ...]:
    """The lines of an order; what is wrong with them is remembered in `fields`.

    An order without `items` may say of itself what a line may say, and then has that one line.
    """
    found = fields.value("items")
    said = [name for name in LINE_FIELDS if fields.value(name) is not None]
    if found is None:
        return (_only_line(fields, currency),) if said else ()
    if not isinstance(found, list):
        fields.problem("items", "type", "must be a list")
        return ()
    if len(found) > items_max:
        fields.problem("items", "count", f"must be at most {items_max}")
        return ()
    for name in said:
        fields.problem(name, "with_items", "belongs to an item, when an order has items")
    return tuple(_item(fields, at, value, currency) for at, value in enumerate(found))


def _only_line(fields: Fields, currency: str) -> Item:
    amount_minor, vat_percent, revenue_minor = _line_amounts(fields, currency)
    return Item("", "", 1, amount_minor, vat_percent, revenue_minor)


def _item(fields: Fields, at: int, value: Any, currency: str) -> Item:
    path = f"items[{at}]"
    if not isinstance(value, Mapping):
        fields.problem(path, "type", "must be an object")
        return Item("", "", 1, 0)
    item = Fields(value, path=f"{path}.")
    item.only(*ITEM_FIELDS)
    amount_minor, vat_percent, revenue_minor = _line_amounts(item, currency)
    read = Item(
        sku=item.text("sku", chars_max=_WORD_CHARS_MAX) or "",
        category=item.text("category", chars_max=_WORD_CHARS_MAX) or "",
        quantity=_quantity(item),
        amount_minor=amount_minor,
        vat_percent=vat_percent,
        revenue_minor=revenue_minor,
    )
    fields.problems += item.problems
    return read


def _line_amounts(line: Fields, currency: str) -> tuple[int, str | None, int | None]:
    """(amount as reported, the tax in it, revenue) of an item or of an order that is one line."""
    is_gross = line.value("gross") is not None
    name = "gross" if is_gross else "amount"
    amount_minor = read_amount(line, name, currency)
    if line.value(name) is None:
        line.problem("amount", "missing", "is required")
    if is_gross and line.path and line.value("amount") is not None:
        line.problem("gross", "with_amount", "and amount exclude one another")
    vat_percent = _vat_percent(line, is_gross=is_gross)
    revenue_minor = read_amount(line, "revenue", currency)
    if revenue_minor is not None and amount_minor == 0:
        line.problem("revenue", "without_amount", "needs an amount that is more than zero")
    return amount_minor or 0, vat_percent, revenue_minor


def _vat_percent(line: Fields, *, is_gross: bool) -> str | None:
    found = line.value("vat_percent")
    if type(found) is int:
        found = str(found)
    if found is None:
        if is_gross:
            line.problem("vat_percent", "missing", "is required with gross")
        return None
    if not is_gross:
        line.problem("vat_percent", "without_gross", "is only allowed with gross")
        return None
    if (
        not isinstance(found, str)
        or _PERCENT.fullmatch(found) is None
        or Fraction(found) > _VAT_PERCENT_MAX
    ):
        line.problem(
            "vat_percent",
            "percent",
            f"must be a decimal text from 0 to {_VAT_PERCENT_MAX}, with at most 6 decimals",
        )
        return None
    # One spelling of one number, so that it is the same report again.
    whole, _, decimals = found.partition(".")
    decimals = decimals.rstrip("0")
    return f"{int(whole)}.{decimals}" if decimals else str(int(whole))


def _quantity(item: Fields) -> int:
    found = item.value("qty")
    if found is None:
        return 1
    if isinstance(found, str) and _WHOLE_NUMBER.fullmatch(found):
        found = int(found)
    if type(found) is not int or not 1 <= found <= _QUANTITY_MAX:
        item.problem("qty", "range", f"must be a whole number from 1 to {_QUANTITY_MAX}")
        return 1
    return found


def total_of(fields: Fields, items: Sequence[Item], currency: str) -> int:
    """The amount of an order: what it says, which must be its lines, or what they add up to."""
    total = sum(item.amount_minor for item in items)
    amount = fields.value("amount")
    if amount is None:
        if total > MAX_MINOR:
            fields.problem("items", "amount", "add up to more than an order may have")
        return total
    amount_minor = read_amount(fields, "amount", currency)
    if amount_minor is None:
        return 0
    if items and not fields.problems and total != amount_minor:
        fields.problem(
            "amount", "items_sum", "must be the sum of the items' amounts, with tax where theirs is"
        )
    return amount_minor


def currencies_said(fields: Fields) -> list[Any]:
    """Everything about an order that may name its currency, first `currency` itself."""
    items = fields.value("items")
    first = items[0] if isinstance(items, list) and items else None
    carried = (
        [first.get(name) for name in ("amount", "gross")] if isinstance(first, Mapping) else []
    )
    named = [fields.value("currency"), fields.value("amount"), fields.value("gross"), *carried]
    return [one for one in named if one is not None]


def needs_currency(fields: Fields, items: Sequence[Item], money: Sequence[str]) -> bool:
    """Whether an amount is said without its currency; `money` are other fields with amounts."""
    said = [fields.value(name) for name in ("amount", "gross")]
    amount = next((one for one in said if one is not None), None)
    in_amount = isinstance(amount, Mapping) or (
        amount is None and _carry_currency(fields.value("items"))
    )
    needed = (amount is not None or bool(items)) and not in_amount
    return needed or any(isinstance(fields.value(name), str) for name in money)


def _carry_currency(items: Any) -> bool:
    return isinstance(items, list) and all(
        isinstance(item, Mapping)
        and any(isinstance(item.get(name), Mapping) for name in ("amount", "gross"))
        for item in items
    )
