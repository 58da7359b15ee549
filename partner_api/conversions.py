"""Conversions as their parties see them, and the orders that could not be recorded."""

from collections.abc import Sequence
from fractions import Fraction
from typing import Annotated

from pydantic import BaseModel, Field
from sqlmodel import Session

from commissions import statements
from commissions.models import Commission, CommissionStatus
from commissions.statements import Filters, StatementLine
from kernel import pages
from kernel.errors import Forbidden, NotFound
from kernel.http import Call, Endpoint
from network.access import Actor, require
from network.models import Role
from partner_api import lookups
from partner_api.schemas import (
    Instant,
    MoneyAmount,
    OneOf,
    PageQuery,
    ProgramRef,
    PublisherRef,
    Text,
    Time,
    after_number,
    cut,
    path_id,
    rows_to_fetch,
    rows_wanted,
)

_EVERYONE = (Role.PUBLISHER, Role.ADVERTISER, Role.MANAGER)
Status = Annotated[str, OneOf((*CommissionStatus, statements.UNATTRIBUTED, statements.RECORDED))]


class ConversionQuery(PageQuery):
    """Which conversions: every condition must hold."""

    program: Text | None = Field(None, description="Code or id of a program.")
    publisher: Text | None = Field(None, description="Code or id of a publisher.")
    order_id: Text | None = Field(None, description="The advertiser's order number, exactly.")
    status: Status | None = Field(None, description="Where its commission stands.")
    event: Text | None = Field(None, description="`sale`, `lead` ...")
    occurred_from: Instant | None = Field(None, description="Not before this instant.")
    occurred_to: Instant | None = Field(None, description="Before this instant.")


class AttributionView(BaseModel):
    """What decided who brought the conversion, and why."""

    source: str
    reason: str


class PartView(BaseModel):
    """One publisher's part of a commission that several share."""

    commission_id: str
    publisher: PublisherRef
    share: str = Field(description="An exact fraction of the whole, such as `1/3`.")
    commission: MoneyAmount
    status: str
    reason: str


class ConversionView(BaseModel):
    """A conversion with its attribution and where its commission stands.

    A publisher has its own part in `commission`, and `share` says what part of the whole that is;
    advertisers and managers have the whole, and who gets what of it in `parts`.

    `order_id` is a mask of it for publishers where the program wants that. `sub_ids` are the
    publisher's own and not shown to advertisers.
    """

    id: str
    commission_id: str | None
    program: ProgramRef
    order_id: str
    event: str
    occurred_at: Time
    received_at: Time
    publisher: PublisherRef | None
    click_id: str | None
    sub_ids: dict[str, str]
    country: str | None
    country_billing: str | None
    country_site: str | None
    site: str | None
    device: str | None = Field(description="The kind of device of the click, where it is known.")
    customer: str | None
    coupon: str | None
    amount: MoneyAmount
    refunded: MoneyAmount
    commission: MoneyAmount | None
    uncapped_commission: MoneyAmount | None = Field(
        description="What it was without caps and budget when it was booked last."
    )
    share: str | None = Field(description="Its part of a commission that is shared; else `1`.")
    parts: list[PartView] = Field(description="Who shares the commission; not for publishers.")
    status: str
    reason: str
    lock_at: Time | None
    imported: bool
    test: bool = Field(description="A trial of the connection: never counted, never paid.")
    number: int = Field(description="Which conversion of the order, from 1.")
    relation: str = Field(description="`new`, `add` or `edit` of `related_id`; else empty.")
    related_id: str | None
    channel: str = Field(description="By which way the report came in that was recorded.")
    discount: MoneyAmount | None
    tax: MoneyAmount | None
    shipping: MoneyAmount | None
    parent_order_id: str | None
    custom: dict[str, str] = Field(description="The advertiser's own fields; not for publishers.")
    attribution: AttributionView | None


class ConversionPage(BaseModel):
    """Conversions in the order in which they were recorded."""

    data: list[ConversionView]
    next_cursor: str | None


def list_conversions(call: Call) -> ConversionPage:
    """Conversions that the caller may see, in the order in which they were recorded.

    Publishers see those they are paid for, advertisers those of their programs, managers all.
    Where a program masks order ids, a publisher sees and searches the mask.
    """
    ceiling = statements.LIMIT_MAX
    limit = rows_wanted(call, ceiling=ceiling)
    lines = statements.page(
        call.session,
        call.actor,
        filters=filters_of(call.session, call.actor, call.query),
        after_seq=after_number(call),
        limit=rows_to_fetch(limit, ceiling),
    )
    shown, last = cut(lines, limit, ceiling=ceiling)
    return ConversionPage(
        data=views(call.session, call.actor, shown),
        next_cursor=pages.encode(last.conversion.seq or 0) if last else None,
    )


def read_conversion(call: Call) -> ConversionView:
    """One conversion, by its own id or its commission's."""
    line = statements.get(call.session, call.actor, path_id(call, "id"))
    [view] = views(call.session, call.actor, [line])
    return view


def filters_of(session: Session, actor: Actor, query: ConversionQuery) -> Filters:
    """The filters a query asks for; NotFound for a program or publisher that is not the actor's."""
    program = lookups.visible_program(session, actor, query.program) if query.program else None
    publisher = (
        lookups.visible_publisher(session, actor, query.publisher) if query.publisher else None
    )
    return Filters(
        program_id=program.id if program else None,
        publisher_id=publisher.id if publisher else None,
        order_id=query.order_id,
        status=query.status,
        event=query.event,
        occurred_from=query.occurred_from,
        occurred_to=query.occurred_to,
    )


