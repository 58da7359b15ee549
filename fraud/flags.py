"""Conversions that wait for a person: the queue, the evidence in words, and the decision.

Only managers come here. A publisher learns from its commission that and why it is held.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, ClassVar

import sqlalchemy as sa
from sqlmodel import Session, col

from fraud.models import Assessment, Flag, FlagDecision, Outcome
from fraud.signals import SIGNALS, Signal
from kernel import audit, outbox
from kernel.errors import Conflict, Forbidden, NotFound, invalid
from kernel.i18n import translate
from network.access import Actor

NOTE_CHARS_MAX = 2_000
PAGE_ROWS_MAX = 1_000
_PACKAGE = "fraud"
_SIGNALS: Mapping[str, Signal] = {signal.CODE: signal for signal in SIGNALS}
# Asked for every batch of orders; built once, because building costs more than asking.
_flag, _decision = (Flag.metadata.tables[name] for name in ("flag", "flag_decision"))
_OPEN = (
    sa.select(_flag)
    .outerjoin(_decision, _decision.c.flag_id == _flag.c.id)
    .where(
        _flag.c.conversion_id.in_(sa.bindparam("conversion_ids", expanding=True)),
        _decision.c.flag_id.is_(None),
    )
)
_IDS_MAX = 500


class FlagStatus(StrEnum):
    """Open until decided; a decision is final."""

    OPEN = "open"
    CLEARED = "cleared"
    CONFIRMED = "confirmed"


class FlagDecided(Conflict):
    """The flag has its decision already, the same or the other; nothing changed."""

    code: ClassVar[str] = "flag_decided"


@dataclass(frozen=True, slots=True)
class FlagView:
    """A flag with what it rests on and, once there is one, its decision."""

    flag: Flag
    assessment: Assessment
    decision: FlagDecision | None

    @property
    def status(self) -> FlagStatus:
        """Where the flag stands."""
        return FlagStatus.OPEN if self.decision is None else FlagStatus(self.decision.outcome)


def page(
    session: Session,
    actor: Actor,
    *,
    status: FlagStatus | None = None,
    after_seq: int = 0,
    limit: int = 100,
) -> list[FlagView]:
    """Flags in the order they were raised, from after `after_seq`; of one status, if given.

    At most PAGE_ROWS_MAX. Raises Forbidden for anyone but a manager.
    """
    _require_manager(actor)
    query = _views().where(col(Flag.seq) > after_seq)
    if status is not None:
        query = query.where(_has(status))
    query = query.order_by(col(Flag.seq)).limit(max(1, min(limit, PAGE_ROWS_MAX)))
    return [FlagView(*row) for row in session.execute(query)]


def get(session: Session, actor: Actor, flag_id: str) -> FlagView:
    """One flag. Raises NotFound, or Forbidden for anyone but a manager."""
    _require_manager(actor)
    row = session.execute(_views().where(col(Flag.id) == flag_id)).one_or_none()
    if row is None:
        raise NotFound("no such flag", kind="flag")
    return FlagView(*row)


def count_open(session: Session, actor: Actor) -> int:
    """How many flags wait for a decision. Raises Forbidden for anyone but a manager."""
    _require_manager(actor)
    query = (
        sa.select(sa.func.count())
        .select_from(Flag)
        .outerjoin(FlagDecision, col(FlagDecision.flag_id) == col(Flag.id))
        .where(_has(FlagStatus.OPEN))
    )
    count: int = session.execute(query).scalar_one()
    return count


def find_open(session: Session, conversion_id: str) -> Flag | None:
    """The undecided flag of a conversion, if it has one."""
    rows = session.execute(_OPEN, {"conversion_ids": [conversion_id]}).mappings()
    return next((Flag(**row) for row in rows), None)


def find_held(session: Session, conversion_ids: Sequence[str]) -> set[str]:
    """Which of these conversions have an undecided flag."""
    held: set[str] = set()
    for start in range(0, len(conversion_ids), _IDS_MAX):
        asked = {"conversion_ids": list(conversion_ids[start : start + _IDS_MAX])}
        held |= {row.conversion_id for row in session.execute(_OPEN, asked)}
    return held


def clear(session: Session, flag_id: str, *, note: str, actor: str, now: datetime) -> FlagDecision:
    """Decide that the order was honest; `flag.cleared` lets its commission go on.

    Raises InvalidInput on `note` unless it has 1 to NOTE_CHARS_MAX characters, NotFound, and
    FlagDecided for a flag that has a decision, even the same one.
    """
    return _decide(session, flag_id, Outcome.CLEARED, note=note, actor=actor, now=now)


def confirm(
    session: Session, flag_id: str, *, note: str, actor: str, now: datetime
) -> FlagDecision:
    """Decide that it was fraud; `flag.confirmed` takes the commission back. Raises like `clear`."""
    return _decide(session, flag_id, Outcome.CONFIRMED, note=note, actor=actor, now=now)


def words(reasons: Sequence[Mapping[str, Any]], language: str) -> list[str]:
    """A sentence or two for each stored reason, strongest first, in one of kernel.i18n.LANGUAGES.

    A reason whose signal no longer exists keeps the English text it was stored with.
    """
    return [_sentence(reason, language) for reason in reasons]


def _sentence(reason: Mapping[str, Any], language: str) -> str:
    signal = _SIGNALS.get(reason["code"])
    if signal is None:
        return str(reason["text"])
    name = translate(_PACKAGE, language, signal.NAME)
    description = translate(_PACKAGE, language, signal.DESCRIPTION)
    if reason.get("baseline") is None:
        return translate(
            _PACKAGE, language, "{name}: {description}", name=name, description=description
        )
    return translate(
        _PACKAGE,
        language,
        "{name}: {description} Seen: {value}; compared with: {baseline}.",
        name=name,
        description=description,
        value=reason["value"],
        baseline=reason["baseline"],
    )


def _views() -> sa.Select[Flag, Assessment, FlagDecision]:
    return (
        sa.select(Flag, Assessment, FlagDecision)
        .join(Assessment, col(Assessment.id) == col(Flag.assessment_id))
        .outerjoin(FlagDecision, col(FlagDecision.flag_id) == col(Flag.id))
    )


def _has(status: FlagStatus) -> sa.ColumnElement[bool]:
    if status is FlagStatus.OPEN:
        return col(FlagDecision.flag_id).is_(None)
    return col(FlagDecision.outcome) == status


def _decide(
    session: Session, flag_id: str, outcome: Outcome, *, note: str, actor: str, now: datetime
) -> FlagDecision:
    words_given = note.strip()
    if not 1 <= len(words_given) <= NOTE_CHARS_MAX:
        raise invalid("note", "length", f"must have 1 to {NOTE_CHARS_MAX} characters")
    # The row lock makes the second of two managers wait and then see the first one's decision.
    flag = session.execute(
        sa.select(Flag).where(col(Flag.id) == flag_id).with_for_update()
    ).scalar_one_or_none()
    if flag is None:
        raise NotFound("no such flag", kind="flag")
    earlier = session.get(FlagDecision, flag_id)
    if earlier is not None:
        raise FlagDecided("this flag has been decided", flag_id=flag_id, outcome=earlier.outcome)
    decision = FlagDecision(
        flag_id=flag_id, outcome=outcome, note=words_given, decided_by=actor, decided_at=now
    )
    session.add(decision)
    audit.record(
        session,
        actor=actor,
        action=f"flag.{outcome}",
        subject_id=flag_id,
        now=now,
        conversion_id=flag.conversion_id,
        note=words_given,
    )
    outbox.append(session, f"flag.{outcome}", flag.conversion_id, lane=flag.program_id, now=now)
    session.flush()
    return decision


def _require_manager(actor: Actor) -> None:
    if not actor.is_manager:
        raise Forbidden("flags are for managers")
