"""Works the files of orders that wait, on whichever node takes them first."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlmodel import col, select

from kernel import clock, log
from kernel.database import reading, unit_of_work
from kernel.errors import AppError, Conflict, InvalidInput, NotFound, Unavailable, invalid
from kernel.outbox import acquire, release
from tracker import events, intake, orders, uploads
from tracker.events import OrderReported
from tracker.intake import Accepted, AcceptedChange
from tracker.models import Arrival, ChangeKind, OrderUpload, OrderUploadRow
from tracker.node import TrackerNode
from tracker.order_files import CHANGE_COLUMNS
from tracker.orders import Terms
from tracker.repeats import STATUS_KINDS, Result
from tracker.routing import ProgramRoute
from tracker.uploads import RowStatus

_log = log.get(__name__)
_LEASE_SECONDS: Final = 60
_POLL_SECONDS: Final = 1.0
_CHANGE_FIELDS: Final = frozenset({"event", "currency", "occurred_at", "reason", "reason_code"})


@dataclass(frozen=True, slots=True, kw_only=True)
class _Change:
    """A row about an order that was reported before."""

    kind: ChangeKind
    order_id: str
    values: dict[str, Any]


_Outcome = Accepted | AcceptedChange | AppError


async def work(node: TrackerNode, upload_id: str, *, owner: str) -> bool:
    """Work a file to its end; False when another owner has it. JournalUnavailable comes through.

    A later call goes on where this one stopped.
    """
    if not await asyncio.to_thread(_take, node, upload_id, owner):
        return False
    upload = await asyncio.to_thread(_load, node, upload_id)
    rows = uploads.unpack(upload.content) if upload.content else []
    program = node.routing.table.find_program(upload.program_id)
    chunk_rows = node.settings.upload_chunk_rows
    for start in range(upload.rows_done, len(rows), chunk_rows):
        chunk = rows[start : start + chunk_rows]
        results = await _work_chunk(node, upload, program, chunk)
        await asyncio.to_thread(_note, node, upload_id, results, owner)
    await asyncio.to_thread(_give_back, node, upload_id, owner)
    return True


def _take(node: TrackerNode, upload_id: str, owner: str) -> bool:
    with unit_of_work(node.engine) as session:
        return acquire(
            session, _lease(upload_id), owner=owner, seconds=_LEASE_SECONDS, now=clock.now()
        )


def _load(node: TrackerNode, upload_id: str) -> OrderUpload:
    with reading(node.engine) as session:
        return session.get_one(OrderUpload, upload_id)


def _note(node: TrackerNode, upload_id: str, results: Sequence[OrderUploadRow], owner: str) -> None:
    now = clock.now()
    with unit_of_work(node.engine) as session:
        if not acquire(session, _lease(upload_id), owner=owner, seconds=_LEASE_SECONDS, now=now):
            # Another node goes on with it; these rows are its own to say.
            raise Unavailable("another node works on this file")
        uploads.note(session, upload_id, results, now=now)


def _give_back(node: TrackerNode, upload_id: str, owner: str) -> None:
    with unit_of_work(node.engine) as session:
        release(session, _lease(upload_id), owner=owner)


def _lease(upload_id: str) -> str:
    return f"upload:{upload_id}"


async def _work_chunk(
    node: TrackerNode,
    upload: OrderUpload,
    program: ProgramRoute,
    chunk: Sequence[tuple[int, dict[str, Any]]],
) -> list[OrderUploadRow]:
    now = clock.now()
    read = await asyncio.to_thread(_read, node, upload, program, chunk, now)
    reports = [one for one in read if isinstance(one, OrderReported)]
    accepted = iter(await intake.accept_orders(node, reports))
    outcomes: list[_Outcome] = []
    for one in read:
        if isinstance(one, OrderReported):
            outcomes.append(next(accepted))
        elif isinstance(one, _Change):
            outcomes.append(await _change(node, program, one, now))
        else:
            outcomes.append(one)
    own = await asyncio.to_thread(_own_before, node, reports)
    own |= {
        known.source
        for report in reports
        for known in node.claims.reports(report.key)
        if known.source == report.source
    }
    return [
        _row(upload.id, number, values, outcome, is_own=f"{upload.id}:{number}" in own)
        for (number, values), outcome in zip(chunk, outcomes, strict=True)
    ]


def _read(
    node: TrackerNode,
    upload: OrderUpload,
    program: ProgramRoute,
    chunk: Sequence[tuple[int, dict[str, Any]]],
    now: datetime,
) -> list[OrderReported | _Change | AppError]:
    terms = intake.terms_of(
        node,
        program,
        days_back_max=None if upload.is_manager else program.order_age_days_max,
        now=now,
    )
    read: list[OrderReported | _Change | AppError] = []
    for number, values in chunk:
        try:
            source = f"{upload.id}:{number}"
            read.append(_read_row(node, program, values, terms, source=source))
        except AppError as error:
            read.append(error)
    return read


def _read_row(
    node: TrackerNode, program: ProgramRoute, values: dict[str, Any], terms: Terms, *, source: str
) -> OrderReported | _Change:
    if "refund" in values:
        return _refund(values)
    said = {name: value for name, value in values.items() if name not in CHANGE_COLUMNS}
    order = orders.parse_order(said, terms)
    kind = STATUS_KINDS.get(order.status)
    if kind is not None and orders.is_bare(order):
        if kind is ChangeKind.REFUND:
            raise invalid("refund", "missing", "is required with the status of a refunded order")
        return _Change(kind=kind, order_id=order.order_id, values=_change_values(values))
    unsaid = sorted(set(values) & set(CHANGE_COLUMNS))
    if unsaid:
        raise invalid(unsaid[0], "without_change", "belongs to a row with a refund or a status")
    return intake.report_of(
        node,
        program,
        order,
        channel=events.CHANNEL_UPLOAD,
        now=terms.now,
        source=source,
    )


def _refund(values: Mapping[str, Any]) -> _Change:
    order_id = str(values.get("order_id", ""))
    if not order_id:
        raise invalid("order_id", "missing", "is required")
    change = {**_change_values(values), "amount": values["refund"]}
    if "refund_id" in values:
        change["refund_id"] = values["refund_id"]
    return _Change(kind=ChangeKind.REFUND, order_id=order_id, values=change)


def _change_values(values: Mapping[str, Any]) -> dict[str, Any]:
    change = {name: value for name, value in values.items() if name in _CHANGE_FIELDS}
    if "refund" not in values:
        change.pop("currency", None)
    return change


async def _change(
    node: TrackerNode, program: ProgramRoute, change: _Change, now: datetime
) -> _Outcome:
    try:
        return await intake.accept_change(
            node, program, change.kind, change.order_id, change.values, now=now, patient=False
        )
    except Unavailable:
        raise
    except AppError as error:
        return error


def _own_before(node: TrackerNode, reports: Sequence[OrderReported]) -> set[str]:
    """Rows of this chunk that were recorded before: by this job, before it was interrupted."""
    ids = sorted({report.conversion_id for report in reports})
    sources = {report.source for report in reports}
    with reading(node.engine) as session:
        query = select(Arrival.source).where(
            col(Arrival.conversion_id).in_(ids), Arrival.result == Result.ACCEPTED
        )
        return {source for source in session.exec(query) if source in sources}


def _row(
    upload_id: str, number: int, values: Mapping[str, Any], outcome: _Outcome, *, is_own: bool
) -> OrderUploadRow:
    row = OrderUploadRow(
        upload_id=upload_id,
        row=number,
        status=RowStatus.ACCEPTED,
        order_id=_storable(str(values.get("order_id", ""))),
    )
    if isinstance(outcome, AppError):
        _refuse(row, outcome)
        return row
    row.receipt = outcome.receipt
    if isinstance(outcome, Accepted):
        row.conversion_id = outcome.conversion_id
    if outcome.duplicate and not is_own:
        row.status = RowStatus.DUPLICATE
    return row


def _refuse(row: OrderUploadRow, error: AppError) -> None:
    row.status = RowStatus.CONFLICT if isinstance(error, Conflict) else RowStatus.INVALID
    row.rule = error.code
    row.message = error.message
    row.conversion_id = error.facts.get("conversion_id")
    if isinstance(error, InvalidInput):
        problem = error.problems[0]
        row.field, row.rule = problem.field, problem.rule
        row.message = "; ".join(f"{one.field} {one.message}" for one in error.problems)
    row.message = _storable(row.message)
    row.field = _storable(row.field)


def _storable(text: str) -> str:
    # What stands in a file may be no text any database takes.
    return text.replace("\0", "\ufffd").encode(errors="replace").decode()[:1_000]


class Runner:
    """Looks for files that wait, in the background of a node."""

    def __init__(self, node: TrackerNode) -> None:
        self._node = node
        self._owner = f"{os.uname().nodename}:{os.getpid()}:{id(self)}"
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        """Stop between two chunks; what is left is worked after the next start."""
        self._stopping.set()
        if self._task is not None:
            self._task.cancel()
            with suppress(asyncio.CancelledError):
                await self._task
            self._task = None

    async def _run(self) -> None:
        while not self._stopping.is_set():
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stopping.wait(), _POLL_SECONDS)
                return
            with suppress(sa.exc.SQLAlchemyError):
                for upload_id in await asyncio.to_thread(self._waiting):
                    await self._work(upload_id)

    async def _work(self, upload_id: str) -> None:
        try:
            await work(self._node, upload_id, owner=self._owner)
        except (sa.exc.SQLAlchemyError, Unavailable, NotFound) as error:
            # The database or the journal is away, or the program is not known here yet.
            _log.warning("upload_waits", upload=upload_id, error=type(error).__name__)
        except Exception as error:  # noqa: BLE001 - one file must not end the work on the others
            _log.exception("upload_failed", upload=upload_id, exc_info=error)
            await asyncio.to_thread(self._fail, upload_id)

    def _fail(self, upload_id: str) -> None:
        with unit_of_work(self._node.engine) as session:
            uploads.fail(session, upload_id, "the file could not be worked on", now=clock.now())

    def _waiting(self) -> list[str]:
        with reading(self._node.engine) as session:
            return uploads.open_ids(session)
