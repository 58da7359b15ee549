"""The routing table follows the database, and outlives it."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from kernel import clock
from kernel.database import unit_of_work
from kernel.errors import NotFound
from network import access, programs, publishers
from network.models import MembershipStatus, ProgramStatus
from tracker import routing
from tracker.routing import RoutingUnavailable, open_routing


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
    assert list(path.parent.iterdir()) == [path]
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
