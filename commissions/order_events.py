"""The events commission is computed from, and what is left of an order after them. Pure.

An order is what an advertiser reported; refunds, cancellations and decisions follow it. Events
are kept in the order they were booked; `reduce_order` is the only place that folds them.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from fractions import Fraction
from typing import Any, NamedTuple
from zoneinfo import ZoneInfo

from commissions.reading import Problems, Reader
from commissions.tiers import Number, plain
from kernel.money import EXPONENTS, round_fraction

MAX_LINES = 1000
MAX_SHARES = 100
MAX_QTY = 10**9
CHANGES = frozenset({"refund", "cancel", "approve", "decline", "hold", "release"})


class EventError(ValueError):
    """An event that cannot be priced; `problems` lists (path, reason) and nothing was computed."""

    def __init__(self, problems: Iterable[tuple[str, str]]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(f"{path}: {reason}" for path, reason in self.problems))


@dataclass(frozen=True, slots=True)
class Line:
    """One order line as reported, in the order's currency.

    Either `net_minor`, or `gross_minor` with `vat_percent`. `qty` units.
    """

    net_minor: int = 0
    gross_minor: int | None = None
    vat_percent: Fraction = Fraction(0)
    revenue_minor: int | None = None
    qty: int = 1
    category: str | None = None
    sku: str | None = None

    @property
    def reported_minor(self) -> int:
        """The figure refunds are given in: gross where the advertiser reports gross."""
        if self.gross_minor is not None:
            return self.gross_minor
        if self.net_minor == 0 and self.revenue_minor is not None:
            return self.revenue_minor
        return self.net_minor

    @property
    def derived_net_minor(self) -> int:
        """Its amount without tax: rounded, as an invoice shows it, before any rate."""
        return self.net_minor if self.gross_minor is None else self.net_of(self.gross_minor)

    def net_of(self, gross_minor: int) -> int:
        """What is left of a gross figure of the line without its tax."""
        return round_fraction(Fraction(gross_minor * 100) / (100 + self.vat_percent))


@dataclass(frozen=True, slots=True)
class Share:
    """A publisher's weight in the split of one order's commission."""

    publisher: str
    weight: Number


@dataclass(frozen=True, slots=True)
class StoredRate:
    """The rate an order was given from outside of its plan: what one of its currency is worth."""

    value: Fraction
    day: str
    source: str


@dataclass(frozen=True, slots=True)
class Order:
    """A conversion: facts as reported. `at` is when it occurred, `known_at` when it was booked."""

    id: str
    publisher: str
    at: datetime
    lines: tuple[Line, ...]
    known_at: datetime
    publisher_groups: tuple[str, ...] = ()
    currency: str | None = None
    countries: Mapping[str, str] = field(default_factory=dict)
    customer: str | None = None
    coupon: str | None = None
    device: str | None = None
    site: str | None = None
    months_since_first: int | None = None
    shares: tuple[Share, ...] = ()
    rate: StoredRate | None = None
    shipped_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What later happened to an order: a refund of a line, or a decision about all of it."""

    type: str
    conversion: str
    known_at: datetime
    line: int = 0
    amount_minor: int = 0
    qty: int = 0


@dataclass(frozen=True, slots=True)
class Clock:
    """The passing of time, booked; it changes nothing by itself."""

    id: str
    known_at: datetime


Event = Order | Change | Clock


class RemainingLine(NamedTuple):
    """A line after its refunds: exact net and revenue in the order's currency, units left."""

    line: Line
    net: Number
    revenue: Number
    qty: int
    alive: bool


class Remaining(NamedTuple):
    """An order after its changes. A held order is priced but counts towards no tier."""

    order: Order
    lines: tuple[RemainingLine, ...]
    cancelled: bool
    decision: str
    held: bool
    approved_at: datetime | None = None

    @property
    def live(self) -> bool:
        """Whether something of it is left to be paid for; a held order is live."""
        return (
            not self.cancelled
            and self.decision != "declined"
            and any(line.alive for line in self.lines)
        )

    @property
    def left(self) -> tuple[object, ...]:
        """All that decides what is paid; when something was approved only decides the rules."""
        return self.lines, self.cancelled, self.decision, self.held

    @property
    def status(self) -> str:
        """One word for the trace: why the order is paid or not."""
        if self.cancelled:
            return "cancelled"
        if self.decision == "declined":
            return "declined"
        if not self.live:
            return "refunded"
        return "held" if self.held else self.decision


def reduce_order(order: Order, changes: Iterable[Change]) -> Remaining:
    """What is left after the changes, in booking order.

    EventError when a refund names a line that is not there or exceeds what is left of it. A
    repeated cancel, hold or decision is the same as one.
    """
    changes = tuple(changes)
    if not changes:
        whole = tuple([_remaining_line(line, 0, 0) for line in order.lines])
        return Remaining(order, whole, cancelled=False, decision="pending", held=False)
    refunded = [0] * len(order.lines)
    returned = [0] * len(order.lines)
    cancelled, held, decision = False, False, "pending"
    approved_at: datetime | None = None
    for change in changes:
        if change.type == "refund":
            _refund(order, change, refunded, returned)
        elif change.type == "cancel":
            cancelled = True
        elif change.type in {"hold", "release"}:
            held = change.type == "hold"
        else:
            decision = "approved" if change.type == "approve" else "declined"
            if decision == "approved" and approved_at is None:
                approved_at = change.known_at
    lines = tuple(map(_remaining_line, order.lines, refunded, returned))
    return Remaining(order, lines, cancelled, decision, held, approved_at)


