"""The tracker's HTTP face: clicks, postback, pixel, and the JSON API for orders and past clicks.

`ClickApp` answers `/c/...` in front of everything else; `ROUTES` and `ENDPOINTS` go into the
application, which must have `app.state.context` and `app.state.node`.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal, cast

from starlette.concurrency import run_in_threadpool
from starlette.routing import BaseRoute

from kernel import problems
from kernel.errors import AppError, Conflict, NotFound, TooLarge, invalid
from kernel.http import Call, Endpoint, route
from network.access import Actor, require
from network.models import Role
from tracker import (
    events,
    http_impressions,
    http_postback,
    http_qr,
    http_tag,
    http_uploads,
    http_visits,
    intake,
    orders,
)
from tracker.changes import ChangeConflict, OrderUnknown, RefundExceedsOrder
from tracker.conversions import OrderConflict
from tracker.events import OrderReported
from tracker.fields import Fields
from tracker.http_clicks import ClickApp
from tracker.http_models import (
    ChangeBody,
    ChangeReply,
    ClickRow,
    ClicksReply,
    OrderReply,
    OrderRow,
    OrderRows,
    OrdersReply,
    PastClicks,
    RefundBody,
    ReportedOrders,
    RestatedOrder,
)
from tracker.intake import Accepted, PastClick
from tracker.journal import JournalUnavailable
from tracker.models import ChangeKind
from tracker.node import TrackerNode
from tracker.routing import ProgramRoute
from tracker.signatures import SigningActor, or_signed

__all__ = ["ENDPOINTS", "ROUTES", "ClickApp"]

_REF_CHARS_MAX: Final = 128
_URL_CHARS_MAX: Final = 2048
_SUB_IDS: Final = ("s1", "s2", "s3", "s4", "s5")
_GUARD: Final = or_signed(require(Role.ADVERTISER, Role.MANAGER))
_PAST_CLICK: Final = ("program", "publisher", "clicked_at", "ref", "landing_url", *_SUB_IDS)


class TooManyRows(TooLarge):
    """A batch has more rows than `batch_rows_max`; nothing of it was taken in."""

    code = "too_many_rows"


async def report_orders(call: Call) -> OrdersReply:
    """Report an order, or several: a list, or an object with a list named `conversions`.

    A batch answers with a result for each row; rows that are refused do not stop the others.
    """
    document = call.body.root
    rows = _rows(document)
    node = _node(call)
    if rows is None:
        report = await run_in_threadpool(_read_order, call, node, document)
        accepted = await intake.accept_order(node, report)
        return OrdersReply(
            OrderReply(
                receipt=accepted.receipt,
                conversion_id=accepted.conversion_id,
                duplicate=accepted.duplicate,
            )
        )
    _check_count(rows, node)
    read = await run_in_threadpool(_read_orders, call, node, rows)
    good = [one for one in read if isinstance(one, OrderReported)]
    outcomes = iter(await intake.accept_orders(node, good))
    # Ten thousand rows are also rendered outside the loop: clicks are waiting there.
    return await run_in_threadpool(
        _render_orders,
        [next(outcomes) if isinstance(one, OrderReported) else one for one in read],
        call.request.url.path,
    )


async def restate_order(call: Call) -> OrderReply:
    """Report an order anew, with its full new totals: it takes the place of what stands.

    The conversion that stood is cancelled with the reason `restated`; the new one has its time and
    its publisher. An equal restatement is a repeat; `restatement_id` tells two of them apart.
    """
    node, document = _node(call), call.body.root
    report = await run_in_threadpool(_read_restatement, call, node, document)
    await intake.wait_for_order(node, report)
    accepted = await intake.accept_order(node, report)
    return OrderReply(
        receipt=accepted.receipt,
        conversion_id=accepted.conversion_id,
        duplicate=accepted.duplicate,
    )


def _read_restatement(call: Call, node: TrackerNode, document: Any) -> OrderReported:
    if not isinstance(document, Mapping):
        raise invalid("body", "type", "must be an object")
    values = dict(document)
    named = Fields(values)
    restatement_id = named.text("restatement_id", chars_max=_REF_CHARS_MAX) or ""
    if values.setdefault("order_id", call.path["order_id"]) != call.path["order_id"]:
        named.problem("order_id", "path", "must be the order of the address")
    if named.value("amount") is None and named.value("items") is None:
        # An order of nothing can be meant, but then it has to be said.
        named.problem("amount", "missing", "is required: a restatement says the new totals")
    named.finish()
    values.pop("restatement_id", None)
    return _read_order(call, node, values, restates=restatement_id)


def _rows(document: Any) -> list[Any] | None:
    """The rows of a batch, or None when the document is one order."""
    if isinstance(document, list):
        return document
    if not isinstance(document, Mapping):
        raise invalid("body", "type", "must be an object or a list")
    if "conversions" not in document:
        return None
    fields = Fields(document)
    fields.only("conversions")
    if not isinstance(document["conversions"], list):
        fields.problem("conversions", "type", "must be a list")
    fields.finish()
    return cast("list[Any]", document["conversions"])


def _check_count(rows: Sequence[Any], node: TrackerNode) -> None:
    limit = node.settings.batch_rows_max
    if len(rows) > limit:
        raise TooManyRows(
            f"a batch has at most {limit} rows", limit="batch_rows_max", limit_rows=limit
        )


def _read_orders(
    call: Call, node: TrackerNode, rows: Sequence[Any]
) -> list[OrderReported | AppError]:
    read: list[OrderReported | AppError] = []
    for row in rows:
        try:
            read.append(_read_order(call, node, row))
        except AppError as error:
            read.append(error)
    return read


def _read_order(
    call: Call, node: TrackerNode, values: Any, *, restates: str | None = None
) -> OrderReported:
    if not isinstance(values, Mapping):
        raise invalid("body", "type", "must be an object")
    orders.refuse_unknown(values, "program")
    program = _program(node, call.actor, values.get("program"))
    is_manager = call.actor.is_manager
    terms = intake.terms_of(
        node,
        program,
        days_back_max=None if is_manager else program.order_age_days_max,
        now=call.now,
    )
    order = orders.parse_order(values, terms)
    is_import = is_manager and order.occurred_at is not None
    channel = events.CHANNEL_IMPORT if is_import else events.CHANNEL_API
    return intake.report_of(node, program, order, channel=channel, now=call.now, restates=restates)


def _program(node: TrackerNode, actor: Actor, named: Any) -> ProgramRoute:
    """The program meant: the one named if it is the actor's, or an advertiser's only one."""
    table = node.routing.table
    only = actor.program_id if isinstance(actor, SigningActor) else None
    if named is not None and not isinstance(named, str):
        raise invalid("program", "type", "must be text")
    if named:
        program = table.find_program(named)
        is_own = program.advertiser_id == actor.party_id and only in {None, program.id}
        if not actor.is_manager and not is_own:
            raise NotFound("no such program", kind="program")
        return program
    if only is not None:
        return table.find_program(only)
    own = [] if actor.is_manager else list(table.programs_of(actor.party_id))
    if len(own) != 1:
        raise invalid("program", "missing", "is required: it is not clear which one is meant")
    return own[0]


def _render_orders(outcomes: Sequence[Accepted | AppError], path: str) -> OrdersReply:
    return OrdersReply(
        OrderRows(results=[_order_row(at, one, path) for at, one in enumerate(outcomes)])
    )


def _order_row(index: int, outcome: Accepted | AppError, path: str) -> OrderRow:
    if isinstance(outcome, AppError):
        facts = outcome.facts
        return OrderRow(
            index=index,
            status="conflict" if isinstance(outcome, Conflict) else "invalid",
            receipt=None,
            conversion_id=facts.get("conversion_id"),
            duplicate=None,
            problem=problems.document(outcome, instance=path),
        )
    return OrderRow(
        index=index,
        status="duplicate" if outcome.duplicate else "accepted",
        receipt=outcome.receipt,
        conversion_id=outcome.conversion_id,
        duplicate=outcome.duplicate,
        problem=None,
    )


def _changes_order(kind: ChangeKind) -> Callable[[Call], Awaitable[ChangeReply]]:
    async def change(call: Call) -> ChangeReply:
        node = _node(call)
        values = call.body.model_dump(exclude_none=True)
        accepted = await intake.accept_change(
            node,
            _program(node, call.actor, values.get("program")),
            kind,
            call.path["order_id"],
            values,
            now=call.now,
        )
        return ChangeReply(
            receipt=accepted.receipt,
            change_id=accepted.change_id,
            duplicate=accepted.duplicate,
        )

    change.__doc__ = _CHANGE_WORDS[kind]
    return change


_CHANGE_WORDS: Final = {
    ChangeKind.REFUND: "Take back part of an order, or all of it; several refunds add up.",
    ChangeKind.CANCEL: "Cancel an order: nothing of it is left to be paid for.",
    ChangeKind.APPROVE: "Approve an order before its hold ends.",
    ChangeKind.DECLINE: "Decline an order, with a reason that its publisher sees.",
}


async def import_clicks(call: Call) -> ClicksReply:
    """Bring clicks of the past, so that orders of the past find their publishers.

    The same click gets the same id again and is kept once.
    """
    node = _node(call)
    rows = call.body.clicks
    _check_count(rows, node)
    read = await run_in_threadpool(_read_past_clicks, call, node, rows)
    good = [one for one in read if isinstance(one, PastClick)]
    ids = iter(await intake.import_clicks(node, good))
    results = []
    for index, one in enumerate(read):
        refused = isinstance(one, AppError)
        status: Literal["accepted", "invalid"] = "invalid" if refused else "accepted"
        problem = (
            problems.document(one, instance=call.request.url.path)
            if isinstance(one, AppError)
            else None
        )
        click_id = None if refused else next(ids)
        results.append(ClickRow(index=index, status=status, click_id=click_id, problem=problem))
    return ClicksReply(results=results)


def _read_past_clicks(
    call: Call, node: TrackerNode, rows: Sequence[Mapping[str, Any]]
) -> list[PastClick | AppError]:
    read: list[PastClick | AppError] = []
    for row in rows:
        try:
            read.append(_read_past_click(call, node, row))
        except AppError as error:
            read.append(error)
    return read


def _read_past_click(call: Call, node: TrackerNode, row: Mapping[str, Any]) -> PastClick:
    fields = Fields(row)
    fields.only(*_PAST_CLICK)
    program = fields.required_text("program", chars_max=_REF_CHARS_MAX)
    publisher = fields.required_text("publisher", chars_max=_REF_CHARS_MAX)
    clicked_at = fields.time("clicked_at", now=call.now)
    if fields.value("clicked_at") is None:
        fields.problem("clicked_at", "missing", "is required")
    ref = fields.text("ref", chars_max=_REF_CHARS_MAX) or ""
    landing_url = fields.text("landing_url", chars_max=_URL_CHARS_MAX) or ""
    sub_id_chars_max = node.settings.sub_id_chars_max
    sub_ids = {name: fields.text(name, chars_max=sub_id_chars_max) for name in _SUB_IDS}
    fields.finish()
    if clicked_at is None:
        raise invalid("clicked_at", "missing", "is required")
    return PastClick(
        program=node.routing.table.find_program(program),
        publisher=node.routing.table.find_publisher(publisher),
        clicked_at=clicked_at,
        ref=ref,
        sub_ids={name: value for name, value in sub_ids.items() if value},
        landing_url=landing_url,
    )


def _node(call: Call) -> TrackerNode:
    return cast("TrackerNode", call.request.app.state.node)


def _change_endpoint(kind: ChangeKind, word: str, summary: str) -> Endpoint:
    is_refund = kind is ChangeKind.REFUND
    return Endpoint(
        method="POST",
        path=f"/v1/conversions/{{order_id}}/{word}",
        handler=_changes_order(kind),
        summary=summary,
        tag="Orders",
        guard=_GUARD,
        roles=(Role.ADVERTISER, Role.MANAGER),
        body=RefundBody if is_refund else ChangeBody,
        reply=ChangeReply,
        status=202,
        errors=(
            NotFound,
            OrderUnknown,
            JournalUnavailable,
            *((RefundExceedsOrder, ChangeConflict) if is_refund else ()),
        ),
    )


_CHANGES: Final = (
    _change_endpoint(ChangeKind.REFUND, "refunds", "Refund an order"),
    _change_endpoint(ChangeKind.CANCEL, "cancel", "Cancel an order"),
    _change_endpoint(ChangeKind.APPROVE, "approve", "Approve an order"),
    _change_endpoint(ChangeKind.DECLINE, "decline", "Decline an order"),
)
_RESTATE: Final = Endpoint(
    method="POST",
    path="/v1/conversions/{order_id}/restate",
    handler=restate_order,
    summary="Restate an order",
    tag="Orders",
    guard=_GUARD,
    roles=(Role.ADVERTISER, Role.MANAGER),
    body=RestatedOrder,
    reply=OrderReply,
    status=202,
    errors=(NotFound, OrderUnknown, intake.OrderTooLarge, JournalUnavailable),
)
ENDPOINTS: tuple[Endpoint, ...] = (
    *http_uploads.ENDPOINTS,
    Endpoint(
        method="POST",
        path="/v1/conversions",
        handler=report_orders,
        summary="Report orders",
        tag="Orders",
        guard=_GUARD,
        roles=(Role.ADVERTISER, Role.MANAGER),
        body=ReportedOrders,
        reply=OrdersReply,
        status=202,
        errors=(NotFound, OrderConflict, TooManyRows, intake.OrderTooLarge, JournalUnavailable),
    ),
    _RESTATE,
    *_CHANGES,
    Endpoint(
        method="POST",
        path="/v1/clicks",
        handler=import_clicks,
        summary="Import clicks of the past",
        tag="Clicks",
        guard=require(Role.MANAGER),
        roles=(Role.MANAGER,),
        body=PastClicks,
        reply=ClicksReply,
        status=202,
        errors=(TooManyRows, JournalUnavailable),
    ),
    *http_visits.ENDPOINTS,
)

# An order id may hold a slash, which the plain pattern of the endpoints does not match.
_WITH_SLASHES: Final = tuple(
    route(replace(endpoint, path=endpoint.path.replace("{order_id}", "{order_id:path}")))
    for endpoint in (_RESTATE, *_CHANGES)
)
ROUTES: tuple[BaseRoute, ...] = (
    *http_postback.ROUTES,
    *http_tag.ROUTES,
    *http_qr.ROUTES,
    *http_impressions.ROUTES,
    *_WITH_SLASHES,
)
