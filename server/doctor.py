"""`tallystick doctor`: what is wrong, old or only half set up on this machine."""

import os
import sqlite3
from collections.abc import Iterator
from dataclasses import dataclass

from sqlmodel import Session

from kernel import clock
from kernel.database import connect, is_reachable, reading
from kernel.settings import Settings
from server import backlog, migrate
from tracker import click_days, http_front
from tracker.geo import GeoResolver

# Before these versions a commit that races a checkpoint can be lost; ours never race (see
# kernel.database), but other tools that write to the file would.
_SQLITE_SOUND = (3, 51, 3)
_DATABASE_AGE_DAYS_MAX = 35


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing looked at; `level` is ok, warning or error."""

    level: str
    subject: str
    detail: str


def examine(settings: Settings) -> Iterator[Finding]:
    """Everything looked at, in order."""
    yield _data_folder(settings)
    yield _sqlite()
    yield _click_front(settings)
    yield from _database(settings)
    yield from _geo(settings)


def _data_folder(settings: Settings) -> Finding:
    folder = settings.data_dir.absolute()
    if not folder.is_dir():
        return Finding("warning", "data folder", f"{folder} does not exist yet")
    if not os.access(folder, os.W_OK):
        return Finding("error", "data folder", f"{folder} cannot be written")
    return Finding("ok", "data folder", str(folder))


def _sqlite() -> Finding:
    version = sqlite3.sqlite_version
    if sqlite3.sqlite_version_info < _SQLITE_SOUND:
        return Finding(
            "warning",
            "SQLite",
            f"{version} has the WAL-reset bug; Tallystick avoids it, other writers would not",
        )
    return Finding("ok", "SQLite", version)


def _click_front(settings: Settings) -> Finding:
    front = http_front.choose(settings.click_front)
    slower = settings.click_front == "auto" and front.why_not_fast
    detail = f"{front.name}: {front.why_not_fast}" if front.why_not_fast else front.name
    return Finding("warning" if slower else "ok", "click front", detail)


def _database(settings: Settings) -> Iterator[Finding]:
    engine = connect(settings.database)
    try:
        if not is_reachable(engine):
            yield Finding("error", "database", "cannot be reached")
            return
        if not migrate.is_current(settings.database):
            yield Finding("error", "database", "has another schema; run `tallystick migrate`")
            return
        yield Finding("ok", "database", engine.dialect.name)
        with reading(engine) as session:
            numbers = backlog.status(session, settings.data_dir)
        level = "warning" if numbers["outbox_parked"] else "ok"
        yield Finding(
            level, "backlog", ", ".join(f"{key} {value}" for key, value in numbers.items())
        )
        with reading(engine) as session:
            yield _clicks(session)
    finally:
        engine.dispose()


def _clicks(session: Session) -> Finding:
    days = click_days.kept(session)
    if not days:
        return Finding("ok", "clicks", "none yet")
    count = sum(row.clicks for row in days)
    size = sum(click_days.bytes_of(session, row) for row in days)
    detail = f"{count} in {len(days)} days, the oldest {days[0].day}, {size} bytes"
    return Finding("ok", "clicks", detail)


def _geo(settings: Settings) -> Iterator[Finding]:
    resolver = GeoResolver(settings.geoip_dir)
    opened = resolver.databases()
    if not opened:
        yield Finding("ok", "geo", "built-in registry and cloud ranges; no *.mmdb in use")
    today = clock.now().date()
    for name, kind, built in opened:
        old = (today - built).days > _DATABASE_AGE_DAYS_MAX
        yield Finding(
            "warning" if old else "ok",
            "geo",
            f"{name} ({kind}) of {built}" + (" is old" if old else ""),
        )
