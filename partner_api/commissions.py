"""Why a commission is what it is."""

from typing import Any

from pydantic import BaseModel, Field

from commissions import explanations
from kernel import i18n
from kernel.errors import Forbidden, NotFound
from kernel.http import Call, Endpoint, NoQuery
from network.access import Actor, require
from network.models import Role
from partner_api.schemas import Language, path_id

_EVERYONE = (Role.PUBLISHER, Role.ADVERTISER, Role.MANAGER)


class ExplainQuery(NoQuery):
    """In which language the sentences are."""

    lang: Language | None = Field(None, description="Else what `Accept-Language` asks for.")


class ExplanationView(BaseModel):
    """Each step from the order to the amount, for programs and, as `words`, for people.

    Amounts are minor units of the currency that stands beside them: of the order in `conversion`,
    of the program in everything else.
    """

    conversion: dict[str, Any]
    attribution: dict[str, Any] | None
    commission: dict[str, Any] | None
    plan: dict[str, Any] | None
    bookings: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    refunded_minor: int
    status: str
    reason: str
    language: str
    words: list[str]


def explain_commission(call: Call) -> ExplanationView:
    """The plan version, rules, tier steps and roundings that made a commission what it is.

    The id is the conversion's or the commission's. What is said was written down when it was
    booked; nothing is computed again.
    """
    explanation = explanations.explain(call.session, call.actor, path_id(call, "id"))
    language = i18n.choose(call.query.lang, call.request.headers.get("accept-language"))
    return ExplanationView(
        conversion=explanation.conversion,
        attribution=_attribution(explanation.attribution, call.actor),
        commission=explanation.commission,
        plan=explanation.plan,
        bookings=explanation.bookings,
        steps=explanation.steps,
        refunded_minor=explanation.refunded_minor,
        status=explanation.status,
        reason=explanation.reason,
        language=language,
        words=explanations.words(explanation, language),
    )


def _attribution(found: dict[str, Any] | None, actor: Actor) -> dict[str, Any] | None:
    if found is None or actor.role is not Role.PUBLISHER or found["publisher_id"] == actor.party_id:
        return found
    # The owner of an exclusive coupon is paid for a visitor whom another publisher sent; who that
    # was, and the click, are not the owner's to see.
    return {**found, "publisher_id": None, "click_id": None}


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/commissions/{id}/explain",
        handler=explain_commission,
        summary="Explain a commission",
        tag="Earnings",
        guard=require(*_EVERYONE),
        roles=_EVERYONE,
        query=ExplainQuery,
        reply=ExplanationView,
        errors=(Forbidden, NotFound),
    ),
)
