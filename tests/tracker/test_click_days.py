"""Clicks stand in days: found there, let go with them, and what is asked of a gone day is None."""

import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from kernel.database import connect, reading, unit_of_work
from network.models import Program, Publisher
from tests import make
from tracker import click_days, click_rows, clicks, day_files, seen_clicks, visitors
from tracker.click_ids import ClickIdSigner, time_of
from tracker.day_files import COLUMNS, Place
from tracker.models import Click, ClickDay, VisitorSalt

NOW = make.NOW
DAY = timedelta(days=1)


@pytest.fixture
def parties(engine: Engine) -> tuple[Program, Publisher]:
    with unit_of_work(engine) as session:
        program = make.program(session)
        return program, make.publisher(session, member_of=program)


@pytest.fixture
def keep(engine: Engine, parties: tuple[Program, Publisher]) -> Callable[..., Click]:
    def kept(at: datetime, **facts: Any) -> Click:
        with unit_of_work(engine) as session:
            return make.click(session, *parties, at=at, **facts)

    return kept


def open_since(engine: Engine, since: datetime) -> None:
    with unit_of_work(engine) as session:
        for row in session.exec(select(ClickDay)):
            row.opened_at = since
            session.add(row)


def find(engine: Engine, *ids: str) -> set[str]:
    with reading(engine) as session:
        return set(clicks.find_many(session, ids))


def test_a_click_is_found_in_its_day_and_nowhere_else(engine: Engine, keep: Any) -> None:
    first, second = keep(NOW, sub_ids={"s1": "x"}), keep(NOW - 400 * DAY)
    with reading(engine) as session:
        found = clicks.find(session, first.id)
        assert found is not None
        assert (found.at, found.sub_ids, found.publisher_id) == (
            NOW,
            {"s1": "x"},
            first.publisher_id,
        )
    ids = [first.id, second.id, make.click_id(NOW), make.click_id(NOW - DAY), "no id", ""]
    assert find(engine, *ids) == {first.id, second.id}


@pytest.mark.parametrize("at", [datetime(1970, 1, 1, tzinfo=UTC), datetime(9999, 1, 1, tzinfo=UTC)])
def test_an_id_says_its_time_to_anyone(at: datetime) -> None:
    signer = ClickIdSigner({7: b"sixteen bytes ok" * 2}, current=7)
    assert time_of(signer.mint(at=at, program_number=1, publisher_number=2)) == at


@pytest.mark.parametrize("text", ["", "x", "é" * 52, "_" * 52, "A" * 51 + "\n"])
def test_what_is_no_id_has_no_time(text: str) -> None:
    assert time_of(text) is None


def test_looking_makes_no_file(sqlite_engine: Engine) -> None:
    assert find(sqlite_engine, make.click_id(NOW)) == set()
    with reading(sqlite_engine) as session:
        assert (
            clicks.count_of_visitor(
                session,
                program_id="p",
                visitor_key="v",
                after=NOW - DAY,
                until=NOW,
                count_max=9,
            )
            == 0
        )
    assert not day_files.beside(sqlite_engine).folder.exists()


def test_a_window_over_midnight_counts_both_days(engine: Engine, keep: Any) -> None:
    midnight = datetime(2026, 3, 10, tzinfo=UTC)
    for seconds in (-3600, -3599, -1, 0, 1):
        keep(midnight + timedelta(seconds=seconds), visitor_key="v")
    keep(midnight, visitor_key="w")
    program_id = keep(midnight - 2 * DAY, visitor_key="v").program_id

    def count(count_max: int) -> int:
        with reading(engine) as session:
            return clicks.count_of_visitor(
                session,
                program_id=program_id,
                visitor_key="v",
                after=midnight - timedelta(hours=1),
                until=midnight + timedelta(seconds=1),
                count_max=count_max,
            )

    assert [count(limit) for limit in (1, 2, 3, 4, 9)] == [1, 2, 3, 4, 4]


