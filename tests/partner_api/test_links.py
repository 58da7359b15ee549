"""Links by the API: built in a batch, made short, listed, retired; and how they are followed."""

import re
from typing import Any

import pytest
from sqlalchemy import event
from sqlmodel import Session, col, select

from kernel.audit import AuditEntry
from kernel.database import reading, unit_of_work
from network import programs, publishers
from network.models import MembershipStatus, RoutingVersion
from tests.partner_api.world import Api, Side, World
from tracker import deep_links
from tracker.deep_links import DeepLinkSigner
from tracker.models import Link

PAGE = "https://shop1.example/p/1?a=1#f"


def post(api: Api, side: Side, path: str, body: Any, **headers: str) -> Any:
    return api.http.post(path, json=body, headers=api.as_(side) | headers)


def patch(api: Api, side: Side, path: str, body: Any) -> Any:
    return api.http.patch(path, json=body, headers=api.as_(side))


def rows(api: Api) -> list[Link]:
    with Session(api.context.engine) as session:
        return list(session.exec(select(Link).order_by(col(Link.change))))


def test_one_short_link(api_on_both: Api, world_on_both: World) -> None:
    api, world = api_on_both, world_on_both
    body = {"program": "shop-1", "url": PAGE, "s1": "news", "name": "Spring", "code": "spring-1"}
    answer = post(api, world.publishers[0], "/v1/links", body)
    assert answer.status_code == 201, answer.text
    view = answer.json()
    base = "http://127.0.0.1:8000"
    assert view | {"id": "", "created_at": ""} == {
        "id": "",
        "code": "spring-1",
        "program": {"id": world.programs[0].id, "code": "shop-1"},
        "publisher": {"id": world.publishers[0].id, "code": "site-1"},
        "url": PAGE,
        "sub_ids": {"s1": "news"},
        "name": "Spring",
        "status": "active",
        "short_url": f"{base}/l/spring-1",
        "qr_svg": f"{base}/l/spring-1.svg",
        "qr_png": f"{base}/l/spring-1.png",
        "link": f"{base}/c/shop-1/site-1?url=https%3A%2F%2Fshop1.example%2Fp%2F1%3Fa%3D1%23f"
        "&s1=news",
        "created_at": "",
    }
    assert api.get(world.publishers[0], f"/v1/links/{view['id']}").json() == view
    assert api.rows(world.manager, "/v1/links") == [view]
    with reading(api.context.engine) as session:
        assert session.exec(select(RoutingVersion.links)).one() == 1
        audited = session.exec(select(AuditEntry).where(AuditEntry.subject_id == view["id"])).one()
    assert (audited.action, audited.facts["code"]) == ("link.create", "spring-1")


def test_a_batch_has_a_result_for_each_row(api_on_both: Api, world_on_both: World) -> None:
    api, world = api_on_both, world_on_both
    post(api, world.publishers[1], "/v1/links", {"program": "shop-2", "code": "taken"})
    good = {"program": "shop-1"}
    answer = post(
        api,
        world.publishers[0],
        "/v1/links",
        {
            "links": [
                good,
                good | {"url": "https://evil.example/"},
                good | {"url": "javascript:alert(1)"},
                good | {"code": "taken"},
                good | {"code": "twice"},
                good | {"code": "twice"},
                good | {"code": "api"},
                {"program": "shop-2"},
                {"program": "nobody"},
                good | {"publisher": "site-2"},
                good | {"colour": "red"},
                "text",
                good | {"s1": 5},
                good | {"url": "https://shop1.example/" + "a" * 2100},
            ]
        },
    )
    assert answer.status_code == 201
    results = answer.json()["results"]
    assert [row["index"] for row in results] == list(range(14))
    assert [row["status"] for row in results] == [
        *("created", "invalid", "invalid", "conflict", "created", "conflict"),
        *["invalid"] * 8,
    ]
    codes = [row["problem"]["code"] if row["problem"] else None for row in results]
    assert codes[3] == codes[5] == "link_code_taken"
    assert codes[7] == codes[8] == codes[9] == "not_found"
    named = [row["problem"]["errors"][0] for row in results if (row["problem"] or {}).get("errors")]
    assert [(one["field"], one["rule"]) for one in named] == [
        ("url", "foreign"),
        ("url", "url"),
        ("code", "reserved"),
        ("colour", "unknown"),
        ("body", "type"),
        ("s1", "type"),
        ("url", "length"),
    ]
    assert [link.change for link in rows(api)] == [1, 2, 3]
    assert re.fullmatch(r"[2-9A-HJ-NP-Za-kmnp-z]{8}", results[0]["link"]["code"])


