"""What every operation has in common: strict queries, cursors, rate limits, idempotency."""

import base64
import json
from collections.abc import Iterator
from itertools import product
from typing import Any

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import col, func, select

from commissions.models import Payout, PayoutRun
from feeds import imports
from feeds.models import FeedImport, Product
from kernel import clock
from kernel.database import reading, unit_of_work
from kernel.http import Endpoint
from kernel.settings import Settings
from network.models import Role
from partner_api.schemas import PageQuery
from tests.partner_api.world import Api, World, make_context

HEADER = "id\ttitle\tdescription\tlink\tprice\tavailability\timage_link\n"
ROW = (
    "sku-{0}\tChair {0}\tA chair\thttps://shop1.example/p{0}\t{0}.00 EUR\tin_stock\t"
    "https://shop1.example/i.jpg\n"
)


def feed(*numbers: int) -> bytes:
    return (HEADER + "".join(ROW.format(number) for number in numbers)).encode()


@pytest.fixture
def source_id(api: Api, world: World) -> str:
    with unit_of_work(api.context.engine) as session:
        return imports.add_source(
            session,
            program_id=world.programs[0].id,
            name="shop",
            url="",
            actor="test",
            now=clock.now(),
        ).id


def lists(api: Api) -> list[Endpoint]:
    found = [each for each in api.endpoints if issubclass(each.query, PageQuery)]
    assert len(found) == 17
    return found


def path_of(endpoint: Endpoint, world: World, source_id: str) -> str:
    """Its path, of a thing that exists: a program, or else a feed source."""
    is_program = endpoint.path.startswith("/v1/programs/")
    return endpoint.path.replace("{id}", world.programs[0].id if is_program else source_id)


def call(api: Api, world: World, endpoint: Endpoint, path: str, **params: Any) -> Any:
    caller = {
        Role.MANAGER: world.manager,
        Role.ADVERTISER: world.advertisers[0],
        Role.PUBLISHER: world.publishers[0],
    }[Role(endpoint.roles[0])]
    return api.http.request(endpoint.method, path, params=params, headers=api.as_(caller))


def test_an_unknown_query_parameter_is_named(api: Api, world: World, source_id: str) -> None:
    for endpoint in api.endpoints:
        path = path_of(endpoint, world, source_id)
        if endpoint.guard is None:
            answer = api.http.request(endpoint.method, path, params={"colour": "red"})
        else:
            answer = call(api, world, endpoint, path, colour="red")
        assert answer.status_code == 400, (path, answer.text)
        fields = [problem["field"] for problem in answer.json()["errors"]]
        assert "colour" in fields, path


def test_a_limit_out_of_range_is_named(api: Api, world: World, source_id: str) -> None:
    for endpoint, limit in product(lists(api), ("1001", "0", "-1", "many", "1e2", "9" * 400)):
        path = path_of(endpoint, world, source_id)
        answer = call(api, world, endpoint, path, limit=limit)
        assert answer.status_code == 400, (path, limit, answer.text)
        assert [problem["field"] for problem in answer.json()["errors"]] == ["limit"]


def _cursor(*position: Any) -> str:
    return base64.urlsafe_b64encode(json.dumps(position).encode()).rstrip(b"=").decode()


FOREIGN_CURSORS = (
    "",
    "nonsense",
    "%%%",
    _cursor(),
    _cursor(1, 2),
    _cursor(1.5),
    _cursor(None),
    _cursor(-1),
    _cursor(2**63),
    _cursor(True),  # noqa: FBT003 - a position, not a switch
    _cursor("x' OR 1=1"),
    _cursor("a\x00b"),
    "A" * 600,
)


def test_a_cursor_that_no_list_gave_out(api: Api, world: World, source_id: str) -> None:
    for endpoint, cursor in product(lists(api), FOREIGN_CURSORS):
        path = path_of(endpoint, world, source_id)
        answer = call(api, world, endpoint, path, cursor=cursor)
        assert answer.status_code == 400, (path, cursor, answer.text)
        assert [problem["field"] for problem in answer.json()["errors"]] == ["cursor"]