def test_visitors_of_many_clicks_are_counted_as_those_of_each(engine: Engine, keep: Any) -> None:
    midnight, hour = datetime(2026, 3, 10, tzinfo=UTC), timedelta(hours=1)
    kept = [
        keep(midnight + timedelta(seconds=seconds), visitor_key=visitor)
        for seconds, visitor in (
            *((-3600, "v"), (-3599, "v"), (-1, "v"), (0, "v"), (1, "v"), (3600, "v")),
            *((0, "w"), (-3 * 86_400, "v")),
        )
    ]
    with reading(engine) as session:
        found = seen_clicks.find_many(session, [click.id for click in kept])
        seen = [found[click.id] for click in kept]
        counts = seen_clicks.counts_of_visitors(session, seen, span=hour, count_max=3)
        expected = {
            click.id: clicks.count_of_visitor(
                session,
                program_id=click.program_id,
                visitor_key=click.visitor_key,
                after=click.at - hour,
                until=click.at,
                count_max=3,
            )
            for click in seen
        }
        assert seen_clicks.counts_of_visitors(session, [], span=hour, count_max=3) == {}
    assert counts == expected
    assert [counts[click.id] for click in seen] == [1, 2, 3, 3, 3, 2, 1, 1]


def test_what_orders_read_of_clicks_is_what_their_rows_say(engine: Engine, keep: Any) -> None:
    clicks_kept = [
        keep(NOW - 3 * DAY, sub_ids={"s1": "\u00e9 x"}, visitor_key="v", link="go", duplicates=2),
        keep(NOW, imported=True, is_hosting=True, country="DE", sec_purpose="prefetch"),
        keep(NOW + timedelta(microseconds=1000), unbillable_reason="paused", carried_clicks=3),
    ]
    ids = [click.id for click in clicks_kept]
    with reading(engine) as session:
        seen = seen_clicks.find_many(session, [*ids, make.click_id(NOW), "no id", ""])
        found = clicks.find_many(session, ids)
    assert seen.keys() == set(ids)
    for click_id, one in seen.items():
        row = found[click_id]
        assert one == seen_clicks.Seen(*(getattr(row, name) for name in one._fields))
        assert [type(value) for value in one] == [type(getattr(row, name)) for name in one._fields]


def test_a_click_is_read_once_a_session_and_a_late_one_is_found(
    engine: Engine, parties: tuple[Program, Publisher]
) -> None:
    late = make.click_id(NOW, "late")
    with unit_of_work(engine) as session:
        first = make.click(session, *parties, at=NOW)
        assert seen_clicks.find_many(session, [first.id, late]).keys() == {first.id}
        make.click(session, *parties, at=NOW, id=late)
        seen = seen_clicks.find_many(session, [first.id, late])
        assert seen.keys() == {first.id, late}
        again = seen_clicks.find_many(session, [first.id])
        assert again[first.id] is seen[first.id]


def test_clicks_of_a_day_that_was_let_go_are_not_seen(engine: Engine, keep: Any) -> None:
    gone, left = keep(NOW - 40 * DAY), keep(NOW - DAY)
    with reading(engine) as session:
        assert len(seen_clicks.find_many(session, [gone.id, left.id])) == 2
    open_since(engine, NOW - 40 * DAY)
    click_days.retire(engine, keep_days=30, now=NOW)
    with reading(engine) as session:
        assert seen_clicks.find_many(session, [gone.id, left.id]).keys() == {left.id}


def test_days_are_let_go_after_their_time_and_not_before(engine: Engine, keep: Any) -> None:
    days = [keep(NOW - number * DAY) for number in (0, 29, 30, 31, 32)]
    open_since(engine, NOW - 40 * DAY)

    assert click_days.retire(engine, keep_days=0, now=NOW) == 0
    assert find(engine, *(one.id for one in days)) == {one.id for one in days}
    assert click_days.retire(engine, keep_days=30, now=NOW) == 2
    assert click_days.retire(engine, keep_days=30, now=NOW) == 0

    assert find(engine, *(one.id for one in days)) == {one.id for one in days[:3]}
    with reading(engine) as session:
        rows = session.exec(select(ClickDay).order_by(col(ClickDay.day))).all()
        assert [(row.clicks, row.retired_clicks, row.retired_at) for row in rows] == [
            (0, 1, NOW),
            (0, 1, NOW),
            (1, 0, None),
            (1, 0, None),
            (1, 0, None),
        ]
        assert [row.day for row in click_days.kept(session)] == [row.day for row in rows[2:]]
    if engine.dialect.name == "sqlite":
        files = day_files.beside(engine)
        assert [place.day for place in files.places()] == [row.day for row in rows[2:]]


