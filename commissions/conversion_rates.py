"""The exchange rate of each order in another currency than its program's, fixed once.

An order without a rate is booked at nothing and waits (`rate_wanted`). When rates are published it
is tried again; the rate it then gets makes it an event of its own, `rated`, in the order of the
bookings.
"""

from collections.abc import Collection, Mapping, Sequence
from datetime import date, datetime
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

import sqlalchemy as sa
from sqlmodel import Session, col

from commissions import fx_rates
from commissions.fx_rates import Cross
from commissions.models import Commission, ConversionRate, RateWanted
from kernel import outbox
from network.models import Program
from tracker.models import Conversion

RATABLE: Final = "conversion.ratable"
ROWS_PER_LOOK: Final = 2_000
_IDS_PER_QUERY: Final = 500
_TABLES = ConversionRate.metadata.tables
_commission, _conversion, _program, _rate, _wanted = (
    _TABLES[str(model.__tablename__)]
    for model in (Commission, Conversion, Program, ConversionRate, RateWanted)
)
_IDS: sa.BindParameter[Any] = sa.bindparam("ids", expanding=True)
_PAIR = (
    sa.select(
        _conversion.c.id,
        _conversion.c.program_id,
        _conversion.c.currency,
        _program.c.currency.label("into"),
        _conversion.c.occurred_at,
        _program.c.timezone,
    )
    .join(_program, _program.c.id == _conversion.c.program_id)
    .where(_conversion.c.id.in_(_IDS), _conversion.c.currency != _program.c.currency)
)
# What is booked already has its rate, or waits for it and gets it as an event of its own.
_UNFIXED = (
    _PAIR.outerjoin(_rate, _rate.c.conversion_id == _conversion.c.id)
    .outerjoin(_commission, _commission.c.conversion_id == _conversion.c.id)
    .where(_rate.c.conversion_id.is_(None), _commission.c.conversion_id.is_(None))
)
_WAITING = sa.select(
    _wanted.c.conversion_id,
    _wanted.c.program_id,
    _wanted.c.currency,
    _wanted.c.into,
    _wanted.c.day,
)


class _Pair(NamedTuple):
    """An order to be converted, on its local day."""

    conversion_id: str
    program_id: str
    currency: str
    into: str
    day: date


def fix(session: Session, conversion_ids: Sequence[str], *, now: datetime) -> None:
    """Give their rates to those orders in another currency that are not booked and have none."""
    fx_rates.take_turn(session)
    # Asked only now: somebody may have fixed one while we waited for our turn.
    pairs = _pairs(session, _UNFIXED, conversion_ids)
    _keep(session, _found(session, pairs), waited=False, now=now)


def fix_waiting(session: Session, conversion_ids: Sequence[str], *, now: datetime) -> set[str]:
    """Give those of the waiting orders a rate for which there is one now; which they are."""
    rows: list[_Pair] = []
    for start in range(0, len(conversion_ids), _IDS_PER_QUERY):
        part = list(conversion_ids[start : start + _IDS_PER_QUERY])
        query = _WAITING.where(_wanted.c.conversion_id.in_(part)).with_for_update()
        rows += [_Pair(*row) for row in session.execute(query)]
    found = _found(session, rows)
    _keep(session, found, waited=True, now=now)
    rated = {one.conversion_id for one in found}
    if rated:
        session.execute(sa.delete(_wanted).where(_wanted.c.conversion_id.in_(sorted(rated))))
    return rated


def want(session: Session, conversion_ids: Sequence[str]) -> None:
    """Note that these orders are booked without a rate."""
    rows = [one._asdict() for one in _pairs(session, _PAIR, conversion_ids)]
    if rows:
        session.execute(sa.insert(_wanted), rows)


def is_waiting() -> sa.ColumnElement[bool]:
    """Whether a commission is nothing so far because its order waits for a rate."""
    return sa.exists().where(col(RateWanted.conversion_id) == col(Commission.conversion_id))


def announce(session: Session, after: str, *, now: datetime) -> int:
    """Have the waiting orders tried for which there is a rate now; how many they are.

    A look takes some thousand of them, those `after` the last one of the look before
    (`fx_rates.EVERY_ORDER` to begin with), and asks for the next one itself.
    """
    after_id = "" if after == fx_rates.EVERY_ORDER else after
    query = _WAITING.where(_wanted.c.conversion_id > after_id)
    query = query.order_by(_wanted.c.conversion_id).limit(ROWS_PER_LOOK)
    rows = [_Pair(*row) for row in session.execute(query)]
    found = _found(session, rows)
    for one in found:
        outbox.append(session, RATABLE, one.conversion_id, lane=one.program_id, now=now)
    if len(rows) == ROWS_PER_LOOK:
        last = rows[-1].conversion_id
        outbox.append(session, fx_rates.PUBLISHED, last, lane=fx_rates.LANE, now=now)
    return len(found)


def _pairs(session: Session, query: sa.Select[Any], ids: Sequence[str]) -> list[_Pair]:
    found: list[_Pair] = []
    for start in range(0, len(ids), _IDS_PER_QUERY):
        asked = {"ids": list(ids[start : start + _IDS_PER_QUERY])}
        for one, program_id, currency, into, at, zone in session.execute(query, asked):
            day = at.astimezone(ZoneInfo(zone)).date()
            found.append(_Pair(one, program_id, currency, into, day))
    return found


def _found(session: Session, pairs: Collection[_Pair]) -> dict[_Pair, Cross]:
    if not pairs:
        return {}
    currencies = {code for one in pairs for code in (one.currency, one.into)}
    days = [one.day for one in pairs]
    book = fx_rates.around(session, currencies, first=min(days), last=max(days))
    crosses = ((one, book.find(one.currency, one.into, one.day)) for one in pairs)
    return {one: cross for one, cross in crosses if cross is not None}


def _keep(session: Session, found: Mapping[_Pair, Cross], *, waited: bool, now: datetime) -> None:
    rows = [
        {
            "conversion_id": one.conversion_id,
            "program_id": one.program_id,
            "currency": one.currency,
            "into": one.into,
            "day": cross.day,
            "source": cross.source,
            "from_rate_id": cross.of.id,
            "from_rate": cross.of.rate,
            "to_rate_id": cross.to.id,
            "to_rate": cross.to.rate,
            "waited": waited,
            "fixed_at": now,
        }
        for one, cross in found.items()
    ]
    if rows:
        session.execute(sa.insert(_rate), rows)
