"""`/l/{code}.svg` and `/l/{code}.png`: the QR code of a short link, for print and for slides."""

import re
from functools import lru_cache
from typing import Final, cast

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from kernel import problems
from kernel.errors import NotFound, invalid
from tracker import links, qr
from tracker.node import TrackerNode

_CACHE_ENTRIES: Final = 64
_SCALE: Final = re.compile(r"[1-9][0-9]?", re.ASCII)
_DAY_SECONDS: Final = 24 * 3600


async def _picture(request: Request) -> Response:
    node = cast("TrackerNode", request.app.state.node)
    code = request.path_params["code"]
    is_png = request.url.path.endswith(".png")
    if node.routing.table.links.find(code) is None:
        return problems.respond(NotFound("no such link", kind="link"), request)
    scale = request.query_params.get("scale", str(qr.SCALE_DEFAULT))
    if not _SCALE.fullmatch(scale) or int(scale) > qr.SCALE_MAX:
        refusal = invalid("scale", "range", f"must be a whole number from 1 to {qr.SCALE_MAX}")
        return problems.respond(refusal, request)
    # Drawing takes milliseconds, and clicks are waiting on the loop.
    content = await run_in_threadpool(
        _draw, links.short_url(node.settings.public_url, code), int(scale) if is_png else 0
    )
    return Response(
        content,
        media_type=qr.PNG if is_png else qr.SVG,
        headers={
            "Cache-Control": f"public, max-age={_DAY_SECONDS}",
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
            "X-Content-Type-Options": "nosniff",
            "X-Robots-Tag": "noindex",
        },
    )


@lru_cache(maxsize=_CACHE_ENTRIES)
def _draw(url: str, scale: int) -> bytes:
    return qr.png(url, scale=scale) if scale else qr.svg(url)


ROUTES: Final = tuple(
    Route(f"/l/{{code}}.{kind}", _picture, methods=["GET"], name=f"QR code as {kind.upper()}")
    for kind in ("svg", "png")
)