def _refund(order: Order, change: Change, refunded: list[int], returned: list[int]) -> None:
    path = f"refund of {change.conversion}"
    if change.line >= len(order.lines):
        raise EventError([(path, "no such line")])
    line = order.lines[change.line]
    refunded[change.line] += change.amount_minor
    returned[change.line] += change.qty
    if refunded[change.line] > line.reported_minor:
        raise EventError([(path, "amount exceeds what is left of the line")])
    if returned[change.line] > line.qty:
        raise EventError([(path, "qty exceeds what is left of the line")])


def _remaining_line(line: Line, refunded_minor: int, returned: int) -> RemainingLine:
    if not refunded_minor and not returned and line.gross_minor is None:
        alive = line.reported_minor > 0 or line.qty > 0
        return RemainingLine(line, line.net_minor, line.revenue_minor or 0, line.qty, alive)
    reported = line.reported_minor
    left = reported - refunded_minor
    qty = line.qty - returned
    part = Fraction(left, reported) if reported else Fraction(1)
    if line.gross_minor is not None:
        net: Number = line.net_of(left)
    else:
        net = plain(line.net_minor * part)
    revenue = plain((line.revenue_minor or 0) * part)
    alive = left > 0 if reported else qty > 0
    return RemainingLine(line, net, revenue, qty if alive else 0, alive)


def parse_events(documents: Sequence[object], zone: ZoneInfo) -> list[Event]:
    """Read JSON events in booking order; EventError lists every problem by path.

    Times without an offset are local to `zone`. A change must follow its conversion.
    """
    problems: Problems = []
    events: list[Event] = []
    known: set[str] = set()
    for at, document in enumerate(documents):
        reader = Reader(document, f"events[{at}]", problems)
        event = _parse_event(reader, zone)
        reader.finish()
        if isinstance(event, Order):
            if event.id in known:
                problems.append((reader.path, "duplicate conversion id"))
            known.add(event.id)
        elif isinstance(event, Change) and event.conversion not in known:
            problems.append((reader.path, "unknown conversion"))
        events.append(event)
    if problems:
        raise EventError(problems)
    return events


def _parse_event(reader: Reader, zone: ZoneInfo) -> Event:
    kind = reader.text("type", default="conversion")
    at = reader.time("at", zone)
    known_at = reader.time("received_at", zone) or at or datetime.min.replace(tzinfo=UTC)
    if kind == "clock":
        return Clock(reader.text("id"), known_at)
    if at is None:
        reader.problem("at", "missing")
        at = known_at
    if kind in CHANGES:
        change = Change(kind, reader.text("conversion"), known_at)
        return _parse_refund(reader, change) if kind == "refund" else change
    if kind != "conversion":
        reader.problem("type", "not supported")
    return _parse_order(reader, at, known_at, zone)


def _parse_refund(reader: Reader, change: Change) -> Change:
    line = reader.integer("line", default=0, limit=MAX_LINES - 1)
    amount_minor = reader.integer("amount_minor", default=0)
    qty = reader.integer("qty", default=0, limit=MAX_QTY)
    if not amount_minor and not qty:
        reader.problem("amount_minor", "a refund names an amount or a qty")
    return Change("refund", change.conversion, change.known_at, line, amount_minor, qty)


def _parse_order(reader: Reader, at: datetime, known_at: datetime, zone: ZoneInfo) -> Order:
    currency = reader.optional_text("currency")
    if currency is not None and currency not in EXPONENTS:
        reader.problem("currency", "unknown currency code")
    lines = tuple(_parse_line(line) for line in reader.objects("lines", limit=MAX_LINES))
    if not lines:
        reader.problem("lines", "an order has at least one line")
    return Order(
        id=reader.text("id"),
        publisher=reader.text("publisher"),
        at=at,
        lines=lines,
        known_at=known_at,
        publisher_groups=reader.texts("publisher_groups"),
        currency=currency,
        countries=_parse_countries(reader),
        customer=reader.optional_text("customer"),
        coupon=reader.optional_text("coupon"),
        device=reader.optional_text("device"),
        site=reader.optional_text("site"),
        months_since_first=reader.optional_integer("months_since_first", limit=12_000),
        shares=_parse_shares(reader),
        shipped_at=reader.time("shipped_at", zone),
    )


def _parse_countries(reader: Reader) -> dict[str, str]:
    named = [key for key in reader.names() if key == "country" or key.startswith("country_")]
    found = {key: reader.optional_text(key) for key in named}
    return {key: country for key, country in found.items() if country is not None}


def _parse_shares(reader: Reader) -> tuple[Share, ...]:
    shares = []
    for share in reader.objects("shares", limit=MAX_SHARES):
        shares.append(Share(share.text("publisher"), share.weight("weight")))
        share.finish()
    if shares and not any(share.weight for share in shares):
        reader.problem("shares", "weights must not all be zero")
    if len({share.publisher for share in shares}) != len(shares):
        reader.problem("shares", "a publisher appears twice")
    return tuple(shares)


def _parse_line(reader: Reader) -> Line:
    values: dict[str, Any] = {
        "net_minor": reader.integer("net_minor", default=0),
        "gross_minor": reader.optional_integer("gross_minor"),
        "vat_percent": reader.decimal("vat_percent"),
        "revenue_minor": reader.optional_integer("revenue_minor"),
        "qty": reader.integer("qty", default=1, limit=MAX_QTY),
        "category": reader.optional_text("category"),
        "sku": reader.optional_text("sku"),
    }
    if values["gross_minor"] is not None and values["net_minor"]:
        reader.problem("gross_minor", "net and gross exclude one another")
    if values["vat_percent"] and values["gross_minor"] is None:
        reader.problem("vat_percent", "only with gross_minor")
    reader.finish()
    return Line(**values)
