"""`tallystick audit`: every invariant of the house, checked against what is stored."""

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from commissions import checks as commission_checks
from fraud import checks as fraud_checks
from kernel.database import reading
from kernel.outbox import OutboxRow
from kernel.settings import Settings
from server.tables import append_only_tables
from tracker import shipper
from tracker.models import Attribution, Click, Conversion, ConversionItem, JournalPosition

INVARIANTS = {
    1: "every acknowledged click and conversion is in the database exactly once",
    2: "every posting balances, and cached balances equal the re-sum",
    3: "booked commission equals a replay of its plan version over its events",
    4: "money facts, plan versions, decisions and audit rows cannot be changed",
    5: "no conversion is paid twice; payout lines sum to the payout",
    6: "everything set aside carries a reason code",
    7: "every row belongs to one party, and to the same one everywhere",
}


@dataclass(frozen=True, slots=True)
class Finding:
    """A broken invariant and the first thing that shows it."""

    invariant: int
    subject: str
    detail: str


def run(engine: Engine, settings: Settings) -> Iterator[Finding]:
    """Every broken invariant found, in order; none when the books are right."""
    with reading(engine) as session:
        yield from _intake(session, settings)
        for problem in commission_checks.check(session):
            yield Finding(problem.invariant, problem.subject, problem.detail)
        yield from _append_only(session)
        for trouble in fraud_checks.check(session):
            yield Finding(6, trouble.subject_id, f"{trouble.code}: {trouble.message}")
        yield from _parties(session)


def _intake(session: Session, settings: Settings) -> Iterator[Finding]:
    waiting = shipper.backlog_bytes(session, settings.data_dir / "journal")
    if waiting:
        yield Finding(1, "journal", f"{waiting} bytes are not shipped yet; run again when idle")
    parked = session.exec(
        select(OutboxRow).where(col(OutboxRow.parked_at).is_not(None)).limit(1)
    ).first()
    if parked is not None:
        yield Finding(1, parked.subject_id, f"{parked.kind} is parked: {parked.last_error}")
    for position in session.exec(select(JournalPosition).where(JournalPosition.damaged > 0)):
        yield Finding(1, position.journal_id, f"{position.damaged} damaged records were met")
    counts = {
        kind: session.exec(select(sa.func.count()).select_from(table)).one()
        for kind, table in (("clicks", Click), ("conversions", Conversion))
    }
    shipped = session.exec(
        select(
            sa.func.coalesce(sa.func.sum(JournalPosition.clicks), 0),
            sa.func.coalesce(sa.func.sum(JournalPosition.conversions), 0),
        )
    ).one()
    for kind, recorded in zip(("clicks", "conversions"), shipped, strict=True):
        if counts[kind] != recorded:
            yield Finding(1, kind, f"{recorded} were shipped, {counts[kind]} are stored")
    yield from _sums(session)


def _sums(session: Session) -> Iterator[Finding]:
    total = sa.func.sum(ConversionItem.amount_minor)
    query = (
        select(Conversion.id, Conversion.amount_minor, total)
        .join(ConversionItem, col(ConversionItem.conversion_id) == col(Conversion.id))
        .group_by(col(Conversion.id), col(Conversion.amount_minor))
        .having(total != col(Conversion.amount_minor))
    )
    for conversion_id, amount_minor, items_minor in session.exec(query):
        yield Finding(1, conversion_id, f"amount {amount_minor}, its items sum to {items_minor}")


def _append_only(session: Session) -> Iterator[Finding]:
    if session.get_bind().dialect.name == "sqlite":
        query = "SELECT tbl_name, count(*) FROM sqlite_master WHERE type = 'trigger' GROUP BY 1"
        needed = 2
    else:
        query = (
            "SELECT relname, count(*) FROM pg_trigger JOIN pg_class ON pg_class.oid = tgrelid "
            "WHERE NOT tgisinternal AND tgenabled <> 'D' GROUP BY 1"
        )
        needed = 1
    found = {str(name): int(count) for name, count in session.execute(sa.text(query))}
    for table in append_only_tables():
        if found.get(table, 0) < needed:
            yield Finding(4, table, "its rows are not protected: a trigger is missing")


def _parties(session: Session) -> Iterator[Finding]:
    query = (
        select(Attribution.conversion_id)
        .join(Click, col(Click.id) == col(Attribution.click_id))
        .join(Conversion, col(Conversion.id) == col(Attribution.conversion_id))
        .where(
            col(Attribution.publisher_id).is_not(None),
            sa.or_(
                col(Click.publisher_id) != col(Attribution.publisher_id),
                col(Click.program_id) != col(Conversion.program_id),
            ),
        )
    )
    for conversion_id in session.exec(query):
        yield Finding(7, conversion_id, "is attributed to another party than its click's")
