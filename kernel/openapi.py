"""OpenAPI 3.1 from the endpoints themselves, so that it cannot describe something else."""

import re
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from kernel import problems
from kernel.errors import AppError, InvalidInput, Unauthenticated
from kernel.http import Endpoint

_REF = "#/components/schemas/{model}"
# By model and mode: a model that goes in and comes out may be two schemas with names of their own.
_Refs = Mapping[Any, dict[str, Any]]


def build(
    endpoints: Sequence[Endpoint], *, title: str, version: str, server: str, roles: dict[str, str]
) -> dict[str, Any]:
    """The document for these endpoints; `roles` are the scopes a token may carry."""
    refs, schemas = models_json_schema(_models(endpoints), ref_template=_REF)
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        path = re.sub(r"{(\w+):\w+}", r"{\1}", endpoint.path)
        paths.setdefault(path, {})[endpoint.method.lower()] = _operation(endpoint, refs)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": version},
        "servers": [{"url": server}],
        "paths": paths,
        "components": {
            "schemas": {**schemas.get("$defs", {}), "Problem": _PROBLEM},
            "securitySchemes": {
                "oauth": {
                    "type": "oauth2",
                    "flows": {"clientCredentials": {"tokenUrl": "/oauth/token", "scopes": roles}},
                }
            },
        },
    }


_PROBLEM: dict[str, Any] = {
    "type": "object",
    "description": "RFC 9457 problem document; `code` is stable.",
    "required": ["type", "title", "status", "code", "detail"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "code": {"type": "string"},
        "detail": {"type": "string"},
        "instance": {"type": "string"},
        "errors": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {
                    "field": {"type": "string"},
                    "rule": {"type": "string"},
                    "message": {"type": "string"},
                },
            },
        },
    },
}


def _models(endpoints: Sequence[Endpoint]) -> list[tuple[type[BaseModel], Any]]:
    found: dict[tuple[type[BaseModel], str], None] = {}
    for endpoint in endpoints:
        if endpoint.body is not None:
            found[endpoint.body, "validation"] = None
        found[endpoint.query, "validation"] = None
        if endpoint.reply is not None:
            found[endpoint.reply, "serialization"] = None
    return list(found)


def _operation(endpoint: Endpoint, refs: _Refs) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": _operation_id(endpoint),
        "summary": endpoint.summary,
        "tags": [endpoint.tag],
        "parameters": _path_parameters(endpoint.path) + _query_parameters(endpoint.query),
        "responses": _responses(endpoint, refs),
    }
    if endpoint.handler.__doc__:
        operation["description"] = endpoint.handler.__doc__
    if endpoint.roles:
        operation["security"] = [{"oauth": [role]} for role in endpoint.roles]
    if endpoint.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": refs[endpoint.body, "validation"]}},
        }
    return operation


def _operation_id(endpoint: Endpoint) -> str:
    words = re.sub(r"[^a-z0-9]+", "_", endpoint.path.lower()).strip("_")
    return f"{endpoint.method.lower()}_{words}"


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in re.findall(r"{(\w+)(?::\w+)?}", path)
    ]


def _query_parameters(model: type[BaseModel] | None) -> list[dict[str, Any]]:
    if model is None:
        return []
    schema = model.model_json_schema(ref_template=_REF)
    required = set(schema.get("required", ()))
    return [
        {"name": name, "in": "query", "required": name in required, "schema": part}
        for name, part in schema.get("properties", {}).items()
    ]


def _responses(endpoint: Endpoint, refs: _Refs) -> dict[str, Any]:
    success: dict[str, Any] = {"description": "As asked"}
    if endpoint.reply is not None:
        schema = refs[endpoint.reply, "serialization"]
        success["content"] = {"application/json": {"schema": schema}}
    answers = {str(endpoint.status): success}
    for kind in _errors(endpoint):
        status = str(problems.status_of(kind))
        answer = answers.setdefault(
            status,
            {
                "description": kind.title,
                "content": {
                    problems.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}
                },
            },
        )
        answer.setdefault("x-codes", []).append(kind.code)
    return answers


def _errors(endpoint: Endpoint) -> list[type[AppError]]:
    kinds = [*endpoint.errors, InvalidInput]
    if endpoint.guard is not None:
        kinds.append(Unauthenticated)
    return kinds
