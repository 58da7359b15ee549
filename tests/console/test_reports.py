import csv
import io
import re
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from kernel import clock
from kernel.database import unit_of_work
from tests import make
from tests.console.world import HOSTILE, Browser, World
from tracker import rollup_orders


@pytest.fixture
def counted(world: World) -> World:
    """The world with clicks of two days and its orders in the roll-ups."""
    now = clock.now()
    with unit_of_work(world.engine) as session:
        seen: dict[str, Any] = {
            "program_id": world.program.id,
            "publisher_id": world.publisher.id,
            "unbillable_reason": "",
            "user_agent": "",
            "country": "DE",
        }
        rows = [
            seen
            | {
                "at": now - timedelta(days=number % 2),
                "visitor_key": f"v{number % 4}",
                "sub_ids": {"s1": HOSTILE} if number == 1 else {},
            }
            for number in range(10)
        ]
        other = {"program_id": world.other_program.id, "publisher_id": world.other_publisher.id}
        make.count_clicks(session, [*rows, rows[0] | other], values_max=10)
        orders = (world.pending, world.held, world.unattributed, world.other)
        rollup_orders.refresh(session, [one.id for one in orders])
    return world


def table(page: str) -> str:
    return page[page.index("<tbody>") : page.index("</tbody>")]


def test_a_publisher_sees_its_own_sums_with_charts(browser: Browser, counted: World) -> None:
    browser.sign_in("publisher")

    page = browser.open("/reports").text

    assert "4 unique, 0 filtered" in page
    assert '<rect class="bar"' in page
    assert '<rect class="bar two"' in page
    assert counted.other_program.name not in page
    by_program = table(browser.open("/reports?by=program").text)
    assert counted.program.name in by_program
    assert by_program.count("<tr>") == 1


def tiles(page: str) -> list[tuple[str, str, str]]:
    """(name, figure, note) of each tile, as text."""
    found = re.findall(
        r"<dt>(.*?)</dt><dd[^>]*>(.*?)</dd><dd[^>]*>(.*?)</dd>",
        page[page.index('<dl class="tiles"') : page.index("</dl>")],
    )
    return [(plain(name), plain(figure), plain(note)) for name, figure, note in found]


def plain(html: str) -> str:
    return unescape(re.sub(r"<[^>]+>", "", html)).replace("\u202f", " ").replace("\u00a0", " ")


def test_what_stands_beside_money_is_of_its_currency(browser: Browser, counted: World) -> None:
    del counted
    browser.sign_in("manager")

    euro = browser.open("/reports?by=program")
    yen = browser.open("/reports?by=program&currency=JPY")

    # Four orders, three of them in euro; eleven clicks, ten of them on the program that pays euro.
    assert tiles(euro.text) == [
        ("Clicks", "11", "5 unique, 0 filtered · all currencies"),
        ("Conversions EUR", "3", "of 4 in all currencies"),
        ("Sales", "450.50 EUR", "0.00 EUR taken back"),
        (
            "Commission",
            "35.05 EUR",
            "350.50 EUR for 100 clicks; 10 clicks on programs that pay in EUR",
        ),
    ]
    assert tiles(yen.text) == [
        ("Clicks", "11", "5 unique, 0 filtered · all currencies"),
        ("Conversions JPY", "1", "of 4 in all currencies"),
        ("Sales", "9,800 JPY", "0 JPY taken back"),
        ("Commission", "980 JPY", "98,000 JPY for 100 clicks; 1 click on programs that pay in JPY"),
    ]
    assert "they are the same under every currency" in euro.text
    cells = {
        name: re.findall(r'data-label="Conversions">(\d+)<', table(answer.text))
        for name, answer in (("euro", euro), ("yen", yen))
    }
    assert cells == {"euro": ["3", "0"], "yen": ["0", "1"]}


def test_one_currency_needs_no_word_about_others(browser: Browser, counted: World) -> None:
    del counted
    browser.sign_in("advertiser")

    page = browser.open("/reports").text

    assert [name for name, *_ in tiles(page)] == ["Clicks", "Conversions", "Sales", "Commission"]
    assert "all currencies" not in page


def test_sub_ids_are_texts_and_no_markup(browser: Browser, counted: World) -> None:
    del counted
    browser.sign_in("publisher")

    page = browser.open("/reports?by=s1").text

    assert HOSTILE not in page
    assert "&lt;script&gt;" in page
    assert "None given" in page


@pytest.mark.parametrize(
    "by", ["hour", "week", "month", "publisher", "country", "device", "reason"]
)
@pytest.mark.parametrize("role", ["manager", "advertiser", "publisher"])
def test_every_grouping_opens_for_every_role(
    browser: Browser, counted: World, role: str, by: str
) -> None:
    del counted
    browser.sign_in(role)

    answer = browser.open(f"/reports?by={by}&days=7")

    assert answer.status_code == 200
    assert "<tbody>" in answer.text


def test_groupings_that_cannot_be_are_refused_in_words(browser: Browser, counted: World) -> None:
    browser.sign_in("advertiser")

    assert browser.open("/reports?by=country&then=device").status_code == 400
    assert "do not go together" in browser.open("/reports?by=country&then=device").text
    assert browser.open("/reports?from=2026-03-10&to=2026-03-09").status_code == 400
    assert browser.open("/reports?by=s1").status_code == 403
    assert "Sub-id 1" not in browser.open("/reports").text
    assert browser.open(f"/reports?program={counted.other_program.id}").status_code == 404
    assert browser.open(f"/reports?publisher={counted.publisher.id}").status_code == 404


def test_the_csv_is_the_page_s_report(browser: Browser, counted: World) -> None:
    browser.sign_in("manager")

    answer = browser.open("/reports.csv?by=publisher&days=7")

    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert 'filename="tallystick-publisher-' in answer.headers["content-disposition"]
    rows = list(csv.DictReader(io.StringIO(answer.text)))
    clicks = {row["publisher"]: int(row["clicks"]) for row in rows if int(row["clicks"])}
    assert clicks == {"trail": 10, counted.other_publisher.code: 1}
    sales = {(row["publisher"], row["currency"]): row["sales"] for row in rows}
    assert sales["trail", "EUR"] == "350.50"
    assert sales[counted.other_publisher.code, "JPY"] == "9800"
    assert sales["", "EUR"] == "100.00"
    orders = {(row["publisher"], row["currency"]): row["conversions"] for row in rows}
    assert orders["trail", "EUR"] == "2"
    assert orders[counted.other_publisher.code, "JPY"] == "1"


def test_formulas_in_sub_ids_stay_texts(browser: Browser, counted: World) -> None:
    with unit_of_work(counted.engine) as session:
        make.count_clicks(
            session,
            [
                {
                    "program_id": counted.program.id,
                    "publisher_id": counted.publisher.id,
                    "unbillable_reason": "",
                    "user_agent": "",
                    "visitor_key": "",
                    "at": clock.now(),
                    "sub_ids": {"s1": "=HYPERLINK(1)"},
                }
            ],
            values_max=10,
        )
    browser.sign_in("publisher")

    rows = list(csv.DictReader(io.StringIO(browser.open("/reports.csv?by=s1").text)))

    assert "'=HYPERLINK(1)" in {row["s1"] for row in rows}


def test_nothing_yet_is_said(browser: Browser, world: World, sqlite_engine: Engine) -> None:
    del world, sqlite_engine
    browser.sign_in("advertiser")

    assert "Nothing happened in these days." in browser.open("/reports?days=1&by=link").text
