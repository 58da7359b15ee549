"""Tracking health: what came in against what was to be expected, by program and publisher.

Read from the hourly roll-ups, the orders of a few days and the looks at pages; never from clicks.
A publisher sees what is about itself, an advertiser what is about its programs, a manager all.
"""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final, cast

import sqlalchemy as sa
from sqlmodel import Session, col, select

from kernel.i18n import translate
from kernel.settings import Settings
from network.access import Actor, scope_to_party
from network.models import Membership, MembershipStatus, Program, Publisher, Role
from tracker import arrivals, judgements, link_checks
from tracker.judgements import Check, Judgement, SameOrders, Share, Status, Traffic
from tracker.models import Attribution, Conversion, IntakeRefusal
from tracker.rollup_checks import day_number
from tracker.rollup_models import LinkTarget, RollupDay, RollupHour
from tracker.rollups import HOURS_A_DAY, NOBODY, TOTAL, hour_of
from tracker.rules import AttributionReason

_ORDERS_READ_MAX: Final = 50_000
_EXAMPLES: Final = 3
_NO_CLICK: Final = frozenset({AttributionReason.NO_CLICK_ID, "no_click"})
_CONFLICTS: Final = frozenset({"order_conflict", "change_conflict"})
_ORDER_OF_STATUS: Final = (Status.RED, Status.AMBER, Status.GREEN)
_MINUTE_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Finding:
    """A judgement and whom it is about: a program, and one of its publishers where there is one."""

    program_id: str
    publisher_id: str | None
    judgement: Judgement

    @property
    def rank(self) -> tuple[int, str, str, str]:
        """Where it stands in a list: the worst first."""
        return (
            _ORDER_OF_STATUS.index(self.judgement.status),
            self.program_id,
            self.publisher_id or "",
            self.judgement.check.value,
        )


def sentence(judgement: Judgement, language: str) -> str:
    """The reason in words."""
    numbers = {
        name: f"{value:,}" if isinstance(value, int) else value
        for name, value in judgement.numbers.items()
    }
    return translate("tracker", language, judgement.sentence, **numbers)


@dataclass(slots=True)
class _View:
    """Whose health is read, of what, and when."""

    session: Session
    actor: Actor
    settings: Settings
    now: datetime
    programs: dict[str, Program]
    publishers: dict[int, str] = field(default_factory=dict)
    publisher_id: str | None = None

    @property
    def by_number(self) -> dict[int, str]:
        return {program.number: program.id for program in self.programs.values()}

    @property
    def since(self) -> datetime:
        return self.now - timedelta(days=self.settings.health_days)

    @property
    def history_since(self) -> datetime:
        return self.since - timedelta(days=self.settings.health_history_days)


def read(
    session: Session,
    actor: Actor,
    settings: Settings,
    *,
    now: datetime,
    program_id: str | None = None,
    publisher_id: str | None = None,
) -> list[Finding]:
    """Everything that can be judged, the worst first. Filters are of what the actor may see."""
    view = _View(session, actor, settings, now, _programs(session, actor, program_id))
    view.publisher_id = actor.party_id if actor.role is Role.PUBLISHER else publisher_id
    if not view.programs:
        return []
    view.publishers = _publishers(session, view.publisher_id)
    found = [*_from_visits(view), *_from_silence(view), *_from_orders(view), *_from_links(view)]
    if actor.role is not Role.PUBLISHER and view.publisher_id is None:
        found.extend(_from_refusals(view))
        found.extend(_from_repeats(view))
    return sorted(found, key=lambda finding: finding.rank)


def _programs(session: Session, actor: Actor, program_id: str | None) -> dict[str, Program]:
    query = select(Program)
    if program_id is not None:
        query = query.where(Program.id == program_id)
    if actor.role is Role.PUBLISHER:
        joined = select(Membership.program_id).where(
            Membership.publisher_id == actor.party_id,
            Membership.status == MembershipStatus.APPROVED,
        )
        query = query.where(col(Program.id).in_(joined))
    query = scope_to_party(
        query, actor, publisher=sa.literal(actor.party_id), advertiser=col(Program.advertiser_id)
    )
    return {program.id: program for program in session.exec(query)}


