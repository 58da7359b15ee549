import os
import time
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from feeds.formats import FeedLimits, read_items
from feeds.rules import (
    Item,
    Problem,
    RawItem,
    RawValue,
    effective_price_minor,
    fingerprint,
    normalise,
    plain_text,
)

SHARED_DATA = Path(
    os.environ.get("TALLYSTICK_SHARED_DATA", Path(__file__).parents[2].parent / "shared" / "data")
)
TODAY = date(2026, 11, 22)
GOOD: dict[str, RawValue] = {
    "id": "a1",
    "title": "Kettle",
    "description": "Boils water.",
    "link": "https://www.shop.example/kettle?x=1",
    "image_link": "https://cdn.example.net/k.jpg",
    "availability": "in_stock",
    "price": "15.00 USD",
}


def judged(raw: RawItem, currency: str = "USD") -> Item | list[Problem]:
    return normalise(
        raw, currency=currency, allowed_domains=frozenset({"shop.example"}), today=TODAY
    )


def taken(currency: str = "USD", **changes: RawValue) -> Item:
    item = judged(RawItem(7, GOOD | changes), currency)
    assert isinstance(item, Item), item
    return item


def errors(currency: str = "USD", **changes: RawValue) -> list[tuple[str, str]]:
    """The errors of a row that must be refused."""
    problems = judged(RawItem(7, GOOD | changes), currency)
    assert isinstance(problems, list), problems
    assert {problem.row_number for problem in problems} == {7}
    return [(p.column, p.rule) for p in problems if p.severity == "error"]


def warnings(item: Item) -> list[tuple[str, str]]:
    assert {problem.severity for problem in item.warnings} <= {"warning"}
    return [(problem.column, problem.rule) for problem in item.warnings]


def test_smallest_row_becomes_an_item() -> None:
    item = taken()
    assert (item.item_id, item.price_minor, item.currency) == ("a1", 1500, "USD")
    assert (item.availability, item.condition) == ("in_stock", "new")
    assert (item.sale_price_minor, item.gtin14, item.additional_images) == (None, "", ())
    assert item.warnings == ()


@pytest.mark.parametrize("column", sorted(GOOD))
def test_each_required_column(column: str) -> None:
    assert errors(**{column: " "}) == [(column, "required")]


def test_every_problem_is_named_at_once() -> None:
    assert errors(id="", price="15", link="ftp://shop.example/") == [
        ("price", "price_form"),
        ("id", "required"),
        ("link", "link_form"),
    ]


@pytest.mark.parametrize(
    ("price", "currency", "minor"),
    [
        ("15.00 USD", "USD", 1500),
        ("99 USD", "USD", 9900),
        ("0.5 USD", "USD", 50),
        ("1500 JPY", "JPY", 1500),
        ("1.234 KWD", "KWD", 1234),
    ],
)
def test_price_in_the_documented_form(price: str, currency: str, minor: int) -> None:
    item = taken(currency, price=price)
    assert (item.price_minor, item.currency, item.warnings) == (minor, currency, ())


@pytest.mark.parametrize("price", ["USD 15.00", "15.00USD", "15.00 usd", "USD15.00", "15.00  USD"])
def test_price_that_can_only_mean_one_thing_is_a_warning(price: str) -> None:
    item = taken(price=price)
    assert item.price_minor == 1500
    assert set(warnings(item)) <= {("price", "price_spelling")}


@pytest.mark.parametrize(
    ("price", "rule"),
    [
        ("15.00", "price_form"),
        ("$15.00", "price_form"),
        ("15,00 USD", "price_form"),
        ("1,500.00 USD", "price_form"),
        ("-1.00 USD", "price_form"),
        ("1e3 USD", "price_form"),
        ("１５.00 USD", "price_form"),  # noqa: RUF001 - full-width digits are the case
        ("NaN USD", "price_form"),
        ("15.00 USD EUR", "price_form"),
        ("15.00 EUR", "price_currency"),
        ("15.001 USD", "price_amount"),
        ("0.00 USD", "price_zero"),
        ("9" * 30 + " USD", "price_amount"),
    ],
)
def test_price_that_is_refused(price: str, rule: str) -> None:
    assert errors(price=price) == [("price", rule)]


def test_sale_price_must_be_below_price() -> None:
    assert errors(sale_price="15.00 USD") == [("sale_price", "sale_not_below")]
    assert taken(sale_price="14.99 USD").sale_price_minor == 1499


def test_sale_holds_in_its_window_only() -> None:
    item = taken(
        sale_price="10.00 USD",
        sale_price_effective_date="2026-12-01T16:00-08:00/2026-12-03T16:00+0000",
    )
    assert item.sale_from == datetime(2026, 12, 2, 0, 0, tzinfo=UTC)
    assert item.sale_to == datetime(2026, 12, 3, 16, 0, tzinfo=UTC)
    at = {
        datetime(2026, 12, 1, 23, 59, 59, tzinfo=UTC): 1500,
        datetime(2026, 12, 2, 0, 0, tzinfo=UTC): 1000,
        datetime(2026, 12, 3, 15, 59, 59, tzinfo=UTC): 1000,
        datetime(2026, 12, 3, 16, 0, tzinfo=UTC): 1500,
    }
    assert {now: effective_price_minor(item, now=now) for now in at} == at
    assert effective_price_minor(taken(), now=datetime(2026, 12, 2, tzinfo=UTC)) == 1500


