"""How a program's orders are reported: modes and words, signing secrets, and what came in."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from commissions import statements
from kernel.errors import Forbidden, NotFound
from kernel.http import Call, Endpoint
from network import reporting_terms
from network.access import require
from network.models import Program, Role, SigningSecret
from network.reporting_terms import DuplicateMode, TooManySecrets
from partner_api import lookups
from partner_api.schemas import MoneyAmount, Time, path_id
from tracker import arrivals, changes
from tracker.order_fields import STATUSES
from tracker.signatures import secret_text

_ROLES = (Role.ADVERTISER, Role.MANAGER)
_EVERYONE = (Role.PUBLISHER, Role.ADVERTISER, Role.MANAGER)
_ARRIVALS_MAX = 1_000


class ReportingView(BaseModel):
    """What another report of an order does, by event, and what the advertiser's words mean."""

    model_config = ConfigDict(extra="forbid")

    duplicates: dict[str, DuplicateMode] = Field(
        {}, description="By event; an event that is not named refuses another content (409)."
    )
    status_words: dict[str, str] = Field(
        {}, description="The advertiser's words for a status, each with ours."
    )
    other_currencies: list[str] | None = Field(
        None,
        description="Currencies of orders beside the program's own; as they are when left out.",
    )


class SecretView(BaseModel):
    """A signing secret. `secret` is there once: when it is made."""

    id: str
    created_at: Time
    retired_at: Time | None
    secret: str | None = None


class SecretList(BaseModel):
    """The signing secrets of a program, oldest first."""

    data: list[SecretView]


class ArrivalView(BaseModel):
    """Reports of one content, by one way, with one result."""

    channel: str
    result: str
    content_hash: str
    source: str = Field(description="The row of an uploaded file, or empty.")
    count: int
    at: Time = Field(description="When the first of them came in.")
    last_at: Time


class ArrivalList(BaseModel):
    """How an order came in, in the order of the first report of each way."""

    data: list[ArrivalView]


class ChangeView(BaseModel):
    """What the advertiser said about an order after it was reported."""

    kind: str
    reason_code: str
    reason: str
    line: int | None
    amount: MoneyAmount | None
    at: Time


class ChangeList(BaseModel):
    """Changes of an order in the order in which they were booked."""

    data: list[ChangeView]


def read_reporting(call: Call) -> ReportingView:
    """What another report of an order does, and which words mean which status."""
    return _reporting(_program(call))


def set_reporting(call: Call) -> ReportingView:
    """Replace all of it. Orders that are recorded stay as they are.

    `refuse` (409), `ignore` (the first stays), `new` (a conversion of its own), `edit` (the later
    report takes the place of the earlier) or `add` (its amounts are added).
    """
    program = _program(call)
    reporting_terms.set_reporting(
        call.session,
        program,
        duplicate_modes=call.body.duplicates,
        status_words=call.body.status_words,
        statuses=STATUSES,
        other_currencies=call.body.other_currencies,
        actor=str(call.actor),
        now=call.now,
    )
    return _reporting(program)


def list_secrets(call: Call) -> SecretList:
    """The signing secrets of a program, without the secrets themselves."""
    rows = reporting_terms.secrets_of(call.session, _program(call))
    return SecretList(data=[_secret(row) for row in rows])


def add_secret(call: Call) -> SecretView:
    """Make a signing secret, shown this once. Those before it stay in force until retired."""
    row = reporting_terms.add_secret(
        call.session, _program(call), actor=str(call.actor), now=call.now
    )
    key = reporting_terms.signing_key(call.context.keys, row.id)
    return _secret(row, secret=secret_text(key))


def retire_secret(call: Call) -> SecretView:
    """End a signing secret: within seconds nothing signed with it is taken in."""
    row = reporting_terms.retire_secret(
        call.session,
        _program(call),
        path_id(call, "secret_id"),
        actor=str(call.actor),
        now=call.now,
    )
    return _secret(row)


