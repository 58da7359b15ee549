"""What each party sees of its orders: the conversion, who brought it, and where its money stands.

A publisher sees the conversions it is paid for, an advertiser those of its programs, a manager
all. Of a conversion that several publishers share each of them sees its own part, and nothing of
the others; who sees all parts has one line for them. Where a program masks order ids, a publisher
sees and searches the beginning of the conversion's own id instead: a keyed hash of the order id
that only this network can compute.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from commissions.models import Commission
from kernel.errors import NotFound, invalid
from network.access import Actor, scope_to_party
from network.models import Program, Role
from tracker.models import (
    Attribution,
    AttributionShare,
    ChangeKind,
    Conversion,
    ConversionChange,
    ConversionItem,
)

LIMIT_MAX = 1000
MASK_CHARS = 16
UNATTRIBUTED = "unattributed"
RECORDED = "recorded"


@dataclass(frozen=True, slots=True)
class Filters:
    """What to list; None is everything. The span of occurrence times is half-open."""

    program_id: str | None = None
    publisher_id: str | None = None
    order_id: str | None = None
    status: str | None = None
    event: str | None = None
    occurred_from: datetime | None = None
    occurred_to: datetime | None = None


@dataclass(frozen=True, slots=True)
class StatementLine:
    """One conversion as the actor may see it: its order id is masked already where that applies.

    The rows are detached copies where something is masked; nothing here writes back. `commission`
    is the publisher's own or the one that was asked for, otherwise that of the publisher for whom
    the conversion counts, and then `parts` are all of them where several share it, in the order of
    their shares. `click_id` is the publisher's own click of a conversion that counts for another.
    """

    conversion: Conversion
    attribution: Attribution | None
    commission: Commission | None
    refunded_minor: int
    parts: tuple[Commission, ...] = ()
    click_id: str | None = None

    @property
    def commission_minor(self) -> int:
        """What the commission amounts to: the whole one where all parts are in the line."""
        return sum(one.amount_minor for one in self._told)

    @property
    def uncapped_minor(self) -> int:
        """The same without caps and budget."""
        return sum(one.uncapped_minor for one in self._told)

    @property
    def is_shared(self) -> bool:
        """Whether publishers share the conversion."""
        return self.commission is not None and self.commission.share_denominator > 1

    @property
    def _told(self) -> tuple[Commission, ...]:
        return self.parts or ((self.commission,) if self.commission is not None else ())

    @property
    def status(self) -> str:
        """The commission's status; `unattributed`, or `recorded` while it is being worked on."""
        if self.commission is not None:
            return self.commission.status
        decided = self.attribution is not None and self.attribution.publisher_id is None
        return UNATTRIBUTED if decided else RECORDED

    @property
    def reason(self) -> str:
        """Why it stands where it stands, a reason code or empty."""
        if self.commission is not None:
            return self.commission.reason
        return self.attribution.reason if self.attribution is not None else ""


def page(
    session: Session, actor: Actor, *, filters: Filters, after_seq: int = 0, limit: int
) -> list[StatementLine]:
    """The next lines after `after_seq` (`conversion.seq` of the last one seen), ascending."""
    query = _query(actor, filters).where(col(Conversion.seq) > after_seq)
    return _lines(session, actor, query.order_by(col(Conversion.seq)).limit(_checked(limit)))


def newest(session: Session, actor: Actor, *, filters: Filters, limit: int) -> list[StatementLine]:
    """The lines recorded last, newest first."""
    query = _query(actor, filters).order_by(col(Conversion.seq).desc())
    return _lines(session, actor, query.limit(_checked(limit)))


def get(session: Session, actor: Actor, public_id: str) -> StatementLine:
    """The line of a conversion id or a commission id; NotFound for another party's as well."""
    query = _query(actor, Filters(), commission_id=public_id).where(
        sa.or_(col(Conversion.id) == public_id, col(Commission.id) == public_id)
    )
    lines = _lines(session, actor, query)
    if not lines:
        raise NotFound("no such conversion", kind="conversion")
    return lines[0]


def items(session: Session, conversion_id: str) -> list[ConversionItem]:
    """The order's lines in order; none for an order reported as one amount.

    Not scoped: ask `get` first whether the actor may see the conversion.
    """
    query = select(ConversionItem).where(ConversionItem.conversion_id == conversion_id)
    return list(session.exec(query.order_by(col(ConversionItem.line))))


def has_commission(session: Session, conversion_id: str) -> bool:
    """Whether a commission was booked for the conversion, of whatever amount. Not scoped."""
    query = select(Commission.conversion_id).where(Commission.conversion_id == conversion_id)
    return session.exec(query).first() is not None


def conditions(actor: Actor, filters: Filters) -> list[sa.ColumnElement[bool]]:
    """The filters as SQL over Conversion, Attribution, Commission and Program."""
    wanted: list[sa.ColumnElement[bool]] = []
    if filters.program_id is not None:
        wanted.append(col(Conversion.program_id) == filters.program_id)
    if filters.publisher_id is not None:
        wanted.append(col(Commission.publisher_id) == filters.publisher_id)
    if filters.order_id is not None:
        wanted.append(_order_is(actor, filters.order_id))
    if filters.status is not None:
        wanted.append(_status_is(filters.status))
    if filters.event is not None:
        wanted.append(col(Conversion.event) == filters.event)
    if filters.occurred_from is not None:
        wanted.append(col(Conversion.occurred_at) >= filters.occurred_from)
    if filters.occurred_to is not None:
        wanted.append(col(Conversion.occurred_at) < filters.occurred_to)
    return wanted


