"""The records of the journal: what was seen, as it was seen, small enough to sync at every click.

Encoded as MessagePack arrays that begin with a letter for their kind. A field is only ever added
at the end, with a default, so that a journal written before an upgrade ships after it.
"""

from datetime import datetime
from typing import Final

import msgspec

CHANNEL_POSTBACK: Final = "postback"
CHANNEL_PIXEL: Final = "pixel"
CHANNEL_API: Final = "api"
CHANNEL_UPLOAD: Final = "upload"
CHANNEL_IMPORT: Final = "import"
CHANNEL_TAG: Final = "tag"
MODE_REFUSE: Final = "refuse"


class ClickSeen(msgspec.Struct, frozen=True, array_like=True, tag="c"):
    """A visitor at a link. Headers are as received but bounded, the address is whole.

    `reason` is empty for a click that may earn; `note` says what else was out of the ordinary.
    `link` is the code of the short link that was followed.
    """

    id: str
    at: datetime
    program_number: int
    publisher_number: int
    page: str
    query: str = ""
    reason: str = ""
    note: str = ""
    imported: bool = False
    address: str = ""
    user_agent: str = ""
    referrer: str = ""
    accept_language: str = ""
    sec_fetch_dest: str | None = None
    sec_fetch_mode: str | None = None
    sec_fetch_user: str | None = None
    sec_purpose: str | None = None
    link: str = ""


class Item(msgspec.Struct, frozen=True, array_like=True):
    """One line of an order; `amount_minor` is the line's total.

    With a `vat_percent` (a decimal text) it includes that tax. `revenue_minor` is what the
    advertiser itself earns by the line.
    """

    sku: str
    category: str
    quantity: int
    amount_minor: int
    vat_percent: str | None = None
    revenue_minor: int | None = None


class Order(msgspec.Struct, frozen=True, array_like=True):
    """The content of a report: what makes two reports of an order equal or a conflict.

    `occurred_at` is None when the report did not say; the time of its receipt is used then.
    """

    order_id: str
    event: str
    currency: str
    amount_minor: int
    click_id: str | None = None
    country: str | None = None
    customer: str | None = None
    coupon: str | None = None
    status: str = ""
    occurred_at: datetime | None = None
    items: tuple[Item, ...] = ()
    # Earlier clicks of the customer that the merchant knows, oldest first, without `click_id`.
    click_ids: tuple[str, ...] = ()
    customer_id: str | None = None
    email_hash: str | None = None
    parent_order_id: str | None = None
    publisher: str | None = None
    paid_channel: str | None = None
    cart_at: datetime | None = None
    is_test: bool = False
    discount_minor: int | None = None
    tax_minor: int | None = None
    shipping_minor: int | None = None
    custom: dict[str, str] = msgspec.field(default_factory=dict)
    site: str | None = None
    country_billing: str | None = None
    country_site: str | None = None


class OrderReported(msgspec.Struct, frozen=True, array_like=True, tag="o"):
    """An order that was acknowledged.

    `mode` says what becomes of it when the order is known with other content; it travels with the
    report, so that every node and the shipper come to the same end.
    """

    conversion_id: str
    program_id: str
    content_hash: str
    received_at: datetime
    channel: str
    imported: bool
    order: Order
    mode: str = MODE_REFUSE
    source: str = ""

    @property
    def key(self) -> "OrderKey":
        """What reports of one order have in common."""
        return (self.program_id, self.order.order_id, self.order.event)


class ChangeReported(msgspec.Struct, frozen=True, array_like=True, tag="g"):
    """A refund, cancellation, approval or refusal that was acknowledged."""

    id: str
    key: str
    conversion_id: str
    program_id: str
    order_id: str
    kind: str
    content_hash: str
    occurred_at: datetime
    received_at: datetime
    amount_minor: int = 0
    line: int | None = None
    quantity: int = 0
    reason: str = ""
    # The event and number of the order's conversion; empty when `conversion_id` is meant as it is.
    event: str = ""
    number: int | None = None
    reason_code: str = ""
    # Of the amount of a refund; empty in records from before orders could differ in it.
    currency: str = ""


class ArrivalsSeen(msgspec.Struct, frozen=True, array_like=True, tag="r"):
    """Reports of an order that was known: counted, because they change nothing."""

    conversion_id: str
    channel: str
    result: str
    content_hash: str
    at: datetime
    last_at: datetime
    count: int = 1
    source: str = ""


class ImpressionSeen(msgspec.Struct, frozen=True, array_like=True, tag="i"):
    """A publisher's page showed a program. It is counted, and no row is kept of it.

    `network` is the visitor's address cut to its network; it and the agent are empty without
    consent.
    """

    at: datetime
    program_number: int
    publisher_number: int
    sub_ids: dict[str, str] = msgspec.field(default_factory=dict)
    reason: str = ""
    network: str = ""
    user_agent: str = ""


OrderKey = tuple[str, str, str]
"""Program id, order id, event."""

Event = ClickSeen | OrderReported | ChangeReported | ArrivalsSeen | ImpressionSeen

_encoder = msgspec.msgpack.Encoder()
_decoder: msgspec.msgpack.Decoder[Event] = msgspec.msgpack.Decoder(Event)


class UnreadableRecord(Exception):
    """The bytes are no event that this version knows."""


def encode(event: Event) -> bytes:
    """The record of an event."""
    return _encoder.encode(event)


def decode(payload: bytes) -> Event:
    """The event in a record; UnreadableRecord for anything else."""
    try:
        return _decoder.decode(payload)
    except (msgspec.DecodeError, ValueError, OverflowError) as error:
        raise UnreadableRecord(str(error)) from error
