"""The OpenAPI document: what `kernel.openapi` reads off the endpoints, and what they share."""

from collections.abc import Sequence
from typing import Any

from kernel import openapi, problems
from kernel.errors import AppError, TooLarge, TooMany
from kernel.http import Endpoint
from partner_api import auth, feeds

TITLE = "Tallystick"
API_VERSION = "1.0.0"
# Problems that are not refusals of ours: the server answers them before or after any operation.
SERVER_CODES = (
    (405, "method_not_allowed", "This address has other methods"),
    (500, "unexpected_error", "This should not have happened"),
)

_INTRODUCTION = (
    "Every refusal is an RFC 9457 problem document with a stable `code`. Lists are read page by "
    "page with `cursor`. Money is `{minor, currency}`, times are RFC 3339 in UTC. Unknown query "
    "parameters are refused. Writing operations take an `Idempotency-Key`."
)
_IDEMPOTENCY_KEY: dict[str, Any] = {
    "name": "Idempotency-Key",
    "in": "header",
    "required": False,
    "description": "The same key with the same request gets the first answer again.",
    "schema": {"type": "string", "minLength": 1, "maxLength": 255},
}
_RATE_HEADERS: dict[str, Any] = {
    "RateLimit": {"description": "What is left of this minute.", "schema": {"type": "string"}},
    "RateLimit-Policy": {"description": "The limit in force.", "schema": {"type": "string"}},
}


def error_codes() -> list[dict[str, Any]]:
    """Every code an answer may carry, with its status, title and meaning, by code."""
    found: dict[str, dict[str, Any]] = {}
    # A class that does not set a code of its own is another spelling of the one above it.
    for kind in sorted(problems.every_error(), key=lambda each: len(each.__mro__)):
        if kind is not AppError:
            found.setdefault(kind.code, _error_code(kind))
    for status, code, title in SERVER_CODES:
        found[code] = {"code": code, "status": status, "title": title, "meaning": title + "."}
    return [found[code] for code in sorted(found)]


def document(endpoints: Sequence[Endpoint], *, server: str) -> dict[str, Any]:
    """The OpenAPI 3.1 document for these endpoints at this address."""
    built = openapi.build(
        endpoints, title=TITLE, version=API_VERSION, server=server, roles=auth.SCOPES
    )
    built["info"]["description"] = _INTRODUCTION
    built["tags"] = [{"name": tag} for tag in dict.fromkeys(each.tag for each in endpoints)]
    built["x-error-codes"] = error_codes()
    for endpoint in endpoints:
        _complete(built["paths"][endpoint.path][endpoint.method.lower()], endpoint)
    _describe_token_body(built)
    _describe_feed_body(built)
    return built


def _error_code(kind: type[AppError]) -> dict[str, Any]:
    return {
        "code": kind.code,
        "status": problems.status_of(kind),
        "title": kind.title,
        "meaning": " ".join((kind.__doc__ or kind.title).split()),
    }


def _complete(operation: dict[str, Any], endpoint: Endpoint) -> None:
    if "description" in operation:
        operation["description"] = " ".join(operation["description"].split())
    operation["parameters"] = [_parameter(each) for each in operation["parameters"]]
    success = operation["responses"][str(endpoint.status)]
    success["headers"] = _RATE_HEADERS
    limited = _problem(operation, TooMany)
    limited["headers"] = {
        "Retry-After": {"description": "Seconds to wait.", "schema": {"type": "integer"}}
    }
    if endpoint.method in {"POST", "PUT", "PATCH"}:
        _problem(operation, TooLarge)
        if endpoint.guard is not None:
            operation["parameters"].append(_IDEMPOTENCY_KEY)


def _parameter(described: dict[str, Any]) -> dict[str, Any]:
    # A query has no null: a parameter that may be left out is not one that may be null.
    schema = dict(described["schema"])
    choices = [each for each in schema.pop("anyOf", ()) if each != {"type": "null"}]
    if len(choices) == 1:
        schema |= choices[0]
    elif choices:
        schema["anyOf"] = choices
    if schema.get("default", schema) is None:
        del schema["default"]
    schema.pop("title", None)
    description = schema.pop("description", None)
    return {**described, "schema": schema} | ({"description": description} if description else {})


def _problem(operation: dict[str, Any], kind: type[AppError]) -> dict[str, Any]:
    status = str(problems.status_of(kind))
    answer: dict[str, Any] = operation["responses"].setdefault(
        status,
        {
            "description": kind.title,
            "content": {problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        },
    )
    codes = answer.setdefault("x-codes", [])
    if kind.code not in codes:
        codes.append(kind.code)
    return answer


def _describe_token_body(built: dict[str, Any]) -> None:
    schema = auth.TokenRequest.model_json_schema()
    operation = built["paths"][auth.TOKEN.path]["post"]
    operation["requestBody"] = {
        "required": True,
        "content": {
            media_type: {"schema": schema}
            for media_type in ("application/x-www-form-urlencoded", "application/json")
        },
    }
    # RFC 6749 wants plain JSON here, not a problem document; ours has the members of both.
    for status, answer in operation["responses"].items():
        if status in {"400", "401"}:
            answer["content"] = {"application/json": answer["content"][problems.MEDIA_TYPE]}


def _describe_feed_body(built: dict[str, Any]) -> None:
    built["paths"][feeds.UPLOAD.path]["put"]["requestBody"] = {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string"}}},
    }
