"""Further reports of an order: each mode, statuses, restatements, arrivals, in every order."""

import itertools
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import select

from kernel import clock
from kernel.database import reading, unit_of_work
from network import programs, reporting_terms
from tests import make
from tracker import arrivals, conversions, orders, recording
from tracker.events import MODE_REFUSE, Order, OrderReported
from tracker.models import Arrival, Conversion, ConversionChange, IntakeRefusal
from tracker.order_fields import STATUSES
from tracker.repeats import FURTHER

KEY = b"k" * 32


def set_mode(tracker: Any, mode: str, *, words: dict[str, str] | None = None) -> None:
    with unit_of_work(tracker.engine) as session:
        reporting_terms.set_reporting(
            session,
            programs.find(session, "shop"),
            duplicate_modes={"sale": mode},
            status_words=words or {},
            statuses=STATUSES,
            actor="t",
            now=clock.now(),
        )
    tracker.run(tracker.node.refresh)


def postback(tracker: Any, world: Any, **parameters: str) -> Any:
    sent = {"token": world.token, "order_id": "1", "currency": "EUR", **parameters}
    return tracker.http.get("/postback", params=sent)


def rows(tracker: Any) -> list[tuple[int, int, str]]:
    found = sorted(tracker.rows(Conversion), key=lambda row: row.number)
    return [(row.number, row.amount_minor, row.relation) for row in found]


def changes(tracker: Any) -> list[tuple[str, str, int]]:
    return [(row.kind, row.reason_code, row.amount_minor) for row in tracker.rows(ConversionChange)]


def ways(tracker: Any) -> list[tuple[str, str, int]]:
    tracker.run(tracker.node.write_arrivals)
    tracker.ship()
    found = tracker.rows(Arrival)
    return sorted((row.channel, row.result, row.count) for row in found)


@pytest.mark.parametrize("shipped", [False, True], ids=["journal", "database"])
def test_ignore_keeps_the_first(tracker: Any, world: Any, *, shipped: bool) -> None:
    set_mode(tracker, "ignore")
    first = postback(tracker, world, amount="5.00").json()
    if shipped:
        tracker.ship()
    second = postback(tracker, world, amount="6.00")
    assert (second.status_code, second.json()) == (202, {**first, "duplicate": True})
    tracker.ship()
    assert rows(tracker) == [(1, 500, "")]
    assert ways(tracker) == [("postback", "accepted", 1), ("postback", "ignored", 1)]
    assert tracker.rows(IntakeRefusal) == []


@pytest.mark.parametrize("shipped", [False, True], ids=["journal", "database"])
@pytest.mark.parametrize("mode", ["new", "add"])
def test_further_conversions_have_ids_and_receipts_of_their_own(
    tracker: Any, world: Any, mode: str, *, shipped: bool
) -> None:
    set_mode(tracker, mode)
    first = postback(tracker, world, amount="5.00").json()
    if shipped:
        tracker.ship()
    second = postback(tracker, world, amount="6.00").json()
    assert second["duplicate"] is False
    assert second["conversion_id"] != first["conversion_id"]
    assert second["receipt"] != first["receipt"]
    assert postback(tracker, world, amount="6.00").json() == {**second, "duplicate": True}
    tracker.ship()
    assert postback(tracker, world, amount="5.00").json() == {**first, "duplicate": True}
    assert rows(tracker) == [(1, 500, ""), (2, 600, mode)]
    # Which of them is meant has to be said.
    refund = {"amount": "1.00"}
    asked = tracker.api(world.advertiser, "/v1/conversions/1/refunds", refund)
    assert [one["field"] for one in asked.json()["errors"]] == ["number"]
    named = tracker.api(world.advertiser, "/v1/conversions/1/refunds", {**refund, "number": 2})
    assert named.status_code == 202, named.text
    tracker.ship()
    [change] = tracker.rows(ConversionChange)
    assert change.conversion_id == second["conversion_id"]


