"""The document describes what is there, and the pages show what the document says."""

import re
from typing import Any

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from starlette.routing import Route

import partner_api.app
from kernel import i18n, problems
from kernel.errors import AppError
from tests.partner_api.world import Api
from tracker.http import ENDPOINTS


@pytest.fixture
def document(api: Api) -> dict[str, Any]:
    found: dict[str, Any] = api.http.get("/openapi.json").json()
    return found


def references(part: Any) -> list[str]:
    if isinstance(part, dict):
        own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return own + [each for value in part.values() for each in references(value)]
    if isinstance(part, list):
        return [each for value in part for each in references(value)]
    return []


def test_the_document_is_valid_openapi(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    assert [str(error) for error in OpenAPIV31SpecValidator(document).iter_errors()] == []
    schemas = document["components"]["schemas"]
    for reference in references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas, reference


def test_every_route_is_described_and_every_description_is_routed(
    api: Api, document: dict[str, Any]
) -> None:
    described = {
        (method.upper(), path) for path, item in document["paths"].items() for method in item
    }
    routed = {
        (method, route.path)
        for route in api.app.routes
        if isinstance(route, Route)
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert described == routed
    ids = [
        operation["operationId"]
        for item in document["paths"].values()
        for operation in item.values()
    ]
    assert len(ids) == len(set(ids))


def test_intake_is_described_and_routed_elsewhere() -> None:
    document = partner_api.app.document(ENDPOINTS, server="https://network.example")

    assert set(document["paths"]["/v1/conversions"]) == {"get", "post"}
    assert document["servers"] == [{"url": "https://network.example"}]
    assert [str(error) for error in OpenAPIV31SpecValidator(document).iter_errors()] == []
    for reference in references(document):
        name = reference.removeprefix("#/components/schemas/")
        assert name in document["components"]["schemas"], reference
    routes = [
        route
        for route in partner_api.app.routes(ENDPOINTS)
        if isinstance(route, Route) and route.path == "/v1/conversions"
    ]
    assert [sorted(route.methods or ()) for route in routes] == [["GET", "HEAD"]]


def test_the_document_lists_every_error_code(document: dict[str, Any]) -> None:
    listed = {each["code"]: each["status"] for each in document["x-error-codes"]}
    assert len(listed) == len(document["x-error-codes"])

    for kind in problems.every_error():
        if kind is not AppError:
            assert kind.code in listed, kind
    assert listed["method_not_allowed"] == 405
    for item in document["paths"].values():
        for operation in item.values():
            for status, answer in operation["responses"].items():
                for code in answer.get("x-codes", ()):
                    assert str(listed[code]) == status


def test_no_query_parameter_is_said_to_take_null(document: dict[str, Any]) -> None:
    parameters = {
        parameter["name"]: parameter
        for parameter in document["paths"]["/v1/conversions"]["get"]["parameters"]
    }
    assert parameters["status"]["schema"]["enum"][:3] == ["pending", "approved", "payable"]
    assert parameters["occurred_from"]["schema"] == {"type": "string", "format": "date-time"}
    assert parameters["occurred_from"]["description"] == "Not before this instant."
    assert "null" not in str([parameter["schema"] for parameter in parameters.values()])


def test_writing_operations_name_the_idempotency_key(document: dict[str, Any]) -> None:
    parameters = document["paths"]["/v1/feeds/{id}/file"]["put"]["parameters"]
    assert "Idempotency-Key" in [parameter["name"] for parameter in parameters]
    token = document["paths"]["/oauth/token"]["post"]
    assert set(token["requestBody"]["content"]) == {
        "application/json",
        "application/x-www-form-urlencoded",
    }


@pytest.mark.parametrize("path", ["/docs", "/docs/errors"])
def test_pages_load_nothing_but_their_stylesheet(api: Api, path: str) -> None:
    page = api.http.get(path)

    assert page.status_code == 200
    assert page.headers["content-type"] == "text/html; charset=utf-8"
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; style-src 'self'; ")
    assert not re.search(
        r"<script|<img|<iframe|\son\w+=|\sstyle=|javascript:", page.text, re.IGNORECASE
    )
    assert re.findall(r'<link rel="stylesheet" href="([^"]+)">', page.text) == ["/docs/style.css"]
    stylesheet = api.http.get("/docs/style.css")
    assert stylesheet.status_code == 200
    assert stylesheet.headers["content-type"].startswith("text/css")
    assert "url(" not in stylesheet.text


def test_the_reference_shows_every_operation(api: Api, document: dict[str, Any]) -> None:
    page = api.http.get("/docs").text

    for path, item in document["paths"].items():
        for method, operation in item.items():
            assert f'<section id="{operation["operationId"]}">' in page
            assert f"{method.upper()} {path}" in page
    targets = re.findall(r'href="/docs/errors#([^"]+)"', page)
    anchors = re.findall(r'<section id="([^"]+)">', api.http.get("/docs/errors").text)
    assert set(targets) <= set(anchors)


def test_every_code_has_its_anchor(api: Api) -> None:
    page = api.http.get("/docs/errors").text
    anchors = re.findall(r'<section id="([^"]+)">', page)

    assert len(anchors) == len(set(anchors))
    codes = {kind.code for kind in problems.every_error() if kind is not AppError}
    assert codes <= set(anchors)
    # What a problem document calls its type leads to the code's own section.
    refused = api.http.get("/v1/programs").json()
    assert refused["type"] == "/docs/errors#unauthenticated"


def test_headings_in_two_languages(api: Api) -> None:
    english = api.http.get("/docs")
    by_address = api.http.get("/docs", params={"lang": "zh-Hans"})
    by_browser = api.http.get("/docs/errors", headers={"Accept-Language": "zh-CN"})

    assert "<h1>Reference</h1>" in english.text
    assert english.headers["content-language"] == "en"
    assert "<h1>参考</h1>" in by_address.text
    assert '<html lang="zh-Hans">' in by_address.text
    assert "<h2>列出转化</h2>" in by_address.text
    assert "<h1>错误代码</h1>" in by_browser.text
    assert api.http.get("/docs", params={"lang": "<b>"}).status_code == 400


def test_every_heading_is_translated() -> None:
    document = partner_api.app.document(ENDPOINTS, server="https://network.example")
    catalogue = i18n.catalogue("partner_api", "zh-Hans")
    headings = {tag["name"] for tag in document["tags"]}
    for item in document["paths"].values():
        for operation in item.values():
            headings.add(operation["summary"])
            headings |= {answer["description"] for answer in operation["responses"].values()}
    assert [text for text in sorted(headings) if catalogue.gettext(text) == text] == []