def test_a_day_of_the_past_that_came_late_is_kept_as_long(engine: Engine, keep: Any) -> None:
    imported = keep(NOW - 5000 * DAY)
    open_since(engine, NOW - 20 * DAY)
    assert click_days.retire(engine, keep_days=30, now=NOW) == 0
    assert click_days.retire(engine, keep_days=30, now=NOW + 11 * DAY) == 1
    assert find(engine, imported.id) == set()


def test_a_day_that_comes_back_stands_in_a_new_place(engine: Engine, keep: Any) -> None:
    gone = keep(NOW - 50 * DAY)
    open_since(engine, NOW - 40 * DAY)
    day = gone.at.date()
    before = click_days.open_days(engine, [day], now=NOW)
    click_days.retire(engine, keep_days=30, now=NOW)

    with pytest.raises(click_days.DayRetired), unit_of_work(engine) as session:
        click_days.added(session, {day: (1, NOW)}, before)
    after = click_days.open_days(engine, [day], now=NOW)
    with unit_of_work(engine) as session:
        click_days.added(session, {day: (3, NOW)}, after)
        click_days.added(session, {day: (2, NOW - DAY)}, after)

    with reading(engine) as session:
        row = session.get_one(ClickDay, day)
        assert (row.generation, row.clicks, row.retired_clicks) == (1, 5, 1)
        assert (row.opened_at, row.last_at, row.retired_at) == (NOW, NOW, None)
    assert find(engine, gone.id) == set()


def test_a_file_that_a_crash_left_goes_the_next_time(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session)
        who = make.publisher(session, member_of=program)
        gone = make.click(session, program, who, at=NOW - 50 * DAY)
    files = day_files.beside(sqlite_engine)
    place = Place(gone.at.date())
    content = files.path(place).read_bytes()
    open_since(sqlite_engine, NOW - 40 * DAY)
    click_days.retire(sqlite_engine, keep_days=30, now=NOW)
    files.path(place).write_bytes(content)

    assert find(sqlite_engine, gone.id) == set()
    click_days.retire(sqlite_engine, keep_days=30, now=NOW)

    assert files.places() == []


def test_few_files_stay_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = day_files.DayFiles(tmp_path / "clicks")
    places = [Place(date(2026, 1, day)) for day in range(1, 20)]
    for place in places:
        with files.writing(place):
            pass
        assert files.reader(place) is not None
    assert files.places() == places
    assert len(files._readers) == len(files._writers) == day_files.OPEN_MAX
    monkeypatch.setattr(day_files, "IDLE_MAX", 5)
    for place in places:
        assert files.rows(place, "SELECT count(*) FROM click WHERE id = ?", ("x",)) == [(0,)]
    assert len(files._idle) == 5
    with pytest.raises(sqlite3.OperationalError):
        files.rows(places[-1], "SELECT nothing FROM click", ())
    assert len(files._idle) == 4
    assert files.rows(Place(date(2027, 1, 1)), "SELECT 1 FROM click", ()) == []
    files.close()
    assert [path.name for path in files.folder.iterdir() if path.suffix != ".db"] == []


