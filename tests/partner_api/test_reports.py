import csv
import io
from datetime import timedelta
from typing import Any

import pytest

from kernel.database import unit_of_work
from tests import make
from tests.partner_api.world import Api, World

PATH = "/v1/reports/performance"


@pytest.fixture
def counted(api: Api, world: World) -> World:
    """The world with 20 clicks for publisher 1 and 5 for publisher 2, all at the time of orders."""
    with unit_of_work(api.context.engine) as session:
        for number, count in ((0, 20), (1, 5)):
            rows: list[dict[str, Any]] = [
                {
                    "program_id": world.programs[number].id,
                    "publisher_id": world.publishers[number].id,
                    "at": world.ordered_at - timedelta(minutes=5),
                    "unbillable_reason": "" if row else "head",
                    "visitor_key": f"v{row % 7}",
                    "user_agent": "",
                    "country": ("DE", "FR")[row % 2],
                    "sub_ids": {"s1": f"sub-{row % 3}"},
                }
                for row in range(count)
            ]
            make.count_clicks(session, rows, values_max=100)
    return world


def test_a_day_has_counts_and_money_objects(api: Api, counted: World) -> None:
    answer = api.get(counted.publishers[0], PATH)

    assert answer.status_code == 200
    document = answer.json()
    [row] = document["data"]
    assert document["group_by"] == ["day"]
    assert row["period"] == f"{counted.ordered_at:%Y-%m-%d}T00:00:00.000Z"
    counts = {
        "impressions": 0,
        "clicks": 19,
        "filtered_clicks": 1,
        "unique_clicks": 7,
        "conversions": 1,
    }
    assert {name: row[name] for name in counts} == counts
    assert row["amounts"] == [
        {
            "currency": "EUR",
            "clicks": 19,
            "conversions": 1,
            "sales": {"minor": 12_345, "currency": "EUR"},
            "refunded": {"minor": 0, "currency": "EUR"},
            "commission": {"minor": 1_235, "currency": "EUR"},
            "epc": {"minor": 6_500, "currency": "EUR"},
        }
    ]
    assert {name: document["total"][name] for name in counts} == counts
    assert document["next_cursor"] is None


def test_each_party_sees_its_own_rows_only(api: Api, counted: World) -> None:
    for number, clicks in ((0, 19), (1, 4)):
        for side in (counted.publishers[number], counted.advertisers[number]):
            rows = api.rows(side, PATH, group_by="program,publisher")
            assert [(row["program"]["code"], row["publisher"]["code"]) for row in rows] == [
                (f"shop-{number + 1}", f"site-{number + 1}")
            ]
            assert rows[0]["clicks"] == clicks
    assert len(api.rows(counted.manager, PATH, group_by="program,publisher")) == 2
    other = counted.programs[1]
    assert api.get(counted.publishers[0], PATH, program=other.code).status_code == 404
    assert api.get(counted.publishers[0], PATH, publisher="site-2").status_code == 404
    assert api.get(counted.advertisers[0], PATH, publisher="site-2").status_code == 404


def test_pages_go_through_the_whole_report_and_keep_the_total(api: Api, counted: World) -> None:
    whole = api.rows(counted.manager, PATH, group_by="publisher,s1")

    by_page = api.rows(counted.manager, PATH, group_by="publisher,s1", limit=2)

    assert by_page == whole
    assert [row["value"] for row in whole].count("sub-1") == 2
    first = api.get(counted.manager, PATH, group_by="publisher,s1", limit=2).json()
    assert first["total"]["clicks"] == 23
    wrong = api.get(counted.manager, PATH, group_by="day", cursor=first["next_cursor"])
    assert wrong.status_code == 400


def test_csv_by_format_and_by_header(api: Api, counted: World) -> None:
    side = counted.manager
    by_format = api.get(side, PATH, group_by="country", format="csv", program="shop-1")
    headers = {**api.as_(side), "Accept": "text/csv"}
    by_header = api.http.get(
        PATH, params={"group_by": "country", "program": "shop-1"}, headers=headers
    )

    assert by_format.text == by_header.text
    assert by_format.headers["content-type"] == "text/csv; charset=utf-8"
    rows = list(csv.DictReader(io.StringIO(by_format.text)))
    assert {row["country"]: int(row["clicks"]) for row in rows} == {"DE": 9, "FR": 10}
    # The order was reported with its country; its click's was not known.
    assert [row["sales"] for row in rows if row["country"] == "DE"] == ["123.45"]


@pytest.mark.parametrize(
    ("params", "field"),
    [
        ({"group_by": "hour,country"}, "group_by"),
        ({"group_by": "country,device"}, "group_by"),
        ({"group_by": "x"}, "group_by"),
        ({"from": "2026-03-02T00:00:00Z", "to": "2026-03-01T00:00:00Z"}, "to"),
        ({"from": "2026-03-02"}, "from"),
        ({"group_by": "country", "from": "2026-03-02T01:00:00Z"}, "from"),
        ({"limit": 0}, "limit"),
        ({"limit": 1001}, "limit"),
        ({"format": "pdf"}, "format"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_bad_question_names_its_field(
    api: Api, counted: World, params: dict[str, Any], field: str
) -> None:
    answer = api.get(counted.publishers[0], PATH, **params)

    assert answer.status_code == 400
    assert answer.json()["errors"][0]["field"] == field


def test_sub_ids_are_not_the_advertiser_s(api: Api, counted: World) -> None:
    answer = api.get(counted.advertisers[0], PATH, group_by="s1")

    assert answer.status_code == 403
    assert "sub-" not in answer.text.replace("sub-ids", "")


def test_a_report_past_the_limit_is_refused(api: Api, counted: World) -> None:
    small = {"report_rows_max": 2}
    context = api.context
    object.__setattr__(context, "settings", context.settings.model_copy(update=small))

    answer = api.get(counted.manager, PATH, group_by="publisher,s1")

    assert answer.status_code == 413
    assert answer.json()["code"] == "report_too_large"
    assert answer.json()["limit_rows"] == 2
