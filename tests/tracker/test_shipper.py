"""Events reach the database exactly once, on both databases, whatever lies between them."""

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import select

from kernel import clock
from kernel.database import reading
from kernel.keys import Keys
from kernel.outbox import OutboxRow
from kernel.settings import Settings
from tests import make
from tracker import conversions, events, orders, shipper
from tracker.click_ids import FLAG_IMPORTED, ClickIdSigner
from tracker.events import ChangeReported, ClickSeen, Event, Item, Order, OrderReported
from tracker.geo import GeoResolver
from tracker.journal import Journal, open_journal
from tracker.models import (
    Click,
    ClickDay,
    Conversion,
    ConversionChange,
    ConversionItem,
    IntakeRefusal,
    JournalPosition,
    VisitorSalt,
)
from tracker.node import click_id_signer
from tracker.rollup_models import RollupDay

NOW = clock.now()


class Bench:
    """A database with a network, a journal to write to, and the shipper between them."""

    def __init__(
        self, engine: Engine, world: Any, keys: Keys, settings: Settings, geo: GeoResolver
    ) -> None:
        self.engine, self.world, self.keys, self.settings = engine, world, keys, settings
        self.geo = geo
        self.signer: ClickIdSigner = click_id_signer(keys)
        self.journal = self.open(1)

    def open(self, number: int) -> Journal:
        return open_journal(
            self.settings.data_dir / "journal" / str(number),
            segment_bytes_max=2**16,
            journal_bytes_max=2**24,
            record_bytes_max=2**16,
        )

    def write(self, *written: Event | bytes, journal: Journal | None = None) -> None:
        (journal or self.journal).sync_append_many(
            [one if isinstance(one, bytes) else events.encode(one) for one in written]
        )

    def ship(self, step: Callable[[str], object] = lambda _: None) -> shipper.Shipped:
        return shipper.ship_all(
            self.engine,
            self.settings.data_dir / "journal",
            keys=self.keys,
            geo=self.geo,
            settings=self.settings,
            now=NOW,
            step=step,
        )

    def click(self, seconds: float = 0, **facts: Any) -> ClickSeen:
        at = NOW + timedelta(seconds=seconds)
        known = {
            "program_number": self.world.shop_number,
            "publisher_number": self.world.blog_number,
            "address": "91.0.0.77",
            "user_agent": "Mozilla/5.0 Gecko/",
        } | facts
        numbers = {name: known[name] for name in ("program_number", "publisher_number")}
        return ClickSeen(id=self.signer.mint(at=at, **numbers), at=at, page="https://x/", **known)

    def order(self, order_id: str = "1", amount: int = 1000, **facts: Any) -> OrderReported:
        order = Order(order_id=order_id, event="sale", currency="EUR", amount_minor=amount, **facts)
        return OrderReported(
            conversion_id=conversions.id_of(
                self.keys.derive("conversion-id"),
                program_id=self.world.shop_id,
                order_id=order_id,
                event="sale",
            ),
            program_id=self.world.shop_id,
            content_hash=orders.content_hash(self.world.shop_id, order),
            received_at=NOW,
            channel="api",
            imported=False,
            order=order,
        )

    def refund(self, order: OrderReported, key: str, amount: int, **facts: Any) -> ChangeReported:
        return ChangeReported(
            id=f"chg_{key}",
            key=key,
            conversion_id=order.conversion_id,
            program_id=order.program_id,
            order_id=order.order.order_id,
            kind="refund",
            content_hash=f"{key}:{amount}",
            occurred_at=NOW,
            received_at=NOW,
            amount_minor=amount,
            **facts,
        )

    def rows(self, model: Any, order_by: Any = None) -> Sequence[Any]:
        if model is Click:
            return sorted(make.clicks(self.engine), key=lambda row: row.at)
        with reading(self.engine) as session:
            return list(session.exec(select(model).order_by(order_by)))


