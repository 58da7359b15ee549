"""Joins a conversion to the click, and so to the publisher, that brought it."""

from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session

from kernel.errors import NotFound, Unavailable
from network.models import Membership, MembershipStatus, Program, Publisher
from tracker.click_ids import ClickIdError, ClickIdSigner
from tracker.models import Attribution, Click, Conversion
from tracker.rules import AttributionReason, Candidate
from tracker.rules import attribute as choose


class NotAttributed(Unavailable):
    """Who brought the conversion is not decided yet: nothing that builds on it can be either."""

    code = "not_attributed"


SOURCE_CLICK = "click"
SOURCE_NONE = "none"
_UNREADABLE = {
    "malformed": AttributionReason.CLICK_ID_MALFORMED,
    "unknown_key": AttributionReason.CLICK_ID_UNKNOWN_KEY,
    "forged": AttributionReason.CLICK_ID_FORGED,
}

# Said for every order that comes in; built once, because building costs more than executing.
_TABLES = Attribution.metadata.tables
_attribution, _click, _conversion, _membership, _program, _publisher = (
    _TABLES[str(model.__tablename__)]
    for model in (Attribution, Click, Conversion, Membership, Program, Publisher)
)
_FACTS = (
    sa.select(
        _conversion.c.program_id,
        _conversion.c.click_id,
        _conversion.c.occurred_at,
        _program.c.number,
        _program.c.attribution_window_hours,
        _click.c.unbillable_reason,
        _attribution.c.conversion_id.is_not(None),
    )
    .join(_program, _program.c.id == _conversion.c.program_id)
    .outerjoin(_click, _click.c.id == _conversion.c.click_id)
    .outerjoin(_attribution, _attribution.c.conversion_id == _conversion.c.id)
    .where(_conversion.c.id == sa.bindparam("conversion_id"))
)
_PUBLISHER = (
    sa.select(_publisher.c.id, _membership.c.status)
    .outerjoin(
        _membership,
        sa.and_(
            _membership.c.publisher_id == _publisher.c.id,
            _membership.c.program_id == sa.bindparam("program_id"),
        ),
    )
    .where(_publisher.c.number == sa.bindparam("number"))
)
_INSERT = sa.insert(_attribution)


class _Facts(NamedTuple):
    """What decides. `unbillable_reason` is None where the click has no row."""

    program_id: str
    click_id: str | None
    occurred_at: datetime
    program_number: int
    window_hours: int
    unbillable_reason: str | None
    is_decided: bool


def attribute(
    session: Session, conversion_id: str, *, signer: ClickIdSigner, now: datetime
) -> Attribution:
    """The attribution of the conversion, decided at the first call and the same ever after.

    The click id is believed for what it says about itself, so that a click row that is late or
    lost costs nobody a sale. NotFound when there is no such conversion.
    """
    row = session.execute(_FACTS, {"conversion_id": conversion_id}).one_or_none()
    if row is None:
        raise NotFound("no such conversion", kind="conversion")
    facts = _Facts(*row)
    if facts.is_decided:
        return session.get_one(Attribution, conversion_id)
    winner, reason = _decide(session, facts, signer)
    attribution: dict[str, Any] = {
        "conversion_id": conversion_id,
        "publisher_id": winner.publisher_id if winner else None,
        "click_id": winner.click_id if winner else None,
        "clicked_at": winner.at if winner else None,
        "source": SOURCE_CLICK if winner else SOURCE_NONE,
        "reason": str(reason),
        "decided_at": now,
    }
    session.execute(_INSERT, attribution)
    return Attribution(**attribution)


def _decide(session: Session, facts: _Facts, signer: ClickIdSigner) -> tuple[Candidate | None, str]:
    if facts.click_id is None:
        return None, AttributionReason.NO_CLICK_ID
    try:
        click = signer.read(facts.click_id)
    except ClickIdError as error:
        return None, _UNREADABLE[error.reason]
    if click.program_number != facts.program_number:
        return None, AttributionReason.OTHER_PROGRAM
    publisher = session.execute(
        _PUBLISHER, {"program_id": facts.program_id, "number": click.publisher_number}
    ).one_or_none()
    if publisher is None:
        return None, AttributionReason.PUBLISHER_UNKNOWN
    publisher_id, membership = publisher
    unsigned = "" if click.billable else AttributionReason.NOT_BILLABLE
    candidate = Candidate(
        click_id=facts.click_id,
        publisher_id=publisher_id,
        at=click.at,
        unbillable_reason=facts.unbillable_reason or unsigned,
        is_member=membership == MembershipStatus.APPROVED,
    )
    return choose([candidate], occurred_at=facts.occurred_at, window_hours=facts.window_hours)
