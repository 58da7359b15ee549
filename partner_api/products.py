"""What can be promoted: products of the programs that concern the caller, with tracking links."""

from collections.abc import Sequence
from typing import Annotated

from pydantic import BaseModel, Field

from feeds import catalog
from feeds.catalog import ProductQuery
from feeds.models import Product
from kernel import pages
from kernel.errors import Forbidden, NotFound
from kernel.http import Call, Endpoint
from kernel.money import MAX_MINOR
from network import publishers
from network.access import require
from network.models import Publisher, Role
from partner_api import lookups
from partner_api.schemas import (
    Instant,
    MoneyAmount,
    OneOf,
    PageQuery,
    ProgramRef,
    Text,
    Time,
    after_number,
    cut,
    rows_to_fetch,
    rows_wanted,
)
from tracker import deep_links
from tracker.deep_links import DeepLinkSigner

Availability = Annotated[str, OneOf(catalog.AVAILABILITIES)]
_EVERYONE = (Role.PUBLISHER, Role.ADVERTISER, Role.MANAGER)


class ProductsQuery(PageQuery):
    """Which products: every condition must hold."""

    q: Text | None = Field(None, description="Words that all occur in title, brand or description.")
    program: Text | None = Field(None, description="Code or id of a program.")
    publisher: Text | None = Field(
        None, description="Whose tracking links: code or id; publishers get their own."
    )
    brand: Text | None = Field(None, description="The brand, in capitals or not.")
    category: Text | None = Field(None, description="A category and everything below it.")
    gtin: Text | None = Field(None, description="GTIN-8, -12, -13 or -14.")
    availability: Availability | None = None
    price_min: int | None = Field(
        None, ge=0, le=MAX_MINOR, description="Lowest price, in minor units."
    )
    price_max: int | None = Field(
        None, ge=0, le=MAX_MINOR, description="Highest price, in minor units."
    )
    updated_since: Instant | None = Field(None, description="Changed at or after this instant.")


class ProductView(BaseModel):
    """A product of a program.

    `tracking_link` leads to its page for the publisher that asks or is asked for, else it is null.
    """

    id: str
    program: ProgramRef
    item_id: str
    group_id: str
    title: str
    description: str
    brand: str
    gtin: str
    mpn: str
    condition: str
    category: str
    link: str
    image_link: str
    availability: str
    price: MoneyAmount
    sale_price: MoneyAmount | None
    updated_at: Time
    tracking_link: str | None


class ProductPage(BaseModel):
    """Products in the order of their last change."""

    data: list[ProductView]
    next_cursor: str | None


def list_products(call: Call) -> ProductPage:
    """Products of a publisher's joined programs, an advertiser's own, or any for a manager.

    In the order of their last change: one that changes meanwhile comes again at the end.
    """
    ceiling = catalog.PAGE_ROWS_MAX
    limit = rows_wanted(call, ceiling=ceiling)
    publisher = _linked_publisher(call)
    found = catalog.page(
        call.session,
        program_ids=_program_ids(call, publisher),
        query=_catalog_query(call.query),
        after_seq=after_number(call),
        limit=rows_to_fetch(limit, ceiling),
    )
    shown, last = cut(found, limit, ceiling=ceiling)
    return ProductPage(
        data=_views(call, shown, publisher),
        next_cursor=pages.encode(last.seq) if last else None,
    )


def _linked_publisher(call: Call) -> Publisher | None:
    named = call.query.publisher
    if named is not None:
        return lookups.visible_publisher(call.session, call.actor, named)
    if call.actor.role is Role.PUBLISHER:
        return publishers.get(call.session, call.actor.party_id)
    return None


def _program_ids(call: Call, publisher: Publisher | None) -> list[str]:
    session, actor = call.session, call.actor
    allowed = set(lookups.own_program_ids(session, actor))
    if publisher is not None:
        # A link to a program that the publisher has not joined would earn nothing.
        allowed &= set(lookups.joined_program_ids(session, publisher.id))
    if call.query.program is not None:
        allowed &= {lookups.visible_program(session, actor, call.query.program).id}
    return sorted(allowed)


def _catalog_query(query: ProductsQuery) -> ProductQuery:
    return ProductQuery(
        q=query.q or "",
        brand=query.brand or "",
        gtin=query.gtin or "",
        category=query.category or "",
        availability=query.availability or "",
        price_min_minor=query.price_min,
        price_max_minor=query.price_max,
        updated_since=query.updated_since,
    )


def _views(
    call: Call, products: Sequence[Product], publisher: Publisher | None
) -> list[ProductView]:
    programs = lookups.program_refs(call.session, (product.program_id for product in products))
    signing = lookups.signing_program_ids(call.session, programs)
    signer = DeepLinkSigner(call.context.keys)
    return [
        _view(
            product,
            programs[product.program_id],
            publisher=publisher,
            public_url=call.context.settings.public_url,
            signer=signer if product.program_id in signing else None,
        )
        for product in products
    ]


def _view(
    product: Product,
    program: ProgramRef,
    *,
    publisher: Publisher | None,
    public_url: str,
    signer: DeepLinkSigner | None,
) -> ProductView:
    link = None
    if publisher is not None:
        link = deep_links.build(
            public_url,
            program=program.code,
            publisher=publisher.code,
            page=product.link,
            signer=signer,
        )
    return ProductView(
        id=product.id,
        program=program,
        item_id=product.item_id,
        group_id=product.group_id,
        title=product.title,
        description=product.description,
        brand=product.brand,
        gtin=product.gtin14,
        mpn=product.mpn,
        condition=product.condition,
        category=product.category,
        link=product.link,
        image_link=product.image_link,
        availability=product.availability,
        price=MoneyAmount(minor=product.price_minor, currency=product.currency),
        sale_price=MoneyAmount(minor=product.sale_price_minor, currency=product.currency)
        if product.sale_price_minor is not None
        else None,
        updated_at=product.updated_at,
        tracking_link=link,
    )


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/products",
        handler=list_products,
        summary="List products",
        tag="Products",
        guard=require(*_EVERYONE),
        roles=_EVERYONE,
        query=ProductsQuery,
        reply=ProductPage,
        errors=(Forbidden, NotFound),
    ),
)
