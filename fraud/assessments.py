"""The stored judgement of a conversion: gathers what is known of it, and keeps the verdict.

Two look-ups and one insert a conversion, one more insert when it is flagged: histories of many
thousand orders are replayed through here.
"""

from datetime import datetime, timedelta
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session

from fraud import rules
from fraud.evidence import Evidence
from fraud.models import Assessment, Flag
from fraud.rules import Action
from kernel.errors import NotFound
from kernel.ids import new_id
from network.models import Program
from tracker.agents import AgentClass
from tracker.attribution import NotAttributed
from tracker.models import Attribution, Click, Conversion

HELD_ACTIONS = frozenset((Action.HOLD, Action.REJECT))
_HOUR = timedelta(hours=1)
# Counted no further: one visitor's flood must not make each of its orders slow to judge.
_VISITOR_CLICKS_COUNTED_MAX = 1_000


class _Facts(NamedTuple):
    """What there is to judge. Every `click_` field is None where the click has no row."""

    program_id: str
    occurred_at: datetime
    order_country: str | None
    hold_score: int
    attributed_id: str | None
    publisher_id: str | None
    click_id: str | None
    click_at: datetime
    click_imported: bool
    click_program_id: str
    click_country: str | None
    visitor_key: str
    user_agent: str
    agent_class: str
    sec_fetch_dest: str | None
    sec_fetch_mode: str | None
    sec_fetch_user: str | None
    sec_purpose: str | None
    is_hosting: bool
    duplicates: int


# Asked for every order that comes in; built once, because building costs more than asking.
_TABLES = Assessment.metadata.tables
_assessment, _attribution, _click, _conversion, _flag, _program = (
    _TABLES[str(model.__tablename__)]
    for model in (Assessment, Attribution, Click, Conversion, Flag, Program)
)
_LOOK_UP = (
    sa.select(
        _conversion.c.program_id,
        _conversion.c.occurred_at,
        _conversion.c.country,
        _program.c.hold_score,
        _attribution.c.conversion_id,
        _attribution.c.publisher_id,
        _click.c.id,
        _click.c.at,
        _click.c.imported,
        _click.c.program_id,
        _click.c.country,
        _click.c.visitor_key,
        _click.c.user_agent,
        _click.c.agent_class,
        _click.c.sec_fetch_dest,
        _click.c.sec_fetch_mode,
        _click.c.sec_fetch_user,
        _click.c.sec_purpose,
        _click.c.is_hosting,
        _click.c.duplicates,
        *_assessment.c,
    )
    .join(_program, _program.c.id == _conversion.c.program_id)
    .outerjoin(_attribution, _attribution.c.conversion_id == _conversion.c.id)
    .outerjoin(_click, _click.c.id == _attribution.c.click_id)
    .outerjoin(_assessment, _assessment.c.conversion_id == _conversion.c.id)
    .where(_conversion.c.id == sa.bindparam("conversion_id"))
    # Newest first: whoever judges again adds a row, and the last word stands.
    .order_by(_assessment.c.seq.desc())
    .limit(1)
)
_VISITOR_CLICKS = sa.select(sa.func.count()).select_from(
    sa.select(_click.c.id)
    .where(
        _click.c.program_id == sa.bindparam("program_id"),
        _click.c.visitor_key == sa.bindparam("visitor_key"),
        _click.c.at > sa.bindparam("after"),
        _click.c.at <= sa.bindparam("until"),
    )
    .limit(_VISITOR_CLICKS_COUNTED_MAX)
    .subquery()
)
_ASSESSMENT = sa.insert(_assessment)
_FLAG = sa.insert(_flag)


