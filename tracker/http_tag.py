"""`/tag.js` and what it reports: visits of pages linked to directly, and orders.

A browser proves nothing but where its page came from: a report is taken when its `Origin` is on
the program's own domains. No cookie is read or set, so that no other site's request means more.
"""

import gzip
import hashlib
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from kernel import clock, http, problems
from kernel.errors import AppError, Forbidden, Refused, invalid
from network.models import TagOrders
from tracker import events, intake, metrics, orders, visits
from tracker.click_headers import client_address, is_prefetch, read_headers, without_consent
from tracker.events import Order
from tracker.fields import Fields
from tracker.node import TrackerNode
from tracker.routing import ProgramRoute, RoutingTable
from tracker.targets import is_allowed
from tracker.visits import Visit

_CODE_CHARS_MAX: Final = 64
_URL_CHARS_MAX: Final = 2048
_CLICK_ID_CHARS_MAX: Final = 255
_PREFLIGHT_SECONDS: Final = 600
_MEDIA_TYPES: Final = ("text/plain", "application/json")
_ORIGIN: Final = re.compile(r"https?://(?P<host>[a-z0-9_.-]{1,253})(?::[0-9]{1,5})?", re.ASCII)
_VISIT: Final = ("program", "publisher", "page", "referrer", "framed", "cons", *visits.SUB_IDS)
# What a browser may say of an order. Not its state, its time or who brought it: it could lie.
_BROWSERS_WORD: Final = frozenset(
    {"order_id", "event", "amount", "currency", "country", "customer", "coupon", "items"}
    | {"discount", "tax", "shipping", "custom", "test", "gross", "vat_percent", "revenue"}
    | {"site", "country_billing", "country_site"}
)
_SCRIPT: Final = Path(__file__).with_name("tag.js").read_bytes()
_SCRIPT_GZIPPED: Final = gzip.compress(_SCRIPT, mtime=0)
_DIGEST: Final = hashlib.sha256(_SCRIPT).hexdigest()[:32]
# A day in which a page needs no request, then a question whether it is still the same.
_SCRIPT_HEADERS: Final = {
    "Cache-Control": "public, max-age=86400, must-revalidate",
    "Vary": "Accept-Encoding",
    "Access-Control-Allow-Origin": "*",
    "Cross-Origin-Resource-Policy": "cross-origin",
}


class ForeignOrigin(Forbidden):
    """The page that sent the report is not on the program's domains."""

    code = "foreign_origin"


class TagOrdersRefused(Refused):
    """The program takes no orders from browsers; its advertiser can change that."""

    code = "tag_orders_refused"


async def script(request: Request) -> Response:
    """The tag, compressed where the browser takes that; 304 when it has it already."""
    accepted = request.headers.get("accept-encoding", "").replace(" ", "").lower().split(",")
    is_gzipped = "gzip" in accepted
    etag = f'"{_DIGEST}-gzip"' if is_gzipped else f'"{_DIGEST}"'
    headers = {**_SCRIPT_HEADERS, "ETag": etag}
    known = [one.strip().removeprefix("W/") for one in _header(request, "if-none-match").split(",")]
    if etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    if is_gzipped:
        headers["Content-Encoding"] = "gzip"
    body = _SCRIPT_GZIPPED if is_gzipped else _SCRIPT
    return Response(body, media_type="text/javascript", headers=headers)


async def preflight(request: Request) -> Response:
    """Whether a page may send its report in a form that a browser asks about first."""
    try:
        _check_some_origin(request)
    except AppError as error:
        return _answer(request, error)
    headers = {
        "Access-Control-Allow-Methods": "POST",
        "Access-Control-Allow-Headers": "Content-Type",
        "Access-Control-Max-Age": str(_PREFLIGHT_SECONDS),
    }
    return _with_origin(request, Response(status_code=204, headers=headers))


async def visited(request: Request) -> Response:
    """Record a visit of a page linked to directly as a click, and say its id."""
    return await _take(request, _record_visit)


async def ordered(request: Request) -> Response:
    """Take in an order that a page reports. The answer says nothing about other reports."""
    return await _take(request, _record_order)


Recording = Callable[[Request, TrackerNode, Mapping[str, Any]], Awaitable[Response]]


async def _take(request: Request, record: Recording) -> Response:
    node: TrackerNode = request.app.state.node
    try:
        _check_some_origin(request)
        http.context(request).limiter.spend(
            f"tag:{_address(request, node)}",
            now=clock.now(),
            per_minute=node.settings.tag_requests_per_minute_max,
        )
        values = await _read_object(request)
        return _with_origin(request, await record(request, node, values))
    except AppError as error:
        return _answer(request, error)


async def _record_visit(request: Request, node: TrackerNode, values: Mapping[str, Any]) -> Response:
    fields = Fields(values)
    fields.only(*_VISIT)
    program_code = fields.required_text("program", chars_max=_CODE_CHARS_MAX)
    publisher_code = fields.required_text("publisher", chars_max=_CODE_CHARS_MAX)
    page = fields.text("page", chars_max=_URL_CHARS_MAX)
    referrer = visits.read_evidence(fields, "referrer")
    consent = fields.choice("cons", ("0", "1"))
    # The tag's own request is always a script's; what was loaded in a frame nobody clicked.
    dest = "iframe" if fields.choice("framed", ("0", "1")) == "1" else None
    sub_ids = visits.read_sub_ids(fields, chars_max=node.settings.sub_id_chars_max)
    fields.finish()
    program = _program(request, node.routing.table, program_code)
    headers = read_headers(request.headers.raw)
    visit = Visit(
        program=program,
        publisher=node.routing.table.find_publisher(publisher_code),
        at=clock.now(),
        note=visits.NOTE_TAG,
        page=visits.read_page(page, program, name="page"),
        sub_ids=sub_ids,
        without_consent=without_consent({"cons": consent or ""}, headers, node.settings),
        is_prefetch=is_prefetch(headers),
        address=_address(request, node),
        user_agent=headers.get("user-agent", ""),
        referrer=referrer,
        sec_fetch_dest=dest,
        accept_language=headers.get("accept-language", ""),
    )
    told = await visits.record(node, visit)
    return JSONResponse({"click_id": told.click_id, "reason": told.reason})


