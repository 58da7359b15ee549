"""Where a publisher stands in the tiers of a program now, and what is missing to the next level.

Counted anew from the orders of the running windows, as the plan in force counts them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

from sqlmodel import Session

from commissions import periods, plans, replays
from commissions.choosing import CounterKey, Prepared, prepare
from commissions.explanation_words import counter_text, decimal_text, major_text
from commissions.folding import collect, replay_span, sum_counters
from commissions.order_events import Order
from commissions.periods import Period
from commissions.plan_document import Plan, Rule, Tiers
from commissions.tiers import Level, Number, level_at, window_of
from kernel.i18n import translate
from kernel.money import format_amount

_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True, slots=True)
class Standing:
    """A publisher's place in one counter of a rule, in the window that runs now.

    `measure` is what is counted: orders, units or minor units; None where other publishers' orders
    count too, which is theirs to know. `level` is what pays now, None below the first. `missing` is
    what must come in until the measure reaches `following`; in a graduated tier the order that
    brings the measure there is the first that is paid by it. In a status tier the window before
    decides `level`, and `measure` decides the next window.
    """

    rule: Rule
    tiers: Tiers
    scope: tuple[tuple[str, str], ...]
    starts: datetime | None
    ends: datetime | None
    measure: Number | None
    level: Level | None
    following: Level | None
    missing: Number | None


def standings(
    session: Session, program_id: str, publisher_id: str, *, now: datetime
) -> list[Standing]:
    """One entry a counter, in the order in which rules are chosen; empty without a plan.

    A rule for other publishers only has none. A rule that keeps a counter for each region, category
    or country has one for each that something was sold in.
    """
    version = plans.version_at(session, program_id, now)
    if version is None:
        return []
    plan = plans.parsed(session, version.id)
    rules = [rule for rule in plan.base_rules if _is_for(rule, publisher_id, now)]
    if not rules:
        return []
    totals, before = _totals(session, plan, program_id, publisher_id, now)
    found: list[Standing] = []
    for rule in rules:
        found += _of_rule(rule, totals, before, publisher_id, now)
    return found


def words(standing: Standing, currency: str, language: str) -> list[str]:
    """The same as sentences: where it stands, what is missing, until when, and what it brings."""
    return [
        translate("commissions", language, message, **_translated(values, language))
        for message, values in _sentences(standing, currency, standing.tiers.zone)
    ]


def _is_for(rule: Rule, publisher_id: str, now: datetime) -> bool:
    named = rule.when.values.get("publisher")
    counted = rule.tiers is not None and rule.tiers.counted and not rule.tiers.rolling_days
    return counted and rule.effective(now) and (named is None or publisher_id in named)


def _totals(
    session: Session, plan: Plan, program_id: str, publisher_id: str, now: datetime
) -> tuple[dict[CounterKey, Number], dict[CounterKey, Number]]:
    """What the counters hold, and what status tiers knew when the running window opened."""
    order = Order(id="", publisher=publisher_id, at=now, lines=(), known_at=now)
    period = Period(program_id, now, now + _INSTANT)
    everyone = any("publisher" not in tiers.scope for _, tiers in plan.counting)
    story = periods.load(
        session, period, None if everyone else publisher_id, replay_span(plan, order)
    )
    unplanned = {one for one, version_id in story.versions.items() if version_id is None}
    story.happenings = [one for one in story.happenings if one.conversion_id not in unplanned]
    events = [
        event
        for event in replays.events(story)
        if replays.convertible(plan, story.facts[_order_id(event)].order)
    ]
    conversions = collect(plan, events)
    totals = sum_counters(
        prepare(plan, one.known(one.freeze_at), on_time=one.on_time) for one in conversions
    )
    starts = {
        window_of(tiers.window, now, tiers.zone)[0]
        for _, tiers in plan.counting
        if tiers.mode == "status" and not tiers.rolling_days
    }
    before: dict[CounterKey, Number] = {}
    for start in sorted(one for one in starts if one is not None):
        known: Iterator[Prepared] = (
            prepare(plan, one.known(start), on_time=one.on_time)
            for one in conversions
            if one.order.known_at < start
        )
        before |= sum_counters(known)
    return totals, before


def _order_id(event: object) -> str:
    return str(getattr(event, "conversion", "") or getattr(event, "id", ""))


def _of_rule(
    rule: Rule,
    totals: Mapping[CounterKey, Number],
    before: Mapping[CounterKey, Number],
    publisher_id: str,
    now: datetime,
) -> Iterator[Standing]:
    tiers = rule.tiers
    if tiers is None:
        return
    starts, ends = window_of(tiers.window, now, tiers.zone)
    name = starts.isoformat() if starts else ""
    keys = [
        key
        for key in sorted(totals)
        if key.rule_id == rule.id and key.window_start == name and _is_own(key, publisher_id)
    ]
    if not keys and set(tiers.scope) <= {"publisher"}:
        scope = tuple((one, publisher_id) for one in tiers.scope)
        keys = [CounterKey(rule.id, scope, name)]
    for key in keys:
        measure = totals.get(key, 0)
        level = level_at(tiers.levels, max(measure, 1 if tiers.discrete else 0))
        if tiers.mode == "status":
            level = _status_level(tiers, key, before, starts)
        following = next((one for one in tiers.levels if one.start > measure), None)
        if tiers.mode != "status" and following is level and following is not None:
            following = next((one for one in tiers.levels if one.start > following.start), None)
        is_shared = "publisher" not in tiers.scope
        yield Standing(
            rule=rule,
            tiers=tiers,
            scope=tuple(one for one in key.scope if one[0] != "publisher"),
            starts=starts,
            ends=ends,
            measure=None if is_shared else measure,
            level=level,
            following=following,
            missing=None if is_shared or following is None else following.start - measure,
        )


def _status_level(
    tiers: Tiers, key: CounterKey, before: Mapping[CounterKey, Number], starts: datetime | None
) -> Level | None:
    if starts is None:
        return tiers.levels[0]
    earlier, _ = window_of(tiers.window, starts - _INSTANT, tiers.zone)
    previous = replace_start(key, earlier)
    return level_at(tiers.levels, before.get(previous, 0)) or tiers.levels[0]


def replace_start(key: CounterKey, start: datetime | None) -> CounterKey:
    """The same counter in the window that begins there."""
    return key._replace(window_start=start.isoformat() if start else "")


def _is_own(key: CounterKey, publisher_id: str) -> bool:
    return dict(key.scope).get("publisher", publisher_id) == publisher_id


def _sentences(
    standing: Standing, currency: str, zone: ZoneInfo
) -> Iterator[tuple[str, dict[str, object]]]:
    tiers, rule = standing.tiers, standing.rule.id
    facts: dict[str, object] = {"rule": rule, "measure": (tiers.measure,)}
    if standing.scope:
        facts["scope"] = ", ".join(value for _, value in standing.scope)
        yield "Rule {rule}, for {scope}:", facts
    if standing.measure is not None:
        counted = counter_text(tiers.measure, standing.measure, currency)
        yield "Rule {rule} has counted {counted} ({measure}) so far.", facts | {"counted": counted}
    if standing.level is not None:
        yield "It pays {pays} now.", {"pays": pays_text(standing.level, currency)}
    else:
        yield "It pays nothing yet.", {}
    if standing.following is None:
        yield "That is the highest level.", {}
    elif standing.missing is not None:
        yield _missing(standing, currency)
    if standing.ends is not None:
        last = (standing.ends - _INSTANT).astimezone(zone).date().isoformat()
        yield "The window ends with {date}.", {"date": last}


_MISSING = {
    "count": "{missing} more orders to the next level, which pays {pays}.",
    "units": "{missing} more units to the next level, which pays {pays}.",
}
_MISSING_SALES = "{missing} more sales to the next level, which pays {pays}."
_MISSING_NEXT = "{missing} more to the level that pays {pays} in the next window."


def _missing(standing: Standing, currency: str) -> tuple[str, dict[str, object]]:
    following, missing = standing.following, standing.missing
    if following is None or missing is None:
        raise ValueError("nothing is missing")
    measure = standing.tiers.measure
    facts: dict[str, object] = {
        "missing": counter_text(measure, missing, currency),
        "pays": pays_text(following, currency),
    }
    if standing.tiers.mode == "status":
        return _MISSING_NEXT, facts
    return _MISSING.get(measure, _MISSING_SALES), facts


def pays_text(level: Level, currency: str) -> str:
    """What a level pays, in figures."""
    parts = []
    if level.percent or not (level.per_unit or level.fixed_minor):
        parts.append(f"{decimal_text(level.percent * 100)} %")
    if level.per_unit:
        parts.append(f"{major_text(str(level.per_unit), currency)} {currency} / 1")
    if level.fixed_minor:
        parts.append(f"{format_amount(level.fixed_minor, currency)} {currency}")
    return " + ".join(parts)


def _translated(values: Mapping[str, object], language: str) -> dict[str, object]:
    return {
        name: ", ".join(translate("commissions", language, word) for word in value)
        if isinstance(value, tuple)
        else value
        for name, value in values.items()
    }