@pytest.mark.parametrize("window", ["soon", "2026-12-03/2026-12-01", "2026-12-01", "/2026-12-01"])
def test_unreadable_sale_window_is_refused(window: str) -> None:
    column = "sale_price_effective_date"
    assert errors(sale_price="10 USD", **{column: window}) == [(column, "date_form")]


@pytest.mark.parametrize(
    ("given_text", "canonical"),
    [
        ("in stock", "in_stock"),
        ("In_Stock", "in_stock"),
        ("https://schema.org/InStock", "in_stock"),
        ("limited_availability", "limited"),
        ("limited_stock", "limited"),
        ("out of stock", "out_of_stock"),
        ("SoldOut", "out_of_stock"),
        ("discontinued", "discontinued"),
        ("pre-order", "preorder"),
        ("available for order", "backorder"),
        ("back order", "backorder"),
    ],
)
def test_availability_crosswalk(given_text: str, canonical: str) -> None:
    item = taken(availability=given_text, availability_date="2026-12-01")
    assert (item.availability, item.warnings) == (canonical, ())


def test_unknown_words_are_refused() -> None:
    assert errors(availability="maybe") == [("availability", "enum_unknown")]
    assert errors(condition="haunted") == [("condition", "enum_unknown")]
    assert taken(condition="used_like_new").condition == "used"


def test_dates_are_judged_by_today() -> None:
    assert warnings(taken(availability="preorder")) == [("availability_date", "required")]
    far = taken(availability="preorder", availability_date="2028-01-01T00:00Z")
    assert warnings(far) == [("availability_date", "date_far")]
    assert errors(expiration_date="2026-11-21") == [("expiration_date", "expired")]
    assert taken(expiration_date="2026-11-22").expires_at == datetime(2026, 11, 22, tzinfo=UTC)


@pytest.mark.parametrize(
    ("gtin", "gtin14"),
    [
        ("3348901056069", "03348901056069"),
        ("3 348901-056069", "03348901056069"),
        ("036000291452", "00036000291452"),
        ("96385074", "00000096385074"),
        ("71919219405200", "71919219405200"),
    ],
)
def test_gtin_is_padded(gtin: str, gtin14: str) -> None:
    item = taken(gtin=gtin)
    assert (item.gtin14, item.warnings) == (gtin14, ())


@pytest.mark.parametrize(
    ("gtin", "rule"),
    [
        ("3348901056068", "gtin_invalid"),
        ("123", "gtin_invalid"),
        ("٣٣٤٨٩٠١٠٥٦٠٦٩", "gtin_invalid"),
        ("2000000000008", "gtin_restricted"),
        ("9900000000004", "gtin_restricted"),
        ("0200000000004", "gtin_restricted"),
    ],
)
def test_gtin_that_identifies_nothing_is_left_out(gtin: str, rule: str) -> None:
    item = taken(gtin=gtin)
    assert (item.gtin14, warnings(item)) == ("", [("gtin", rule)])


@pytest.mark.parametrize(
    "link",
    [
        "https://shop.example/",
        "http://SHOP.example:80/a",
        "https://de.www.shop.example/ä?b=c d".replace(" ", "%20"),
        "https://shop.example./x",
    ],
)
def test_links_on_the_advertisers_domains(link: str) -> None:
    assert taken(link=link).link == link


@pytest.mark.parametrize(
    ("link", "rule"),
    [
        ("https://evil.example/", "link_foreign"),
        ("https://evilshop.example/", "link_foreign"),
        ("https://shop.example.evil.test/", "link_foreign"),
        ("https://evil.test/?shop.example", "link_foreign"),
        ("https://evil.test#shop.example", "link_foreign"),
        ("https://evil.test\\@shop.example/", "link_form"),
        ("https://shop.example@evil.test/", "link_form"),
        ("https://shop.example:80%40evil.test/", "link_form"),
        ("https://shop.example:8443/", "link_form"),
        ("//shop.example/", "link_form"),
        ("javascript:alert(1)//shop.example", "link_form"),
        ("https:shop.example/", "link_form"),
        ("https://shop.example/a b", "link_form"),
        ("https://shop.example/a\tb", "link_form"),
        ("https://[::1]/", "link_form"),
        ("https://shop%2eexample/", "link_form"),
        ("https://shop.example/" + "x" * 2000, "too_long"),
    ],
)
def test_links_elsewhere_are_refused(link: str, rule: str) -> None:
    assert errors(link=link) == [("link", rule)]


