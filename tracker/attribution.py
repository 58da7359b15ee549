"""Joins a conversion to the click, and so to the publisher, that brought it."""

from datetime import datetime

from sqlmodel import Session, select

from network.models import Membership, MembershipStatus, Program, Publisher
from tracker import conversions
from tracker.click_ids import ClickFacts, ClickIdError, ClickIdSigner
from tracker.models import Attribution, Click, Conversion
from tracker.rules import AttributionReason, Candidate
from tracker.rules import attribute as choose

SOURCE_CLICK = "click"
SOURCE_NONE = "none"
_UNREADABLE = {
    "malformed": AttributionReason.CLICK_ID_MALFORMED,
    "unknown_key": AttributionReason.CLICK_ID_UNKNOWN_KEY,
    "forged": AttributionReason.CLICK_ID_FORGED,
}


def attribute(
    session: Session, conversion_id: str, *, signer: ClickIdSigner, now: datetime
) -> Attribution:
    """The attribution of the conversion, decided at the first call and the same ever after.

    The click id is believed for what it says about itself, so that a click row that is late or
    lost costs nobody a sale. NotFound when there is no such conversion.
    """
    decided = find(session, conversion_id)
    if decided is not None:
        return decided
    conversion = conversions.get(session, conversion_id)
    winner, reason = _decide(session, conversion, signer)
    attribution = Attribution(
        conversion_id=conversion.id,
        publisher_id=winner.publisher_id if winner else None,
        click_id=winner.click_id if winner else None,
        clicked_at=winner.at if winner else None,
        source=SOURCE_CLICK if winner else SOURCE_NONE,
        reason=str(reason),
        decided_at=now,
    )
    session.add(attribution)
    session.flush()
    return attribution


def find(session: Session, conversion_id: str) -> Attribution | None:
    """The attribution of the conversion, or None while it is not decided."""
    return session.get(Attribution, conversion_id)


def _decide(
    session: Session, conversion: Conversion, signer: ClickIdSigner
) -> tuple[Candidate | None, str]:
    if conversion.click_id is None:
        return None, AttributionReason.NO_CLICK_ID
    try:
        facts = signer.read(conversion.click_id)
    except ClickIdError as error:
        return None, _UNREADABLE[error.reason]
    program = session.get_one(Program, conversion.program_id)
    if facts.program_number != program.number:
        return None, AttributionReason.OTHER_PROGRAM
    publisher = session.exec(
        select(Publisher).where(Publisher.number == facts.publisher_number)
    ).one_or_none()
    if publisher is None:
        return None, AttributionReason.PUBLISHER_UNKNOWN
    candidate = Candidate(
        click_id=conversion.click_id,
        publisher_id=publisher.id,
        at=facts.at,
        unbillable_reason=_unbillable_reason(session, conversion.click_id, facts),
        is_member=_is_member(session, program.id, publisher.id),
    )
    return choose(
        [candidate],
        occurred_at=conversion.occurred_at,
        window_hours=program.attribution_window_hours,
    )


def _unbillable_reason(session: Session, click_id: str, facts: ClickFacts) -> str:
    click = session.get(Click, click_id)
    if click is not None and click.unbillable_reason:
        return click.unbillable_reason
    return "" if facts.billable else AttributionReason.NOT_BILLABLE


def _is_member(session: Session, program_id: str, publisher_id: str) -> bool:
    status = session.exec(
        select(Membership.status).where(
            Membership.program_id == program_id, Membership.publisher_id == publisher_id
        )
    ).one_or_none()
    return status == MembershipStatus.APPROVED
