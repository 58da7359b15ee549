"""The stored judgement of a conversion: gathers what is known of it, and keeps the verdict.

Conversions are judged in batches, a few statements each whatever their number: histories of many
thousand orders are replayed through here.
"""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session, col, select

from fraud import rules
from fraud.evidence import Evidence
from fraud.models import Assessment, Flag
from fraud.rules import Action
from kernel import bulk
from kernel.errors import NotFound
from kernel.ids import new_id
from network.models import Program
from tracker import seen_clicks
from tracker.agents import AgentClass
from tracker.attribution import NotAttributed
from tracker.models import Attribution, Conversion
from tracker.seen_clicks import Seen

HELD_ACTIONS = frozenset((Action.HOLD, Action.REJECT))
_HOUR = timedelta(hours=1)
# Counted no further: one visitor's flood must not make each of its orders slow to judge.
_VISITOR_CLICKS_COUNTED_MAX = 1_000


class _Facts(NamedTuple):
    """What there is to judge, but for the click."""

    conversion_id: str
    program_id: str
    occurred_at: datetime
    order_country: str | None
    hold_score: int
    attributed_id: str | None
    publisher_id: str | None
    click_id: str | None
    is_test: bool
    assessed: int

    @property
    def earns(self) -> bool:
        """Whether somebody may be paid for it: a test order never counts, whoever it names."""
        return self.publisher_id is not None and not self.is_test


# Asked for every batch of orders; built once, because building costs more than asking.
_TABLES = Assessment.metadata.tables
_assessment, _attribution, _conversion, _flag, _program = (
    _TABLES[str(model.__tablename__)]
    for model in (Assessment, Attribution, Conversion, Flag, Program)
)
_LOOK_UP = (
    sa.select(
        _conversion.c.id,
        _conversion.c.program_id,
        _conversion.c.occurred_at,
        _conversion.c.country,
        _program.c.hold_score,
        _attribution.c.conversion_id,
        _attribution.c.publisher_id,
        _attribution.c.click_id,
        _conversion.c.is_test,
        # A conversion that was nobody's is judged again when it has a publisher.
        sa.exists().where(
            _assessment.c.conversion_id == _conversion.c.id,
            _assessment.c.at >= _attribution.c.decided_at,
        ),
    )
    .join(_program, _program.c.id == _conversion.c.program_id)
    .outerjoin(_attribution, _attribution.c.conversion_id == _conversion.c.id)
    .where(_conversion.c.id.in_(sa.bindparam("conversion_ids", expanding=True)))
)
_IDS_MAX = 500
_ASSESSMENT = bulk.Insert(_assessment, "id", "conversion_id", "score", "action", "reasons", "at")
_FLAG = sa.insert(_flag)


def assess(session: Session, conversion_id: str, *, now: datetime) -> Assessment:
    """As `assess_many` for one conversion, with the assessment that stands."""
    assess_many(session, [conversion_id], now=now)
    # Newest first: whoever judges again adds a row, and the last word stands.
    query = (
        select(Assessment)
        .where(Assessment.conversion_id == conversion_id)
        .order_by(col(Assessment.seq).desc())
    )
    return session.exec(query.limit(1)).one()


def assess_many(session: Session, conversion_ids: Sequence[str], *, now: datetime) -> None:
    """Judge attributed conversions; a hold opens a Flag, unless nobody would be paid for it.

    One judged since it was attributed is not judged again. Raises NotFound for an unknown
    conversion and NotAttributed for one that `attribute` has not seen yet; then none is judged.
    """
    for start in range(0, len(conversion_ids), _IDS_MAX):
        _assess_some(session, conversion_ids[start : start + _IDS_MAX], now)


def _assess_some(session: Session, conversion_ids: Sequence[str], now: datetime) -> None:
    fresh = [one for one in _look_up(session, conversion_ids) if not one.assessed]
    if not fresh:
        return
    for facts in fresh:
        if facts.attributed_id is None:
            raise NotAttributed(
                "the conversion is not attributed yet", conversion_id=facts.conversion_id
            )
    seen = seen_clicks.find_many(session, {one.click_id for one in fresh if one.click_id})
    repeats = _visitor_clicks(session, seen.values())
    assessments: list[dict[str, Any]] = []
    raised: list[dict[str, Any]] = []
    for facts in fresh:
        click = seen.get(facts.click_id) if facts.click_id else None
        verdict = rules.assess(_evidence(facts, click, repeats), hold_score=facts.hold_score)
        assessment = _assessment_row(facts, verdict, now)
        assessments.append(assessment)
        if verdict.action in HELD_ACTIONS and facts.earns:
            raised.append(_flag_row(facts, assessment, now))
    _ASSESSMENT(session, assessments)
    if raised:
        session.execute(_FLAG, raised)