def test_a_repeat_with_a_key_makes_nothing_twice(api: Api, world: World) -> None:
    body = [{"program": "shop-1"}, {"program": "shop-1", "s1": "b"}]
    key = {"Idempotency-Key": "once"}
    first = post(api, world.publishers[0], "/v1/links", body, **key)
    again = post(api, world.publishers[0], "/v1/links", body, **key)
    assert first.status_code == again.status_code == 201
    assert again.headers["idempotency-replayed"] == "true"
    assert first.json() == again.json()
    assert len(rows(api)) == 2


def test_limits(api: Api, world: World) -> None:
    small = api.context.settings.model_copy(update={"link_rows_max": 2, "publisher_links_max": 3})
    object.__setattr__(api.context, "settings", small)
    row = {"program": "shop-1"}
    for path in ("/v1/links", "/v1/links/generate"):
        answer = post(api, world.publishers[0], path, [row] * 3)
        assert (answer.status_code, answer.json()["code"]) == (413, "too_many_rows")
    assert rows(api) == []
    post(api, world.publishers[0], "/v1/links", [row] * 2)
    results = post(api, world.publishers[0], "/v1/links", [row] * 2).json()["results"]
    assert [one["status"] for one in results] == ["created", "invalid"]
    assert results[1]["problem"]["code"] == "too_many_links"
    assert post(api, world.publishers[1], "/v1/links", {"program": "shop-2"}).status_code == 201
    [first, *_] = rows(api)
    post(api, world.publishers[0], f"/v1/links/{first.id}/retire", None)
    assert post(api, world.publishers[0], "/v1/links", row).status_code == 201


@pytest.mark.parametrize(
    "body", [None, [], {}, "x", 5, {"links": 5}, {"links": [], "more": 1}, [[]], {"links": [None]}]
)
def test_bodies_of_any_shape_are_answered(api: Api, world: World, body: Any) -> None:
    for path in ("/v1/links", "/v1/links/generate"):
        answer = post(api, world.publishers[0], path, body)
        assert answer.status_code in {200, 201, 400}, answer.text
    assert rows(api) == []


def test_only_members_have_links(api: Api, world: World) -> None:
    with unit_of_work(api.context.engine) as session:
        publishers.set_membership(
            session,
            program=programs.find(session, "shop-1"),
            publisher=publishers.get(session, world.publishers[0].id),
            status=MembershipStatus.SUSPENDED,
            actor="t",
            now=world.ordered_at,
        )
    for path in ("/v1/links", "/v1/links/generate"):
        answer = post(api, world.publishers[0], path, {"program": "shop-1"})
        assert (answer.status_code, answer.json()["code"]) == (422, "not_joined")
    managers = post(api, world.manager, "/v1/links", {"program": "shop-1", "publisher": "site-2"})
    assert (managers.status_code, managers.json()["code"]) == (422, "not_joined")
    nameless = post(api, world.manager, "/v1/links", {"program": "shop-2"})
    assert nameless.json()["errors"][0]["field"] == "publisher"
    named = post(api, world.manager, "/v1/links", {"program": "shop-2", "publisher": "site-2"})
    assert named.status_code == 201
    advertiser = post(api, world.advertisers[0], "/v1/links", {"program": "shop-1"})
    assert advertiser.status_code == 403


def test_lists_have_filters_and_pages(api: Api, world: World) -> None:
    post(api, world.publishers[0], "/v1/links", [{"program": "shop-1"}] * 5)
    post(api, world.publishers[1], "/v1/links", [{"program": "shop-2"}] * 2)
    retired = rows(api)[0]
    answer = post(api, world.manager, f"/v1/links/{retired.id}/retire", None)
    assert (answer.status_code, answer.json()["status"]) == (200, "retired")
    assert post(api, world.manager, f"/v1/links/{retired.id}/retire", None).json() == answer.json()
    assert max(link.change for link in rows(api)) == 8, "a repeat is no change"

    assert len(api.rows(world.manager, "/v1/links", limit=2)) == 7
    assert len(api.rows(world.publishers[0], "/v1/links", limit=2)) == 5
    assert len(api.rows(world.manager, "/v1/links", program="shop-2")) == 2
    assert len(api.rows(world.manager, "/v1/links", publisher="site-1", status="active")) == 4
    assert [row["id"] for row in api.rows(world.manager, "/v1/links", status="retired")] == [
        retired.id
    ]
    assert post(api, world.publishers[1], f"/v1/links/{retired.id}/retire", None).status_code == 404
    assert api.get(world.advertisers[0], "/v1/links").status_code == 403


