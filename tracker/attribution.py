"""Joins conversions to the publishers that brought them. Decided once, for whole batches."""

from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from fractions import Fraction
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session, col, select

from kernel import audit, bulk, outbox
from kernel.errors import Conflict, NotFound, Refused, Unavailable, invalid
from network import groups, publishers
from network.models import Membership, MembershipStatus
from tracker import attribution_facts, customers
from tracker.attribution_facts import Batch, Copy, Row
from tracker.click_ids import ClickIdSigner
from tracker.credit import Role, Share
from tracker.credit_terms import Source
from tracker.customers import CustomerKeys
from tracker.deciding import FINAL, Decision, decide
from tracker.models import Attribution, AttributionShare, AttributionSuperseded
from tracker.rules import AttributionReason

MATCHED: Final = "conversion.matched"
SOURCE_MANUAL: Final = "manual"
NOTE_CHARS_MAX: Final = 500
# An order that was carried over is not remembered itself: otherwise a customer who orders often
# enough would be somebody's for ever, whatever limit the program sets.
_REMEMBERED: Final = frozenset({Source.CLICK, Source.COUPON, Source.PUBLISHER, SOURCE_MANUAL})
_IDS_PER_QUERY: Final = 5_000
_NO_COPY: Final = Copy(None, None, {})

_TABLES = Attribution.metadata.tables
_attribution, _share, _superseded = (
    _TABLES[str(model.__tablename__)]
    for model in (Attribution, AttributionShare, AttributionSuperseded)
)
_ATTRIBUTIONS: Final = bulk.Insert(
    _attribution,
    *("conversion_id", "publisher_id", "click_id", "clicked_at", "click_country", "sub_ids"),
    *("click_device", "publisher_groups", "customer_since", "months_since_first"),
    *("source", "reason", "terms_id", "trace", "decided_at"),
)
_SHARES: Final = bulk.Insert(
    _share,
    *("conversion_id", "position", "publisher_id", "numerator", "denominator", "role", "click_id"),
)


class NotAttributed(Unavailable):
    """Who brought the conversion is not decided yet: nothing that builds on it can be either."""

    code = "not_attributed"


class AlreadyAttributed(Conflict):
    """A publisher has the conversion, and keeps it; nothing changed."""

    code = "already_attributed"


class NotAssignable(Refused):
    """Nobody may earn the conversion, or the publisher is no member; nothing changed."""

    code = "not_assignable"


class Attributed(NamedTuple):
    """Who is paid for a conversion (nobody: `publisher_id` None), and why."""

    conversion_id: str
    publisher_id: str | None
    click_id: str | None
    reason: str


def attribute_many(
    session: Session,
    conversion_ids: Sequence[str],
    *,
    signer: ClickIdSigner,
    keys: CustomerKeys,
    now: datetime,
) -> dict[str, Attributed]:
    """The attributions of the conversions, decided at the first call and the same ever after.

    A click id is believed for what it says about itself, so that a click row that is late or
    lost costs nobody a sale. A few statements, however many conversions; an order may carry over
    the attribution of one before it in the same batch. NotFound when one does not exist.
    """
    found: dict[str, Attributed] = {}
    for start in range(0, len(conversion_ids), _IDS_PER_QUERY):
        part = conversion_ids[start : start + _IDS_PER_QUERY]
        rows = attribution_facts.rows(session, part)
        if len(rows) != len(set(part)):
            missing = set(part) - {row.id for row in rows}
            raise NotFound("no such conversion", kind="conversion", conversion_id=min(missing))
        undecided = [row for row in rows if row.decided_id is None]
        if undecided:
            batch = attribution_facts.load(session, undecided, signer=signer, keys=keys)
            found |= _decide_all(session, undecided, batch, now=now)
        found |= _decided(session, [row.id for row in rows if row.decided_id is not None])
    return found


def attribute(
    session: Session,
    conversion_id: str,
    *,
    signer: ClickIdSigner,
    keys: CustomerKeys,
    now: datetime,
) -> Attribution:
    """`attribute_many` for one conversion; the row in force."""
    attribute_many(session, [conversion_id], signer=signer, keys=keys, now=now)
    return session.get_one(Attribution, conversion_id, populate_existing=True)