@pytest.fixture
def bench(engine: Any, make_world: Any, keys: Any, settings: Any, geo: Any) -> Iterator[Bench]:
    made = Bench(engine, make_world(engine), keys, settings, geo)
    yield made
    made.journal.sync_close()


def test_everything_arrives_with_its_follow_ups_and_the_position(bench: Any) -> None:
    order = bench.order(items=(Item("a", "c", 2, 700), Item("b", "", 1, 300)))
    bench.write(bench.click(), order, bench.refund(order, "k1", 100, line=1, reason="why"))
    shipped = bench.ship()
    assert (shipped.clicks, shipped.conversions, shipped.changes) == (1, 1, 1)
    assert (shipped.repeated, shipped.refused, shipped.damaged, shipped.records) == (0, 0, 0, 3)
    click = bench.rows(Click)[0]
    assert (click.program_id, click.publisher_id) == (bench.world.shop_id, bench.world.blog_id)
    assert (click.country, click.agent_class) == ("DE", "browser")
    assert click.at == NOW
    row = bench.rows(Conversion)[0]
    assert (row.id, row.amount_minor, row.occurred_at) == (order.conversion_id, 1000, NOW)
    assert [
        (one.line, one.sku, one.amount_minor) for one in bench.rows(ConversionItem, "line")
    ] == [(0, "a", 700), (1, "b", 300)]
    change = bench.rows(ConversionChange)[0]
    assert (change.conversion_id, change.line, change.amount_minor) == (row.id, 1, 100)
    assert [(one.kind, one.subject_id) for one in bench.rows(OutboxRow, "seq")] == [
        ("conversion.recorded", row.id),
        ("conversion.changed", row.id),
    ]
    position = bench.rows(JournalPosition)[0]
    assert position.journal_id == str(bench.journal.identity)
    assert (position.clicks, position.conversions, position.damaged) == (1, 1, 0)
    assert not bench.ship()
    with reading(bench.engine) as session:
        assert shipper.backlog_bytes(session, bench.settings.data_dir / "journal") == 0


def test_seq_is_the_order_of_the_journal(bench: Any) -> None:
    bench.write(*(bench.order(str(number)) for number in range(50)))
    bench.ship()
    rows = bench.rows(Conversion, "seq")
    assert [row.order_id for row in rows] == [str(number) for number in range(50)]


def test_repeats_collapse_and_conflicts_are_listed(bench: Any) -> None:
    other = bench.open(2)
    first, conflicting = bench.order(), bench.order(amount=2000)
    bench.write(first, first, conflicting)
    bench.write(first, conflicting, bench.order("2"), journal=other)
    shipped = bench.ship()
    assert (shipped.conversions, shipped.repeated, shipped.refused) == (2, 2, 2)
    assert [row.amount_minor for row in bench.rows(Conversion, "seq")] == [1000, 1000]
    assert len(bench.rows(OutboxRow)) == 2
    refusals = bench.rows(IntakeRefusal, "seq")
    assert [(row.code, row.order_id) for row in refusals] == [("order_conflict", "1")] * 2
    assert refusals[0].detail == "order '1' was reported before with another amount"
    assert refusals[0].payload["amount_minor"] == 2000
    other.sync_close()


def test_refunds_that_are_too_much_or_too_early_are_listed(bench: Any) -> None:
    order, unknown = bench.order(), bench.order("unknown")
    bench.write(
        order,
        bench.refund(order, "a", 600),
        bench.refund(order, "a", 600),
        bench.refund(order, "a", 500),
        bench.refund(order, "b", 401),
        bench.refund(order, "c", 400),
        bench.refund(order, "d", 1, line=7),
        bench.refund(unknown, "e", 1),
    )
    shipped = bench.ship()
    assert (shipped.changes, shipped.repeated, shipped.refused) == (2, 1, 4)
    assert [row.amount_minor for row in bench.rows(ConversionChange, "seq")] == [600, 400]
    assert [row.code for row in bench.rows(IntakeRefusal, "seq")] == [
        "change_conflict",
        "refund_exceeds_order",
        "invalid_input",
        "order_unknown",
    ]


