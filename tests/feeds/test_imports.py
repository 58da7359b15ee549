import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import select

from feeds import catalog, imports
from feeds.formats import FeedLimits
from feeds.models import FeedImport, FeedSource, Product, Rejection
from kernel.audit import AuditEntry
from kernel.database import reading, unit_of_work
from kernel.errors import InvalidInput, NotFound
from kernel.settings import Settings
from tests.feeds.conftest import WriteTable, item, products, table

MakeSource = Callable[..., FeedSource]
Counts = tuple[str, int, int, int, int, int, int]


def counts(look: FeedImport) -> Counts:
    return (
        look.status,
        look.rows,
        look.added,
        look.changed,
        look.unchanged,
        look.removed,
        look.rejected,
    )


def on_offer(engine: Engine) -> list[tuple[str, int]]:
    return [(one.item_id, one.seq) for one in products(engine) if one.removed_at is None]


def refusals(engine: Engine, look: FeedImport) -> list[tuple[int, str, str, str, str]]:
    with reading(engine) as session:
        return [
            (row.row, row.item_id, row.column, row.rule, row.severity)
            for row in catalog.rejections(session, look.id)
        ]


def test_only_differences_are_written(
    engine: Engine,
    settings: Settings,
    make_source: MakeSource,
    write_table: WriteTable,
    now: datetime,
) -> None:
    source = make_source(engine)
    first = imports.run(
        engine, source.id, write_table(*map(item, "abc")), settings=settings, now=now
    )
    assert counts(first) == ("imported", 3, 3, 0, 0, 0, 0)
    assert first.format == "google_tsv"
    assert on_offer(engine) == [("a", 1), ("b", 2), ("c", 3)]
    ids = {one.item_id: one.id for one in products(engine)}

    later = now + timedelta(hours=6)
    path = write_table(item("a"), item("c", price="12.00 EUR"), item("d"))
    second = imports.run(engine, source.id, path, settings=settings, now=later)
    assert counts(second) == ("imported", 3, 1, 1, 1, 1, 0)
    # A tombstone is a change too, and comes last.
    assert on_offer(engine) == [("a", 1), ("c", 4), ("d", 5)]
    a, c, _, b = products(engine)
    assert (b.item_id, b.seq, b.removed_at, b.id) == ("b", 6, later, ids["b"])
    assert (c.price_minor, c.updated_at, c.id) == (1200, later, ids["c"])
    assert a.updated_at == now

    third = imports.run(engine, source.id, path, settings=settings, now=later)
    assert counts(third) == ("unchanged", 3, 0, 0, 3, 0, 0)
    assert on_offer(engine) == [("a", 1), ("c", 4), ("d", 5)]

    back = write_table(item("a"), item("b"), item("c", price="12.00 EUR"), item("d"))
    fourth = imports.run(engine, source.id, back, settings=settings, now=later)
    assert counts(fourth) == ("imported", 4, 1, 0, 3, 0, 0)
    (revived,) = [one for one in products(engine) if one.item_id == "b"]
    assert (revived.id, revived.seq, revived.removed_at) == (ids["b"], 7, None)


def test_item_is_stored_as_it_was_read(
    engine: Engine,
    settings: Settings,
    make_source: MakeSource,
    write_table: WriteTable,
    now: datetime,
) -> None:
    source = make_source(engine)
    facts = {
        "brand": "Loom",
        "gtin": "4006381333931",
        "product_type": "Apparel > Shirts",
        "google_product_category": "1604",
        "additional_image_link": "https://cdn.example/2.png,https://cdn.example/3.png",
        "sale_price": "12.50 EUR",
        "sale_price_effective_date": "2026-03-01T00:00+0100/2026-03-20T00:00+0100",
        "color": "blue",
        "custom_label_0": "spring",
        "commission_group": "fashion",
    }
    path = write_table(item("a", **facts), extra=tuple(facts))
    imports.run(engine, source.id, path, settings=settings, now=now)
    (stored,) = products(engine)
    assert (stored.source_id, stored.program_id) == (source.id, source.program_id)
    assert (stored.title, stored.link) == ("Shirt a", "https://shop.example/a")
    assert (stored.brand, stored.gtin14, stored.condition) == ("Loom", "04006381333931", "new")
    assert (stored.category, stored.availability) == ("Apparel > Shirts", "in_stock")
    assert (stored.price_minor, stored.sale_price_minor, stored.currency) == (1500, 1250, "EUR")
    assert stored.extra == {
        "google_category": "1604",
        "additional_images": ["https://cdn.example/2.png", "https://cdn.example/3.png"],
        "sale_from": "2026-02-28T23:00:00.000Z",
        "sale_to": "2026-03-19T23:00:00.000Z",
        "attributes": {"color": "blue"},
        "custom_labels": {"custom_label_0": "spring"},
        "commission_group": "fashion",
    }
    assert catalog.effective_price_minor(stored, now=now) == 1250
    assert catalog.effective_price_minor(stored, now=now + timedelta(days=30)) == 1500
    assert catalog.effective_price_minor(stored, now=now - timedelta(days=30)) == 1500


