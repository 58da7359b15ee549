"""How orders are reported, by the API: set, read, audited, and nobody else's business."""

from typing import Any

from sqlmodel import select

from kernel import clock
from kernel.audit import AuditEntry
from kernel.database import reading, unit_of_work
from network.models import Program
from tests.partner_api.world import Api, World
from tracker.models import Arrival, ConversionChange


def test_modes_and_words_are_set_and_audited(api: Api, world: World) -> None:
    side, path = world.advertisers[0], "/v1/programs/shop-1/reporting"
    nothing: dict[str, Any] = {"duplicates": {}, "status_words": {}, "other_currencies": []}
    assert api.get(side, path).json() == nothing
    wanted = {"duplicates": {"sale": "edit"}, "status_words": {"Lead": "pending"}}
    for _ in range(2):
        answer = api.http.put(path, json=wanted, headers=api.as_(side))
        assert answer.status_code == 200, answer.text
    kept = nothing | {"duplicates": {"sale": "edit"}, "status_words": {"lead": "pending"}}
    assert api.get(side, path).json() == kept
    with reading(api.context.engine) as session:
        told = [one.action for one in session.exec(select(AuditEntry))]
    assert told.count("program.reporting") == 1
    for bad in (
        {"duplicates": {"sale": "often"}},
        {"duplicates": {"Sale!": "edit"}},
        {"status_words": {"x": "sold"}},
        {"status_words": {" ": "pending"}},
        {"status_words": {str(one): "pending" for one in range(101)}},
        {"other_currencies": ["EUR"]},
        {"other_currencies": ["EURO"]},
    ):
        assert api.http.put(path, json=bad, headers=api.as_(side)).status_code == 400
    assert api.get(side, path).json() == kept


def test_other_currencies_stay_as_they_are_when_left_out(api: Api, world: World) -> None:
    side, path = world.advertisers[0], "/v1/programs/shop-1/reporting"
    api.http.put(path, json={"other_currencies": ["USD", "GBP", "USD"]}, headers=api.as_(side))
    assert api.get(side, path).json()["other_currencies"] == ["GBP", "USD"]
    api.http.put(path, json={"duplicates": {"sale": "add"}}, headers=api.as_(side))
    assert api.get(side, path).json()["other_currencies"] == ["GBP", "USD"]
    api.http.put(path, json={"other_currencies": []}, headers=api.as_(side))
    assert api.get(side, path).json()["other_currencies"] == []


def test_secrets_are_shown_once_and_end(api: Api, world: World) -> None:
    side, path = world.advertisers[0], "/v1/programs/shop-1/signing-secrets"
    made = api.http.post(path, headers=api.as_(side))
    assert made.status_code == 201, made.text
    assert made.json()["secret"].startswith("whsec_")
    [listed] = api.get(side, path).json()["data"]
    assert listed == made.json() | {"secret": None}
    end = f"{path}/{listed['id']}/retire"
    for _ in range(2):
        ended = api.http.post(end, headers=api.as_(side))
        assert ended.json()["retired_at"] is not None
    assert api.http.post(f"{path}/sgn_none/retire", headers=api.as_(side)).status_code == 404
    for _ in range(5):
        assert api.http.post(path, headers=api.as_(side)).status_code == 201
    many = api.http.post(path, headers=api.as_(side))
    assert (many.status_code, many.json()["code"]) == (422, "too_many_secrets")


def test_another_party_sees_and_changes_nothing(api: Api, world: World) -> None:
    twin = world.advertisers[1]
    paths = ("/v1/programs/shop-1/reporting", "/v1/programs/shop-1/signing-secrets")
    for path in paths:
        assert api.get(twin, path).status_code == 404
        assert api.get(world.publishers[0], path).status_code == 403
    put = api.http.put(paths[0], json={"duplicates": {"sale": "new"}}, headers=api.as_(twin))
    assert put.status_code == 404
    assert api.http.post(paths[1], headers=api.as_(twin)).status_code == 404
    with reading(api.context.engine) as session:
        assert {one.id: one.duplicate_modes for one in session.exec(select(Program))} == {
            one.id: {} for one in world.programs
        }


def test_arrivals_and_changes_of_an_order(api: Api, world: World) -> None:
    conversion_id, now = world.conversion_ids[0], clock.now()
    with unit_of_work(api.context.engine) as session:
        for count in (1, 2):
            session.add(
                Arrival(
                    conversion_id=conversion_id,
                    channel="pixel",
                    result="duplicate",
                    content_hash="x",
                    count=count,
                    at=now,
                    last_at=now,
                )
            )
        session.add(
            ConversionChange(
                id="chg_1",
                key="k",
                conversion_id=conversion_id,
                kind="refund",
                amount_minor=100,
                reason="too small",
                reason_code="returned",
                content_hash="x",
                occurred_at=now,
                received_at=now,
            )
        )
    arrivals, changes = (
        f"/v1/conversions/{conversion_id}/{one}" for one in ("arrivals", "changes")
    )
    [arrived] = api.get(world.advertisers[0], arrivals).json()["data"]
    assert (arrived["channel"], arrived["result"], arrived["count"]) == ("pixel", "duplicate", 3)
    for side in (world.advertisers[0], world.publishers[0], world.manager):
        [change] = api.get(side, changes).json()["data"]
        assert (change["kind"], change["reason_code"], change["reason"]) == (
            "refund",
            "returned",
            "too small",
        )
    assert api.get(world.publishers[0], arrivals).status_code == 403
    for path in (arrivals, changes):
        assert api.get(world.advertisers[1], path).status_code == 404
