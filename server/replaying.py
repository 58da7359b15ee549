"""The terminal's side of a replay: progress, the reconciliation, the audit, an exit status."""

import csv
import sys
import time
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table
from sqlalchemy.engine import Engine

from kernel.database import connect, reading
from kernel.money import format_amount
from kernel.settings import Settings
from server import audit, backlog, reconcile, replay
from server.retail import CURRENCY, Book, read

_LOG_EVERY_SECONDS = 5.0
_ROWS_SHOWN = 20
_IDLE_SECONDS_MAX = 60.0
_IDLE_PAUSE_SECONDS = 0.2


class Reporter:
    """A bar for each stage on a terminal; a line every few seconds anywhere else."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bars = Progress(
            TextColumn("{task.description:>10}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            disable=not console.is_terminal,
        )
        self._tasks: dict[str, TaskID] = {}
        self._said_at: dict[str, float] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bars.stop()

    def __call__(self, what: str, done: int, total: int) -> None:
        """Show how far a stage is."""
        if self._console.is_terminal:
            if what not in self._tasks:
                self._tasks[what] = self._bars.add_task(what, total=total)
            self._bars.update(self._tasks[what], completed=done, total=total)
            return
        now = time.monotonic()
        if done >= total or now - self._said_at.get(what, 0.0) > _LOG_EVERY_SECONDS:
            self._said_at[what] = now
            self._console.print(f"{what}: {done} of {total}", highlight=False)


def run(
    configured: Settings, file: Path, *, base_url: str, access: Path | None, report: Path | None
) -> int:
    """Replay, reconcile, audit; 0 when every difference is explained and the audit passes."""
    console = Console(soft_wrap=not sys.stdout.isatty())
    with file.open(newline="", encoding="utf-8") as opened:
        book = read(csv.DictReader(opened))
    _say_what_was_read(console, book)
    if report is not None:
        _write_remarks(report, book)
        console.print(f"  every one of these rows stands in {report}")
    player: replay.Player | None = None
    try:
        credentials = replay.read_access(access or configured.data_dir / "demo.json")
        with Reporter(console) as reporter:
            player = replay.Player(base_url.rstrip("/"), credentials, progress=reporter)
            outcome = player.play(book)
            recorded = list(player.conversions(occurred_to="2012-01-01T00:00:00Z"))
    except (OSError, replay.ReplayError) as error:
        console.print(f"the replay stopped: {error}")
        return 1
    finally:
        if player is not None:
            player.close()
    _say_what_happened(console, outcome)
    refused = {
        str(entry["subject"]): str(entry["answer"].get("code") or entry["answer"].get("status"))
        for entry in outcome.refused
    }
    result = reconcile.compare(book, recorded, refused)
    _say_reconciliation(console, result)
    audited = _audit(console, configured)
    return 0 if result.is_explained and audited else 1


def _say_what_was_read(console: Console, book: Book) -> None:
    console.print(
        f"{len(book.orders)} orders with {sum(len(order.items) for order in book.orders)} lines, "
        f"{len(book.refunds)} cancelled lines matched to their sale"
    )
    for code, count in sorted(Counter(remark.code for remark in book.remarks).items()):
        total = sum(remark.amount_minor for remark in book.remarks if remark.code == code)
        rows = [str(remark.row) for remark in book.remarks if remark.code == code]
        more = " ..." if len(rows) > _ROWS_SHOWN else ""
        console.print(
            f"  {count} lines {code} ({format_amount(total, CURRENCY)} {CURRENCY}): rows "
            f"{', '.join(rows[:_ROWS_SHOWN])}{more}"
        )
    odd = [f"{name} = {code}" for name, code in reconcile.mapping_table() if name in _ODD_NAMES]
    console.print("  countries read as: " + "; ".join(odd))


def _write_remarks(path: Path, book: Book) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["row", "code", "country", "amount", "currency"])
        for remark in sorted(book.remarks, key=lambda one: one.row):
            amount = format_amount(remark.amount_minor, CURRENCY)
            writer.writerow([remark.row, remark.code, remark.country_name, amount, CURRENCY])


_ODD_NAMES = frozenset({"EIRE", "RSA", "Channel Islands", "European Community", "Unspecified"})


def _say_what_happened(console: Console, outcome: replay.Outcome) -> None:
    orders = outcome.orders_new + outcome.live_new
    console.print(
        f"new: {outcome.orders_new} orders, {outcome.refunds_new} refunds, {outcome.live_new} "
        f"orders the public way; known before: {outcome.orders_known} orders, "
        f"{outcome.refunds_known} refunds, {outcome.live_known} the public way; "
        f"refused: {len(outcome.refused)}"
    )
    if outcome.changed:
        rate = orders / outcome.seconds
        console.print(
            f"{outcome.seconds:.1f} s from the first click to the last booking, "
            f"{rate:.0f} orders/s end to end"
        )
    else:
        console.print("nothing changed: the server had all of it")
    for entry in outcome.refused[:_ROWS_SHOWN]:
        console.print(f"  refused {entry['subject']}: {entry['answer']}")


def _say_reconciliation(console: Console, result: reconcile.Reconciliation) -> None:
    table = Table(title=f"Reconciliation, sales less refunds, {CURRENCY}")
    table.add_column("country")
    for name in ("orders", "file", "network", "commission", "difference"):
        table.add_column(name, justify="right")
    for line in result.lines:
        table.add_row(
            f"{line.country or '-'} {', '.join(sorted(line.file_names))}",
            str(line.orders),
            *(
                format_amount(minor, CURRENCY)
                for minor in (
                    line.file_minor,
                    line.network_minor,
                    line.commission_minor,
                    line.difference_minor,
                )
            ),
        )
    table.add_section()
    table.add_row(
        "all",
        str(sum(line.orders for line in result.lines)),
        *(
            format_amount(sum(getattr(line, name) for line in result.lines), CURRENCY)
            for name in ("file_minor", "network_minor", "commission_minor", "difference_minor")
        ),
    )
    console.print(table)
    for difference in result.differences:
        console.print(
            f"  {difference.order_id} ({difference.country or '-'}): file "
            f"{format_amount(difference.file_minor, CURRENCY)}, network "
            f"{format_amount(difference.network_minor, CURRENCY)}: {difference.why}"
        )
    verdict = "explained" if result.is_explained else "NOT explained"
    console.print(f"{len(result.differences)} differences, all of them {verdict}")


def _audit(console: Console, configured: Settings) -> bool:
    engine = connect(configured.database)
    try:
        _wait_until_idle(engine, configured)
        findings = list(audit.run(engine, configured))
    finally:
        engine.dispose()
    for finding in findings:
        console.print(f"audit: BROKEN {finding.invariant} {finding.subject}: {finding.detail}")
    if not findings:
        console.print("audit: every invariant holds")
    return not findings


def _wait_until_idle(engine: Engine, configured: Settings) -> None:
    """Let what was acknowledged last arrive: repeats, too, are journalled and counted."""
    deadline = time.monotonic() + _IDLE_SECONDS_MAX
    while time.monotonic() < deadline:
        with reading(engine) as session:
            under_way = backlog.status(session, configured.data_dir)
        if not (under_way["journal_bytes"] or under_way["outbox_pending"]):
            return
        time.sleep(_IDLE_PAUSE_SECONDS)