def assess(session: Session, conversion_id: str, *, now: datetime) -> Assessment:
    """Judge an attributed conversion; a hold opens a Flag, unless nobody would be paid for it.

    A repeat returns the stored assessment and changes nothing. Raises NotFound for an unknown
    conversion and NotAttributed for one that `attribute` has not seen yet.
    """
    facts, earlier = _look_up(session, conversion_id)
    if earlier is not None:
        return earlier
    if facts.attributed_id is None:
        raise NotAttributed("the conversion is not attributed yet", conversion_id=conversion_id)
    verdict = rules.assess(_evidence(session, facts), hold_score=facts.hold_score)
    assessment: dict[str, Any] = {
        "id": new_id("asm", at=now),
        "conversion_id": conversion_id,
        "score": verdict.score,
        "action": verdict.action,
        "reasons": [rules.reason_facts(reason) for reason in verdict.reasons],
        "at": now,
    }
    session.execute(_ASSESSMENT, assessment)
    if verdict.action in HELD_ACTIONS and facts.publisher_id is not None:
        flag = {
            "id": new_id("flg", at=now),
            "conversion_id": conversion_id,
            "assessment_id": assessment["id"],
            "program_id": facts.program_id,
            "publisher_id": facts.publisher_id,
            "score": verdict.score,
            "at": now,
        }
        session.execute(_FLAG, flag)
    return Assessment(**assessment)


def _look_up(session: Session, conversion_id: str) -> tuple[_Facts, Assessment | None]:
    row = session.execute(_LOOK_UP, {"conversion_id": conversion_id}).one_or_none()
    if row is None:
        raise NotFound("no such conversion", kind="conversion")
    known = len(_Facts._fields)
    judged: dict[str, Any] = dict(zip(_assessment.c.keys(), row[known:], strict=True))
    return _Facts(*row[:known]), None if judged["id"] is None else Assessment(**judged)


def _evidence(session: Session, facts: _Facts) -> Evidence:
    if facts.click_id is None:
        # No click, or one whose record is lost: what was not seen is held against nobody.
        return Evidence(is_conversion=True, has_click=False, order_country=facts.order_country)
    if facts.click_imported:
        return _imported_evidence(facts)
    return Evidence(
        is_conversion=True,
        agent_class=_agent_class(facts),
        user_agent_empty=not facts.user_agent.strip(),
        sec_fetch_dest=facts.sec_fetch_dest,
        sec_fetch_mode=facts.sec_fetch_mode,
        sec_fetch_user=facts.sec_fetch_user,
        sec_purpose=facts.sec_purpose,
        is_hosting=facts.is_hosting,
        click_country=facts.click_country,
        order_country=facts.order_country,
        seconds_click_to_order=_whole_seconds(facts.occurred_at - facts.click_at),
        duplicate_clicks=facts.duplicates + 1,
        visitor_clicks_hour=_visitor_clicks(session, facts),
    )


def _imported_evidence(facts: _Facts) -> Evidence:
    """What another network's record proves: a header it did not pass on was not an empty one.

    Its time is what that network says, so nothing that is measured in time is judged by it: not
    the speed of the order, not repeats, not a country that changed within a day.
    """
    return Evidence(
        is_conversion=True,
        imported=True,
        agent_class=_agent_class(facts) if facts.user_agent.strip() else None,
        sec_fetch_dest=facts.sec_fetch_dest,
        sec_fetch_mode=facts.sec_fetch_mode,
        sec_fetch_user=facts.sec_fetch_user,
        sec_purpose=facts.sec_purpose,
        is_hosting=True if facts.is_hosting else None,
        click_country=facts.click_country,
        order_country=facts.order_country,
    )


def _agent_class(facts: _Facts) -> AgentClass | None:
    return AgentClass(facts.agent_class) if facts.agent_class else None


def _whole_seconds(span: timedelta) -> int:
    # Rounded down: half a second before the click is before it, not zero seconds after.
    return span // timedelta(seconds=1)


def _visitor_clicks(session: Session, facts: _Facts) -> int | None:
    """Clicks of this visitor on this program in the hour up to the click, this one included."""
    if not facts.visitor_key:
        return None
    wanted = {
        "program_id": facts.click_program_id,
        "visitor_key": facts.visitor_key,
        "after": facts.click_at - _HOUR,
        "until": facts.click_at,
    }
    count: int = session.execute(_VISITOR_CLICKS, wanted).scalar_one()
    return count
