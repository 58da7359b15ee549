"""Programs and their terms, as each party knows them."""

from typing import Any

from pydantic import BaseModel, Field
from sqlmodel import Session

from commissions import plans
from commissions.models import PlanVersion
from kernel import pages
from kernel.errors import Forbidden, NotFound
from kernel.http import Call, Endpoint, NoQuery
from network import publishers
from network.access import Actor, require
from network.models import Program, Role
from partner_api import lookups, terms
from partner_api.schemas import (
    Instant,
    PageQuery,
    Time,
    after_number,
    cut,
    path_id,
    rows_wanted,
)
from tracker import deep_links

_EVERYONE = (Role.PUBLISHER, Role.ADVERTISER, Role.MANAGER)


class TermsQuery(NoQuery):
    """Which moment's terms."""

    at: Instant | None = Field(None, description="When the order occurred; now when left out.")


class TermsSummary(BaseModel):
    """The plan version in force now, in short.

    The percentages are the lowest and the highest of its base rules, null when it pays none.
    """

    version: int
    effective_from: Time
    percent_min: str | None
    percent_max: str | None


class ProgramView(BaseModel):
    """A program. `tracking_link` is the reader's own, for publishers only."""

    id: str
    code: str
    name: str
    status: str
    currency: str
    timezone: str
    landing_url: str
    allowed_domains: list[str]
    attribution_window_hours: int
    hold_days: int
    terms: TermsSummary | None
    tracking_link: str | None


class ProgramPage(BaseModel):
    """Programs in the order in which they were added."""

    data: list[ProgramView]
    next_cursor: str | None


class TermsView(BaseModel):
    """A published plan version, as it applies to the reader.

    A publisher reads the document without the rules that are for other publishers only.
    `content_hash` is that of the whole document: it changes whenever any part of it does.
    """

    program_id: str
    version: int
    effective_from: Time
    published_at: Time
    content_hash: str
    document: dict[str, Any]


def list_programs(call: Call) -> ProgramPage:
    """A publisher's joined programs with its tracking links, an advertiser's own, a manager's all.

    The terms are those in force now; what applies to an order is decided by when it occurred.
    """
    limit = rows_wanted(call)
    programs = lookups.page_of_programs(
        call.session, call.actor, after_number=after_number(call), limit=limit + 1
    )
    shown, last = cut(programs, limit)
    code = _publisher_code(call.session, call.actor)
    return ProgramPage(
        data=[_view(call, program, publisher_code=code) for program in shown],
        next_cursor=pages.encode(last.number) if last else None,
    )


def read_terms(call: Call) -> TermsView:
    """The commission plan in force at a moment, as published. 404 when there was none."""
    program = lookups.visible_program(call.session, call.actor, path_id(call, "id"))
    version = plans.version_at(call.session, program.id, call.query.at or call.now)
    if version is None:
        raise NotFound("no commission plan was in force", kind="plan_version")
    return TermsView(
        program_id=program.id,
        version=version.version,
        effective_from=version.effective_from,
        published_at=version.published_at,
        content_hash=version.content_hash,
        document=_document(version, call.actor),
    )


def _publisher_code(session: Session, actor: Actor) -> str | None:
    if actor.role is not Role.PUBLISHER:
        return None
    return publishers.get(session, actor.party_id).code


def _view(call: Call, program: Program, *, publisher_code: str | None) -> ProgramView:
    link = None
    if publisher_code is not None:
        link = deep_links.build(
            call.context.settings.public_url, program=program.code, publisher=publisher_code
        )
    version = plans.version_at(call.session, program.id, call.now)
    return ProgramView(
        id=program.id,
        code=program.code,
        name=program.name,
        status=program.status,
        currency=program.currency,
        timezone=program.timezone,
        landing_url=program.landing_url,
        allowed_domains=program.allowed_domains,
        attribution_window_hours=program.attribution_window_hours,
        hold_days=program.hold_days,
        terms=_summary(version, call.actor) if version else None,
        tracking_link=link,
    )


def _summary(version: PlanVersion, actor: Actor) -> TermsSummary:
    lowest, highest = terms.percents(_document(version, actor)) or (None, None)
    return TermsSummary(
        version=version.version,
        effective_from=version.effective_from,
        percent_min=lowest,
        percent_max=highest,
    )


def _document(version: PlanVersion, actor: Actor) -> dict[str, Any]:
    if actor.role is not Role.PUBLISHER:
        return version.document
    return terms.narrowed(version.document, actor.party_id)


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/programs",
        handler=list_programs,
        summary="List programs",
        tag="Programs",
        guard=require(*_EVERYONE),
        roles=_EVERYONE,
        query=PageQuery,
        reply=ProgramPage,
        errors=(Forbidden,),
    ),
    Endpoint(
        method="GET",
        path="/v1/programs/{id}/terms",
        handler=read_terms,
        summary="Read the terms of a program",
        tag="Programs",
        guard=require(*_EVERYONE),
        roles=_EVERYONE,
        query=TermsQuery,
        reply=TermsView,
        errors=(Forbidden, NotFound),
    ),
)
