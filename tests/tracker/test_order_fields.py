"""What an order says beside its amount: every way in, every field, every limit, bad input."""

import logging
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.errors import InvalidInput
from tests.tracker.test_orders import EUR, fields_of
from tracker.models import Conversion
from tracker.orders import ALIASES, Terms, from_pairs, parse_order

HASH = "a" * 64
JSON = {
    "order_id": "1",
    "amount": "10.00",
    "currency": "EUR",
    "click_id": "last",
    "click_ids": ["first", "second", "last"],
    "customer_id": "c-7",
    "email_hash": HASH.upper(),
    "parent_order_id": "0",
    "publisher": "blog",
    "channel": "email",
    "cart_at": "2026-03-01T00:00:00Z",
    "test": True,
    "discount": "1.00",
    "tax": {"minor": 190, "currency": "EUR"},
    "shipping": "0",
    "custom": {"size": "XL", "empty": ""},
}
FORM = {
    **{name: value for name, value in JSON.items() if name != "custom"},
    "click_ids": "first, second|last",
    "test": "1",
    "tax": "1.90",
    "custom[size]": "XL",
}


def test_json_form_query_and_pixel_say_the_same(tracker: Any, world: Any) -> None:
    form = {**FORM, "token": world.token}
    first = tracker.api(world.advertiser, "/v1/conversions", JSON)
    assert first.status_code == 202, first.text
    for answer in (
        tracker.http.post("/postback", data=form),
        tracker.http.get("/postback", params=form),
    ):
        assert answer.json() == {**first.json(), "duplicate": True}
    assert "x-tallystick-error" not in tracker.http.get("/pixel.gif", params=form).headers
    tracker.ship()
    [row] = tracker.rows(Conversion)
    assert (row.amount_minor, row.discount_minor, row.tax_minor, row.shipping_minor) == (
        1000,
        100,
        190,
        0,
    )
    assert row.click_ids == ["first", "second"]
    assert (row.customer_id, row.email_hash, row.parent_order_id) == ("c-7", HASH, "0")
    assert (row.named_publisher, row.paid_channel, row.is_test) == ("blog", "email", True)
    assert row.custom == {"size": "XL"}
    assert row.cart_at is not None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"click_ids": 7}, "click_ids"),
        ({"click_ids": ["a", 1]}, "click_ids"),
        ({"click_ids": ["x" * 256]}, "click_ids"),
        ({"click_ids": [str(one) for one in range(51)]}, "click_ids"),
        ({"email_hash": "abc"}, "email_hash"),
        ({"cart_at": "tomorrow"}, "cart_at"),
        ({"cart_at": "2099-01-01T00:00:00Z"}, "cart_at"),
        ({"test": "maybe"}, "test"),
        ({"discount": "-1.00"}, "discount"),
        ({"tax": "1.999"}, "tax"),
        ({"shipping": 5}, "shipping"),
        ({"custom": "x"}, "custom"),
        ({"custom": {str(one): "x" for one in range(21)}}, "custom"),
        ({"custom": {"a": "x" * 257}}, "custom.a"),
        ({"custom": {"a": 1}}, "custom.a"),
        ({"custom": {"a b": "x"}}, "custom"),
        ({"publisher": "x" * 65}, "publisher"),
        ({"channel": "\n"}, "channel"),
        ({"customer_id": "x" * 129}, "customer_id"),
    ],
)
def test_every_wrong_field_is_named(change: dict[str, Any], field: str) -> None:
    good = {"order_id": "1", "amount": "1.00", "currency": "EUR"}
    assert fields_of({**good, **change}) == [field]


def test_a_currency_is_needed_with_any_amount() -> None:
    assert fields_of({"order_id": "1", "tax": "1.00"}) == ["currency"]


