"""Orders as advertisers report them: from JSON or form fields to one checked content and its hash.

Amounts are decimal strings in major units, or `{"minor", "currency"}`. An item's amount is the
total of its line. An empty field is an absent one, because trackers send the parameters they have
nothing for.

`amount` is what commission is paid on. `discount`, `tax` and `shipping` inform: they are not part
of it, are stored and shown, and change no commission.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

from kernel.clock import to_rfc3339
from kernel.errors import invalid
from kernel.money import MAX_MINOR, MoneyError, parse_amount
from tracker.events import Item, Order
from tracker.fields import Fields
from tracker.order_fields import MORE_FIELDS, MORE_MONEY, More, read_more, read_status

DEFAULT_EVENT: Final = "sale"
FIELDS: Final = (
    "order_id",
    "click_id",
    "event",
    "amount",
    "currency",
    "country",
    "customer",
    "coupon",
    "status",
    "occurred_at",
    "items",
    *MORE_FIELDS,
)
_ITEM_FIELDS: Final = ("sku", "category", "qty", "amount")
_ORDER_ID_CHARS_MAX: Final = 128
_CLICK_ID_CHARS_MAX: Final = 255
_WORD_CHARS_MAX: Final = 128
_QUANTITY_MAX: Final = 10**9
EVENT: Final = re.compile(r"[a-z_]{1,32}", re.ASCII)
CUSTOM_NAME: Final = re.compile(r"custom\[([^\[\]]{0,256})\]")
# Names under which other networks' shop modules send the same thing; read where ours is absent.
# `payout` is not among them: it is the commission in some dialects and the sale in others.
ALIASES: Final[Mapping[str, str]] = {
    "transaction_id": "click_id",
    "clickid": "click_id",
    "cid": "click_id",
    "irclickid": "click_id",
    "cjevent": "click_id",
    "awc": "click_id",
    "orderid": "order_id",
    "oid": "order_id",
    "order": "order_id",
    "order_ref": "order_id",
    "txid": "order_id",
    "tid": "order_id",
    "sum": "amount",
    "total": "amount",
    "cur": "currency",
    "voucher": "coupon",
    "promo_code": "coupon",
    "coupon_code": "coupon",
}
_WHOLE_NUMBER: Final = re.compile(r"[0-9]{1,10}", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a report is checked against. `days_back_max` None: any time in the past.

    `status_words` are the advertiser's own words, in lower case, each with the status it means.
    """

    currency: str
    days_back_max: int | None
    items_max: int
    now: datetime
    status_words: Mapping[str, str] = field(default_factory=dict)
    click_ids_max: int = 50
    custom_fields_max: int = 20
    custom_chars_max: int = 256


def parse_order(values: Mapping[str, Any], terms: Terms) -> Order:
    """The order in these values, or one InvalidInput naming every wrong field.

    Names that are no field of an order are ignored here; `refuse_unknown` is for objects that
    must not carry any.
    """
    fields = Fields(values)
    order_id = fields.required_text("order_id", chars_max=_ORDER_ID_CHARS_MAX)
    event = fields.text("event", chars_max=32, pattern=EVENT) or DEFAULT_EVENT
    items = _items(fields, terms)
    amount_minor = _amount(fields, items, terms)
    click_id = fields.text("click_id", chars_max=_CLICK_ID_CHARS_MAX)
    more = read_more(
        fields,
        More(
            click_id=click_id,
            now=terms.now,
            click_ids_max=terms.click_ids_max,
            custom_fields_max=terms.custom_fields_max,
            custom_chars_max=terms.custom_chars_max,
        ),
    )
    money = {f"{name}_minor": read_amount(fields, name, terms.currency) for name in MORE_MONEY}
    order = Order(
        order_id=order_id,
        event=event,
        currency=terms.currency,
        amount_minor=amount_minor,
        click_id=click_id,
        country=fields.country("country"),
        customer=fields.choice("customer", ("new", "returning")),
        coupon=fields.text("coupon", chars_max=_WORD_CHARS_MAX),
        status=read_status(fields, terms.status_words),
        occurred_at=fields.time("occurred_at", now=terms.now, days_back_max=terms.days_back_max),
        items=items,
        **more,
        **money,
    )
    fields.finish()
    return order


