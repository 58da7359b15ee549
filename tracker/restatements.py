"""Who brought a conversion that goes on from another of its order: whoever brought that one."""

from collections.abc import Callable, Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlalchemy.orm import aliased
from sqlmodel import Session, col, select

from tracker.attribution import NotAttributed
from tracker.events import CHANNEL_TAG
from tracker.models import Attribution, AttributionShare, Conversion
from tracker.repeats import ADD, EDIT

_IDS_PER_QUERY = 500
# Whoever guessed the number of an order, and named a click of its own with it, brought nobody: a
# browser's word about who did counts where the server has none and the amounts agree.
_earlier = aliased(Conversion)
_MADE_UP = sa.and_(
    col(_earlier.channel) == CHANNEL_TAG,
    col(Conversion.channel) != CHANNEL_TAG,
    sa.or_(
        col(Conversion.click_id).is_not(None),
        col(Conversion.amount_minor) != col(_earlier.amount_minor),
    ),
)


def attribute(
    session: Session,
    conversion_ids: Sequence[str],
    *,
    by: Callable[[Sequence[str]], object],
    now: datetime,
) -> None:
    """Attribute the conversions: `by` decides all but those that inherit.

    A restatement, or an addition to an order, has the attribution of the conversion it goes on
    from. One that nobody brought is attributed anew: its later report may know more. NotAttributed
    when that one is too fresh; a repeat changes nothing.
    """
    related = _related(session, conversion_ids)
    own: list[str] = []
    # In their order: who brought one may be carried over to those after it.
    for conversion_id in conversion_ids:
        if conversion_id not in related:
            own.append(conversion_id)
            continue
        if own:
            by(own)
            own = []
        if not _inherit(session, conversion_id, related[conversion_id], now=now):
            by([conversion_id])
    if own:
        by(own)


def _related(session: Session, conversion_ids: Sequence[str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for start in range(0, len(conversion_ids), _IDS_PER_QUERY):
        part = conversion_ids[start : start + _IDS_PER_QUERY]
        query = (
            select(Conversion.id, Conversion.related_id)
            .join(_earlier, col(_earlier.id) == col(Conversion.related_id))
            .where(
                col(Conversion.id).in_(part),
                col(Conversion.relation).in_((ADD, EDIT)),
                ~_MADE_UP,
            )
        )
        found |= {one: related for one, related in session.exec(query) if related is not None}
    return found


def _inherit(session: Session, conversion_id: str, related_id: str, *, now: datetime) -> bool:
    query = select(Attribution).where(
        col(Attribution.conversion_id).in_((conversion_id, related_id))
    )
    found = {one.conversion_id: one for one in session.exec(query)}
    if conversion_id in found:
        return True
    if related_id not in found:
        raise NotAttributed("the conversion it goes on from has not been attributed yet")
    earlier = found[related_id]
    if earlier.publisher_id is None:
        return False
    facts = earlier.model_dump() | {"conversion_id": conversion_id, "decided_at": now}
    session.execute(sa.insert(Attribution), facts)
    shares = select(AttributionShare).where(AttributionShare.conversion_id == related_id)
    copies = [one.model_dump() | {"conversion_id": conversion_id} for one in session.exec(shares)]
    if copies:
        session.execute(sa.insert(AttributionShare), copies)
    return True
