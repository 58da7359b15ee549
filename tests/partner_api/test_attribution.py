"""Rules of attribution, coupons and single decisions: what each party may read and write."""

from datetime import timedelta
from typing import Any

from sqlmodel import Session, select

from kernel import clock
from kernel.clock import to_rfc3339
from kernel.outbox import OutboxRow
from tests.partner_api.world import Api, Side, World
from tracker import attribution_words
from tracker.models import Attribution, AttributionTerms, Conversion, Coupon

NOW = clock.now()


def chinese(code: str) -> str:
    return attribution_words.sentence(code, "zh-Hans")


def post(api: Api, side: Side, path: str, body: Any) -> Any:
    return api.http.post(path, json=body, headers=api.as_(side))


def count(api: Api, model: Any) -> int:
    with Session(api.context.engine) as session:
        return len(session.exec(select(model)).all())


def test_terms_are_published_listed_and_read(api_on_both: Api, world_on_both: World) -> None:
    api, world = api_on_both, world_on_both
    path = "/v1/programs/shop-1/attribution"
    empty = api.get(world.manager, path).json()
    assert (empty["version"], empty["document"], empty["id"]) == (0, {}, None)
    past = to_rfc3339(NOW - timedelta(days=9))
    document = {"model": "linear", "stand_down_seconds": 30}
    first = post(api, world.manager, path, {"document": document, "effective_from": past})
    second = post(api, world.advertisers[0], path, {"document": {"model": "first_click"}})
    assert (first.status_code, second.status_code) == (201, 201)
    assert first.json()["document"] == document
    rows = api.rows(world.advertisers[0], f"{path}/versions", limit=1)
    assert [row["version"] for row in rows] == [2, 1]
    assert api.get(world.manager, path, at=past).json()["version"] == 1
    assert api.get(world.manager, path).json()["version"] == 2


def test_terms_that_break_a_rule_are_refused_by_name(api: Api, world: World) -> None:
    path = "/v1/programs/shop-1/attribution"
    document = {
        "model": "split",
        "params": {"initiator_percent": "50", "half_life_days": 3},
        "window_hours": 0,
        "in_cart_seconds": 3541,
        "sources": ["click", "stars"],
        "preferred": [{"publisher": world.publishers[1].id}],
        "rules": [
            {"id": "a", "when": {"publisher": ["x"]}, "model": "linear"},
            {"id": "a", "when": {"colour": ["red"]}, "window_hours": 5},
            {"id": "b", "when": {"publisher_group": ["none"]}, "window_hours": 5},
        ],
    }
    refused = post(api, world.manager, path, {"document": document})
    assert refused.status_code == 400
    assert [(one["field"], one["rule"]) for one in refused.json()["errors"]] == [
        ("sources", "choice"),
        ("params.half_life_days", "unknown"),
        ("params.converter_percent", "sum"),
        ("window_hours", "range"),
        ("in_cart_seconds", "range"),
        ("rules[0].when", "publisher"),
        ("rules[1].id", "repeated"),
        ("rules[1].when.colour", "unknown"),
        ("rules[2].when.publisher_group", "group"),
        ("rules[2].when.publisher", "empty"),
    ]
    foreign = post(
        api,
        world.manager,
        path,
        {"document": {"preferred": [{"publisher": world.publishers[1].id}]}},
    )
    assert [(one["field"], one["rule"]) for one in foreign.json()["errors"]] == [
        ("preferred[0]", "publisher")
    ]
    late = {"document": {}, "effective_from": to_rfc3339(NOW - timedelta(days=1))}
    assert post(api, world.advertisers[0], path, late).json()["errors"][0]["rule"] == "past"
    assert count(api, AttributionTerms) == 0


def test_coupons_are_added_listed_and_ended(api_on_both: Api, world_on_both: World) -> None:
    api, world = api_on_both, world_on_both
    path = "/v1/programs/shop-1/coupons"
    rows = [
        {"code": "ANNA10", "publisher": "site-1"},
        {"code": "LEAK", "operator": "STARTS_WITH", "effect": "suppressed"},
    ]
    added = post(api, world.advertisers[0], path, {"coupons": rows})
    assert added.status_code == 201
    assert [(one["code"], one["effect"]) for one in added.json()["data"]] == [
        ("ANNA10", "owner"),
        ("LEAK", "suppressed"),
    ]
    again = post(api, world.manager, path, {"coupons": rows[:1]})
    assert (again.status_code, again.json()["code"]) == (409, "coupon_taken")
    first = added.json()["data"][0]
    ended = post(api, world.manager, f"{path}/end", {"ids": [first["id"]]})
    assert ended.json()["data"][0]["ends_at"] is not None
    listed = api.rows(world.manager, path, limit=1)
    assert [one["code"] for one in listed] == ["ANNA10", "LEAK"]
    assert [one["code"] for one in api.rows(world.manager, path, publisher="site-1")] == ["ANNA10"]
    assert [one["code"] for one in api.rows(world.manager, path, code="leak")] == ["LEAK"]
    unknown = post(api, world.manager, f"{path}/end", {"ids": ["cpn_x"]})
    assert unknown.status_code == 404


