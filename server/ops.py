"""Health, readiness and metrics: what an operator's tools ask."""

from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kernel import http
from kernel.database import is_reachable
from server import backlog


async def healthz(_request: Request) -> Response:
    """The process answers. Touches nothing else."""
    return JSONResponse({"status": "ok"})


async def readyz(request: Request) -> Response:
    """Whether this process can serve: a tracker can without its database, and says so."""
    node = request.app.state.node
    database = await run_in_threadpool(is_reachable, http.context(request).engine)
    journal = node.journal.stats().state
    parts: dict[str, Any] = {
        "database": "ok" if database else "unreachable",
        "journal": journal,
        "routing_version": node.routing.table.version,
        "click_front": request.app.state.click_front.name,
    }
    ready = journal == "ready"
    status = "ok" if ready and database else ("degraded" if ready else "unavailable")
    return JSONResponse({"status": status, **parts}, status_code=200 if ready else 503)


async def metrics(request: Request) -> Response:
    """Counters of this process and backlogs of the installation, for Prometheus."""
    await run_in_threadpool(backlog.measure, http.context(request))
    return Response(generate_latest(REGISTRY), media_type=CONTENT_TYPE_LATEST)


ROUTES = [
    Route("/healthz", healthz, methods=["GET"]),
    Route("/readyz", readyz, methods=["GET"]),
    Route("/metrics", metrics, methods=["GET"]),
]
