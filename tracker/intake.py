"""Orders and changes are taken in: compared with what is known, journalled, then acknowledged.

Whatever is answered with a receipt is on stable storage. While the database is away only the
journal is asked, so that `duplicate` is not known (None); repeats and conflicts are then told
apart when the journal is shipped.
"""

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from typing import Any, Final
from urllib.parse import urlencode

import sqlalchemy as sa
from sqlalchemy.engine import Engine

from kernel.database import reading
from kernel.errors import AppError, TooLarge
from kernel.tokens import Tokens
from tracker import changes, conversions, events, metrics, orders
from tracker.click_ids import FLAG_IMPORTED, RANDOM_BYTES
from tracker.events import ChangeReported, ClickSeen, Order, OrderReported
from tracker.models import ChangeKind
from tracker.node import TrackerNode
from tracker.routing import ProgramRoute, PublisherRoute

_POLL_SECONDS: Final = 0.025
_ORDERS_PER_TURN: Final = 200
# From here on the signatures of a batch would keep the event loop from serving clicks.
_SIGN_IN_LOOP_MAX: Final = 4


class OrderTooLarge(TooLarge):
    """The order does not fit a journal record."""

    code = "order_too_large"


@dataclass(frozen=True, slots=True)
class Accepted:
    """An acknowledged order. `duplicate` None: not known, because the database is away."""

    receipt: str
    conversion_id: str
    duplicate: bool | None


@dataclass(frozen=True, slots=True)
class AcceptedChange:
    """An acknowledged change of an order."""

    receipt: str
    change_id: str
    duplicate: bool | None


def report_of(
    node: TrackerNode, program: ProgramRoute, order: Order, *, channel: str, now: datetime
) -> OrderReported:
    """The event of an order that was reported for a program."""
    return OrderReported(
        conversion_id=conversions.id_of(
            node.conversion_key,
            program_id=program.id,
            order_id=order.order_id,
            event=order.event,
        ),
        program_id=program.id,
        content_hash=orders.content_hash(program.id, order),
        received_at=now,
        channel=channel,
        imported=channel == events.CHANNEL_IMPORT,
        order=order,
    )


async def accept_order(node: TrackerNode, report: OrderReported) -> Accepted:
    """Acknowledge one order; OrderConflict, OrderTooLarge or JournalUnavailable otherwise."""
    outcome = (await accept_orders(node, [report]))[0]
    if isinstance(outcome, AppError):
        raise outcome
    return outcome


async def accept_orders(
    node: TrackerNode, reports: Sequence[OrderReported]
) -> list[Accepted | AppError]:
    """What becomes of each order: acknowledged, or the refusal that its reporter gets.

    Of equal orders, in this call or in calls at the same time, exactly one is journalled. When the
    journal cannot record, JournalUnavailable is raised and none of the new ones is acknowledged.
    """
    ids = {report.conversion_id for report in reports}
    async with node.claims.hold(ids):
        # Before the database is asked: what is shipped in between is forgotten here, not there.
        claimed = {one: claim for one in ids if (claim := node.claims.order(one)) is not None}
        recorded = await _recorded_hashes(node.engine, sorted(ids))
        judging = _Judging(node, recorded, claimed)
        verdicts = []
        for at, report in enumerate(reports):
            if at % _ORDERS_PER_TURN == 0:
                await asyncio.sleep(0)  # clicks are waiting too
            verdicts.append(await judging.judge(report))
        await node.journal.append_many(judging.payloads)
        for report in judging.fresh:
            node.claims.remember(report)
    for report, verdict in zip(reports, verdicts, strict=True):
        metrics.ORDERS.labels(report.channel, _result(verdict)).inc()
    if len(reports) <= _SIGN_IN_LOOP_MAX:
        return _acknowledge(node.tokens, reports, verdicts)
    return await asyncio.to_thread(_acknowledge, node.tokens, reports, verdicts)


_Verdict = bool | AppError | None
"""Whether an order is a repeat (None: not known), or why it is refused."""


@dataclass(slots=True)
class _Judging:
    """Compares the orders of one call with what is known, and collects what is to be journalled.

    `recorded` are the database's hashes, or None while it is away; `claimed` the orders that this
    process acknowledged before.
    """

    node: TrackerNode
    recorded: Mapping[str, str] | None
    claimed: dict[str, OrderReported]
    fresh: list[OrderReported] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)
    _journalled: set[tuple[str, str]] = field(default_factory=set)

    async def judge(self, report: OrderReported) -> _Verdict:
        """The verdict on the next order of the call."""
        claim = self.claimed.get(report.conversion_id)
        if self.recorded is None:
            # What is in the database is not known, so nothing can be called a conflict; the same
            # bytes need not be journalled twice, though.
            equals_claim = claim is not None and claim.content_hash == report.content_hash
            return None if equals_claim else self._take(report, verdict=None)
        known = self.recorded.get(report.conversion_id)
        if known is None and claim is not None:
            known = claim.content_hash
        if known is None:
            return self._take(report, verdict=False)
        if known == report.content_hash:
            return True
        return await self._conflict(report, claim)

    def _take(self, report: OrderReported, *, verdict: bool | None) -> _Verdict:
        key = (report.conversion_id, report.content_hash)
        if key in self._journalled:
            return verdict
        payload = events.encode(report)
        if len(payload) > self.node.settings.journal_record_bytes_max:
            return OrderTooLarge("the order is too large to be recorded")
        self._journalled.add(key)
        self.fresh.append(report)
        self.payloads.append(payload)
        self.claimed.setdefault(report.conversion_id, report)
        return verdict

    async def _conflict(self, report: OrderReported, claim: OrderReported | None) -> AppError:
        conversion_id = report.conversion_id
        if self.recorded is not None and conversion_id in self.recorded:
            order = await asyncio.to_thread(_recorded_order, self.node.engine, conversion_id)
        else:
            order = claim.order if claim is not None else report.order
        return conversions.conflict(order, report.order, conversion_id=conversion_id)


