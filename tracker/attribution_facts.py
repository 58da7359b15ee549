"""What is known about who brought some orders, read for all of them together.

A few statements a batch, however large it is; those about coupons, customers and orders referred
to are left out when no order of the batch has any.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session

from network import groups
from network.groups import History
from network.models import Membership, MembershipStatus, Program, Publisher
from tracker import attribution_terms, coupons, customers, payee_facts, seen_clicks
from tracker.click_ids import ClickFacts, ClickIdError, ClickIdSigner
from tracker.coupons import Code
from tracker.credit import Role, Share, Touch
from tracker.credit_terms import Terms
from tracker.customers import CustomerKeys, Known
from tracker.deciding import Earlier, Facts, Owned
from tracker.models import Attribution, AttributionShare, Conversion
from tracker.rules import AttributionReason
from tracker.seen_clicks import Seen

TOUCHES_MAX: Final = 100
_UNREADABLE = {
    "malformed": AttributionReason.CLICK_ID_MALFORMED,
    "unknown_key": AttributionReason.CLICK_ID_UNKNOWN_KEY,
    "forged": AttributionReason.CLICK_ID_FORGED,
}
_TABLES = Attribution.metadata.tables
_attribution, _conversion, _membership, _program, _publisher, _share = (
    _TABLES[str(model.__tablename__)]
    for model in (Attribution, Conversion, Membership, Program, Publisher, AttributionShare)
)
_IDS: sa.BindParameter[Any] = sa.bindparam("ids", expanding=True)


class Row(NamedTuple):
    """A conversion with what decides about it, as it was reported, and its decision so far."""

    id: str
    program_id: str
    order_id: str
    event: str
    occurred_at: datetime
    customer: str | None
    coupon: str | None
    click_id: str | None
    click_ids: list[str]
    customer_id: str | None
    email_hash: str | None
    parent_order_id: str | None
    named_publisher: str | None
    paid_channel: str | None
    cart_at: datetime | None
    is_test: bool
    program_number: int
    window_hours: int
    decided_id: str | None
    publisher_id: str | None
    reason: str | None


_ROWS = (
    sa.select(
        *(_conversion.c[name] for name in Row._fields[:16]),
        _program.c.number,
        _program.c.attribution_window_hours,
        _attribution.c.conversion_id,
        _attribution.c.publisher_id,
        _attribution.c.reason,
    )
    .join(_program, _program.c.id == _conversion.c.program_id)
    .outerjoin(_attribution, _attribution.c.conversion_id == _conversion.c.id)
    .where(_conversion.c.id.in_(_IDS))
    # In the order in which they came in: an order may carry over the attribution of one before.
    .order_by(_conversion.c.seq)
)
_MEMBERS = sa.select(
    _publisher.c.id,
    _publisher.c.number,
    _publisher.c.code,
    _membership.c.program_id,
    _membership.c.status,
).outerjoin(
    _membership,
    sa.and_(
        _membership.c.publisher_id == _publisher.c.id,
        _membership.c.program_id.in_(sa.bindparam("program_ids", expanding=True)),
    ),
)
_SHARES = (
    sa.select(
        _share.c.conversion_id,
        _share.c.publisher_id,
        _share.c.numerator,
        _share.c.denominator,
        _share.c.role,
        _share.c.click_id,
        _conversion.c.occurred_at,
        _attribution.c.clicked_at,
        _attribution.c.click_country,
        _attribution.c.click_device,
        _attribution.c.sub_ids,
    )
    .join(_conversion, _conversion.c.id == _share.c.conversion_id)
    # The copy of the click that is paid; the clicks of other shares keep none.
    .outerjoin(
        _attribution,
        sa.and_(
            _attribution.c.conversion_id == _share.c.conversion_id,
            _attribution.c.click_id == _share.c.click_id,
        ),
    )
    .where(_share.c.conversion_id.in_(_IDS))
    .order_by(_share.c.conversion_id, _share.c.position)
)
_SINCE = sa.select(
    _attribution.c.conversion_id,
    _attribution.c.publisher_id,
    _attribution.c.customer_since,
).where(_attribution.c.conversion_id.in_(_IDS))
_PARENTS = (
    sa.select(
        _conversion.c.program_id,
        _conversion.c.order_id,
        _conversion.c.id,
        _conversion.c.occurred_at,
    )
    .join(_attribution, _attribution.c.conversion_id == _conversion.c.id)
    .where(
        _conversion.c.order_id.in_(sa.bindparam("order_ids", expanding=True)),
        _conversion.c.program_id.in_(sa.bindparam("program_ids", expanding=True)),
        _attribution.c.publisher_id.is_not(None),
    )
    .order_by(_conversion.c.seq.desc())
)


def rows(session: Session, conversion_ids: Sequence[str]) -> list[Row]:
    """The conversions in booking order; those that do not exist have no entry."""
    return [Row(*row) for row in session.execute(_ROWS, {"ids": list(conversion_ids)})]


class _Read(NamedTuple):
    """A click id of an order, read."""

    id: str
    facts: ClickFacts | None
    problem: str


class Copy(NamedTuple):
    """What an attribution keeps of its click."""

    country: str | None
    device: str | None
    sub_ids: dict[str, str]


class Payee(NamedTuple):
    """What an attribution keeps of the publisher that is paid, and of the customer with it."""

    groups: list[str]
    customer_since: datetime | None
    months_since_first: int | None


@dataclass(slots=True)
class Batch:
    """Everything that the orders of a batch are decided by. Grows as they are decided."""

    terms: dict[str, Terms] = field(default_factory=dict)
    terms_ids: dict[str, str | None] = field(default_factory=dict)
    read: dict[str, tuple[_Read, ...]] = field(default_factory=dict)
    clicks: Mapping[str, Seen] = field(default_factory=dict)
    copies: dict[str, Copy] = field(default_factory=dict)
    coupons: Mapping[str, Sequence[Code]] = field(default_factory=dict)
    keys: dict[str, tuple[str, ...]] = field(default_factory=dict)
    known: dict[str, list[Known]] = field(default_factory=dict)
    parents: dict[tuple[str, str], Known] = field(default_factory=dict)
    shares: dict[str, tuple[Share, ...]] = field(default_factory=dict)
    by_number: dict[int, str] = field(default_factory=dict)
    by_name: dict[str, str] = field(default_factory=dict)
    members: dict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    group_history: History = field(default_factory=lambda: History(()))
    since: dict[str, tuple[str, datetime | None]] = field(default_factory=dict)

    def facts(self, row: Row) -> Facts:
        """Everything known about who brought this order."""
        read = self.read[row.id]
        known, refusal = self._customers(row)
        return Facts(
            occurred_at=row.occurred_at,
            window_hours=row.window_hours,
            event=row.event,
            customer=row.customer,
            coupon=row.coupon,
            paid_channel=row.paid_channel,
            cart_at=row.cart_at,
            is_test=row.is_test,
            touches=tuple(self._touch(row, one.id, one.facts) for one in read if one.facts),
            unreadable=tuple((one.id, one.problem) for one in read if not one.facts),
            coupons=tuple(self._owned(row)) if row.coupon else (),
            parent=self._parent(row),
            customers=known,
            customer_refusal=refusal,
            named=self._named(row) if row.named_publisher else None,
            members=frozenset(self.members[row.program_id]),
        )

    def note(self, row: Row, shares: tuple[Share, ...], *, is_remembered: bool) -> None:
        """Let the orders after this one see that it was attributed."""
        self.shares[row.id] = shares
        known = Known(row.id, row.occurred_at)
        self.parents.setdefault((row.program_id, row.order_id), known)
        if is_remembered:
            for key in self.keys[row.id]:
                self.known.setdefault(key, []).append(known)

    def payee(self, row: Row, publisher_id: str | None) -> Payee:
        """What is to be kept of whoever is paid; orders after this one see it, too."""
        if publisher_id is None:
            return Payee([], None, None)
        found = self.group_history.at(publisher_id, row.program_id, row.occurred_at)
        first = self._customer_since(row, publisher_id)
        self.since[row.id] = publisher_id, first
        months = None if first is None else payee_facts.months_between(first, row.occurred_at)
        return Payee(found, first, months)

    def _customer_since(self, row: Row, publisher_id: str) -> datetime | None:
        customer = self._known(row)
        parent = self._known_parent(row)
        earlier = [*(customer or {}).values(), *([parent] if parent else [])]
        times = []
        for one in earlier:
            paid_to, since = self.since.get(one.conversion_id, ("", None))
            if paid_to == publisher_id:
                times.append(since or one.occurred_at)
        is_known = bool(self.keys[row.id] and customer is not None) or parent is not None
        return payee_facts.first_order(row.occurred_at, times, is_known=is_known)

    def refusal_of(self, program_id: str, publisher_id: str) -> str:
        """Why a publisher earns nothing of the program; empty for its members."""
        is_member = publisher_id in self.members[program_id]
        return "" if is_member else AttributionReason.NOT_A_MEMBER

    def _touch(self, row: Row, click_id: str, facts: ClickFacts) -> Touch:
        publisher_id = self.by_number.get(facts.publisher_number, "")
        return Touch(
            publisher=publisher_id,
            at=facts.at,
            id=click_id,
            refusal=self._click_refusal(row, click_id, facts, publisher_id),
        )

    def _click_refusal(self, row: Row, click_id: str, facts: ClickFacts, publisher_id: str) -> str:
        if facts.program_number != row.program_number:
            return AttributionReason.OTHER_PROGRAM
        if not publisher_id:
            return AttributionReason.PUBLISHER_UNKNOWN
        seen = self.clicks.get(click_id)
        if seen is not None and seen.unbillable_reason:
            return seen.unbillable_reason
        if not facts.billable:
            return AttributionReason.NOT_BILLABLE
        return self.refusal_of(row.program_id, publisher_id)

    def _owned(self, row: Row) -> Iterable[Owned]:
        for one in self.coupons.get(row.program_id, ()):
            if row.coupon and one.matches(row.coupon, row.occurred_at):
                owner = one.publisher_id
                yield Owned(
                    coupon_id=one.id,
                    effect=one.effect,
                    publisher=owner,
                    refusal=self.refusal_of(row.program_id, owner) if owner else "",
                )

    def _parent(self, row: Row) -> Earlier | None:
        known = self._known_parent(row)
        return self._earlier(row, known) if known else None

    def _known_parent(self, row: Row) -> Known | None:
        if row.parent_order_id is None:
            return None
        known = self.parents.get((row.program_id, row.parent_order_id))
        # An order that names itself, such as the sale of a lead with the same number, names the
        # other event; itself it cannot mean.
        return known if known and known.conversion_id != row.id else None

    def _customers(self, row: Row) -> tuple[tuple[Earlier, ...], str]:
        found = self._known(row)
        if found is None:
            return (), AttributionReason.CUSTOMER_AMBIGUOUS
        return tuple(self._earlier(row, one) for one in found.values()), ""

    def _known(self, row: Row) -> dict[str, Known] | None:
        """Earlier orders of the customer; None where it has more than a person has."""
        found: dict[str, Known] = {}
        for key in self.keys[row.id]:
            of_key = self.known.get(key, [])
            if len(of_key) > customers.ORDERS_OF_A_PERSON_MAX:
                return None
            found |= {one.conversion_id: one for one in of_key}
        found.pop(row.id, None)
        return found

    def _earlier(self, row: Row, known: Known) -> Earlier:
        """An earlier order with the shares of those that are still members, made whole again."""
        shares = [
            one
            for one in self.shares.get(known.conversion_id, ())
            if one.publisher in self.members[row.program_id]
        ]
        total = sum((one.weight for one in shares), Fraction())
        return Earlier(
            conversion_id=known.conversion_id,
            at=known.occurred_at,
            shares=tuple(
                Share(
                    publisher=one.publisher,
                    weight=one.weight / total,
                    role=one.role,
                    touch=one.touch,
                )
                for one in shares
            ),
            refusal="" if shares else AttributionReason.NOT_A_MEMBER,
        )

    def _named(self, row: Row) -> Touch:
        publisher_id = self.by_name.get(row.named_publisher or "", "")
        refusal: str = AttributionReason.PUBLISHER_UNKNOWN
        if publisher_id:
            refusal = self.refusal_of(row.program_id, publisher_id)
        return Touch(publisher=publisher_id, at=row.occurred_at, refusal=refusal)


def load(
    session: Session, found: Sequence[Row], *, signer: ClickIdSigner, keys: CustomerKeys
) -> Batch:
    """Everything that these conversions are decided by."""
    batch = Batch(
        read={row.id: tuple(_read_ids(row, signer)) for row in found},
        keys={
            row.id: keys.of(row.program_id, customer_id=row.customer_id, email_hash=row.email_hash)
            for row in found
        },
    )
    _load_terms(session, batch, found)
    genuine = {one.id for read in batch.read.values() for one in read if one.facts}
    batch.clicks = seen_clicks.find_many(session, genuine) if genuine else {}
    batch.copies = {
        click.id: Copy(click.country, payee_facts.device(click.user_agent), dict(click.sub_ids))
        for click in batch.clicks.values()
    }
    codes: dict[str, set[str]] = defaultdict(set)
    for row in found:
        if row.coupon:
            codes[row.program_id].add(row.coupon)
    batch.coupons = coupons.candidates(session, codes)
    load_earlier(session, batch, found)
    _load_publishers(session, batch, found)
    batch.group_history = groups.history(session, set(batch.by_name.values()))
    return batch


def _read_ids(row: Row, signer: ClickIdSigner) -> Iterable[_Read]:
    """The order's click ids, its own one last, each once."""
    named = [one for one in row.click_ids if one != row.click_id][-TOUCHES_MAX:]
    for click_id in dict.fromkeys([*named, row.click_id]):
        if click_id is None:
            continue
        try:
            yield _Read(click_id, signer.read(click_id), "")
        except ClickIdError as error:
            yield _Read(click_id, None, _UNREADABLE[error.reason])


