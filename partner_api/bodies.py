"""Operations whose body is not a JSON document: a form, a file.

`kernel.http` reads a body to check and to hash it, and hands over what a model makes of it. For
these operations the bytes themselves are kept beside the request while they pass.
"""

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Message

from kernel import http
from kernel.http import Endpoint


def route(endpoint: Endpoint) -> Route:
    """The route of an operation whose handler asks for `raw_body`.

    Guard, rate limit, size limit and idempotency are those of every endpoint, in the same order:
    nothing is read from a caller who was turned away.
    """
    inner = http.route(endpoint)

    async def answer(request: Request) -> Response:
        kept: list[bytes] = []
        request.state.raw_body = kept

        async def receive() -> Message:
            message = await request.receive()
            if message["type"] == "http.request":
                kept.append(message.get("body", b""))
            return message

        answered: Response = await inner.endpoint(Request(request.scope, receive))
        return answered

    return Route(inner.path, answer, methods=[endpoint.method], name=inner.name)


def raw_body(request: Request) -> bytes:
    """The bytes that came with the request, complete when a handler runs."""
    return b"".join(request.state.raw_body)
