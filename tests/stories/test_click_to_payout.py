"""A sale from the click to the bank, as its parties see it: over HTTP, against real processes."""

import base64
import csv
import io
import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from html import unescape
from itertools import count
from typing import Any

import httpx
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from kernel.clock import to_rfc3339
from kernel.money import format_amount
from tests.stories.house import BOT, BROWSER, Api, Console, House, eventually

pytestmark = pytest.mark.xdist_group("house")

PROGRAM = "nordlicht-eu"
PUBLISHER = "gadget-grid"
# 7 % of 19.99 is 1.3993, and 2.5 % of 250.50 is 6.2625.
ITEMS = (
    {"sku": "usb-1", "category": "cables", "qty": 1, "amount": "19.99"},
    {"sku": "phones-9", "category": "audio", "qty": 2, "amount": "250.50"},
)
COMMISSION_MINOR = 140 + 626
_addresses = count(1)


@pytest.fixture(scope="module")
def manager(house: House) -> Iterator[Api]:
    api = house.api(house.demo["manager"])
    yield api
    api.close()


@pytest.fixture(scope="module")
def advertiser(house: House) -> Iterator[Api]:
    api = house.api(house.advertiser(PROGRAM))
    yield api
    api.close()


@pytest.fixture(scope="module")
def publisher(house: House) -> Iterator[Api]:
    api = house.api(house.publisher(PUBLISHER))
    yield api
    api.close()


@pytest.fixture(scope="module")
def console(house: House) -> Iterator[Console]:
    person = house.console(house.demo["manager"])
    yield person
    person.close()


def order(house: House, order_id: str, *, agent: str = BROWSER) -> dict[str, Any]:
    """A click by a visitor of its own, and what the shop's server reports three minutes later."""
    click_id = house.click(PROGRAM, PUBLISHER, address=f"192.0.2.{next(_addresses)}", agent=agent)
    return {
        "token": house.advertiser(PROGRAM)["postback_token"],
        "click_id": click_id,
        "order_id": order_id,
        "amount": "270.49",
        "currency": "EUR",
        "country": "NL",
        "occurred_at": to_rfc3339(datetime.now(UTC) + timedelta(minutes=3)),
        "items": list(ITEMS),
    }


def report(house: House, fields: dict[str, Any]) -> dict[str, Any]:
    answer = house.postback(fields)
    assert answer.status_code == 202, answer.text
    body: dict[str, Any] = answer.json()
    return body


def test_a_sale_is_booked_exactly_and_explains_itself(
    house: House, manager: Api, publisher: Api
) -> None:
    sale = order(house, "story-exact")

    accepted = report(house, sale)

    row = publisher.booked("story-exact")
    assert (row["id"], row["click_id"]) == (accepted["conversion_id"], sale["click_id"])
    assert row["amount"] == {"minor": 27_049, "currency": "EUR"}
    assert row["commission"] == {"minor": COMMISSION_MINOR, "currency": "EUR"}
    assert (row["status"], row["reason"]) == ("pending", "")
    assert row["attribution"] == {"source": "click", "reason": "last_click"}
    explained = publisher.get(f"/v1/commissions/{row['id']}/explain")
    (booking,) = explained["bookings"]
    assert [
        (line["rule_id"], line["exact"], line["commission_minor"]) for line in booking["lines"]
    ] == [("cables", "13993/100", 140), ("eu", "2505/4", 626)]
    told = [
        one for one in explained["words"] if " does not match" not in one and " loses" not in one
    ]
    assert told[2:9] == [
        "The country is NL, by the delivery address.",
        "Line 1: rule cables pays it; it matches category.",
        "Line 1: 7 % of 19.99 EUR.",
        "Line 1: exactly 1.3993 EUR, rounded half up to 1.40 EUR.",
        "Line 2: rule eu pays it; it matches category, region.",
        "Line 2: 2.5 % of 250.50 EUR.",
        "Line 2: exactly 6.2625 EUR, rounded half up to 6.26 EUR.",
    ]
    assert manager.conversion("story-exact") == row
    other = house.api(house.publisher("teatime-blog"))
    assert other.conversions(order_id="story-exact") == []
    other.close()


