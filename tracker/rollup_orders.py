"""Counts conversions in the roll-ups, and what they earned, as often as either changes.

A conversion counts in the hour it occurred and under the publisher, link and sub-ids of the click
it is attributed to; its country is the click's, and the order's own where the click's is not known.
A test order counts nowhere.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session, col

from kernel import bulk
from network.models import Program, Publisher
from tracker import seen_clicks
from tracker.agents import Device, device_of
from tracker.models import Attribution, ChangeKind, Conversion, ConversionChange
from tracker.rollup_models import RollupConversion
from tracker.rollups import NOBODY, SUB_IDS, Tally, hour_of, store

_IDS_PER_QUERY: Final = 500
_NO_LIMIT: Final = 2**31
_DECLINED: Final = "declined"


class Earned(NamedTuple):
    """What a conversion's commission stands at: `minor` for the publisher for whom it counts.

    `others` are (publisher, minor units) of those that share it.
    """

    currency: str
    minor: int
    others: tuple[tuple[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class Counted:
    """What the sums hold of one conversion."""

    conversion_id: str
    hour: int
    program_number: int
    publisher_number: int
    currency: str
    sales_minor: int
    refunded_minor: int
    commission_currency: str
    commission_minor: int
    click_id: str
    link: str
    country: str
    device: str
    sub_ids: Mapping[str, str]
    others: Mapping[str, int]

    def add_to(self, tally: Tally, sign: int = 1) -> None:
        """Add to the sums, or with -1 take out. Two currencies are two rows."""
        sold = (0, 0, 0, 0, sign, sign * self.sales_minor, sign * self.refunded_minor, 0)
        earned = (0, 0, 0, 0, 0, 0, 0, sign * self.commission_minor)
        values = self._values()
        for currency, counts in ((self.currency, sold), (self.commission_currency, earned)):
            if any(counts):
                tally.add(
                    counts,
                    hour=self.hour,
                    program=self.program_number,
                    publisher=self.publisher_number,
                    currency=currency,
                    values=values,
                )
        for number, minor in self.others.items():
            # The order and its click are counted once; whoever shares it earns without them.
            tally.add(
                (0, 0, 0, 0, 0, 0, 0, sign * minor),
                hour=self.hour,
                program=self.program_number,
                publisher=int(number),
                currency=self.commission_currency,
                values=[("country", self.country), ("device", self.device)],
            )

    def _values(self) -> list[tuple[str, str]]:
        values = [("country", self.country), ("device", self.device)]
        if self.link:
            values.append(("link", self.link))
        values.extend((slot, self.sub_ids[slot]) for slot in SUB_IDS if self.sub_ids.get(slot))
        return values


def refresh(
    session: Session,
    conversion_ids: Collection[str],
    *,
    earned: Mapping[str, Earned] | None = None,
) -> None:
    """Make the sums hold these conversions as they stand now; a repeat changes nothing.

    What is not attributed yet is left for a later call. `earned` says what the commissions of some
    of them have become; of the others the amount stays.
    """
    ids = sorted(set(conversion_ids))
    for start in range(0, len(ids), _IDS_PER_QUERY):
        _refresh(session, ids[start : start + _IDS_PER_QUERY], earned or {})


def _refresh(session: Session, ids: Sequence[str], earned: Mapping[str, Earned]) -> None:
    before = counted(session, ids)
    tally = Tally()
    changed: list[Counted] = []
    for new in _as_they_stand(session, ids, before, earned):
        old = before.get(new.conversion_id)
        if new == old:
            continue
        if old is not None:
            old.add_to(tally, -1)
        new.add_to(tally)
        changed.append(new)
    if not changed:
        return
    _keep(session, changed)
    drop_zeros(tally)
    # Of orders every value has a row: there are no more of them than orders, and what somebody
    # earned is never summed up under another name.
    store(session, tally, values_max=_NO_LIMIT)


def drop_zeros(tally: Tally) -> None:
    """Forget sums that add nothing."""
    tally.hours = {key: counts for key, counts in tally.hours.items() if any(counts)}
    tally.days = {key: counts for key, counts in tally.days.items() if any(counts)}


def earn(session: Session, earned: Mapping[str, Earned]) -> None:
    """Make the sums hold what these commissions have become; a repeat changes nothing."""
    refresh(session, earned, earned=earned)


TABLE: Final = RollupConversion.metadata.tables["rollup_conversion"]
_NAMES: Final = tuple(column.name for column in TABLE.columns)
_KEEP: Final = bulk.Insert(TABLE, *_NAMES, key="conversion_id")
_IDS: sa.BindParameter[Any] = sa.bindparam("ids", expanding=True)
_COUNTED: Final = sa.select(TABLE).where(TABLE.c.conversion_id.in_(_IDS))


def counted(session: Session, conversion_ids: Sequence[str]) -> dict[str, Counted]:
    """What the sums hold of those of the conversions that are counted."""
    rows = session.execute(_COUNTED, {"ids": list(conversion_ids)})
    return {one.conversion_id: one for one in map(_counted, rows)}


def counted_between(session: Session, first_hour: int, end_hour: int) -> list[Counted]:
    """What the sums hold of the conversions of these hours."""
    query = sa.select(TABLE).where(TABLE.c.hour >= first_hour, TABLE.c.hour < end_hour)
    return [_counted(row) for row in session.execute(query)]


def _counted(row: Any) -> Counted:
    return Counted(*row)


def _keep(session: Session, changed: Sequence[Counted]) -> None:
    _KEEP(session, [{name: getattr(one, name) for name in _NAMES} for one in changed])


# Asked for every batch of orders; built once, because building costs more than asking.
_FACTS: Any = (
    sa.select(
        col(Conversion.id),
        col(Conversion.occurred_at),
        col(Conversion.currency),
        col(Conversion.amount_minor),
        col(Conversion.country),
        col(Conversion.reported_status),
        col(Program.number).label("program_number"),
        col(Program.currency).label("program_currency"),
        col(Publisher.number).label("publisher_number"),
        col(Attribution.click_id),
        col(Attribution.click_country),
        col(Attribution.sub_ids),
    )
    .join(Program, col(Program.id) == col(Conversion.program_id))
    .join(Attribution, col(Attribution.conversion_id) == col(Conversion.id))
    .outerjoin(Publisher, col(Publisher.id) == col(Attribution.publisher_id))
    .where(col(Conversion.is_test).is_(False), col(Conversion.id).in_(_IDS))
)
_CHANGES: Final = (
    sa.select(
        col(ConversionChange.conversion_id),
        col(ConversionChange.kind),
        col(ConversionChange.amount_minor),
    )
    .where(col(ConversionChange.conversion_id).in_(_IDS))
    .order_by(col(ConversionChange.seq))
)


class _Facts(NamedTuple):
    """A conversion with its attribution, as `_FACTS` asks for them."""

    id: str
    occurred_at: datetime
    currency: str
    amount_minor: int
    country: str | None
    reported_status: str
    program_number: int
    program_currency: str
    publisher_number: int | None
    click_id: str | None
    click_country: str | None
    sub_ids: Mapping[str, str]


def _as_they_stand(
    session: Session,
    ids: Sequence[str],
    before: Mapping[str, Counted],
    earned: Mapping[str, Earned],
) -> Iterator[Counted]:
    facts = [_Facts(*row) for row in session.execute(_FACTS, {"ids": list(ids)})]
    numbers = _numbers(session, earned)
    taken_back = _taken_back(session, facts)
    met = _met(session, facts, before)
    for row in facts:
        old = before.get(row.id)
        link, device = met.get(row.click_id or "", ("", Device.UNKNOWN.value))
        commission, others = earned.get(row.id), old.others if old is not None else {}
        if commission is not None:
            others = {numbers[name]: minor for name, minor in commission.others if minor}
        elif old is not None:
            commission = Earned(old.commission_currency, old.commission_minor)
        else:
            commission = Earned(row.program_currency, 0)
        sub_ids = row.sub_ids
        yield Counted(
            conversion_id=row.id,
            hour=hour_of(row.occurred_at),
            program_number=row.program_number,
            publisher_number=row.publisher_number or NOBODY,
            currency=row.currency,
            sales_minor=row.amount_minor,
            refunded_minor=taken_back.get(row.id, 0),
            commission_currency=commission.currency,
            commission_minor=commission.minor,
            click_id=row.click_id or "",
            link=link,
            country=row.click_country or row.country or "",
            device=device,
            sub_ids={slot: sub_ids[slot] for slot in SUB_IDS if sub_ids.get(slot)},
            others=others,
        )


def _numbers(session: Session, earned: Mapping[str, Earned]) -> dict[str, str]:
    """The numbers of publishers that share orders with others, as the sums name them."""
    wanted = sorted({name for one in earned.values() for name, _ in one.others})
    if not wanted:
        return {}
    found = session.execute(
        sa.select(col(Publisher.id), col(Publisher.number)).where(col(Publisher.id).in_(wanted))
    )
    return {name: str(number) for name, number in found}


def _met(
    session: Session, facts: Sequence[_Facts], before: Mapping[str, Counted]
) -> dict[str, tuple[str, str]]:
    """Link and device by click. What was counted once is believed: clicks are let go in time."""
    known = {one.click_id: (one.link, one.device) for one in before.values()}
    wanted = {row.click_id for row in facts if row.click_id} - known.keys()
    if wanted:
        for click_id, click in seen_clicks.find_many(session, wanted).items():
            known[click_id] = (click.link, device_of(click.user_agent).value)
    return known


def _taken_back(session: Session, facts: Sequence[_Facts]) -> dict[str, int]:
    """What refunds took back; everything when the order is cancelled or stands declined."""
    sums: dict[str, int] = {}
    whole = {row.id for row in facts if row.reported_status == _DECLINED}
    cancelled: set[str] = set()
    asked = {"ids": [row.id for row in facts]}
    for conversion_id, kind, amount_minor in session.execute(_CHANGES, asked):
        if kind == ChangeKind.REFUND:
            sums[conversion_id] = sums.get(conversion_id, 0) + amount_minor
        elif kind == ChangeKind.CANCEL:
            cancelled.add(conversion_id)
        elif kind == ChangeKind.DECLINE:
            whole.add(conversion_id)
        else:
            whole.discard(conversion_id)
    amounts = {row.id: row.amount_minor for row in facts}
    return sums | {one: amounts[one] for one in whole | cancelled}
