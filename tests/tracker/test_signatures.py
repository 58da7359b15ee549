"""Signed reports: the signature that others make is taken, every other one is not."""

import base64
import time
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlmodel import select

from kernel import clock
from kernel.audit import AuditEntry
from kernel.database import reading, unit_of_work
from network import programs, reporting_terms
from tracker import signatures
from tracker.models import Conversion

# The published example of the Standard Webhooks libraries.
SECRET = "MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
EXAMPLE = {
    "webhook-id": "msg_p5jXN8AQM9LWM0D4loKWxJek",
    "webhook-timestamp": "1614265330",
    "webhook-signature": "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE=",
}
ORDER = b'{"order_id": "1", "amount": "5.00", "currency": "EUR"}'


def secret_of(tracker: Any, code: str) -> tuple[str, bytes]:
    with unit_of_work(tracker.engine) as session:
        row = reporting_terms.add_secret(
            session, programs.find(session, code), actor="t", now=clock.now()
        )
    return row.id, reporting_terms.signing_key(tracker.node.keys, row.id)


def send(
    tracker: Any,
    key: bytes,
    path: str,
    body: bytes,
    *,
    program: str = "shop",
    at: int | None = None,
    **changes: str,
) -> Any:
    stamp = str(at if at is not None else int(time.time()))
    headers = {
        "webhook-id": "msg_1",
        "webhook-timestamp": stamp,
        "webhook-signature": signatures.sign(key, message_id="msg_1", timestamp=stamp, body=body),
        "tallystick-program": program,
        "content-type": "application/json",
    }
    headers |= {name.replace("_", "-"): value for name, value in changes.items()}
    return tracker.http.post(path, content=body, headers=headers)


def test_the_published_example() -> None:
    key = base64.b64decode(SECRET)
    body = b'{"test": 2432232314}'
    assert signatures.is_signed(EXAMPLE, [key], body)
    assert signatures.is_signed(EXAMPLE, [b"x" * 32, key], body)
    assert not signatures.is_signed(EXAMPLE, [key], body + b" ")
    assert not signatures.is_signed(EXAMPLE, [], body)
    several = {**EXAMPLE, "webhook-signature": "v1a,xxx v1,AAAA " + EXAMPLE["webhook-signature"]}
    assert signatures.is_signed(several, [key], body)


@pytest.mark.usefixtures("world")
def test_a_signed_order_is_taken_in_once_by_every_door(tracker: Any) -> None:
    _, key = secret_of(tracker, "shop")
    first = send(tracker, key, "/v1/conversions", ORDER)
    assert first.status_code == 202, first.text
    again = send(tracker, key, "/v1/conversions", ORDER)
    assert again.json() == {**first.json(), "duplicate": True}
    assert send(tracker, key, "/postback", ORDER).json() == again.json()
    tracker.ship()
    refund = b'{"amount": "1.00"}'
    answer = send(tracker, key, "/v1/conversions/1/refunds", refund)
    assert answer.status_code == 202, answer.text
    assert len(tracker.rows(Conversion)) == 1


@pytest.mark.usefixtures("world")
def test_what_is_wrong_is_a_401_and_counted(tracker: Any) -> None:
    _, key = secret_of(tracker, "shop")
    _, other = secret_of(tracker, "other")

    def counted() -> float:
        return REGISTRY.get_sample_value("tallystick_wrong_signatures_total") or 0

    before = counted()
    now = int(time.time())
    wrong = [
        send(tracker, b"x" * 32, "/v1/conversions", ORDER),
        send(tracker, other, "/v1/conversions", ORDER),
        send(tracker, key, "/v1/conversions", ORDER, program="other"),
        send(tracker, key, "/v1/conversions", ORDER, program="nowhere"),
        send(tracker, key, "/v1/conversions", ORDER, at=now - 400),
        send(tracker, key, "/v1/conversions", ORDER, at=now + 400),
        send(tracker, key, "/v1/conversions", ORDER, webhook_timestamp="soon"),
        send(tracker, key, "/v1/conversions", ORDER, webhook_id="msg_2"),
        send(tracker, key, "/v1/conversions", ORDER, webhook_id=""),
        send(tracker, key, "/postback", ORDER, webhook_signature="v1,AAAA"),
    ]
    assert [answer.status_code for answer in wrong] == [401] * 10
    assert counted() == before + 10
    assert "AAAA" not in wrong[-1].text
    assert not tracker.ship()
    # A signature is for its own program, whatever else the advertiser has.
    named = b'{"order_id": "1", "program": "other"}'
    assert send(tracker, key, "/v1/conversions", named).status_code == 404


@pytest.mark.usefixtures("world")
def test_secrets_rotate_and_are_audited_without_themselves(tracker: Any) -> None:
    first_id, first = secret_of(tracker, "shop")
    _, second = secret_of(tracker, "shop")
    assert first != second
    assert send(tracker, first, "/v1/conversions", ORDER).status_code == 202
    assert send(tracker, second, "/v1/conversions", ORDER).status_code == 202
    with unit_of_work(tracker.engine) as session:
        program = programs.find(session, "shop")
        reporting_terms.retire_secret(session, program, first_id, actor="t", now=clock.now())
    tracker.run(tracker.node.refresh)
    assert send(tracker, first, "/v1/conversions", ORDER).status_code == 401
    assert send(tracker, second, "/v1/conversions", ORDER).status_code == 202
    with reading(tracker.engine) as session:
        told = session.exec(select(AuditEntry)).all()
    actions = [one.action for one in told if one.action.startswith("signing_secret")]
    assert actions == ["signing_secret.create"] * 2 + ["signing_secret.retire"]
    shown = signatures.secret_text(first)
    assert shown.startswith("whsec_")
    assert all(shown not in str(one.facts) for one in told)
