"""The terminal's side of an audit: what is asked for, progress, findings, the verdict."""

import os
from datetime import UTC, date, datetime, time, timedelta

import click
from rich.console import Console
from sqlalchemy.engine import Engine
from sqlmodel import Session, select

from kernel.database import reading, sort_on_disk
from kernel.settings import Settings
from network.models import Program
from server import audit, audit_processes
from server.audit import Scope
from server.replaying import Reporter

_REPLAY = 3
"""The invariant that a replay proves."""


def scope(
    engine: Engine, *, only_replay: bool, code: str | None, first: str | None, last: str | None
) -> Scope:
    """What the options ask for; ValueError says which of them cannot be."""
    if not only_replay:
        if code or first or last:
            raise ValueError("--program, --from and --to need --replay: other rules are about all")
        return Scope()
    period = _day("--from", first), _day("--to", last, after=1)
    if period[0] and period[1] and period[0] >= period[1]:
        raise ValueError("--from must not be after --to")
    sort_on_disk(engine)
    with reading(engine) as session:
        return Scope(only_replay=True, program_id=_program(session, code), period=period)


def run(engine: Engine, settings: Settings, asked: Scope, *, processes: int | None) -> bool:
    """Audit, print what is found or that all holds, and say whether it does."""
    sort_on_disk(engine)
    broken = 0
    with Reporter(Console(stderr=True)) as reporter:
        for finding in audit_processes.run(
            engine,
            settings,
            asked,
            processes=processes or os.cpu_count() or 1,
            progress=reporter,
        ):
            broken += 1
            rule = audit.INVARIANTS[finding.invariant]
            click.echo(f"BROKEN {finding.invariant} ({rule}): {finding.subject}: {finding.detail}")
    if not broken:
        for number, rule in audit.INVARIANTS.items():
            if number == _REPLAY or not asked.only_replay:
                click.echo(f"ok {number} {rule}")
    return not broken


def _program(session: Session, code: str | None) -> str | None:
    if code is None:
        return None
    found = session.exec(select(Program.id).where(Program.code == code)).first()
    if found is None:
        raise ValueError(f"--program: there is no program {code}")
    return found


def _day(option: str, text: str | None, *, after: int = 0) -> datetime | None:
    if text is None:
        return None
    try:
        day = date.fromisoformat(text)
        return datetime.combine(day + timedelta(days=after), time.min, UTC)
    except (ValueError, OverflowError):
        raise ValueError(f"{option}: {text!r} is not a day such as 2026-03-01") from None