@pytest.mark.parametrize("shipped", [False, True], ids=["journal", "database"])
def test_edit_puts_the_later_report_in_the_place_of_the_earlier(
    tracker: Any, world: Any, *, shipped: bool
) -> None:
    set_mode(tracker, "edit")
    first = postback(tracker, world, amount="5.00").json()
    if shipped:
        tracker.ship()
    second = postback(tracker, world, amount="8.00").json()
    assert second["duplicate"] is False
    tracker.ship()
    assert rows(tracker) == [(1, 500, ""), (2, 800, "edit")]
    assert changes(tracker) == [("cancel", "restated", 0)]
    old, new = sorted(tracker.rows(Conversion), key=lambda row: row.number)
    assert (new.related_id, new.occurred_at) == (old.id, old.occurred_at)
    assert old.id == first["conversion_id"]
    # A change without a number is about what stands.
    refund = tracker.api(world.advertiser, "/v1/conversions/1/refunds", {"amount": "8.00"})
    assert refund.status_code == 202, refund.text
    tracker.ship()
    assert tracker.rows(ConversionChange)[-1].conversion_id == new.id


def test_restate_takes_the_place_and_back_again(tracker: Any, world: Any) -> None:
    path = "/v1/conversions/1/restate"
    body = {"amount": "7.00", "currency": "EUR"}
    unknown = tracker.api(world.advertiser, path, body)
    assert (unknown.status_code, unknown.json()["code"]) == (404, "order_unknown")
    first = postback(tracker, world, amount="5.00").json()
    second = tracker.api(world.advertiser, path, body)
    assert second.status_code == 202, second.text
    assert second.json()["conversion_id"] != first["conversion_id"]
    assert tracker.api(world.advertiser, path, body).json() == {
        **second.json(),
        "duplicate": True,
    }
    back = tracker.api(
        world.advertiser,
        path,
        {"amount": "5.00", "currency": "EUR", "restatement_id": "back", "order_id": "1"},
    )
    assert back.json()["duplicate"] is False
    other = tracker.api(world.advertiser, path, {**body, "order_id": "2"})
    assert [one["field"] for one in other.json()["errors"]] == ["order_id"]
    tracker.ship()
    assert rows(tracker) == [(1, 500, ""), (2, 700, "edit"), (3, 500, "edit")]
    ended = {row.conversion_id for row in tracker.rows(ConversionChange)}
    standing = [row.number for row in tracker.rows(Conversion) if row.id not in ended]
    assert standing == [3]


@pytest.mark.parametrize("shipped", [False, True], ids=["journal", "database"])
@pytest.mark.parametrize(
    ("status", "kind", "amount"),
    [
        ("approved", "approve", 0),
        ("declined", "decline", 0),
        ("cancelled", "cancel", 0),
        ("refunded", "refund", 500),
    ],
)
def test_another_status_is_a_change_and_no_conflict(
    tracker: Any, world: Any, status: str, kind: str, amount: int, *, shipped: bool
) -> None:
    first = postback(tracker, world, amount="5.00", status="pending").json()
    if shipped:
        tracker.ship()
    for answer in (
        postback(tracker, world, amount="5.00", status=status),
        postback(tracker, world, currency="", status=status),
    ):
        assert answer.status_code == 202, answer.text
        assert answer.json()["conversion_id"] == first["conversion_id"]
    tracker.ship()
    assert changes(tracker) == [(kind, "", amount)]
    assert rows(tracker) == [(1, 500, "")]
    again = postback(tracker, world, amount="5.00", status=status).json()
    assert again["duplicate"] is True
    assert tracker.rows(IntakeRefusal) == []
    # The plain change is the same one.
    if kind == "approve":
        same = tracker.api(world.advertiser, "/v1/conversions/1/approve", {})
        assert same.json()["duplicate"] is True


def test_an_order_taken_back_from_the_beginning(tracker: Any, world: Any) -> None:
    postback(tracker, world, amount="5.00", status="refunded")
    tracker.ship()
    assert rows(tracker) == [(1, 500, "")]
    assert changes(tracker) == [("refund", "", 500)]


def test_the_advertisers_own_words(tracker: Any, world: Any) -> None:
    set_mode(tracker, "refuse", words={"Lead": "pending", "1": "approved"})
    assert postback(tracker, world, status="LEAD").status_code == 202
    assert postback(tracker, world, order_id="2", status="1").status_code == 202
    refused = postback(tracker, world, order_id="3", status="5")
    [problem] = refused.json()["errors"]
    assert (problem["field"], problem["rule"]) == ("status", "choice")
    assert "lead" in problem["message"]
    tracker.ship()
    said = sorted((row.order_id, row.reported_status) for row in tracker.rows(Conversion))
    assert said == [("1", "pending"), ("2", "approved")]


