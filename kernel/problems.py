"""Refusals as RFC 9457 problem documents: one table from error to status, one way to write it."""

from collections.abc import Iterator
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse

from kernel import errors

STATUS: tuple[tuple[type[errors.AppError], int], ...] = (
    (errors.InvalidInput, 400),
    (errors.Unauthenticated, 401),
    (errors.Forbidden, 403),
    (errors.NotFound, 404),
    (errors.Conflict, 409),
    (errors.TooLarge, 413),
    (errors.Refused, 422),
    (errors.TooMany, 429),
    (errors.Unavailable, 503),
)
UNEXPECTED = 500
MEDIA_TYPE = "application/problem+json"


def status_of(kind: type[errors.AppError]) -> int:
    """The HTTP status of an error class."""
    return next((status for base, status in STATUS if issubclass(kind, base)), UNEXPECTED)


def document(error: errors.AppError, *, instance: str) -> dict[str, Any]:
    """The problem document; `code` is stable, the facts are members of their own."""
    return {
        **error.facts,
        "type": f"/docs/errors#{error.code}",
        "title": error.title,
        "status": status_of(type(error)),
        "code": error.code,
        "detail": error.message,
        "instance": instance,
    }


def respond(error: errors.AppError, request: Request) -> JSONResponse:
    """The problem document as an answer, with the headers its status asks for."""
    headers = {"Cache-Control": "no-store"}
    if isinstance(error, errors.Unauthenticated):
        headers["WWW-Authenticate"] = 'Bearer realm="tallystick"'
    if isinstance(error, errors.TooMany):
        headers["Retry-After"] = str(error.retry_after_seconds)
    if isinstance(error, errors.Unavailable):
        headers["Retry-After"] = "5"
    return JSONResponse(
        document(error, instance=request.url.path),
        status_code=status_of(type(error)),
        headers=headers,
        media_type=MEDIA_TYPE,
    )


def every_error() -> Iterator[type[errors.AppError]]:
    """All error classes that are loaded, for the reference and its test."""
    waiting: list[type[errors.AppError]] = [errors.AppError]
    while waiting:
        kind = waiting.pop()
        waiting.extend(kind.__subclasses__())
        yield kind