def test_a_plain_address_is_refused_and_said_nowhere(
    tracker: Any, world: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    sent = {"token": world.token, "order_id": "1", "email_hash": "ann@example.com"}
    refused = tracker.http.post("/postback", data=sent)
    [problem] = refused.json()["errors"]
    assert (problem["field"], problem["rule"]) == ("email_hash", "plain_email")
    assert "ann@" not in refused.text
    assert "ann@" not in "".join(
        record.getMessage() for record in caplog.records if record.name != "httpx"
    )
    assert not tracker.ship()


def test_other_networks_names_are_read_where_ours_are_absent() -> None:
    assert from_pairs([("clickid", "a"), ("oid", "1"), ("sum", "2.00"), ("cur", "EUR")]) == {
        "click_id": "a",
        "order_id": "1",
        "amount": "2.00",
        "currency": "EUR",
    }
    assert from_pairs([("cid", "a"), ("click_id", "b")]) == {"click_id": "b"}
    assert from_pairs([("cid", "a"), ("click_id", "")]) == {"click_id": "a"}
    assert from_pairs([("cid", "a"), ("awc", "a")]) == {"click_id": "a"}
    for pairs in ([("cid", "a"), ("awc", "b")], [("cid", "a"), ("cid", "b")]):
        with pytest.raises(InvalidInput) as refused:
            from_pairs(pairs)
        assert refused.value.problems[0].rule == "repeated"
    assert "payout" not in ALIASES


def test_statuses_by_the_program_s_words() -> None:
    terms = Terms(
        currency="EUR",
        days_back_max=30,
        items_max=3,
        now=EUR.now,
        status_words={"sale": "approved", "pending": "declined"},
    )
    said = {
        word: parse_order({"order_id": "1", "status": word}, terms).status
        for word in ("Sale", "pending", "refunded", "")
    }
    assert said == {"Sale": "approved", "pending": "declined", "refunded": "refunded", "": ""}
    assert fields_of({"order_id": "1", "status": "sold"}, terms) == ["status"]


ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from([name for name in JSON if name != "order_id"]), ANY)
def test_anything_in_a_field_is_read_or_refused(name: str, value: Any) -> None:
    with suppress(InvalidInput):
        assert parse_order({**JSON, name: value}, EUR).order_id == "1"


def test_amounts_of_attackers(tracker: Any, world: Any, shared_data: Path) -> None:
    folder = shared_data / "attacks" / "money"
    lines = [
        line
        for path in sorted(folder.glob("*.txt"))
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines()
        if line
    ]
    rows = [
        {"order_id": f"o{at}", "currency": "EUR", name: line}
        for at, line in enumerate(lines)
        for name in ("amount", "discount")
    ]
    answer = tracker.api(world.advertiser, "/v1/conversions", rows)
    assert answer.status_code == 202, answer.text
    for row, result in zip(rows, answer.json()["results"], strict=True):
        if result["status"] == "invalid":
            named = [one["field"] for one in result["problem"]["errors"]]
            assert named == ["amount" if "amount" in row else "discount"]
        else:
            text = str(row.get("amount", row.get("discount")))
            assert text.replace(".", "", 1).isascii()
            assert text.replace(".", "", 1).isdigit()
    assert any(one["status"] == "invalid" for one in answer.json()["results"])


def test_no_json_of_the_test_suite_is_a_500(tracker: Any, world: Any, shared_data: Path) -> None:
    folder = shared_data / "attacks" / "json" / "JSONTestSuite"
    files = sorted(folder.rglob("*.json"))
    assert len(files) > 300
    headers = {"content-type": "application/json", "authorization": f"Bearer {world.advertiser}"}
    for path in files:
        content = path.read_bytes()
        for url in ("/v1/conversions", "/v1/conversions/1/restate", "/v1/conversions/1/refunds"):
            answer = tracker.http.post(url, content=content, headers=headers)
            assert answer.status_code in {202, 400}, (path.name, url, answer.text)
        answer = tracker.http.post(
            f"/postback?token={world.token}",
            content=content,
            headers={"content-type": "application/json"},
        )
        assert answer.status_code == 400, (path.name, answer.text)
    tracker.ship()
    assert tracker.rows(Conversion) == []
