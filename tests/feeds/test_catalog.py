from collections.abc import Callable
from datetime import datetime, timedelta

import pytest
from sqlalchemy.engine import Engine

from feeds import catalog, imports
from feeds.catalog import AVAILABILITIES, ProductQuery
from feeds.models import FeedImport, FeedSource
from feeds.rules import _AVAILABILITY
from kernel.database import reading, unit_of_work
from kernel.errors import Forbidden, InvalidInput, NotFound
from kernel.settings import Settings
from network.access import Actor
from network.models import Role
from tests.feeds.conftest import WriteTable, item, program_of

MakeSource = Callable[..., FeedSource]
EXTRA = ("brand", "gtin", "product_type")
ROWS = (
    item("a", title="Blue 100% cotton shirt", brand="Loom", product_type="Apparel > Shirts"),
    item("b", title="Red shirt", brand="LOOM & Co", price="20.00 EUR", product_type="apparel"),
    item("c", title="Mug", description="for COTTON pickers", gtin="4006381333931"),
    item("d", title="Mug_two", description="cup", availability="sold out", price="99.00 EUR"),
)


@pytest.fixture
def source(
    engine: Engine,
    settings: Settings,
    make_source: MakeSource,
    write_table: WriteTable,
    now: datetime,
) -> FeedSource:
    made = make_source(engine)
    rows = (*ROWS, item("gone"))
    imports.run(engine, made.id, write_table(*rows, extra=EXTRA), settings=settings, now=now)
    later = now + timedelta(hours=1)
    changed = (ROWS[0] | {"price": "16.00 EUR"}, *ROWS[1:])
    imports.run(engine, made.id, write_table(*changed, extra=EXTRA), settings=settings, now=later)
    return made


@pytest.mark.parametrize(
    ("query", "found"),
    [
        ({}, "bcda"),
        ({"q": "SHIRT"}, "ba"),
        ({"q": "cotton"}, "ca"),
        ({"q": "cotton shirt"}, "a"),
        ({"q": "loom"}, "ba"),
        # Signs that mean something in LIKE are letters here.
        ({"q": "100%"}, "a"),
        ({"q": "%"}, "a"),
        ({"q": "_"}, "d"),
        ({"q": "\\"}, ""),
        ({"brand": "loom"}, "a"),
        ({"gtin": "4006381333931"}, "c"),
        ({"gtin": "04006381333931"}, "c"),
        ({"availability": "out_of_stock"}, "d"),
        ({"price_min_minor": 1600, "price_max_minor": 2000}, "ba"),
        ({"price_min_minor": 2001}, "d"),
        ({"category": "Apparel > "}, "a"),
        ({"category": "apparel"}, "ba"),
        ({"updated_since": datetime.fromisoformat("2026-03-10T13:00:00Z")}, "a"),
        ({"q": "shirt", "price_max_minor": 1600}, "a"),
    ],
)
def test_search(engine: Engine, source: FeedSource, query: dict[str, str], found: str) -> None:
    with reading(engine) as session:
        rows = catalog.page(
            session,
            program_ids=[source.program_id],
            query=ProductQuery(**query),  # type: ignore[arg-type]  # mixed kinds of one table
            after_seq=0,
            limit=10,
        )
    assert "".join(row.item_id for row in rows) == found


def test_pages_go_on_and_keep_to_their_programs(
    *,
    engine: Engine,
    source: FeedSource,
    settings: Settings,
    make_source: MakeSource,
    write_table: WriteTable,
    now: datetime,
) -> None:
    other = make_source(engine, code="other")
    imports.run(engine, other.id, write_table(item("x")), settings=settings, now=now)
    everything = ProductQuery()
    own, both = [source.program_id], [source.program_id, other.program_id]
    with reading(engine) as session:
        first = catalog.page(session, program_ids=own, query=everything, limit=3)
        assert [row.item_id for row in first] == ["b", "c", "d"]
        rest = catalog.page(session, program_ids=own, query=everything, after_seq=first[-1].seq)
        assert [row.item_id for row in rest] == ["a"]
        all_of_both = catalog.page(session, program_ids=both, query=everything)
        assert [row.item_id for row in all_of_both] == ["b", "c", "d", "a", "x"]
        assert catalog.page(session, program_ids=[], query=everything) == []
        counted = [catalog.count(session, chosen) for chosen in ([], own, both)]
    assert counted == [0, 4, 5]


