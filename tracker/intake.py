"""Orders and changes are taken in: compared with what is known, journalled, then acknowledged.

Whatever is answered with a receipt is on stable storage. While the database is away only the
journal is asked, so that `duplicate` is not known (None); repeats and conflicts are then told
apart when the journal is shipped.
"""

import asyncio
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from time import monotonic
from typing import Any, Final
from urllib.parse import urlencode

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Engine

from kernel.database import reading
from kernel.errors import AppError, TooLarge
from kernel.tokens import Tokens
from tracker import changes, conversions, events, metrics, orders
from tracker.arrivals import KEYS_MAX
from tracker.click_ids import FLAG_IMPORTED, RANDOM_BYTES
from tracker.events import ChangeReported, ClickSeen, Order, OrderKey, OrderReported
from tracker.models import ChangeKind
from tracker.node import TrackerNode
from tracker.orders import Terms
from tracker.repeats import (
    EDIT,
    FURTHER,
    IGNORE,
    Earlier,
    Result,
    is_browsers,
    judge,
    over_browsers,
)
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


def terms_of(
    node: TrackerNode, program: ProgramRoute, *, days_back_max: int | None, now: datetime
) -> Terms:
    """What a report of the program's orders is checked against."""
    settings = node.settings
    return Terms(
        currency=program.currency,
        days_back_max=days_back_max,
        items_max=settings.order_items_max,
        now=now,
        status_words=program.status_words,
        click_ids_max=settings.order_click_ids_max,
        custom_fields_max=settings.order_custom_fields_max,
        custom_chars_max=settings.order_custom_chars_max,
        other_currencies=program.other_currencies,
    )


