"""Impressions: counted by the hour, exactly once, with nothing kept of who saw them."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY
from sqlalchemy.engine import Engine
from sqlmodel import col, select

from kernel import clock
from kernel.database import reading
from tests.tracker.conftest import BROWSER
from tracker import impressions, journal_reader, shipper
from tracker.events import ImpressionSeen, decode, encode
from tracker.geo import GeoResolver
from tracker.journal import open_journal
from tracker.models import Click, IntakeRefusal
from tracker.rollup_models import RollupDay, RollupHour
from tracker.rollups import hour_of


def counted(engine: Engine, dimension: str = "") -> dict[str, int]:
    """Impressions by the dimension's value; of the whole, by nothing."""
    with reading(engine) as session:
        rows = session.exec(select(RollupDay).where(RollupDay.dimension == dimension))
        return {row.value: row.impressions for row in rows}


def recorded(outcome: str) -> float:
    name = "tallystick_impressions_total"
    return REGISTRY.get_sample_value(name, {"outcome": outcome}) or 0


def journalled(tracker: Any) -> list[bytes]:
    directory = tracker.settings.data_dir / "journal" / "1"
    batch = journal_reader.read_batch(directory, None, records_max=99, bytes_max=2**20)
    return [record.payload for record in batch.records]


def test_an_image_is_counted_and_no_row_is_kept(tracker: Any, world: Any) -> None:
    before = clock.now()
    answer = tracker.get("/i/shop/blog.gif?subId1=banner&s2=top", referer="https://blog.test/")
    tracker.get("/i/shop/blog.gif?s1=banner")
    tracker.get("/i/shop/blog.gif")

    assert answer.status == 200
    assert answer.headers["content-type"] == "image/gif"
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["cross-origin-resource-policy"] == "cross-origin"
    assert "set-cookie" not in answer.headers
    # The journal has the network for the country, and nothing that names the visitor.
    for payload in journalled(tracker):
        assert b"91.0.0.0" in payload
        assert b"91.0.0.77" not in payload
        assert b"blog.test" not in payload
    assert tracker.ship().impressions == 3
    assert tracker.rows(Click) == []
    with reading(tracker.engine) as session:
        rows = list(session.exec(select(RollupHour)))
    assert sum(row.impressions for row in rows) == 3
    assert {(row.program_number, row.publisher_number) for row in rows} == {
        (world.shop_number, world.blog_number)
    }
    assert {row.hour for row in rows} <= {hour_of(before), hour_of(clock.now())}
    assert {row.clicks for row in rows} == {0}
    assert counted(tracker.engine) == {"": 3}
    assert counted(tracker.engine, "country") == {"DE": 3}
    assert counted(tracker.engine, "device") == {"desktop": 3}
    assert counted(tracker.engine, "s1") == {"banner": 2}
    assert counted(tracker.engine, "s2") == {"top": 1}


@pytest.mark.parametrize("how", ["cons", "gpc"])
def test_without_consent_only_the_count_is_kept(tracker: Any, how: str) -> None:
    if how == "gpc":
        tracker.get("/i/shop/blog.gif?s1=x", sec_gpc="1")
    else:
        tracker.get("/i/shop/blog.gif?cons=0&s1=x")

    (payload,) = journalled(tracker)
    assert b"91.0.0" not in payload
    assert b"Mozilla" not in payload
    assert tracker.ship().impressions == 1
    assert counted(tracker.engine) == {"": 1}
    assert counted(tracker.engine, "country") == {"": 1}
    assert counted(tracker.engine, "s1") == {"x": 1}


@pytest.mark.parametrize(
    ("path", "headers", "outcome"),
    [
        ("/i/shop/stranger.gif", {}, "not_a_member"),
        ("/i/paused/blog.gif", {}, "paused"),
        ("/i/shop/blog.gif", {"sec_purpose": "prefetch"}, "prefetch"),
        ("/i/shop/blog.gif", {"user_agent": "ExampleBot/1.0 (+https://bot.test)"}, "bot"),
        ("/i/shop/blog.gif", {"user_agent": "curl/8.0"}, "bot"),
    ],
)
def test_what_nobody_saw_is_an_image_and_no_impression(
    tracker: Any, path: str, headers: dict[str, str], outcome: str
) -> None:
    before = recorded(outcome)
    answer = tracker.get(path, **headers)

    assert (answer.status, answer.headers["content-type"]) == (200, "image/gif")
    assert recorded(outcome) == before + 1
    assert not tracker.ship()


