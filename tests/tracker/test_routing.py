"""The routing table follows the database, and outlives it."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import col, select

from kernel import clock
from kernel.database import reading, unit_of_work
from kernel.errors import NotFound
from network import access, programs, publishers
from network.access import Actor
from network.models import MembershipStatus, ProgramStatus, Publisher, Role, RoutingVersion
from tracker import link_routes, links, routing
from tracker.link_routes import LinkRoute, read_changes
from tracker.models import Link
from tracker.routing import Routing, RoutingUnavailable, open_routing

MANAGER = Actor(id="usr_m", role=Role.MANAGER, party_id="", name="M")


def test_everything_a_tracker_needs(engine: Engine, make_world: Any, tmp_path: Path) -> None:
    world = make_world(engine)
    table = open_routing(tmp_path / "routing.json", engine).table
    shop = table.find_program("shop")
    assert table.find_program(world.shop_id) is shop
    assert (shop.number, shop.currency, shop.is_active) == (world.shop_number, "EUR", True)
    assert (shop.click_parameter, shop.allowed_domains) == ("ts_click", ("shop.test",))
    assert (shop.order_age_days_max, shop.landing_url) == (30, "https://shop.test/start?ref=1#top")
    assert not table.programs["paused"].is_active
    blog, stranger = table.find_publisher("blog"), table.find_publisher(world.stranger_id)
    assert table.publishers_by_number[blog.number] is blog
    assert table.is_member(shop, blog)
    assert not table.is_member(shop, stranger)
    assert table.program_of_token(access.token_hash(world.token)) is shop
    assert table.program_of_token(access.token_hash("x")) is None
    assert list(table.programs_of(world.advertiser_id)) == [shop]
    for find in (table.find_program, table.find_publisher):
        with pytest.raises(NotFound):
            find("none")


def test_refresh_notices_every_kind_of_change(
    engine: Engine, make_world: Any, tmp_path: Path
) -> None:
    make_world(engine)
    path = tmp_path / "routing.json"
    held = open_routing(path, engine)
    assert held.refresh(engine) is False
    before = held.table
    now = clock.now()
    with unit_of_work(engine) as session:
        shop = programs.find(session, "shop")
        programs.set_status(session, shop, status=ProgramStatus.PAUSED, actor="t", now=now)
    assert held.refresh(engine) is True
    assert held.table.version == before.version + 1
    assert (before.programs["shop"].is_active, held.table.programs["shop"].is_active) == (
        True,
        False,
    )
    with unit_of_work(engine) as session:
        shop = programs.find(session, "shop")
        publisher = publishers.add(session, code="new", name="New", now=now)
        publishers.set_membership(
            session,
            program=shop,
            publisher=publisher,
            status=MembershipStatus.APPROVED,
            actor="t",
            now=now,
        )
        token = access.add_postback_token(session, program=shop, actor="t", now=now)
    assert held.refresh(engine) is True
    table = held.table
    assert table.is_member(table.programs["shop"], table.publishers["new"])
    assert table.program_of_token(access.token_hash(token)) is table.programs["shop"]
    assert routing.load(path) == table.snapshot
    assert held.refresh(engine) is False


def test_a_saved_table_opens_without_database(
    engine: Engine, make_world: Any, tmp_path: Path, dead_engine: Engine
) -> None:
    make_world(engine)
    path = tmp_path / "deep" / "routing.json"
    saved = open_routing(path, engine).table
    assert path.stat().st_mode & 0o777 == 0o600
    assert sorted(path.parent.iterdir()) == sorted([path, path.with_suffix(".links")])
    assert path.with_suffix(".links").stat().st_mode & 0o777 == 0o600
    assert open_routing(path, dead_engine).table.snapshot == saved.snapshot


@pytest.mark.parametrize("content", [None, b"", b"{}", b"\xff", b'{"version": "1"}'])
def test_without_both_there_is_no_start(
    tmp_path: Path, dead_engine: Engine, content: bytes | None
) -> None:
    path = tmp_path / "routing.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(RoutingUnavailable):
        open_routing(path, dead_engine)


def make_links(engine: Engine, count: int, *, prefix: str = "c") -> list[Link]:
    with unit_of_work(engine) as session:
        shop = programs.find(session, "shop")
        blog = session.exec(select(Publisher).where(Publisher.code == "blog")).one()
        wanted = [
            links.Wanted("shop", "blog", "", {"s1": "x"}, code=f"{prefix}-{number:04d}")
            for number in range(count)
        ]
        drafts = [
            links.Draft(shop, blog, "https://shop.test/p" if at % 2 else "", one)
            for at, one in enumerate(wanted)
        ]
        made = links.create(
            session, drafts, actor=MANAGER, publisher_links_max=10**6, now=clock.now()
        )
    return [one for one in made if isinstance(one, Link)]


def numbers_read(engine: Engine, held: Routing) -> list[int]:
    """The parameters of the look for changed links, while the routing is refreshed."""
    seen: list[int] = []

    def note(_c: Any, _cursor: Any, statement: str, given: Any, _x: Any, _many: Any) -> None:
        if "link.change >" in statement:
            seen.extend(given.values() if isinstance(given, dict) else given)

    sa.event.listen(engine, "before_cursor_execute", note)
    held.refresh(engine)
    sa.event.remove(engine, "before_cursor_execute", note)
    return seen


def test_links_follow_change_by_change(engine: Engine, make_world: Any, tmp_path: Path) -> None:
    world = make_world(engine)
    made = make_links(engine, 5000)
    held = open_routing(tmp_path / "routing.json", engine)
    found = held.table.links
    assert (len(found), found.number) == (5000, 5000)
    assert found.find("c-0001") == LinkRoute(
        world.shop_number,
        world.blog_number,
        is_active=True,
        has_page=True,
        query="url=https%3A%2F%2Fshop.test%2Fp&s1=x",
    )
    plain = found.find("c-0000")
    assert plain is not None
    assert (plain.has_page, plain.query) == (False, "s1=x")
    assert found.find("none") is None
    assert held.refresh(engine) is False
    assert numbers_read(engine, held) == [], "nothing new, nothing read"

    [new] = make_links(engine, 1, prefix="new")
    with unit_of_work(engine) as session:
        links.retire(session, session.get_one(Link, made[7].id), actor=MANAGER, now=clock.now())
    version = held.table.version
    assert numbers_read(engine, held) == [5000]
    assert held.table.version == version, "programs are not read again"
    assert held.table.links is found
    assert (len(found), found.number) == (5001, 5002)
    retired = found.find("c-0007")
    assert retired is not None
    assert not retired.is_active
    assert found.find(new.code) is not None
    assert held.refresh(engine) is False


def test_saved_links_open_without_database(
    engine: Engine, make_world: Any, tmp_path: Path, dead_engine: Engine
) -> None:
    make_world(engine)
    make_links(engine, 3)
    path = tmp_path / "routing.json"
    held = open_routing(path, engine)
    make_links(engine, 2, prefix="later")
    assert held.refresh(engine) is True
    again = open_routing(path, dead_engine).table.links
    assert (len(again), again.number) == (5, 5)
    for code in ("c-0000", "c-0001", "c-0002", "later-0000", "later-0001"):
        assert again.find(code) == held.table.links.find(code)


@pytest.mark.parametrize("content", [None, b"", b"no database", b"SQLite format 3\0" + b"x" * 200])
def test_a_damaged_copy_of_links_is_no_reason_not_to_start(
    sqlite_engine: Engine, world: Any, tmp_path: Path, dead_engine: Engine, content: bytes | None
) -> None:
    del world
    make_links(sqlite_engine, 3)
    path = tmp_path / "routing.json"
    open_routing(path, sqlite_engine)
    copy = path.with_suffix(".links")
    if content is None:
        copy.unlink()
    else:
        copy.write_bytes(content)
    table = open_routing(path, dead_engine).table
    assert (len(table.links), "shop" in table.programs) == (0, True)


def test_what_could_not_be_saved_is_saved_later(
    sqlite_engine: Engine, world: Any, tmp_path: Path, dead_engine: Engine
) -> None:
    del world
    path = tmp_path / "routing.json"
    held = open_routing(path, sqlite_engine)
    copy = path.with_suffix(".links")
    aside = copy.rename(tmp_path / "aside")
    copy.mkdir()
    make_links(sqlite_engine, 2)
    with pytest.raises(OSError, match="unable to open"):
        held.refresh(sqlite_engine)
    assert len(held.table.links) == 2, "visitors are sent on all the same"
    copy.rmdir()
    aside.rename(copy)
    assert held.refresh(sqlite_engine) is True
    assert len(open_routing(path, dead_engine).table.links) == 2
    assert held.refresh(sqlite_engine) is False


def test_another_database_replaces_every_link(
    sqlite_engine: Engine, world: Any, tmp_path: Path
) -> None:
    """A backup was restored: its numbers begin where they were then."""
    del world
    make_links(sqlite_engine, 4)
    held = open_routing(tmp_path / "routing.json", sqlite_engine)
    with unit_of_work(sqlite_engine) as session:
        session.execute(sa.delete(Link).where(col(Link.change) > 2))
        session.get_one(RoutingVersion, 1).links = 2
    assert held.refresh(sqlite_engine) is True
    assert (len(held.table.links), held.table.links.number) == (2, 2)
    assert held.table.links.find("c-0003") is None
    assert held.refresh(sqlite_engine) is False


def test_numbers_become_visible_in_their_order(engine: Engine, make_world: Any) -> None:
    """A node that has seen a number never misses a lower one that is committed later."""
    make_world(engine)
    seen: list[int] = []

    def make(prefix: str) -> None:
        for number in range(10):
            make_links(engine, 3, prefix=f"{prefix}{number}")
            with reading(engine) as session:
                seen.append(link_routes.number_of(session))
                changes = [one[1] for part in read_changes(session, after=0) for one in part]
                assert changes == list(range(1, len(changes) + 1))

    with ThreadPoolExecutor(4) as pool:
        for done in [pool.submit(make, prefix) for prefix in "abcd"]:
            done.result()
    assert max(seen) == 120
