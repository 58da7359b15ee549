"""Orders that nobody but a browser has reported."""

import sqlalchemy as sa
from sqlmodel import Session, col, select

from commissions.models import Commission, CommissionStatus
from network.models import Program, TagOrders
from tracker.events import CHANNEL_PIXEL, CHANNEL_TAG
from tracker.models import Arrival, Conversion
from tracker.repeats import Result

# Ways in that are open to whoever reads the page: the tag, and the pixel with its token.
_VISITORS_READ = (CHANNEL_TAG, CHANNEL_PIXEL)


def waits_for_a_person() -> sa.ColumnElement[bool]:
    """Whether a commission is pending until its advertiser approves it, whatever the date.

    So it is for orders that came through the tag in a program that does not believe browsers, and
    that no server reported with the same content.
    """
    return sa.and_(
        col(Commission.status) == CommissionStatus.PENDING,
        sa.exists().where(
            col(Conversion.id) == col(Commission.conversion_id),
            col(Conversion.channel) == CHANNEL_TAG,
            col(Program.id) == col(Commission.program_id),
            col(Program.tag_orders) != TagOrders.ACCEPTED,
        ),
        ~sa.exists().where(
            col(Arrival.conversion_id) == col(Commission.conversion_id),
            col(Arrival.channel).not_in(_VISITORS_READ),
            col(Arrival.result) == Result.DUPLICATE,
        ),
    )


def is_waiting(session: Session, conversion_id: str) -> bool:
    """Whether the commission of this conversion waits so."""
    query = select(Commission.seq).where(
        Commission.conversion_id == conversion_id, waits_for_a_person()
    )
    return session.exec(query).first() is not None
