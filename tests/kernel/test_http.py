"""The edge: strict input, one transaction a request, problem documents, replays, limits."""

import json
import threading
from collections.abc import Iterator
from typing import Any, NoReturn

import pytest
from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy.engine import Engine
from sqlmodel import select
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from kernel import database, http, keys
from kernel.database import reading, unit_of_work
from kernel.errors import InvalidInput, NotFound, Refused, Unauthenticated
from kernel.http import Call, Context, Endpoint
from kernel.idempotency import IdempotencyRecord
from kernel.outbox import Lease
from kernel.ratelimit import Limiter
from kernel.settings import Settings
from kernel.tokens import Tokens

BODY_BYTES_MAX = 2048


class Item(BaseModel):
    model_config = ConfigDict(extra="forbid")

    amount: int


class Order(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field(max_length=20)
    items: list[Item] = []


class Paging(BaseModel):
    model_config = ConfigDict(extra="forbid")

    limit: int = Field(10, le=100)


class Kept(BaseModel):
    name: str
    count: int


def guard(request: Request) -> str:
    name = request.headers.get("authorization", "")
    if not name:
        raise Unauthenticated("who are you")
    return name


def put(call: Call) -> Kept:
    call.session.add(Lease(name=call.body.name, owner="o", until=call.now))
    call.session.flush()
    return Kept(name=call.body.name, count=len(call.session.exec(select(Lease)).all()))


def put_and_refuse(call: Call) -> NoReturn:
    put(call)
    raise Refused("after writing", fact=7)


def put_and_break(call: Call) -> NoReturn:
    put(call)
    raise ZeroDivisionError


def count(call: Call) -> Kept:
    return Kept(name=call.path.get("name", ""), count=len(call.session.exec(select(Lease)).all()))


def approve(call: Call) -> Kept:
    number = len(call.session.exec(select(Lease)).all())
    call.session.add(Lease(name=f"approval {number}", owner="o", until=call.now))
    return Kept(name=call.path["name"], count=number + 1)


async def asynchronous(call: Call) -> dict[str, Any]:
    return {"name": call.body.name, "thread": threading.current_thread() is threading.main_thread()}


async def asynchronous_with_session(call: Call) -> object:
    return call.session


def missing(_call: Call) -> NoReturn:
    raise NotFound("no such order", kind="order")


def text(_call: Call) -> PlainTextResponse:
    return PlainTextResponse("plain", status_code=203)


def endpoint(method: str, path: str, handler: http.Handler, **facts: Any) -> Endpoint:
    return Endpoint(
        method=method, path=path, handler=handler, summary=f"{method} {path}", tag="t", **facts
    )


ENDPOINTS = [
    endpoint("POST", "/orders", put, guard=guard, body=Order, reply=Kept, status=201, writes=True),
    endpoint("POST", "/other", put, guard=guard, body=Order, writes=True),
    endpoint("POST", "/open", put, body=Order, writes=True),
    endpoint("POST", "/refused", put_and_refuse, guard=guard, body=Order, writes=True),
    endpoint("POST", "/broken", put_and_break, guard=guard, body=Order, writes=True),
    endpoint("POST", "/approvals/{name}", approve, guard=guard, writes=True),
    endpoint("POST", "/async", asynchronous, guard=guard, body=Order),
    endpoint("POST", "/sessionless", asynchronous_with_session, body=Order),
    endpoint("GET", "/orders", count, query=Paging),
    endpoint("GET", "/orders/{name}", count),
    endpoint("GET", "/missing", missing),
    endpoint("GET", "/text", text),
]
ME = {"Authorization": "me"}


def client_of(engine: Engine, settings: Settings, *, requests_per_minute: int) -> TestClient:
    made = keys.load(settings)
    app = Starlette(routes=[http.route(each) for each in ENDPOINTS])
    app.state.context = Context(
        settings=settings,
        engine=engine,
        keys=made,
        tokens=Tokens(made, issuer=settings.public_url),
        limiter=Limiter(requests_per_minute=requests_per_minute),
    )
    return TestClient(app, raise_server_exceptions=False)


@pytest.fixture
def small(settings: Settings) -> Settings:
    return settings.model_copy(update={"body_bytes_max": BODY_BYTES_MAX})


@pytest.fixture
def client(sqlite_engine: Engine, small: Settings) -> Iterator[TestClient]:
    with client_of(sqlite_engine, small, requests_per_minute=1000) as made:
        yield made


@pytest.fixture
def client_on_both(engine: Engine, small: Settings) -> Iterator[TestClient]:
    with client_of(engine, small, requests_per_minute=1000) as made:
        yield made


def stored(client: TestClient) -> int:
    found: int = client.get("/orders").json()["count"]
    return found


def problem(response: Any, status: int, code: str) -> dict[str, Any]:
    document: dict[str, Any] = response.json()
    assert (response.status_code, document["status"], document["code"]) == (status, status, code)
    assert response.headers["content-type"] == "application/problem+json"
    return document


def test_a_write_is_committed_when_the_handler_succeeds(client_on_both: TestClient) -> None:
    answer = client_on_both.post("/orders", json={"name": "a"}, headers=ME)

    assert (answer.status_code, answer.json()) == (201, {"name": "a", "count": 1})
    assert answer.headers["content-type"] == "application/json"
    assert stored(client_on_both) == 1


def test_a_refusal_rolls_back_and_says_what_it_knows(client_on_both: TestClient) -> None:
    answer = client_on_both.post("/refused", json={"name": "a"}, headers=ME)

    assert problem(answer, 422, "refused") == {
        "type": "/docs/errors#refused",
        "title": "Refused by a rule",
        "status": 422,
        "code": "refused",
        "detail": "after writing",
        "instance": "/refused",
        "fact": 7,
    }
    assert answer.headers["cache-control"] == "no-store"
    assert stored(client_on_both) == 0


def test_an_unexpected_error_rolls_back_too(client: TestClient) -> None:
    assert client.post("/broken", json={"name": "a"}, headers=ME).status_code == 500
    assert stored(client) == 0


def test_a_handler_that_does_not_declare_writes_keeps_nothing(
    sqlite_engine: Engine, small: Settings
) -> None:
    reader = endpoint("POST", "/reads", put, body=Order)
    app = Starlette(routes=[http.route(reader)])
    with client_of(sqlite_engine, small, requests_per_minute=9) as other:
        app.state.context = other.app.state.context  # type: ignore[attr-defined]  # a Starlette
        with TestClient(app) as client:
            client.post("/reads", json={"name": "a"})
        assert stored(other) == 0


def test_handlers_get_path_query_and_may_answer_with_a_response(client: TestClient) -> None:
    assert client.get("/orders/x%20y").json()["name"] == "x y"
    answer = client.get("/text")
    assert (answer.status_code, answer.text) == (203, "plain")
    assert problem(client.get("/missing"), 404, "not_found")["kind"] == "order"


def test_an_async_handler_runs_without_a_session(client: TestClient) -> None:
    answer = client.post("/async", json={"name": "a"}, headers=ME)

    assert (answer.status_code, answer.json()["name"]) == (200, "a")
    assert client.post("/sessionless", json={"name": "a"}).status_code == 500


def test_the_guard_comes_before_the_body_is_read(client: TestClient) -> None:
    answer = client.post("/orders", content=b"{" * (BODY_BYTES_MAX + 1))

    problem(answer, 401, "unauthenticated")
    assert answer.headers["www-authenticate"] == 'Bearer realm="tallystick"'


@pytest.mark.parametrize(
    "raw",
    [
        b" ",
        b"{",
        b'{"name": "a"} x',
        b'{"name": "a", "name": "a"}',
        b'{"name": "a", "items": [{"amount": 1, "amount": 2}]}',
        b'{"name": NaN}',
        b'{"name": "a", "items": [{"amount": Infinity}]}',
        b'{"name": "a", "items": [{"amount": -Infinity}]}',
        b'{"name": "\xff"}',
        b'\xef\xbb\xbf{"name": "a"}',
        '{"name": "a"}'.encode("utf-16"),
        b"{'name': 'a'}",
        b'{"name": "a\nb"}',
        b"[" * BODY_BYTES_MAX,
        b'{"name":' * (BODY_BYTES_MAX // 8),
    ],
)
def test_what_is_not_strict_json_is_refused(client: TestClient, raw: bytes) -> None:
    answer = client.post("/orders", content=raw, headers=ME)

    [found] = problem(answer, 400, "invalid_input")["errors"]
    assert (found["field"], found["rule"]) == ("body", "json")
    assert stored(client) == 0


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'[{"a":'])
def test_a_hundred_thousand_levels_are_refused(opening: bytes) -> None:
    with pytest.raises(InvalidInput, match="nested too deeply"):
        http.load_json(opening * 100_000)