def _order_is(actor: Actor, order_id: str) -> sa.ColumnElement[bool]:
    plain = col(Conversion.order_id) == order_id
    if actor.role is not Role.PUBLISHER:
        return plain
    # Searching a masked program by the true id would tell a publisher whether a guess is right.
    masked = sa.func.substr(col(Conversion.id), 1, MASK_CHARS) == order_id
    return sa.or_(
        sa.and_(col(Program.masks_order_ids).is_(False), plain),
        sa.and_(col(Program.masks_order_ids).is_(True), masked),
    )


def _status_is(status: str) -> sa.ColumnElement[bool]:
    missing = col(Commission.conversion_id).is_(None)
    decided = col(Attribution.conversion_id).is_not(None)
    nobody = sa.and_(decided, col(Attribution.publisher_id).is_(None))
    if status == UNATTRIBUTED:
        return sa.and_(missing, nobody)
    if status == RECORDED:
        return sa.and_(missing, sa.not_(nobody))
    return col(Commission.status) == status


def _query(actor: Actor, filters: Filters, *, commission_id: str = "") -> Any:
    of_conversion = col(Commission.conversion_id) == col(Conversion.id)
    query: Any = (
        sa.select(Conversion, Attribution, Commission, col(Program.masks_order_ids))
        .join(Program, col(Program.id) == col(Conversion.program_id))
        .outerjoin(Attribution, col(Attribution.conversion_id) == col(Conversion.id))
        .outerjoin(Commission, sa.and_(of_conversion, _part_of(actor, filters, commission_id)))
        .where(*conditions(actor, filters))
    )
    scoped: Any = scope_to_party(
        query,
        actor,
        publisher=col(Commission.publisher_id),
        advertiser=col(Program.advertiser_id),
    )
    return scoped


def _part_of(actor: Actor, filters: Filters, commission_id: str) -> sa.ColumnElement[bool]:
    """Which commission of a conversion a line is about."""
    if actor.role is Role.PUBLISHER:
        return col(Commission.publisher_id) == actor.party_id
    if filters.publisher_id is not None:
        return col(Commission.publisher_id) == filters.publisher_id
    return sa.or_(col(Commission.part) == 0, col(Commission.id) == commission_id)


def _lines(session: Session, actor: Actor, query: Any) -> list[StatementLine]:
    rows = session.execute(query.execution_options(populate_existing=True)).all()
    refunded = _refunded(session, [conversion.id for conversion, *_ in rows])
    found = [commission for _, _, commission, _ in rows if commission is not None]
    shared = [one for one in found if one.share_denominator > 1]
    parts: dict[str, tuple[Commission, ...]] = {}
    clicks: dict[str, str] = {}
    if shared and actor.role is Role.PUBLISHER:
        clicks = _clicks(session, actor, shared)
    elif shared:
        parts = _parts(session, [one for one in shared if one.part == 0])
    return [
        StatementLine(
            _masked(conversion) if masks and actor.role is Role.PUBLISHER else conversion,
            attribution,
            commission,
            refunded.get(conversion.id, 0),
            parts.get(commission.id if commission is not None else "", ()),
            clicks.get(conversion.id),
        )
        for conversion, attribution, commission, masks in rows
    ]


def _parts(session: Session, leads: Sequence[Commission]) -> dict[str, tuple[Commission, ...]]:
    """All commissions of the conversions, by the id of their part 0."""
    found: dict[str, list[Commission]] = {}
    query = (
        select(Commission)
        .where(col(Commission.conversion_id).in_([one.conversion_id for one in leads]))
        .order_by(col(Commission.position))
        .execution_options(populate_existing=True)
    )
    for one in session.exec(query):
        found.setdefault(one.conversion_id, []).append(one)
    return {one.id: tuple(found[one.conversion_id]) for one in leads}


def _clicks(session: Session, actor: Actor, shared: Sequence[Commission]) -> dict[str, str]:
    """The publisher's own click of each of these conversions."""
    query = sa.select(col(AttributionShare.conversion_id), col(AttributionShare.click_id)).where(
        col(AttributionShare.conversion_id).in_([one.conversion_id for one in shared]),
        col(AttributionShare.publisher_id) == actor.party_id,
        col(AttributionShare.click_id).is_not(None),
    )
    return {row[0]: row[1] for row in session.execute(query)}


def _masked(conversion: Conversion) -> Conversion:
    facts = conversion.model_dump()
    return Conversion(**facts | {"order_id": conversion.id[:MASK_CHARS]})


def _refunded(session: Session, conversion_ids: Sequence[str]) -> dict[str, int]:
    query = (
        sa.select(
            col(ConversionChange.conversion_id), sa.func.sum(col(ConversionChange.amount_minor))
        )
        .where(
            col(ConversionChange.conversion_id).in_(conversion_ids),
            col(ConversionChange.kind) == ChangeKind.REFUND,
        )
        .group_by(col(ConversionChange.conversion_id))
    )
    return {conversion_id: int(minor) for conversion_id, minor in session.execute(query)}


def _checked(limit: int) -> int:
    if not 1 <= limit <= LIMIT_MAX:
        raise invalid("limit", "range", f"must be 1 to {LIMIT_MAX}")
    return limit
