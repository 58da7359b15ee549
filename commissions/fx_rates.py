"""Exchange rates as their sources publish them, kept for ever, and the one that an order gets.

A rate says how much of a currency one of its base is worth on a day. It is never changed: what a
source says again is nothing new, what it says differently is a later version, and orders that have
a rate keep it. An order gets the rate of its local day, else of the last publication before it.
"""

import re
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from fractions import Fraction
from typing import Final, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session

from commissions.models import FxRate, RateWanted
from kernel import audit, bulk, outbox
from kernel.database import take_turns
from kernel.errors import FieldProblem, InvalidInput
from kernel.ids import new_id
from kernel.money import EXPONENTS

PUBLISHED: Final = "fx.published"
EVERY_ORDER: Final = "every"
LANE: Final = "fx"
MANUAL: Final = "manual"
# Longer than any holidays of a source and than a month of rates set by hand; what is older says
# nothing about the day of an order, and a source that fell silent must be noticed.
AGE_DAYS_MAX: Final = 31
_RATE: Final = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,12})?", re.ASCII)
_SOURCE: Final = re.compile(r"[a-z0-9_-]{1,32}", re.ASCII)
_DAYS_PER_QUERY: Final = 200
_EARLIEST: Final = date(1990, 1, 1)
# Whoever records rates and whoever finds none for an order wait for one another, so that an order
# never misses a rate that is published at that moment.
_TURN: Final = "fx.rates"

_table, _wanted = (
    FxRate.metadata.tables[str(model.__tablename__)] for model in (FxRate, RateWanted)
)
_INSERT: Final = bulk.Insert(
    _table,
    *("id", "source", "day", "base", "currency", "rate", "version", "actor", "recorded_at"),
)
_KNOWN: Final = sa.select(
    _table.c.day, _table.c.base, _table.c.currency, _table.c.rate, _table.c.version
).where(
    _table.c.source == sa.bindparam("source"),
    _table.c.day.in_(sa.bindparam("days", expanding=True)),
)
_AROUND: Final = sa.select(
    _table.c.id,
    _table.c.source,
    _table.c.day,
    _table.c.base,
    _table.c.currency,
    _table.c.rate,
    _table.c.version,
).where(
    _table.c.currency.in_(sa.bindparam("currencies", expanding=True)),
    _table.c.day >= sa.bindparam("first"),
    _table.c.day <= sa.bindparam("last"),
)
_ANY_WANTED: Final = sa.select(_wanted.c.conversion_id).limit(1)


class Quote(NamedTuple):
    """What one of `base` is worth in `currency` on a day, as a decimal text."""

    day: date
    base: str
    currency: str
    rate: str


class Stored(NamedTuple):
    """A recorded rate."""

    id: str
    source: str
    day: date
    base: str
    currency: str
    rate: str
    version: int


@dataclass(frozen=True, slots=True)
class Leg:
    """One half of a conversion by way of a base: a rate, or the base itself."""

    rate: str = "1"
    id: str | None = None
    day: date | None = None
    source: str = ""


@dataclass(frozen=True, slots=True)
class Cross:
    """One of a currency is `to.rate / of.rate` of the other."""

    of: Leg
    to: Leg
    day: date

    @property
    def value(self) -> Fraction:
        """Exact."""
        return Fraction(self.to.rate) / Fraction(self.of.rate)

    @property
    def source(self) -> str:
        """Where the two rates come from."""
        return "+".join(sorted({one.source for one in (self.of, self.to) if one.source}))


class Book:
    """Rates at hand, and which of them converts a currency on a day. Pure."""

    def __init__(self, stored: Iterable[Stored]) -> None:
        self._by_pair: dict[tuple[str, str], dict[date, Stored]] = {}
        for one in stored:
            days = self._by_pair.setdefault((one.base, one.currency), {})
            if one.day not in days or _rank(one) > _rank(days[one.day]):
                days[one.day] = one

    def find(self, currency: str, into: str, day: date) -> Cross | None:
        """The rate of the day, else of the last day before it with one; None when too old.

        Of several bases the one with the newer rates, then the one with fewer of them.
        """
        found = [
            cross
            for base in sorted({base for base, _ in self._by_pair})
            if (cross := self._by_way_of(base, currency, into, day)) is not None
        ]
        return max(found, key=_preference, default=None)

    def _by_way_of(self, base: str, currency: str, into: str, day: date) -> Cross | None:
        of, to = self._leg(base, currency, day), self._leg(base, into, day)
        days = [leg.day for leg in (of, to) if leg is not None and leg.day is not None]
        if of is None or to is None or not days:
            return None
        return Cross(of, to, min(days))

    def _leg(self, base: str, currency: str, day: date) -> Leg | None:
        if currency == base:
            return Leg()
        days = self._by_pair.get((base, currency), {})
        oldest = day - timedelta(days=AGE_DAYS_MAX)
        newest = max((one for one in days if oldest <= one <= day), default=None)
        if newest is None:
            return None
        stored = days[newest]
        return Leg(stored.rate, stored.id, stored.day, stored.source)