def test_bug_a_number_too_large_for_a_float_became_infinity() -> None:
    for raw in (b"1e999", b'{"a": [-1e999]}'):
        with pytest.raises(InvalidInput, match="out of range"):
            http.load_json(raw)

    assert http.load_json(b"[1.5, -2e3, 0e999, 1e-999]") == [1.5, -2000.0, 0.0, 0.0]


@pytest.mark.parametrize(
    "raw", [b'{"name": "\\ud800"}', b'{"name": "a", "\\uDFFF": 1}', b'{"name": "\\ude00\\ud83d"}']
)
def test_bug_half_a_surrogate_pair_got_as_far_as_the_database(
    client: TestClient, raw: bytes
) -> None:
    [found] = problem(client.post("/orders", content=raw, headers=ME), 400, "invalid_input")[
        "errors"
    ]

    assert (found["field"], found["rule"]) == ("body", "json")
    assert stored(client) == 0


@pytest.mark.parametrize("raw", [rb'{"a": "\u0000"}', rb'{"\u0000": 1}', rb'[["x\u0000y"]]'])
def test_bug_nul_in_a_text_got_as_far_as_the_database(raw: bytes) -> None:
    with pytest.raises(InvalidInput, match="NUL"):
        http.load_json(raw)

    assert http.load_json(rb'{"a": "\\u0000"}') == {"a": "\\u0000"}


