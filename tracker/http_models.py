"""The JSON of the tracker's API, as its OpenAPI document shows it.

Orders are read by `tracker.orders`, which serves the postback too and can refuse one row of a
batch without the others; their models here describe them.
"""

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    RootModel,
    StrictInt,
    TypeAdapter,
    WithJsonSchema,
)
from pydantic_core import core_schema

from tracker.changes import ChangeReason


class Body(BaseModel):
    """What comes in: an unknown field is refused, never ignored."""

    model_config = ConfigDict(extra="forbid")


class MoneyBody(Body):
    """An amount in minor units."""

    minor: StrictInt
    currency: str


# Read by `tracker.orders`, which names the field; a union here would name its branches.
Amount = Annotated[
    Any,
    WithJsonSchema(
        {
            "anyOf": [{"type": "string"}, MoneyBody.model_json_schema()],
            "description": "Decimal text in major units, or minor units with their currency.",
        }
    ),
]


class ItemBody(Body):
    """A line of an order; `amount` is the line's total, or `gross` the total with its tax."""

    sku: str = ""
    category: str = ""
    qty: int = 1
    amount: Amount | None = None
    gross: Amount | None = Field(None, description="Instead of `amount`, with `vat_percent`.")
    vat_percent: str | None = Field(None, description="The tax in `gross`, such as `19` or `7.7`.")
    revenue: Amount | None = Field(
        None, description="What the shop itself earns by it, for rules with the base `revenue`."
    )


class OrderFields(Body):
    """What an advertiser reports of an order."""

    program: str | None = Field(
        None, description="Code or id; needed by managers and by advertisers with several."
    )
    click_id: str | None = None
    event: str = "sale"
    amount: Amount | None = None
    gross: Amount | None = Field(
        None, description="Instead of `amount`: with tax, for an order without items."
    )
    vat_percent: str | None = Field(None, description="The tax in `gross`.")
    revenue: Amount | None = Field(None, description="What the shop itself earns by the order.")
    currency: str | None = None
    country: str | None = Field(None, description="Where it is delivered to.")
    country_billing: str | None = None
    country_site: str | None = Field(None, description="Whose storefront the order came in by.")
    site: str | None = Field(None, description="The storefront or marketplace, by the shop's name.")
    customer: Literal["new", "returning", "reactivated"] | None = None
    coupon: str | None = None
    status: str | None = Field(
        None,
        description="`pending`, `approved`, `declined`, `cancelled`, `refunded`, or a word of "
        "the program's own that means one of them.",
    )
    occurred_at: str | None = Field(None, description="RFC 3339; the time of receipt if absent.")
    items: list[ItemBody] = []
    click_ids: list[str] | str = Field(
        [], description="Earlier clicks of the customer, oldest first; as text, with commas."
    )
    customer_id: str | None = Field(None, description="The shop's own name for the customer.")
    email_hash: str | None = Field(
        None, description="SHA-256 of the trimmed, lower-case address, 64 hexadecimal digits."
    )
    parent_order_id: str | None = Field(None, description="The order that this one renews.")
    publisher: str | None = Field(None, description="Code of a publisher that the shop names.")
    channel: str | None = Field(None, description="The marketing channel paid for this order.")
    cart_at: str | None = Field(None, description="RFC 3339; when the basket was filled.")
    test: bool | str | int = Field(default=False, description="A trial: recorded, never counted.")
    discount: Amount | None = Field(None, description="For information; no part of `amount`.")
    tax: Amount | None = Field(None, description="For information; no part of `amount`.")
    shipping: Amount | None = Field(None, description="For information; no part of `amount`.")
    custom: dict[str, str] = Field({}, description="The shop's own fields.")


class OrderBody(OrderFields):
    """An order as its advertiser reports it."""

    order_id: str


class OrdersBody(Body):
    """Several orders."""

    conversions: list[OrderBody]


class ReportedOrders(RootModel[Any]):
    """One order, a list of orders, or an object with a list of them in `conversions`."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The schema of what `tracker.orders` reads."""
        shapes: TypeAdapter[Any] = TypeAdapter(OrderBody | OrdersBody | list[OrderBody])
        return handler(shapes.core_schema)


class RestatementBody(OrderFields):
    """An order with its full new totals; the address says which."""

    order_id: str | None = Field(None, description="The same as in the address.")
    restatement_id: str | None = Field(
        None, description="Tells two equal restatements apart; without it they are one."
    )


class RestatedOrder(RootModel[Any]):
    """An order as it is now."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The schema of what `tracker.orders` reads."""
        return handler(TypeAdapter(RestatementBody).core_schema)


class OrderReply(BaseModel):
    """An acknowledged order. `duplicate` null: not known yet, the database is away."""

    receipt: str
    conversion_id: str
    duplicate: bool | None


class OrderRow(BaseModel):
    """What became of one order of a batch."""

    index: int
    status: Literal["accepted", "duplicate", "conflict", "invalid"]
    receipt: str | None
    conversion_id: str | None
    duplicate: bool | None
    problem: dict[str, Any] | None


class OrderRows(BaseModel):
    """What became of each order of a batch, in its order."""

    results: list[OrderRow]


class OrdersReply(RootModel[OrderReply | OrderRows]):
    """One acknowledgement, or one for each row."""


class ChangeBody(Body):
    """An approval, a cancellation or a refusal of an order."""

    reason: str | None = None
    reason_code: ChangeReason | None = Field(None, description="Why, in one word.")
    occurred_at: str | None = None
    event: str | None = None
    number: StrictInt | None = Field(
        None, description="Which conversion, where the order has several."
    )
    program: str | None = None


class RefundBody(ChangeBody):
    """A refund of an order, or of one of its lines (numbered from 0)."""

    amount: Amount
    currency: str | None = None
    line: StrictInt | None = None
    qty: StrictInt | None = None
    refund_id: str | None = Field(
        None, description="Tells two equal refunds apart; without it they are one."
    )


class ChangeReply(BaseModel):
    """An acknowledged change of an order."""

    receipt: str
    change_id: str
    duplicate: bool | None


class PastClickBody(Body):
    """A click of the past."""

    program: str
    publisher: str
    clicked_at: str
    ref: str | None = None
    s1: str | None = None
    s2: str | None = None
    s3: str | None = None
    s4: str | None = None
    s5: str | None = None
    landing_url: str | None = None


class PastClicks(Body):
    """Clicks of the past, from the network a program moves in from."""

    clicks: list[dict[str, Any]] = Field(
        json_schema_extra={"items": PastClickBody.model_json_schema()}
    )


class ClickRow(BaseModel):
    """What became of one past click."""

    index: int
    status: Literal["accepted", "invalid"]
    click_id: str | None
    problem: dict[str, Any] | None


class ClicksReply(BaseModel):
    """What became of each past click, in their order."""

    results: list[ClickRow]
