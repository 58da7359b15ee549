"""Every refusal has a code of its own, a status and a title."""

from collections import Counter

import pytest
from starlette.requests import Request

import server.app  # noqa: F401 - loads every package and with it every error class
from kernel import errors, problems

EVERY = [kind for kind in problems.every_error() if kind is not errors.AppError]


def request(path: str = "/v1/x") -> Request:
    return Request(
        {"type": "http", "method": "GET", "path": path, "headers": [], "query_string": b""}
    )


@pytest.mark.parametrize("kind", EVERY, ids=lambda kind: kind.__name__)
def test_every_error_has_a_status_a_code_and_a_title(kind: type[errors.AppError]) -> None:
    assert 400 <= problems.status_of(kind) <= 503
    assert problems.status_of(kind) != problems.UNEXPECTED
    assert kind.code.replace("_", "").isalnum()
    assert kind.code == kind.code.lower()
    assert kind.title[0].isupper()
    assert kind.__doc__


def test_no_two_errors_share_a_code() -> None:
    codes = Counter(kind.code for kind in EVERY)

    assert [code for code, times in codes.items() if times > 1] == []
    assert len(EVERY) > 20


@pytest.mark.parametrize(
    ("error", "status", "header"),
    [
        (errors.invalid("f", "r", "m"), 400, None),
        (errors.Unauthenticated("m"), 401, ("www-authenticate", 'Bearer realm="tallystick"')),
        (errors.Forbidden("m"), 403, None),
        (errors.NotFound("m"), 404, None),
        (errors.Conflict("m"), 409, None),
        (errors.TooLarge("m"), 413, None),
        (errors.Refused("m"), 422, None),
        (errors.TooMany("m", retry_after_seconds=7), 429, ("retry-after", "7")),
        (errors.Unavailable("m"), 503, ("retry-after", "5")),
        (errors.AppError("m"), 500, None),
    ],
    ids=lambda value: type(value).__name__,
)
def test_the_answer_to_an_error(
    error: errors.AppError, status: int, header: tuple[str, str] | None
) -> None:
    answer = problems.respond(error, request())

    assert answer.status_code == status
    assert answer.media_type == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    if header:
        assert answer.headers[header[0]] == header[1]


def test_facts_become_members_and_never_replace_the_standard_ones() -> None:
    error = errors.Conflict("the sentence", kind="order", status="paid", code="x", type="y")

    assert problems.document(error, instance="/v1/x") == {
        "kind": "order",
        "type": "/docs/errors#conflict",
        "title": "Contradicts what is recorded",
        "status": 409,
        "code": "conflict",
        "detail": "the sentence",
        "instance": "/v1/x",
    }
