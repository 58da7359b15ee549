"""What was booked, read back as the events the rules price.

The bookings in their order are the event log: each says that an order came in, or what happened
to one. A plan version is evaluated over all orders of its window, those of other versions included,
so that counters go on when a plan changes in the middle of a month, and each order takes its amount
from its own version.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session

from commissions import shares
from commissions.choosing import Prepared, prepare, rate_of
from commissions.folding import collect
from commissions.models import Booking, Commission, ConversionRate, RateWanted
from commissions.order_events import Share, StoredRate
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
from commissions.telling import RATED, Fact, Happening, Story, Telling, Terms
from kernel.errors import NotFound
from kernel.money import round_fraction, sum_exact
from network.models import Program
from tracker.attribution import NotAttributed
from tracker.models import (
    Attribution,
    AttributionShare,
    Conversion,
    ConversionChange,
    ConversionItem,
)

EVENT_KINDS = ("accrue", "hold", "release", "void", "refund", "cancel", "decline", "approve", RATED)


COUNTRY_FIELDS = ("country", "country_billing", "country_site", "country_click")
_ZERO = Fraction(0)
# The statements of every batch of orders. Built once and without entities, because building costs
# more than asking; those about booked orders take their conditions with `where`.
_TABLES = Booking.metadata.tables
(
    _attribution,
    _booking,
    _change,
    _commission,
    _conversion,
    _item,
    _program,
    _share,
    _rate,
    _wanted,
) = (
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
        ConversionRate,
        RateWanted,
    )
)
_ORDER = (
    sa.select(
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
        _conversion.c.site,
        _conversion.c.country_billing,
        _conversion.c.country_site,
        _attribution.c.click_country.label("country_click"),
        _attribution.c.click_device,
        _attribution.c.publisher_id.label("attributed_to"),
        _attribution.c.publisher_groups,
        _attribution.c.months_since_first,
        _rate.c.from_rate,
        _rate.c.to_rate,
        _rate.c.day.label("rate_day"),
        _rate.c.source.label("rate_source"),
        sa.or_(_rate.c.waited, _wanted.c.conversion_id.is_not(None)).label("waits"),
    )
    .outerjoin(_attribution, _attribution.c.conversion_id == _conversion.c.id)
    .outerjoin(_rate, _rate.c.conversion_id == _conversion.c.id)
    .outerjoin(_wanted, _wanted.c.conversion_id == _conversion.c.id)
)
_ITEMS = sa.select(
    _item.c.conversion_id,
    _item.c.line,
    _item.c.amount_minor,
    _item.c.quantity,
    _item.c.category,
    _item.c.sku,
    _item.c.vat_percent,
    _item.c.revenue_minor,
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
# The same of orders by their ids. That an order came in is all there is to know of its `accrue`.
_IDS: sa.BindParameter[Any] = sa.bindparam("conversion_ids", expanding=True)
_BOOKED_OF = _BOOKED.where(_conversion.c.id.in_(_IDS))
_ITEMS_OF = _ITEMS.where(_item.c.conversion_id.in_(_IDS))
_ACCRUED_OF = sa.select(_booking.c.conversion_id).where(
    _booking.c.conversion_id.in_(_IDS), _booking.c.kind == "accrue", _booking.c.part == 0
)
_FOLLOWED_OF = _HAPPENED.where(_booking.c.conversion_id.in_(_IDS), _booking.c.kind != "accrue")


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
    items = _by_order(session.execute(_BOOKED_ITEMS.where(*where)).all())
    rows = session.execute(_BOOKED.where(*where)).all()
    story = _story(session, rows, items)
    story.happenings = list(_happenings(session.execute(_HAPPENED.where(*where))))
    return story


def load_each(session: Session, conversion_ids: Sequence[str]) -> Story:
    """`load` of at most IDS_MAX orders whose events are told each on its own.

    The happenings are in booking order within each order, and not across orders.
    """
    asked = {"conversion_ids": list(conversion_ids)}
    items = _by_order(session.execute(_ITEMS_OF, asked))
    story = _story(session, session.execute(_BOOKED_OF, asked).all(), items)
    story.happenings = [
        Happening(one, "accrue", story.facts[one].order.known_at)
        for one in session.execute(_ACCRUED_OF, asked).scalars()
        if one in story.facts
    ]
    story.happenings += _happenings(session.execute(_FOLLOWED_OF, asked))
    return story


def _story(session: Session, rows: Sequence[Any], items: Mapping[str, Sequence[Any]]) -> Story:
    story = Story()
    parts = _booked_parts(session, [row.id for row in rows if row.share_denominator > 1])
    for row in rows:
        shared = parts.get(row.id, ())
        fact = _fact(row, row.publisher_id, items.get(row.id, ()), _shares(shared))
        story.facts[row.id] = fact
        story.versions[row.id] = row.plan_version_id
        story.amounts[row.id] = sum([one[-1] for one in shared]) if shared else row[-1]
        if shared:
            story.payees[row.id] = {one.publisher_id: one[-1] for one in shared}
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
    """What happened to one order, as the rules take it, also while it waits for a rate."""
    telling = Telling()
    fact = replace(fact, waits=False)
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
    lines = [_line(item) for item in items] or [Line(row.order_minor)]
    countries = {name: getattr(row, name) for name in COUNTRY_FIELDS}
    # What was kept is about whoever the order is attributed to, not the owner of a plan's coupon.
    is_own = publisher_id == row.attributed_to
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
        device=row.click_device,
        site=row.site,
        publisher_groups=tuple(row.publisher_groups or ()) if is_own else (),
        months_since_first=row.months_since_first if is_own else None,
        rate=_stored_rate(row),
    )
    numbers = {item.line: at for at, item in enumerate(items)}
    return Fact(
        order,
        row.seq,
        row.program_id,
        numbers,
        row.reported_status,
        is_test=row.is_test,
        waits=bool(row.waits),
        imported=row.imported,
    )


def _line(item: Any) -> Line:
    has_vat = item.vat_percent is not None
    return Line(
        0 if has_vat else item.amount_minor,
        gross_minor=item.amount_minor if has_vat else None,
        vat_percent=Fraction(item.vat_percent) if has_vat else _ZERO,
        revenue_minor=item.revenue_minor,
        qty=item.quantity,
        category=item.category or None,
        sku=item.sku or None,
    )


def _stored_rate(row: Any) -> StoredRate | None:
    if row.to_rate is None:
        return None
    value = Fraction(row.to_rate) / Fraction(row.from_rate)
    return StoredRate(value, row.rate_day.isoformat(), row.rate_source)


def _happenings(rows: Iterable[Any]) -> Iterator[Happening]:
    for row in rows:
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


def _all_convertible(plan: Plan, found: Sequence[Event]) -> bool:
    return all(convertible(plan, one) for one in found if isinstance(one, Order))