def test_links_and_programs_that_do_not_exist_are_listed(bench: Any) -> None:
    lost = bench.order()
    lost = OrderReported(
        **{name: getattr(lost, name) for name in lost.__struct_fields__}
        | {"program_id": "prg_gone"}
    )
    bench.write(bench.click(publisher_number=999), bench.click(program_number=999), lost)
    shipped = bench.ship()
    assert (shipped.clicks, shipped.conversions, shipped.refused) == (0, 0, 3)
    assert sorted(row.code for row in bench.rows(IntakeRefusal)) == [
        "unknown_link",
        "unknown_link",
        "unknown_program",
    ]


def test_a_poisoned_record_stops_nobody_else(bench: Any) -> None:
    """Undecodable bytes, and a value that the database itself refuses."""
    too_much = bench.order("too-much", amount=2**63)
    bench.write(bench.order("a"), b"\xc1 no event", too_much, bench.order("b"), bench.click())
    total = shipper.Shipped()
    while shipped := bench.ship():
        total += shipped
    assert (total.conversions, total.clicks, total.refused) == (2, 1, 2)
    assert [row.order_id for row in bench.rows(Conversion, "seq")] == ["a", "b"]
    refusals = bench.rows(IntakeRefusal, "seq")
    assert [row.code for row in refusals] == ["record_unreadable"] * 2
    assert refusals[0].payload["base64"] == "wSBubyBldmVudA=="
    assert refusals[0].payload["position"] == "1:" + refusals[0].payload["position"][2:]


def test_control_characters_reach_both_databases(bench: Any) -> None:
    bench.write(bench.click(query="s1=%00%01&x=%00", user_agent="a\x7fb"))
    assert bench.ship().clicks == 1
    assert bench.rows(Click)[0].sub_ids == {"s1": "\ufffd\ufffd"}


def test_damage_is_counted_listed_and_passed(bench: Any) -> None:
    bench.write(bench.order("a"))
    bench.write(bench.order("b"))
    bench.write(bench.order("c"))
    path: Path = bench.settings.data_dir / "journal" / "1" / "0000000001.log"
    content = path.read_bytes()
    at = content.index(bench.order("b").conversion_id.encode())
    path.write_bytes(content[:at] + b"X" + content[at + 1 :])
    shipped = bench.ship()
    assert (shipped.conversions, shipped.damaged) == (2, 1)
    assert [row.order_id for row in bench.rows(Conversion, "seq")] == ["a", "c"]
    assert [row.code for row in bench.rows(IntakeRefusal)] == ["journal_damaged"]
    assert bench.rows(JournalPosition)[0].damaged == 1
    assert not bench.ship()
    assert len(bench.rows(IntakeRefusal)) == 1


def test_duplicates_within_the_window_in_batch_and_in_database(bench: Any) -> None:
    bench.write(bench.click(0), bench.click(10), bench.click(10, user_agent="Mozilla/5.0 Other"))
    bench.ship()
    bench.write(
        bench.click(60),
        bench.click(60.001),
        bench.click(200),
        bench.click(61, program_number=bench.world.other_number),
        bench.click(62, reason="prefetch"),
        bench.click(63, address="", user_agent="", reason="no_consent"),
    )
    bench.ship()
    rows = bench.rows(Click, "at")
    seconds = [((row.at - NOW).total_seconds(), row.duplicates) for row in rows]
    assert seconds == [
        (0, 0),
        (10, seconds[1][1]),
        (10, seconds[2][1]),
        (60, 2),
        (60.001, 2),
        (61, 0),
        (62, 3),
        (63, 0),
        (200, 0),
    ]
    assert {seconds[1][1], seconds[2][1]} == {0, 1}