def match(
    session: Session,
    conversion_id: str,
    *,
    signer: ClickIdSigner,
    keys: CustomerKeys,
    now: datetime,
) -> bool:
    """Try a conversion again that is nobody's; whether it has a publisher now.

    Judged by the terms in force when it occurred, as at first. What was decided stays in
    `attribution_superseded`, and MATCHED leaves through the outbox. One that has a publisher, or
    that nobody may earn, stays as it is.
    """
    rows = attribution_facts.rows(session, [conversion_id])
    if not rows or not _is_open(rows[0]):
        return False
    [row] = rows
    batch = attribution_facts.load(session, rows, signer=signer, keys=keys)
    decision = decide(batch.facts(row), batch.terms[row.id])
    if not decision.shares:
        return False
    _supersede(session, row, batch, decision, now=now)
    return True


def assign(
    session: Session,
    conversion_id: str,
    *,
    publisher_id: str,
    note: str,
    keys: CustomerKeys,
    actor: str,
    now: datetime,
) -> None:
    """Give a conversion that is nobody's to a publisher, with a note that its readers see.

    AlreadyAttributed when another publisher has it; NotAssignable for a test order and for a
    publisher that is no approved member of the program. A repeat changes nothing.
    """
    if not 0 < len(note) <= NOTE_CHARS_MAX or not note.isprintable():
        raise invalid("note", "length", f"must be 1 to {NOTE_CHARS_MAX} printable characters")
    rows = attribution_facts.rows(session, [conversion_id])
    if not rows or rows[0].decided_id is None:
        raise NotAttributed("the conversion is not attributed yet", conversion_id=conversion_id)
    [row] = rows
    if row.publisher_id == publisher_id:
        return
    if row.publisher_id is not None:
        raise AlreadyAttributed("a publisher has this conversion", conversion_id=conversion_id)
    if row.is_test:
        raise NotAssignable("a test order earns nobody anything", reason="test_order")
    publishers.get(session, publisher_id)
    if not _is_member(session, row.program_id, publisher_id):
        raise NotAssignable("the publisher is no member of the program", reason="not_a_member")
    batch = Batch(
        keys={
            row.id: keys.of(row.program_id, customer_id=row.customer_id, email_hash=row.email_hash)
        },
        terms_ids={row.id: None},
        group_history=groups.history(session, [publisher_id]),
    )
    attribution_facts.load_earlier(session, batch, rows)
    decision = _manual(publisher_id, note)
    audit.record(
        session,
        actor=actor,
        action="conversion.assign",
        subject_id=conversion_id,
        now=now,
        publisher_id=publisher_id,
        note=note,
        before=row.reason,
    )
    _supersede(session, row, batch, decision, now=now)


def _manual(publisher_id: str, note: str) -> Decision:
    """The decision of a person for a publisher."""
    whole = Share(publisher=publisher_id, weight=Fraction(1), role=Role.CONVERTER)
    return Decision(
        shares=(whole,),
        source=SOURCE_MANUAL,
        reason=AttributionReason.ASSIGNED,
        trace={"note": note},
    )


def _is_open(row: Row) -> bool:
    return row.decided_id is not None and row.publisher_id is None and row.reason not in FINAL


def _is_member(session: Session, program_id: str, publisher_id: str) -> bool:
    query = select(Membership.status).where(
        Membership.program_id == program_id, Membership.publisher_id == publisher_id
    )
    return session.exec(query).first() == MembershipStatus.APPROVED


def _decided(session: Session, conversion_ids: Collection[str]) -> dict[str, Attributed]:
    if not conversion_ids:
        return {}
    one = _attribution.c
    query = sa.select(one.conversion_id, one.publisher_id, one.click_id, one.reason).where(
        one.conversion_id.in_(conversion_ids)
    )
    return {row[0]: Attributed(*row) for row in session.execute(query)}


def _decide_all(
    session: Session, rows: Sequence[Row], batch: Batch, *, now: datetime
) -> dict[str, Attributed]:
    attributions: list[dict[str, Any]] = []
    writes = _Writes()
    for row in rows:
        decision = decide(batch.facts(row), batch.terms[row.id])
        attributions.append(_attribution_row(row, batch, decision, now=now))
        if decision.shares:
            writes.attributed(row, batch, decision)
        else:
            writes.unattributed(row, batch, decision)
    _ATTRIBUTIONS(session, attributions)
    writes.flush(session, now=now)
    return {
        one["conversion_id"]: Attributed(
            one["conversion_id"], one["publisher_id"], one["click_id"], one["reason"]
        )
        for one in attributions
    }