def refuse_unknown(values: Mapping[str, Any], *more: str) -> None:
    """InvalidInput naming every field that is neither an order's nor one of `more`."""
    fields = Fields(values)
    fields.only(*FIELDS, *more)
    fields.finish()


def read_amount(fields: Fields, name: str, currency: str) -> int | None:
    """Minor units of a money field, or None when it is absent or wrong (then remembered)."""
    found = fields.value(name)
    if found is None:
        return None
    if isinstance(found, Mapping):
        return _minor_of_object(fields, name, found, currency)
    if not isinstance(found, str):
        fields.problem(name, "type", 'must be a decimal text or {"minor", "currency"}')
        return None
    try:
        return parse_amount(found, currency)
    except MoneyError as error:
        fields.problem(name, "amount", error.reason)
        return None


def check_currency(fields: Fields, currency: str, *, needed: bool) -> None:
    """Remember when `currency` is not the program's, or is missing although it is needed."""
    found = fields.value("currency")
    if found is None and needed:
        fields.problem("currency", "missing", "is required with an amount")
    elif found is not None and found != currency:
        fields.problem("currency", "program_currency", f"must be {currency}, the program's own")


def _minor_of_object(
    fields: Fields, name: str, found: Mapping[str, Any], currency: str
) -> int | None:
    minor = found.get("minor")
    if set(found) != {"minor", "currency"}:
        fields.problem(name, "type", 'must have exactly "minor" and "currency"')
    elif type(minor) is not int or not 0 <= minor <= MAX_MINOR:
        fields.problem(name, "amount", f"minor must be a whole number from 0 to {MAX_MINOR}")
    elif found["currency"] != currency:
        fields.problem("currency", "program_currency", f"must be {currency}, the program's own")
    else:
        return minor
    return None


def _amount(fields: Fields, items: Sequence[Item], terms: Terms) -> int:
    amount = fields.value("amount")
    said_in_amount = isinstance(amount, Mapping) or (
        amount is None and _carry_currency(fields.value("items"))
    )
    needed = (amount is not None or bool(items)) and not said_in_amount
    needed = needed or any(isinstance(fields.value(name), str) for name in MORE_MONEY)
    check_currency(fields, terms.currency, needed=needed)
    total = sum(item.amount_minor for item in items)
    if amount is None:
        if total > MAX_MINOR:
            fields.problem("items", "amount", "add up to more than an order may have")
        return total
    amount_minor = read_amount(fields, "amount", terms.currency)
    if amount_minor is None:
        return 0
    if items and not fields.problems and total != amount_minor:
        fields.problem("amount", "items_sum", "must be the sum of the items' amounts")
    return amount_minor


def _carry_currency(items: Any) -> bool:
    return isinstance(items, list) and all(
        isinstance(item, Mapping) and isinstance(item.get("amount"), Mapping) for item in items
    )


def _items(fields: Fields, terms: Terms) -> tuple[Item, ...]:
    found = fields.value("items")
    if found is None:
        return ()
    if not isinstance(found, list):
        fields.problem("items", "type", "must be a list")
        return ()
    if len(found) > terms.items_max:
        fields.problem("items", "count", f"must be at most {terms.items_max}")
        return ()
    return tuple(_item(fields, at, value, terms) for at, value in enumerate(found))


def _item(fields: Fields, at: int, value: Any, terms: Terms) -> Item:
    path = f"items[{at}]"
    if not isinstance(value, Mapping):
        fields.problem(path, "type", "must be an object")
        return Item("", "", 1, 0)
    item = Fields(value, path=f"{path}.")
    item.only(*_ITEM_FIELDS)
    amount_minor = read_amount(item, "amount", terms.currency)
    if item.value("amount") is None:
        item.problem("amount", "missing", "is required")
    read = Item(
        sku=item.text("sku", chars_max=_WORD_CHARS_MAX) or "",
        category=item.text("category", chars_max=_WORD_CHARS_MAX) or "",
        quantity=_quantity(item),
        amount_minor=amount_minor or 0,
    )
    fields.problems += item.problems
    return read


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


