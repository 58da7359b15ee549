"""By which rules a program attributes its orders, and how a single order was decided."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from commissions import statements
from kernel import i18n, pages
from kernel.errors import Forbidden, NotFound
from kernel.http import Call, Endpoint, NoQuery
from network.access import require
from network.models import Program, Role
from partner_api import lookups
from partner_api.schemas import (
    Instant,
    Language,
    PageQuery,
    Text,
    Time,
    after_number,
    cut,
    path_id,
    rows_wanted,
)
from tracker import attribution, attribution_terms, attribution_words
from tracker.attribution import AlreadyAttributed, NotAssignable, NotAttributed
from tracker.customers import customer_keys
from tracker.models import AttributionTerms

_EVERYONE = (Role.PUBLISHER, Role.ADVERTISER, Role.MANAGER)
_ROLES = (Role.ADVERTISER, Role.MANAGER)


class AttributionTermsQuery(NoQuery):
    """Which moment's rules."""

    at: Instant | None = Field(None, description="When the order occurred; now when left out.")


class AttributionTermsView(BaseModel):
    """A published version. Version 0 with an empty document: none was published for that time.

    What a document leaves out has its default; `window_hours` is then the program's own.
    """

    id: str | None
    program_id: str
    version: int
    effective_from: Time | None
    published_at: Time | None
    content_hash: str
    document: dict[str, Any]


class AttributionTermsPage(BaseModel):
    """Versions, newest first."""

    data: list[AttributionTermsView]
    next_cursor: str | None


class AttributionTermsBody(BaseModel):
    """A document and from when on it holds. Nothing of it is in force for orders from before."""

    model_config = ConfigDict(extra="forbid")

    document: dict[str, Any]
    effective_from: Instant | None = Field(
        None, description="Now when left out. Only managers may name a time that has passed."
    )


class DecisionQuery(NoQuery):
    """In which language the sentences are."""

    lang: Language | None = Field(None, description="Else what `Accept-Language` asks for.")


class TriedView(BaseModel):
    """A source that was asked before the one that decided, and why it did not."""

    source: str
    reason: str


class TouchView(BaseModel):
    """A click of the order and what became of it. Of another publisher's, only that."""

    click_id: str | None
    publisher_id: str | None
    at: str | None
    reason: str


class ShareView(BaseModel):
    """A part of the order as an exact fraction. The publisher is null when it is not the reader."""

    publisher_id: str | None
    weight: str
    role: str
    click_id: str | None


class WouldBeView(BaseModel):
    """Who would have earned a test order."""

    publisher_id: str | None
    weight: str


class BeforeView(BaseModel):
    """The decision for nobody that this one replaced."""

    reason: str
    decided_at: str
    superseded_at: str


class DecisionView(BaseModel):
    """Who brought an order and why: what was looked at, in which order, and what it came to.

    All of it was written down when it was decided. `words` says the same as sentences.
    """

    conversion_id: str
    publisher_id: str | None
    source: str
    reason: str
    decided_at: str
    terms_id: str | None
    model: str | None
    window_hours: int | None
    rules: list[str]
    tried: list[TriedView]
    touches: list[TouchView]
    touches_left_out: int
    shares: list[ShareView]
    would_be: list[WouldBeView]
    note: str
    before: BeforeView | None
    language: str
    words: list[str]


class AssignmentBody(BaseModel):
    """To whom an order goes that is nobody's, and why."""

    model_config = ConfigDict(extra="forbid")

    publisher: Text = Field(description="Code or id of a publisher.")
    note: str = Field(description="Shown to the publisher and the advertiser.")


def read_terms(call: Call) -> AttributionTermsView:
    """The rules of attribution in force at a moment, as published."""
    program = _program(call)
    version = attribution_terms.version_at(call.session, program.id, call.query.at or call.now)
    return _view(program, version)


def list_terms(call: Call) -> AttributionTermsPage:
    """Every version of a program's rules of attribution, newest first."""
    program = _program(call)
    limit = rows_wanted(call)
    found = attribution_terms.versions(
        call.session, program.id, before_version=after_number(call) or None, limit=limit + 1
    )
    shown, last = cut(found, limit)
    return AttributionTermsPage(
        data=[_view(program, one) for one in shown],
        next_cursor=pages.encode(last.version) if last else None,
    )