def _rank(one: Stored) -> tuple[bool, str, int]:
    # What a person has set by hand is meant to be used.
    return one.source == MANUAL, one.source, one.version


def _preference(cross: Cross) -> tuple[date, int]:
    return cross.day, -sum(1 for leg in (cross.of, cross.to) if leg.id is not None)


def around(session: Session, currencies: Collection[str], *, first: date, last: date) -> Book:
    """The rates of these currencies that orders of the days `first` to `last` can get."""
    asked = {
        "currencies": sorted(currencies),
        "first": first - timedelta(days=AGE_DAYS_MAX),
        "last": last,
    }
    return Book(Stored(*row) for row in session.execute(_AROUND, asked))


def take_turn(session: Session) -> None:
    """Be alone with the rates until the transaction ends."""
    take_turns(session, _TURN)


def check(source: str, quotes: Sequence[Quote], *, today: date) -> None:
    """InvalidInput naming what is no source, day, currency or rate."""
    problems = []
    if not _SOURCE.fullmatch(source):
        problems.append(FieldProblem("source", "format", f"must match {_SOURCE.pattern}"))
    for at, one in enumerate(quotes):
        problems += [
            FieldProblem(f"rates[{at}].{name}", rule, message)
            for name, rule, message in _wrong(one, today)
        ]
    if problems:
        raise InvalidInput(problems[:20])


def _wrong(one: Quote, today: date) -> Iterable[tuple[str, str, str]]:
    if not _EARLIEST <= one.day <= today:
        yield "day", "range", f"must be a day from {_EARLIEST.isoformat()} to today"
    for name, code in (("base", one.base), ("currency", one.currency)):
        if code not in EXPONENTS:
            yield name, "iso_4217", "is not an ISO 4217 currency"
    if one.base == one.currency:
        yield "currency", "same", "must be another than the base"
    if _RATE.fullmatch(one.rate) is None or not Fraction(one.rate):
        yield "rate", "decimal", "must be a decimal text above zero, with at most 12 decimals"


def record(
    session: Session, source: str, quotes: Sequence[Quote], *, actor: str, now: datetime
) -> int:
    """Keep what is new of these rates, and have the orders tried that wait for one; how many.

    What is known already is nothing new; another rate for a known day is its next version.
    InvalidInput as `check`; then nothing is kept.
    """
    check(source, quotes, today=now.date())
    take_turn(session)
    known = _known(session, source, {one.day for one in quotes})
    rows = []
    for one in quotes:
        key = (one.day, one.base, one.currency)
        rate, version = known.get(key, ("0", 0))
        if Fraction(rate) == Fraction(one.rate):
            continue
        known[key] = one.rate, version + 1
        rows.append(
            {
                "id": new_id("fxr", at=now),
                "source": source,
                **one._asdict(),
                "version": version + 1,
                "actor": actor,
                "recorded_at": now,
            }
        )
    _INSERT(session, rows)
    if rows:
        days = [row["day"] for row in rows]
        audit.record(
            session,
            actor=actor,
            action="fx.record",
            subject_id=source,
            now=now,
            rates=len(rows),
            first=min(days).isoformat(),
            last=max(days).isoformat(),
        )
        publish(session, now=now)
    return len(rows)


def publish(session: Session, *, now: datetime) -> None:
    """Have the orders tried again that wait for a rate; nothing where none does."""
    if session.execute(_ANY_WANTED).first() is not None:
        outbox.append(session, PUBLISHED, EVERY_ORDER, lane=LANE, now=now)


def _known(
    session: Session, source: str, days: Collection[date]
) -> dict[tuple[date, str, str], tuple[str, int]]:
    found: dict[tuple[date, str, str], tuple[str, int]] = {}
    asked = sorted(days)
    for start in range(0, len(asked), _DAYS_PER_QUERY):
        values = {"source": source, "days": asked[start : start + _DAYS_PER_QUERY]}
        for day, base, currency, rate, version in session.execute(_KNOWN, values):
            if version > found.get((day, base, currency), ("", 0))[1]:
                found[day, base, currency] = rate, version
    return found