def test_bug_a_database_that_is_away_was_an_unexpected_error(settings: Settings) -> None:
    away = database.connect("postgresql://nobody@127.0.0.1:9/nothing")
    with client_of(away, settings, requests_per_minute=100) as client:
        response = client.get("/orders")

    problem(response, 503, "unavailable")
    assert response.headers["retry-after"] == "5"


def test_whole_surrogate_pairs_and_text_that_looks_like_half_of_one_are_fine() -> None:
    assert http.load_json(b'["\\ud83d\\ude00", "\\\\ud800"]') == ["\U0001f600", "\\ud800"]


@pytest.mark.parametrize(
    ("document", "field", "rule"),
    [
        (
            {"name": "a", "items": [{"amount": 1}, {"amount": 2}, {"amount": "x"}]},
            "items[2].amount",
            "int_parsing",
        ),
        ({"name": "a", "items": [{}]}, "items[0].amount", "missing"),
        ({"name": "a", "nmae": "b"}, "nmae", "extra_forbidden"),
        ({"name": "a" * 21}, "name", "string_too_long"),
        ({}, "name", "missing"),
        ([], "body", "model_type"),
        (None, "body", "model_type"),
    ],
)
def test_a_broken_rule_is_named_with_its_path(
    client: TestClient, document: Any, field: str, rule: str
) -> None:
    answer = client.post("/orders", content=json.dumps(document), headers=ME)

    [found] = problem(answer, 400, "invalid_input")["errors"]
    assert (found["field"], found["rule"]) == (field, rule)
    assert stored(client) == 0


def test_every_broken_rule_is_named(client: TestClient) -> None:
    answer = client.post("/orders", json={"items": [{"amount": None}], "x": 1}, headers=ME)

    found = {each["field"] for each in problem(answer, 400, "invalid_input")["errors"]}
    assert found == {"name", "items[0].amount", "x"}


def test_queries_are_parsed_and_named_alike(client: TestClient) -> None:
    assert client.get("/orders?limit=100").status_code == 200
    for query, field in (("limit=101", "limit"), ("limit=x", "limit"), ("limt=5", "limt")):
        [found] = problem(client.get(f"/orders?{query}"), 400, "invalid_input")["errors"]
        assert found["field"] == field