def _publishers(session: Session, publisher_id: str | None) -> dict[int, str]:
    query = select(Publisher.number, Publisher.id)
    if publisher_id is not None:
        query = query.where(Publisher.id == publisher_id)
    return dict(session.exec(query).all())


def _from_visits(view: _View) -> list[Finding]:
    settings = view.settings
    recent, history = _sums(view, view.since, view.now), _sums(view, view.history_since, view.since)
    found = []
    for (program, publisher), before in history.items():
        now = recent.get((program, publisher), (0, 0, 0))
        traffic = Traffic(
            clicks=now[0],
            unique_clicks=now[1],
            orders=now[2],
            clicks_before=before[0],
            orders_before=before[2],
            days=settings.health_days,
            days_before=settings.health_history_days,
        )
        judged = (
            judgements.judge_conversions(traffic, orders_min=settings.health_orders_min),
            judgements.judge_repeats(traffic),
        )
        found += [
            Finding(view.by_number[program], view.publishers[publisher], one)
            for one in judged
            if one is not None
        ]
    return found


def _sums(
    view: _View, start: datetime, end: datetime
) -> dict[tuple[int, int], tuple[int, int, int]]:
    """(clicks, unique clicks, orders) by program and publisher, from whole UTC days."""
    query = sa.select(
        col(RollupDay.program_number),
        col(RollupDay.publisher_number),
        sa.func.sum(col(RollupDay.clicks)),
        sa.func.sum(col(RollupDay.unique_clicks)),
        sa.func.sum(col(RollupDay.conversions)),
    ).where(
        col(RollupDay.dimension) == TOTAL,
        col(RollupDay.day) > day_number(start.astimezone(UTC).date()),
        col(RollupDay.day) <= day_number(end.astimezone(UTC).date()),
        *_scope(view, RollupDay),
    )
    grouped = query.group_by(col(RollupDay.program_number), col(RollupDay.publisher_number))
    return {
        (program, publisher): (int(clicks), int(uniques), int(orders))
        for program, publisher, clicks, uniques, orders in view.session.execute(grouped)
    }


def _scope(view: _View, model: type[RollupDay | RollupHour]) -> list[sa.ColumnElement[bool]]:
    where = [
        col(model.program_number).in_(list(view.by_number)),
        col(model.publisher_number) != NOBODY,
    ]
    if view.publisher_id is not None:
        where.append(col(model.publisher_number).in_(list(view.publishers)))
    return where


def _from_silence(view: _View) -> list[Finding]:
    """By program and publisher, and by program for its advertiser."""
    settings = view.settings
    hour = col(RollupHour.hour)
    # One expression for both places: PostgreSQL does not know two with their own 24 for the same.
    hour_of_day = hour % HOURS_A_DAY
    query = (
        sa.select(
            col(RollupHour.program_number),
            col(RollupHour.publisher_number),
            hour_of_day,
            sa.func.sum(col(RollupHour.conversions)),
            sa.func.max(hour),
        )
        .where(
            hour >= hour_of(view.history_since),
            hour <= hour_of(view.now),
            col(RollupHour.conversions) > 0,
            *_scope(view, RollupHour),
        )
        .group_by(
            col(RollupHour.program_number),
            col(RollupHour.publisher_number),
            hour_of_day,
        )
    )
    counts: defaultdict[tuple[str, str | None], Counter[int]] = defaultdict(Counter)
    last: dict[tuple[str, str | None], int] = {}
    for program, publisher, at, orders, newest in view.session.execute(query):
        keys: list[tuple[str, str | None]] = [(view.by_number[program], view.publishers[publisher])]
        if view.publisher_id is None:
            keys.append((view.by_number[program], None))
        for key in keys:
            counts[key][int(at)] += int(orders)
            last[key] = max(last.get(key, 0), newest)
    found = []
    for (program_id, publisher_id), by_hour in counts.items():
        judged = judgements.judge_silence(
            orders_by_hour=by_hour,
            last_hour=last[program_id, publisher_id],
            now_hour=hour_of(view.now),
            days=settings.health_days + settings.health_history_days,
            hours_min=settings.health_silent_hours,
        )
        if judged is not None and sum(by_hour.values()) >= settings.health_orders_min:
            found.append(Finding(program_id, publisher_id, judged))
    return found


