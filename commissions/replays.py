"""What was booked, read back as the events the rules price.

The bookings in their order are the event log: each says that an order came in, or what happened
to one. A plan version is evaluated over all orders of its window, those of other versions included,
so that counters go on when a plan changes in the middle of a month, and each order takes its amount
from its own version.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session

from commissions.choosing import Prepared, prepare, rate_of
from commissions.folding import collect
from commissions.models import Booking, Commission
from commissions.rules import (
    Change,
    Event,
    EventError,
    Line,
    Order,
    Plan,
    Priced,
    evaluate,
)
from kernel.errors import NotFound
from kernel.money import allocate, round_fraction, sum_exact
from network.models import Program
from tracker.attribution import NotAttributed
from tracker.models import Attribution, Conversion, ConversionChange, ConversionItem

EVENT_KINDS = ("accrue", "hold", "release", "void", "refund", "cancel", "decline", "approve")


# The statements of every batch of orders. Built once and without entities, because building costs
# more than asking; those about booked orders take their conditions with `where`.
_TABLES = Booking.metadata.tables
_attribution, _booking, _change, _commission, _conversion, _item, _program = (
    _TABLES[str(model.__tablename__)]
    for model in (
        Attribution,
        Booking,
        ConversionChange,
        Commission,
        Conversion,
        ConversionItem,
        Program,
    )
)
_ORDER = sa.select(
    _conversion.c.id,
    _conversion.c.seq,
    _conversion.c.program_id,
    _conversion.c.occurred_at,
    _conversion.c.received_at,
    _conversion.c.imported,
    _conversion.c.is_test,
    _conversion.c.currency,
    _conversion.c.amount_minor.label("order_minor"),
    _conversion.c.country,
    _conversion.c.customer,
    _conversion.c.coupon,
    _conversion.c.reported_status,
    _attribution.c.click_country.label("country_click"),
).outerjoin(_attribution, _attribution.c.conversion_id == _conversion.c.id)
_ITEMS = sa.select(
    _item.c.conversion_id,
    _item.c.line,
    _item.c.amount_minor,
    _item.c.quantity,
    _item.c.category,
    _item.c.sku,
).order_by(_item.c.conversion_id, _item.c.line)
_INTAKE = (
    _ORDER.add_columns(
        _attribution.c.conversion_id.label("attributed_id"),
        _attribution.c.publisher_id,
        _program.c.advertiser_id,
        _program.c.currency.label("program_currency"),
        _program.c.hold_days,
    )
    .join(_program, _program.c.id == _conversion.c.program_id)
    .where(_conversion.c.id.in_(sa.bindparam("conversion_ids", expanding=True)))
)
_INTAKE_ITEMS = _ITEMS.where(
    _item.c.conversion_id.in_(sa.bindparam("conversion_ids", expanding=True))
)
IDS_MAX = 500
_BOOKED = _ORDER.add_columns(
    _commission.c.publisher_id,
    _commission.c.plan_version_id,
    _commission.c.amount_minor,
).join(_commission, _commission.c.conversion_id == _conversion.c.id)
_BOOKED_ITEMS = _ITEMS.join(_commission, _commission.c.conversion_id == _item.c.conversion_id)
_HAPPENED = (
    sa.select(
        _booking.c.conversion_id,
        _booking.c.kind,
        _booking.c.at,
        _change.c.line,
        _change.c.amount_minor,
        _change.c.quantity,
        _change.c.received_at,
        _change.c.occurred_at,
        _conversion.c.imported,
        _booking.c.key,
        _conversion.c.received_at.label("order_received_at"),
        _conversion.c.occurred_at.label("order_occurred_at"),
    )
    .join(_commission, _commission.c.conversion_id == _booking.c.conversion_id)
    .join(_conversion, _conversion.c.id == _booking.c.conversion_id)
    .outerjoin(_change, _change.c.id == _booking.c.key)
    .where(_booking.c.kind.in_(EVENT_KINDS))
    .order_by(_booking.c.seq)
)


@dataclass(frozen=True, slots=True)
class Happening:
    """One event of one order. `line` is the advertiser's line number, None for the whole order."""

    conversion_id: str
    kind: str
    known_at: datetime
    line: int | None = None
    amount_minor: int = 0
    quantity: int = 0


@dataclass(frozen=True, slots=True)
class Fact:
    """An order as the rules see it; `lines` finds a line by the advertiser's number for it."""

    order: Order
    seq: int
    program_id: str
    lines: Mapping[int, int]
    reported_status: str
    is_test: bool = False