def from_pairs(pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
    """The values of a postback's parameters; what is no parameter of ours is left out.

    Other systems append parameters of their own, so an unknown one cannot be refused, and neither
    can a misspelt one be noticed. Other networks' names are read where ours are absent
    (`ALIASES`). One parameter that is given twice with different values is InvalidInput.
    """
    values: dict[str, Any] = {}
    columns: dict[str, list[str]] = {}
    custom: dict[str, str] = {}
    aliased: dict[str, dict[str, str]] = {}
    for name, value in pairs:
        named = CUSTOM_NAME.fullmatch(name)
        if name.startswith("item_") and name.endswith("[]"):
            columns.setdefault(name.removeprefix("item_").removesuffix("[]"), []).append(value)
        elif named is not None:
            _set_once(custom, named[1], value, shown=name)
        elif name in FIELDS and name not in {"items", "custom"}:
            _set_once(values, name, value, shown=name)
        elif name in ALIASES and value:
            _set_once(aliased.setdefault(ALIASES[name], {}), name, value, shown=name)
    known = {name: column for name, column in columns.items() if name in _ITEM_FIELDS}
    if known:
        values["items"] = _rows(known)
    if custom:
        values["custom"] = custom
    return _with_aliases(values, aliased)


def _set_once(values: dict[str, Any], name: str, value: str, *, shown: str) -> None:
    if values.get(name, value) != value:
        raise invalid(shown, "repeated", "is given twice with different values")
    values[name] = value


def _with_aliases(
    values: dict[str, Any], aliased: Mapping[str, Mapping[str, str]]
) -> dict[str, Any]:
    for name, said in aliased.items():
        if values.get(name):
            continue
        if len(set(said.values())) > 1:
            names = " and ".join(sorted(said))
            raise invalid(name, "repeated", f"is given as {names} with different values")
        values[name] = next(iter(said.values()))
    return values


def _rows(columns: Mapping[str, list[str]]) -> list[dict[str, str]]:
    lengths = {len(column) for column in columns.values()}
    if len(lengths) > 1:
        shortest = min(columns, key=lambda name: len(columns[name]))
        raise invalid(f"item_{shortest}[]", "length", "must have a value for every item")
    return [{name: column[at] for name, column in columns.items()} for at in range(lengths.pop())]


def content_hash(program_id: str, order: Order) -> str:
    """SHA-256 over everything that makes two reports of an order the same report."""
    content = {"program_id": program_id, "order_id": order.order_id, "event": order.event}
    canonical = json.dumps(
        {**content, **_content(order)}, sort_keys=True, separators=(",", ":"), ensure_ascii=True
    )
    return hashlib.sha256(canonical.encode()).hexdigest()


def is_bare(order: Order) -> bool:
    """Whether a report says no more than which order it is about, its click and its status."""
    content = _content(order)
    said = {
        name
        for name, value in content.items()
        if value not in (None, [], "") and name not in {"currency", "click_id", "status"}
    }
    return said <= {"amount"} and order.amount_minor == 0


def differences(recorded: Order, reported: Order) -> list[str]:
    """The names of the fields in which two reports of one order contradict each other."""
    before, after = _content(recorded), _content(reported)
    return [name for name in before | after if before.get(name) != after.get(name)]


def _content(order: Order) -> dict[str, Any]:
    return {
        "amount": order.amount_minor,
        "currency": order.currency,
        "click_id": order.click_id,
        "country": order.country,
        "customer": order.customer,
        "coupon": order.coupon,
        "status": order.status,
        "occurred_at": to_rfc3339(order.occurred_at) if order.occurred_at else None,
        "items": [
            [item.sku, item.category, item.quantity, item.amount_minor] for item in order.items
        ],
        **_said_more(order),
    }


def _said_more(order: Order) -> dict[str, Any]:
    """The fields that came later, where the report has them: a hash must never change its mind."""
    more = {
        "click_ids": list(order.click_ids),
        "customer_id": order.customer_id,
        "email_hash": order.email_hash,
        "parent_order_id": order.parent_order_id,
        "publisher": order.publisher,
        "channel": order.paid_channel,
        "cart_at": to_rfc3339(order.cart_at) if order.cart_at else None,
        "test": order.is_test,
        "discount": order.discount_minor,
        "tax": order.tax_minor,
        "shipping": order.shipping_minor,
        "custom": order.custom,
    }
    # A discount of nothing is something said; an empty list or a False is what is not there.
    return {name: value for name, value in more.items() if value or value.__class__ is int}
