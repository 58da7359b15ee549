"""What belongs to another party is not there: not in a list, a report, an explanation or a link."""

from datetime import timedelta
from typing import Any

import pytest

from commissions import plans
from commissions.models import Payout, PayoutRun
from feeds import imports
from kernel import clock
from kernel.database import unit_of_work
from network.models import Role
from tests.partner_api.world import Api, Side, World, plan_document
from tracker.models import IntakeRefusal, Link

# What betrays side 1 and side 2 wherever it appears.
MARKS = (
    ("shop-1", "site-1", "ORDER-NUMBER-1", "sub-of-site-1", "click-1", "mark-one"),
    ("shop-2", "site-2", "ORDER-NUMBER-2", "sub-of-site-2", "click-2", "mark-two"),
)
PUBLISHER_LISTS = (
    "/v1/conversions",
    "/v1/earnings",
    "/v1/programs",
    "/v1/products",
    "/v1/payouts",
    "/v1/links",
)
ADVERTISER_LISTS = (
    "/v1/conversions",
    "/v1/earnings",
    "/v1/programs",
    "/v1/products",
    "/v1/refusals",
    "/v1/feeds",
)
TSV = (
    "id\ttitle\tdescription\tlink\tprice\tavailability\timage_link\tbrand\n"
    "sku-{mark}\tChair {mark}\tA chair\thttps://shop{number}.example/p?{mark}\t10.00 EUR\t"
    "in_stock\thttps://shop{number}.example/i.jpg\tBrand {mark}\n"
    "bad-{mark}\tNo price {mark}\tA chair\thttps://shop{number}.example/q\tfree\t"
    "in_stock\thttps://shop{number}.example/i.jpg\tBrand {mark}\n"
)


@pytest.fixture
def full(api_on_both: Api, world_on_both: World, tmp_path: Any) -> tuple[Api, World, list[str]]:
    """The network with a row of each side in every table that a list shows."""
    api, world = api_on_both, world_on_both
    now = clock.now()
    source_ids = []
    for number, mark in ((1, "mark-one"), (2, "mark-two")):
        program = world.programs[number - 1]
        with unit_of_work(api.context.engine) as session:
            session.add(
                IntakeRefusal(
                    id=f"rfs_{mark}",
                    program_id=program.id,
                    order_id=f"refused-{mark}",
                    code="order_conflict",
                    detail=mark,
                    payload={},
                    at=now,
                )
            )
            session.add(
                PayoutRun(
                    id=f"run_{mark}",
                    status="approved",
                    proposed_by="m",
                    proposed_at=now,
                    skipped=[],
                )
            )
            session.flush()
            session.add(
                Payout(
                    id=f"pay_{mark}",
                    run_id=f"run_{mark}",
                    publisher_id=world.publishers[number - 1].id,
                    currency="EUR",
                    amount_minor=1,
                    status="approved",
                    updated_at=now,
                )
            )
            source = imports.add_source(
                session, program_id=program.id, name=mark, url="", actor="test", now=now
            )
            source_ids.append(source.id)
            session.add(
                Link(
                    id=f"lnk_{mark}",
                    code=mark,
                    program_id=program.id,
                    publisher_id=world.publishers[number - 1].id,
                    sub_ids={},
                    change=number,
                    created_at=now,
                )
            )
        path = tmp_path / f"{mark}.tsv"
        path.write_text(TSV.format(mark=mark, number=number))
        look = imports.run(
            api.context.engine, source.id, path, settings=api.context.settings, now=now
        )
        assert (look.added, look.rejected) == (1, 1), look
    return api, world, source_ids


def assert_only(text: str, side: int) -> None:
    own, other = MARKS[side], MARKS[1 - side]
    assert any(mark in text for mark in own), text
    assert not [mark for mark in other if mark in text], text


def sides(world: World) -> list[tuple[int, Side, tuple[str, ...]]]:
    return [
        (number, side, lists)
        for pair, lists in (
            (world.publishers, PUBLISHER_LISTS),
            (world.advertisers, ADVERTISER_LISTS),
        )
        for number, side in enumerate(pair)
    ]