def test_the_receipt_of_a_repeat_is_the_same_and_anyone_can_verify_it(house: House) -> None:
    sale = order(house, "story-receipt")
    first = report(house, sale)

    again = report(house, sale)

    assert (first["duplicate"], again["duplicate"]) == (False, True)
    assert {**again, "duplicate": False} == first
    keys = httpx.get(f"{house.base_url}/.well-known/jwks.json", trust_env=False).json()["keys"]
    claims = verified(first["receipt"], {key["kid"]: key for key in keys})
    assert claims["program"] == house.advertiser(PROGRAM)["program_id"]
    assert claims["conversion_id"] == first["conversion_id"]
    head, _, signature = first["receipt"].split(".")
    forged = base64.urlsafe_b64encode(json.dumps({**claims, "program": "x"}).encode()).decode()
    with pytest.raises(InvalidSignature):
        verified(f"{head}.{forged.rstrip('=')}.{signature}", {key["kid"]: key for key in keys})


def verified(receipt: str, keys: dict[str, dict[str, str]]) -> dict[str, Any]:
    """The claims of a compact JWS, by RFC 7515 and RFC 8037 alone."""
    head, payload, signature = receipt.split(".")
    header = json.loads(_bytes(head))
    key = keys[header["kid"]]
    assert (header["alg"], key["kty"], key["crv"]) == ("EdDSA", "OKP", "Ed25519")
    public = Ed25519PublicKey.from_public_bytes(_bytes(key["x"]))
    public.verify(_bytes(signature), f"{head}.{payload}".encode())
    claims: dict[str, Any] = json.loads(_bytes(payload))
    return claims


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def test_another_amount_for_the_same_order_is_refused_and_changes_nothing(
    house: House, manager: Api
) -> None:
    sale = order(house, "story-conflict")
    report(house, sale)
    before = manager.booked("story-conflict")

    answer = house.postback(
        {**sale, "amount": "300.49", "items": [ITEMS[0], {**ITEMS[1], "amount": "280.50"}]}
    )

    assert answer.status_code == 409
    assert answer.json()["code"] == "order_conflict"
    assert answer.json()["differs"] == ["amount", "items"]
    manager.idle()
    assert manager.conversion("story-conflict") == before
    assert report(house, sale)["duplicate"] is True


def test_refunds_take_the_exact_difference_and_a_cancellation_the_rest(
    house: House, manager: Api, advertiser: Api, publisher: Api
) -> None:
    report(house, order(house, "story-refund"))
    refund = {"amount": "100.00", "line": 1, "refund_id": "r-1", "reason": "came broken"}

    answers = [advertiser.post("/v1/conversions/story-refund/refunds", refund) for _ in range(2)]
    too_much = advertiser.post(
        "/v1/conversions/story-refund/refunds", {"amount": "170.50", "refund_id": "r-2"}
    )

    assert [answer.status_code for answer in answers] == [202, 202]
    assert [answer.json()["duplicate"] for answer in answers] == [False, True]
    assert (too_much.status_code, too_much.json()["code"]) == (422, "refund_exceeds_order")
    manager.idle()
    row = publisher.conversion("story-refund")
    # 2.5 % of the 150.50 that are left is 3.7625.
    assert row["commission"]["minor"] == 140 + 376
    assert (row["refunded"]["minor"], row["reason"]) == (10_000, "partly_refunded")

    assert advertiser.post("/v1/conversions/story-refund/cancel", {}).status_code == 202

    manager.idle()
    row = publisher.conversion("story-refund")
    assert (row["commission"]["minor"], row["status"]) == (0, "reversed")
    assert row["reason"] == "cancelled"
    bookings = publisher.get(f"/v1/commissions/{row['id']}/explain")["bookings"]
    assert [(one["kind"], one["delta_minor"], one["total_minor"]) for one in bookings] == [
        ("accrue", 766, 766),
        ("refund", -250, 516),
        ("cancel", -516, 0),
    ]


def flag_page(console: Console, order_id: str) -> str:
    """The address of the flag on an order, found as a manager finds it."""
    path = "/flags"
    while path:
        text = console.open(path)
        for page in dict.fromkeys(re.findall(r"/flags/flg_\w+", text)):
            if order_id in console.open(page):
                return str(page)
        more = re.search(r"/flags\?[^\"]*cursor=[^\"]+", text)
        path = unescape(str(more[0])) if more else ""
    raise AssertionError(f"no open flag on {order_id}")


