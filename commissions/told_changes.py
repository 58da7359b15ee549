"""What advertisers said of orders since these came in, and nobody has booked."""

from collections.abc import Sequence

import sqlalchemy as sa
from sqlmodel import Session, col

from commissions import replays
from commissions.models import Booking
from tracker.models import Conversion, ConversionChange

# Built once, because building costs more than executing.
_UNBOOKED = (
    sa.select(ConversionChange, col(Conversion.imported))
    .join(Conversion, col(Conversion.id) == col(ConversionChange.conversion_id))
    .outerjoin(Booking, col(Booking.key) == col(ConversionChange.id))
    .where(
        col(ConversionChange.conversion_id).in_(sa.bindparam("conversion_ids", expanding=True)),
        col(Booking.seq).is_(None),
    )
    .order_by(col(ConversionChange.seq))
)


def unbooked(
    session: Session, conversion_ids: Sequence[str]
) -> dict[str, list[tuple[ConversionChange, bool]]]:
    """Changes not booked yet, by conversion and in order; and whether the order was imported."""
    found: dict[str, list[tuple[ConversionChange, bool]]] = {}
    for start in range(0, len(conversion_ids), replays.IDS_MAX):
        asked = {"conversion_ids": list(conversion_ids[start : start + replays.IDS_MAX])}
        for change, imported in session.execute(_UNBOOKED, asked):
            found.setdefault(change.conversion_id, []).append((change, imported))
    return found