def _recorded_order(engine: Engine, conversion_id: str) -> Order:
    with reading(engine) as session:
        return conversions.reported_order(session, conversions.get(session, conversion_id))


async def _recorded_hashes(engine: Engine, conversion_ids: Sequence[str]) -> dict[str, str] | None:
    def look_up() -> dict[str, str]:
        with reading(engine) as session:
            return conversions.hashes(session, conversion_ids)

    try:
        return await asyncio.to_thread(look_up)
    except sa.exc.SQLAlchemyError:
        return None


def _acknowledge(
    tokens: Tokens, reports: Sequence[OrderReported], verdicts: Sequence[_Verdict]
) -> list[Accepted | AppError]:
    return [
        verdict
        if isinstance(verdict, AppError)
        else Accepted(_order_receipt(tokens, report), report.conversion_id, verdict)
        for report, verdict in zip(reports, verdicts, strict=True)
    ]


def _order_receipt(tokens: Tokens, report: OrderReported) -> str:
    # Nothing of the moment goes in: the same order gives the same receipt for ever.
    return tokens.sign_receipt(
        {
            "program": report.program_id,
            "conversion_id": report.conversion_id,
            "content_hash": report.content_hash,
        }
    )


def _result(verdict: _Verdict) -> str:
    if isinstance(verdict, AppError):
        return verdict.code
    return {True: "duplicate", False: "accepted", None: "unchecked"}[verdict]


async def accept_change(
    node: TrackerNode,
    program: ProgramRoute,
    kind: ChangeKind,
    order_id: str,
    values: Mapping[str, Any],
    *,
    now: datetime,
) -> AcceptedChange:
    """Acknowledge a change of an order, once the order is in the database.

    An order just reported may still be on its way there; it is waited for, for at most
    `intake_wait_milliseconds`. InvalidInput, OrderUnknown, RefundExceedsOrder or ChangeConflict
    when it may not be; while the database is away it is journalled unchecked.
    """
    subject = changes.Subject(
        conversion_id=conversions.id_of(
            node.conversion_key,
            program_id=program.id,
            order_id=order_id,
            event=changes.event_of(values) or orders.DEFAULT_EVENT,
        ),
        program_id=program.id,
        order_id=order_id,
        currency=program.currency,
    )
    change = changes.parse_change(kind, values, subject, key=node.conversion_key, now=now)
    async with node.claims.hold([change.conversion_id]):
        duplicate = await _check_change(node, change)
        if not duplicate:
            await node.journal.append(events.encode(change))
            node.claims.remember_change(change)
    result = {True: "duplicate", False: "accepted", None: "unchecked"}[duplicate]
    metrics.CHANGES.labels(kind.value, result).inc()
    receipt = node.tokens.sign_receipt(
        {
            "program": program.id,
            "conversion_id": change.conversion_id,
            "change_id": change.id,
            "content_hash": change.content_hash,
        }
    )
    return AcceptedChange(receipt, change.id, duplicate)


async def _check_change(node: TrackerNode, change: ChangeReported) -> bool | None:
    unshipped = node.claims.changes(change.conversion_id)

    def look() -> bool:
        with reading(node.engine) as session:
            return changes.check(session, change, unshipped=unshipped)

    deadline = monotonic() + node.settings.intake_wait_milliseconds / 1000
    while True:
        try:
            return await asyncio.to_thread(look)
        except changes.OrderUnknown:
            if monotonic() >= deadline:
                raise
        except sa.exc.SQLAlchemyError:
            return None
        await asyncio.sleep(_POLL_SECONDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class PastClick:
    """A click that happened elsewhere, when this network was not there yet."""

    program: ProgramRoute
    publisher: PublisherRoute
    clicked_at: datetime
    ref: str
    sub_ids: Mapping[str, str]
    landing_url: str


async def import_clicks(node: TrackerNode, past: Sequence[PastClick]) -> list[str]:
    """Journal past clicks; their click ids, equal for equal (program, publisher, time, ref)."""
    key = node.keys.derive("click-import")
    seen = [_seen_in_the_past(node, click, key) for click in past]
    await node.journal.append_many([events.encode(click) for click in seen])
    metrics.CLICKS.labels("imported").inc(len(seen))
    return [click.id for click in seen]


def _seen_in_the_past(node: TrackerNode, click: PastClick, key: bytes) -> ClickSeen:
    identity = json.dumps(
        [click.program.id, click.publisher.id, click.clicked_at.isoformat(), click.ref]
    )
    click_id = node.signer.mint(
        at=click.clicked_at,
        program_number=click.program.number,
        publisher_number=click.publisher.number,
        flags=FLAG_IMPORTED,
        random_bytes=hashlib.blake2b(identity.encode(), digest_size=RANDOM_BYTES, key=key).digest(),
    )
    return ClickSeen(
        id=click_id,
        at=click.clicked_at,
        program_number=click.program.number,
        publisher_number=click.publisher.number,
        page=click.landing_url or click.program.landing_url,
        query=urlencode({**({"ref": click.ref} if click.ref else {}), **click.sub_ids}),
        imported=True,
    )
