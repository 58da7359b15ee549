"""Totals: what was sold and earned, by program and status, and by country."""

from pydantic import BaseModel, Field

from commissions import earnings
from commissions.statements import Filters
from kernel.errors import Forbidden, NotFound
from kernel.http import Call, Endpoint, NoQuery
from network.access import require
from network.models import Role
from partner_api import lookups
from partner_api.schemas import Instant, MoneyAmount, ProgramRef, Text

_EVERYONE = (Role.PUBLISHER, Role.ADVERTISER, Role.MANAGER)
_REPORT_ROLES = (Role.ADVERTISER, Role.MANAGER)


class EarningsQuery(NoQuery):
    """Which conversions are added up, by when they occurred."""

    program: Text | None = Field(None, description="Code or id of a program.")
    occurred_from: Instant | None = Field(None, alias="from", description="Not before this.")
    occurred_to: Instant | None = Field(None, alias="to", description="Before this instant.")


class CountriesQuery(NoQuery):
    """Which program's countries."""

    program: Text = Field(description="Code or id of a program.")


class EarningsView(BaseModel):
    """The conversions of one program, currency and status, added up."""

    program: ProgramRef
    status: str
    conversions: int
    sales: MoneyAmount
    commission: MoneyAmount


class EarningsReply(BaseModel):
    """One entry for each program, currency and status that has conversions.

    Different currencies are never added to one another.
    """

    data: list[EarningsView]
    next_cursor: str | None


class CountryView(BaseModel):
    """The conversions of one country in one currency, added up; null is an unknown country."""

    country: str | None
    conversions: int
    sales: MoneyAmount
    refunded: MoneyAmount
    commission: MoneyAmount


class CountriesReply(BaseModel):
    """One entry for each country and currency that has conversions."""

    data: list[CountryView]
    next_cursor: str | None


def read_earnings(call: Call) -> EarningsReply:
    """What was sold and earned, by program, currency and status. `next_cursor` is always null."""
    named = call.query.program
    program = lookups.visible_program(call.session, call.actor, named) if named else None
    rows = earnings.by_status(
        call.session,
        call.actor,
        filters=Filters(
            program_id=program.id if program else None,
            occurred_from=call.query.occurred_from,
            occurred_to=call.query.occurred_to,
        ),
    )
    programs = lookups.program_refs(call.session, (row.program_id for row in rows))
    return EarningsReply(
        data=[
            EarningsView(
                program=programs[row.program_id],
                status=row.status,
                conversions=row.conversions,
                sales=MoneyAmount(minor=row.sales_minor, currency=row.currency),
                commission=MoneyAmount(minor=row.commission_minor, currency=row.currency),
            )
            for row in rows
        ],
        next_cursor=None,
    )


def read_countries(call: Call) -> CountriesReply:
    """A program's sales, refunds and commissions by country. `next_cursor` is always null."""
    program = lookups.visible_program(call.session, call.actor, call.query.program)
    rows = earnings.by_country(call.session, call.actor, program_id=program.id)
    return CountriesReply(
        data=[
            CountryView(
                country=row.country or None,
                conversions=row.conversions,
                sales=MoneyAmount(minor=row.sales_minor, currency=row.currency),
                refunded=MoneyAmount(minor=row.refunded_minor, currency=row.currency),
                commission=MoneyAmount(minor=row.commission_minor, currency=row.currency),
            )
            for row in rows
        ],
        next_cursor=None,
    )


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/earnings",
        handler=read_earnings,
        summary="Read totals",
        tag="Earnings",
        guard=require(*_EVERYONE),
        roles=_EVERYONE,
        query=EarningsQuery,
        reply=EarningsReply,
        errors=(Forbidden, NotFound),
    ),
    Endpoint(
        method="GET",
        path="/v1/reports/countries",
        handler=read_countries,
        summary="Read totals by country",
        tag="Earnings",
        guard=require(*_REPORT_ROLES),
        roles=_REPORT_ROLES,
        query=CountriesQuery,
        reply=CountriesReply,
        errors=(Forbidden, NotFound),
    ),
)