def views(session: Session, actor: Actor, lines: Sequence[StatementLine]) -> list[ConversionView]:
    """The lines as answers, with everything they name fetched once for the whole page."""
    programs = lookups.program_refs(session, (line.conversion.program_id for line in lines))
    named = [_publisher_id(line) for line in lines]
    named += [part.publisher_id for line in lines for part in line.parts]
    publishers = lookups.publisher_refs(session, named)
    return [
        _view(
            line,
            program=programs[line.conversion.program_id],
            publisher=publishers.get(_publisher_id(line) or ""),
            click_id=_click_id(line, actor),
            sub_ids=_sub_ids(line, actor),
            parts=[_part(part, publishers[part.publisher_id]) for part in line.parts],
            shows_own=actor.role is not Role.PUBLISHER,
        )
        for line in lines
    ]


def _view(
    line: StatementLine,
    *,
    program: ProgramRef,
    publisher: PublisherRef | None,
    click_id: str | None,
    sub_ids: dict[str, str],
    parts: list[PartView],
    shows_own: bool,
) -> ConversionView:
    conversion, commission, attribution = line.conversion, line.commission, line.attribution
    currency = conversion.currency
    return ConversionView(
        id=conversion.id,
        commission_id=commission.id if commission else None,
        program=program,
        order_id=conversion.order_id,
        event=conversion.event,
        occurred_at=conversion.occurred_at,
        received_at=conversion.received_at,
        publisher=publisher,
        click_id=click_id,
        sub_ids=sub_ids,
        country=conversion.country,
        country_billing=conversion.country_billing,
        country_site=conversion.country_site,
        site=conversion.site,
        device=attribution.click_device if attribution and click_id else None,
        customer=conversion.customer,
        coupon=conversion.coupon,
        amount=MoneyAmount(minor=conversion.amount_minor, currency=currency),
        refunded=MoneyAmount(minor=line.refunded_minor, currency=currency),
        commission=_money(line.commission_minor, commission.currency) if commission else None,
        uncapped_commission=_money(line.uncapped_minor, commission.currency)
        if commission
        else None,
        share=None if commission is None else "1" if parts else _share(commission),
        parts=parts,
        status=line.status,
        reason=line.reason,
        lock_at=commission.lock_at if commission else None,
        imported=conversion.imported,
        test=conversion.is_test,
        number=conversion.number,
        relation=conversion.relation,
        related_id=conversion.related_id,
        channel=conversion.channel,
        discount=_money(conversion.discount_minor, currency),
        tax=_money(conversion.tax_minor, currency),
        shipping=_money(conversion.shipping_minor, currency),
        # What a shop says of its customer's order is between it and the network.
        parent_order_id=conversion.parent_order_id if shows_own else None,
        custom=dict(conversion.custom) if shows_own else {},
        attribution=AttributionView(source=attribution.source, reason=attribution.reason)
        if attribution
        else None,
    )


def _part(part: Commission, publisher: PublisherRef) -> PartView:
    return PartView(
        commission_id=part.id,
        publisher=publisher,
        share=_share(part),
        commission=MoneyAmount(minor=part.amount_minor, currency=part.currency),
        status=part.status,
        reason=part.reason,
    )


def _share(commission: Commission) -> str:
    return str(Fraction(commission.share_numerator, commission.share_denominator))


def _money(amount_minor: int | None, currency: str) -> MoneyAmount | None:
    return None if amount_minor is None else MoneyAmount(minor=amount_minor, currency=currency)


def _publisher_id(line: StatementLine) -> str | None:
    # Whoever owns an exclusive coupon is paid instead of whoever sent the visitor.
    if line.commission is not None:
        return line.commission.publisher_id
    return line.attribution.publisher_id if line.attribution else None


def _click_id(line: StatementLine, actor: Actor) -> str | None:
    attribution = line.attribution
    if actor.role is Role.PUBLISHER:
        # The owner of a coupon has no business with the click of the one who sent the visitor.
        is_own = attribution is not None and attribution.publisher_id == actor.party_id
        return attribution.click_id if attribution and is_own else line.click_id
    # What was credited goes before what was reported: the two differ when a reported id was
    # forged or another publisher's.
    if attribution is not None and attribution.click_id is not None:
        return attribution.click_id
    return line.conversion.click_id


def _sub_ids(line: StatementLine, actor: Actor) -> dict[str, str]:
    attribution = line.attribution
    if attribution is None or actor.role is Role.ADVERTISER or _click_id(line, actor) is None:
        return {}
    if actor.role is Role.PUBLISHER and attribution.publisher_id != actor.party_id:
        # They are those of the click that the order counts for.
        return {}
    return dict(attribution.sub_ids)


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/conversions",
        handler=list_conversions,
        summary="List conversions",
        tag="Conversions",
        guard=require(*_EVERYONE),
        roles=_EVERYONE,
        query=ConversionQuery,
        reply=ConversionPage,
        errors=(Forbidden, NotFound),
    ),
    Endpoint(
        method="GET",
        path="/v1/conversions/{id}",
        handler=read_conversion,
        summary="Read a conversion",
        tag="Conversions",
        guard=require(*_EVERYONE),
        roles=_EVERYONE,
        reply=ConversionView,
        errors=(Forbidden, NotFound),
    ),
)
