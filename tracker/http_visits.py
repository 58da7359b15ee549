"""`POST /v1/visits`: a merchant's own server tells of a visit, for pages without a script."""

from dataclasses import dataclass
from typing import Any, Final

from pydantic import BaseModel, Field
from starlette.requests import Request

from kernel.errors import NotFound, invalid
from kernel.http import Call, Endpoint
from network.access import Actor, require, token_hash
from network.models import Role
from tracker import visits
from tracker.click_headers import is_prefetch, without_consent
from tracker.fields import Fields
from tracker.http_models import Body
from tracker.journal import JournalUnavailable
from tracker.node import TrackerNode
from tracker.routing import ProgramRoute
from tracker.visits import Visit

_CODE_CHARS_MAX: Final = 128
_REF_CHARS_MAX: Final = 128
_URL_CHARS_MAX: Final = 4096
_DAYS_BACK_MAX: Final = 1


class VisitBody(Body):
    """A visit. `ref` makes repeats harmless and needs `visited_at`."""

    publisher: str = Field(description="Code or id, from `ts_pub` of the page's address.")
    program: str | None = Field(None, description="Code or id; needed where it is not clear.")
    landing_url: str | None = None
    visited_at: str | None = Field(None, description="RFC 3339, at most a day back.")
    ref: str | None = None
    s1: str | None = None
    s2: str | None = None
    s3: str | None = None
    s4: str | None = None
    s5: str | None = None
    address: str | None = Field(None, description="The visitor's IP address.")
    user_agent: str | None = None
    referrer: str | None = None
    accept_language: str | None = None
    sec_fetch_dest: str | None = None
    sec_fetch_mode: str | None = None
    sec_fetch_user: str | None = None
    sec_purpose: str | None = None
    consent: bool = True
    gdpr: str | None = Field(None, description="`1` when the GDPR applies, `0` when it does not.")
    gdpr_consent: str | None = Field(None, description="An IAB TCF string.")


class VisitReply(BaseModel):
    """`click_id` is null when the click cannot earn; `reason` says why."""

    click_id: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Reporter:
    """Who tells: an API client, or the holder of a program's postback token."""

    id: str
    actor: Actor | None = None
    program: ProgramRoute | None = None

    def __str__(self) -> str:
        return self.id


_of_client = require(Role.ADVERTISER, Role.MANAGER)


def _who(request: Request) -> Reporter:
    """Guard: a bearer token, or a postback token in its place, which speaks for its program."""
    node: TrackerNode = request.app.state.node
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer":
        program = node.routing.table.program_of_token(token_hash(token.strip()))
        if program is not None:
            return Reporter(f"postback:{program.id}", program=program)
    actor = _of_client(request)
    return Reporter(actor.id, actor=actor)


async def report_visit(call: Call) -> VisitReply:
    """Record a visit that a publisher's link brought straight to a page, and say its click id.

    Keep the id in a cookie of the shop's own and send it with the order.
    """
    node: TrackerNode = call.request.app.state.node
    told = await visits.record(node, _read(call, node))
    return VisitReply(click_id=told.click_id, reason=told.reason)


def _read(call: Call, node: TrackerNode) -> Visit:
    fields = Fields(call.body.model_dump())
    publisher = fields.required_text("publisher", chars_max=_CODE_CHARS_MAX)
    named = fields.text("program", chars_max=_CODE_CHARS_MAX)
    landing_url = fields.text("landing_url", chars_max=_URL_CHARS_MAX)
    ref = fields.text("ref", chars_max=_REF_CHARS_MAX) or ""
    visited_at = fields.time("visited_at", now=call.now, days_back_max=_DAYS_BACK_MAX)
    if ref and fields.value("visited_at") is None:
        fields.problem("visited_at", "missing", "is required with a ref: the id carries the time")
    sub_ids = visits.read_sub_ids(fields, chars_max=node.settings.sub_id_chars_max)
    address = visits.read_address(fields, "address")
    said: dict[str, Any] = {
        name: visits.read_evidence(fields, name)
        for name in ("user_agent", "referrer", "accept_language", *visits.FETCH_METADATA)
    }
    fields.finish()
    program = _program(call.actor, node, named)
    return Visit(
        program=program,
        publisher=node.routing.table.find_publisher(publisher),
        at=min(visited_at or call.now, call.now),
        note=visits.NOTE_SERVER,
        page=visits.read_page(landing_url, program, name="landing_url"),
        sub_ids=sub_ids,
        without_consent=without_consent(_consent_of(call.body), {}, node.settings),
        is_prefetch=is_prefetch({"sec-purpose": said["sec_purpose"]}),
        address=address,
        ref=ref,
        **said,
    )


def _consent_of(body: VisitBody) -> dict[str, str]:
    said = {"cons": "1" if body.consent else "0", "gdpr": body.gdpr}
    said["gdpr_consent"] = body.gdpr_consent
    return {name: value for name, value in said.items() if value is not None}


def _program(reporter: Reporter, node: TrackerNode, named: str | None) -> ProgramRoute:
    table = node.routing.table
    if named is not None:
        program = table.find_program(named)
        if not _may_speak_for(reporter, program):
            raise NotFound("no such program", kind="program")
        return program
    if reporter.program is not None:
        return reporter.program
    actor = reporter.actor
    own = list(table.programs_of(actor.party_id)) if actor and not actor.is_manager else []
    if len(own) != 1:
        raise invalid("program", "missing", "is required: it is not clear which one is meant")
    return own[0]


def _may_speak_for(reporter: Reporter, program: ProgramRoute) -> bool:
    if reporter.program is not None:
        return reporter.program.id == program.id
    actor: Any = reporter.actor
    return bool(actor.is_manager or program.advertiser_id == actor.party_id)


ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        method="POST",
        path="/v1/visits",
        handler=report_visit,
        summary="Report a visit",
        tag="Clicks",
        guard=_who,
        roles=(Role.ADVERTISER, Role.MANAGER),
        body=VisitBody,
        reply=VisitReply,
        status=201,
        errors=(NotFound, JournalUnavailable),
    ),
)
