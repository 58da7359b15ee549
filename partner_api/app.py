"""The partner API as one list of routes, made from one list of endpoints."""

from collections.abc import Sequence
from functools import cache
from typing import Any

from starlette.routing import BaseRoute

from kernel import http
from kernel.http import Endpoint
from partner_api import (
    attribution,
    auth,
    bodies,
    commissions,
    conversions,
    coupons,
    docs_page,
    earnings,
    feeds,
    health,
    links,
    openapi,
    payouts,
    plan_jobs,
    plans,
    products,
    programs,
    publisher_groups,
    refusals,
    reporting,
    reports,
    status,
    tag_orders,
    tracking,
)

# Operations with a model for their body, or none, and operations that read the body themselves.
_MODELLED = (
    *auth.ENDPOINTS,
    *conversions.ENDPOINTS,
    *attribution.ENDPOINTS,
    *coupons.ENDPOINTS,
    *refusals.ENDPOINTS,
    *commissions.ENDPOINTS,
    *earnings.ENDPOINTS,
    *reports.ENDPOINTS,
    *health.ENDPOINTS,
    *payouts.ENDPOINTS,
    *programs.ENDPOINTS,
    *plans.ENDPOINTS,
    *plan_jobs.ENDPOINTS,
    *publisher_groups.ENDPOINTS,
    *reporting.ENDPOINTS,
    *tracking.ENDPOINTS,
    *links.ENDPOINTS,
    *products.ENDPOINTS,
    *feeds.ENDPOINTS,
    *status.ENDPOINTS,
    *tag_orders.ENDPOINTS,
)
_RAW = (auth.TOKEN, feeds.UPLOAD)


def endpoints(more_endpoints: Sequence[Endpoint] = ()) -> list[Endpoint]:
    """Every operation of the document: ours and, in between, those that are routed elsewhere."""
    return [auth.TOKEN, *_MODELLED, feeds.UPLOAD, *more_endpoints, *_pages(more_endpoints)]


def document(more_endpoints: Sequence[Endpoint] = (), *, server: str) -> dict[str, Any]:
    """The OpenAPI document of the whole API at a public address."""
    return openapi.document(endpoints(more_endpoints), server=server)


def routes(more_endpoints: Sequence[Endpoint] = ()) -> list[BaseRoute]:
    """The routes of this API. `more_endpoints` are described by it and routed elsewhere."""
    return [
        *(bodies.route(endpoint) for endpoint in _RAW),
        *(http.route(endpoint) for endpoint in (*_MODELLED, *_pages(more_endpoints))),
    ]


def _pages(more_endpoints: Sequence[Endpoint]) -> tuple[Endpoint, ...]:
    @cache
    def described(server: str) -> dict[str, Any]:
        return document(more_endpoints, server=server)

    return docs_page.endpoints(described)
