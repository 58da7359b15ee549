"""Publisher groups by the API: made, filled, read at a time, and nobody else's business."""

from typing import Any

from sqlmodel import select

from kernel.audit import AuditEntry
from kernel.database import reading
from network.models import PublisherGroup
from tests.partner_api.world import Api, Side, World

PATH = "/v1/publisher-groups"


def put(api: Api, side: Side, path: str, body: dict[str, Any], key: str = "") -> Any:
    headers = api.as_(side) | ({"Idempotency-Key": key} if key else {})
    return api.http.put(f"{PATH}/{path}", json=body, headers=headers)


def test_a_group_is_made_filled_and_read_at_a_time(api: Api, world: World) -> None:
    side = world.manager
    made = put(api, side, "gold", {"name": "Gold"}, key="k1")
    assert made.status_code == 200, made.text
    assert (made.json()["code"], made.json()["program"]) == ("gold", None)
    assert put(api, side, "gold", {"name": "Gold"}, key="k1").json() == made.json()
    own = put(api, side, "own", {"name": "Own", "program": "shop-1"})
    assert own.json()["program"]["code"] == "shop-1"
    assert put(api, side, "own", {"name": "Own"}).status_code == 409

    since = "2026-01-01T00:00:00.000Z"
    body = {"publishers": ["site-1", world.publishers[1].id], "starts_at": since}
    filled = put(api, side, "gold/members", body)
    assert filled.status_code == 200, filled.text
    assert [one["code"] for one in filled.json()["publishers"]] == ["site-1", "site-2"]
    assert filled.json()["at"] == since
    put(api, side, "gold/members", {"publishers": ["site-2"]})
    now = api.get(side, f"{PATH}/gold/members").json()
    assert [one["code"] for one in now["publishers"]] == ["site-2"]
    then = api.get(side, f"{PATH}/gold/members", at=since).json()
    assert [one["code"] for one in then["publishers"]] == ["site-1", "site-2"]

    listed = api.get(side, PATH, limit=1).json()
    assert [one["code"] for one in listed["data"]] == ["gold"]
    rest = api.get(side, PATH, cursor=listed["next_cursor"]).json()
    assert ([one["code"] for one in rest["data"]], rest["next_cursor"]) == (["own"], None)
    changes = api.get(side, f"{PATH}/gold/changes", limit=2).json()
    assert [one["is_member"] for one in changes["data"]] == [True, True]
    more = api.get(side, f"{PATH}/gold/changes", cursor=changes["next_cursor"]).json()
    assert [(one["publisher"]["code"], one["is_member"]) for one in more["data"]] == [
        ("site-1", False)
    ]
    with reading(api.context.engine) as session:
        told = [one.action for one in session.exec(select(AuditEntry))]
    assert told.count("publisher_group.put") == 2
    assert told.count("publisher_group.members") == 2


def test_what_is_wrong_is_named_and_changes_nothing(api: Api, world: World) -> None:
    side = world.manager
    for path, body, status in (
        ("Gold!", {"name": "Gold"}, 404),
        ("GOLD", {"name": "Gold"}, 400),
        ("gold", {"name": ""}, 400),
        ("gold", {"name": "Gold", "program": "none"}, 404),
        ("gold/members", {"publishers": []}, 404),
    ):
        answer = put(api, side, path, body)
        assert answer.status_code == status, (path, answer.text)
    with reading(api.context.engine) as session:
        assert session.exec(select(PublisherGroup)).all() == []
    put(api, side, "gold", {"name": "Gold"})
    refused = put(api, side, "gold/members", {"publishers": ["site-1", "nobody"]})
    assert refused.status_code == 400
    assert refused.json()["errors"][0]["field"] == "publishers[1]"
    assert api.get(side, f"{PATH}/gold/members").json()["publishers"] == []
    assert api.get(side, f"{PATH}/none/members").status_code == 404


def test_groups_are_for_managers(api: Api, world: World) -> None:
    put(api, world.manager, "gold", {"name": "Gold"})
    for side in (*world.advertisers, *world.publishers):
        for path in (PATH, f"{PATH}/gold/members", f"{PATH}/gold/changes"):
            assert api.get(side, path).status_code == 403
        assert put(api, side, "gold", {"name": "Mine"}).status_code == 403
        assert put(api, side, "gold/members", {"publishers": []}).status_code == 403
