"""`GET /i/{program}/{publisher}.gif`: an image of one pixel that counts where it is shown."""

from typing import Final

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from kernel import clock
from kernel.errors import TooLarge, Unavailable
from tracker import events, impressions, metrics
from tracker.agents import MAX_USER_AGENT_CHARS, AgentClass, classify
from tracker.click_headers import client_address, is_prefetch, read_headers, without_consent
from tracker.clicks import read_query, unbillable_reason
from tracker.events import ImpressionSeen
from tracker.node import TrackerNode
from tracker.pixels import PIXEL
from tracker.routing import ProgramRoute, PublisherRoute

_BOT: Final = "bot"
_HEADERS: Final = {
    "Cache-Control": "no-store",
    "Cross-Origin-Resource-Policy": "cross-origin",
    "X-Robots-Tag": "noindex",
}


async def impression(request: Request) -> Response:
    """Count, and answer with the image; an unknown program or publisher is an empty 404."""
    node: TrackerNode = request.app.state.node
    program = node.routing.table.programs.get(request.path_params["program"])
    publisher = node.routing.table.publishers.get(request.path_params["publisher"])
    too_long = len(request.url.query) > node.settings.url_bytes_max
    if program is None or publisher is None or too_long:
        status = 414 if too_long else 404
        metrics.IMPRESSIONS.labels(str(status)).inc()
        return Response(status_code=status, headers=_HEADERS)
    await _count(request, node, program, publisher)
    return Response(PIXEL, media_type="image/gif", headers=_HEADERS)


async def _count(
    request: Request, node: TrackerNode, program: ProgramRoute, publisher: PublisherRoute
) -> None:
    headers = read_headers(request.headers.raw)
    query = read_query(request.url.query, sub_id_chars_max=node.settings.sub_id_chars_max)
    agent = headers.get("user-agent", "")[:MAX_USER_AGENT_CHARS]
    reason = unbillable_reason(
        without_consent="",
        is_head=request.method == "HEAD",
        is_prefetch=is_prefetch(headers),
        is_preview=False,
        is_retired=False,
        is_active=program.is_active,
        is_member=node.routing.table.is_member(program, publisher),
    )
    if not reason and classify(agent) in (AgentClass.BOT, AgentClass.TOOL):
        reason = _BOT
    if reason:
        # Nobody saw the image, or it is not the publisher's to show: counted here only.
        metrics.IMPRESSIONS.labels(reason).inc()
        return
    objection = without_consent(query.consent, headers, node.settings)
    peer = request.client.host if request.client else ""
    address = client_address(peer, headers, node.settings.proxies)
    seen = ImpressionSeen(
        at=clock.now(),
        program_number=program.number,
        publisher_number=publisher.number,
        sub_ids=query.sub_ids,
        reason=objection,
        network=impressions.network_of(address) if not objection else "",
        user_agent=agent if not objection else "",
    )
    try:
        await node.journal.append(events.encode(seen))
    except (Unavailable, TooLarge):
        metrics.IMPRESSIONS_LOST.inc()
        return
    metrics.IMPRESSIONS.labels(objection or "counted").inc()


ROUTES: tuple[BaseRoute, ...] = (
    Route("/i/{program}/{publisher}.gif", impression, methods=["GET"], name="impression"),
)