def test_refused_rows_are_named_and_leave_the_catalogue(
    engine: Engine,
    settings: Settings,
    make_source: MakeSource,
    write_table: WriteTable,
    now: datetime,
) -> None:
    source = make_source(engine)
    imports.run(engine, source.id, write_table(*map(item, "ab")), settings=settings, now=now)
    path = write_table(
        item("a", price="free"),
        item("b", title="First"),
        item("b", title="Second"),
        item("c", link="https://elsewhere.example/"),
        item("d", price="9.00EUR"),
        item("d"),
    )
    look = imports.run(engine, source.id, path, settings=settings, now=now)
    assert counts(look) == ("imported", 6, 1, 1, 0, 1, 4)
    assert refusals(engine, look) == [
        (2, "a", "price", "price_form", "error"),
        (4, "b", "id", "duplicate_id", "error"),
        (5, "c", "link", "link_foreign", "error"),
        (6, "d", "price", "price_spelling", "warning"),
        (7, "d", "id", "duplicate_id", "error"),
    ]
    assert [(one.item_id, one.title) for one in products(engine) if not one.removed_at] == [
        ("b", "First"),
        ("d", "Shirt d"),
    ]


@pytest.mark.parametrize(
    ("content", "detail"),
    [
        (b"", "format_unknown: "),
        (b"\x00\x01\x02", "format_unknown: "),
        (b"<rss version='2.0'><channel><item></item>", "xml_malformed: "),
        (table(item("a"))[:-1] + b'\n"open\n' + table(item("b")), "quote_open: "),
        (b"\x1f\x8b" + b"not gzip", "gzip_damaged: "),
        (table(), "no_items: none of 0 rows"),
        (table(item("a", price="0 EUR"), item("b", price="")), "no_items: none of 2 rows"),
    ],
)
def test_broken_file_leaves_the_catalogue_alone(
    *,
    sqlite_engine: Engine,
    settings: Settings,
    make_source: MakeSource,
    tmp_path: Path,
    now: datetime,
    content: bytes,
    detail: str,
) -> None:
    source = make_source(sqlite_engine)
    path = tmp_path / "feed"
    path.write_bytes(table(*map(item, "ab")))
    imports.run(sqlite_engine, source.id, path, settings=settings, now=now)
    before = [one.model_dump() for one in products(sqlite_engine)]
    path.write_bytes(content)
    look = imports.run(sqlite_engine, source.id, path, settings=settings, now=now)
    assert look.status == "failed"
    assert look.detail.startswith(detail)
    assert (look.added, look.changed, look.removed) == (0, 0, 0)
    assert [one.model_dump() for one in products(sqlite_engine)] == before


def test_empty_feed_of_an_empty_catalogue_is_no_failure(
    sqlite_engine: Engine,
    settings: Settings,
    make_source: MakeSource,
    write_table: WriteTable,
    now: datetime,
) -> None:
    source = make_source(sqlite_engine)
    look = imports.run(sqlite_engine, source.id, write_table(), settings=settings, now=now)
    assert counts(look) == ("unchanged", 0, 0, 0, 0, 0, 0)


def test_kept_rejections_are_bounded(
    sqlite_engine: Engine,
    settings: Settings,
    make_source: MakeSource,
    write_table: WriteTable,
    now: datetime,
) -> None:
    source = make_source(sqlite_engine)
    bad = [item(str(number), price="free") for number in range(1_200)]
    look = imports.run(
        sqlite_engine, source.id, write_table(item("ok"), *bad), settings=settings, now=now
    )
    assert look.rejected == 1_200
    with reading(sqlite_engine) as session:
        assert len(session.exec(select(Rejection)).all()) == 1_000
        assert len(catalog.rejections(session, look.id, limit=5)) == 5
    one_bad = write_table(item("ok"), bad[0])
    for _ in range(10):
        now += timedelta(hours=1)
        imports.run(sqlite_engine, source.id, one_bad, settings=settings, now=now)
    assert refusals(sqlite_engine, look) == []
    with reading(sqlite_engine) as session:
        assert len(session.exec(select(Rejection)).all()) == 10