def list_arrivals(call: Call) -> ArrivalList:
    """By which ways an order came in, how often, and what became of each report."""
    conversion = statements.get(call.session, call.actor, path_id(call, "id")).conversion
    found = arrivals.of_conversion(call.session, conversion.id, limit=_ARRIVALS_MAX)
    return ArrivalList(
        data=[ArrivalView.model_validate(one, from_attributes=True) for one in found]
    )


def list_changes(call: Call) -> ChangeList:
    """Refunds, cancellations, approvals and refusals of an order, each with its reason."""
    conversion = statements.get(call.session, call.actor, path_id(call, "id")).conversion
    return ChangeList(
        data=[
            ChangeView(
                kind=row.kind,
                reason_code=row.reason_code,
                reason=row.reason,
                line=row.line,
                amount=MoneyAmount(minor=row.amount_minor, currency=conversion.currency)
                if row.amount_minor
                else None,
                at=row.received_at,
            )
            for row in changes.of_conversion(call.session, conversion.id)
        ]
    )


def _program(call: Call) -> Program:
    return lookups.visible_program(call.session, call.actor, path_id(call, "id"))


def _reporting(program: Program) -> ReportingView:
    modes: dict[str, Any] = dict(program.duplicate_modes)
    return ReportingView(
        duplicates=modes,
        status_words=dict(program.status_words),
        other_currencies=list(program.other_currencies),
    )


def _secret(row: SigningSecret, *, secret: str | None = None) -> SecretView:
    return SecretView(
        id=row.id, created_at=row.created_at, retired_at=row.retired_at, secret=secret
    )


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/programs/{id}/reporting",
        handler=read_reporting,
        summary="Read how orders are reported",
        tag="Programs",
        guard=require(*_ROLES),
        roles=_ROLES,
        reply=ReportingView,
        errors=(Forbidden, NotFound),
    ),
    Endpoint(
        method="PUT",
        path="/v1/programs/{id}/reporting",
        handler=set_reporting,
        summary="Set how orders are reported",
        tag="Programs",
        guard=require(*_ROLES),
        roles=_ROLES,
        body=ReportingView,
        reply=ReportingView,
        writes=True,
        errors=(Forbidden, NotFound),
    ),
    Endpoint(
        method="GET",
        path="/v1/programs/{id}/signing-secrets",
        handler=list_secrets,
        summary="List signing secrets",
        tag="Programs",
        guard=require(*_ROLES),
        roles=_ROLES,
        reply=SecretList,
        errors=(Forbidden, NotFound),
    ),
    Endpoint(
        method="POST",
        path="/v1/programs/{id}/signing-secrets",
        handler=add_secret,
        summary="Make a signing secret",
        tag="Programs",
        guard=require(*_ROLES),
        roles=_ROLES,
        reply=SecretView,
        status=201,
        writes=True,
        errors=(Forbidden, NotFound, TooManySecrets),
    ),
    Endpoint(
        method="POST",
        path="/v1/programs/{id}/signing-secrets/{secret_id}/retire",
        handler=retire_secret,
        summary="Retire a signing secret",
        tag="Programs",
        guard=require(*_ROLES),
        roles=_ROLES,
        reply=SecretView,
        writes=True,
        errors=(Forbidden, NotFound),
    ),
    Endpoint(
        method="GET",
        path="/v1/conversions/{id}/arrivals",
        handler=list_arrivals,
        summary="List the arrivals of a conversion",
        tag="Conversions",
        guard=require(*_ROLES),
        roles=_ROLES,
        reply=ArrivalList,
        errors=(Forbidden, NotFound),
    ),
    Endpoint(
        method="GET",
        path="/v1/conversions/{id}/changes",
        handler=list_changes,
        summary="List the changes of a conversion",
        tag="Conversions",
        guard=require(*_EVERYONE),
        roles=_EVERYONE,
        reply=ChangeList,
        errors=(Forbidden, NotFound),
    ),
)
