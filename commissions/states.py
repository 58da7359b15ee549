"""Where commissions stand, as plain rows: read, changed and written many at a time.

The pipeline changes thousands of them in one transaction; an entity each would cost more than
deciding what becomes of it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session

from commissions.models import Commission
from kernel import bulk

_IDS_MAX = 500


@dataclass(slots=True, kw_only=True)
class State:
    """A row of `Commission`. A status that is empty: nothing was booked for it before."""

    conversion_id: str
    id: str
    seq: int
    program_id: str
    publisher_id: str
    advertiser_id: str
    currency: str
    plan_version_id: str | None
    status: str
    reason: str
    occurred_at: datetime
    lock_at: datetime
    base_minor: int
    units: int
    amount_minor: int
    claimed_minor: int
    updated_at: datetime


_commission = Commission.metadata.tables["commission"]
_NAMES = tuple(one.name for one in fields(State))
_CHANGING = ("status", "reason", "base_minor", "units", "amount_minor", "updated_at")
_COLUMNS = sa.select(*(_commission.c[name] for name in _NAMES))
_BY_ID = _COLUMNS.where(
    _commission.c.conversion_id.in_(sa.bindparam("conversion_ids", expanding=True))
)
_INSERT = bulk.Insert(_commission, *_NAMES)
_UPDATE = (
    sa.update(_commission)
    .where(_commission.c.conversion_id == sa.bindparam("of"))
    .values({name: sa.bindparam(name, type_=_commission.c[name].type) for name in _CHANGING})
)


def load(session: Session, conversion_ids: Sequence[str]) -> dict[str, State]:
    """The commissions of these conversions, by conversion; those without one have no entry."""
    found: dict[str, State] = {}
    for start in range(0, len(conversion_ids), _IDS_MAX):
        asked = {"conversion_ids": list(conversion_ids[start : start + _IDS_MAX])}
        found |= {one.conversion_id: one for one in _read(session, _BY_ID, asked)}
    return found


def find(session: Session, *where: sa.ColumnElement[bool], limit: int) -> list[State]:
    """The first commissions by lock date that meet the conditions."""
    ordered = _COLUMNS.where(*where).order_by(_commission.c.lock_at, _commission.c.seq)
    return _read(session, ordered.limit(limit), {})


def insert(session: Session, states: Iterable[State]) -> None:
    """Write commissions that were booked for the first time."""
    rows = [{name: getattr(one, name) for name in _NAMES} for one in states]
    _INSERT(session, rows)


def update(session: Session, states: Iterable[State]) -> None:
    """Write what can change of commissions that are there."""
    rows = [
        {"of": one.conversion_id, **{name: getattr(one, name) for name in _CHANGING}}
        for one in states
    ]
    if rows:
        session.execute(_UPDATE, rows)


def _read(session: Session, query: sa.Select[Any], asked: dict[str, Any]) -> list[State]:
    rows = session.execute(query, asked)
    return [State(**dict(zip(_NAMES, row, strict=True))) for row in rows]