def test_many_rows_go_in_by_short_transactions(
    engine: Engine,
    settings: Settings,
    make_source: MakeSource,
    write_table: WriteTable,
    now: datetime,
) -> None:
    source = make_source(engine)
    rows = [item(f"i{number}") for number in range(1_201)]
    look = imports.run(engine, source.id, write_table(*rows), settings=settings, now=now)
    assert counts(look) == ("imported", 1_201, 1_201, 0, 0, 0, 0)
    assert [seq for _, seq in on_offer(engine)] == list(range(1, 1_202))
    look = imports.run(engine, source.id, write_table(rows[7]), settings=settings, now=now)
    assert counts(look) == ("imported", 1, 0, 0, 1, 1_200, 0)
    assert on_offer(engine) == [("i7", 8)]


class KilledError(Exception):
    pass


def test_killed_run_is_harmless_and_repeatable(
    engine: Engine,
    settings: Settings,
    make_source: MakeSource,
    write_table: WriteTable,
    now: datetime,
) -> None:
    source = make_source(engine)
    gone = [item(f"old{number}") for number in range(3)]
    imports.run(engine, source.id, write_table(*gone), settings=settings, now=now)
    path = write_table(*(item(f"i{number}") for number in range(1_100)))
    opened = 0

    with unit_of_work(engine) as session:
        session.get_one(FeedSource, source.id).etag = '"v1"'

    # Dies as a process does: between two of its transactions.
    def dying() -> Any:
        nonlocal opened
        opened += 1
        if opened == 3:
            raise KilledError
        return unit_of_work(engine)

    with reading(engine) as session:
        _, program = imports._source(session, source.id)
    terms = imports._terms(program, settings)
    with pytest.raises(KilledError):
        imports._import(lambda: reading(engine), dying, source.id, path, terms, now=now)
    # Nothing that was on offer is gone, and what is there is whole.
    assert len(on_offer(engine)) == 503
    with reading(engine) as session:
        # So the next pull is not told that nothing changed.
        assert session.get_one(FeedSource, source.id).etag == ""
    again = imports.run(engine, source.id, path, settings=settings, now=now)
    assert counts(again) == ("imported", 1_100, 600, 0, 500, 3, 0)
    assert len(on_offer(engine)) == 1_100
    with reading(engine) as session:
        looks = session.exec(select(FeedImport).where(FeedImport.status == "failed")).all()
        assert [look.detail.partition(":")[0] for look in looks] == ["overtaken"]


def test_overtaken_import_stops_and_the_later_one_stands(
    engine: Engine,
    settings: Settings,
    make_source: MakeSource,
    tmp_path: Path,
    now: datetime,
) -> None:
    source = make_source(engine)
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(table(*(item(f"i{number}", title="Old") for number in range(600))))
    new.write_bytes(table(item("i1", title="New"), item("n")))
    opened = 0

    def interleaved() -> Any:
        nonlocal opened
        opened += 1
        if opened == 3:
            imports.run(engine, source.id, new, settings=settings, now=now)
        return unit_of_work(engine)

    with reading(engine) as session:
        _, program = imports._source(session, source.id)
    terms = imports._terms(program, settings)
    look = imports._import(lambda: reading(engine), interleaved, source.id, old, terms, now=now)
    assert look.status == "failed"
    assert look.detail.startswith("overtaken: ")
    left = [(one.item_id, one.title) for one in products(engine) if one.removed_at is None]
    assert left == [("i1", "New"), ("n", "Shirt n")]


def test_sources_imported_at_once_share_one_row_of_numbers(
    engine: Engine, settings: Settings, make_source: MakeSource, tmp_path: Path, now: datetime
) -> None:
    chosen = [make_source(engine, code=code) for code in ("one", "two")]
    path = tmp_path / "feed"
    path.write_bytes(table(*(item(f"i{number}") for number in range(1_100))))
    results: list[str] = []

    def work(source: FeedSource) -> None:
        results.append(imports.run(engine, source.id, path, settings=settings, now=now).status)

    threads = [threading.Thread(target=work, args=(source,)) for source in chosen]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert results == ["imported", "imported"]
    assert [seq for _, seq in on_offer(engine)] == list(range(1, 2_201))