def test_every_way_in_is_listed_once_counted(tracker: Any, world: Any) -> None:
    sent = {"amount": "5.00"}
    postback(tracker, world, **sent)
    pixel = {"token": world.token, "order_id": "1", "currency": "EUR", **sent}
    for _ in range(3):
        tracker.http.get("/pixel.gif", params=pixel)
    body = {"order_id": "1", "currency": "EUR", **sent}
    tracker.api(world.advertiser, "/v1/conversions", body)
    assert postback(tracker, world, amount="6.00").status_code == 409
    assert ways(tracker) == [
        ("api", "duplicate", 1),
        ("pixel", "duplicate", 3),
        ("postback", "accepted", 1),
        ("postback", "conflict", 1),
    ]
    # A flood within the pause costs no further record, and is not lost either.
    for _ in range(5):
        tracker.http.get("/pixel.gif", params=pixel)
    tracker.run(tracker.node.write_arrivals)
    assert not tracker.ship()
    [row] = tracker.rows(Conversion)
    tracker.run(tracker.node.close)
    tracker.ship()
    with reading(tracker.engine) as session:
        found = arrivals.of_conversion(session, row.id, limit=10)
    assert [(one.channel, one.count) for one in found if one.channel == "pixel"] == [("pixel", 8)]


def test_test_orders_say_so(tracker: Any, world: Any) -> None:
    assert postback(tracker, world, amount="5.00", test="1").status_code == 202
    tracker.ship()
    assert [row.is_test for row in tracker.rows(Conversion)] == [True]


def report(program_id: str, mode: str, amount: int, minute: int, status: str = "") -> OrderReported:
    order = Order(order_id="1", event="sale", currency="EUR", amount_minor=amount, status=status)
    hashed = orders.content_hash(program_id, order)
    return OrderReported(
        conversion_id=conversions.id_of(
            KEY,
            program_id=program_id,
            order_id="1",
            event="sale",
            content_hash=hashed if mode in FURTHER else "",
        ),
        program_id=program_id,
        content_hash=hashed,
        received_at=make.NOW + timedelta(minutes=minute),
        channel="postback",
        imported=False,
        order=order,
        mode=mode,
    )


def outcome(engine: Engine, batches: Sequence[Sequence[tuple[int, int]]], mode: str) -> Any:
    """What stands after the reports (amount, minute) were shipped in these batches."""
    with unit_of_work(engine) as session:
        program = make.program(session)
        for batch in batches:
            reports = [report(program.id, mode, amount, minute) for amount, minute in batch]
            recording.record(session, reports, now=make.NOW)
        found = session.exec(select(Conversion).where(Conversion.program_id == program.id)).all()
        ended = {
            one.conversion_id
            for one in session.exec(select(ConversionChange))
            if one.reason_code == "restated"
        }
        assert sorted(one.number for one in found) == list(range(1, len(found) + 1))
        return sorted((one.amount_minor, one.id in ended) for one in found)


@pytest.mark.parametrize("split", [False, True], ids=["one_journal", "several"])
@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("new", [(100, False), (200, False), (300, False)]),
        ("add", [(100, False), (200, False), (300, False)]),
        ("edit", [(100, True), (200, True), (300, False)]),
    ],
)
def test_the_order_of_shipping_does_not_matter(
    engine: Engine, mode: str, expected: Any, *, split: bool
) -> None:
    reports = [(100, 1), (200, 2), (300, 3), (200, 4)]
    for order in itertools.permutations(reports):
        # The second report of 200 is a repeat of the first, by which of them is shipped first.
        batches = [[one] for one in order] if split else [order]
        found = outcome(engine, batches, mode)
        if mode == "edit" and order.index((200, 4)) < order.index((200, 2)):
            assert [one for one in found if not one[1]] == [(200, False)]
        else:
            assert found == expected


def test_refuse_and_ignore_have_one_conversion_in_any_order(engine: Engine) -> None:
    for mode in (MODE_REFUSE, "ignore"):
        for order in itertools.permutations([(100, 1), (200, 2), (300, 3)]):
            found = outcome(engine, [[one] for one in order], mode)
            assert found == [(order[0][0], False)]
