"""`/postback` and `/pixel.gif`: one order from another system's server, or from a browser."""

from collections.abc import Mapping
from typing import Any, Final
from urllib.parse import parse_qsl

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Route

from kernel import clock, http, problems
from kernel.errors import AppError, Unauthenticated, invalid
from network.access import token_hash
from tracker import events, intake, metrics, orders, signatures
from tracker.intake import Accepted
from tracker.node import TrackerNode
from tracker.pixels import PIXEL
from tracker.routing import ProgramRoute

_PARAMETERS_MAX: Final = 10_000
_NO_STORE: Final = {"Cache-Control": "no-store"}
_FORM: Final = "application/x-www-form-urlencoded"
_JSON: Final = "application/json"


async def postback(request: Request) -> Response:
    """Take in one order; its token says which program it belongs to."""
    try:
        accepted = await _take(request, events.CHANNEL_POSTBACK)
    except AppError as error:
        return problems.respond(error, request)
    body = {
        "receipt": accepted.receipt,
        "conversion_id": accepted.conversion_id,
        "duplicate": accepted.duplicate,
    }
    return JSONResponse(body, status_code=202, headers=_NO_STORE)


async def pixel(request: Request) -> Response:
    """Take in one order; always an image, so that no shop's page ever shows a broken one.

    A refusal is named in the header `X-Tallystick-Error`.
    """
    headers = dict(_NO_STORE)
    try:
        await _take(request, events.CHANNEL_PIXEL)
    except AppError as error:
        headers["X-Tallystick-Error"] = error.code
    return Response(PIXEL, media_type="image/gif", headers=headers)


async def _take(request: Request, channel: str) -> Accepted:
    node: TrackerNode = request.app.state.node
    now = clock.now()
    pairs = _pairs(request.url.query)
    values: dict[str, Any] = {}
    if request.method == "POST":
        form, values = await _read_body(request)
        pairs += form
    if request.method == "POST" and signatures.is_used(request):
        program = await signatures.program_of(
            request, named=request.query_params.get("program", "")
        )
    else:
        program = await _program_of(node, _token(pairs, values), request)
    merged = _merge(orders.from_pairs(pairs), values)
    terms = intake.terms_of(node, program, days_back_max=program.order_age_days_max, now=now)
    order = orders.parse_order(merged, terms)
    report = intake.report_of(node, program, order, channel=channel, now=now)
    return await intake.accept_order(node, report)


def _pairs(text: str) -> list[tuple[str, str]]:
    try:
        return parse_qsl(text, keep_blank_values=True, max_num_fields=_PARAMETERS_MAX)
    except ValueError as error:
        raise invalid("body", "count", f"has more than {_PARAMETERS_MAX} parameters") from error


async def _read_body(request: Request) -> tuple[list[tuple[str, str]], dict[str, Any]]:
    """The parameters of a form, or the object of a JSON body; both empty without a body."""
    raw = await http.read_body(request)
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if not raw.strip():
        return [], {}
    if kind == _JSON:
        values = http.load_json(raw)
        if not isinstance(values, dict):
            raise invalid("body", "type", "must be an object")
        orders.refuse_unknown(values, "token")
        return [], values
    if kind == _FORM:
        try:
            return _pairs(raw.decode("utf-8")), {}
        except UnicodeDecodeError as error:
            raise invalid("body", "utf_8", "is not UTF-8") from error
    raise invalid("body", "media_type", f"must be {_JSON} or {_FORM}")


def _token(pairs: list[tuple[str, str]], values: Mapping[str, Any]) -> str:
    named = {value for name, value in pairs if name == "token"}
    if "token" in values:
        named.add(str(values["token"]))
    # Two different tokens are two different wishes; the answer is that of a wrong one.
    return named.pop() if len(named) == 1 else ""


async def _program_of(node: TrackerNode, token: str, request: Request) -> ProgramRoute:
    hashed = token_hash(token)
    program = node.routing.table.program_of_token(hashed)
    if program is None and token:
        # It may have been made a moment ago, on another node.
        await node.refresh()
        program = node.routing.table.program_of_token(hashed)
    if program is None:
        metrics.WRONG_TOKENS.inc()
        peer = request.client.host if request.client else "unknown"
        http.context(request).limiter.spend(f"wrong-token:{peer}", now=clock.now())
        raise Unauthenticated("the token is not valid")
    return program


def _merge(parameters: dict[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    for name, value in values.items():
        if parameters.get(name, value) != value:
            raise invalid(name, "repeated", "is given twice with different values")
    return {**parameters, **values}


ROUTES: tuple[BaseRoute, ...] = (
    Route("/postback", postback, methods=["GET", "POST"], name="postback"),
    Route("/pixel.gif", pixel, methods=["GET"], name="pixel"),
)
