"""The demo network: loaded once, finished when it was interrupted, with the logins it promises."""

import json
import sqlite3
import stat
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import time_machine

from commissions import payouts
from kernel.database import connect, reading
from kernel.settings import Settings
from network.access import check_client, check_password, token_hash
from server import audit, demo, demo_history
from server.tables import metadata
from tests.conftest import NOW

_LOGIN = {"email", "password", "client_id", "client_secret"}


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Enough history for a lock date to pass, at a time that stands still."""
    monkeypatch.setattr(demo, "HISTORY_DAYS", 45)
    monkeypatch.setattr(demo_history, "_CLICKS_A_DAY", 4)
    with time_machine.travel(NOW, tick=False):
        yield


def counts(url: str) -> dict[str, int]:
    found = {}
    with closing(sqlite3.connect(url.removeprefix("sqlite:///"))) as connection:
        # Clicks stand in files of their own, one a day.
        for table in sorted(set(metadata.tables) - {"click"}):
            (found[table],) = connection.execute(f'SELECT count(*) FROM "{table}"').fetchone()  # noqa: S608 - our own names
    return found


def findings(settings: Settings) -> list[audit.Finding]:
    engine = connect(settings.database)
    try:
        return list(audit.run(engine, settings))
    finally:
        engine.dispose()


def test_the_document_is_the_contracts(settings: Settings, sqlite_url: str) -> None:
    target = demo.load(settings)

    assert target == settings.data_dir / "demo.json"
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    document: dict[str, Any] = json.loads(target.read_text())
    assert set(document) == {"base_url", "manager", "advertisers", "publishers", "shop"}
    assert document["base_url"] == "http://127.0.0.1:8000"
    assert set(document["manager"]) == _LOGIN
    more = {"postback_token", "program", "program_id", "currency", "landing_url"}
    assert {frozenset(one) for one in document["advertisers"]} == {
        frozenset({"id", "name", *_LOGIN, *more})
    }
    assert {frozenset(one) for one in document["publishers"]} == {
        frozenset({"id", "name", *_LOGIN, "code"})
    }
    assert len({one["currency"] for one in document["advertisers"]}) >= 4
    assert len(document["publishers"]) >= 8
    engine = connect(sqlite_url)
    with reading(engine) as session:
        for one in (document["manager"], *document["advertisers"], *document["publishers"]):
            check_password(session, email=one["email"], password=one["password"])
            check_client(session, client_id=one["client_id"], client_secret=one["client_secret"])
        (run,) = payouts.runs(session, limit=5)
        assert run.status == "settled"
    engine.dispose()
    with closing(sqlite3.connect(sqlite_url.removeprefix("sqlite:///"))) as connection:
        stored = {row[0] for row in connection.execute("SELECT token_hash FROM postback_token")}
        states = {row[0] for row in connection.execute("SELECT DISTINCT status FROM commission")}
    shops = [*document["advertisers"], document["shop"]]
    assert stored == {token_hash(one["postback_token"]) for one in shops}
    assert {"pending", "paid"} <= states
    assert findings(settings) == []


def test_a_second_load_changes_nothing(settings: Settings, sqlite_url: str) -> None:
    target = demo.load(settings)
    before = counts(sqlite_url), target.read_text()

    with time_machine.travel(NOW.replace(hour=23), tick=False):
        again = demo.load(settings)

    assert again == target
    assert (counts(sqlite_url), target.read_text()) == before


def test_an_interrupted_load_is_finished_by_the_next(
    settings: Settings,
    sqlite_url: str,
    sqlite_template: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    events_between = demo_history.events_between
    calls = []

    def interrupted(*arguments: Any) -> list[bytes]:
        calls.append(arguments)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return events_between(*arguments)

    with monkeypatch.context() as patched:
        patched.setattr(demo_history, "events_between", interrupted)
        with pytest.raises(KeyboardInterrupt):
            demo.load(settings)
    assert not (settings.data_dir / "demo.json").exists()
    assert counts(sqlite_url)["conversion"] > 0

    with time_machine.travel(NOW.replace(hour=23), tick=False):
        demo.load(settings)

    whole = Settings(data_dir=tmp_path / "whole", secret=settings.secret)
    whole.data_dir.mkdir()
    (whole.data_dir / "tallystick.db").write_bytes(sqlite_template.read_bytes())
    demo.load(whole)
    # The journal was begun anew, catalogues were looked at twice, and orders were reported again:
    # the rest is the same.
    differ = {"journal_position", "feed_import", "arrival"}
    assert {name: n for name, n in counts(sqlite_url).items() if name not in differ} == {
        name: n for name, n in counts(whole.database).items() if name not in differ
    }
    assert findings(settings) == []