def chunks(size: int) -> Iterator[bytes]:
    yield b'{"name": "a", "items": ['
    for _ in range(size // 64):
        yield b" " * 64
    yield b"]}"


def test_a_body_over_the_limit_is_refused_with_and_without_content_length(
    client: TestClient,
) -> None:
    whole = b"".join(chunks(BODY_BYTES_MAX))
    for content in (whole, chunks(BODY_BYTES_MAX)):
        answer = client.post("/orders", content=content, headers=ME)
        document = problem(answer, 413, "too_large")
        assert (document["limit"], document["limit_bytes"]) == ("body_bytes_max", BODY_BYTES_MAX)
    assert stored(client) == 0

    assert (
        client.post("/orders", content=chunks(BODY_BYTES_MAX - 64), headers=ME).status_code == 201
    )


def test_a_body_of_exactly_the_limit_is_taken(client: TestClient) -> None:
    start = b'{"name": "a"}'
    exact = start + b" " * (BODY_BYTES_MAX - len(start))

    assert client.post("/open", content=exact + b" ").status_code == 413
    assert client.post("/open", content=exact).status_code == 200


def test_a_declared_length_over_the_limit_is_refused_before_reading(client: TestClient) -> None:
    read: list[bytes] = []

    def content() -> Iterator[bytes]:
        for chunk in chunks(BODY_BYTES_MAX):
            read.append(chunk)
            yield chunk

    headers = ME | {"Content-Length": str(BODY_BYTES_MAX + 1)}
    answer = client.post("/orders", content=content(), headers=headers)

    assert answer.status_code == 413
    assert read == []


def with_key(key: str, **more: str) -> dict[str, str]:
    return ME | {"Idempotency-Key": key} | more


def test_a_repeat_with_the_same_key_gets_the_first_answer_again(
    client_on_both: TestClient,
) -> None:
    client = client_on_both
    first = client.post("/orders", json={"name": "a"}, headers=with_key('"k-1"'))
    second = client.post("/orders", json={"name": "a"}, headers=with_key("k-1"))

    assert (first.status_code, second.status_code) == (201, 201)
    assert second.content == first.content
    assert second.headers["content-type"] == first.headers["content-type"]
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert stored(client) == 1


def test_a_key_with_another_body_or_path_is_refused(client: TestClient) -> None:
    client.post("/orders", json={"name": "a"}, headers=with_key("k"))

    problem(
        client.post("/orders", json={"name": "b"}, headers=with_key("k")),
        422,
        "idempotency_key_reused",
    )
    problem(
        client.post("/other", json={"name": "a"}, headers=with_key("k")),
        422,
        "idempotency_key_reused",
    )
    assert stored(client) == 1


def test_two_actors_may_use_the_same_key(client: TestClient) -> None:
    for actor in ("me", "you"):
        headers = with_key("k", Authorization=actor)
        answer = client.post("/orders", json={"name": actor}, headers=headers)
        assert "idempotency-replayed" not in answer.headers
    assert stored(client) == 2


@pytest.mark.parametrize("path", ["/refused", "/broken"])
def test_a_request_that_took_no_effect_frees_its_key(
    client: TestClient, sqlite_engine: Engine, path: str
) -> None:
    for _ in range(2):
        status = client.post(path, json={"name": "a"}, headers=with_key("k")).status_code
        assert status == (422 if path == "/refused" else 500)
    with reading(sqlite_engine) as session:
        assert session.exec(select(IdempotencyRecord)).all() == []

    assert client.post("/orders", json={"name": "a"}, headers=with_key("k")).status_code == 201


def test_a_key_is_checked_and_ignored_where_nobody_is_known(client: TestClient) -> None:
    [found] = problem(
        client.post("/orders", json={"name": "a"}, headers=with_key("x" * 256)),
        400,
        "invalid_input",
    )["errors"]
    assert found["field"] == "Idempotency-Key"

    assert client.post("/open", json={"name": "a"}, headers={"Idempotency-Key": "k"}).is_success
    again = client.post("/open", json={"name": "b"}, headers={"Idempotency-Key": "k"})
    assert again.json()["count"] == 2


def test_async_handlers_are_replayed_too(client: TestClient) -> None:
    first = client.post("/async", json={"name": "a"}, headers=with_key("k"))
    second = client.post("/async", json={"name": "a"}, headers=with_key("k"))

    assert second.headers["idempotency-replayed"] == "true"
    assert second.json() == first.json()


@pytest.fixture
def with_a_writer_in_the_way(
    sqlite_engine: Engine, client: TestClient, monkeypatch: pytest.MonkeyPatch
) -> Iterator[TestClient]:
    """The database answers readers, and a writer waits in vain."""
    client.get("/orders")
    monkeypatch.setattr(database, "BUSY_TIMEOUT_MILLISECONDS", 50)
    with unit_of_work(sqlite_engine) as session:
        session.exec(select(Lease)).all()
        yield client


def test_an_async_handler_goes_on_while_a_key_cannot_be_claimed(
    with_a_writer_in_the_way: TestClient,
) -> None:
    answer = with_a_writer_in_the_way.post("/async", json={"name": "a"}, headers=with_key("k"))

    assert (answer.status_code, answer.json()["name"]) == (200, "a")


def test_bug_a_write_ran_unclaimed_when_its_key_could_not_be_checked(
    with_a_writer_in_the_way: TestClient,
) -> None:
    client = with_a_writer_in_the_way
    answer = client.post("/orders", json={"name": "a"}, headers=with_key("k"))

    problem(answer, 503, "unavailable")
    assert answer.headers["retry-after"] == "5"
    assert stored(client) == 0


def test_an_empty_body_is_an_empty_object(client: TestClient) -> None:
    [found] = problem(client.post("/orders", headers=ME), 400, "invalid_input")["errors"]

    assert (found["field"], found["rule"]) == ("name", "missing")


def test_bug_a_key_was_ignored_when_the_request_had_no_body(client: TestClient) -> None:
    first = client.post("/approvals/run-1", headers=with_key("k"))
    second = client.post("/approvals/run-1", headers=with_key("k"))

    assert first.json() == second.json() == {"name": "run-1", "count": 1}
    assert second.headers["idempotency-replayed"] == "true"
    assert stored(client) == 1


def test_the_limit_is_told_with_every_answer_and_kept(
    sqlite_engine: Engine, small: Settings
) -> None:
    with client_of(sqlite_engine, small, requests_per_minute=3) as client:
        answers = [client.get("/text") for _ in range(3)]
        assert [answer.status_code for answer in answers] == [203] * 3
        for answer, remaining in zip(answers, (2, 1, 0), strict=True):
            assert answer.headers["ratelimit-policy"] == '"default";q=3;w=60'
            name, left, reset = answer.headers["ratelimit"].split(";")
            assert (name, left) == ('"default"', f"r={remaining}")
            assert 1 <= int(reset.removeprefix("t=")) <= 60

        refused = client.get("/text")
        document = problem(refused, 429, "too_many_requests")
        assert int(refused.headers["retry-after"]) == document["retry_after_seconds"]
        assert 1 <= document["retry_after_seconds"] <= 60


def test_bug_refusals_had_no_rate_limit_headers(sqlite_engine: Engine, small: Settings) -> None:
    with client_of(sqlite_engine, small, requests_per_minute=2) as client:
        assert client.get("/missing").headers["ratelimit"].startswith('"default";r=1;t=')
        client.get("/missing")

        refused = client.get("/missing")

        assert refused.status_code == 429
        seconds = refused.headers["retry-after"]
        assert refused.headers["ratelimit"] == f'"default";r=0;t={seconds}'
        assert refused.headers["ratelimit-policy"] == '"default";q=2;w=60'


def test_each_caller_has_a_limit_of_its_own_and_a_refused_write_does_nothing(
    sqlite_engine: Engine, small: Settings
) -> None:
    with client_of(sqlite_engine, small, requests_per_minute=1) as client:
        for name, status in (("me", 201), ("you", 201), ("me", 429)):
            answer = client.post(
                "/orders", json={"name": name + str(status)}, headers={"Authorization": name}
            )
            assert answer.status_code == status
        with reading(sqlite_engine) as session:
            names = {lease.name for lease in session.exec(select(Lease))}
        assert names == {"me201", "you201"}