def test_lengths() -> None:
    assert errors(id="x" * 51) == [("id", "too_long")]
    assert taken(id="x" * 50).item_id == "x" * 50
    long = taken(title="t" * 151, description="d" * 5001, brand="b" * 71, mpn="m" * 71)
    assert (len(long.title), len(long.description), len(long.brand), long.mpn) == (
        150,
        5000,
        70,
        "",
    )
    assert sorted(warnings(long)) == [
        ("brand", "too_long"),
        ("description", "too_long"),
        ("mpn", "too_long"),
        ("title", "too_long"),
    ]


def test_additional_images_are_split_once_each_and_capped() -> None:
    item = taken(additional_image_link=["http://c.test/1,http://c.test/2", "http://c.test/1"])
    assert item.additional_images == ("http://c.test/1", "http://c.test/2")
    many = taken(additional_image_link=[f"http://c.test/{n}" for n in range(12)])
    assert len(many.additional_images) == 10
    assert warnings(many) == [("additional_image_link", "too_many")]
    bad = taken(additional_image_link="javascript:x")
    assert (bad.additional_images, warnings(bad)) == ((), [("additional_image_link", "link_form")])


def test_repeated_single_column_takes_the_first() -> None:
    item = taken(brand=["One", "Two"])
    assert (item.brand, warnings(item)) == ("One", [("brand", "repeated")])


def test_faults_found_while_reading_count() -> None:
    fault = Problem(7, "title", "nul", "error", "holds a NUL character")
    problems = judged(RawItem(7, GOOD, (fault,)))
    assert problems == [fault]
    note = replace(fault, rule="encoding", severity="warning")
    item = judged(RawItem(7, GOOD, (note,)))
    assert isinstance(item, Item)
    assert item.warnings == (note,)


@pytest.mark.parametrize(
    ("markup", "text"),
    [
        ("<p>One</p><p>two &amp; three</p>", "One two & three"),
        ("a < b, 3 > 2", "a < b, 3 > 2"),
        ("x<script>alert('<b>')</script>y", "x y"),
        ("x<style type='a'>p{}</style >y<!-- c -->z", "x y z"),
        ("<![CDATA[", "<![CDATA["),
        ("tab\tand\x00nul\u00a0nbsp", "tab and nul nbsp"),
    ],
)
def test_plain_text(markup: str, text: str) -> None:
    assert plain_text(markup) == text


@pytest.mark.parametrize("unit", ["<script>", "<a", "<!--", "</", "&lt", "<a <"])
def test_hostile_markup_takes_linear_time(unit: str) -> None:
    began = time.process_time()
    plain_text(unit * 20_000)
    assert time.process_time() - began < 1.0


def test_fingerprint_changes_with_the_item_only() -> None:
    item = taken()
    known = fingerprint(item)
    assert len(known) == 32
    assert fingerprint(taken(price="USD 15.00")) == known
    assert fingerprint(taken(unknown_column="x")) == known
    assert fingerprint(replace(item, price_minor=1501)) != known
    assert fingerprint(replace(item, attributes={"color": "red"})) != known
    two = {"color": "red", "size": "M"}
    turned = dict(reversed(two.items()))
    assert fingerprint(replace(item, attributes=two)) == fingerprint(
        replace(item, attributes=turned)
    )


@given(
    st.dictionaries(
        st.sampled_from([*GOOD, "gtin", "sale_price", "sale_price_effective_date", "condition"]),
        st.text(max_size=60) | st.lists(st.text(max_size=9), max_size=3),
    )
)
def test_any_row_is_an_item_or_problems(changes: dict[str, RawValue]) -> None:
    """No text makes a row raise; what passes has a price, an identity and a link of the shop."""
    outcome = judged(RawItem(7, GOOD | changes))
    if isinstance(outcome, list):
        assert any(problem.severity == "error" for problem in outcome)
    else:
        assert outcome.price_minor > 0
        assert outcome.item_id
        assert outcome.link.startswith("https://www.shop.example/")
        assert fingerprint(outcome) == fingerprint(outcome)


def test_googles_example_feed_becomes_items() -> None:
    path = SHARED_DATA / "feeds" / "example_feed_xml_rss.xml"
    if not path.exists():
        pytest.skip("the shared example feed is not present")
    items = [
        normalise(raw, currency="USD", allowed_domains=frozenset({"example.com"}), today=TODAY)
        for raw in read_items(path, limits=FeedLimits())
    ]
    kept = [item for item in items if isinstance(item, Item)]
    assert [(i.item_id, i.price_minor, i.sale_price_minor, i.gtin14) for i in kept] == [
        ("TV_123456", 15900, None, "71919219405200"),
        ("DVD-0564738", 1199, None, "88392916560500"),
        ("PFM654321", 9900, None, "03348901056069"),
        ("CLO-29473856-1", 2950, None, ""),
        ("CLO-29473856-2", 2950, None, ""),
        ("CLO-1029384", 3399, 2549, "05060155240282"),
    ]
    assert [warnings(item) for item in kept] == [
        *[[]] * 5,
        [("sale_price_effective_date", "sale_ended")],
    ]
    assert kept[3].availability == "out_of_stock"
    assert len({fingerprint(item) for item in kept}) == 6