def _load_terms(session: Session, batch: Batch, found: Sequence[Row]) -> None:
    versions = attribution_terms.versions_of(session, {row.program_id for row in found})
    for row in found:
        version_id = attribution_terms.choose(versions.get(row.program_id, ()), row.occurred_at)
        batch.terms_ids[row.id] = version_id
    used = {one for one in batch.terms_ids.values() if one}
    read = attribution_terms.load(session, used)
    for conversion_id, version_id in batch.terms_ids.items():
        batch.terms[conversion_id] = read[version_id] if version_id else attribution_terms.DEFAULT


def load_earlier(session: Session, batch: Batch, found: Sequence[Row]) -> None:
    """What is known of earlier orders of the same customers, and of orders referred to."""
    batch.known = customers.known(session, {key for keys in batch.keys.values() for key in keys})
    wanted = {row.parent_order_id: row.program_id for row in found if row.parent_order_id}
    if wanted:
        asked = {"order_ids": sorted(wanted), "program_ids": sorted(set(wanted.values()))}
        for program_id, order_id, *known in session.execute(_PARENTS, asked):
            # Newest first, so the oldest attributed event of the order is what stays.
            batch.parents[program_id, order_id] = Known(*known)
    named = {one.conversion_id for of_key in batch.known.values() for one in of_key}
    earlier = sorted(named | {one.conversion_id for one in batch.parents.values()})
    _load_shares(session, batch, earlier)
    if earlier:
        for conversion_id, publisher_id, since in session.execute(_SINCE, {"ids": earlier}):
            batch.since[conversion_id] = publisher_id, since


