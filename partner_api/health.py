"""Tracking health: what was expected and what came in, each with its reason in words."""

from collections.abc import Mapping
from typing import Annotated

from pydantic import BaseModel, Field

from kernel import i18n, pages
from kernel.errors import Forbidden, NotFound
from kernel.http import Call, Endpoint
from network.access import require
from network.models import Role
from partner_api import lookups
from partner_api.schemas import (
    Language,
    OneOf,
    PageQuery,
    ProgramRef,
    PublisherRef,
    Text,
    cut,
    rows_wanted,
)
from tracker import health
from tracker.judgements import Check, Status

_EVERYONE = (Role.PUBLISHER, Role.ADVERTISER, Role.MANAGER)


class HealthQuery(PageQuery):
    """What is judged, and in which language."""

    program: Text | None = Field(None, description="Code or id of a program.")
    publisher: Text | None = Field(None, description="Code or id of a publisher.")
    status: Annotated[str, OneOf(tuple(Status))] | None = Field(
        None, description="Only findings of this status."
    )
    check: Annotated[str, OneOf(tuple(Check))] | None = Field(
        None, description="Only findings of this check."
    )
    language: Language = Field(i18n.DEFAULT, description="Language of the reasons.")


class FindingView(BaseModel):
    """One judgement: of a program, or of one publisher on it.

    `reason` is the judgement in words; `numbers` are what it says, by name.
    """

    program: ProgramRef
    publisher: PublisherRef | None
    check: str
    status: str
    reason: str
    numbers: Mapping[str, int | str]


class HealthReply(BaseModel):
    """Findings, the worst first."""

    data: list[FindingView]
    next_cursor: str | None


def read_tracking(call: Call) -> HealthReply:
    """Orders expected and received, silence, late and unmatched orders, broken pages."""
    query, session, actor = call.query, call.session, call.actor
    limit = rows_wanted(call)
    program = lookups.visible_program(session, actor, query.program) if query.program else None
    publisher = (
        lookups.visible_publisher(session, actor, query.publisher) if query.publisher else None
    )
    after = (
        tuple(pages.decode(query.cursor, int, str, str, str)) if query.cursor is not None else ()
    )
    found = [
        finding
        for finding in health.read(
            session,
            actor,
            call.context.settings,
            now=call.now,
            program_id=program.id if program else None,
            publisher_id=publisher.id if publisher else None,
        )
        if finding.rank > after
        and query.status in (None, finding.judgement.status)
        and query.check in (None, finding.judgement.check)
    ]
    shown, last = cut(found, limit)
    programs = lookups.program_refs(session, (one.program_id for one in shown))
    publishers = lookups.publisher_refs(session, (one.publisher_id for one in shown))
    return HealthReply(
        data=[
            FindingView(
                program=programs[one.program_id],
                publisher=publishers[one.publisher_id] if one.publisher_id else None,
                check=one.judgement.check,
                status=one.judgement.status,
                reason=health.sentence(one.judgement, query.language),
                numbers=dict(one.judgement.numbers),
            )
            for one in shown
        ],
        next_cursor=pages.encode(*last.rank) if last is not None else None,
    )


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/health/tracking",
        handler=read_tracking,
        summary="Read the tracking health",
        tag="Reports",
        guard=require(*_EVERYONE),
        roles=_EVERYONE,
        query=HealthQuery,
        reply=HealthReply,
        errors=(Forbidden, NotFound),
    ),
)