def test_a_column_that_came_later_is_added_to_every_day(tmp_path: Path) -> None:
    files = day_files.DayFiles(tmp_path / "clicks")
    place = Place(date(2026, 1, 1))
    with files.writing(place) as connection:
        for gone in ("origin", "parameters", "is_hosting", "country", "referrer"):
            connection.exec_driver_sql(f"ALTER TABLE click DROP COLUMN {gone}")
        names = [name for name in COLUMNS if name in {"id", "at"}]
        kept = [row[1] for row in connection.exec_driver_sql("PRAGMA table_info(click)")]
        values = ["'x'" if name in names else "''" for name in kept]
        connection.exec_driver_sql(f"INSERT INTO click VALUES ({', '.join(values)})")  # noqa: S608 - the table's own columns
    files.close()

    files.upgrade()
    files.upgrade()

    with files.writing(place) as connection:
        row = connection.execute(
            sa.text("SELECT origin, parameters, is_hosting, country, referrer FROM click")
        ).one()
    files.close()
    assert tuple(row) == (0, "{}", 0, None, "")


def test_partitions_are_made_ahead(engine: Engine) -> None:
    click_days.make_ahead(engine, now=NOW)
    click_days.make_ahead(engine, now=NOW + DAY)
    if engine.dialect.name == "sqlite":
        assert day_files.beside(engine).places() == []
        return
    with engine.connect() as connection:
        found = connection.exec_driver_sql(
            "SELECT inhrelid::regclass::text FROM pg_inherits "
            "WHERE inhparent = 'click'::regclass ORDER BY 1"
        ).scalars()
        assert list(found) == [f"click_202603{day}" for day in (10, 11, 12, 13)]


# Visitor keys --------------------------------------------------------------------------------


def salts_in(engine: Engine) -> list[tuple[date, date, str]]:
    with reading(engine) as session:
        rows = session.exec(select(VisitorSalt).order_by(col(VisitorSalt.starts_on)))
        return [(row.starts_on, row.ends_on, row.salt) for row in rows]


def key(engine: Engine, day: date, salt_days: int = 1, secret: bytes = b"k" * 32) -> str:
    salts = visitors.Salts(secret, salt_days=salt_days)
    salts.prepare(engine, [day])
    return visitors.key_of(salts.hash_of(day), "91.0.0.77", "Mozilla/5.0")


def test_keys_are_equal_for_a_period_and_for_no_other(engine: Engine) -> None:
    day = date(2026, 3, 10)
    assert key(engine, day) == key(engine, day)
    assert len({key(engine, day + number * DAY) for number in range(5)}) == 5
    assert key(engine, day) != key(engine, day, secret=b"x" * 32)
    week = visitors.period_of(day, 7)
    assert (week.ends_on - week.starts_on).days == 7
    assert len({key(engine, week.starts_on + number * DAY, 7) for number in range(8)}) == 2
    assert visitors.key_of(None, "", "") == ""


def test_salts_are_random_and_deleted_when_their_period_is_over(engine: Engine) -> None:
    day = NOW.date()
    before = key(engine, day)
    salts = salts_in(engine)
    assert [(start, end) for start, end, _ in salts] == [(day - DAY, day), (day, day + DAY)]
    assert len({bytes.fromhex(salt) for _, _, salt in salts}) == 2

    assert visitors.forget(engine, now=NOW) == 0
    assert visitors.forget(engine, now=NOW + DAY) == 1
    assert visitors.forget(engine, now=NOW + 2 * DAY) == 1

    assert salts_in(engine) == []
    assert key(engine, day) != before


def test_a_salt_that_is_deleted_is_not_in_the_file_either(sqlite_engine: Engine) -> None:
    key(sqlite_engine, NOW.date())
    told = [salt.encode() for _, _, salt in salts_in(sqlite_engine)]
    path = Path(str(sqlite_engine.url.database))
    visitors.forget(sqlite_engine, now=NOW + 9 * DAY)
    sqlite_engine.dispose()  # the last one to leave folds the log into the file
    content = path.read_bytes()
    assert [salt for salt in told if salt in content] == []


# Upgrading -----------------------------------------------------------------------------------