def _load_shares(session: Session, batch: Batch, conversion_ids: Collection[str]) -> None:
    """The shares of earlier conversions, and what was kept of the clicks that are paid."""
    if not conversion_ids:
        return
    shares: dict[str, list[Share]] = defaultdict(list)
    for row in session.execute(_SHARES, {"ids": sorted(conversion_ids)}):
        touch = None
        if row.click_id is not None:
            at = row.clicked_at or row.occurred_at
            touch = Touch(publisher=row.publisher_id, at=at, id=row.click_id)
        if row.clicked_at is not None:
            batch.copies.setdefault(
                row.click_id, Copy(row.click_country, row.click_device, row.sub_ids)
            )
        shares[row.conversion_id].append(
            Share(
                publisher=row.publisher_id,
                weight=Fraction(row.numerator, row.denominator),
                role=Role(row.role),
                touch=touch,
            )
        )
    batch.shares = {conversion_id: tuple(found) for conversion_id, found in shares.items()}


def _load_publishers(session: Session, batch: Batch, found: Sequence[Row]) -> None:
    numbers = {
        one.facts.publisher_number for read in batch.read.values() for one in read if one.facts
    }
    ids = {one.publisher for shares in batch.shares.values() for one in shares}
    ids |= {one.publisher for terms in batch.terms.values() for one in terms.preferred}
    for codes in batch.coupons.values():
        ids |= {one.publisher_id for one in codes if one.publisher_id}
    names = {row.named_publisher for row in found if row.named_publisher}
    asked: list[tuple[sa.Column[Any], Collection[Any]]] = [
        (_publisher.c.number, numbers),
        (_publisher.c.id, ids | names),
        (_publisher.c.code, names),
    ]
    conditions = [column.in_(sorted(values)) for column, values in asked if values]
    if not conditions:
        return
    query = _MEMBERS.where(sa.or_(*conditions))
    programs = sorted({row.program_id for row in found})
    for publisher_id, number, code, program_id, status in session.execute(
        query, {"program_ids": programs}
    ):
        batch.by_number[number] = publisher_id
        batch.by_name.setdefault(code, publisher_id)
        batch.by_name[publisher_id] = publisher_id
        if status == MembershipStatus.APPROVED:
            batch.members[program_id].add(publisher_id)