def test_a_head_request_is_no_impression(tracker: Any) -> None:
    before = recorded("head")
    answer = tracker.http.head("/i/shop/blog.gif", headers={"user-agent": BROWSER})

    assert (answer.status_code, answer.content) == (200, b"")
    assert recorded("head") == before + 1
    assert not tracker.ship()


@pytest.mark.parametrize(
    "path",
    ["/i/none/blog.gif", "/i/shop/none.gif", "/i/shop/blog", "/i/shop/blog.png", "/i/a/b/c.gif"],
)
def test_an_unknown_image_is_a_404(tracker: Any, path: str) -> None:
    assert tracker.get(path).status == 404
    assert not tracker.ship()


def test_a_long_address_is_refused(tracker: Any) -> None:
    limit = tracker.settings.url_bytes_max
    assert tracker.get("/i/shop/blog.gif?s1=" + "x" * (limit - 3)).status == 200
    assert tracker.get("/i/shop/blog.gif?s1=" + "x" * (limit - 2)).status == 414
    assert tracker.ship().impressions == 1
    assert counted(tracker.engine, "s1") == {"x" * 255 + "…": 1}


def test_a_journal_that_cannot_record_still_shows_the_image(tracker: Any) -> None:
    before = REGISTRY.get_sample_value("tallystick_impressions_lost_total") or 0
    tracker.run(tracker.node.journal.close)
    assert tracker.get("/i/shop/blog.gif").status == 200
    assert REGISTRY.get_sample_value("tallystick_impressions_lost_total") == before + 1


class Stopped(Exception):
    """The process ends here."""


def test_an_impression_is_counted_once_wherever_the_shipper_stops(
    engine: Engine, make_world: Any, tmp_path: Path, keys: Any, settings: Any
) -> None:
    world = make_world(engine)
    now = clock.now()
    journal = open_journal(
        tmp_path / "journal",
        segment_bytes_max=2**16,
        journal_bytes_max=2**20,
        record_bytes_max=4096,
    )
    seen = [
        ImpressionSeen(
            at=now + timedelta(seconds=number),
            program_number=world.shop_number,
            publisher_number=world.blog_number if number < 5 else 999,
            sub_ids={"s1": str(number % 2)},
        )
        for number in range(6)
    ]
    assert [decode(encode(one)) for one in seen] == seen
    journal.sync_append_many([encode(one) for one in seen])
    journal.sync_close()

    def ship(stop_at: str = "") -> shipper.Shipped:
        def step(name: str) -> None:
            if name == stop_at:
                raise Stopped

        return shipper.ship_once(
            engine,
            tmp_path / "journal",
            keys=keys,
            geo=GeoResolver(None),
            settings=settings,
            now=now,
            step=step,
        )

    for name in ("read", "built", "claimed", "impressions", "moved", "committed"):
        with pytest.raises(Stopped):
            ship(name)
        assert sum(counted(engine).values()) == (5 if name == "committed" else 0)
    assert not ship()
    assert sum(counted(engine).values()) == 5
    assert counted(engine, "s1") == {"0": 3, "1": 2}
    with reading(engine) as session:
        (refusal,) = session.exec(select(IntakeRefusal).order_by(col(IntakeRefusal.seq))).all()
    assert (refusal.code, refusal.payload["publisher_number"]) == ("unknown_link", 999)


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("91.0.0.77", "91.0.0.0"),
        ("2003:c0::7", "2003:c0::"),
        ("::ffff:91.0.0.77", "91.0.0.0"),
        ("nonsense", ""),
        ("", ""),
    ],
)
def test_network_of(address: str, network: str) -> None:
    assert impressions.network_of(address) == network