def report_of(
    node: TrackerNode,
    program: ProgramRoute,
    order: Order,
    *,
    channel: str,
    now: datetime,
    source: str = "",
    restates: str | None = None,
) -> OrderReported:
    """The event of an order that was reported for a program.

    `restates` is the name of a restatement, empty when it has none: the order is to take the place
    of what was reported before, whatever the program's mode.
    """
    mode = program.duplicate_mode(order.event) if restates is None else EDIT
    if channel == events.CHANNEL_TAG:
        mode = IGNORE
    hashed = orders.content_hash(program.id, order)
    if restates:
        # Named, so that an order can be put back to what it was once.
        hashed = hashlib.sha256(f"{hashed}:{restates}".encode()).hexdigest()
    return OrderReported(
        conversion_id=conversions.id_of(
            node.conversion_key,
            program_id=program.id,
            order_id=order.order_id,
            event=order.event,
            # Where an order may have several conversions, each is known by what it says. So is
            # a browser's word, which leaves the order's own id to the server's.
            content_hash=hashed if mode in FURTHER or channel == events.CHANNEL_TAG else "",
        ),
        program_id=program.id,
        content_hash=hashed,
        received_at=now,
        channel=channel,
        imported=channel == events.CHANNEL_IMPORT,
        order=order,
        mode=mode,
        source=source,
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
    keys = {report.key for report in reports}
    async with node.claims.hold(keys):
        # Before the database is asked: what is shipped in between is forgotten here, not there.
        claimed = {key: node.claims.reports(key) for key in keys}
        recorded = await _recorded(node.engine, sorted(keys))
        judging = _Judging(node, recorded, claimed)
        verdicts = []
        for at, report in enumerate(reports):
            if at % _ORDERS_PER_TURN == 0:
                await asyncio.sleep(0)  # clicks are waiting too
            verdicts.append(await judging.judge(report))
        await node.journal.append_many(judging.payloads)
        for report in judging.fresh:
            node.claims.remember(report)
    await _count(node, reports, verdicts)
    if len(reports) <= _SIGN_IN_LOOP_MAX:
        return _acknowledge(node.tokens, reports, verdicts)
    return await asyncio.to_thread(_acknowledge, node.tokens, reports, verdicts)


async def wait_for_order(node: TrackerNode, report: OrderReported) -> None:
    """Return once the order is known here or in the database, or that is away.

    It is waited for, for at most `intake_wait_milliseconds`; OrderUnknown then.
    """
    deadline = monotonic() + node.settings.intake_wait_milliseconds / 1000
    while not node.claims.reports(report.key):
        recorded = await _recorded(node.engine, [report.key])
        if recorded is None or recorded:
            return
        if monotonic() >= deadline:
            order_id = report.order.order_id
            raise changes.OrderUnknown(f"no order {order_id!r} is recorded", order_id=order_id)
        await asyncio.sleep(_POLL_SECONDS)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What an order is (None: not known), and the conversion and content that stand for it."""

    result: Result | None
    conversion_id: str
    content_hash: str
    refusal: AppError | None = None

    @property
    def duplicate(self) -> bool | None:
        """What the answer says; None while it is not known."""
        if self.result is None:
            return None
        return self.result in {Result.DUPLICATE, Result.IGNORED}


async def _count(
    node: TrackerNode, reports: Sequence[OrderReported], verdicts: Sequence[_Verdict]
) -> None:
    for report, verdict in zip(reports, verdicts, strict=True):
        metrics.ORDERS.labels(report.channel, _word(verdict)).inc()
        if verdict.result in _NOT_JOURNALLED:
            node.arrivals.add(report, verdict.conversion_id, verdict.result)
    if len(node.arrivals) > KEYS_MAX:
        await node.write_arrivals(everything=True)


_NOT_JOURNALLED: Final = (Result.DUPLICATE, Result.IGNORED, Result.CONFLICT)


@dataclass(slots=True)
class _Judging:
    """Compares the orders of one call with what is known, and collects what is to be journalled.

    `recorded` is what the database has of them, or None while it is away; `claimed` what this
    process acknowledged before.
    """

    node: TrackerNode
    recorded: Mapping[OrderKey, list[Earlier]] | None
    claimed: dict[OrderKey, list[OrderReported]]
    fresh: list[OrderReported] = field(default_factory=list)
    payloads: list[bytes] = field(default_factory=list)

    async def judge(self, report: OrderReported) -> _Verdict:
        """The verdict on the next order of the call."""
        claimed = self.claimed.setdefault(report.key, [])
        for one in claimed:
            if one.content_hash == report.content_hash:
                # What is in the database is not known while it is away, so nothing can be called
                # a repeat; the same bytes need not be journalled twice, though.
                known = None if self.recorded is None else Result.DUPLICATE
                return _Verdict(known, one.conversion_id, one.content_hash)
        if self.recorded is None:
            return self._take(report, None)
        earlier = self._earlier(report, claimed)
        report = over_browsers(report, earlier)
        contents: dict[str, Order] = {}
        if earlier and all(one.content_hash != report.content_hash for one in earlier):
            contents = await self._contents(report, earlier, claimed)
        judgement = judge(report, earlier, lambda one: contents[one.conversion_id])
        of = judgement.of
        if judgement.result is Result.ACCEPTED or of is None:
            return self._take(report, judgement.result)
        if judgement.result is Result.STATUS:
            return await self._status(report, of)
        refusal = None
        if judgement.result is Result.CONFLICT:
            refusal = conversions.conflict(
                contents[of.conversion_id], report.order, conversion_id=of.conversion_id
            )
        return _Verdict(judgement.result, of.conversion_id, of.content_hash, refusal)

    def _earlier(self, report: OrderReported, claimed: Sequence[OrderReported]) -> list[Earlier]:
        """The order's conversions: recorded ones, then those that this process journalled."""
        earlier = list(self.recorded.get(report.key, [])) if self.recorded else []
        for one in claimed:
            is_known = any(each.conversion_id == one.conversion_id for each in earlier)
            if is_known or (earlier and one.mode not in FURTHER):
                continue
            if one.mode == EDIT:
                earlier = [replace(each, standing=False) for each in earlier]
            earlier.append(
                Earlier(
                    conversion_id=one.conversion_id,
                    content_hash=one.content_hash,
                    number=len(earlier) + 1,
                    received_at=one.received_at,
                    by_browser=is_browsers(one),
                )
            )
        return earlier

    async def _contents(
        self,
        report: OrderReported,
        earlier: Sequence[Earlier],
        claimed: Sequence[OrderReported],
    ) -> dict[str, Order]:
        contents = {one.conversion_id: one.order for one in reversed(claimed)}
        recorded = self.recorded.get(report.key, []) if self.recorded else []
        ids = [one.conversion_id for one in recorded]
        if ids:
            contents |= await asyncio.to_thread(_recorded_orders, self.node.engine, ids)
        return {one.conversion_id: contents[one.conversion_id] for one in earlier}

    async def _status(self, report: OrderReported, of: Earlier) -> _Verdict:
        key = changes.of_status(report, of.conversion_id).key
        is_known = await asyncio.to_thread(_is_change_recorded, self.node.engine, key)
        if is_known:
            return _Verdict(Result.DUPLICATE, of.conversion_id, report.content_hash)
        return self._take(report, Result.STATUS, of.conversion_id)

    def _take(
        self, report: OrderReported, result: Result | None, of_id: str | None = None
    ) -> _Verdict:
        payload = events.encode(report)
        if of_id is not None:
            # Remembered as what it is: a word about that conversion, and none of its own.
            report = msgspec.structs.replace(report, conversion_id=of_id, mode=events.MODE_REFUSE)
        verdict = _Verdict(result, report.conversion_id, report.content_hash)
        if len(payload) > self.node.settings.journal_record_bytes_max:
            refusal = OrderTooLarge("the order is too large to be recorded")
            return replace(verdict, refusal=refusal)
        self.fresh.append(report)
        self.payloads.append(payload)
        self.claimed[report.key].append(report)
        return verdict


def _recorded_orders(engine: Engine, conversion_ids: Sequence[str]) -> dict[str, Order]:
    with reading(engine) as session:
        return {
            one: conversions.reported_order(session, conversions.get(session, one))
            for one in conversion_ids
        }


def _is_change_recorded(engine: Engine, key: str) -> bool:
    with reading(engine) as session:
        return changes.is_recorded(session, [key])


async def _recorded(
    engine: Engine, keys: Sequence[OrderKey]
) -> dict[OrderKey, list[Earlier]] | None:
    def look_up() -> dict[OrderKey, list[Earlier]]:
        with reading(engine) as session:
            return conversions.known(session, keys)

    try:
        return await asyncio.to_thread(look_up)
    except sa.exc.SQLAlchemyError:
        return None


def _acknowledge(
    tokens: Tokens, reports: Sequence[OrderReported], verdicts: Sequence[_Verdict]
) -> list[Accepted | AppError]:
    return [
        verdict.refusal
        or Accepted(
            _order_receipt(tokens, report.program_id, verdict),
            verdict.conversion_id,
            verdict.duplicate,
        )
        for report, verdict in zip(reports, verdicts, strict=True)
    ]


def _order_receipt(tokens: Tokens, program_id: str, verdict: _Verdict) -> str:
    # Nothing of the moment goes in: the same order gives the same receipt for ever.
    return tokens.sign_receipt(
        {
            "program": program_id,
            "conversion_id": verdict.conversion_id,
            "content_hash": verdict.content_hash,
        }
    )


def _word(verdict: _Verdict) -> str:
    if verdict.refusal is not None:
        return verdict.refusal.code
    return verdict.result.value if verdict.result is not None else "unchecked"


async def accept_change(
    node: TrackerNode,
    program: ProgramRoute,
    kind: ChangeKind,
    order_id: str,
    values: Mapping[str, Any],
    *,
    now: datetime,
    patient: bool = True,
) -> AcceptedChange:
    """Acknowledge a change of an order, once the order is in the database.

    An order just reported may still be on its way there; it is waited for, for at most
    `intake_wait_milliseconds`; not `patient`, only when this process acknowledged it.
    InvalidInput, OrderUnknown, RefundExceedsOrder or ChangeConflict when it may not be. It is
    journalled unchecked, behind its order, while the database is away, or still waits for
    an order that this process acknowledged.
    """
    event = changes.event_of(values) or orders.DEFAULT_EVENT
    subject = changes.Subject(
        conversion_id=conversions.id_of(
            node.conversion_key, program_id=program.id, order_id=order_id, event=event
        ),
        program_id=program.id,
        order_id=order_id,
        currency=program.currency,
        event=event,
        other_currencies=program.other_currencies,
    )
    change = changes.parse_change(kind, values, subject, key=node.conversion_key, now=now)
    async with node.claims.hold([(program.id, order_id, event)]):
        is_here = bool(node.claims.reports((program.id, order_id, event)))
        duplicate = await _check_change(node, change, patient=patient, is_here=is_here)
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


async def _check_change(
    node: TrackerNode, change: ChangeReported, *, patient: bool, is_here: bool
) -> bool | None:
    unshipped = node.claims.changes(change.conversion_id)

    def look() -> bool:
        with reading(node.engine) as session:
            return changes.check(session, change, unshipped=unshipped)

    wait_milliseconds = node.settings.intake_wait_milliseconds if patient or is_here else 0
    deadline = monotonic() + wait_milliseconds / 1000
    while True:
        try:
            return await asyncio.to_thread(look)
        except changes.OrderUnknown:
            # Who has our receipt for the order must not hear that it is unknown.
            if monotonic() >= deadline and is_here:
                return None
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