def test_links_are_built_and_not_kept(api: Api, world: World) -> None:
    answer = post(
        api,
        world.publishers[0],
        "/v1/links/generate",
        {"program": "shop-1", "url": PAGE, "s2": "ä"},
    )
    assert answer.json() == {
        "program": "shop-1",
        "publisher": "site-1",
        "link": "http://127.0.0.1:8000/c/shop-1/site-1"
        "?url=https%3A%2F%2Fshop1.example%2Fp%2F1%3Fa%3D1%23f&s2=%C3%A4",
        "signed": False,
    }
    batch = post(
        api,
        world.publishers[0],
        "/v1/links/generate",
        {"links": [{"program": "shop-1"}, {"program": "shop-1", "code": "no"}]},
    ).json()["results"]
    assert batch[0]["link"]["link"] == "http://127.0.0.1:8000/c/shop-1/site-1"
    assert batch[1]["problem"]["errors"][0]["field"] == "code"
    assert rows(api) == []


def test_links_are_signed_where_the_program_says(api: Api, world: World) -> None:
    path = f"/v1/programs/{world.programs[0].code}/tracking"
    answer = patch(api, world.advertisers[0], path, {"requires_signed_links": True})
    assert answer.json()["requires_signed_links"] is True
    signer = DeepLinkSigner(api.context.keys)
    body = {"program": "shop-1", "url": PAGE}
    built = post(api, world.publishers[0], "/v1/links/generate", body).json()
    expected = deep_links.build(
        "http://127.0.0.1:8000", program="shop-1", publisher="site-1", page=PAGE, signer=signer
    )
    assert (built["link"], built["signed"]) == (expected, True)
    assert post(api, world.publishers[0], "/v1/links", body).json()["link"] == expected
    bare = post(api, world.publishers[0], "/v1/links/generate", {"program": "shop-1"}).json()
    assert bare["signed"] is False
    assert "sig=" not in bare["link"]


def test_tracking_of_a_program(api_on_both: Api, world_on_both: World) -> None:
    api, world = api_on_both, world_on_both
    path = f"/v1/programs/{world.programs[0].id}/tracking"
    before = api.get(world.publishers[0], path).json()
    assert before == {
        "program_id": world.programs[0].id,
        "status": "active",
        "landing_url": "https://shop1.example/",
        "allowed_domains": ["shop1.example"],
        "fallback_url": "",
        "click_parameter": "ts_click",
        "requires_signed_links": False,
    }
    changes = {"fallback_url": "https://shop1.example/gone", "click_parameter": "cid"}
    with reading(api.context.engine) as session:
        version = session.exec(select(RoutingVersion.version)).one()
    assert patch(api, world.advertisers[0], path, changes).json() == before | changes
    assert patch(api, world.manager, path, changes).json() == before | changes
    with reading(api.context.engine) as session:
        assert session.exec(select(RoutingVersion.version)).one() == version + 1
        [entry] = session.exec(
            select(AuditEntry).where(AuditEntry.action == "program.tracking")
        ).all()
    assert entry.facts == {
        "before": {"fallback_url": "", "click_parameter": "ts_click"},
        "after": changes,
    }
    for side in (world.publishers[0], world.advertisers[1]):
        assert patch(api, side, path, changes).status_code in {403, 404}


@pytest.mark.parametrize(
    ("changes", "field"),
    [
        ({"fallback_url": "javascript:alert(1)"}, "fallback_url"),
        ({"fallback_url": "https://user@shop1.example/"}, "fallback_url"),
        ({"fallback_url": "https://a..\u00fc/"}, "fallback_url"),
        ({"fallback_url": "//shop1.example"}, "fallback_url"),
        ({"fallback_url": "https://x.example/\r\nA: b"}, "fallback_url"),
        ({"fallback_url": "https://x.example/" + "a" * 2048}, "fallback_url"),
        ({"click_parameter": ""}, "click_parameter"),
        ({"click_parameter": "a b"}, "click_parameter"),
        ({"click_parameter": "a&b"}, "click_parameter"),
        ({"click_parameter": "x" * 33}, "click_parameter"),
        ({"requires_signed_links": "yes"}, "requires_signed_links"),
        ({"landing_url": "javascript:alert(1)"}, "landing_url"),
        ({"landing_url": ""}, "landing_url"),
        ({"landing_url": "https://x.example", "click_parameter": ""}, "click_parameter"),
        ({"status": "paused", "fallback_url": "//x.example"}, "fallback_url"),
        ({"status": "gone"}, "status"),
        ({"currency": "EUR"}, "currency"),
    ],
)
def test_wrong_tracking_is_named(
    api: Api, world: World, changes: dict[str, Any], field: str
) -> None:
    path = f"/v1/programs/{world.programs[0].id}/tracking"
    before = api.get(world.manager, path).json()
    answer = patch(api, world.manager, path, changes)
    assert answer.status_code == 400
    assert [problem["field"] for problem in answer.json()["errors"]] == [field]
    assert api.get(world.manager, path).json() == before


