"""Conversions in lists and one by one: exact answers, filters, masks."""

from datetime import timedelta
from typing import Any

from sqlmodel import Session

from commissions import accruals, plans
from kernel import clock
from kernel.clock import to_rfc3339
from kernel.database import unit_of_work
from network.models import Program, Publisher
from tests import make
from tests.partner_api.world import Api, World, add_conversion, plan_document
from tracker.models import IntakeRefusal


def add_more(api: Api, world: World, *, count: int) -> None:
    with unit_of_work(api.context.engine) as session:
        for number in range(count):
            add_conversion(
                session,
                number=100 + number,
                program=session.get_one(Program, world.programs[0].id),
                publisher=session.get_one(Publisher, world.publishers[0].id),
                at=world.ordered_at + timedelta(minutes=number + 1),
                order_id=f"MORE-{number}",
                amount_minor=1_000 + number,
            )


def mask_program(api: Api, world: World) -> None:
    with unit_of_work(api.context.engine) as session:
        program = session.get_one(Program, world.programs[0].id)
        program.masks_order_ids = True
        session.add(program)


def expected_view(api: Api, world: World) -> dict[str, Any]:
    at = world.ordered_at
    lines = api.rows(world.manager, "/v1/conversions", order_id="ORDER-NUMBER-1")
    return {
        "id": world.conversion_ids[0],
        "commission_id": lines[0]["commission_id"],
        "program": {"id": world.programs[0].id, "code": "shop-1"},
        "order_id": "ORDER-NUMBER-1",
        "event": "sale",
        "occurred_at": to_rfc3339(at),
        "received_at": to_rfc3339(at + timedelta(seconds=1)),
        "publisher": {"id": world.publishers[0].id, "code": "site-1"},
        "click_id": "click-1",
        "sub_ids": {"s1": "sub-of-site-1"},
        "country": "DE",
        "country_billing": None,
        "country_site": None,
        "site": None,
        "device": None,
        "customer": "new",
        "coupon": None,
        "amount": {"minor": 12345, "currency": "EUR"},
        "refunded": {"minor": 0, "currency": "EUR"},
        "commission": {"minor": 1235, "currency": "EUR"},
        "uncapped_commission": {"minor": 1235, "currency": "EUR"},
        "share": "1",
        "parts": [],
        "status": "pending",
        "reason": "",
        "lock_at": to_rfc3339(at + timedelta(days=30)),
        "imported": False,
        "test": False,
        "number": 1,
        "relation": "",
        "related_id": None,
        "channel": "postback",
        "discount": None,
        "tax": None,
        "shipping": None,
        "parent_order_id": None,
        "custom": {},
        "attribution": {"source": "click", "reason": "last_click"},
    }


def test_one_conversion_exactly(api_on_both: Api, world_on_both: World) -> None:
    api, world = api_on_both, world_on_both
    expected = expected_view(api, world)
    assert expected["commission_id"].startswith("cms_")

    for side in (world.publishers[0], world.manager):
        listed = api.get(side, "/v1/conversions", program="shop-1")
        assert listed.json() == {"data": [expected], "next_cursor": None}
        one = api.get(side, f"/v1/conversions/{world.conversion_ids[0]}")
        assert one.json() == expected
        by_commission = api.get(side, f"/v1/conversions/{expected['commission_id']}")
        assert by_commission.json() == expected
    # Sub-ids are the publisher's own business.
    for_advertiser = api.rows(world.advertisers[0], "/v1/conversions")
    assert for_advertiser == [expected | {"sub_ids": {}}]


FILTERS: tuple[tuple[dict[str, str], int], ...] = (
    ({}, 2),
    ({"program": "shop-1"}, 1),
    ({"publisher": "site-2"}, 1),
    ({"program": "shop-1", "publisher": "site-2"}, 0),
    ({"order_id": "ORDER-NUMBER-2"}, 1),
    ({"order_id": "order-number-2"}, 0),
    ({"status": "pending"}, 2),
    ({"status": "paid"}, 0),
    ({"status": "unattributed"}, 0),
    ({"event": "sale"}, 2),
    ({"event": "lead"}, 0),
)


def test_filters(api: Api, world: World) -> None:
    for filters, found in FILTERS:
        assert len(api.rows(world.manager, "/v1/conversions", **filters)) == found, filters


def test_filters_by_id_and_by_time(api_on_both: Api, world_on_both: World) -> None:
    api, world = api_on_both, world_on_both
    at = world.ordered_at

    def count(**filters: str) -> int:
        return len(api.rows(world.manager, "/v1/conversions", **filters))

    assert count(program=world.programs[0].id, publisher=world.publishers[0].id) == 1
    assert count(occurred_from=to_rfc3339(at)) == 2
    assert count(occurred_from=to_rfc3339(at + timedelta(milliseconds=1))) == 0
    assert count(occurred_to=to_rfc3339(at)) == 0
    assert count(occurred_to=(at + timedelta(seconds=1)).isoformat()) == 2