OLD = (
    "CREATE TABLE click_before_days (id TEXT PRIMARY KEY, at DATETIME NOT NULL, program_id TEXT, "
    "publisher_id TEXT, imported BOOLEAN, unbillable_reason TEXT, landing_url TEXT, sub_ids JSON, "
    "parameters JSON, address TEXT, visitor_key TEXT, user_agent TEXT, agent_class TEXT, "
    "referrer TEXT, accept_language TEXT, sec_fetch_dest TEXT, sec_fetch_mode TEXT, "
    "sec_fetch_user TEXT, sec_purpose TEXT, country TEXT, country_source TEXT, "
    "is_hosting BOOLEAN, duplicates INTEGER NOT NULL)"
)


def old_rows(session: Session, count: int) -> dict[str, datetime]:
    made = {}
    for number in range(count):
        at = NOW - number * timedelta(hours=7)
        click_id = make.click_id(at)
        made[click_id] = at
        session.connection().exec_driver_sql(
            "INSERT INTO click_before_days VALUES (?, ?, 'p', 'q', 0, '', 'https://x/', "
            "'{\"s1\": \"y\"}', '{}', '', 'v', '', '', '', '', NULL, NULL, NULL, NULL, "
            "'DE', '', 0, 2)",
            (click_id, at.strftime("%Y-%m-%d %H:%M:%S.000000")),
        )
    return made


def test_clicks_of_a_database_from_before_move_into_their_days(
    sqlite_engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(click_days, "_MOVE_ROWS", 3)
    with unit_of_work(sqlite_engine) as session:
        session.connection().exec_driver_sql(OLD)
        made = old_rows(session, 10)
    # As if an earlier try had been cut off between a day's file and the main database.
    some = click_days.open_days(sqlite_engine, [NOW.date()], now=NOW)
    with sqlite_engine.connect() as connection:
        (first,) = connection.exec_driver_sql(
            "SELECT * FROM click_before_days ORDER BY at DESC LIMIT 1"
        )
    click_days.write_file(sqlite_engine, some[NOW.date()], [(*first, "", 0, 0)])

    click_days.upgrade(sqlite_engine, now=NOW)
    click_days.upgrade(sqlite_engine, now=NOW)

    stored = make.clicks(sqlite_engine)
    assert {click.id: click.at for click in stored} == made
    assert {(click.country, click.duplicates, click.origin) for click in stored} == {("DE", 2, 0)}
    assert {click.sub_ids["s1"] for click in stored} == {"y"}
    with reading(sqlite_engine) as session:
        assert sum(row.clicks for row in click_days.kept(session)) == len(made)
        assert {row.last_at for row in click_days.kept(session)} <= set(made.values())
    assert not sa.inspect(sqlite_engine).has_table("click_before_days")


def test_a_database_in_memory_has_no_place_for_clicks() -> None:
    engine = connect("sqlite://")
    with pytest.raises(ValueError, match="clicks need a database in a file"):
        day_files.beside(engine)
    engine.dispose()


def test_rows_are_in_the_order_of_the_table() -> None:
    assert tuple(Click.model_fields) == COLUMNS
    places = {
        click_rows.origin_of(12345 << 70, segment, at) for segment in (1, 2) for at in (44, 99)
    }
    assert len(places) == 4
    assert all(-(2**63) <= place < 2**63 for place in places)


def test_a_day_s_file_appears_with_its_table(tmp_path: Path) -> None:
    files = day_files.DayFiles(tmp_path / "clicks")
    days = [date(2026, 1, 1) + timedelta(days=number) for number in range(60)]
    over = threading.Event()
    failed: list[str] = []
    read: set[Path] = set()

    def look() -> None:
        while not over.is_set():
            for path in set(files.folder.glob("*.db")) - read:
                with closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as connection:
                    try:
                        connection.execute("SELECT count(*) FROM click")
                    except sqlite3.OperationalError as error:
                        failed.append(f"{path.name}: {error}")
                read.add(path)

    reader = threading.Thread(target=look)
    reader.start()
    for day in days:
        with files.writing(day_files.Place(day)):
            pass
    over.set()
    reader.join()
    files.close()

    assert failed == []
    assert len(read) > 5
    assert sorted(path.name for path in files.folder.glob("*.new*")) == []
