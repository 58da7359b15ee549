"""`tallystick audit`: every invariant of the house, checked against what is stored."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from commissions import checks as commission_checks
from commissions import replay_checks, replay_reading
from commissions.problems import Problem
from commissions.replay_checks import Say
from commissions.replay_reading import Part, Span
from fraud import checks as fraud_checks
from kernel import clock
from kernel.database import reading
from kernel.outbox import OutboxRow
from kernel.settings import Settings
from server.tables import append_only_tables
from tracker import attribution_checks, click_days, clicks, rollup_checks, shipper
from tracker.models import Attribution, Click, ClickDay, Conversion, ConversionItem, JournalPosition

_ROLLUP_DAYS = 2
FINDINGS_MAX = 1_000
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


@dataclass(frozen=True, slots=True)
class Scope:
    """What is audited: everything, or only the replay of a program's orders or of a period's."""

    only_replay: bool = False
    program_id: str | None = None
    period: Span = (None, None)


@dataclass(frozen=True, slots=True)
class Step:
    """A piece of the audit that needs nothing of the others: a check, or the replay of a part."""

    name: str
    part: Part | None = None

    @property
    def orders(self) -> int:
        """How many orders are replayed."""
        return self.part.orders if self.part else 0


def run(engine: Engine, settings: Settings) -> Iterator[Finding]:
    """Every broken invariant found, in order; none when the books are right."""
    with reading(engine) as session:
        for step in steps(session, Scope()):
            yield from take(session, settings, step)


def steps(session: Session, scope: Scope) -> list[Step]:
    """What the audit consists of, in the order in which findings are told."""
    parts = replay_reading.parts(session, program_id=scope.program_id, period=scope.period)
    replays = [Step("replay", part) for part in parts]
    if scope.only_replay:
        return replays
    names = list(_CHECKS)
    at = names.index(next(iter(commission_checks.AFTER_REPLAY)))
    return [*map(Step, names[:at]), *replays, *map(Step, names[at:])]


def take(
    session: Session, settings: Settings, step: Step, say: Say = lambda _count: None
) -> Iterator[Finding]:
    """What a step finds, at most FINDINGS_MAX and one that says there are more."""
    if step.part is None:
        found = _CHECKS[step.name](session, settings)
    else:
        found = _findings(replay_checks.check(session, step.part, say))
    for count, finding in enumerate(found):
        if count == FINDINGS_MAX:
            detail = f"more than {FINDINGS_MAX} of these; the others are not listed"
            yield Finding(finding.invariant, step.name, detail)
            return
        yield finding


def _findings(problems: Iterable[Problem]) -> Iterator[Finding]:
    for one in problems:
        yield Finding(one.invariant, one.subject, one.detail)


def _fraud(session: Session) -> Iterator[Finding]:
    for trouble in fraud_checks.check(session):
        yield Finding(6, trouble.subject_id, f"{trouble.code}: {trouble.message}")


def _rollups(session: Session, settings: Settings) -> Iterator[Finding]:
    for contradiction in rollup_checks.check(
        session, now=clock.now(), days=_ROLLUP_DAYS, values_max=settings.rollup_values_max
    ):
        yield Finding(8, "reports", f"{contradiction}; see `tallystick rollups rebuild`")


def _shares(session: Session) -> Iterator[Finding]:
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
    total = (
        sa.select(sa.func.sum(ConversionItem.amount_minor))
        .where(col(ConversionItem.conversion_id) == col(Conversion.id))
        .scalar_subquery()
    )
    sums = sa.select(
        col(Conversion.id), col(Conversion.amount_minor), total.label("items_minor")
    ).subquery()
    # An order without items has no sum to compare with.
    query = (
        sa.select(sums)
        .where(sums.c.items_minor != sums.c.amount_minor)
        .execution_options(yield_per=_ATTRIBUTIONS_AT_A_TIME)
    )
    for conversion_id, amount_minor, items_minor in session.execute(query):
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


_Check = Callable[[Session, Settings], Iterator[Finding]]


def _of(check: commission_checks.Check) -> _Check:
    return lambda session, _settings: _findings(check(session))


_CHECKS: Mapping[str, _Check] = {
    "intake": _intake,
    **{name: _of(check) for name, check in commission_checks.BEFORE_REPLAY.items()},
    **{name: _of(check) for name, check in commission_checks.AFTER_REPLAY.items()},
    "append only": lambda session, _settings: _append_only(session),
    "fraud": lambda session, _settings: _fraud(session),
    "parties": lambda session, _settings: _parties(session),
    "roll-ups": _rollups,
    "shares": lambda session, _settings: _shares(session),
}
