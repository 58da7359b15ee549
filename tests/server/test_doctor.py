import re
import shutil
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import time_machine
from sqlalchemy.engine import Engine
from sqlmodel import Session

from kernel import outbox
from kernel.database import unit_of_work
from kernel.outbox import OutboxRow
from kernel.settings import Settings
from server.doctor import examine
from tests import make

NOW = datetime(2026, 3, 10, 12, 0, tzinfo=UTC)


def found(settings: Settings) -> dict[str, list[tuple[str, str]]]:
    answers: dict[str, list[tuple[str, str]]] = {}
    for finding in examine(settings):
        answers.setdefault(finding.subject, []).append((finding.level, finding.detail))
    return answers


@pytest.mark.usefixtures("sqlite_url")
def test_a_fresh_installation_is_well(settings: Settings) -> None:
    answers = found(settings)

    assert answers["data folder"] == [("ok", str(settings.data_dir))]
    assert answers["database"] == [("ok", "sqlite")]
    assert answers["backlog"] == [
        ("ok", "uploads_open 0, journal_bytes 0, outbox_pending 0, outbox_parked 0")
    ]
    assert answers["clicks"] == [("ok", "none yet")]
    assert answers["geo"] == [
        ("ok", "built-in registry and cloud ranges; no *.mmdb in use"),
    ]


def test_the_version_of_sqlite_is_judged(settings: Settings) -> None:
    ((level, detail),) = found(settings)["SQLite"]

    assert level == ("ok" if sqlite3.sqlite_version_info >= (3, 51, 3) else "warning")
    assert detail.startswith(sqlite3.sqlite_version)


def test_a_folder_that_is_not_there_yet_is_a_warning(settings: Settings, tmp_path: Path) -> None:
    elsewhere = settings.model_copy(update={"data_dir": tmp_path / "nowhere"})

    answers = found(elsewhere)

    assert answers["data folder"] == [("warning", f"{tmp_path}/nowhere does not exist yet")]


def test_a_database_that_does_not_answer_is_an_error(settings: Settings) -> None:
    away = settings.model_copy(
        update={"database_url": "postgresql://nobody:a-secret@127.0.0.1:1/nothing"}
    )

    answers = found(away)

    assert answers["database"] == [("error", "cannot be reached")]
    assert "backlog" not in answers


def test_the_days_of_clicks_are_counted(settings: Settings, sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session)
        who = make.publisher(session, member_of=program)
        for hours in (1, 2, 30):
            make.click(session, program, who, at=NOW - timedelta(hours=hours))

    ((level, detail),) = found(settings)["clicks"]

    assert level == "ok"
    assert re.fullmatch(r"3 in 2 days, the oldest 2026-03-09, [1-9]\d+ bytes", detail)


def test_a_schema_of_another_version_is_an_error(settings: Settings, sqlite_url: str) -> None:
    with sqlite3.connect(sqlite_url.removeprefix("sqlite:///")) as connection:
        connection.execute("UPDATE alembic_version SET version_num = '0000'")
    connection.close()

    answers = found(settings)

    assert answers["database"] == [("error", "has another schema; run `tallystick migrate`")]
    assert "backlog" not in answers


def test_a_follow_up_that_waits_for_a_person_is_a_warning(
    settings: Settings, sqlite_engine: Engine
) -> None:
    with Session(sqlite_engine) as session, session.begin():
        outbox.append(session, "conversion.recorded", "cnv_1", lane="prg_1", now=NOW)
        session.add(
            OutboxRow(
                kind="conversion.recorded",
                subject_id="cnv_2",
                lane="prg_2",
                recorded_at=NOW,
                parked_at=NOW,
                last_error="boom",
            )
        )

    answers = found(settings)

    ((level, detail),) = answers["backlog"]
    assert level == "warning"
    assert detail.endswith("outbox_parked 1")


@pytest.mark.usefixtures("sqlite_url")
def test_an_old_geo_database_is_named(
    settings: Settings, shared_data: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "geo"
    folder.mkdir()
    shutil.copy(min((shared_data / "geo").glob("*Country*.mmdb")), folder)
    with_geo = settings.model_copy(update={"geoip_dir": folder})

    ((level, detail),) = found(with_geo)["geo"]
    with time_machine.travel("2000-01-01T00:00:00Z"):
        ((level_before, _),) = found(with_geo)["geo"]

    assert level == "warning"
    assert detail.endswith(" is old")
    assert level_before == "ok"
