"""Orders and their changes over HTTP: what is acknowledged, what is refused, what a repeat gets."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy.engine import Engine
from sqlmodel import select

from kernel import clock
from kernel.clock import to_rfc3339
from kernel.database import unit_of_work
from kernel.outbox import OutboxRow
from network import access, programs
from network.models import PostbackToken
from tracker import intake
from tracker.events import Order
from tracker.models import (
    ChangeKind,
    Click,
    Conversion,
    ConversionChange,
    ConversionItem,
    IntakeRefusal,
)


def code_of(answer: Any) -> str:
    assert answer.headers["content-type"] == "application/problem+json"
    return str(answer.json()["code"])


def fields_of(answer: Any) -> list[str]:
    assert answer.status_code == 400, answer.text
    return [problem["field"] for problem in answer.json()["errors"]]


def postback(tracker: Any, **parameters: str) -> Any:
    return tracker.http.get("/postback", params=parameters)


def test_postback_is_acknowledged_and_recorded_once(tracker: Any, world: Any) -> None:
    sent = {
        "token": world.token,
        "order_id": "A/1",
        "amount": "19.90",
        "currency": "EUR",
        "country": "de",
        "customer": "new",
        "coupon": "C1",
        "click_id": "nonsense",
        "junk": "ignored",
    }
    first = postback(tracker, **sent)
    assert first.status_code == 202
    assert first.headers["cache-control"] == "no-store"
    body = first.json()
    assert body["duplicate"] is False
    again = postback(tracker, **sent)
    assert (again.status_code, again.json()) == (202, {**body, "duplicate": True})
    assert tracker.ship().conversions == 1
    # Now the database knows it, and the answer is still the same.
    later = tracker.http.post("/postback", data=sent)
    assert (later.status_code, later.json()) == (202, {**body, "duplicate": True})
    assert not tracker.ship()
    rows = tracker.rows(Conversion)
    assert len(rows) == 1
    row = rows[0]
    assert row.id == body["conversion_id"]
    assert (row.program_id, row.order_id, row.event) == (world.shop_id, "A/1", "sale")
    assert (row.amount_minor, row.currency, row.country) == (1990, "EUR", "DE")
    assert (row.customer, row.coupon, row.click_id) == ("new", "C1", "nonsense")
    assert (row.channel, row.imported, row.occurred_at) == ("postback", False, row.received_at)
    outbox = tracker.rows(OutboxRow)
    assert [(one.kind, one.subject_id, one.lane) for one in outbox] == [
        ("conversion.recorded", row.id, world.shop_id)
    ]
    claims = tracker.node.tokens.read_receipt(body["receipt"])
    assert claims == {
        "program": world.shop_id,
        "conversion_id": row.id,
        "content_hash": row.content_hash,
    }


def test_form_json_and_query_are_the_same_report(tracker: Any, world: Any) -> None:
    fields = {"order_id": "1", "amount": "5.00", "currency": "EUR"}
    url = f"/postback?token={world.token}"
    answers = [
        tracker.http.get("/postback", params={**fields, "token": world.token}),
        tracker.http.post(url, data=fields),
        tracker.http.post("/postback", data={**fields, "token": world.token}),
        tracker.http.post(url, json=fields),
        tracker.http.post("/postback", json={**fields, "token": world.token}),
        tracker.http.post(f"{url}&order_id=1&amount=5.00&currency=EUR"),
        tracker.api(world.advertiser, "/v1/conversions", fields),
    ]
    assert [answer.status_code for answer in answers] == [202] * 7
    assert len({answer.json()["receipt"] for answer in answers}) == 1
    assert [answer.json()["duplicate"] for answer in answers] == [False] + [True] * 6


def test_items_by_arrays_and_by_json(tracker: Any, world: Any) -> None:
    url = f"/postback?token={world.token}&order_id=1&currency=EUR"
    arrays = "&item_sku[]=a&item_sku[]=b&item_qty[]=2&item_qty[]=1"
    amounts = "&item_amount[]=3.00&item_amount[]=0.50&item_category[]=x&item_category[]="
    first = tracker.http.get(url + arrays + amounts)
    assert first.status_code == 202, first.text
    items = [
        {"sku": "a", "category": "x", "qty": 2, "amount": "3.00"},
        {"sku": "b", "amount": "0.50"},
    ]
    again = tracker.http.post(
        f"/postback?token={world.token}",
        json={"order_id": "1", "currency": "EUR", "amount": "3.50", "items": items},
    )
    assert again.json() == {**first.json(), "duplicate": True}
    tracker.ship()
    rows = [
        (row.line, row.sku, row.category, row.quantity, row.amount_minor)
        for row in tracker.rows(ConversionItem)
    ]
    assert rows == [(0, "a", "x", 2, 300), (1, "b", "", 1, 50)]


def test_other_content_is_a_conflict_and_changes_nothing(tracker: Any, world: Any) -> None:
    sent = {"token": world.token, "order_id": "1", "amount": "5.00", "currency": "EUR"}
    accepted = postback(tracker, **sent).json()
    for ship_before in (False, True):
        if ship_before:
            tracker.ship()
        refused = postback(tracker, **{**sent, "amount": "5.01", "country": "FR"})
        assert refused.status_code == 409
        assert code_of(refused) == "order_conflict"
        assert refused.json()["differs"] == ["amount", "country"]
        assert refused.json()["conversion_id"] == accepted["conversion_id"]
    assert not tracker.ship()
    assert [row.amount_minor for row in tracker.rows(Conversion)] == [500]
    assert tracker.rows(IntakeRefusal) == []
    # Another event of the same order is another conversion.
    other = postback(tracker, **{**sent, "amount": "9.00", "event": "renewal"})
    assert other.json()["duplicate"] is False
    assert other.json()["conversion_id"] != accepted["conversion_id"]


def test_a_conflict_after_shipping_names_occurred_at(tracker: Any, world: Any) -> None:
    at = to_rfc3339(clock.now() - timedelta(days=1))
    sent = {"token": world.token, "order_id": "1", "occurred_at": at}
    assert postback(tracker, **sent).status_code == 202
    tracker.ship()
    assert postback(tracker, **sent).json()["duplicate"] is True
    refused = postback(tracker, token=world.token, order_id="1")
    assert (refused.status_code, refused.json()["differs"]) == (409, ["occurred_at"])


@pytest.mark.usefixtures("world")
def test_concurrent_equal_orders_have_one_that_is_new(
    tracker: Any,
) -> None:
    async def report_all() -> list[Any]:
        node = tracker.node
        program = node.routing.table.find_program("shop")
        now = clock.now()
        reports = [
            intake.report_of(
                node,
                program,
                Order(order_id="1", event="sale", currency="EUR", amount_minor=amount),
                channel="api",
                now=now,
            )
            for amount in [1] * 40 + [2] * 10
        ]
        return await asyncio.gather(
            *(intake.accept_order(node, report) for report in reports), return_exceptions=True
        )

    outcomes = tracker.run(report_all)
    accepted = [one for one in outcomes if isinstance(one, intake.Accepted)]
    assert len(accepted) == 40
    assert sorted(bool(one.duplicate) for one in accepted) == [False] + [True] * 39
    assert len({one.receipt for one in accepted}) == 1
    assert tracker.ship().records == 1


def test_wrong_tokens_are_refused_counted_and_not_echoed(tracker: Any, world: Any) -> None:
    def wrong() -> float:
        return REGISTRY.get_sample_value("tallystick_postback_wrong_tokens_total") or 0

    before = wrong()
    answers = [
        postback(tracker, token="pbt_wrong", order_id="1"),
        postback(tracker, order_id="1"),
        postback(tracker, token="", order_id="1"),
        tracker.http.get(f"/postback?token={world.token}&token={world.other_token}&order_id=1"),
    ]
    assert [answer.status_code for answer in answers] == [401] * 4
    assert "pbt_wrong" not in answers[0].text
    assert wrong() == before + 4
    assert not tracker.ship()


@pytest.mark.usefixtures("world")
def test_a_token_made_now_works_now_and_a_retired_one_soon_does_not(
    tracker: Any,
) -> None:
    now = clock.now()
    with unit_of_work(tracker.engine) as session:
        program = programs.find(session, "shop")
        token = access.add_postback_token(session, program=program, actor="t", now=now)
    assert postback(tracker, token=token, order_id="1").status_code == 202
    with unit_of_work(tracker.engine) as session:
        hashed = access.token_hash(token)
        row = session.exec(select(PostbackToken).where(PostbackToken.token_hash == hashed)).one()
        row.retired_at = now
        session.add(row)
    tracker.run(tracker.node.refresh)
    assert postback(tracker, token=token, order_id="2").status_code == 401


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"order_id": ""}, "order_id"),
        ({"amount": "1.999"}, "amount"),
        ({"currency": "USD"}, "currency"),
        ({"currency": ""}, "currency"),
        ({"country": "ZZ"}, "country"),
        ({"occurred_at": "yesterday"}, "occurred_at"),
    ],
)
def test_bad_postbacks_name_the_field(tracker: Any, world: Any, changes: Any, field: Any) -> None:
    good = {"token": world.token, "order_id": "1", "amount": "1.00", "currency": "EUR"}
    assert fields_of(postback(tracker, **{**good, **changes})) == [field]
    assert not tracker.ship()


def test_bad_bodies_of_a_postback(tracker: Any, world: Any) -> None:
    url = f"/postback?token={world.token}"
    assert fields_of(tracker.http.post(url, json={"order_id": "1", "ordr": "1"})) == ["ordr"]
    assert fields_of(tracker.http.post(url, json=[1])) == ["body"]
    assert fields_of(tracker.http.post(url, content=b"{", headers=JSON)) == ["body"]
    assert fields_of(tracker.http.post(url, content=b"x", headers=TEXT)) == ["body"]
    twice = tracker.http.post(f"{url}&order_id=1", json={"order_id": "2"})
    assert fields_of(twice) == ["order_id"]
    assert not tracker.ship()


REFUND = ChangeKind.REFUND
JSON = {"content-type": "application/json"}
TEXT = {"content-type": "text/plain"}


def test_pixel_is_always_an_image(tracker: Any, world: Any) -> None:
    good = tracker.http.get("/pixel.gif", params={"token": world.token, "order_id": "1"})
    assert good.status_code == 200
    assert good.headers["content-type"] == "image/gif"
    assert good.headers["cache-control"] == "no-store"
    assert "x-tallystick-error" not in good.headers
    assert len(good.content) == 43
    assert good.content.startswith(b"GIF89a")
    bad = tracker.http.get("/pixel.gif", params={"token": "no", "order_id": "1"})
    assert (bad.status_code, bad.content) == (200, good.content)
    assert bad.headers["x-tallystick-error"] == "unauthenticated"
    tracker.ship()
    assert [row.channel for row in tracker.rows(Conversion)] == ["pixel"]


def test_api_needs_a_bearer_of_the_right_kind(tracker: Any, world: Any) -> None:
    body = {"order_id": "1"}
    assert tracker.http.post("/v1/conversions", json=body).status_code == 401
    assert tracker.api("nonsense", "/v1/conversions", body).status_code == 401
    assert tracker.api(world.publisher, "/v1/conversions", body).status_code == 403
    assert tracker.api(world.advertiser, "/v1/clicks", {"clicks": []}).status_code == 403
    assert not tracker.ship()


def test_which_program_an_order_belongs_to(tracker: Any, world: Any) -> None:
    path = "/v1/conversions"
    assert tracker.api(world.advertiser, path, {"order_id": "1"}).status_code == 202
    own = tracker.api(world.advertiser, path, {"order_id": "2", "program": "shop"})
    by_id = tracker.api(world.advertiser, path, {"order_id": "2", "program": world.shop_id})
    assert own.json()["receipt"] == by_id.json()["receipt"]
    foreign = tracker.api(world.advertiser, path, {"order_id": "1", "program": "other"})
    missing = tracker.api(world.advertiser, path, {"order_id": "1", "program": "none"})
    assert (foreign.status_code, missing.status_code) == (404, 404)
    assert foreign.json()["detail"] == missing.json()["detail"]
    assert fields_of(tracker.api(world.twin_advertiser, path, {"order_id": "1"})) == ["program"]
    assert fields_of(tracker.api(world.manager, path, {"order_id": "1"})) == ["program"]
    named = tracker.api(world.manager, path, {"order_id": "1", "program": "other"})
    assert named.status_code == 202
    tracker.ship()
    assert sorted(row.program_id for row in tracker.rows(Conversion)) == sorted(
        [world.shop_id, world.shop_id, world.other_id]
    )


def test_only_managers_bring_old_orders(tracker: Any, world: Any) -> None:
    old = {"order_id": "1", "program": "shop", "occurred_at": "2011-01-01T00:00:00Z"}
    assert fields_of(tracker.api(world.advertiser, "/v1/conversions", old)) == ["occurred_at"]
    assert tracker.api(world.manager, "/v1/conversions", old).status_code == 202
    tracker.ship()
    row = tracker.rows(Conversion)[0]
    assert (row.channel, row.imported) == ("import", True)
    assert to_rfc3339(row.occurred_at) == "2011-01-01T00:00:00.000Z"


def test_a_batch_answers_row_by_row(tracker: Any, world: Any) -> None:
    known = tracker.api(world.advertiser, "/v1/conversions", {"order_id": "0"}).json()
    rows: list[Any] = [
        {"order_id": "0"},
        {"order_id": "1", "amount": "1.00", "currency": "EUR"},
        {"order_id": "1", "amount": "1.00", "currency": "EUR"},
        {"order_id": "1", "amount": "2.00", "currency": "EUR"},
        {"order_id": "2", "amount": "x", "currency": "EUR"},
        {"order_id": "3", "colour": "red"},
        {"order_id": "4", "program": "other"},
        7,
    ]
    for body in ({"conversions": rows}, rows):
        answer = tracker.api(world.advertiser, "/v1/conversions", body)
        assert answer.status_code == 202
        results = answer.json()["results"]
        assert [row["index"] for row in results] == list(range(8))
        first = "accepted" if body is not rows else "duplicate"
        assert [row["status"] for row in results] == [
            "duplicate",
            first,
            "duplicate",
            "conflict",
            *["invalid"] * 4,
        ]
        assert results[0]["receipt"] == known["receipt"]
        assert results[1]["receipt"] == results[2]["receipt"]
        assert results[1]["duplicate"] is (body is rows)
        assert results[3]["problem"]["code"] == "order_conflict"
        assert results[4]["problem"]["errors"][0]["field"] == "amount"
        assert results[5]["problem"]["errors"][0]["field"] == "colour"
        assert results[6]["problem"]["code"] == "not_found"
        assert results[7]["receipt"] is None
    assert tracker.ship().conversions == 2


def test_batches_have_a_limit(sqlite_engine: Any, world: Any, serve: Any) -> None:
    tracker = serve(sqlite_engine, batch_rows_max=2)
    rows = [{"order_id": str(number)} for number in range(3)]
    refused = tracker.api(world.advertiser, "/v1/conversions", rows)
    assert (refused.status_code, code_of(refused)) == (413, "too_many_rows")
    assert tracker.api(world.advertiser, "/v1/conversions", rows[:2]).status_code == 202
    assert tracker.api(world.advertiser, "/v1/conversions", []).json() == {"results": []}
    odd = tracker.api(world.advertiser, "/v1/conversions", {"conversions": [], "x": 1})
    assert fields_of(odd) == ["x"]


def test_an_order_too_large_for_a_record_is_refused(
    sqlite_engine: Any, world: Any, serve: Any
) -> None:
    tracker = serve(sqlite_engine, journal_record_bytes_max=4096)
    items = [{"sku": "s" * 100, "amount": "1.00"} for _ in range(60)]
    body = {"order_id": "1", "currency": "EUR", "items": items}
    refused = tracker.api(world.advertiser, "/v1/conversions", body)
    assert (refused.status_code, code_of(refused)) == (413, "order_too_large")
    assert not tracker.ship()


def test_without_journal_nothing_is_acknowledged(tracker: Any, world: Any) -> None:
    tracker.run(tracker.node.journal.close)
    answer = postback(tracker, token=world.token, order_id="1")
    assert (answer.status_code, code_of(answer)) == (503, "journal_unavailable")
    assert answer.headers["retry-after"] == "5"
    batch = tracker.api(world.advertiser, "/v1/conversions", [{"order_id": "1"}])
    assert batch.status_code == 503


def test_without_database_the_journal_alone_takes_orders_in(
    sqlite_engine: Engine, world: Any, serve: Any, dead_engine: Engine
) -> None:
    """Repeats collapse and the conflict is listed when the journal is shipped."""
    serve(sqlite_engine)
    away = serve(dead_engine)
    sent = {"token": world.token, "order_id": "1", "amount": "5.00", "currency": "EUR"}
    answers = [postback(away, **sent), postback(away, **sent)]
    conflict = postback(away, **{**sent, "amount": "6.00"})
    unknown = away.api(world.advertiser, "/v1/conversions/none/refunds", {"amount": "1.00"})
    assert [answer.status_code for answer in [*answers, conflict, unknown]] == [202] * 4
    assert [answer.json()["duplicate"] for answer in [*answers, conflict, unknown]] == [None] * 4
    assert answers[0].json() == answers[1].json()
    assert conflict.json()["receipt"] != answers[0].json()["receipt"]
    back = serve(sqlite_engine)
    shipped = back.ship()
    assert (shipped.conversions, shipped.refused) == (1, 2)
    assert [row.amount_minor for row in back.rows(Conversion)] == [500]
    refusals = back.rows(IntakeRefusal)
    assert [(row.program_id, row.order_id, row.code) for row in refusals] == [
        (world.shop_id, "1", "order_conflict"),
        (world.shop_id, "none", "order_unknown"),
    ]
    assert refusals[0].detail == "order '1' was reported before with another amount"
    assert refusals[0].payload["amount_minor"] == 600


def test_unshipped_orders_are_remembered_across_a_restart(
    sqlite_engine: Any, world: Any, serve: Any
) -> None:
    first = serve(sqlite_engine)
    sent = {"token": world.token, "order_id": "1", "amount": "5.00", "currency": "EUR"}
    accepted = postback(first, **sent).json()
    first.run(first.node.close)
    second = serve(sqlite_engine)
    assert second.node.directory == first.node.directory
    assert postback(second, **sent).json() == {**accepted, "duplicate": True}
    assert postback(second, **{**sent, "amount": "6.00"}).status_code == 409
    assert second.ship().conversions == 1
    second.run(second.node.refresh)
    assert second.node.claims.reports((world.shop_id, "1", "sale")) == []


def order_of(tracker: Any, world: Any, order_id: str = "1", **changes: Any) -> None:
    body = {"order_id": order_id, "amount": "10.00", "currency": "EUR", **changes}
    assert tracker.api(world.advertiser, "/v1/conversions", body).status_code == 202
    tracker.ship()


def refund(tracker: Any, world: Any, body: dict[str, Any], order_id: str = "1") -> Any:
    return tracker.api(world.advertiser, f"/v1/conversions/{order_id}/refunds", body)


def test_refunds_add_up_to_the_order_and_no_further(tracker: Any, world: Any) -> None:
    order_of(tracker, world)
    first = refund(tracker, world, {"amount": "4.00", "refund_id": "r1", "reason": "broken"})
    assert first.status_code == 202
    assert first.json()["duplicate"] is False
    again = refund(tracker, world, {"amount": "4.00", "refund_id": "r1", "reason": "broken"})
    assert again.json() == {**first.json(), "duplicate": True}
    other = refund(tracker, world, {"amount": "4.01", "refund_id": "r1", "reason": "broken"})
    assert (other.status_code, code_of(other)) == (409, "change_conflict")
    # Not shipped yet, and counted all the same.
    over = refund(tracker, world, {"amount": "6.01", "refund_id": "r2"})
    assert (over.status_code, code_of(over)) == (422, "refund_exceeds_order")
    assert over.json()["remaining"] == {"minor": 600, "currency": "EUR"}
    assert tracker.ship().changes == 1
    over = refund(tracker, world, {"amount": "6.01", "refund_id": "r2"})
    assert over.status_code == 422
    rest = refund(tracker, world, {"amount": {"minor": 600, "currency": "EUR"}, "refund_id": "r3"})
    assert rest.status_code == 202
    tracker.ship()
    again = refund(tracker, world, {"amount": "4.00", "refund_id": "r1", "reason": "broken"})
    assert again.json() == {**first.json(), "duplicate": True}
    rows = tracker.rows(ConversionChange)
    assert [(row.kind, row.amount_minor, row.reason) for row in rows] == [
        ("refund", 400, "broken"),
        ("refund", 600, ""),
    ]
    assert rows[0].id == first.json()["change_id"]
    kinds = [(row.kind, row.subject_id == rows[0].conversion_id) for row in tracker.rows(OutboxRow)]
    assert kinds == [
        ("conversion.recorded", True),
        ("conversion.changed", True),
        ("conversion.changed", True),
    ]
    receipt = tracker.node.tokens.read_receipt(first.json()["receipt"])
    assert receipt["change_id"] == rows[0].id
    assert receipt["content_hash"] == rows[0].content_hash


def test_refunds_of_lines(tracker: Any, world: Any) -> None:
    items = [{"sku": "a", "qty": 2, "amount": "6.00"}, {"sku": "b", "amount": "4.00"}]
    order_of(tracker, world, items=items)
    over = refund(tracker, world, {"amount": "4.01", "line": 1})
    assert over.json()["remaining"] == {"minor": 400, "currency": "EUR"}
    assert fields_of(refund(tracker, world, {"amount": "1.00", "line": 2})) == ["line"]
    assert fields_of(refund(tracker, world, {"amount": "1.00", "qty": 1})) == ["line"]
    assert refund(tracker, world, {"amount": "3.00", "line": 0, "qty": 1}).status_code == 202
    too_many = refund(tracker, world, {"amount": "1.00", "line": 0, "qty": 2})
    assert (too_many.status_code, too_many.json()["remaining_qty"]) == (422, 1)
    tracker.ship()
    rows = [(row.line, row.amount_minor, row.quantity) for row in tracker.rows(ConversionChange)]
    assert rows == [(0, 300, 1)]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "amount"),
        ({"amount": "0.00"}, "amount"),
        ({"amount": "1.001"}, "amount"),
        ({"amount": 1}, "amount"),
        ({"amount": "1.00", "currency": "USD"}, "currency"),
        ({"amount": {"minor": 1, "currency": "USD"}}, "currency"),
        ({"amount": "1.00", "line": -1}, "line"),
        ({"amount": "1.00", "qty": 0}, "qty"),
        ({"amount": "1.00", "why": "x"}, "why"),
        ({"amount": "1.00", "occurred_at": "x"}, "occurred_at"),
        ({"amount": "1.00", "event": "SALE"}, "event"),
        ({"amount": "1.00", "reason": "x" * 257}, "reason"),
    ],
)
def test_bad_refunds_name_the_field(
    tracker: Any, world: Any, body: dict[str, Any], field: str
) -> None:
    order_of(tracker, world)
    assert fields_of(refund(tracker, world, body)) == [field]
    assert not tracker.ship()


def test_decisions_about_an_order(tracker: Any, world: Any) -> None:
    order_of(tracker, world, order_id="x/y z")
    path = "/v1/conversions/x%2Fy%20z"
    for word in ("approve", "decline", "cancel"):
        answer = tracker.api(world.advertiser, f"{path}/{word}", {"reason": word})
        assert answer.status_code == 202, answer.text
        repeat = tracker.api(world.advertiser, f"{path}/{word}", {"reason": word})
        assert repeat.json() == {**answer.json(), "duplicate": True}
    tracker.ship()
    assert [row.kind for row in tracker.rows(ConversionChange)] == ["approve", "decline", "cancel"]
    foreign = tracker.api(world.twin_advertiser, f"{path}/cancel", {"program": "shop"})
    assert foreign.status_code == 404


def test_a_change_waits_for_its_order_but_not_for_ever(
    sqlite_engine: Any, world: Any, serve: Any
) -> None:
    tracker = serve(sqlite_engine, intake_wait_milliseconds=150)
    unknown = refund(tracker, world, {"amount": "1.00"}, order_id="none")
    assert (unknown.status_code, code_of(unknown)) == (404, "order_unknown")
    order_of(tracker, world)
    other_event = refund(tracker, world, {"amount": "1.00", "event": "lead"})
    assert other_event.status_code == 404

    async def refund_before_shipping() -> Any:
        node = tracker.node
        program = node.routing.table.find_program("shop")
        now = clock.now()
        order = Order(order_id="late", event="sale", currency="EUR", amount_minor=500)
        report = intake.report_of(node, program, order, channel="api", now=now)
        await intake.accept_order(node, report)
        waiting = asyncio.create_task(
            intake.accept_change(node, program, REFUND, "late", {"amount": "5.00"}, now=now)
        )
        await asyncio.sleep(0.05)
        assert not waiting.done()
        await asyncio.to_thread(tracker.ship)
        return await waiting

    assert tracker.run(refund_before_shipping).duplicate is False


@pytest.mark.usefixtures("world")
def test_a_change_of_an_order_that_is_long_on_its_way_is_not_answered_unknown(
    sqlite_engine: Any, serve: Any
) -> None:
    tracker = serve(sqlite_engine, intake_wait_milliseconds=50)

    async def refund_of_a_busy_day() -> Any:
        node = tracker.node
        program = node.routing.table.find_program("shop")
        now = clock.now()
        order = Order(order_id="late", event="sale", currency="EUR", amount_minor=500)
        report = intake.report_of(node, program, order, channel="api", now=now)
        await intake.accept_order(node, report)
        return await intake.accept_change(
            node, program, REFUND, "late", {"amount": "5.00"}, now=now
        )

    assert tracker.run(refund_of_a_busy_day).duplicate is None
    tracker.ship()
    assert [row.kind for row in tracker.rows(ConversionChange)] == ["refund"]


def test_past_clicks_get_the_same_id_again(tracker: Any, world: Any) -> None:
    row = {
        "program": "shop",
        "publisher": "stranger",
        "clicked_at": "2011-01-01T10:00:00.5Z",
        "ref": "old-1",
        "s1": "x",
        "landing_url": "https://shop.test/old",
    }
    rows = [
        row,
        row,
        {**row, "ref": "old-2"},
        {**row, "program": "none"},
        {**row, "clicked_at": "soon"},
        {**row, "s6": "x"},
        {"program": "shop"},
    ]
    answer = tracker.api(world.manager, "/v1/clicks", {"clicks": rows})
    assert answer.status_code == 202
    results = answer.json()["results"]
    assert [one["status"] for one in results] == ["accepted"] * 3 + ["invalid"] * 4
    assert results[0]["click_id"] == results[1]["click_id"] != results[2]["click_id"]
    assert [one["problem"] and one["problem"]["code"] for one in results[3:]] == [
        "not_found",
        "invalid_input",
        "invalid_input",
        "invalid_input",
    ]
    again = tracker.api(world.manager, "/v1/clicks", {"clicks": rows[:1]}).json()["results"]
    assert again[0]["click_id"] == results[0]["click_id"]
    shipped = tracker.ship()
    assert (shipped.clicks, shipped.repeated) == (2, 2)
    stored = {one.id: one for one in tracker.rows(Click)}[results[0]["click_id"]]
    assert stored.imported is True
    assert (stored.publisher_id, stored.landing_url) == (world.stranger_id, row["landing_url"])
    assert stored.sub_ids == {"s1": "x"}
    assert stored.parameters == {"ref": "old-1", "s1": "x"}
    assert (stored.agent_class, stored.visitor_key, stored.duplicates) == ("", "", 0)
    facts = tracker.node.signer.read(stored.id)
    assert facts.imported
    assert facts.at == stored.at
