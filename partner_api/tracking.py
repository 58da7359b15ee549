"""How links are followed: fallback pages, the click parameter, signed deep links."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StringConstraints

from kernel.errors import Forbidden, NotFound
from kernel.http import Call, Endpoint
from network import programs, publishers
from network.access import require
from network.models import MembershipStatus, Program, ProgramStatus, Publisher, Role
from partner_api import lookups
from partner_api.schemas import path_id

_Page = Annotated[str, StringConstraints(max_length=2048)]


class ProgramTrackingBody(BaseModel):
    """What to change; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    status: ProgramStatus | None = Field(
        None, description="Clicks of a paused program go to the fallback page and cannot earn."
    )
    landing_url: _Page | None = Field(
        None, description="Where links lead; may hold macros. Its host is allowed from now on."
    )
    fallback_url: _Page | None = Field(
        None, description="Where visitors go from a dead link; empty: the network's page."
    )
    click_parameter: str | None = Field(
        None, description="The parameter of the landing page that takes the click id."
    )
    requires_signed_links: StrictBool | None = Field(
        None, description="Whether a deep link that we did not sign leads to the landing page."
    )


class ProgramTracking(BaseModel):
    """How links of a program are followed."""

    program_id: str
    status: ProgramStatus
    landing_url: str
    allowed_domains: list[str]
    fallback_url: str
    click_parameter: str
    requires_signed_links: bool


class PublisherTrackingBody(BaseModel):
    """What to change; what is left out stays as it is."""

    model_config = ConfigDict(extra="forbid")

    fallback_url: _Page | None = Field(
        None, description="Where visitors of your dead links go; empty: where the program says."
    )


class PublisherTracking(BaseModel):
    """How links of a publisher are followed."""

    publisher_id: str
    fallback_url: str


class MemberBody(BaseModel):
    """The publisher's place in the program."""

    model_config = ConfigDict(extra="forbid")

    status: MembershipStatus


class MemberView(BaseModel):
    """A publisher's place in a program. Only clicks of an approved one can earn."""

    program_id: str
    publisher_id: str
    status: MembershipStatus


def read_program(call: Call) -> ProgramTracking:
    """How links of the program are followed."""
    return _program_view(_program(call))


def change_program(call: Call) -> ProgramTracking:
    """Change how links of the program are followed; trackers know within seconds.

    `fallback_url` is for visitors of a paused program, a retired link or a publisher that is no
    member. Everybody who sees the program may read it; its advertiser and managers change it.
    """
    program, body, actor = _program(call), call.body, str(call.actor)
    if body.status is not None:
        programs.set_status(call.session, program, status=body.status, actor=actor, now=call.now)
    if body.landing_url is not None:
        programs.set_landing(
            call.session, program, landing_url=body.landing_url, actor=actor, now=call.now
        )
    programs.set_tracking(
        call.session,
        program,
        fallback_url=body.fallback_url,
        click_parameter=body.click_parameter,
        requires_signed_links=body.requires_signed_links,
        actor=actor,
        now=call.now,
    )
    return _program_view(program)


def set_member(call: Call) -> MemberView:
    """Approve, suspend or set back a publisher in a program; trackers know within seconds.

    Managers add any publisher; an advertiser decides on those that have a place in its program.
    What was recorded stays as it is. A repeat changes nothing.
    """
    membership = publishers.set_membership(
        call.session,
        program=_program(call),
        publisher=lookups.visible_publisher(
            call.session, call.actor, path_id(call, "publisher_id")
        ),
        status=call.body.status,
        actor=str(call.actor),
        now=call.now,
    )
    return MemberView.model_validate(membership, from_attributes=True)


def read_publisher(call: Call) -> PublisherTracking:
    """Where visitors of the publisher's dead links go."""
    return _publisher_view(_publisher(call))


def change_publisher(call: Call) -> PublisherTracking:
    """Say where visitors of the publisher's dead links go; trackers know within seconds.

    It holds for as long as the publisher is a member of the program.
    """
    publisher = _publisher(call)
    if call.body.fallback_url is not None:
        publishers.set_fallback(
            call.session,
            publisher,
            fallback_url=call.body.fallback_url,
            actor=str(call.actor),
            now=call.now,
        )
    return _publisher_view(publisher)


def _program(call: Call) -> Program:
    return lookups.visible_program(call.session, call.actor, path_id(call, "id"))


def _publisher(call: Call) -> Publisher:
    return lookups.visible_publisher(call.session, call.actor, path_id(call, "id"))


def _program_view(program: Program) -> ProgramTracking:
    return ProgramTracking(
        program_id=program.id,
        status=ProgramStatus(program.status),
        landing_url=program.landing_url,
        allowed_domains=program.allowed_domains,
        fallback_url=program.fallback_url,
        click_parameter=program.click_parameter,
        requires_signed_links=program.requires_signed_links,
    )


def _publisher_view(publisher: Publisher) -> PublisherTracking:
    return PublisherTracking(publisher_id=publisher.id, fallback_url=publisher.fallback_url)


_PROGRAM_ROLES = (Role.ADVERTISER, Role.MANAGER)
_PUBLISHER_ROLES = (Role.PUBLISHER, Role.MANAGER)
ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/programs/{id}/tracking",
        handler=read_program,
        summary="Read how links of a program are followed",
        tag="Programs",
        guard=require(*_PROGRAM_ROLES, Role.PUBLISHER),
        roles=(*_PROGRAM_ROLES, Role.PUBLISHER),
        reply=ProgramTracking,
        errors=(Forbidden, NotFound),
    ),
    Endpoint(
        method="PATCH",
        path="/v1/programs/{id}/tracking",
        handler=change_program,
        summary="Change how links of a program are followed",
        tag="Programs",
        guard=require(*_PROGRAM_ROLES),
        roles=_PROGRAM_ROLES,
        body=ProgramTrackingBody,
        reply=ProgramTracking,
        writes=True,
        errors=(Forbidden, NotFound),
    ),
    Endpoint(
        method="PUT",
        path="/v1/programs/{id}/members/{publisher_id}",
        handler=set_member,
        summary="Decide on a publisher's place in a program",
        tag="Programs",
        guard=require(*_PROGRAM_ROLES),
        roles=_PROGRAM_ROLES,
        body=MemberBody,
        reply=MemberView,
        writes=True,
        errors=(Forbidden, NotFound),
    ),
    Endpoint(
        method="GET",
        path="/v1/publishers/{id}/tracking",
        handler=read_publisher,
        summary="Read where a publisher's dead links lead",
        tag="Links",
        guard=require(*_PUBLISHER_ROLES),
        roles=_PUBLISHER_ROLES,
        reply=PublisherTracking,
        errors=(Forbidden, NotFound),
    ),
    Endpoint(
        method="PATCH",
        path="/v1/publishers/{id}/tracking",
        handler=change_publisher,
        summary="Change where a publisher's dead links lead",
        tag="Links",
        guard=require(*_PUBLISHER_ROLES),
        roles=_PUBLISHER_ROLES,
        body=PublisherTrackingBody,
        reply=PublisherTracking,
        writes=True,
        errors=(Forbidden, NotFound),
    ),
)