def test_a_foreign_publisher_owns_no_coupon(api: Api, world: World) -> None:
    body = {"coupons": [{"code": "A", "publisher": "site-2"}]}
    answer = post(api, world.advertisers[0], "/v1/programs/shop-1/coupons", body)
    assert answer.json()["errors"][0]["rule"] == "unknown"
    many = {"coupons": [{"code": "A"}] * 1001}
    assert post(api, world.manager, "/v1/programs/shop-1/coupons", many).status_code == 413
    assert count(api, Coupon) == 0


def test_another_party_reads_and_writes_nothing(api: Api, world: World) -> None:
    for side in (world.advertisers[1], world.publishers[0]):
        expected = 404 if side in world.advertisers else 403
        for path, body in (
            ("/v1/programs/shop-1/attribution", {"document": {}}),
            ("/v1/programs/shop-1/coupons", {"coupons": [{"code": "A", "effect": "suppressed"}]}),
            ("/v1/programs/shop-1/coupons/end", {"ids": ["x"]}),
        ):
            assert post(api, side, path, body).status_code == expected
            if not path.endswith("/end"):
                assert api.get(side, path).status_code == expected
    path = f"/v1/conversions/{world.conversion_ids[0]}/attribution"
    assert api.get(world.publishers[1], path).status_code == 404
    assert post(api, world.advertisers[0], path, {}).status_code == 403
    assert (count(api, AttributionTerms), count(api, Coupon)) == (0, 0)


def test_a_decision_is_explained(api: Api, world: World) -> None:
    path = f"/v1/conversions/{world.conversion_ids[0]}/attribution"
    found = api.get(world.publishers[0], path, lang="zh-Hans").json()
    assert (found["publisher_id"], found["reason"]) == (world.publishers[0].id, "last_click")
    assert found["words"] == [chinese("last_click")]


def unattributed(api: Api, world: World) -> str:
    with Session(api.context.engine) as session, session.begin():
        session.add(
            Conversion(
                id="cnv_nobody",
                program_id=world.programs[0].id,
                order_id="NOBODY",
                event="sale",
                occurred_at=NOW,
                received_at=NOW,
                currency="EUR",
                amount_minor=100,
                content_hash="h",
                channel="api",
            )
        )
        session.flush()
        session.add(
            Attribution(
                conversion_id="cnv_nobody", source="none", reason="no_click_id", decided_at=NOW
            )
        )
    return "/v1/conversions/cnv_nobody/attribution"


def test_a_manager_assigns_what_is_nobody_s(api_on_both: Api, world_on_both: World) -> None:
    api, world = api_on_both, world_on_both
    path = unattributed(api, world)
    given = post(api, world.manager, path, {"publisher": "site-1", "note": "phoned in"})
    assert given.status_code == 200, given.text
    assert given.json()["words"] == [
        (
            f"Until {given.json()['decided_at']} the order was nobody's. "
            "The advertiser reported no click."
        ),
        "A manager assigned the order by hand.",
        "Note: phoned in",
    ]
    assert given.json()["shares"][0]["weight"] == "1"
    with Session(api.context.engine) as session:
        rows = session.exec(select(OutboxRow)).all()
        assert [(one.kind, one.subject_id) for one in rows][-1] == (
            "conversion.matched",
            "cnv_nobody",
        )
    stranger = post(api, world.manager, path, {"publisher": "site-2", "note": "no"})
    assert (stranger.status_code, stranger.json()["code"]) == (409, "already_attributed")


def test_what_is_booked_is_not_given_to_somebody_else(api: Api, world: World) -> None:
    path = f"/v1/conversions/{world.conversion_ids[0]}/attribution"
    answer = post(api, world.manager, path, {"publisher": "site-2", "note": "mine"})
    assert (answer.status_code, answer.json()["code"]) == (409, "already_attributed")
    path = unattributed(api, world)
    answer = post(api, world.manager, path, {"publisher": "site-2", "note": "mine"})
    assert answer.json()["code"] == "not_assignable"