BROKEN_FILTERS = (
    ("/v1/conversions", "occurred_from", "yesterday"),
    ("/v1/conversions", "occurred_from", "1700000000"),
    ("/v1/conversions", "occurred_from", "2026-03-01T00:00:00"),
    ("/v1/conversions", "occurred_from", "0001-01-01T00:00:00+14:00"),
    ("/v1/conversions", "occurred_to", "2026-02-30T00:00:00Z"),
    ("/v1/conversions", "status", "lost"),
    ("/v1/conversions", "order_id", "a\x00b"),
    ("/v1/conversions", "order_id", "x" * 201),
    ("/v1/conversions", "program", ""),
    ("/v1/products", "price_min", "-1"),
    ("/v1/products", "price_max", "12.50"),
    ("/v1/products", "price_max", "9" * 30),
    ("/v1/products", "availability", "soon"),
    ("/v1/products", "gtin", "123"),
    ("/v1/products", "q", "a b c d e f g h i j"),
    ("/v1/products", "updated_since", "2026"),
    ("/v1/earnings", "from", "2026-03-01"),
)


def test_a_filter_that_breaks_a_rule_is_named(api_on_both: Api, world_on_both: World) -> None:
    for path, parameter, value in BROKEN_FILTERS:
        answer = api_on_both.get(world_on_both.publishers[0], path, **{parameter: value})
        assert answer.status_code == 400, (parameter, value, answer.text)
        document = answer.json()
        assert document["code"] == "invalid_input"
        assert [problem["field"] for problem in document["errors"]] == [parameter]
        assert answer.headers["content-type"] == "application/problem+json"


def test_products_page_by_page_with_filters(api: Api, world: World, source_id: str) -> None:
    side = world.publishers[0]
    uploaded = api.http.put(
        f"/v1/feeds/{source_id}/file",
        content=feed(1, 2, 3, 4, 5),
        headers=api.as_(world.advertisers[0]),
    )
    assert uploaded.status_code == 200
    assert uploaded.json()["status"] == "imported"
    assert {k: uploaded.json()[k] for k in ("rows", "added", "rejected")} == {
        "rows": 5,
        "added": 5,
        "rejected": 0,
    }

    def found(**filters: Any) -> list[str]:
        return [row["item_id"] for row in api.rows(side, "/v1/products", **filters)]

    everything = ["sku-1", "sku-2", "sku-3", "sku-4", "sku-5"]
    assert found(limit=2) == found(limit=5) == found() == everything
    assert found(price_min=200, price_max=300) == ["sku-2", "sku-3"]
    assert found(q="chair 4") == ["sku-4"]
    assert found(availability="out_of_stock") == []
    assert found(updated_since="2100-01-01T00:00:00Z") == []
    [first] = api.get(side, "/v1/products", limit=1).json()["data"]
    assert first["price"] == {"minor": 100, "currency": "EUR"}
    assert first["tracking_link"].endswith("/c/shop-1/site-1?url=https%3A%2F%2Fshop1.example%2Fp1")


def _counts(engine: Engine) -> tuple[int, int]:
    with reading(engine) as session:
        looks = session.exec(select(func.count()).select_from(FeedImport)).one()
        offered = select(func.count()).select_from(Product).where(col(Product.removed_at).is_(None))
        return looks, session.exec(offered).one()


def test_an_idempotency_key_runs_once(api: Api, world: World, source_id: str) -> None:
    headers = api.as_(world.advertisers[0]) | {"Idempotency-Key": '"upload-1"'}
    path = f"/v1/feeds/{source_id}/file"

    first = api.http.put(path, content=feed(1, 2), headers=headers)
    again = api.http.put(path, content=feed(1, 2), headers=headers)
    other = api.http.put(path, content=feed(1), headers=headers)

    assert (first.status_code, again.status_code) == (200, 200)
    assert again.json() == first.json()
    assert again.headers["idempotency-replayed"] == "true"
    assert "idempotency-replayed" not in first.headers
    assert other.status_code == 422
    assert other.json()["code"] == "idempotency_key_reused"
    assert _counts(api.context.engine) == (1, 2)
    # Another client may use the same key.
    theirs = api.as_(world.manager) | {"Idempotency-Key": '"upload-1"'}
    assert api.http.put(path, content=feed(1), headers=theirs).json()["removed"] == 1