@dataclass(slots=True)
class _Orders:
    """The recent orders of one program, or of one publisher on it."""

    count: int = 0
    no_click: int = 0
    unmatched: Counter[str] = field(default_factory=Counter)
    delays_seconds: list[float] = field(default_factory=list)

    def add(self, row: Any) -> None:
        self.count += 1
        self.delays_seconds.append((row.received_at - row.occurred_at).total_seconds())
        if row.publisher_id is None:
            if row.reason in _NO_CLICK:
                self.no_click += 1
            else:
                self.unmatched[row.reason] += 1


def _from_orders(view: _View) -> list[Finding]:
    recent: defaultdict[tuple[str, str | None], _Orders] = defaultdict(_Orders)
    for row in view.session.execute(_orders(view)):
        if view.publisher_id is None:
            recent[row.program_id, None].add(row)
        if row.publisher_id is not None:
            recent[row.program_id, row.publisher_id].add(row)
    before = _history_of_orders(view) if view.publisher_id is None else {}
    found = []
    for (program_id, publisher_id), orders in recent.items():
        judged = [_late(view, orders)]
        if publisher_id is None:
            judged += _matching(view, orders, before.get(program_id, (0, 0)))
        found += [Finding(program_id, publisher_id, one) for one in judged if one is not None]
    return found


def _orders(view: _View) -> sa.Select[Any]:
    query: Any = (
        sa.select(
            col(Conversion.program_id),
            col(Conversion.occurred_at),
            col(Conversion.received_at),
            col(Attribution.publisher_id),
            col(Attribution.reason),
        )
        .join(Attribution, col(Attribution.conversion_id) == col(Conversion.id))
        .where(*_counted_orders(view), col(Conversion.occurred_at) >= view.since)
        .order_by(col(Conversion.occurred_at).desc())
        .limit(_ORDERS_READ_MAX)
    )
    if view.publisher_id is not None:
        query = query.where(col(Attribution.publisher_id) == view.publisher_id)
    return cast("sa.Select[Any]", query)


def _counted_orders(view: _View) -> list[sa.ColumnElement[bool]]:
    # Orders of the past that were imported are late by nature.
    return [
        col(Conversion.program_id).in_(list(view.programs)),
        col(Conversion.imported).is_(False),
        col(Conversion.is_test).is_(False),
    ]


def _history_of_orders(view: _View) -> dict[str, tuple[int, int]]:
    """(orders, orders without a click) of the history, by program."""
    clickless = sa.case((col(Attribution.reason).in_(_NO_CLICK), 1), else_=0)
    query = (
        sa.select(col(Conversion.program_id), sa.func.count(), sa.func.sum(clickless))
        .join(Attribution, col(Attribution.conversion_id) == col(Conversion.id))
        .where(
            *_counted_orders(view),
            col(Conversion.occurred_at) >= view.history_since,
            col(Conversion.occurred_at) < view.since,
        )
        .group_by(col(Conversion.program_id))
    )
    return {
        program_id: (count, int(without or 0))
        for program_id, count, without in view.session.execute(query)
    }


def _late(view: _View, orders: _Orders) -> Judgement | None:
    minutes = view.settings.health_late_minutes
    delays = sorted(orders.delays_seconds)
    return _share(
        view,
        Check.LATE,
        Share(
            count=sum(delay > minutes * _MINUTE_SECONDS for delay in delays),
            orders=orders.count,
            days=view.settings.health_days,
        ),
        {
            "minutes": minutes,
            "median": _minutes(delays, 50),
            "slowest": _minutes(delays, 95),
        },
    )