def test_pages_show_every_row_once_while_rows_are_added(
    api_on_both: Api, world_on_both: World
) -> None:
    api, world = api_on_both, world_on_both
    add_more(api, world, count=5)
    side = world.publishers[0]

    first = api.get(side, "/v1/conversions", limit=2).json()
    with unit_of_work(api.context.engine) as session:
        add_conversion(
            session,
            number=500,
            program=session.get_one(Program, world.programs[0].id),
            publisher=session.get_one(Publisher, world.publishers[0].id),
            at=world.ordered_at,
            order_id="MEANWHILE",
        )
    second = api.get(side, "/v1/conversions", limit=2, cursor=first["next_cursor"]).json()
    third = api.get(side, "/v1/conversions", limit=3, cursor=second["next_cursor"]).json()

    pages = [[row["order_id"] for row in page["data"]] for page in (first, second, third)]
    assert pages == [
        ["ORDER-NUMBER-1", "MORE-0"],
        ["MORE-1", "MORE-2"],
        ["MORE-3", "MORE-4", "MEANWHILE"],
    ]
    # The last page was full, and no further one is promised.
    assert third["next_cursor"] is None


def test_the_largest_page_loses_no_row(api: Api, world: World) -> None:
    assert len(api.rows(world.manager, "/v1/conversions", limit=1000)) == 2


def test_a_masked_order_id_is_neither_shown_nor_guessed(
    api_on_both: Api, world_on_both: World
) -> None:
    api, world = api_on_both, world_on_both
    mask_program(api, world)
    side = world.publishers[0]

    [row] = api.rows(side, "/v1/conversions")
    explained = api.get(side, f"/v1/commissions/{row['id']}/explain")

    assert "ORDER-NUMBER" not in row["order_id"]
    assert "ORDER-NUMBER" not in explained.text
    assert api.rows(side, "/v1/conversions", order_id="ORDER-NUMBER-1") == []
    assert [found["id"] for found in api.rows(side, "/v1/conversions", order_id=row["order_id"])]
    [unmasked] = api.rows(world.advertisers[0], "/v1/conversions")
    assert unmasked["order_id"] == "ORDER-NUMBER-1"


def test_the_owner_of_a_coupon_does_not_see_whose_click_it_was(api: Api, world: World) -> None:
    owner, sender = world.publishers[1], world.publishers[0]
    with unit_of_work(api.context.engine) as session:
        program = session.get_one(Program, world.programs[0].id)
        plans.publish(
            session,
            program_id=program.id,
            document=plan_document(exclusive_coupons={"MINE": owner.id}),
            effective_from=world.ordered_at + timedelta(minutes=1),
            actor="test",
            now=clock.now(),
            waiver="The coupon was promised to its owner.",
        )
        conversion_id = add_conversion(
            session,
            number=900,
            program=program,
            publisher=session.get_one(Publisher, sender.id),
            at=world.ordered_at + timedelta(minutes=2),
            order_id="WITH-COUPON",
            coupon="MINE",
        )

    row = api.get(owner, f"/v1/conversions/{conversion_id}").json()
    explained = api.get(owner, f"/v1/commissions/{conversion_id}/explain").json()

    assert row["publisher"] == {"id": owner.id, "code": "site-2"}
    assert row["commission"] == {"minor": 1235, "currency": "EUR"}
    assert (row["click_id"], row["sub_ids"]) == (None, {})
    assert explained["attribution"] == {
        "publisher_id": None,
        "click_id": None,
        "source": "click",
        "reason": "last_click",
    }
    assert sender.id not in api.get(owner, "/v1/conversions").text
    assert api.get(sender, f"/v1/conversions/{conversion_id}").status_code == 404


def test_explanation_in_both_languages(api: Api, world: World) -> None:
    path = f"/v1/commissions/{world.conversion_ids[0]}/explain"
    side = world.publishers[0]

    english = api.get(side, path).json()
    chinese = api.get(side, path, lang="zh-Hans").json()
    by_header = api.http.get(path, headers=api.as_(side) | {"Accept-Language": "zh-CN,zh;q=0.9"})

    assert english["commission"]["amount_minor"] == 1235
    assert english["plan"]["version"] == 1
    assert [booking["delta_minor"] for booking in english["bookings"]] == [1235]
    assert english["language"] == "en"
    assert any("12.35 EUR" in sentence for sentence in english["words"])
    assert chinese["language"] == "zh-Hans"
    assert chinese["words"] != english["words"]
    assert by_header.json()["words"] == chinese["words"]
    assert api.get(side, path, lang="fr").status_code == 400


