import hashlib
import json
import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path
from typing import Any

import click
import pytest
import structlog
from click.testing import CliRunner, Result

from kernel.database import connect, reading, unit_of_work
from network.access import check_client, check_password
from server.cli import cli
from tests import make
from tests.conftest import NOW
from tracker import click_days

VECTOR: dict[str, Any] = {
    "id": "V1",
    "program": {"currency": "USD"},
    "rules": [{"id": "r1", "kind": "base", "pay": {"percent": "2.5"}}],
    "events": [
        {
            "type": "conversion",
            "id": "c1",
            "publisher": "p1",
            "at": "2026-03-10T12:00:00Z",
            "lines": [{"net_minor": 11700}],
        }
    ],
    "expect": {"totals": {"p1": 293}},
}
FEED = (
    "id\ttitle\tdescription\tlink\timage_link\tavailability\tprice\n"
    "a1\tKettle\tBoils water.\thttps://www.shop.example/kettle\t"
    "https://cdn.example.net/k.jpg\tin_stock\t15.00 EUR\n"
)
BOT = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0"


@pytest.fixture(autouse=True)
def database(sqlite_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The database that the commands work on, as an operator's environment names it."""
    monkeypatch.setenv("TALLYSTICK_DATABASE_URL", sqlite_url)
    monkeypatch.setenv("TALLYSTICK_DATA_DIR", str(tmp_path / "var"))
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield Path(sqlite_url.removeprefix("sqlite:///"))
    # A command configures the logs of its process, which here is the whole test run's.
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


def run(*arguments: str, **options: Any) -> Result:
    result = CliRunner().invoke(cli, arguments, **options)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def commands(group: click.Group, path: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    for name, command in group.commands.items():
        yield (*path, name)
        if isinstance(command, click.Group):
            yield from commands(command, (*path, name))


def count(database: Path, table: str) -> int:
    with closing(sqlite3.connect(database)) as connection:
        (number,) = connection.execute(f"SELECT count(*) FROM {table}").fetchone()  # noqa: S608 - our own names
    return int(number)


def write(path: Path, document: Any) -> str:
    file = path / "document.json"
    file.write_text(document if isinstance(document, str) else json.dumps(document))
    return str(file)


@pytest.mark.parametrize("path", list(commands(cli)), ids=" ".join)
def test_every_command_says_what_it_does(path: tuple[str, ...]) -> None:
    result = run(*path, "--help")

    assert result.exit_code == 0
    usage, _, meaning = result.output.partition("\n\n")
    assert usage.startswith(f"Usage: cli {' '.join(path)} ")
    assert len(meaning.strip().split("\n", maxsplit=1)[0]) > 10


def test_an_unknown_setting_stops_every_command_without_its_value(
    monkeypatch: pytest.MonkeyPatch, database: Path
) -> None:
    monkeypatch.setenv("TALLYSTICK_DATABASE_ULR", "postgresql://someone:a-secret@db/x")

    result = run("key", "create", "--name", "x", "--role", "manager")

    assert result.exit_code == 1
    assert result.stderr == "tallystick: unknown setting: TALLYSTICK_DATABASE_ULR\n"
    assert count(database, "api_client") == 0


def test_a_setting_that_breaks_its_rule_is_named_without_its_value(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TALLYSTICK_SECRET", "too-short")
    monkeypatch.setenv("TALLYSTICK_PORT", "99999")

    result = run("doctor")

    assert result.exit_code == 1
    assert "TALLYSTICK_PORT: Input should be less than or equal to 65535" in result.stderr
    assert "TALLYSTICK_SECRET: Value error, must have at least 32 characters" in result.stderr
    assert "too-short" not in result.output
    assert "99999" not in result.output


def test_a_person_who_was_added_can_sign_in(sqlite_url: str) -> None:
    result = run(
        *("user", "add", "--email", "Mina@Network.example", "--name", "Mina", "--role", "manager"),
        input="a long password\na long password\n",
    )

    assert result.exit_code == 0
    engine = connect(sqlite_url)
    with reading(engine) as session:
        user = check_password(session, email="mina@network.example", password="a long password")
    engine.dispose()
    assert result.output.splitlines()[-1] == user.id
    assert "a long password" not in result.output


@pytest.mark.parametrize(
    ("changes", "refusal"),
    [
        ({"--password": "short"}, "password: must have at least 12 characters"),
        ({"--email": "nobody"}, "email: must be an e-mail address"),
        ({"--role": "publisher"}, "party_id: is for advertisers and publishers"),
        ({"--party": "adv_1"}, "party_id: is for advertisers and publishers"),
    ],
)
def test_a_person_against_the_rules_is_not_added(
    database: Path, changes: dict[str, str], refusal: str
) -> None:
    options = {
        "--email": "a@b.example",
        "--name": "A",
        "--role": "manager",
        "--password": "a long password",
    } | changes

    result = run("user", "add", *(word for option in options.items() for word in option))

    assert result.exit_code == 1
    assert result.stderr.startswith(f"tallystick: {refusal}")
    assert (count(database, "user_account"), count(database, "audit_entry")) == (0, 0)


def test_a_key_is_shown_once_and_works(sqlite_url: str, database: Path) -> None:
    result = run("key", "create", "--name", "reports", "--role", "manager")

    assert result.exit_code == 0
    shown = json.loads(result.output)
    engine = connect(sqlite_url)
    with reading(engine) as session:
        client = check_client(session, **shown)
    engine.dispose()
    assert (client.name, client.role, client.party_id) == ("reports", "manager", None)
    assert shown["client_secret"] not in client.secret_hash
    assert count(database, "audit_entry") == 1


@pytest.mark.parametrize(
    ("expect", "code"), [({"totals": {"p1": 293}}, 0), ({"totals": {"p1": 292}}, 1)]
)
def test_price_prints_the_document_and_its_verdict(
    tmp_path: Path, expect: dict[str, Any], code: int
) -> None:
    result = run("price", write(tmp_path, {"vectors": [{**VECTOR, "expect": expect}]}))

    assert result.exit_code == code
    (entry,) = json.loads(result.output)["vectors"]
    assert entry["computed"]["totals"] == {"p1": 293}
    assert (entry["expect"], entry["ok"]) == (expect, code == 0)


@pytest.mark.parametrize("text", ["", "{", "[]", "5"])
def test_price_names_a_file_that_is_no_document(tmp_path: Path, text: str) -> None:
    file = write(tmp_path, text)

    result = run("price", file)

    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith(f"tallystick: {file}: ")


def test_a_good_feed_passes(tmp_path: Path) -> None:
    file = tmp_path / "feed.tsv"
    file.write_text(FEED)

    result = run("feeds", "check", str(file), "--json")

    assert result.exit_code == 0
    report = json.loads(result.output)
    assert (report["rows"], report["taken"], report["errors"]) == (1, 1, 0)


def test_a_broken_feed_fails_and_names_the_row(tmp_path: Path) -> None:
    file = tmp_path / "feed.tsv"
    file.write_text(FEED)

    result = run("feeds", "check", str(file), "--currency", "GBP")

    assert result.exit_code == 1
    assert "row 2 price error price_currency" in result.output


def test_clicks_are_scored_line_by_line(tmp_path: Path) -> None:
    file = tmp_path / "clicks.jsonl"
    file.write_text(
        "\n".join(
            json.dumps(line)
            for line in (
                {"at": "2026-03-10T12:00:00Z", "user_agent": BOT},
                {"at": "2026-03-10T12:00:01Z", "user_agent": BROWSER},
                {"user_agent": BROWSER},
            )
        )
    )

    result = run("fraud", "score", str(file))

    assert result.exit_code == 0
    bot, browser, broken = map(json.loads, result.output.splitlines())
    assert [reason["code"] for reason in bot["reasons"]] == ["bot_user_agent"]
    assert bot["action"] in {"hold", "reject"}
    assert (browser["action"], browser["reasons"]) == ("allow", [])
    assert broken == {"error": {"line": 3, "field": "at", "reason": "is required"}}


def test_backup_prints_the_digest_and_restore_takes_it_back(tmp_path: Path, database: Path) -> None:
    run("key", "create", "--name", "kept", "--role", "manager")
    target = tmp_path / "copy.db"

    made = run("backup", str(target))
    again = run("backup", str(target))
    early = run("restore", str(target))
    for left in database.parent.glob("tallystick.db*"):
        left.unlink()
    restored = run("restore", str(target))

    assert made.output == hashlib.sha256(target.read_bytes()).hexdigest() + "\n"
    assert (again.exit_code, again.stderr) == (
        1,
        f"tallystick: {target} exists and is not overwritten\n",
    )
    assert early.exit_code == 1
    assert restored.exit_code == 0
    assert count(database, "api_client") == 1


def test_migrate_builds_the_schema_and_a_repeat_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TALLYSTICK_DATABASE_URL", f"sqlite:///{tmp_path}/new/tallystick.db")

    first, second = run("migrate"), run("migrate")

    assert first.stdout == second.stdout == "the database is up to date\n"
    assert count(tmp_path / "new" / "tallystick.db", "program") == 0


def test_doctor_finds_a_fresh_installation_well() -> None:
    result = run("doctor")

    assert result.exit_code == 0
    assert "ok       database: sqlite\n" in result.output
    assert "error" not in result.output


def test_doctor_fails_on_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TALLYSTICK_DATABASE_URL", "postgresql://x:a-secret@127.0.0.1:1/x")

    result = run("doctor")

    assert result.exit_code == 1
    assert "error    database: cannot be reached\n" in result.output
    assert "a-secret" not in result.output


def test_audit_of_empty_books_names_every_invariant_that_holds() -> None:
    result = run("audit")

    assert result.exit_code == 0
    assert [line.split(" ", 2)[:2] for line in result.stdout.splitlines()] == [
        ["ok", str(number)] for number in range(1, 10)
    ]


def test_audit_names_what_broke(database: Path) -> None:
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("DROP TRIGGER posting_no_update")
        connection.commit()

    result = run("audit")

    assert result.exit_code == 1
    found = result.stdout.splitlines()
    rule = "money facts, plan versions, decisions and audit rows cannot be changed"
    assert found
    assert all(line.startswith(f"BROKEN 4 ({rule}): ") for line in found)
    assert f"BROKEN 4 ({rule}): posting: its rows are not protected: a trigger is missing" in found


def test_audit_replay_proves_one_invariant_and_takes_filters() -> None:
    result = run("audit", "--replay", "--from", "2026-03-01", "--to", "2026-03-31")
    unknown = run("audit", "--replay", "--program", "nobody")
    alone = run("audit", "--from", "2026-03-01")

    assert result.exit_code == 0
    assert [line[:5] for line in result.stdout.splitlines()] == ["ok 3 "]
    assert (unknown.exit_code, unknown.stdout) == (1, "")
    assert "--program: there is no program nobody" in unknown.stderr
    assert (alone.exit_code, alone.stdout) == (1, "")
    assert "need --replay" in alone.stderr


def test_openapi_is_a_document() -> None:
    result = run("openapi")

    assert result.exit_code == 0
    document = json.loads(result.output)
    assert document["openapi"].startswith("3.")
    assert sorted(document["paths"]["/v1/conversions"]) == ["get", "post"]
    assert "/v1/programs/{id}/terms" in document["paths"]


def test_rebuilding_roll_ups_says_what_changed(database: Path) -> None:
    engine = connect(f"sqlite:///{database}")
    with unit_of_work(engine) as session:
        program = make.program(session)
        make.click(session, program, make.publisher(session), country="DE")

    first = run("rollups", "rebuild", "--from", "2026-03-09", "--to", "2026-03-10")
    again = run("rollups", "rebuild", "--from", "2026-03-10", "--to", "2026-03-10")

    assert first.exit_code == 0
    assert first.output.splitlines() == [
        "1/2 2026-03-09: 0 rows changed, +0 clicks",
        "2/2 2026-03-10: 4 rows changed, +1 clicks",
    ]
    assert again.output == "1/1 2026-03-10: 0 rows changed, +0 clicks\n"

    assert click_days.retire(engine, keep_days=1, now=NOW + timedelta(days=9)) == 1
    engine.dispose()
    gone = run("rollups", "rebuild", "--from", "2026-03-10", "--to", "2026-03-10")
    assert gone.exit_code == 1
    assert "1 clicks that were counted are no longer there; nothing changed" in gone.output


@pytest.mark.parametrize(
    ("first", "last"), [("2026-03-10", "2026-03-09"), ("2026-3-1", "2026-03-09"), ("x", "y")]
)
def test_rebuilding_names_days_that_are_none(first: str, last: str) -> None:
    result = run("rollups", "rebuild", "--from", first, "--to", last)

    assert result.exit_code != 0
    assert first in result.output


HISTORY = "Date,USD,GBP,SIT,\n2026-03-09,1.08,0.8551,240.1,\n2026-03-06,1.07,N/A,240.2,\n"


def test_rates_are_imported_once(tmp_path: Path, database: Path) -> None:
    file = tmp_path / "rates.csv"
    file.write_text(HISTORY)
    # The tolar went in 2007 and is no currency of ISO 4217 any more.
    assert run("fx", "import", str(file)).output.endswith("3 new of 3 rates\n")
    assert run("fx", "import", str(file)).output.endswith("0 new of 3 rates\n")
    file.write_text(HISTORY.replace("1.08", "1.09"))
    since = run("fx", "import", str(file), "--since", "2026-03-07", "--source", "ecb")
    assert since.output.endswith("1 new of 2 rates\n")
    assert count(database, "fx_rate") == 4


def test_a_file_that_is_none_of_rates_is_refused(tmp_path: Path, database: Path) -> None:
    file = tmp_path / "rates.csv"
    file.write_text("sku,price\n1,2\n")
    result = run("fx", "import", str(file))
    assert (result.exit_code, count(database, "fx_rate")) == (1, 0)
    assert "file" in result.output


def test_a_rate_is_set_by_hand(database: Path) -> None:
    arguments = ("fx", "set", "2026-03-01", "EUR", "AED", "4.31")
    assert run(*arguments).output == "set\n"
    assert run(*arguments).output == "known already\n"
    for wrong in (("2026-03-01", "EUR", "AED", "0"), ("2126-03-01", "EUR", "AED", "1")):
        assert run("fx", "set", *wrong).exit_code == 1
    assert run("fx", "set", "yesterday", "EUR", "AED", "1").exit_code == 2
    assert count(database, "fx_rate") == 1
