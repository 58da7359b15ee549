"""The only kernel module that knows Starlette: endpoints, parsing, problem documents, idempotency.

An endpoint is declared once (`Endpoint`); the declaration makes the route, the checks and the
OpenAPI operation, so the three cannot disagree. A synchronous handler runs in the thread pool with
the session of its request: a writing one when the endpoint `writes`, a reading one otherwise; the
commit is here. An `async` handler gets no session: it waits for bytes, not for rows.
"""

import hashlib
import inspect
import json
import math
import re
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar, cast

from pydantic import BaseModel, ConfigDict, ValidationError
from sqlalchemy.engine import Engine
from sqlalchemy.exc import OperationalError
from sqlmodel import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from kernel import clock, idempotency, log, problems, ratelimit
from kernel.database import reading, unit_of_work
from kernel.errors import (
    AppError,
    FieldProblem,
    InvalidInput,
    TooLarge,
    TooMany,
    Unavailable,
    invalid,
)
from kernel.keys import Keys
from kernel.settings import Settings
from kernel.tokens import Tokens

_log = log.get(__name__)
_M = TypeVar("_M", bound=BaseModel)
_METHODS_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_BYTES_IN_LOOP_MAX = 64 * 1024
_SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")


@dataclass(frozen=True, slots=True)
class Context:
    """What every endpoint of a process shares. Lives in `app.state.context`."""

    settings: Settings
    engine: Engine
    keys: Keys
    tokens: Tokens
    limiter: ratelimit.Limiter


@dataclass(slots=True, kw_only=True)
class Call:
    """One request, parsed. `body` and `query` are instances of the declared models."""

    request: Request
    context: Context
    actor: Any
    body: Any
    query: Any
    path: dict[str, str]
    now: datetime
    opened: Session | None = None

    @property
    def session(self) -> Session:
        """The session of this request; an `async` handler has none."""
        if self.opened is None:
            msg = "an async handler has no session"
            raise RuntimeError(msg)
        return self.opened


class NoQuery(BaseModel):
    """An operation without query parameters; one that is sent is refused by name."""

    model_config = ConfigDict(extra="forbid")


