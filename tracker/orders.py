"""Orders as advertisers report them: from JSON or form fields to one checked content and its hash.

An empty field is an absent one, because trackers send the parameters they have
nothing for.

`amount` is what commission is paid on, without the tax that lines say is in it. `discount`, `tax`
and `shipping` inform: they are not part of it, are stored and shown, and change no commission.
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
from tracker.events import Item, Order
from tracker.fields import CUSTOMERS, Fields
from tracker.order_amounts import check_currency, currency_meant, read_amount
from tracker.order_fields import MORE_FIELDS, MORE_MONEY, More, read_more, read_status
from tracker.order_items import (
    ITEM_FIELDS,
    LINE_FIELDS,
    currencies_said,
    needs_currency,
    read_items,
    total_of,
)

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
    *LINE_FIELDS,
    *MORE_FIELDS,
)
_ORDER_ID_CHARS_MAX: Final = 128
_CLICK_ID_CHARS_MAX: Final = 255
_WORD_CHARS_MAX: Final = 128
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What a report is checked against. `days_back_max` None: any time in the past.

    `other_currencies` are taken in beside the program's own.
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
    other_currencies: Sequence[str] = ()


def parse_order(values: Mapping[str, Any], terms: Terms) -> Order:
    """The order in these values, or one InvalidInput naming every wrong field.

    Names that are no field of an order are ignored here; `refuse_unknown` is for objects that
    must not carry any.
    """
    fields = Fields(values)
    order_id = fields.required_text("order_id", chars_max=_ORDER_ID_CHARS_MAX)
    event = fields.text("event", chars_max=32, pattern=EVENT) or DEFAULT_EVENT
    currency = currency_meant(currencies_said(fields), terms.currency, terms.other_currencies)
    items = read_items(fields, currency, items_max=terms.items_max)
    check_currency(
        fields,
        currency,
        needed=needs_currency(fields, items, MORE_MONEY),
        own=terms.currency,
        others=terms.other_currencies,
    )
    amount_minor = total_of(fields, items, currency)
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
    money = {f"{name}_minor": read_amount(fields, name, currency) for name in MORE_MONEY}
    order = Order(
        order_id=order_id,
        event=event,
        currency=currency,
        amount_minor=amount_minor,
        click_id=click_id,
        country=fields.country("country"),
        customer=fields.choice("customer", CUSTOMERS),
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
    known = {name: column for name, column in columns.items() if name in ITEM_FIELDS}
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
        "items": [_line(item) for item in order.items],
        **_said_more(order),
    }


def _line(item: Item) -> list[Any]:
    said = [item.sku, item.category, item.quantity, item.amount_minor]
    more = {"vat_percent": item.vat_percent, "revenue": item.revenue_minor}
    found = {name: value for name, value in more.items() if value is not None}
    return [*said, found] if found else said


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
        "site": order.site,
        "country_billing": order.country_billing,
        "country_site": order.country_site,
    }
    # A discount of nothing is something said; an empty list or a False is what is not there.
    return {name: value for name, value in more.items() if value or value.__class__ is int}