@dataclass(frozen=True, slots=True)
class Terms:
    """Who pays for a program's orders, in which currency, and how many days they wait."""

    advertiser_id: str
    currency: str
    hold_days: int


@dataclass(slots=True)
class Story:
    """Orders with what happened to them, in booking order.

    `versions` and `amounts` are the pinned plan version and the booked amount of each order.
    """

    facts: dict[str, Fact] = field(default_factory=dict)
    happenings: list[Happening] = field(default_factory=list)
    versions: dict[str, str | None] = field(default_factory=dict)
    amounts: dict[str, int] = field(default_factory=dict)


class Telling:
    """Turns happenings into the events the rules take, one after the other.

    A refund of more than is left takes what is left.
    """

    def __init__(self) -> None:
        self._left: dict[str, list[int]] = {}
        self._pieces: dict[str, list[int]] = {}

    def events(self, fact: Fact, one: Happening) -> list[Event]:
        """The events of the next thing that happened to an order."""
        if one.kind == "accrue":
            self._left[one.conversion_id] = [line.net_minor for line in fact.order.lines]
            self._pieces[one.conversion_id] = [line.qty for line in fact.order.lines]
            return [fact.order]
        if one.kind == "refund":
            left, pieces = self._left[one.conversion_id], self._pieces[one.conversion_id]
            return list(_refunds(fact, one, left, pieces))
        # What a manager has found not genuine must not come back by a later approval; only a
        # cancellation is final to the rules.
        kind = "cancel" if one.kind == "void" else one.kind
        return [Change(kind, one.conversion_id, one.known_at)]


def intake(session: Session, conversion_ids: Sequence[str]) -> dict[str, tuple[Fact, Terms]]:
    """The orders of these conversions, before anything is booked for them, and their terms.

    The publisher is the attributed one, empty when there is none. NotFound for an unknown
    conversion, NotAttributed for one too fresh.
    """
    found: dict[str, tuple[Fact, Terms]] = {}
    for start in range(0, len(conversion_ids), IDS_MAX):
        asked = {"conversion_ids": list(conversion_ids[start : start + IDS_MAX])}
        items = _by_order(session.execute(_INTAKE_ITEMS, asked))
        for row in session.execute(_INTAKE, asked):
            if row.attributed_id is None:
                raise NotAttributed("the conversion has not been attributed yet")
            fact = _fact(row, row.publisher_id or "", items.get(row.id, ()))
            terms = Terms(row.advertiser_id, row.program_currency, row.hold_days)
            found[row.id] = fact, terms
    if not all(one in found for one in conversion_ids):
        raise NotFound("no such conversion", kind="conversion")
    return found


def load(session: Session, *where: sa.ColumnElement[bool]) -> Story:
    """The booked orders whose commissions meet the conditions, with all that happened to them."""
    story = Story()
    items = _by_order(session.execute(_BOOKED_ITEMS.where(*where)))
    for row in session.execute(_BOOKED.where(*where)):
        fact = _fact(row, row.publisher_id, items.get(row.id, ()))
        story.facts[row.id] = fact
        story.versions[row.id] = row.plan_version_id
        story.amounts[row.id] = row[-1]
    story.happenings = list(_happenings(session, where))
    return story


def events(story: Story) -> list[Event]:
    """The story as the rules take it."""
    telling = Telling()
    return [
        event
        for one in story.happenings
        for event in telling.events(story.facts[one.conversion_id], one)
    ]


def told(fact: Fact, happenings: Iterable[Happening]) -> list[Event]:
    """What happened to one order, as the rules take it."""
    telling = Telling()
    return [event for one in happenings for event in telling.events(fact, one)]


def price(plan: Plan, found: Sequence[Event]) -> dict[str, Priced]:
    """`evaluate` without the orders whose currency the plan cannot convert; they get no entry."""
    unknown = {one.id for one in found if isinstance(one, Order) and not convertible(plan, one)}
    if unknown:
        found = [
            one
            for one in found
            if not (
                (isinstance(one, Order) and one.id in unknown)
                or (isinstance(one, Change) and one.conversion in unknown)
            )
        ]
    return evaluate(plan, found)


def counted(plan: Plan, found: Sequence[Event]) -> tuple[int, int]:
    """(base in minor units, units) that the one order of the events adds to counters."""
    (one,) = collect(plan, found) if _all_convertible(plan, found) else (None,)
    if one is None:
        return 0, 0
    return size_of(prepare(plan, one.known(one.freeze_at), on_time=one.on_time))


