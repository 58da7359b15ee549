"""The document is valid and says what the endpoints do."""

from enum import StrEnum
from typing import Any

import pytest
from openapi_spec_validator import validate
from pydantic import BaseModel, ConfigDict, Field, computed_field

from kernel import openapi
from kernel.errors import Conflict, NotFound
from kernel.http import Call, Endpoint


class Colour(StrEnum):
    RED = "red"


class Amount(BaseModel):
    minor: int = 0


class Thing(BaseModel):
    """Goes in and comes out; `label` only comes out."""

    model_config = ConfigDict(extra="forbid")

    name: str
    price: Amount = Amount()

    @computed_field
    def label(self) -> str:
        return self.name.title()


class Filter(BaseModel):
    colour: Colour | None = None
    limit: int = Field(..., le=10)


class MissingThing(NotFound):
    """No such thing."""

    code = "missing_thing"


def handler(_call: Call) -> None:
    """What a reader of the reference is told."""


def guard(_request: Any) -> None: ...


def built(*endpoints: Endpoint) -> dict[str, Any]:
    document = openapi.build(
        endpoints,
        title="T",
        version="1",
        server="https://net.example",
        roles={"manager": "runs it", "publisher": "earns"},
    )
    validate(document)
    return document


LIST = Endpoint(
    method="GET", path="/things", handler=handler, summary="List", tag="t", query=Filter
)
CHANGE = Endpoint(
    method="PUT",
    path="/things/{id}",
    handler=handler,
    summary="Change",
    tag="t",
    guard=guard,
    roles=("manager", "publisher"),
    body=Thing,
    reply=Thing,
    status=201,
    errors=(MissingThing, Conflict, NotFound),
)


def resolve(document: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    found: Any = document
    for part in schema["$ref"].removeprefix("#/").split("/"):
        found = found[part]
    assert isinstance(found, dict)
    return found


def test_an_operation_says_what_its_endpoint_declares() -> None:
    operation = built(CHANGE)["paths"]["/things/{id}"]["put"]

    assert operation["operationId"] == "put_things_id"
    assert operation["description"] == "What a reader of the reference is told."
    assert operation["parameters"] == [
        {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
    ]
    assert operation["security"] == [{"oauth": ["manager"]}, {"oauth": ["publisher"]}]
    assert operation["requestBody"]["required"] is True
    assert set(operation["responses"]) == {"201", "400", "401", "404", "409"}
    assert operation["responses"]["404"]["x-codes"] == ["missing_thing", "not_found"]
    problem = operation["responses"]["409"]["content"]["application/problem+json"]["schema"]
    assert problem == {"$ref": "#/components/schemas/Problem"}


def test_an_open_endpoint_asks_for_nothing() -> None:
    operation = built(LIST)["paths"]["/things"]["get"]

    assert "security" not in operation
    assert "requestBody" not in operation
    assert set(operation["responses"]) == {"200", "400"}
    assert [(each["name"], each["required"]) for each in operation["parameters"]] == [
        ("colour", False),
        ("limit", True),
    ]


def test_methods_of_one_path_stand_together() -> None:
    other = Endpoint(method="POST", path="/things", handler=handler, summary="Add", tag="t")

    assert set(built(LIST, other)["paths"]["/things"]) == {"get", "post"}


def test_bug_a_model_that_goes_in_and_comes_out_was_referred_to_by_a_name_nobody_had() -> None:
    document = built(CHANGE)
    operation = document["paths"]["/things/{id}"]["put"]

    sent = resolve(document, operation["requestBody"]["content"]["application/json"]["schema"])
    answered = resolve(
        document, operation["responses"]["201"]["content"]["application/json"]["schema"]
    )

    assert set(sent["properties"]) == {"name", "price"}
    assert set(answered["properties"]) == {"name", "price", "label"}


def test_bug_a_query_with_an_enum_referred_to_definitions_that_are_not_there() -> None:
    document = built(LIST)

    [colour, _] = document["paths"]["/things"]["get"]["parameters"]

    assert resolve(document, colour["schema"]["anyOf"][0])["enum"] == ["red"]


@pytest.mark.parametrize("path", ["/files/{name:path}", "/files/{name}"])
def test_bug_a_path_convertor_stayed_in_the_address(path: str) -> None:
    endpoint = Endpoint(method="GET", path=path, handler=handler, summary="Read", tag="t")

    assert list(built(endpoint)["paths"]) == ["/files/{name}"]
