"""`tallystick audit`: every invariant of the house, checked against what is stored."""

from collections.abc import Iterator
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from commissions import checks as commission_checks
from fraud import checks as fraud_checks
from kernel import clock
from kernel.database import reading
from kernel.outbox import OutboxRow
from kernel.settings import Settings
from server.tables import append_only_tables
from tracker import attribution_checks, click_days, clicks, rollup_checks, shipper
from tracker.models import Attribution, Click, ClickDay, Conversion, ConversionItem, JournalPosition

_ROLLUP_DAYS = 2
INVARIANTS = {
    1: "every acknowledged click and conversion is in the database exactly once",
    2: "every posting balances, and cached balances equal the re-sum",
    3: "booked commission equals a replay of its plan version over its events",
    4: "money facts, plan versions, decisions and audit rows cannot be changed",
    5: "no conversion is paid twice; payout lines sum to the payout",
    6: "everything set aside carries a reason code",
    7: "every row belongs to one party, and to the same one everywhere",
    8: "roll-ups of recent days equal the facts",
    9: "the shares of every attributed order sum to exactly 1",
}
_ATTRIBUTIONS_AT_A_TIME = 1_000


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
        for contradiction in rollup_checks.check(
            session,
            now=clock.now(),
            days=_ROLLUP_DAYS,
            values_max=settings.rollup_values_max,
        ):
            yield Finding(8, "reports", f"{contradiction}; see `tallystick rollups rebuild`")
        for conversion_id, wrong in attribution_checks.check(session):
            yield Finding(9, conversion_id, wrong)


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
    shipped_clicks, shipped_conversions = session.exec(
        select(
            sa.func.coalesce(sa.func.sum(JournalPosition.clicks), 0),
            sa.func.coalesce(sa.func.sum(JournalPosition.conversions), 0),
        )
    ).one()
    conversions = session.exec(select(sa.func.count()).select_from(Conversion)).one()
    if conversions != shipped_conversions:
        detail = f"{shipped_conversions} were shipped, {conversions} are stored"
        yield Finding(1, "conversions", detail)
    yield from _click_days(session, shipped_clicks)
    yield from _sums(session)


def _click_days(session: Session, shipped: int) -> Iterator[Finding]:
    """Every shipped click is in its day, or was let go with it."""
    rows = list(session.exec(select(ClickDay)))
    counted = sum(row.clicks + row.retired_clicks for row in rows)
    if counted != shipped:
        yield Finding(1, "clicks", f"{shipped} were shipped, the days count {counted}")
    for row in rows:
        stored = 0
        with click_days.reading_day(session, row) as of_day:
            if of_day is not None:
                first, last = click_days.bounds(row.day)
                query = select(sa.func.count()).where(col(Click.at) >= first, col(Click.at) < last)
                stored = of_day.exec(query).one()
        # A batch that is being written, or that a crash cut off, stands in its file on SQLite
        # before it is counted; the shipper counts it when it comes back to it.
        if stored < row.clicks or (stored > row.clicks and not click_days.is_by_file(session)):
            yield Finding(1, f"clicks of {row.day}", f"{row.clicks} counted, {stored} stored")


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
        select(
            Attribution.conversion_id,
            Attribution.click_id,
            Attribution.publisher_id,
            Conversion.program_id,
        )
        .join(Conversion, col(Conversion.id) == col(Attribution.conversion_id))
        .where(col(Attribution.publisher_id).is_not(None), col(Attribution.click_id).is_not(None))
        .order_by(col(Attribution.clicked_at))
        .execution_options(yield_per=_ATTRIBUTIONS_AT_A_TIME)
    )
    for some in session.exec(query).partitions():
        found = clicks.find_many(session, {str(click_id) for _, click_id, _, _ in some})
        for conversion_id, click_id, publisher_id, program_id in some:
            click = found.get(str(click_id))
            if click is not None and (click.publisher_id, click.program_id) != (
                publisher_id,
                program_id,
            ):
                detail = "is attributed to another party than its click's"
                yield Finding(7, conversion_id, detail)