def test_file_within_the_callers_transaction(
    engine: Engine, make_source: MakeSource, write_table: WriteTable, now: datetime
) -> None:
    source = make_source(engine)
    path = write_table(item("a", price="1.00 USD"), item("b", price="2.00 EUR"))

    def take() -> FeedImport:
        with unit_of_work(engine) as session:
            return imports.import_file(
                session,
                session.get_one(FeedSource, source.id),
                path,
                currency="USD",
                allowed_domains=frozenset({"shop.example"}),
                limits=FeedLimits(),
                now=now,
            )

    assert counts(take()) == ("imported", 2, 1, 0, 0, 0, 1)
    assert [(one.item_id, one.currency) for one in products(engine)] == [("a", "USD")]
    assert counts(take()) == ("unchanged", 2, 0, 0, 1, 0, 1)
    path.write_bytes(b"?")
    assert take().status == "failed"
    assert on_offer(engine) == [("a", 1)]


def test_googles_example_feed(
    engine: Engine, make_source: MakeSource, shared_data: Path, now: datetime
) -> None:
    path = shared_data / "feeds" / "example_feed_xml_rss.xml"
    if not path.exists():
        pytest.skip(f"no example feed at {path}")
    source = make_source(engine)
    with unit_of_work(engine) as session:
        look = imports.import_file(
            session,
            source,
            path,
            currency="USD",
            allowed_domains=frozenset({"example.com"}),
            limits=FeedLimits(),
            now=now,
        )
    assert look.format == "google_rss"
    assert (look.rows, look.added + look.rejected) == (6, 6)
    (television,) = [one for one in products(engine) if one.item_id == "TV_123456"]
    assert (television.price_minor, television.condition) == (15_900, "used")


def test_source_is_checked_and_audited(
    sqlite_engine: Engine, make_source: MakeSource, now: datetime
) -> None:
    source = make_source(sqlite_engine, url="https://shop.example/feed.xml?key=secret")
    assert (source.next_pull_at, source.name) == (now, "Main")
    with unit_of_work(sqlite_engine) as session:
        entry = session.exec(select(AuditEntry).where(AuditEntry.subject_id == source.id)).one()
        assert (entry.action, entry.actor) == ("feed_source.add", "usr_m")
        assert entry.facts == {"program_id": source.program_id, "host": "shop.example"}
        for name, url, field_name in (
            (" ", "", "name"),
            ("x" * 101, "", "name"),
            ("x", "ftp://shop.example/", "url"),
            ("x", "https://user@shop.example/", "url"),
            ("x", "https://shop.example:99999/", "url"),
        ):
            with pytest.raises(InvalidInput) as caught:
                imports.add_source(
                    session, program_id=source.program_id, name=name, url=url, actor="x", now=now
                )
            assert caught.value.problems[0].field == field_name
        with pytest.raises(NotFound):
            imports.add_source(session, program_id="none", name="x", url="", actor="x", now=now)
        for _ in range(99):
            imports.add_source(
                session, program_id=source.program_id, name="x", url="", actor="x", now=now
            )
        with pytest.raises(imports.TooManySources):
            imports.add_source(
                session, program_id=source.program_id, name="x", url="", actor="x", now=now
            )
        assert len(session.exec(select(FeedSource)).all()) == 100


@dataclass
class Shop:
    """A web server that answers what the test tells it to."""

    body: bytes = b""
    etag: str = ""
    status: int = 200
    says_length: bool = True
    asked: list[str] = field(default_factory=list)


