"""Groups of publishers that commission plans may name, and who is in them since when."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints
from sqlmodel import Session

from kernel import pages
from kernel.errors import Forbidden, NotFound, TooLarge
from kernel.http import Call, Endpoint, NoQuery
from network import groups
from network.access import require
from network.groups import GroupOfOtherProgram
from network.models import PublisherGroup, Role
from partner_api import lookups
from partner_api.schemas import (
    Instant,
    PageQuery,
    ProgramRef,
    PublisherRef,
    Text,
    Time,
    after_id,
    after_number,
    cut,
    path_id,
    rows_wanted,
)

_ROLES = (Role.MANAGER,)


class GroupBody(BaseModel):
    """A group. Without a `program` it is for the orders of all."""

    model_config = ConfigDict(extra="forbid")

    name: Annotated[str, StringConstraints(min_length=1, max_length=groups.NAME_CHARS_MAX)]
    program: Text | None = Field(None, description="Code or id of a program.")


class GroupView(BaseModel):
    """A group; rules of plans name its `code`."""

    code: str
    name: str
    program: ProgramRef | None
    created_at: Time


class GroupPage(BaseModel):
    """Groups in the order in which they were made."""

    data: list[GroupView]
    next_cursor: str | None


class MembersQuery(NoQuery):
    """At which time."""

    at: Instant | None = Field(None, description="Now when left out.")


class MembersBody(BaseModel):
    """Everybody who is in the group from a time on."""

    model_config = ConfigDict(extra="forbid")

    publishers: list[Text] = Field(description="Codes or ids; whoever is not named leaves.")
    starts_at: Instant | None = Field(None, description="Now when left out.")


class MembersView(BaseModel):
    """Who is in a group at a time, by code."""

    at: Time
    publishers: list[PublisherRef]


class GroupChangeView(BaseModel):
    """A publisher came into the group at a time, or left it."""

    publisher: PublisherRef
    is_member: bool
    at: Time
    recorded_at: Time


class GroupChangePage(BaseModel):
    """What was said about a group, in the order in which it was recorded."""

    data: list[GroupChangeView]
    next_cursor: str | None


def list_groups(call: Call) -> GroupPage:
    """Every group, of one program or of all."""
    limit = rows_wanted(call)
    found = groups.page(call.session, after_id=after_id(call), limit=limit + 1)
    shown, last = cut(found, limit)
    refs = lookups.program_refs(
        call.session, (one.program_id for one in shown if one.program_id is not None)
    )
    return GroupPage(
        data=[_view(one, refs.get(one.program_id or "")) for one in shown],
        next_cursor=pages.encode(last.id) if last else None,
    )


def put_group(call: Call) -> GroupView:
    """Make the group with this code, or give it another name.

    The program of a group never changes.
    """
    program = None
    if call.body.program is not None:
        program = lookups.visible_program(call.session, call.actor, call.body.program)
    group = groups.put(
        call.session,
        path_id(call, "code"),
        name=call.body.name,
        program_id=program.id if program else None,
        actor=str(call.actor),
        now=call.now,
    )
    return _view(group, ProgramRef(id=program.id, code=program.code) if program else None)


def list_members(call: Call) -> MembersView:
    """Who is in a group, now or at another time."""
    return _members(call.session, _group(call), call.query.at or call.now)


def put_members(call: Call) -> MembersView:
    """Have exactly these publishers in a group from `starts_at` on.

    Orders that are decided keep their groups; what is scheduled for a later time stays.
    """
    group, at = _group(call), call.body.starts_at or call.now
    groups.set_members(
        call.session,
        group,
        call.body.publishers,
        at=at,
        members_max=call.context.settings.group_members_max,
        actor=str(call.actor),
        now=call.now,
    )
    return _members(call.session, group, at)


def list_changes(call: Call) -> GroupChangePage:
    """When publishers came into a group and left it."""
    limit, after_seq = rows_wanted(call), after_number(call)
    found = groups.changes(call.session, _group(call), after_seq=after_seq, limit=limit + 1)
    shown, last = cut(found, limit)
    refs = lookups.publisher_refs(call.session, (one.publisher_id for one in shown))
    return GroupChangePage(
        data=[
            GroupChangeView(
                publisher=refs[one.publisher_id],
                is_member=one.is_member,
                at=one.at,
                recorded_at=one.recorded_at,
            )
            for one in shown
        ],
        next_cursor=pages.encode(last.seq or 0) if last else None,
    )


def _group(call: Call) -> PublisherGroup:
    return groups.find(call.session, path_id(call, "code"))


def _members(session: Session, group: PublisherGroup, at: Time) -> MembersView:
    found = groups.members(session, group, at=at)
    return MembersView(at=at, publishers=[PublisherRef(id=one.id, code=one.code) for one in found])


def _view(group: PublisherGroup, program: ProgramRef | None) -> GroupView:
    return GroupView(code=group.code, name=group.name, program=program, created_at=group.created_at)


_PATH = "/v1/publisher-groups"
ENDPOINTS = (
    Endpoint(
        method="GET",
        path=_PATH,
        handler=list_groups,
        summary="List publisher groups",
        tag="Programs",
        guard=require(*_ROLES),
        roles=_ROLES,
        query=PageQuery,
        reply=GroupPage,
        errors=(Forbidden,),
    ),
    Endpoint(
        method="PUT",
        path=f"{_PATH}/{{code}}",
        handler=put_group,
        summary="Make or rename a publisher group",
        tag="Programs",
        guard=require(*_ROLES),
        roles=_ROLES,
        body=GroupBody,
        reply=GroupView,
        writes=True,
        errors=(Forbidden, NotFound, GroupOfOtherProgram),
    ),
    Endpoint(
        method="GET",
        path=f"{_PATH}/{{code}}/members",
        handler=list_members,
        summary="List the members of a publisher group",
        tag="Programs",
        guard=require(*_ROLES),
        roles=_ROLES,
        query=MembersQuery,
        reply=MembersView,
        errors=(Forbidden, NotFound),
    ),
    Endpoint(
        method="PUT",
        path=f"{_PATH}/{{code}}/members",
        handler=put_members,
        summary="Set the members of a publisher group",
        tag="Programs",
        guard=require(*_ROLES),
        roles=_ROLES,
        body=MembersBody,
        reply=MembersView,
        writes=True,
        errors=(Forbidden, NotFound, TooLarge),
    ),
    Endpoint(
        method="GET",
        path=f"{_PATH}/{{code}}/changes",
        handler=list_changes,
        summary="List who came into a publisher group and left it",
        tag="Programs",
        guard=require(*_ROLES),
        roles=_ROLES,
        query=PageQuery,
        reply=GroupChangePage,
        errors=(Forbidden, NotFound),
    ),
)
