"""Orders that were acknowledged and then could not be recorded, for those who can mend them."""

from typing import Any

from pydantic import BaseModel, Field

from kernel import pages
from kernel.errors import Forbidden, NotFound
from kernel.http import Call, Endpoint
from network.access import require
from network.models import Role
from partner_api import lookups
from partner_api.schemas import (
    PageQuery,
    ProgramRef,
    Text,
    Time,
    after_number,
    cut,
    rows_wanted,
)
from tracker import refusals

_ROLES = (Role.ADVERTISER, Role.MANAGER)


class RefusalQuery(PageQuery):
    """Which refusals: every condition must hold."""

    program: Text | None = Field(None, description="Code or id of a program.")
    order_id: Text | None = Field(None, description="The advertiser's order number, exactly.")


class RefusalView(BaseModel):
    """What was sent, when, and the rule that it broke.

    `program` is null when the event named one that does not exist; managers alone see those.
    """

    id: str
    program: ProgramRef | None
    order_id: str
    code: str
    detail: str
    payload: dict[str, Any]
    at: Time


class RefusalPage(BaseModel):
    """Refusals in the order in which they were met."""

    data: list[RefusalView]
    next_cursor: str | None


def list_refusals(call: Call) -> RefusalPage:
    """Events that were acknowledged while the database was away and could not be recorded later.

    A conflict with an order that was already there, a refund of more than was left. Nothing was
    booked for them.
    """
    limit = rows_wanted(call)
    program_id = None
    if call.query.program is not None:
        program_id = lookups.visible_program(call.session, call.actor, call.query.program).id
    rows = refusals.page(
        call.session,
        call.actor,
        program_id=program_id,
        order_id=call.query.order_id,
        after_seq=after_number(call),
        limit=limit + 1,
    )
    shown, last = cut(rows, limit)
    programs = lookups.program_refs(call.session, (row.program_id for row in shown))
    return RefusalPage(
        data=[
            RefusalView(
                id=row.id,
                program=programs.get(row.program_id),
                order_id=row.order_id,
                code=row.code,
                detail=row.detail,
                payload=row.payload,
                at=row.at,
            )
            for row in shown
        ],
        next_cursor=pages.encode(last.seq or 0) if last else None,
    )


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/refusals",
        handler=list_refusals,
        summary="List orders that could not be recorded",
        tag="Conversions",
        guard=require(*_ROLES),
        roles=_ROLES,
        query=RefusalQuery,
        reply=RefusalPage,
        errors=(Forbidden, NotFound),
    ),
)