def test_no_list_shows_a_row_of_another(full: tuple[Api, World, list[str]]) -> None:
    api, world, _ = full
    for number, side, lists in sides(world):
        for path in lists:
            answer = api.get(side, path)
            assert answer.status_code == 200, (path, answer.text)
            assert len(answer.json()["data"]) == 1, (path, answer.text)
            assert_only(answer.text, number)
    for path in (
        "/v1/conversions",
        "/v1/programs",
        "/v1/products",
        "/v1/refusals",
        "/v1/feeds",
        "/v1/links",
    ):
        assert len(api.rows(world.manager, path)) == 2, path


def test_one_by_one(full: tuple[Api, World, list[str]]) -> None:
    api, world, source_ids = full
    for number, side, _ in sides(world):
        own, other = world.conversion_ids[number], world.conversion_ids[1 - number]
        assert_only(api.get(side, f"/v1/conversions/{own}").text, number)
        assert_only(api.get(side, f"/v1/commissions/{own}/explain").text, number)
        program = world.programs[number]
        assert api.get(side, f"/v1/programs/{program.code}/terms").json()["version"] == 1
        for template in (
            "/v1/conversions/{}",
            "/v1/commissions/{}/explain",
        ):
            assert_unknown(api, side, template, other)
        for name in (world.programs[1 - number].id, world.programs[1 - number].code):
            assert_unknown(api, side, "/v1/programs/{}/terms", name)
    for number, side in enumerate(world.advertisers):
        own, other = source_ids[number], source_ids[1 - number]
        assert_only(api.get(side, f"/v1/feeds/{own}/rejections").text, number)
        assert_unknown(api, side, "/v1/feeds/{}/rejections", other)
        report = api.rows(side, "/v1/reports/countries", program=f"shop-{number + 1}")
        assert [row["conversions"] for row in report] == [1]


def test_links_and_tracking_one_by_one(full: tuple[Api, World, list[str]]) -> None:
    api, world, _ = full
    for number, side in enumerate(world.publishers):
        mark = MARKS[number][-1]
        assert_only(api.get(side, f"/v1/links/lnk_{mark}").text, number)
        assert_unknown(api, side, "/v1/links/{}", f"lnk_{MARKS[1 - number][-1]}")
        other_party = world.publishers[1 - number]
        for name in (other_party.id, other_party.code):
            assert_unknown(api, side, "/v1/publishers/{}/tracking", name)
    for number, side in enumerate((*world.advertisers, *world.publishers)):
        for name in (world.programs[1 - number % 2].id, world.programs[1 - number % 2].code):
            assert_unknown(api, side, "/v1/programs/{}/tracking", name)


def assert_unknown(api: Api, side: Side, template: str, others: str) -> None:
    """Another party's id and one that never was get the same answer, but for the address."""
    bodies = []
    for id_ in (others, "xyz_never_existed", "%00", "a%2Fb"):
        answer = api.get(side, template.format(id_))
        if answer.status_code == 404 and not answer.headers["content-type"].startswith(
            "application/problem"
        ):
            continue  # Starlette's own: a slash is no part of an id
        assert answer.status_code == 404, answer.text
        body = answer.json()
        body.pop("instance")
        bodies.append(body)
    assert bodies[0] == bodies[1]


NAMING = (
    ("/v1/conversions", "program", "shop-{}"),
    ("/v1/conversions", "publisher", "site-{}"),
    ("/v1/earnings", "program", "shop-{}"),
    ("/v1/products", "program", "shop-{}"),
    ("/v1/products", "publisher", "site-{}"),
    ("/v1/refusals", "program", "shop-{}"),
    ("/v1/links", "program", "shop-{}"),
    ("/v1/links", "publisher", "site-{}"),
    ("/v1/reports/countries", "program", "shop-{}"),
)


def test_naming_another_in_a_filter_is_naming_nobody(api: Api, world: World) -> None:
    for path, parameter, named in NAMING:
        advertisers_only = path in {"/v1/refusals", "/v1/reports/countries"}
        callers = world.advertisers if advertisers_only else (*world.advertisers, *world.publishers)
        if path == "/v1/links":
            callers = world.publishers
        for side in callers:
            number = 1 if side.code in {"Shop 1", "site-1"} else 2
            theirs = api.get(side, path, **{parameter: named.format(3 - number)})
            nobodys = api.get(side, path, **{parameter: "nobody"})
            assert theirs.status_code == nobodys.status_code == 404, (path, side)
            assert theirs.json() == nobodys.json()
            assert api.get(side, path, **{parameter: named.format(number)}).status_code == 200