def test_shipped_segments_go(bench: Any) -> None:
    for number in range(300):
        bench.write(bench.order(str(number), coupon="x" * 120, click_id="y" * 250))
    directory = bench.settings.data_dir / "journal" / "1"
    assert len(list(directory.glob("*.log"))) > 1
    while bench.ship():
        pass
    assert len(list(directory.glob("*.log"))) == 1
    assert len(bench.rows(Conversion)) == 300


def test_two_shippers_of_one_journal_ship_once(bench: Any) -> None:
    bench.write(*(bench.order(str(number)) for number in range(20)), bench.click())
    both_have_read = threading.Barrier(2, timeout=20)
    shipped: list[shipper.Shipped] = []

    def run() -> None:
        def step(name: str) -> None:
            if name == "read":
                both_have_read.wait()

        shipped.append(bench.ship(step))

    threads = [threading.Thread(target=run) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(one.conversions for one in shipped) == [0, 20]
    assert len(bench.rows(Conversion)) == 20
    assert len(bench.rows(OutboxRow)) == 20
    assert len(bench.rows(Click)) == 1


class Interrupted(Exception):
    pass


def test_interrupted_anywhere_nothing_is_lost_or_doubled(bench: Any) -> None:
    steps: list[str] = []
    order = bench.order()
    bench.write(bench.click(), order, bench.refund(order, "k", 1))
    names = ["read", "built", "claimed", "clicks", "conversions", "changes", "impressions"]
    names.append("moved")
    by_file = bench.engine.dialect.name == "sqlite"
    if by_file:
        names.insert(2, "day files")
    else:
        names.insert(3, "rows")
    for number, stop_at in enumerate(names):

        def step(name: str, stop_at: str = stop_at) -> None:
            steps.append(name)
            if name == stop_at:
                raise Interrupted

        with pytest.raises(Interrupted):
            bench.ship(step)
        assert bench.rows(Conversion) == bench.rows(OutboxRow) == bench.rows(JournalPosition) == []
        # A day's file is committed before the rest; nothing counts its rows until that is.
        assert len(bench.rows(Click)) == (
            1 if by_file and number >= names.index("day files") else 0
        )
        assert [row.clicks for row in bench.rows(ClickDay)] in ([], [0])
    shipped = bench.ship(steps.append)
    assert (shipped.clicks, shipped.repeated) == (1, 0)
    assert steps[-len(names) - 2 :] == [*names, "committed", "removed"]
    assert not bench.ship()
    assert [row.clicks for row in bench.rows(ClickDay)] == [1]
    assert bench.rows(JournalPosition)[0].clicks == 1
    assert len(bench.rows(Click)) == len(bench.rows(Conversion)) == 1


def test_an_absent_or_foreign_folder_is_no_journal(bench: Any, tmp_path: Path) -> None:
    assert shipper.directories(tmp_path / "none") == []
    (bench.settings.data_dir / "journal" / "lost+found").mkdir()
    (bench.settings.data_dir / "journal" / "7").mkdir()
    assert [path.name for path in shipper.directories(bench.settings.data_dir / "journal")] == [
        "1",
        "7",
    ]
    assert not bench.ship()


@pytest.mark.parametrize("batches", [1, 6], ids=["together", "one_by_one"])
def test_a_visitor_at_midnight_has_another_key_and_is_still_counted(
    bench: Any, batches: int
) -> None:
    midnight = (NOW - timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    offsets = (-70.0, -20.0, 20.0, 90.0, 3_590.0, 3_610.0)

    def at(seconds: float, **facts: Any) -> ClickSeen:
        clicked: ClickSeen = bench.click((midnight - NOW).total_seconds() + seconds, **facts)
        return clicked

    clicks = [at(seconds) for seconds in offsets]
    for start in range(0, len(clicks), len(clicks) // batches):
        bench.write(*clicks[start : start + len(clicks) // batches])
        bench.ship()
    bench.write(at(21, user_agent="Mozilla/5.0 Other"), at(22, address="", user_agent=""))
    bench.ship()

    rows = {(row.at - midnight).total_seconds(): row for row in bench.rows(Click)}
    before, after, stranger, nobody = (rows[at].visitor_key for at in (-70, 20, 21, 22))
    assert [rows[at].visitor_key for at in offsets] == [before] * 2 + [after] * 4
    assert len({before, after, stranger, ""}) == 4
    assert nobody == ""
    # Within 60 seconds: also what was clicked before the salt changed.
    assert [rows[at].duplicates for at in offsets] == [0, 1, 1, 0, 0, 1]
    # Within the hour, under the earlier key; an hour after midnight nobody asks any more.
    assert [rows[at].carried_clicks for at in offsets] == [0, 0, 2, 2, 0, 0]
    assert (rows[21].carried_clicks, rows[22].carried_clicks) == (0, 0)
    starts = [row.starts_on for row in bench.rows(VisitorSalt, "starts_on")]
    # One for each day, and the one before the first, which its first hour asks for.
    assert starts == [(midnight + timedelta(days=number)).date() for number in (-2, -1, 0)]
    assert len({row.salt for row in bench.rows(VisitorSalt)}) == 3


def test_a_visitor_of_two_days_is_unique_on_each(bench: Any) -> None:
    midnight = (NOW - timedelta(days=1)).replace(hour=0, minute=0, second=0, microsecond=0)
    offset = (midnight - NOW).total_seconds()
    bench.write(*(bench.click(offset + seconds) for seconds in (-30, -1, 1, 30)))
    bench.ship()

    days = [
        (row.day, row.clicks, row.unique_clicks)
        for row in bench.rows(RollupDay, "day")
        if row.dimension == ""
    ]
    today = (midnight.date() - date(1970, 1, 1)).days
    assert days == [(today - 1, 2, 1), (today, 2, 1)]


@pytest.mark.parametrize("again", ["same_journal", "another_process"])
@pytest.mark.parametrize("stop_at", ["built", "day files", "clicks", "moved"])
def test_an_import_that_is_repeated_after_a_crash_is_in_the_books_once(
    bench: Any, stop_at: str, again: str
) -> None:
    if stop_at == "day files" and bench.engine.dialect.name != "sqlite":
        pytest.skip("days have files on SQLite only")
    at = NOW - timedelta(days=3)
    # An import makes the id of a click of its row, so that the same row gives the same id again.
    imported = [
        ClickSeen(
            id=bench.signer.mint(
                at=at,
                program_number=bench.world.shop_number,
                publisher_number=bench.world.blog_number,
                flags=FLAG_IMPORTED,
                random_bytes=bytes([number]) * 10,
            ),
            at=at,
            program_number=bench.world.shop_number,
            publisher_number=bench.world.blog_number,
            page="https://x/",
            imported=True,
        )
        for number in range(5)
    ]
    order = bench.order("past", click_id=imported[0].id)
    bench.write(*imported[:3], order)

    def crash(name: str) -> None:
        if name == stop_at:
            raise Interrupted

    with pytest.raises(Interrupted):
        bench.ship(crash)
    # Whoever imports never had an answer, and sends everything again, also what is new.
    journal = bench.journal if again == "same_journal" else bench.open(2)
    bench.write(*imported, order, journal=journal)
    shipped = bench.ship()
    while more := bench.ship():
        shipped += more

    assert (shipped.clicks, shipped.conversions) == (5, 1)
    assert shipped.repeated == 4
    stored = bench.rows(Click)
    assert sorted(row.id for row in stored) == sorted(one.id for one in imported)
    assert {row.imported for row in stored} == {True}
    assert [row.clicks for row in bench.rows(ClickDay) if row.day == at.date()] == [5]
    sums = [row for row in bench.rows(RollupDay) if row.dimension == ""]
    assert [(row.clicks, row.conversions) for row in sums if row.clicks] == [(5, 0)]
    assert len(bench.rows(Conversion)) == 1
    if journal is not bench.journal:
        journal.sync_close()