Handler = Callable[[Call], Any]
Guard = Callable[[Request], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One operation: where it is, who may call it, what goes in and what comes back."""

    method: str
    path: str
    handler: Handler
    summary: str
    tag: str
    guard: Guard | None = None
    roles: tuple[str, ...] = ()
    query: type[BaseModel] = NoQuery
    body: type[BaseModel] | None = None
    reply: type[BaseModel] | None = None
    status: int = 200
    writes: bool = False
    errors: tuple[type[AppError], ...] = ()


def context(request: Request) -> Context:
    """What the process of this request shares."""
    return cast("Context", request.app.state.context)


def route(endpoint: Endpoint) -> Route:
    """The Starlette route of an endpoint."""

    async def answer(request: Request) -> Response:
        try:
            return await _answer(endpoint, request)
        except AppError as error:
            return problems.respond(error, request)
        except OperationalError as error:
            # Away, locked for too long, or out of disk: a repeat may succeed, and nothing changed.
            _log.warning("database_unavailable", path=request.url.path, error=str(error.orig))
            return problems.respond(Unavailable("the database cannot be reached"), request)

    return Route(endpoint.path, answer, methods=[endpoint.method], name=endpoint.summary)


async def _answer(endpoint: Endpoint, request: Request) -> Response:
    shared = context(request)
    actor = await _admit(endpoint, request)
    try:
        allowance = shared.limiter.spend(_spender(request, actor), now=clock.now())
    except TooMany as error:
        response: Response = problems.respond(error, request)
        ratelimit.describe(response, shared.limiter.used_up(error))
        return response
    try:
        response = await _take(endpoint, request, actor)
    except AppError as error:
        # A refusal costs as much of the caller's minute as success, so it says what is left too.
        response = problems.respond(error, request)
    ratelimit.describe(response, allowance)
    return response


async def _admit(endpoint: Endpoint, request: Request) -> Any:
    guard = endpoint.guard
    if guard is None:
        return None
    # A guard that waits for bytes (a signature over the body) is asynchronous.
    if inspect.iscoroutinefunction(guard):
        return await guard(request)
    return await run_in_threadpool(guard, request)


async def _take(endpoint: Endpoint, request: Request, actor: Any) -> Response:
    has_body = endpoint.method in _METHODS_WITH_BODY
    raw = await read_body(request) if has_body else b""
    call = Call(
        request=request,
        context=context(request),
        actor=actor,
        query=parse(endpoint.query, dict(request.query_params)),
        body=await _parse_body(endpoint.body, raw or b"{}") if endpoint.body else None,
        path=dict(request.path_params),
        now=clock.now(),
    )
    # Also without a body: approving a payout twice is no better for having nothing to say.
    key = request.headers.get("idempotency-key") if has_body and actor is not None else None
    if key is not None:
        return await _once(endpoint, call, key=key, raw=raw)
    return await _run(endpoint, call)


async def _parse_body(model: type[BaseModel], raw: bytes) -> BaseModel:
    if len(raw) <= _BYTES_IN_LOOP_MAX:
        return parse(model, load_json(raw))
    # Clicks of the same process would wait for a batch of thousands of rows.
    return await run_in_threadpool(lambda: parse(model, load_json(raw)))


def _spender(request: Request, actor: Any) -> str:
    if actor is not None:
        return str(actor)
    return f"peer:{request.client.host if request.client else 'unknown'}"


async def _run(endpoint: Endpoint, call: Call) -> Response:
    if inspect.iscoroutinefunction(endpoint.handler):
        handler = cast("Callable[[Call], Awaitable[Any]]", endpoint.handler)
        return _render(endpoint, await handler(call))
    return await run_in_threadpool(_run_in_session, endpoint, call)


def _run_in_session(endpoint: Endpoint, call: Call) -> Response:
    with _session(endpoint, call) as session:
        call.opened = session
        return _render(endpoint, endpoint.handler(call))


def _session(endpoint: Endpoint, call: Call) -> AbstractContextManager[Session]:
    engine = call.context.engine
    return unit_of_work(engine) if endpoint.writes else reading(engine)


async def _once(endpoint: Endpoint, call: Call, *, key: str, raw: bytes) -> Response:
    """Run at most once for (actor, key); an equal repeat gets the first answer again."""
    request = call.request
    seen = idempotency.Seen(
        actor=str(call.actor),
        key=idempotency.parse_key(key),
        request_hash=hashlib.sha256(
            b"\n".join((request.method.encode(), request.url.path.encode(), raw))
        ).hexdigest(),
    )
    hours = call.context.settings.idempotency_hours
    try:
        stored = await run_in_threadpool(
            idempotency.begin, call.context.engine, seen, now=call.now, hours=hours
        )
    except OperationalError as error:
        # Intake goes on while the database is away, and its business keys still make a repeat
        # harmless. What writes rows must not run unclaimed: a lock that took too long looks the
        # same from here, and a moment later the write would succeed, twice.
        if inspect.iscoroutinefunction(endpoint.handler):
            return await _run(endpoint, call)
        raise Unavailable("the Idempotency-Key cannot be checked now") from error
    if stored is not None:
        return Response(
            stored.body.encode(),
            status_code=stored.status,
            media_type=stored.media_type,
            headers={"Idempotency-Replayed": "true"},
        )
    try:
        response = await _run(endpoint, call)
    except BaseException:
        # Nothing took effect, so the key is free again: the caller may mend the input and repeat.
        await run_in_threadpool(idempotency.forget, call.context.engine, seen)
        raise
    await run_in_threadpool(
        idempotency.finish,
        call.context.engine,
        seen,
        status=response.status_code,
        media_type=response.media_type or "application/json",
        body=bytes(response.body).decode(),
    )
    return response


def _render(endpoint: Endpoint, result: Any) -> Response:
    if isinstance(result, Response):
        return result
    if isinstance(result, BaseModel):
        return Response(
            result.model_dump_json(by_alias=True),
            status_code=endpoint.status,
            media_type="application/json",
        )
    return JSONResponse(result, status_code=endpoint.status)


async def read_body(request: Request, *, limit: str = "body_bytes_max") -> bytes:
    """The whole body, at a repeat again; past the setting `limit` a TooLarge, before reading on."""
    kept: bytes | None = getattr(request.state, "body_read", None)
    if kept is not None:
        return kept
    bytes_max: int = getattr(context(request).settings, limit)
    declared = request.headers.get("content-length", "0")
    if declared.isdecimal() and int(declared) > bytes_max:
        raise _too_large(limit, bytes_max)
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > bytes_max:
            raise _too_large(limit, bytes_max)
        chunks.append(chunk)
    body = b"".join(chunks)
    request.state.body_read = body
    return body


def _too_large(limit: str, bytes_max: int) -> TooLarge:
    return TooLarge(
        f"the body is larger than {bytes_max} bytes", limit=limit, limit_bytes=bytes_max
    )


def load_json(raw: bytes) -> Any:
    """Strict JSON: UTF-8, no NaN or Infinity, no key twice, no half characters, not too deep."""
    try:
        text = raw.decode("utf-8")
        value = json.loads(
            text,
            parse_constant=_no_constant,
            parse_float=_finite,
            object_pairs_hook=_no_twice,
        )
        if _SURROGATE.search(text):
            # Half of a surrogate pair passes for text until someone stores or prints it.
            json.dumps(value, ensure_ascii=False).encode()
        if "\\u0000" in text and _holds_nul(value):
            raise ValueError("a text holds the character NUL")  # noqa: TRY301 - one exit for all
    except UnicodeError as error:
        raise invalid("body", "json", "holds what is not UTF-8 text") from error
    except RecursionError as error:
        raise invalid("body", "json", "is nested too deeply") from error
    except ValueError as error:
        raise invalid("body", "json", f"is not valid JSON ({error})") from error
    return value


def _holds_nul(value: Any) -> bool:
    # No database of ours keeps NUL in a text, and refusing it here names the reason.
    if isinstance(value, str):
        return "\0" in value
    if isinstance(value, dict):
        return any(_holds_nul(key) or _holds_nul(part) for key, part in value.items())
    return isinstance(value, list) and any(_holds_nul(part) for part in value)


def _no_constant(name: str) -> Any:
    raise ValueError(f"{name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError("a number is out of range")
    return number


def _no_twice(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("an object names a key twice")
    return found


def parse(model: type[_M], value: Any) -> _M:
    """The value as an instance of the model; every broken rule is named in one InvalidInput."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise InvalidInput(
            [
                FieldProblem(field=_path(entry["loc"]), rule=entry["type"], message=entry["msg"])
                for entry in error.errors(include_url=False, include_input=False)
            ]
        ) from error


def _path(location: tuple[int | str, ...]) -> str:
    text = ""
    for part in location:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".") or "body"
