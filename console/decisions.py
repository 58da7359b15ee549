"""Who brought an order, for its page: the decision once, and every click with what became of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from commissions.statements import StatementLine
from console import credit_words, reads
from console.pages import Visit
from kernel.clock import to_rfc3339
from network.models import Role
from tracker import attribution_words
from tracker.models import Attribution


@dataclass(frozen=True, slots=True)
class Touch:
    """A click of the order. `who` is empty for another publisher's that the reader may not know."""

    at: str | None
    who: str
    click_id: str
    reason: str
    decides: bool


@dataclass(frozen=True, slots=True)
class Part:
    """A publisher's part of a shared order, as an exact fraction."""

    who: str
    weight: str
    role: str


@dataclass(frozen=True, slots=True)
class Before:
    """The decision for nobody that this one replaced."""

    reason: str
    until: str


@dataclass(frozen=True, slots=True)
class Decided:
    """What the page says. `who` is empty when nobody earns, or it is not the reader's to know."""

    who: str
    has_publisher: bool
    reason: str
    note: str
    before: Before | None
    touches: tuple[Touch, ...]
    touches_left_out: int
    parts: tuple[Part, ...]
    would_be: tuple[Part, ...]
    tried: tuple[tuple[str, str], ...]
    model: str
    window_hours: int


def of(visit: Visit, line: StatementLine) -> Decided | None:
    """The decision as the visitor may read it; None until there is one."""
    one = line.attribution
    if one is None:
        return None
    reader = visit.actor.party_id if visit.actor.role is Role.PUBLISHER else None
    found = attribution_words.facts(visit.session, one, reader=reader)
    names = reads.publisher_names(visit.session, attribution_words.publishers_in(found))
    before = found["before"]
    return Decided(
        who=_name(found["publisher_id"], names),
        has_publisher=one.publisher_id is not None,
        reason=found["reason"],
        note=found["note"],
        before=Before(before["reason"], before["superseded_at"]) if before else None,
        touches=_touches(one, found, names),
        touches_left_out=found["touches_left_out"],
        parts=_parts(found, names),
        would_be=tuple(
            Part(_name(row["publisher_id"], names), row["weight"], "") for row in found["would_be"]
        ),
        # What nobody's decision names as its reason stands above already.
        tried=tuple(
            (credit_words.SOURCES.get(row["source"], row["source"]), row["reason"])
            for row in found["tried"]
            if row["reason"] != found["reason"]
        ),
        model=credit_words.MODELS.get(found["model"], ""),
        window_hours=found["window_hours"] or 0,
    )


def _name(publisher_id: str | None, names: Mapping[str, str]) -> str:
    return names.get(publisher_id, publisher_id) if publisher_id else ""


def _touches(
    one: Attribution, found: Mapping[str, Any], names: Mapping[str, str]
) -> tuple[Touch, ...]:
    rows = [
        Touch(
            at=row["at"],
            who=_name(row["publisher_id"], names),
            click_id=row["click_id"] or "",
            reason=row["reason"],
            decides=one.publisher_id is not None and row["reason"] == one.reason,
        )
        for row in found["touches"]
        # An id that cannot be read is not for other publishers' eyes, and has nothing else.
        if row["at"] is not None or row["click_id"] is not None
    ]
    if not rows and one.clicked_at is not None and found["publisher_id"]:
        # Decided before decisions kept a trace: the click that decided is all that is known.
        who = _name(found["publisher_id"], names)
        at = to_rfc3339(one.clicked_at)
        rows = [Touch(at, who, one.click_id or "", one.reason, decides=True)]
    return tuple(rows)


def _parts(found: Mapping[str, Any], names: Mapping[str, str]) -> tuple[Part, ...]:
    rows = found["shares"]
    if len(rows) < 2:  # noqa: PLR2004 - one part is no division
        return ()
    return tuple(
        Part(
            _name(row["publisher_id"], names),
            row["weight"],
            row["role"],
        )
        for row in rows
    )
