"""The reference for people: HTML made from the OpenAPI document, without a line of script."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from starlette.requests import Request
from starlette.responses import HTMLResponse, Response

from kernel import i18n
from kernel.http import Call, Endpoint, NoQuery
from partner_api import openapi
from partner_api.schemas import Language

Document = Callable[[str], dict[str, Any]]

_HERE = Path(__file__).resolve().parent
_METHODS = ("get", "post", "put", "patch", "delete")
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",
    "Vary": "Accept-Language",
}


class DocsQuery(NoQuery):
    """Which language the headings are in."""

    lang: Language | None = None


@cache
def _environment(language: str) -> Environment:
    made = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.globals["_"] = i18n.catalogue("partner_api", language).gettext
    made.filters["type_words"] = type_words
    made.globals["language"] = language
    made.globals["languages"] = {"en": "English", "zh-Hans": "简体中文"}
    return made


def endpoints(document: Document) -> tuple[Endpoint, ...]:
    """The pages; `document` gives the OpenAPI document for a public address."""

    def show_document(call: Call) -> dict[str, Any]:
        """The API as an OpenAPI 3.1 document."""
        return document(call.context.settings.public_url)

    def show_reference(call: Call) -> Response:
        """The API as a page to read."""
        built = document(call.context.settings.public_url)
        return _page(call, "reference.html", groups=_groups(built), api=built)

    return (
        _endpoint("/openapi.json", show_document, "Read the API as OpenAPI"),
        _endpoint("/docs", show_reference, "Read the API as a page", query=DocsQuery),
        _endpoint("/docs/errors", show_errors, "Read the error codes as a page", query=DocsQuery),
        _endpoint("/docs/style.css", show_stylesheet, "Read the stylesheet of these pages"),
    )


def show_errors(call: Call) -> Response:
    """Every error code with its status and meaning, each at an anchor of its own name."""
    return _page(call, "errors.html", codes=openapi.error_codes())


def show_stylesheet(_call: Call) -> Response:
    """The stylesheet of the pages."""
    return Response(
        (_HERE / "static" / "docs.css").read_bytes(),
        media_type="text/css",
        headers={"Cache-Control": "public, max-age=3600", "X-Content-Type-Options": "nosniff"},
    )


def language_of(request: Request, wish: str | None) -> str:
    """The language asked for in the address, else by the browser."""
    return i18n.choose(wish, request.headers.get("accept-language"))


def _endpoint(
    path: str,
    handler: Callable[[Call], Any],
    summary: str,
    *,
    query: type[NoQuery] = NoQuery,
) -> Endpoint:
    return Endpoint(
        method="GET", path=path, handler=handler, summary=summary, tag="Reference", query=query
    )


def _page(call: Call, template: str, **values: Any) -> Response:
    language = language_of(call.request, call.query.lang)
    return HTMLResponse(
        _environment(language).get_template(template).render(values),
        headers={**_HEADERS, "Content-Language": language},
    )


def _groups(built: dict[str, Any]) -> list[tuple[str, list[dict[str, Any]]]]:
    """The operations under their tags, in the order of the document."""
    groups: dict[str, list[dict[str, Any]]] = {tag["name"]: [] for tag in built["tags"]}
    schemas = built["components"]["schemas"]
    for path, item in built["paths"].items():
        for method in _METHODS:
            if method in item:
                operation = item[method]
                groups[operation["tags"][0]].append(
                    {
                        "method": method.upper(),
                        "path": path,
                        "operation": operation,
                        "scopes": [
                            scope
                            for each in operation.get("security", ())
                            for scope in each["oauth"]
                        ],
                        "body": _fields(operation.get("requestBody"), schemas),
                        "answers": {
                            status: _fields(answer, schemas)
                            for status, answer in operation["responses"].items()
                        },
                    }
                )
    return list(groups.items())


def _fields(holder: dict[str, Any] | None, schemas: dict[str, Any]) -> list[dict[str, Any]]:
    """The members of a body: name, type and description, one level deep and those of its rows."""
    schema = _schema_of(holder, schemas)
    rows = schema.get("properties", {}).get("data", {}).get("items")
    if rows is not None:
        schema = _resolve(rows, schemas)
    required = set(schema.get("required", ()))
    return [
        {
            "name": name,
            "type": type_words(part),
            "required": name in required,
            "description": part.get("description", ""),
        }
        for name, part in schema.get("properties", {}).items()
    ]


def _schema_of(holder: dict[str, Any] | None, schemas: dict[str, Any]) -> dict[str, Any]:
    content = (holder or {}).get("content", {})
    first: dict[str, Any] = next(iter(content.values()), {})
    return _resolve(first.get("schema", {}), schemas)


def _resolve(schema: dict[str, Any], schemas: dict[str, Any]) -> dict[str, Any]:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    found: dict[str, Any] = schemas.get(reference.rpartition("/")[2], {})
    return found


def type_words(schema: dict[str, Any]) -> str:
    """A schema in a few words: `string (date-time)`, `array of ProgramView`, `integer or null`."""
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema:
        return " | ".join(f'"{word}"' for word in schema["enum"])
    for name in ("anyOf", "oneOf"):
        if name in schema:
            return " or ".join(type_words(part) for part in schema[name])
    kind = str(schema.get("type", "any"))
    if kind == "array":
        return f"array of {type_words(schema.get('items', {}))}"
    return f"{kind} ({schema['format']})" if "format" in schema else kind
