"""The ASGI application: the click in front, everything else behind it, one edge around both."""

import gc
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import BaseRoute, Match, Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from kernel import http, log, problems, ratelimit
from kernel.database import connect
from kernel.errors import AppError, NotFound
from kernel.keys import load as load_keys
from kernel.settings import Settings
from kernel.tokens import Tokens
from server import backlog, ops
from tracker import http as tracker_http
from tracker import metrics
from tracker.click_core import is_link
from tracker.http_front import Front as ClickFront
from tracker.http_protocol import DESK
from tracker.node import open_node
from tracker.upload_work import Runner

_log = log.get(__name__)
_OBJECTS_BEFORE_GC = 20_000
_HEADERS = ((b"x-content-type-options", b"nosniff"), (b"referrer-policy", b"same-origin"))
_PROGRAMS_ADDRESSES = (
    "/v1/",
    "/oauth/",
    "/.well-known/",
    "/postback",
    "/pixel.gif",
    "/tag",
    "/i/",
)


def build(
    settings: Settings, *, only_tracker: bool = False, front: ClickFront | None = None
) -> ASGIApp:
    """The application of one process; opens its journal when it starts, closes it when it ends.

    `front` says by which front its server lets clicks in; without one they come over ASGI.
    """
    keys = load_keys(settings)
    context = http.Context(
        settings=settings,
        engine=connect(settings.database),
        keys=keys,
        tokens=Tokens(keys, issuer=settings.public_url),
        limiter=ratelimit.Limiter(
            requests_per_minute=settings.api_requests_per_minute_max,
            storage_url=settings.rate_limit_url,
        ),
    )

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[dict[str, Any]]:
        node = await open_node(
            settings=settings, engine=context.engine, keys=keys, tokens=context.tokens
        )
        app.state.node = node
        edge.click = click = tracker_http.ClickApp(node)
        # What is loaded now stays: collections that look through all of it would hold up clicks.
        # And the clicks under way, which go without being collected, alone are no reason for one.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_OBJECTS_BEFORE_GC, 50, 100)
        uploads = Runner(node)
        uploads.start()
        try:
            yield {DESK: click.desk}
        finally:
            await uploads.close()
            await node.close()
            context.engine.dispose()

    app = Starlette(
        routes=_routes(only_tracker=only_tracker),
        lifespan=lifespan,
        exception_handlers=_EXCEPTION_HANDLERS if only_tracker else _WITH_PAGES,
    )
    app.state.context = context
    app.state.backlog = partial(backlog.status, data_dir=settings.data_dir)
    app.state.click_front = front or ClickFront("asgi", "this server has no other")
    metrics.CLICK_FRONT.labels(app.state.click_front.name).set(1)
    edge = Front(app)
    return edge


def _routes(*, only_tracker: bool) -> list[BaseRoute]:
    routes: list[BaseRoute] = [
        *ops.ROUTES,
        *tracker_http.ROUTES,
        *(http.route(endpoint) for endpoint in tracker_http.ENDPOINTS),
    ]
    if only_tracker:
        return routes
    # A tracker has no page and no partner, and is spared the memory of their modules.
    import console.app  # noqa: PLC0415 - see above
    import partner_api.app  # noqa: PLC0415 - see above

    return [
        *routes,
        *partner_api.app.routes(tracker_http.ENDPOINTS),
        *console.app.routes(),
    ]


class Front:
    """The outermost application: clicks go straight to the tracker, headers go onto the rest."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self.click: ASGIApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one connection event."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        if self.click is not None and is_link(scope["path"]):
            await self.click(scope, receive, send)
            return
        await self._app(scope, receive, _with_headers(send))


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            present = {name for name, _ in message["headers"]}
            message["headers"] = [
                *message["headers"],
                *(header for header in _HEADERS if header[0] not in present),
            ]
        await send(message)

    return sending


async def _refused(request: Request, error: Exception) -> Response:
    if not isinstance(error, AppError):
        raise error
    return problems.respond(error, request)


async def _not_found(request: Request, _error: Exception) -> Response:
    return problems.respond(NotFound("nothing is at this address"), request)


async def _not_found_page(request: Request, error: Exception) -> Response:
    # A person gets a page, a program the problem document; programs' addresses are never pages.
    wants_page = "text/html" in request.headers.get("accept", "")
    if wants_page and not request.url.path.startswith(_PROGRAMS_ADDRESSES):
        import console.pages  # noqa: PLC0415 - a process without pages does not come here

        return console.pages.not_found(request)
    return await _not_found(request, error)


async def _wrong_method(request: Request, _error: Exception) -> Response:
    # Starlette names the methods of the first route of this path; every endpoint has its own.
    allowed = {
        method
        for route in request.app.routes
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE
        for method in route.methods or ()
    }
    headers = {"Allow": ", ".join(sorted(allowed))}
    return _problem(request, 405, "method_not_allowed", "This address has other methods", headers)


async def _unexpected(request: Request, error: Exception) -> Response:
    # The details are for the log; an answer that shows them helps only attackers.
    _log.error("unexpected_error", path=request.url.path, exc_info=error)
    return _problem(request, 500, "unexpected_error", "This should not have happened", {})


def _problem(
    request: Request, status: int, code: str, title: str, headers: Mapping[str, str]
) -> JSONResponse:
    document: dict[str, Any] = {
        "type": f"/docs/errors#{code}",
        "title": title,
        "status": status,
        "code": code,
        "detail": title,
        "instance": request.url.path,
    }
    return JSONResponse(
        document, status_code=status, headers=dict(headers), media_type=problems.MEDIA_TYPE
    )


_EXCEPTION_HANDLERS: Mapping[Any, Any] = {
    AppError: _refused,
    404: _not_found,
    405: _wrong_method,
    Exception: _unexpected,
}
_WITH_PAGES: Mapping[Any, Any] = {**_EXCEPTION_HANDLERS, 404: _not_found_page}
