"""Whether a program takes orders from browsers."""

from pydantic import BaseModel, ConfigDict

from kernel.errors import Forbidden, NotFound
from kernel.http import Call, Endpoint
from network import programs
from network.access import require
from network.models import Role, TagOrders
from partner_api import lookups
from partner_api.schemas import path_id

_WHO = (Role.ADVERTISER, Role.MANAGER)


class TagOrdersBody(BaseModel):
    """What becomes of orders that browsers report."""

    model_config = ConfigDict(extra="forbid")

    tag_orders: TagOrders


class TagOrdersView(BaseModel):
    """What is in force; trackers follow within their refresh time."""

    program_id: str
    tag_orders: TagOrders


def set_tag_orders(call: Call) -> TagOrdersView:
    """Refuse orders from browsers, keep them pending until they are approved, or accept them.

    A browser can report what never was. Orders that are recorded already stay.
    """
    program = lookups.visible_program(call.session, call.actor, path_id(call, "id"))
    programs.set_tag_orders(
        call.session,
        program,
        tag_orders=call.body.tag_orders,
        actor=str(call.actor),
        now=call.now,
    )
    return TagOrdersView(program_id=program.id, tag_orders=TagOrders(program.tag_orders))


ENDPOINTS = (
    Endpoint(
        method="PUT",
        path="/v1/programs/{id}/tag-orders",
        handler=set_tag_orders,
        summary="Say what becomes of orders from browsers",
        tag="Programs",
        guard=require(*_WHO),
        roles=_WHO,
        body=TagOrdersBody,
        reply=TagOrdersView,
        writes=True,
        errors=(Forbidden, NotFound),
    ),
)