def publish_terms(call: Call) -> AttributionTermsView:
    """Publish the next version of a program's rules of attribution.

    An order is judged by the version in force when it occurred. What was decided stays.
    """
    program = _program(call)
    version = attribution_terms.publish(
        call.session,
        program_id=program.id,
        document=call.body.document,
        effective_from=call.body.effective_from or call.now,
        actor=str(call.actor),
        now=call.now,
        allow_past=call.actor.is_manager,
    )
    return _view(program, version)


def read_decision(call: Call) -> DecisionView:
    """Who brought a conversion and why, with everything that was looked at. 404 before that."""
    return _decision(call, path_id(call, "id"))


def assign_conversion(call: Call) -> DecisionView:
    """Give an order that is nobody's to a publisher, by hand and with a note.

    Its commission follows. An order that a publisher has keeps its publisher: 409.
    """
    line = statements.get(call.session, call.actor, path_id(call, "id"))
    publisher = lookups.visible_publisher(call.session, call.actor, call.body.publisher)
    decided = line.attribution.publisher_id if line.attribution else None
    if line.commission is not None and decided != publisher.id:
        raise AlreadyAttributed("a commission is booked for this conversion")
    attribution.assign(
        call.session,
        line.conversion.id,
        publisher_id=publisher.id,
        note=call.body.note,
        keys=customer_keys(call.context.keys),
        actor=str(call.actor),
        now=call.now,
    )
    return _decision(call, line.conversion.id)


def _program(call: Call) -> Program:
    return lookups.visible_program(call.session, call.actor, path_id(call, "id"))


def _view(program: Program, version: AttributionTerms | None) -> AttributionTermsView:
    if version is None:
        return AttributionTermsView(
            id=None,
            program_id=program.id,
            version=0,
            effective_from=None,
            published_at=None,
            content_hash="",
            document={},
        )
    return AttributionTermsView.model_validate(version, from_attributes=True)


def _decision(call: Call, public_id: str) -> DecisionView:
    line = statements.get(call.session, call.actor, public_id)
    if line.attribution is None:
        raise NotFound("the conversion is not attributed yet", kind="attribution")
    reader = call.actor.party_id if call.actor.role is Role.PUBLISHER else None
    found = attribution_words.facts(call.session, line.attribution, reader=reader)
    asked = getattr(call.query, "lang", None)
    language = i18n.choose(asked, call.request.headers.get("accept-language"))
    refs = lookups.publisher_refs(call.session, attribution_words.publishers_in(found))
    names = {publisher_id: ref.code for publisher_id, ref in refs.items()}
    return DecisionView(
        conversion_id=line.conversion.id,
        language=language,
        words=attribution_words.tell(found, names, language),
        **found,
    )


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/programs/{id}/attribution",
        handler=read_terms,
        summary="Read the rules of attribution",
        tag="Attribution",
        guard=require(*_ROLES),
        roles=_ROLES,
        query=AttributionTermsQuery,
        reply=AttributionTermsView,
        errors=(Forbidden, NotFound),
    ),
    Endpoint(
        method="POST",
        path="/v1/programs/{id}/attribution",
        handler=publish_terms,
        summary="Publish rules of attribution",
        tag="Attribution",
        guard=require(*_ROLES),
        roles=_ROLES,
        body=AttributionTermsBody,
        reply=AttributionTermsView,
        status=201,
        writes=True,
        errors=(Forbidden, NotFound),
    ),
    Endpoint(
        method="GET",
        path="/v1/programs/{id}/attribution/versions",
        handler=list_terms,
        summary="List versions of the rules of attribution",
        tag="Attribution",
        guard=require(*_ROLES),
        roles=_ROLES,
        query=PageQuery,
        reply=AttributionTermsPage,
        errors=(Forbidden, NotFound),
    ),
    Endpoint(
        method="GET",
        path="/v1/conversions/{id}/attribution",
        handler=read_decision,
        summary="Explain an attribution",
        tag="Attribution",
        guard=require(*_EVERYONE),
        roles=_EVERYONE,
        query=DecisionQuery,
        reply=DecisionView,
        errors=(Forbidden, NotFound),
    ),
    Endpoint(
        method="POST",
        path="/v1/conversions/{id}/attribution",
        handler=assign_conversion,
        summary="Assign a conversion",
        tag="Attribution",
        guard=require(Role.MANAGER),
        roles=(Role.MANAGER,),
        body=AssignmentBody,
        reply=DecisionView,
        writes=True,
        errors=(Forbidden, NotFound, AlreadyAttributed, NotAssignable, NotAttributed),
    ),
)