@pytest.fixture
def shop() -> Iterator[tuple[Shop, str]]:
    state = Shop()

    class Answers(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            wanted = self.headers.get("If-None-Match", "")
            state.asked.append(wanted)
            same = bool(wanted) and wanted == state.etag
            self.send_response(304 if same else state.status)
            if state.etag:
                self.send_header("ETag", state.etag)
            if state.says_length and not same:
                self.send_header("Content-Length", str(len(state.body)))
            self.end_headers()
            if not same:
                self.wfile.write(state.body)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - stdlib's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield state, f"http://127.0.0.1:{server.server_address[1]}/feed.tsv"
    server.shutdown()
    server.server_close()
    thread.join(5)


@pytest.fixture
def pulling(settings: Settings) -> Settings:
    return settings.model_copy(update={"feed_private_hosts": "127.0.0.1"})


def test_pull_asks_once_for_what_did_not_change(
    engine: Engine,
    pulling: Settings,
    make_source: MakeSource,
    shop: tuple[Shop, str],
    now: datetime,
) -> None:
    state, url = shop
    source = make_source(engine, url=url)
    state.body, state.etag = table(*map(item, "ab")), '"v1"'
    first = imports.pull(engine, source.id, settings=pulling, now=now)
    assert counts(first) == ("imported", 2, 2, 0, 0, 0, 0)
    second = imports.pull(engine, source.id, settings=pulling, now=now)
    assert (second.status, second.detail) == ("unchanged", "not_modified")
    # A file that cannot be taken must not pass for the version we have.
    state.body, state.etag = b"<html>maintenance</html>", '"v2"'
    third = imports.pull(engine, source.id, settings=pulling, now=now)
    assert (third.status, third.detail.partition(":")[0]) == ("failed", "format_unknown")
    state.body = table(item("b"))
    fourth = imports.pull(engine, source.id, settings=pulling, now=now)
    assert counts(fourth) == ("imported", 1, 0, 0, 1, 1, 0)
    assert state.asked == ["", '"v1"', '"v1"', '"v1"']
    with reading(engine) as session:
        assert session.get_one(FeedSource, source.id).etag == '"v2"'
        newest = catalog.last_imports(session, source.id, 2)
        assert len(newest) == 2
    assert list((pulling.data_dir / "feeds").iterdir()) == []


def test_upload_makes_the_next_pull_a_full_one(
    *,
    sqlite_engine: Engine,
    pulling: Settings,
    make_source: MakeSource,
    shop: tuple[Shop, str],
    write_table: WriteTable,
    now: datetime,
) -> None:
    state, url = shop
    state.body, state.etag = table(item("a")), '"v1"'
    source = make_source(sqlite_engine, url=url)
    imports.pull(sqlite_engine, source.id, settings=pulling, now=now)
    imports.run(sqlite_engine, source.id, write_table(item("b")), settings=pulling, now=now)
    assert [name for name, _ in on_offer(sqlite_engine)] == ["b"]
    imports.pull(sqlite_engine, source.id, settings=pulling, now=now)
    assert state.asked == ["", ""]
    assert [name for name, _ in on_offer(sqlite_engine)] == ["a"]


def test_failed_fetch_is_a_failed_import_and_nothing_else(
    engine: Engine,
    pulling: Settings,
    make_source: MakeSource,
    shop: tuple[Shop, str],
    now: datetime,
) -> None:
    state, url = shop
    source = make_source(engine, url=url)
    state.body = table(item("a"))
    imports.pull(engine, source.id, settings=pulling, now=now)
    state.status = 500
    look = imports.pull(engine, source.id, settings=pulling, now=now)
    assert (look.status, look.detail) == (
        "failed",
        "outbound_status: The server answered with status 500.",
    )
    closed = Settings(data_dir=pulling.data_dir)
    asked = len(state.asked)
    look = imports.pull(engine, source.id, settings=closed, now=now)
    assert (look.status, look.detail.partition(":")[0]) == ("failed", "outbound_url_refused")
    assert len(state.asked) == asked
    assert on_offer(engine) == [("a", 1)]


def test_table_that_may_be_cut_removes_nothing(
    sqlite_engine: Engine,
    pulling: Settings,
    make_source: MakeSource,
    shop: tuple[Shop, str],
    now: datetime,
) -> None:
    state, url = shop
    source = make_source(sqlite_engine, url=url)
    state.body = table(*map(item, "ab"))
    imports.pull(sqlite_engine, source.id, settings=pulling, now=now)
    state.body, state.says_length = table(item("a", title="New")), False
    look = imports.pull(sqlite_engine, source.id, settings=pulling, now=now)
    assert counts(look) == ("imported", 1, 0, 1, 0, 0, 0)
    assert look.detail.startswith("maybe_cut: ")
    assert [name for name, _ in on_offer(sqlite_engine)] == ["b", "a"]


def test_source_without_url_is_not_pulled(
    sqlite_engine: Engine, settings: Settings, make_source: MakeSource, now: datetime
) -> None:
    source = make_source(sqlite_engine)
    assert source.next_pull_at is None
    with pytest.raises(imports.NothingToPull):
        imports.pull(sqlite_engine, source.id, settings=settings, now=now)
    with pytest.raises(NotFound):
        imports.pull(sqlite_engine, "src_none", settings=settings, now=now)
    with reading(sqlite_engine) as session:
        assert session.exec(select(FeedImport)).all() == []
        assert session.exec(select(Product)).all() == []