def test_a_robots_sale_is_held_until_a_manager_decides(
    house: House, console: Console, publisher: Api, advertiser: Api
) -> None:
    for order_id in ("story-robot-1", "story-robot-2"):
        report(house, order(house, order_id, agent=BOT))
    held = [publisher.booked(order_id) for order_id in ("story-robot-1", "story-robot-2")]
    assert [(row["status"], row["reason"]) for row in held] == [("held", "fraud_suspected")] * 2
    first, second = (flag_page(console, f"story-robot-{number}") for number in (1, 2))

    unsigned = console.client.post(f"{first}/decision", data={"outcome": "cleared", "note": "x"})
    console.send(f"{first}/decision", on=first, outcome="cleared", note="a known link checker")
    console.send(f"{second}/decision", on=second, outcome="confirmed", note="nobody was there")

    assert unsigned.status_code == 403
    cleared = publisher.booked("story-robot-1", status="pending")
    assert (cleared["commission"]["minor"], cleared["reason"]) == (COMMISSION_MINOR, "")
    declined = publisher.booked("story-robot-2", status="declined")
    assert (declined["commission"]["minor"], declined["reason"]) == (0, "fraud_confirmed")
    assert advertiser.post("/v1/conversions/story-robot-1/approve", {}).status_code == 202
    publisher.booked("story-robot-1", status="approved")


BAD_POSTBACKS: list[tuple[str, dict[str, Any]]] = [
    ("order_id", {"order_id": ""}),
    ("order_id", {"order_id": "x" * 129}),
    ("amount", {"amount": "270.499", "items": []}),
    ("amount", {"amount": "-1", "items": []}),
    ("amount", {"amount": "1e3", "items": []}),
    ("amount", {"amount": "270.48"}),
    ("amount", {"amount": 270, "items": []}),
    ("currency", {"currency": "USD"}),
    ("currency", {"currency": ""}),
    ("country", {"country": "Holland"}),
    ("customer", {"customer": "old"}),
    ("status", {"status": "paid"}),
    ("event", {"event": "Sale!"}),
    ("occurred_at", {"occurred_at": "yesterday"}),
    ("occurred_at", {"occurred_at": "2001-01-01T00:00:00Z"}),
    ("occurred_at", {"occurred_at": "2999-01-01T00:00:00Z"}),
    ("click_id", {"click_id": "x" * 256}),
    ("items[0].amount", {"items": [{"sku": "a", "amount": "1.999"}]}),
    ("items[0].qty", {"items": [{"qty": -1, "amount": "270.49"}]}),
    ("orderid", {"orderid": "story-bad"}),
]


def counts(manager: Api) -> tuple[Any, ...]:
    manager.idle()
    return len(manager.conversions()), len(manager.get("/v1/refusals")["data"])


def test_a_bad_postback_names_its_field_and_changes_nothing(house: House, manager: Api) -> None:
    good = order(house, "story-bad")
    before = counts(manager)

    for name, change in BAD_POSTBACKS:
        answer = house.postback({**good, **change})
        assert answer.status_code == 400, (change, answer.text)
        named = [problem["field"] for problem in answer.json()["errors"]]
        assert name in named, (change, named)
    for token in ("", "pbt_00000000000000000000000000"):
        answer = house.postback({**good, "token": token})
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
    text = httpx.post(f"{house.base_url}/postback", content=b"{", trust_env=False)
    assert text.status_code == 400

    assert counts(manager) == before


def test_what_does_not_exist_or_is_not_yours_is_not_found(
    house: House, manager: Api, advertiser: Api
) -> None:
    sale = order(house, "story-foreign")
    sale.pop("token")
    before = counts(manager)

    foreign = advertiser.post("/v1/conversions", {**sale, "program": "hearth-uk"})
    unknown = advertiser.post("/v1/conversions/story-nothing/cancel", {})
    links = [
        httpx.get(f"{house.base_url}/c/{path}", trust_env=False)
        for path in ("nowhere/gadget-grid", f"{PROGRAM}/nobody")
    ]

    assert (foreign.status_code, foreign.json()["code"]) == (404, "not_found")
    assert unknown.status_code == 404
    assert [answer.status_code for answer in links] == [404, 404]
    assert counts(manager) == before