def test_a_file_that_cannot_be_read_changes_nothing(api: Api, world: World, source_id: str) -> None:
    headers = api.as_(world.advertisers[0])
    path = f"/v1/feeds/{source_id}/file"
    api.http.put(path, content=feed(1, 2), headers=headers)

    broken = api.http.put(path, content=b"\x1f\x8bnot really gzip", headers=headers)
    empty = api.http.put(path, content=b"", headers=headers)

    assert broken.json()["status"] == empty.json()["status"] == "failed"
    assert _counts(api.context.engine) == (3, 2)
    [listed] = api.rows(world.advertisers[0], "/v1/feeds")
    assert listed["last_import"]["status"] == "failed"
    left = list((api.context.settings.data_dir / "feeds").iterdir())
    assert left == []


def test_another_advertisers_source_is_not_there(api: Api, world: World, source_id: str) -> None:
    path = f"/v1/feeds/{source_id}/file"
    theirs = api.http.put(path, content=feed(1), headers=api.as_(world.advertisers[1]))
    publishers = api.http.put(path, content=feed(1), headers=api.as_(world.publishers[0]))

    assert (theirs.status_code, publishers.status_code) == (404, 403)
    assert _counts(api.context.engine) == (0, 0)


def test_too_large_a_body_is_refused(
    sqlite_engine: Engine, settings: Settings, world: World
) -> None:
    small = settings.model_copy(update={"body_bytes_max": 1024})
    api = Api(make_context(sqlite_engine, small))
    headers = api.as_(world.advertisers[0])

    def chunks() -> Iterator[bytes]:
        for _ in range(100):
            yield b"x" * 100

    for content in (b"x" * 1025, chunks()):
        answer = api.http.put("/v1/feeds/src_1/file", content=content, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    token = api.http.post("/oauth/token", content=b"x" * 1025)
    assert token.status_code == 413


def test_rate_limits(sqlite_engine: Engine, settings: Settings, world: World) -> None:
    api = Api(make_context(sqlite_engine, settings, requests_per_minute=3))
    side, other = world.publishers

    answers = [api.get(side, "/v1/programs") for _ in range(4)]

    assert [answer.status_code for answer in answers] == [200, 200, 200, 429]
    assert answers[0].headers["ratelimit-policy"] == '"default";q=3;w=60'
    assert answers[0].headers["ratelimit"].startswith('"default";r=2;t=')
    assert answers[2].headers["ratelimit"].startswith('"default";r=0;t=')
    refused = answers[3]
    assert refused.json()["code"] == "too_many_requests"
    assert 1 <= int(refused.headers["retry-after"]) <= 120
    assert api.get(other, "/v1/programs").status_code == 200


def test_the_backlog_is_for_managers(api: Api, world: World) -> None:
    assert api.get(world.manager, "/v1/status").json() == {
        "uploads_open": 3,
        "journal_bytes": 7,
        "outbox_pending": 2,
        "outbox_parked": 1,
    }
    assert api.get(world.advertisers[0], "/v1/status").status_code == 403


def test_a_payout_is_shown_from_its_approval_on(api: Api, world: World) -> None:
    now = clock.now()
    with unit_of_work(api.context.engine) as session:
        session.add(PayoutRun(id="run_1", status="x", proposed_by="m", proposed_at=now, skipped=[]))
        session.flush()
        for number, status in enumerate(("draft", "approved", "settled")):
            session.add(
                Payout(
                    id=f"pay_{number}",
                    run_id="run_1",
                    publisher_id=world.publishers[0].id,
                    currency="EUR",
                    amount_minor=100 + number,
                    status=status,
                    reference="bank-9" if status == "settled" else "",
                    updated_at=now,
                )
            )
    rows = api.rows(world.publishers[0], "/v1/payouts", limit=1)
    assert [(row["id"], row["amount"]["minor"], row["reference"]) for row in rows] == [
        ("pay_1", 101, ""),
        ("pay_2", 102, "bank-9"),
    ]
    assert api.rows(world.publishers[1], "/v1/payouts") == []