def _minutes(delays: Sequence[float], percent: int) -> int:
    """Whole minutes, upwards, within which so many of 100 orders came."""
    at = max(0, -(-len(delays) * percent // 100) - 1)
    return max(0, -int(-delays[at] // _MINUTE_SECONDS))


def _matching(view: _View, orders: _Orders, before: tuple[int, int]) -> list[Judgement | None]:
    days = view.settings.health_days
    unmatched = sum(orders.unmatched.values())
    return [
        _share(
            view,
            Check.NO_CLICK,
            Share(
                count=orders.no_click,
                orders=orders.count,
                days=days,
                count_before=before[1],
                orders_before=before[0],
            ),
            {},
        ),
        _share(
            view,
            Check.UNMATCHED,
            Share(count=unmatched, orders=orders.count, days=days),
            {"reasons": _reasons(orders.unmatched)},
        ),
    ]


def _share(
    view: _View, check: Check, share: Share, numbers: Mapping[str, int | str]
) -> Judgement | None:
    settings = view.settings
    return judgements.judge_share(
        check,
        share,
        amber_percent=settings.health_share_percent,
        orders_min=settings.health_orders_min,
        numbers=numbers,
    )


def _reasons(counts: Mapping[str, int]) -> str:
    """`click_id_forged 3, outside_window 1`: the codes of the reference, most frequent first."""
    ordered = sorted(counts.items(), key=lambda entry: (-entry[1], entry[0]))
    return ", ".join(f"{code} {count:,}" for code, count in ordered) or "\N{EN DASH}"


def _from_refusals(view: _View) -> list[Finding]:
    query = (
        sa.select(col(IntakeRefusal.program_id), col(IntakeRefusal.code), sa.func.count())
        .where(
            col(IntakeRefusal.program_id).in_(list(view.programs)),
            col(IntakeRefusal.at) >= view.since,
        )
        .group_by(col(IntakeRefusal.program_id), col(IntakeRefusal.code))
    )
    refused: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for program_id, code, count in view.session.execute(query):
        refused[program_id][code] += count
    orders = _order_counts(view, list(refused))
    found = []
    for program_id, codes in refused.items():
        conflicts = sum(codes[code] for code in _CONFLICTS)
        others = Counter({code: codes[code] for code in codes if code not in _CONFLICTS})
        for check, count in ((Check.CONFLICTS, conflicts), (Check.REFUSED, others.total())):
            share = Share(
                count=count,
                orders=orders.get(program_id, 0) + codes.total(),
                days=view.settings.health_days,
            )
            judged = _share(view, check, share, {"reasons": _reasons(others)})
            if judged is not None and count:
                found.append(Finding(program_id, None, judged))
    return found


def _from_repeats(view: _View) -> list[Finding]:
    """By program and by the way in which the same orders came again and again."""
    groups: defaultdict[tuple[str, str], list[tuple[int, str]]] = defaultdict(list)
    for program_id, channel, order_id, times in arrivals.repeated(
        view.session, list(view.programs), since=view.since, limit=_ORDERS_READ_MAX
    ):
        groups[program_id, channel].append((times, order_id))
    found = []
    for (program_id, channel), repeated in groups.items():
        times, example = repeated[0]
        judged = judgements.judge_same_orders(
            SameOrders(
                channel=channel,
                count=sum(one for one, _ in repeated),
                orders=len(repeated),
                times=times,
                example=example,
                days=view.settings.health_days,
            ),
            times_min=view.settings.health_repeats_min,
        )
        if judged is not None:
            found.append(Finding(program_id, None, judged))
    return found


def _order_counts(view: _View, program_ids: Sequence[str]) -> dict[str, int]:
    query = (
        select(Conversion.program_id, sa.func.count())
        .where(
            col(Conversion.program_id).in_(program_ids),
            col(Conversion.occurred_at) >= view.since,
        )
        .group_by(col(Conversion.program_id))
    )
    return dict(view.session.exec(query).all())


def _from_links(view: _View) -> list[Finding]:
    """By program; a publisher is told of its own pages and of the program's landing page."""
    query = select(LinkTarget).where(
        col(LinkTarget.program_id).in_(list(view.programs)), LinkTarget.outcome != ""
    )
    pages: defaultdict[str, list[LinkTarget]] = defaultdict(list)
    for target in view.session.exec(query.order_by(col(LinkTarget.url))):
        landing = view.programs[target.program_id].landing_url
        if view.publisher_id in (None, target.publisher_id) or target.url == landing:
            pages[target.program_id].append(target)
    found = []
    for program_id, targets in pages.items():
        failing = [one for one in targets if one.outcome in link_checks.BROKEN]
        judged = judgements.judge_links(
            pages=len(targets),
            failing=len(failing),
            broken=sum(one.failures > 1 for one in failing),
            examples=", ".join(
                f"{one.url} ({one.status or one.outcome})" for one in failing[:_EXAMPLES]
            ),
        )
        if judged is not None:
            found.append(Finding(program_id, view.publisher_id, judged))
    return found