def import_past(manager: Api, *order_ids: str) -> None:
    """Sales of forty days ago, whose lock date has passed."""
    at = datetime.now(UTC) - timedelta(days=40)
    clicks = manager.post(
        "/v1/clicks",
        {
            "clicks": [
                {
                    "program": PROGRAM,
                    "publisher": PUBLISHER,
                    "clicked_at": to_rfc3339(at - timedelta(hours=1)),
                    "ref": order_id,
                }
                for order_id in order_ids
            ]
        },
    ).json()["results"]
    answer = manager.post(
        "/v1/conversions",
        {
            "conversions": [
                {
                    "program": PROGRAM,
                    "order_id": order_id,
                    "click_id": click["click_id"],
                    "amount": "270.49",
                    "currency": "EUR",
                    "country": "NL",
                    "occurred_at": to_rfc3339(at),
                    "items": list(ITEMS),
                }
                for order_id, click in zip(order_ids, clicks, strict=True)
            ]
        },
    )
    assert [row["status"] for row in answer.json()["results"]] == ["accepted"] * len(order_ids)


def all_swept(manager: Api) -> Callable[[], bool]:
    """Whether no commission is left whose lock date has passed."""

    def look() -> bool:
        now = to_rfc3339(datetime.now(UTC))
        waiting = [*manager.conversions(status="pending"), *manager.conversions(status="approved")]
        return all(row["lock_at"] > now for row in waiting)

    return look


def test_a_payout_pays_what_is_payable_once(
    house: House, manager: Api, console: Console, publisher: Api
) -> None:
    import_past(manager, "story-old-1", "story-old-2")
    for order_id in ("story-old-1", "story-old-2"):
        assert manager.booked(order_id, status="payable")["commission"]["minor"] == 766
    eventually(all_swept(manager), seconds=40)
    due: Counter[tuple[str, str]] = Counter()
    lines: Counter[tuple[str, str]] = Counter()
    for row in manager.conversions(status="payable"):
        key = (row["publisher"]["code"], row["commission"]["currency"])
        due[key] += row["commission"]["minor"]
        lines[key] += 1 if row["commission"]["minor"] else 0

    proposed = console.send("/payouts", on="/payouts", minimum_minor="0")
    run = proposed.headers["location"].partition("?")[0]
    early = console.client.post(f"{run}/settle", data={"reference": "X"})
    assert console.send(f"{run}/approve", on=run).status_code == 303
    exported = console.send(f"{run}/export", on=run)
    again = console.send(f"{run}/export", on=run)
    settled = console.send(f"{run}/settle", on=run, reference="SEPA-2026-77")
    twice = console.send(f"{run}/settle", on="/payouts", reference="SEPA-2026-78")

    assert early.status_code == 403
    assert exported.text == again.text
    found = list(csv.DictReader(io.StringIO(exported.text)))
    assert {
        (row["publisher_code"], row["currency"]): (row["amount"], int(row["lines"]))
        for row in found
    } == {
        key: (format_amount(minor, key[1]), lines[key]) for key, minor in due.items() if minor > 0
    }
    assert {row["reference"] for row in found} == {run.removeprefix("/payouts/")}
    assert (settled.status_code, twice.status_code) == (303, 409)
    assert [publisher.conversion(f"story-old-{number}")["status"] for number in (1, 2)] == [
        "paid",
        "paid",
    ]
    mine = [
        one for one in publisher.get("/v1/payouts")["data"] if one["reference"] == "SEPA-2026-77"
    ]
    assert {one["status"] for one in mine} == {"settled"}
    assert {one["amount"]["currency"]: one["amount"]["minor"] for one in mine} == {
        currency: minor
        for (code, currency), minor in due.items()
        if code == PUBLISHER and minor > 0
    }
    assert due[PUBLISHER, "EUR"] >= 2 * COMMISSION_MINOR

    manager.idle()
    audited = house.audit()
    assert audited.returncode == 0, audited.stdout
    assert len(audited.stdout.splitlines()) == 9
