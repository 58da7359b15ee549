"""Published versions of the rules by which a program attributes its orders: immutable, dated.

The version of an order is that of the time it occurred, and its id stays with the decision,
whatever is published afterwards. What was decided is never decided again by a newer version.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session, col, select

from kernel.errors import FieldProblem, InvalidInput, invalid
from network import documents, programs
from network.models import Membership
from tracker.credit_terms import Terms, parse
from tracker.models import AttributionTerms

DOCUMENT_BYTES_MAX: Final = 200_000
_PARSED_MAX: Final = 256
DEFAULT: Final = Terms()
# Versions never change, so what was read from one stays right for as long as it is kept.
_parsed: dict[str, Terms] = {}

_terms = AttributionTerms.metadata.tables["attribution_terms"]
_VERSIONS = sa.select(
    _terms.c.program_id, _terms.c.id, _terms.c.version, _terms.c.effective_from
).where(_terms.c.program_id.in_(sa.bindparam("program_ids", expanding=True)))


class Version(NamedTuple):
    """What decides which version an order falls under."""

    id: str
    version: int
    effective_from: datetime


def publish(
    session: Session,
    *,
    program_id: str,
    document: Mapping[str, Any],
    effective_from: datetime,
    actor: str,
    now: datetime,
    allow_past: bool = True,
) -> AttributionTerms:
    """Publish the next version of the program's terms, for orders from `effective_from` on.

    InvalidInput names every problem by its path in the document and publishes nothing. Orders
    that were decided keep their decision, even when `effective_from` lies before them.
    `allow_past` is for those who may change what publishers were promised for orders of the past.
    """
    documents.check_size(document, bytes_max=DOCUMENT_BYTES_MAX, what="an attribution document")
    if effective_from.tzinfo is None:
        raise invalid("effective_from", "timezone", "must say its offset from UTC")
    if effective_from < now and not allow_past:
        raise invalid("effective_from", "past", "must not lie in the past")
    _check_publishers(session, parse(document), program_id)
    # Whoever publishes at the same time waits here, and gets the number after.
    session.refresh(programs.get(session, program_id), with_for_update=True)
    return documents.publish(
        session,
        AttributionTerms,
        prefix="att",
        action="attribution_terms.publish",
        program_id=program_id,
        document=document,
        effective_from=effective_from,
        actor=actor,
        now=now,
    )


def _check_publishers(session: Session, terms: Terms, program_id: str) -> None:
    named = terms.publishers
    query = select(Membership.publisher_id).where(
        Membership.program_id == program_id, col(Membership.publisher_id).in_(named)
    )
    known = set(session.exec(query))
    problems = [
        FieldProblem(path, "publisher", f"{publisher!r} is no publisher of the program")
        for publisher, path in sorted(named.items())
        if publisher not in known
    ]
    if problems:
        raise InvalidInput(problems)


def version_at(session: Session, program_id: str, at: datetime) -> AttributionTerms | None:
    """The version for orders that occurred at `at`: the latest start, then the latest version."""
    return documents.version_at(session, AttributionTerms, program_id, at)


def versions(
    session: Session, program_id: str, *, before_version: int | None = None, limit: int
) -> list[AttributionTerms]:
    """Versions of the program's terms, newest first."""
    return documents.versions(
        session, AttributionTerms, program_id, before_version=before_version, limit=limit
    )


def versions_of(session: Session, program_ids: Collection[str]) -> dict[str, list[Version]]:
    """The versions of several programs, without their documents; in one statement."""
    found: dict[str, list[Version]] = defaultdict(list)
    for program_id, *facts in session.execute(_VERSIONS, {"program_ids": sorted(program_ids)}):
        found[program_id].append(Version(*facts))
    return found


def choose(found: Sequence[Version], at: datetime) -> str | None:
    """The id of the version for orders that occurred at `at`, as `version_at` says."""
    begun = [one for one in found if one.effective_from <= at]
    best = max(begun, key=lambda one: (one.effective_from, one.version), default=None)
    return best.id if best else None


def load(session: Session, version_ids: Collection[str]) -> dict[str, Terms]:
    """The terms in these versions, ready to use; at most one statement."""
    missing = [one for one in version_ids if one not in _parsed]
    if missing:
        query = select(AttributionTerms.id, AttributionTerms.document)
        rows = session.exec(query.where(col(AttributionTerms.id).in_(missing))).all()
        read = {version_id: parse(document) for version_id, document in rows}
        kept = {one: _parsed[one] for one in version_ids if one in _parsed}
        if len(_parsed) + len(read) > _PARSED_MAX:
            _parsed.clear()
        _parsed.update(read)
        return kept | read
    return {one: _parsed[one] for one in version_ids}
