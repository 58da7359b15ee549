"""The terminal's side of a simulation: progress, and tables of what a draft would change."""

import json
import sys
from datetime import UTC, date, datetime, time
from pathlib import Path
from typing import Any, Final
from zoneinfo import ZoneInfo

from rich.console import Console
from rich.table import Table
from sqlalchemy.engine import Engine

from commissions import periods, plans, simulations
from commissions.periods import Period
from commissions.rules import parse_plan
from kernel import clock, http
from kernel.database import scanning
from kernel.errors import InvalidInput, invalid
from kernel.money import format_amount
from network import programs
from network.publishers import codes_of
from server.replaying import Reporter

_ROWS_SHOWN: Final = 20
_TABLES: Final = (
    ("publishers", "Publisher"),
    ("regions", "Region"),
    ("categories", "Category"),
)


def run(engine: Engine, file: Path, *, program: str, first: str, last: str) -> dict[str, Any]:
    """Play the draft in the file over a program's orders; nothing is written.

    `first` and `last` are days of the program's zone, the last one included, or RFC 3339 times.
    InvalidInput names what is wrong with the document or a day, NotFound an unknown program.
    """
    document = http.load_json(file.read_bytes())
    console = Console(stderr=True)
    with scanning(engine) as session, Reporter(console) as reporter:
        found = programs.find(session, program)
        zone = ZoneInfo(found.timezone)
        period = Period(
            found.id,
            _instant("from", first, zone, is_end=False),
            _instant("to", last, zone, is_end=True),
        )
        periods.check_bounds(period.start, period.end)
        now = clock.now()
        draft = plans.check(
            session, program_id=found.id, document=document, effective_from=now, now=now
        )
        if draft.problems:
            raise InvalidInput(list(draft.problems))
        simulated = simulations.run(
            session,
            period,
            parse_plan(document),
            progress=lambda done, total: reporter("orders", done, total),
        ).as_json()
        codes = codes_of(session, [row["key"] for row in simulated["publishers"]])
    for row in simulated["publishers"]:
        row["key"] = codes.get(row["key"], row["key"])
    return simulated


def show(simulated: dict[str, Any], *, as_json: bool) -> None:
    """Print the totals as tables, or as one JSON document."""
    if as_json:
        sys.stdout.write(json.dumps(simulated, indent=2, ensure_ascii=False) + "\n")
        return
    console = Console(soft_wrap=not sys.stdout.isatty())
    for name, title in _TABLES:
        rows = simulated[name]
        table = Table(title=None)
        table.add_column(title)
        for column in ("Orders", "Booked", "Simulated", "Difference"):
            table.add_column(column, justify="right")
        for row in rows[:_ROWS_SHOWN]:
            table.add_row(*_cells(row, simulated["currency"], row["key"] or "-"))
        if len(rows) > _ROWS_SHOWN:
            table.caption = f"and {len(rows) - _ROWS_SHOWN} more; --json has them"
        table.add_section()
        table.add_row(*_cells(simulated["all"], simulated["currency"], "all"))
        console.print(table)
    console.print(
        f"{simulated['orders_raised']} orders would earn more, "
        f"{simulated['orders_lowered']} less; "
        f"{simulated['orders_unconvertible']} have no exchange rate in the draft.",
        highlight=False,
    )


def _cells(row: dict[str, Any], currency: str, key: str) -> tuple[str, ...]:
    names = ("booked_minor", "simulated_minor", "difference_minor")
    amounts = (f"{format_amount(row[name], currency)} {currency}" for name in names)
    return key, str(row["orders"]), *amounts


def _instant(name: str, given: str, zone: ZoneInfo, *, is_end: bool) -> datetime:
    try:
        if "T" not in given:
            day = date.fromisoformat(given)
            ordinal = day.toordinal() + is_end
            return datetime.combine(date.fromordinal(ordinal), time(), zone).astimezone(UTC)
        at = datetime.fromisoformat(given)
    except (ValueError, OverflowError) as error:
        raise invalid(name, "date", "must be a day or an RFC 3339 time") from error
    if at.tzinfo is None:
        raise invalid(name, "date", "must say its offset from UTC")
    return at.astimezone(UTC)
