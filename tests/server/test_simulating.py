"""`tallystick simulate`: a draft beside the books, from the command line."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy.engine import Engine
from sqlmodel import select

from commissions import accruals
from commissions.models import Booking
from kernel.database import reading, unit_of_work
from server.cli import cli
from tests import make


@pytest.fixture
def draft(tmp_path: Path) -> Path:
    path = tmp_path / "draft.json"
    rules = [{"id": "all", "pay": {"percent": "12.5"}}]
    path.write_text(json.dumps({"currency": "EUR", "rules": rules}))
    return path


def run(monkeypatch: pytest.MonkeyPatch, url: str, *arguments: str) -> Any:
    monkeypatch.setenv("TALLYSTICK_DATABASE_URL", url)
    return CliRunner().invoke(cli, ["simulate", *arguments])


def test_a_draft_is_played_over_days_of_the_program(
    engine: Engine, database_url: str, draft: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with unit_of_work(engine) as session:
        program = make.program(session, code="lumen", timezone="Europe/Berlin")
        make.plan(session, program)
        who = make.publisher(session, code="trail")
        sale = make.conversion(session, program, who, country="DE")
        accruals.accrue(session, sale.id, hold_reason=None, now=sale.received_at)
    days = ("--program", "lumen", "--from", "2026-03-10", "--to", "2026-03-10")

    shown = run(monkeypatch, database_url, str(draft), *days)
    found = run(monkeypatch, database_url, str(draft), *days, "--json")

    assert (shown.exit_code, found.exit_code) == (0, 0)
    for text in ("trail", "DE", "10.00 EUR", "12.50 EUR", "2.50 EUR", "1 orders would earn more"):
        assert text in shown.stdout, text
    assert "orders: 1 of 1" in shown.stderr
    document = json.loads(found.stdout)
    assert document["publishers"] == [
        {
            "key": "trail",
            "orders": 1,
            "booked_minor": 1000,
            "simulated_minor": 1250,
            "difference_minor": 250,
        }
    ]
    with reading(engine) as session:
        assert [one.kind for one in session.exec(select(Booking))] == ["accrue"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"--program": "nobody"}, "no such program"),
        ({"--from": "10.03.2026"}, "from: must be a day or an RFC 3339 time"),
        ({"--from": "2026-03-10T10:00:00"}, "from: must say its offset from UTC"),
        ({"--from": "2026-03-12"}, "must be after"),
    ],
)
def test_what_cannot_be_played_is_refused(
    *,
    sqlite_engine: Engine,
    sqlite_url: str,
    draft: Path,
    monkeypatch: pytest.MonkeyPatch,
    changes: dict[str, str],
    message: str,
) -> None:
    with unit_of_work(sqlite_engine) as session:
        make.program(session, code="lumen")
    given = {"--program": "lumen", "--from": "2026-03-10", "--to": "2026-03-10"} | changes
    arguments = [part for pair in given.items() for part in pair]

    answer = run(monkeypatch, sqlite_url, str(draft), *arguments)

    assert answer.exit_code == 1
    assert message in answer.stderr


def test_a_document_with_mistakes_is_refused_at_its_path(
    sqlite_engine: Engine, sqlite_url: str, draft: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with unit_of_work(sqlite_engine) as session:
        make.program(session, code="lumen", currency="USD")
    days = ("--program", "lumen", "--from", "2026-03-10", "--to", "2026-03-10")

    answer = run(monkeypatch, sqlite_url, str(draft), *days)

    assert (answer.exit_code, "currency: must be the program's currency USD" in answer.stderr) == (
        1,
        True,
    )