def size_of(prepared: Prepared) -> tuple[int, int]:
    """(base in minor units, units) that an order adds to counters."""
    if not prepared.counted:
        return 0, 0
    alive = [line for line in prepared.figures if line.alive]
    base = sum_exact([line.net for line in alive])
    return round_fraction(base), sum([line.qty for line in alive])


def convertible(plan: Plan, order: Order) -> bool:
    """Whether the plan can say what the order is worth in its own currency."""
    if order.currency == plan.currency:
        return True
    try:
        rate_of(plan, order)
    except EventError:
        return False
    return True


def restates(plan: Plan) -> bool:
    """Whether an order added at the end can change the amount of an earlier one, or of itself."""
    return plan.spends or any(tiers.mode != "graduated" for _, tiers in plan.counting)


def independent(plan: Plan) -> bool:
    """Whether every order is priced on its own: no counter, no cap, nothing awarded once."""
    return not restates(plan) and not plan.counting


def shared(plan: Plan) -> bool:
    """Whether one publisher's orders move the amounts of another's."""
    return plan.caps.in_all or any("publisher" not in one.scope for _, one in plan.counting)


def group(
    program_id: str,
    publisher_ids: Sequence[str] | None,
    span: tuple[datetime | None, datetime | None],
) -> list[sa.ColumnElement[bool]]:
    """The commissions evaluated together: of a program or some publishers of it, in a span."""
    start, end = span
    where = [
        _commission.c.program_id == program_id,
        _commission.c.plan_version_id.is_not(None),
    ]
    if publisher_ids is not None:
        where.append(_commission.c.publisher_id.in_(publisher_ids))
    if start is not None:
        where.append(_commission.c.occurred_at >= start)
    if end is not None:
        where.append(_commission.c.occurred_at < end)
    return where


def _by_order(items: Iterable[Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for item in items:
        found.setdefault(item.conversion_id, []).append(item)
    return found


def _fact(row: Any, publisher_id: str, items: Sequence[Any]) -> Fact:
    lines = [
        Line(
            item.amount_minor,
            qty=item.quantity,
            category=item.category or None,
            sku=item.sku or None,
        )
        for item in items
    ] or [Line(row.order_minor)]
    countries = {"country": row.country, "country_click": row.country_click}
    order = Order(
        id=row.id,
        publisher=publisher_id,
        at=row.occurred_at,
        lines=tuple(lines),
        # An order imported with the history of a network was known then, not today.
        known_at=row.occurred_at if row.imported else row.received_at,
        currency=row.currency,
        countries={name: country for name, country in countries.items() if country},
        customer=row.customer,
        coupon=row.coupon,
    )
    numbers = {item.line: at for at, item in enumerate(items)}
    return Fact(order, row.seq, row.program_id, numbers, row.reported_status, is_test=row.is_test)


def _happenings(session: Session, where: Sequence[sa.ColumnElement[bool]]) -> Iterator[Happening]:
    for row in session.execute(_HAPPENED.where(*where)):
        yield Happening(
            row.conversion_id,
            row.kind,
            _told_at(row),
            row.line,
            row.amount_minor or 0,
            row.quantity or 0,
        )


def _told_at(row: Any) -> datetime:
    """When what was booked became known."""
    if row.key.startswith("reported:"):
        # An order that came in decided was known to be, whenever it was booked.
        at = row.order_occurred_at if row.imported else row.order_received_at
    else:
        at = row.occurred_at if row.imported else row.received_at
    known: datetime = at or row.at
    return known


def _refunds(fact: Fact, one: Happening, left: list[int], pieces: list[int]) -> Iterator[Change]:
    """A refund by line. Without a line it is spread over what is left, by largest remainder."""
    if one.line is None and len(left) > 1:
        total = min(one.amount_minor, sum(left))
        parts = allocate(total, left) if total else [0] * len(left)
        quantities = [0] * len(left)
    else:
        at = fact.lines.get(one.line, 0) if one.line is not None else 0
        parts = [0] * len(left)
        quantities = [0] * len(left)
        parts[at] = min(one.amount_minor, left[at])
        quantities[at] = min(one.quantity, pieces[at])
    for at, (amount_minor, quantity) in enumerate(zip(parts, quantities, strict=True)):
        if amount_minor or quantity:
            left[at] -= amount_minor
            pieces[at] -= quantity
            yield Change("refund", one.conversion_id, one.known_at, at, amount_minor, quantity)


def _all_convertible(plan: Plan, found: Sequence[Event]) -> bool:
    return all(convertible(plan, one) for one in found if isinstance(one, Order))