def test_a_link_carries_the_readers_own_code(full: tuple[Api, World, list[str]]) -> None:
    api, world, _ = full
    [row] = api.rows(world.publishers[0], "/v1/products")
    link = "http://127.0.0.1:8000/c/shop-1/site-1?url=https%3A%2F%2Fshop1.example%2Fp%3Fmark-one"
    assert row["tracking_link"] == link
    [program] = api.rows(world.publishers[0], "/v1/programs")
    assert program["tracking_link"] == "http://127.0.0.1:8000/c/shop-1/site-1"
    assert api.rows(world.advertisers[0], "/v1/programs")[0]["tracking_link"] is None
    # A manager can ask for somebody's links, but only to programs that this publisher has joined.
    assert [
        (each["program"]["code"], each["tracking_link"])
        for each in api.rows(world.manager, "/v1/products", publisher="site-1")
    ] == [("shop-1", link)]
    assert api.rows(world.advertisers[0], "/v1/products")[0]["tracking_link"] is None


def test_terms_of_another_publisher_stay_between_the_two(api: Api, world: World) -> None:
    first, second = (side.id for side in world.publishers)
    document = plan_document(
        rules=[
            {"id": "all", "kind": "base", "pay": {"percent": "3"}},
            {"id": "deal-1", "pay": {"percent": "8.5"}, "when": {"publisher": [first]}},
            {"id": "deal-2", "pay": {"percent": "12"}, "when": {"publisher": [second]}},
            {
                "id": "both",
                "priority": 1,
                "pay": {"percent": "4"},
                "when": {"publisher": [second, first]},
            },
        ],
        exclusive_coupons={"ONE": first, "TWO": second},
    )
    since = clock.now() - timedelta(hours=1)
    with unit_of_work(api.context.engine) as session:
        plans.publish(
            session,
            program_id=world.programs[0].id,
            document=document,
            effective_from=since,
            actor="test",
            now=since,
        )

    answer = api.get(world.publishers[0], f"/v1/programs/{world.programs[0].id}/terms")
    terms = answer.json()

    assert second not in answer.text
    assert [rule["id"] for rule in terms["document"]["rules"]] == ["all", "deal-1", "both"]
    assert terms["document"]["rules"][2]["when"] == {"publisher": [first]}
    assert terms["document"]["exclusive_coupons"] == {"ONE": first}
    whole = api.get(world.advertisers[0], f"/v1/programs/{world.programs[0].id}/terms").json()
    assert whole["document"] == document
    assert whole["content_hash"] == terms["content_hash"]
    [program] = api.rows(world.publishers[0], "/v1/programs")
    assert (program["terms"]["version"], program["terms"]["percent_max"]) == (2, "8.5")
    # What was in force before is what applies to orders of then.
    before = api.get(
        world.publishers[0],
        f"/v1/programs/{world.programs[0].id}/terms",
        at=(since - timedelta(seconds=1)).isoformat(),
    )
    assert before.json()["version"] == 1
    never = api.get(
        world.publishers[0],
        f"/v1/programs/{world.programs[0].id}/terms",
        at="2001-01-01T00:00:00Z",
    )
    assert never.status_code == 404


def test_every_operation_has_its_scopes(api: Api, world: World) -> None:
    """A token of any other role is refused before anything is looked at."""
    callers = {
        Role.MANAGER: world.manager,
        Role.ADVERTISER: world.advertisers[0],
        Role.PUBLISHER: world.publishers[0],
    }
    guarded = [each for each in api.endpoints if each.path.startswith("/v1/")]
    assert len(guarded) >= 14
    for endpoint in guarded:
        path = endpoint.path.replace("{id}", "xyz_1")
        assert api.http.request(endpoint.method, path).status_code == 401, path
        for role, side in callers.items():
            answer = api.http.request(endpoint.method, path, headers=api.as_(side))
            if role not in endpoint.roles:
                assert answer.status_code == 403, (path, role)
                assert answer.json()["code"] == "forbidden"
            else:
                assert answer.status_code != 403, (path, role)