@pytest.mark.parametrize(
    ("query", "field", "rule"),
    [
        ({"q": "x" * 201}, "q", "length"),
        ({"q": "a b c d e f g h i"}, "q", "words"),
        ({"brand": "x" * 201}, "brand", "length"),
        ({"category": "x" * 201}, "category", "length"),
        ({"gtin": "12"}, "gtin", "gtin"),
        ({"gtin": "１２３４５６７８"}, "gtin", "gtin"),  # noqa: RUF001 - digits, but not ASCII
        ({"availability": "soon"}, "availability", "enum"),
    ],
)
def test_query_that_breaks_a_rule(
    sqlite_engine: Engine, query: dict[str, str], field: str, rule: str
) -> None:
    with reading(sqlite_engine) as session, pytest.raises(InvalidInput) as caught:
        catalog.page(session, program_ids=[], query=ProductQuery(**query))  # type: ignore[arg-type]  # as above
    assert [(one.field, one.rule) for one in caught.value.problems] == [(field, rule)]


def test_every_availability_can_be_asked_for() -> None:
    assert set(AVAILABILITIES) == set(_AVAILABILITY.values())


def test_sources_are_seen_by_those_who_run_them(
    engine: Engine, source: FeedSource, make_source: MakeSource
) -> None:
    other = make_source(engine, code="other")
    manager = Actor(id="m", role=Role.MANAGER, party_id="", name="M")
    publisher = Actor(id="p", role=Role.PUBLISHER, party_id="pub", name="P")
    with reading(engine) as session:
        advertiser_id = program_of(session, source).advertiser_id
        advertiser = Actor(id="a", role=Role.ADVERTISER, party_id=advertiser_id, name="A")
        seen = {one.id for one in catalog.sources(session, manager)}
        assert seen == {source.id, other.id}
        assert [one.id for one in catalog.sources(session, advertiser)] == [source.id]
        assert catalog.source(session, advertiser, source.id).id == source.id
        with pytest.raises(NotFound):
            catalog.source(session, advertiser, other.id)
        with pytest.raises(Forbidden):
            catalog.sources(session, publisher)


def test_latest_looks_come_first(engine: Engine, source: FeedSource, now: datetime) -> None:
    with reading(engine) as session:
        looks = catalog.last_imports(session, source.id)
        newest = catalog.last_imports(session, source.id, limit=1)
    assert [(look.at - now, look.added, look.changed) for look in looks] == [
        (timedelta(hours=1), 0, 1),
        (timedelta(0), 5, 0),
    ]
    assert [look.id for look in newest] == [looks[0].id]


def test_rejections_by_page_and_severity(
    engine: Engine,
    settings: Settings,
    make_source: MakeSource,
    write_table: WriteTable,
    now: datetime,
) -> None:
    made = make_source(engine)
    rows = (item("a", price="15.00EUR"), item("b", price="?"), item("c", title=""))
    look: FeedImport = imports.run(engine, made.id, write_table(*rows), settings=settings, now=now)
    with unit_of_work(engine) as session:
        found = catalog.rejections(session, look.id)
        assert [row.item_id for row in found] == ["a", "b", "c"]
        after = catalog.rejections(session, look.id, after_seq=found[0].seq or 0, limit=1)
        assert [row.item_id for row in after] == ["b"]
        warnings = catalog.rejections(session, look.id, severity="warning")
        assert [row.item_id for row in warnings] == ["a"]