async def _record_order(request: Request, node: TrackerNode, values: Mapping[str, Any]) -> Response:
    program = _program(request, node.routing.table, str(values.get("program", "")))
    if program.tag_orders == TagOrders.REFUSED:
        raise TagOrdersRefused("this program takes no orders from browsers")
    now = clock.now()
    order = _read_order(values, program, node, now, may_track=not _objection(request, node))
    report = intake.report_of(
        node,
        program,
        order,
        channel=events.CHANNEL_TAG,
        now=now,
    )
    # Whatever became of it is among the order's arrivals, and nothing that a stranger who guesses
    # order numbers should be told.
    await intake.accept_order(node, report)
    return JSONResponse({"accepted": True}, status_code=202)


def _read_order(
    values: Mapping[str, Any],
    program: ProgramRoute,
    node: TrackerNode,
    now: datetime,
    *,
    may_track: bool,
) -> Order:
    fields = Fields(values)
    fields.only(*(_BROWSERS_WORD.intersection(orders.FIELDS)), "program", "clicks")
    remembered = _remembered(fields, ids_max=node.settings.order_click_ids_max)
    fields.finish()
    terms = intake.terms_of(node, program, days_back_max=0, now=now)
    order = orders.parse_order(values, terms)
    if not (remembered and may_track):
        return order
    return msgspec.structs.replace(order, click_id=remembered[-1], click_ids=tuple(remembered[:-1]))


def _remembered(fields: Fields, *, ids_max: int) -> list[str]:
    """The click ids of `clicks`, oldest first. Whether they are genuine shows at attribution."""
    text = fields.text("clicks", chars_max=ids_max * (_CLICK_ID_CHARS_MAX + 1))
    found = [one for one in (text or "").split("~") if one]
    if len(found) > ids_max:
        fields.problem("clicks", "count", f"must name at most {ids_max} clicks")
    if any(len(one) > _CLICK_ID_CHARS_MAX for one in found):
        fields.problem("clicks", "length", f"has an id of more than {_CLICK_ID_CHARS_MAX}")
    # Of an id that comes twice the last place counts: it is the order of the visits.
    return list(dict.fromkeys(reversed(found)))[::-1]


async def _read_object(request: Request) -> Mapping[str, Any]:
    kind = _header(request, "content-type").partition(";")[0].strip().lower()
    if kind not in _MEDIA_TYPES:
        raise invalid("body", "media_type", "must be " + " or ".join(_MEDIA_TYPES))
    raw = await http.read_body(request, limit="tag_body_bytes_max")
    values = http.load_json(raw)
    if not isinstance(values, dict):
        raise invalid("body", "type", "must be an object")
    return values


def _program(request: Request, table: RoutingTable, code: str) -> ProgramRoute:
    program = table.find_program(code)
    if not is_allowed(_origin_host(request), program.allowed_domains):
        raise ForeignOrigin("the page is not on the program's domains")
    return program


def _check_some_origin(request: Request) -> None:
    node: TrackerNode = request.app.state.node
    if not _is_some_programs(_origin_host(request), node.routing.table):
        raise ForeignOrigin("the page is on no program's domains")


def _is_some_programs(host: str, table: RoutingTable) -> bool:
    names = host.split(".")
    parents = (".".join(names[at:]) for at in range(len(names)))
    return any(
        parent in table.domains and is_allowed(host, (parent,)) for parent in parents if parent
    )


def _origin_host(request: Request) -> str:
    match = _ORIGIN.fullmatch(_header(request, "origin"))
    return match["host"] if match else ""


def _answer(request: Request, error: AppError) -> Response:
    metrics.TAG_REFUSED.labels(error.code).inc()
    return _with_origin(request, problems.respond(error, request))


def _with_origin(request: Request, response: Response) -> Response:
    node: TrackerNode = request.app.state.node
    response.headers["Vary"] = "Origin"
    response.headers["Cache-Control"] = "no-store"
    if _is_some_programs(_origin_host(request), node.routing.table):
        response.headers["Access-Control-Allow-Origin"] = _header(request, "origin")
    return response


def _address(request: Request, node: TrackerNode) -> str:
    peer = request.client.host if request.client else ""
    return client_address(peer, read_headers(request.headers.raw), node.settings.proxies)


def _objection(request: Request, node: TrackerNode) -> str:
    return without_consent({}, read_headers(request.headers.raw), node.settings)


def _header(request: Request, name: str) -> str:
    return request.headers.get(name, "")


ROUTES: tuple[BaseRoute, ...] = (
    Route("/tag.js", script, methods=["GET"], name="tag"),
    Route("/tag/click", preflight, methods=["OPTIONS"], name="tag click preflight"),
    Route("/tag/click", visited, methods=["POST"], name="tag click"),
    Route("/tag/conversion", preflight, methods=["OPTIONS"], name="tag conversion preflight"),
    Route("/tag/conversion", ordered, methods=["POST"], name="tag conversion"),
)