def test_a_program_is_paused_and_its_landing_page_moved_by_its_advertiser(
    api: Api, world: World
) -> None:
    path = f"/v1/programs/{world.programs[0].code}/tracking"
    changes = {"status": "paused", "landing_url": "https://new.example/?id={click_id}"}
    changed = patch(api, world.advertisers[0], path, changes).json()
    assert changed == api.get(world.publishers[0], path).json()
    assert (changed["status"], changed["landing_url"]) == ("paused", changes["landing_url"])
    assert changed["allowed_domains"] == ["new.example", "shop1.example"]
    resumed = patch(api, world.manager, path, {"status": "active"}).json()
    assert resumed == changed | {"status": "active"}
    for side in (world.publishers[0], world.advertisers[1]):
        assert patch(api, side, path, changes).status_code in {403, 404}
    assert api.get(world.manager, path).json() == resumed
    with reading(api.context.engine) as session:
        actions = session.exec(select(AuditEntry.action).order_by(col(AuditEntry.seq))).all()
    assert actions[-3:] == ["program.status", "program.landing", "program.status"]


def test_a_member_is_suspended_and_approved(api: Api, world: World) -> None:
    program, (own, stranger) = world.programs[0], world.publishers[:2]
    path = f"/v1/programs/{program.code}/members/{own.code}"

    def put(side: Side, path: str, status: str) -> Any:
        return api.http.put(path, json={"status": status}, headers=api.as_(side))

    suspended = {"program_id": program.id, "publisher_id": own.id, "status": "suspended"}
    assert put(world.advertisers[0], path, "suspended").json() == suspended
    assert put(world.advertisers[0], path, "suspended").json() == suspended
    assert put(world.advertisers[0], path, "friend").status_code == 400
    refused = post(api, own, "/v1/links/generate", {"program": "shop-1"})
    assert refused.status_code != 200
    assert put(world.manager, path, "approved").json()["status"] == "approved"
    assert post(api, own, "/v1/links/generate", {"program": "shop-1"}).status_code == 200
    assert put(own, path, "approved").status_code == 403
    assert put(world.advertisers[1], path, "suspended").status_code == 404
    theirs = f"/v1/programs/{program.code}/members/{stranger.code}"
    assert put(world.advertisers[0], theirs, "approved").status_code == 404
    assert put(world.manager, theirs, "approved").json()["publisher_id"] == stranger.id


def test_tracking_of_a_publisher(api: Api, world: World) -> None:
    own = f"/v1/publishers/{world.publishers[0].id}/tracking"
    page = {"fallback_url": "https://blog.example/gone"}
    assert patch(api, world.publishers[0], own, page).json()["fallback_url"] == page["fallback_url"]
    assert api.get(world.manager, own).json() == {"publisher_id": world.publishers[0].id, **page}
    assert patch(api, world.publishers[0], own, {}).json()["fallback_url"] == page["fallback_url"]
    assert patch(api, world.publishers[1], own, page).status_code == 404
    assert patch(api, world.advertisers[0], own, page).status_code == 403
    assert patch(api, world.publishers[0], own, {"fallback_url": ""}).json()["fallback_url"] == ""
    refused = patch(api, world.publishers[0], own, {"fallback_url": "ftp://x.example"})
    assert refused.json()["errors"][0]["field"] == "fallback_url"


def test_a_full_batch_asks_once_whose_links_they_are(api: Api, world: World) -> None:
    asked: list[str] = []

    def note(_c: Any, _cursor: Any, statement: str, *_more: Any) -> None:
        asked.append(statement)

    event.listen(api.context.engine, "before_cursor_execute", note)
    answer = post(
        api, world.publishers[0], "/v1/links", [{"program": "shop-1", "url": PAGE}] * 1000
    )
    event.remove(api.context.engine, "before_cursor_execute", note)
    assert {row["status"] for row in answer.json()["results"]} == {"created"}
    assert len(rows(api)) == 1000
    looks = [statement for statement in asked if statement.startswith("SELECT")]
    assert len(looks) < 20, "the writer of SQLite is held for all of it"
