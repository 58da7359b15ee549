"""Where commissions stand, as plain rows: read, changed and written many at a time.

The pipeline changes thousands of them in one transaction; an entity each would cost more than
deciding what becomes of it.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from datetime import datetime
from fractions import Fraction
from operator import attrgetter
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session

from commissions.models import Commission
from kernel import bulk
from kernel.money import allocate

_IDS_MAX = 500


@dataclass(slots=True, kw_only=True)
class State:
    """A row of `Commission`. A status that is empty: nothing was booked for it before.

    Part 0, for whose publisher the conversion counts, stands for the whole conversion: what happens
    to it happens to the `others` too, in the order of their parts.
    """

    conversion_id: str
    part: int = 0
    id: str
    seq: int
    position: int = 0
    share_numerator: int = 1
    share_denominator: int = 1
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
    uncapped_minor: int = 0
    updated_at: datetime
    others: tuple["State", ...] = ()

    @property
    def everyone(self) -> tuple["State", ...]:
        """The commissions of all publishers that share the conversion, this one first."""
        return (self, *self.others) if self.others else (self,)

    @property
    def whole_minor(self) -> int:
        """What all of them amount to."""
        if not self.others:
            return self.amount_minor
        return sum([one.amount_minor for one in self.everyone])

    def split(self, total_minor: int) -> list[int]:
        """The parts of an amount for `everyone`, by largest remainder in the order of shares."""
        if not self.others:
            return [total_minor]
        ordered = sorted(self.everyone, key=lambda one: one.position)
        weights = [Fraction(one.share_numerator, one.share_denominator) for one in ordered]
        parts = allocate(total_minor, weights)
        found = {one.part: part for one, part in zip(ordered, parts, strict=True)}
        return [found[one.part] for one in self.everyone]


_commission = Commission.metadata.tables["commission"]
_NAMES = tuple(one.name for one in fields(State) if one.name != "others")
_CHANGING = (
    *("status", "reason", "base_minor", "units", "amount_minor", "uncapped_minor"),
    "updated_at",
)
_COLUMNS = sa.select(*(_commission.c[name] for name in _NAMES))
_BY_ID = _COLUMNS.where(
    _commission.c.conversion_id.in_(sa.bindparam("conversion_ids", expanding=True))
).order_by(_commission.c.conversion_id, _commission.c.part)
_values = attrgetter(*_NAMES)
_INSERT = bulk.Insert(_commission, *_NAMES)
_UPDATE = (
    sa.update(_commission)
    .where(
        _commission.c.conversion_id == sa.bindparam("of"),
        _commission.c.part == sa.bindparam("of_part"),
    )
    .values({name: sa.bindparam(name, type_=_commission.c[name].type) for name in _CHANGING})
)


def load(session: Session, conversion_ids: Sequence[str]) -> dict[str, State]:
    """The commissions of these conversions, part 0 by conversion; those without have no entry."""
    found: dict[str, State] = {}
    for start in range(0, len(conversion_ids), _IDS_MAX):
        asked = {"conversion_ids": list(conversion_ids[start : start + _IDS_MAX])}
        for one in _read(session, _BY_ID, asked):
            if one.part == 0:
                found[one.conversion_id] = one
            else:
                found[one.conversion_id].others += (one,)
    return found


def find(session: Session, *where: sa.ColumnElement[bool], limit: int) -> list[State]:
    """The first commissions by lock date that meet the conditions, each part by itself."""
    ordered = _COLUMNS.where(*where).order_by(_commission.c.lock_at, _commission.c.seq)
    return _read(session, ordered.limit(limit), {})


def insert(session: Session, states: Iterable[State]) -> None:
    """Write commissions that were booked for the first time."""
    _INSERT.rows(session, [_values(one) for one in states])


def update(session: Session, states: Iterable[State]) -> None:
    """Write what can change of commissions that are there."""
    rows = [
        {"of": one.conversion_id, "of_part": one.part}
        | {name: getattr(one, name) for name in _CHANGING}
        for one in states
    ]
    if rows:
        session.execute(_UPDATE, rows)


def _read(session: Session, query: sa.Select[Any], asked: dict[str, Any]) -> list[State]:
    rows = session.execute(query, asked)
    return [State(**dict(zip(_NAMES, row, strict=True))) for row in rows]