def _attribution_row(
    row: Row, batch: Batch, decision: Decision, *, now: datetime
) -> dict[str, Any]:
    payee = decision.payee
    touch = payee.touch if payee else None
    copy = batch.copies.get(touch.id, _NO_COPY) if touch else _NO_COPY
    kept = batch.payee(row, payee.publisher if payee else None)
    return {
        "conversion_id": row.id,
        "publisher_id": payee.publisher if payee else None,
        "click_id": touch.id if touch else None,
        "clicked_at": touch.at if touch else None,
        "click_country": copy.country,
        "click_device": copy.device,
        "publisher_groups": kept.groups,
        "customer_since": kept.customer_since,
        "months_since_first": kept.months_since_first,
        "sub_ids": dict(copy.sub_ids),
        "source": str(decision.source),
        "reason": str(decision.reason),
        "terms_id": batch.terms_ids[row.id],
        "trace": dict(decision.trace),
        "decided_at": now,
    }


def _supersede(
    session: Session, row: Row, batch: Batch, decision: Decision, *, now: datetime
) -> None:
    before = session.execute(
        sa.select(_attribution).where(_attribution.c.conversion_id == row.id).with_for_update()
    ).one()
    if before.publisher_id is not None:
        # A manager and the pipeline may come at once; whoever waited for the row finds it taken.
        raise AlreadyAttributed("a publisher has this conversion", conversion_id=row.id)
    session.execute(
        sa.insert(_superseded),
        {
            "conversion_id": row.id,
            "reason": before.reason,
            "terms_id": before.terms_id,
            "trace": before.trace,
            "decided_at": before.decided_at,
            "superseded_at": now,
        },
    )
    after = _attribution_row(row, batch, decision, now=now)
    session.execute(
        sa.update(_attribution).where(_attribution.c.conversion_id == row.id).values(**after)
    )
    customers.satisfied(session, [row.id])
    writes = _Writes()
    writes.attributed(row, batch, decision)
    writes.flush(session, now=now)
    outbox.append(session, MATCHED, row.id, lane=row.program_id, now=now)


class _Writes:
    """Rows beside the attributions of a batch, written together."""

    def __init__(self) -> None:
        self.shares: list[dict[str, Any]] = []
        self.known: list[dict[str, Any]] = []
        self.wanted: list[dict[str, Any]] = []
        self.found: set[tuple[str, str]] = set()

    def attributed(self, row: Row, batch: Batch, decision: Decision) -> None:
        """Keep the shares, and what orders of others may have waited for."""
        self.shares += [
            {
                "conversion_id": row.id,
                "position": position,
                "publisher_id": one.publisher,
                "numerator": one.weight.numerator,
                "denominator": one.weight.denominator,
                "role": str(one.role),
                "click_id": one.touch.id if one.touch else None,
            }
            for position, one in enumerate(decision.shares)
        ]
        is_remembered = decision.source in _REMEMBERED
        batch.note(row, decision.shares, is_remembered=is_remembered)
        self.found.add((customers.WANTS_ORDER, customers.order_key(row.program_id, row.order_id)))
        for key in batch.keys[row.id] if is_remembered else ():
            self.known.append({"key": key, "conversion_id": row.id, "occurred_at": row.occurred_at})
            self.found.add((customers.WANTS_CUSTOMER, key))

    def unattributed(self, row: Row, batch: Batch, decision: Decision) -> None:
        """Keep what would make the order somebody's after all."""
        if decision.reason in FINAL:
            return
        wants = [(customers.WANTS_CUSTOMER, key) for key in batch.keys[row.id]]
        if row.parent_order_id:
            key = customers.order_key(row.program_id, row.parent_order_id)
            wants.append((customers.WANTS_ORDER, key))
        if row.coupon:
            wants.append((customers.WANTS_COUPON, customers.coupon_key(row.program_id, row.coupon)))
        self.wanted += [
            {
                "kind": kind,
                "key": key,
                "conversion_id": row.id,
                "program_id": row.program_id,
                "occurred_at": row.occurred_at,
            }
            for kind, key in wants
        ]

    def flush(self, session: Session, *, now: datetime) -> None:
        """Write, and have the orders tried again that waited for one of these."""
        _SHARES(session, self.shares)
        customers.remember(session, self.known)
        customers.want(session, self.wanted)
        customers.announce(session, self.found, now=now)


def shares(
    session: Session, conversion_ids: Collection[str]
) -> Mapping[str, Sequence[AttributionShare]]:
    """The parts of attributed conversions in their order; they sum to 1 for each."""
    query = select(AttributionShare).where(
        col(AttributionShare.conversion_id).in_(sorted(conversion_ids))
    )
    found: dict[str, list[AttributionShare]] = {}
    for one in session.exec(query.order_by(col(AttributionShare.position))):
        found.setdefault(one.conversion_id, []).append(one)
    return found
