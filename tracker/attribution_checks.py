"""What must hold of attributions, looked up in the database."""

from collections.abc import Iterator, Sequence
from fractions import Fraction

import sqlalchemy as sa
from sqlmodel import Session, col

from tracker.attribution import shares
from tracker.models import Attribution, AttributionShare

_SUMMED_AT_ONCE = 1_000


def check(session: Session) -> Iterator[tuple[str, str]]:
    """(conversion id, what is wrong) of every decision whose parts are not one whole.

    Parts of a conversion that somebody is paid for are more than nothing each and sum to exactly
    1; one that nobody is paid for has none.
    """
    share = AttributionShare.metadata.tables["attribution_share"].c
    is_paid = col(Attribution.publisher_id).is_not(None)
    # The database rules out what is plainly right; fractions unlike each other are summed here.
    whole = sa.and_(
        sa.func.min(share.numerator) > 0,
        sa.func.min(share.denominator) == sa.func.max(share.denominator),
        sa.func.sum(share.numerator) == sa.func.max(share.denominator),
    )
    query = (
        sa.select(col(Attribution.conversion_id), is_paid)
        .outerjoin(AttributionShare, share.conversion_id == col(Attribution.conversion_id))
        # By its key, in whose order both tables are read, so that nothing is sorted or held.
        .group_by(col(Attribution.conversion_id))
        .having(
            sa.or_(
                sa.and_(is_paid, sa.func.coalesce(whole, sa.false()).is_(False)),
                sa.and_(~is_paid, sa.func.count(share.position) > 0),
            )
        )
        .order_by(col(Attribution.conversion_id))
        .execution_options(yield_per=_SUMMED_AT_ONCE)
    )
    for some in session.execute(query).partitions():
        parts = shares(session, [conversion_id for conversion_id, _ in some])
        for conversion_id, paid in some:
            problem = _problem(parts.get(conversion_id, ()), is_paid=bool(paid))
            if problem:
                yield conversion_id, problem


def _problem(parts: Sequence[AttributionShare], *, is_paid: bool) -> str:
    if not is_paid:
        return "has shares, and nobody is paid"
    if any(one.numerator <= 0 or one.denominator <= 0 for one in parts):
        return "has a share that is not more than nothing"
    total = sum((Fraction(one.numerator, one.denominator) for one in parts), Fraction(0))
    return "" if total == 1 else f"its shares sum to {total}"