def _look_up(session: Session, conversion_ids: Sequence[str]) -> list[_Facts]:
    """The facts in the order of the ids."""
    rows = session.execute(_LOOK_UP, {"conversion_ids": list(conversion_ids)})
    found = {row[0]: _Facts(*row) for row in rows}
    if not all(one in found for one in conversion_ids):
        raise NotFound("no such conversion", kind="conversion")
    return [found[one] for one in conversion_ids]


def _assessment_row(facts: _Facts, verdict: rules.Assessment, now: datetime) -> dict[str, Any]:
    return {
        "id": new_id("asm", at=now),
        "conversion_id": facts.conversion_id,
        "score": verdict.score,
        "action": verdict.action,
        "reasons": [rules.reason_facts(reason) for reason in verdict.reasons],
        "at": now,
    }


def _flag_row(facts: _Facts, assessment: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    return {
        "id": new_id("flg", at=now),
        "conversion_id": facts.conversion_id,
        "assessment_id": assessment["id"],
        "program_id": facts.program_id,
        "publisher_id": facts.publisher_id,
        "score": assessment["score"],
        "at": now,
    }


def _evidence(facts: _Facts, click: Seen | None, repeats: Mapping[str, int]) -> Evidence:
    if click is None:
        # No click, or one whose record is lost: what was not seen is held against nobody.
        return Evidence(is_conversion=True, has_click=False, order_country=facts.order_country)
    if click.imported:
        return _imported_evidence(facts, click)
    return Evidence(
        is_conversion=True,
        agent_class=_agent_class(click),
        user_agent_empty=not click.user_agent.strip(),
        sec_fetch_dest=click.sec_fetch_dest,
        sec_fetch_mode=click.sec_fetch_mode,
        sec_fetch_user=click.sec_fetch_user,
        sec_purpose=click.sec_purpose,
        is_hosting=click.is_hosting,
        click_country=click.country,
        order_country=facts.order_country,
        seconds_click_to_order=_whole_seconds(facts.occurred_at - click.at),
        duplicate_clicks=click.duplicates + 1,
        visitor_clicks_hour=repeats.get(click.id),
    )


def _imported_evidence(facts: _Facts, click: Seen) -> Evidence:
    """What another network's record proves: a header it did not pass on was not an empty one.

    Its time is what that network says, so nothing that is measured in time is judged by it: not
    the speed of the order, not repeats, not a country that changed within a day.
    """
    return Evidence(
        is_conversion=True,
        imported=True,
        agent_class=_agent_class(click) if click.user_agent.strip() else None,
        sec_fetch_dest=click.sec_fetch_dest,
        sec_fetch_mode=click.sec_fetch_mode,
        sec_fetch_user=click.sec_fetch_user,
        sec_purpose=click.sec_purpose,
        is_hosting=True if click.is_hosting else None,
        click_country=click.country,
        order_country=facts.order_country,
    )


def _agent_class(click: Seen) -> AgentClass | None:
    return AgentClass(click.agent_class) if click.agent_class else None


def _whole_seconds(span: timedelta) -> int:
    # Rounded down: half a second before the click is before it, not zero seconds after.
    return span // timedelta(seconds=1)


def _visitor_clicks(session: Session, seen: Iterable[Seen]) -> dict[str, int]:
    """For each click, those of its visitor on its program in the hour up to it, itself included."""
    judged = [click for click in seen if click.visitor_key and not click.imported]
    counted = seen_clicks.counts_of_visitors(
        session, judged, span=_HOUR, count_max=_VISITOR_CLICKS_COUNTED_MAX
    )
    # Those of the hour that stand under yesterday's salt were counted when the click was stored.
    return {
        click.id: min(counted[click.id] + click.carried_clicks, _VISITOR_CLICKS_COUNTED_MAX)
        for click in judged
    }