def test_earnings_and_countries(api_on_both: Api, world_on_both: World) -> None:
    api, world = api_on_both, world_on_both
    add_more(api, world, count=2)
    at = world.ordered_at
    side = world.publishers[0]

    total = {
        "program": {"id": world.programs[0].id, "code": "shop-1"},
        "status": "pending",
        "conversions": 3,
        "sales": {"minor": 12345 + 1000 + 1001, "currency": "EUR"},
        "commission": {"minor": 1235 + 100 + 100, "currency": "EUR"},
    }
    assert api.get(side, "/v1/earnings").json() == {"data": [total], "next_cursor": None}
    [first] = api.rows(side, "/v1/earnings", to=to_rfc3339(at + timedelta(seconds=1)))
    assert (first["conversions"], first["commission"]["minor"]) == (1, 1235)
    later = {"from": to_rfc3339(at + timedelta(seconds=1))}
    assert api.rows(side, "/v1/earnings", **later)[0]["conversions"] == 2
    assert api.rows(world.advertisers[0], "/v1/reports/countries", program="shop-1") == [
        {
            "country": "DE",
            "conversions": 3,
            "sales": total["sales"],
            "refunded": {"minor": 0, "currency": "EUR"},
            "commission": total["commission"],
        }
    ]


def test_refusals_are_for_those_who_can_mend_them(api_on_both: Api, world_on_both: World) -> None:
    api, world = api_on_both, world_on_both
    at = clock.now()
    known = [(program.id, f"ORDER-{number}") for number, program in enumerate(world.programs, 1)]
    with unit_of_work(api.context.engine) as session:
        for number, (program_id, order_id) in enumerate([*known, ("prg_gone", "ORDER-3")]):
            session.add(
                IntakeRefusal(
                    id=f"rfs_{number}",
                    program_id=program_id,
                    order_id=order_id,
                    code="order_conflict",
                    detail="was reported before",
                    payload={"order_id": order_id},
                    at=at,
                )
            )
            session.flush()

    assert api.rows(world.advertisers[0], "/v1/refusals") == [
        {
            "id": "rfs_0",
            "program": {"id": world.programs[0].id, "code": "shop-1"},
            "order_id": "ORDER-1",
            "code": "order_conflict",
            "detail": "was reported before",
            "payload": {"order_id": "ORDER-1"},
            "at": to_rfc3339(at),
        }
    ]
    seen = api.rows(world.manager, "/v1/refusals", limit=1)
    assert [(row["order_id"], row["program"] is None) for row in seen] == [
        ("ORDER-1", False),
        ("ORDER-2", False),
        ("ORDER-3", True),
    ]
    assert [r["id"] for r in api.rows(world.manager, "/v1/refusals", program="shop-2")] == ["rfs_1"]
    assert api.rows(world.manager, "/v1/refusals", order_id="ORDER-9") == []
    assert api.get(world.publishers[0], "/v1/refusals").status_code == 403


def test_a_reading_request_writes_nothing(api: Api, world: World) -> None:
    with Session(api.context.engine) as session:
        before = session.connection().exec_driver_sql("PRAGMA data_version").scalar()
        session.rollback()
        api.rows(world.publishers[0], "/v1/conversions")
        api.get(world.publishers[0], f"/v1/commissions/{world.conversion_ids[0]}/explain")
        after = session.connection().exec_driver_sql("PRAGMA data_version").scalar()
    assert before == after


def test_who_sees_a_shared_order_sees_its_parts_and_who_shares_it_its_own(
    api_on_both: Api, world_on_both: World
) -> None:
    api, world = api_on_both, world_on_both
    one, two = world.publishers
    with unit_of_work(api.context.engine) as session:
        program = session.get_one(Program, world.programs[0].id)
        first, second = (session.get_one(Publisher, side.id) for side in (one, two))
        shares = [(first, 1, 3), (second, 2, 3)]
        facts: dict[str, Any] = {"amount_minor": 1_000, "occurred_at": world.ordered_at}
        sale = make.conversion(session, program, second, shares=shares, **facts)
        accruals.accrue(session, sale.id, hold_reason=None, now=make.NOW)
        sale_id = sale.id

    whole = api.get(world.manager, f"/v1/conversions/{sale_id}").json()
    assert (
        api.get(world.advertisers[0], f"/v1/conversions/{sale_id}").json()["parts"]
        == (whole["parts"])
    )
    assert whole["commission"] == {"minor": 100, "currency": "EUR"}
    assert [(part["share"], part["commission"]["minor"]) for part in whole["parts"]] == [
        ("1/3", 33),
        ("2/3", 67),
    ]
    assert [part["publisher"]["id"] for part in whole["parts"]] == [one.id, two.id]
    for side, other, share, minor in ((one, two, "1/3", 33), (two, one, "2/3", 67)):
        for path in (f"/v1/conversions/{sale_id}", f"/v1/commissions/{sale_id}/explain"):
            answer = api.get(side, path)
            assert answer.status_code == 200
            assert other.id not in answer.text
        own = api.get(side, f"/v1/conversions/{sale_id}").json()
        assert (own["share"], own["commission"]["minor"], own["parts"]) == (share, minor, [])
        assert own["publisher"]["id"] == side.id
        # The other's commission is not there, whatever its id.
        foreign = next(part for part in whole["parts"] if part["publisher"]["id"] == other.id)
        assert api.get(side, f"/v1/conversions/{foreign['commission_id']}").status_code == 404
