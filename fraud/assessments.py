"""The stored judgement of a conversion: gathers what is known of it, and keeps the verdict.

Two look-ups and one insert a conversion, one more insert when it is flagged: histories of many
thousand orders are replayed through here.
"""

from datetime import datetime, timedelta
from typing import NamedTuple

import sqlalchemy as sa
from sqlmodel import Session, col, select

from fraud import rules
from fraud.evidence import Evidence
from fraud.models import Assessment, Flag
from fraud.rules import Action
from kernel.errors import NotFound, Unavailable
from kernel.ids import new_id
from network.models import Program
from tracker.agents import AgentClass
from tracker.models import Attribution, Click, Conversion

HELD_ACTIONS = frozenset((Action.HOLD, Action.REJECT))
_HOUR = timedelta(hours=1)
# Counted no further: one visitor's flood must not make each of its orders slow to judge.
_VISITOR_CLICKS_COUNTED_MAX = 1_000


class NotAttributed(Unavailable):
    """Who brought the conversion is not decided yet, so there is nobody's click to judge."""

    code = "not_attributed"


class _Facts(NamedTuple):
    conversion: Conversion
    attribution: Attribution | None
    click: Click | None
    hold_score: int
    earlier: Assessment | None


def assess(session: Session, conversion_id: str, *, now: datetime) -> Assessment:
    """Judge an attributed conversion; a hold opens a Flag, unless nobody would be paid for it.

    A repeat returns the stored assessment and changes nothing. Raises NotFound for an unknown
    conversion and NotAttributed for one that `attribute` has not seen yet.
    """
    facts = _look_up(session, conversion_id)
    if facts.earlier is not None:
        return facts.earlier
    attribution = facts.attribution
    if attribution is None:
        raise NotAttributed("the conversion is not attributed yet", conversion_id=conversion_id)
    verdict = rules.assess(_evidence(session, facts), hold_score=facts.hold_score)
    assessment = Assessment(
        id=new_id("asm", at=now),
        conversion_id=conversion_id,
        score=verdict.score,
        action=verdict.action,
        reasons=[rules.reason_facts(reason) for reason in verdict.reasons],
        at=now,
    )
    session.add(assessment)
    session.flush()
    if verdict.action in HELD_ACTIONS and attribution.publisher_id is not None:
        session.add(_flag(facts.conversion, attribution, assessment, now=now))
        session.flush()
    return assessment


def _look_up(session: Session, conversion_id: str) -> _Facts:
    # Newest first: whoever judges again adds a row, and the last word stands.
    row = session.execute(
        sa.select(Conversion, Attribution, Click, col(Program.hold_score), Assessment)
        .join(Program, col(Program.id) == col(Conversion.program_id))
        .outerjoin(Attribution, col(Attribution.conversion_id) == col(Conversion.id))
        .outerjoin(Click, col(Click.id) == col(Attribution.click_id))
        .outerjoin(Assessment, col(Assessment.conversion_id) == col(Conversion.id))
        .where(col(Conversion.id) == conversion_id)
        .order_by(col(Assessment.seq).desc())
        .limit(1)
    ).one_or_none()
    if row is None:
        raise NotFound("no such conversion", kind="conversion")
    return _Facts(*row)


def _evidence(session: Session, facts: _Facts) -> Evidence:
    conversion, click = facts.conversion, facts.click
    if click is None:
        # No click, or one whose record is lost: what was not seen is held against nobody.
        return Evidence(is_conversion=True, has_click=False, order_country=conversion.country)
    if click.imported:
        return _imported_evidence(conversion, click)
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
        order_country=conversion.country,
        seconds_click_to_order=_whole_seconds(conversion.occurred_at - click.at),
        duplicate_clicks=click.duplicates + 1,
        visitor_clicks_hour=_visitor_clicks(session, click),
    )


def _imported_evidence(conversion: Conversion, click: Click) -> Evidence:
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
        order_country=conversion.country,
    )


def _agent_class(click: Click) -> AgentClass | None:
    return AgentClass(click.agent_class) if click.agent_class else None


def _whole_seconds(span: timedelta) -> int:
    # Rounded down: half a second before the click is before it, not zero seconds after.
    return span // timedelta(seconds=1)


def _visitor_clicks(session: Session, click: Click) -> int | None:
    """Clicks of this visitor on this program in the hour up to the click, this one included."""
    if not click.visitor_key:
        return None
    within = (
        select(Click.id)
        .where(
            Click.program_id == click.program_id,
            Click.visitor_key == click.visitor_key,
            col(Click.at) > click.at - _HOUR,
            col(Click.at) <= click.at,
        )
        .limit(_VISITOR_CLICKS_COUNTED_MAX)
        .subquery()
    )
    return session.exec(select(sa.func.count()).select_from(within)).one()


def _flag(
    conversion: Conversion, attribution: Attribution, assessment: Assessment, *, now: datetime
) -> Flag:
    return Flag(
        id=new_id("flg", at=now),
        conversion_id=conversion.id,
        assessment_id=assessment.id,
        program_id=conversion.program_id,
        publisher_id=attribution.publisher_id,
        score=assessment.score,
        at=now,
    )
