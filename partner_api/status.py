"""How much work is under way, so that a caller can wait until everything sent is booked."""

from pydantic import BaseModel

from kernel.errors import Forbidden
from kernel.http import Call, Endpoint
from network.access import require
from network.models import Role


class StatusReply(BaseModel):
    """All 0: everything that was acknowledged is in the database and booked.

    `uploads_open` counts files of orders that are not worked to their end.
    `outbox_parked` counts follow-ups that failed too often and wait for a person.
    """

    uploads_open: int
    journal_bytes: int
    outbox_pending: int
    outbox_parked: int


def read_status(call: Call) -> StatusReply:
    """The backlog: files not yet worked, journal not yet in the database, follow-ups to be done."""
    # Set by the server, which alone knows about journals and the outbox together.
    return StatusReply.model_validate(call.request.app.state.backlog(call.session))


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/status",
        handler=read_status,
        summary="Read the backlog",
        tag="Operation",
        guard=require(Role.MANAGER),
        roles=(Role.MANAGER,),
        reply=StatusReply,
        errors=(Forbidden,),
    ),
)
