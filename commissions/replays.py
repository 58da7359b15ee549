"""What was booked, read back as the events the rules price.

The bookings in their order are the event log: each says that an order came in, or what happened
to one. A plan version is evaluated over all orders of its window, those of other versions included,
so that counters go on when a plan changes in the middle of a month, and each order takes its amount
from its own version.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session

from commissions import shares
from commissions.choosing import Prepared, prepare, rate_of
from commissions.folding import collect
from commissions.models import Booking, Commission
from commissions.order_events import Share
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
from tracker.models import (
    Attribution,
    AttributionShare,
    Conversion,
    ConversionChange,
    ConversionItem,
)

EVENT_KINDS = ("accrue", "hold", "release", "void", "refund", "cancel", "decline", "approve")


# The statements of every batch of orders. Built once and without entities, because building costs
# more than asking; those about booked orders take their conditions with `where`.
_TABLES = Booking.metadata.tables
_attribution, _booking, _change, _commission, _conversion, _item, _program, _share = (
    _TABLES[str(model.__tablename__)]
    for model in (
        Attribution,
        Booking,
        ConversionChange,
        Commission,
        Conversion,
        ConversionItem,
        Program,
        AttributionShare,
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
    _commission.c.share_denominator,
    _commission.c.amount_minor,
).join(
    _commission, sa.and_(_commission.c.conversion_id == _conversion.c.id, _commission.c.part == 0)
)
_BOOKED_ITEMS = _ITEMS.join(
    _commission,
    sa.and_(_commission.c.conversion_id == _item.c.conversion_id, _commission.c.part == 0),
)
_BOOKED_PARTS = (
    sa.select(
        _commission.c.conversion_id,
        _commission.c.publisher_id,
        _commission.c.share_numerator,
        _commission.c.share_denominator,
        _commission.c.amount_minor,
    )
    .where(_commission.c.conversion_id.in_(sa.bindparam("conversion_ids", expanding=True)))
    .order_by(_commission.c.conversion_id, _commission.c.position)
)
# Nearly every order is somebody's whole, and is not asked about.
_INTAKE_SHARES = (
    sa.select(
        _share.c.conversion_id, _share.c.publisher_id, _share.c.numerator, _share.c.denominator
    )
    .where(
        _share.c.conversion_id.in_(sa.bindparam("conversion_ids", expanding=True)),
        _share.c.denominator > 1,
    )
    .order_by(_share.c.conversion_id, _share.c.position)
)
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
    .join(
        _commission,
        sa.and_(_commission.c.conversion_id == _booking.c.conversion_id, _commission.c.part == 0),
    )
    .join(_conversion, _conversion.c.id == _booking.c.conversion_id)
    .outerjoin(_change, _change.c.id == _booking.c.key)
    # What is booked for the other parts of a conversion is the same event once more.
    .where(_booking.c.part == 0, _booking.c.kind.in_(EVENT_KINDS))
    .order_by(_booking.c.seq)
)


class Happening(NamedTuple):
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


class Terms(NamedTuple):
    """Who pays for a program's orders, in which currency, and how many days they wait."""

    advertiser_id: str
    currency: str
    hold_days: int


@dataclass(slots=True)
class Story:
    """Orders with what happened to them, in booking order.

    `versions` and `amounts` are the pinned plan version and the booked amount of each order, and
    `payees` what is booked for each publisher of those that several share.
    """

    facts: dict[str, Fact] = field(default_factory=dict)
    happenings: list[Happening] = field(default_factory=list)
    versions: dict[str, str | None] = field(default_factory=dict)
    amounts: dict[str, int] = field(default_factory=dict)
    payees: dict[str, dict[str, int]] = field(default_factory=dict)


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
        # All at once: the driver is asked for every single row otherwise.
        items = _by_order(session.execute(_INTAKE_ITEMS, asked).all())
        parts = _by_order(session.execute(_INTAKE_SHARES, asked).all())
        for row in session.execute(_INTAKE, asked).all():
            if row.attributed_id is None:
                raise NotAttributed("the conversion has not been attributed yet")
            shared = _shares(parts[row.id], row.publisher_id) if row.id in parts else ()
            fact = _fact(row, row.publisher_id or "", items.get(row.id, ()), shared)
            terms = Terms(row.advertiser_id, row.program_currency, row.hold_days)
            found[row.id] = fact, terms
    if not all(one in found for one in conversion_ids):
        raise NotFound("no such conversion", kind="conversion")
    return found


def load(session: Session, *where: sa.ColumnElement[bool]) -> Story:
    """The booked orders whose commissions meet the conditions, with all that happened to them."""
    story = Story()
    items = _by_order(session.execute(_BOOKED_ITEMS.where(*where)).all())
    rows = session.execute(_BOOKED.where(*where)).all()
    parts = _booked_parts(session, [row.id for row in rows if row.share_denominator > 1])
    for row in rows:
        shared = parts.get(row.id, ())
        fact = _fact(row, row.publisher_id, items.get(row.id, ()), _shares(shared))
        story.facts[row.id] = fact
        story.versions[row.id] = row.plan_version_id
        story.amounts[row.id] = sum([one[-1] for one in shared]) if shared else row[-1]
        if shared:
            story.payees[row.id] = {one.publisher_id: one[-1] for one in shared}
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
    if len(alive) == len(prepared.figures):
        base = prepared.total
    else:
        base = sum_exact([line.net for line in alive])
    base_minor = base.numerator if base.denominator == 1 else round_fraction(base)
    return base_minor, sum([line.qty for line in alive])


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
    if plan.publisher_cap_minor is not None or plan.budget_minor is not None:
        return True
    if any(rule.bonus and rule.bonus.awarded_once for rule in plan.bonus_rules):
        return True
    tiers = [rule.tiers for rule in plan.base_rules if rule.tiers and rule.tiers.counted]
    return any(one.mode != "graduated" for one in tiers)


def independent(plan: Plan) -> bool:
    """Whether every order is priced on its own: no counter, no cap, nothing awarded once."""
    return not restates(plan) and not any(
        rule.tiers and rule.tiers.counted for rule in plan.base_rules
    )


def shared(plan: Plan) -> bool:
    """Whether one publisher's orders move the amounts of another's."""
    counters = [rule.tiers for rule in plan.base_rules if rule.tiers and rule.tiers.counted]
    return plan.budget_minor is not None or any("publisher" not in one.scope for one in counters)


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


def _booked_parts(session: Session, conversion_ids: Sequence[str]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for start in range(0, len(conversion_ids), IDS_MAX):
        asked = {"conversion_ids": list(conversion_ids[start : start + IDS_MAX])}
        found |= _by_order(session.execute(_BOOKED_PARTS, asked))
    return found


def _shares(parts: Sequence[Any], payee: str | None = None) -> tuple[Share, ...]:
    """What stands beside one another in rows (conversion, publisher, numerator, denominator)."""
    if payee is not None and not any(one[1] == payee for one in parts):
        # Whoever the order counts for is one of those that share it, or has it whole.
        return ()
    return shares.weighed([(one[1], one[2], one[3]) for one in parts])


def _fact(
    row: Any, publisher_id: str, items: Sequence[Any], shared: tuple[Share, ...] = ()
) -> Fact:
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
        shares=shared,
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
