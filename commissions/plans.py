"""Published plan versions: immutable, chosen by the time an order occurred.

A change of a plan is a later version. The version an order was booked with stays with it, whatever
is published afterwards.
"""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, col, select

from commissions import notices, plan_comparison, replays
from commissions.models import PlanVersion
from commissions.plan_comparison import Finding
from commissions.rules import Plan, PlanError, Rule, parse_plan
from kernel.clock import to_rfc3339
from kernel.errors import FieldProblem, InvalidInput, NotFound, Refused
from network import documents, groups, programs
from network.models import Program, Publisher
from tracker.agents import Device
from tracker.fields import CUSTOMERS

MAX_DOCUMENT_BYTES = 1_000_000
_PARSED_MAX = 256
_NAMED_MAX = 10
# Plan versions never change, so what was parsed from one stays right for as long as it is kept.
_parsed: dict[str, Plan] = {}

# Values that orders can have. A rule that names another would never match, which its author must
# hear when publishing and not from an unpaid publisher.
_VALUES = {
    "customer": CUSTOMERS,
    "device": tuple(str(one) for one in Device if one is not Device.UNKNOWN),
}

# Asked for every order that comes in; built once, because building costs more than asking.
_version = PlanVersion.metadata.tables["plan_version"]
_FACTS = (
    sa.select(_version.c.id, _version.c.version, _version.c.effective_from)
    .where(_version.c.program_id == sa.bindparam("program_id"))
    .order_by(_version.c.version)
)


@dataclass(frozen=True, slots=True)
class VersionFacts:
    """What decides which version an order falls under."""

    id: str
    version: int
    effective_from: datetime


class NoticeTooShort(Refused):
    """The version would lower what somebody can earn sooner than the program promises."""

    code = "notice_too_short"
    title = "Too soon for lower rates"


@dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """A document that is not published: what is wrong with it, and what it would change.

    It would be in force in [effective_from, ends), where now `replaced` is. `findings` compare the
    two; `too_soon` are those that lower something before `earliest_at`, from when on the notice
    period allows it. A document with problems is compared with nothing.
    """

    problems: tuple[FieldProblem, ...]
    warnings: tuple[FieldProblem, ...]
    effective_from: datetime
    ends: datetime | None = None
    replaced: VersionFacts | None = None
    findings: tuple[Finding, ...] = ()
    too_soon: tuple[Finding, ...] = ()
    earliest_at: datetime

    @property
    def is_publishable(self) -> bool:
        """Whether `publish` would take it without a waiver."""
        return not self.problems and not self.too_soon


def check(
    session: Session,
    *,
    program_id: str,
    document: Mapping[str, Any],
    effective_from: datetime,
    now: datetime,
    allow_past: bool = True,
) -> Draft:
    """Everything there is to say about a document before it is published; nothing is written.

    TooLarge for one with more than `MAX_DOCUMENT_BYTES`.
    """
    program = programs.get(session, program_id)
    documents.check_size(document, bytes_max=MAX_DOCUMENT_BYTES, what="a plan document")
    problems = _problems(session, document, program)
    if effective_from.tzinfo is None:
        problems.append(("effective_from", "timezone", "must say its offset from UTC"))
    elif not allow_past and effective_from < now:
        problems.append(("effective_from", "past", "must not lie in the past"))
    earliest_at = notices.earliest(session, program_id, now)
    if problems:
        found = tuple(FieldProblem(*problem) for problem in problems)
        return Draft(
            problems=found, warnings=(), effective_from=effective_from, earliest_at=earliest_at
        )
    plan = parse_plan(document)
    known = facts_of(session, program_id)
    replaced = choose(known, effective_from)
    starts = (one.effective_from for one in known if one.effective_from > effective_from)
    ends = min(starts, default=None)
    findings: tuple[Finding, ...] = ()
    too_soon: tuple[Finding, ...] = ()
    if replaced is not None:
        before = parsed(session, replaced.id)
        findings = plan_comparison.compare(before, plan, effective_from, ends)
        promised = min(earliest_at, ends) if ends else earliest_at
        too_soon = tuple(
            plan_comparison.lowered(plan_comparison.compare(before, plan, effective_from, promised))
        )
    return Draft(
        problems=(),
        warnings=tuple(FieldProblem(path, "lint", text) for path, text in plan.warnings),
        effective_from=effective_from,
        ends=ends,
        replaced=replaced,
        findings=findings,
        too_soon=too_soon,
        earliest_at=earliest_at,
    )


def publish(
    session: Session,
    *,
    program_id: str,
    document: Mapping[str, Any],
    effective_from: datetime,
    actor: str,
    now: datetime,
    allow_past: bool = True,
    waiver: str = "",
) -> PlanVersion:
    """Publish the next version of the program's plan, for orders from `effective_from` on.

    InvalidInput names every problem by its path in the document, NoticeTooShort every rule that
    lowers something too soon; then nothing is published. With a `waiver`, a reason that publishers
    will read, it is published all the same. Orders already booked keep their version, even when
    `effective_from` lies before them.
    """
    lock_program(session, program_id)
    draft = check(
        session,
        program_id=program_id,
        document=document,
        effective_from=effective_from,
        now=now,
        allow_past=allow_past,
    )
    if draft.problems:
        raise InvalidInput(list(draft.problems))
    if waiver:
        waiver = notices.check_reason(waiver, field="notice_waiver")
    if draft.too_soon and not waiver:
        raise _too_soon(draft)
    version = documents.publish(
        session,
        PlanVersion,
        prefix="pln",
        action="plan.publish",
        program_id=program_id,
        document=document,
        effective_from=effective_from,
        actor=actor,
        now=now,
    )
    if draft.too_soon:
        notices.waive(
            session,
            version.id,
            reason=waiver,
            earliest_at=draft.earliest_at,
            lowered=draft.too_soon,
            actor=actor,
            now=now,
        )
    return version


def _too_soon(draft: Draft) -> NoticeTooShort:
    named = sorted({one.before or one.path for one in draft.too_soon})
    earliest_at = to_rfc3339(draft.earliest_at)
    return NoticeTooShort(
        f"lowers {', '.join(named[:_NAMED_MAX])} before {earliest_at}, the earliest date allowed",
        earliest_at=earliest_at,
        lowered=[notices.as_json(one) for one in draft.too_soon],
    )


def version_at(session: Session, program_id: str, at: datetime) -> PlanVersion | None:
    """The version for orders that occurred at `at`: the latest start, then the latest version."""
    return documents.version_at(session, PlanVersion, program_id, at)


def versions(
    session: Session,
    program_id: str,
    *,
    before_version: int | None = None,
    limit: int | None = None,
) -> list[PlanVersion]:
    """Versions of the program's plan, newest first; every one unless a limit is given."""
    return documents.versions(
        session, PlanVersion, program_id, before_version=before_version, limit=limit
    )


def next_after(session: Session, program_id: str, version: PlanVersion) -> PlanVersion | None:
    """The version that follows this one, where one is published: its interval ends there."""
    following = (
        select(PlanVersion)
        .where(
            PlanVersion.program_id == program_id,
            col(PlanVersion.effective_from) > version.effective_from,
        )
        .order_by(col(PlanVersion.effective_from), col(PlanVersion.version).desc())
        .limit(1)
    )
    return session.exec(following).first()


def get(session: Session, program_id: str, number: int) -> PlanVersion:
    """A version of the program by its number; NotFound when there is none."""
    query = select(PlanVersion).where(
        PlanVersion.program_id == program_id, PlanVersion.version == number
    )
    found = session.exec(query).one_or_none()
    if found is None:
        raise NotFound("no such plan version", kind="plan_version")
    return found


def facts_of(session: Session, program_id: str) -> list[VersionFacts]:
    """The program's versions without their documents, oldest first."""
    return [VersionFacts(*row) for row in session.execute(_FACTS, {"program_id": program_id})]


def choose(found: Sequence[VersionFacts], at: datetime) -> VersionFacts | None:
    """As `version_at`, among versions at hand."""
    begun = [one for one in found if one.effective_from <= at]
    return max(begun, key=lambda one: (one.effective_from, one.version), default=None)


def parsed(session: Session, version_id: str) -> Plan:
    """The plan of a version, ready to evaluate."""
    plan = _parsed.get(version_id)
    if plan is not None:
        return plan
    version = session.get(PlanVersion, version_id)
    if version is None:
        raise NotFound("no such plan version", kind="plan_version")
    plan = parse_plan(version.document, publishing=False)
    if len(_parsed) >= _PARSED_MAX:
        _parsed.clear()
    _parsed[version_id] = plan
    return plan


def lock_program(session: Session, program_id: str) -> None:
    """Be the only one who books for this program until the transaction ends.

    SQLite's writer lock is that already. A whole program and not one publisher of it, because
    budgets and counters without the publisher in their scope join all of them.
    """
    if session.get_bind().dialect.name == "sqlite":
        return
    digest = hashlib.blake2b(program_id.encode(), digest_size=8, person=b"commissions").digest()
    number = int.from_bytes(digest, "big", signed=True)
    session.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))


def _problems(
    session: Session, document: Mapping[str, Any], program: Program
) -> list[tuple[str, str, str]]:
    try:
        plan = parse_plan(document)
    except PlanError as error:
        return [(path, "plan", reason) for path, reason in error.problems]
    found: list[tuple[str, str, str]] = []
    if plan.currency != program.currency:
        message = f"must be the program's currency {program.currency}"
        found.append(("currency", "currency", message))
    if not set(plan.country_basis) <= set(replays.COUNTRY_FIELDS):
        allowed = ", ".join(replays.COUNTRY_FIELDS)
        found.append(("country_basis", "recorded", f"orders here know {allowed} only"))
    paths = {rule["id"]: f"rules[{at}]" for at, rule in enumerate(document["rules"])}
    named: dict[str, str] = {}
    grouped: dict[str, str] = {}
    for rule in (*plan.base_rules, *plan.bonus_rules):
        path = paths[rule.id]
        found += _never(rule, path)
        for group in rule.when.values.get("publisher_group", ()):
            grouped.setdefault(group, f"{path}.when.publisher_group")
        for publisher in rule.when.values.get("publisher", ()):
            named[publisher] = f"{path}.when.publisher"
    for code, owner in plan.exclusive_coupons.items():
        named[owner] = f"exclusive_coupons.{code}"
    known = set(session.exec(select(Publisher.id).where(col(Publisher.id).in_(named))))
    found += [
        (path, "publisher", f"{publisher!r} is not the id of a publisher")
        for publisher, path in named.items()
        if publisher not in known
    ]
    known = groups.known_codes(session, grouped, program_id=program.id)
    found += [
        (path, "publisher_group", f"{group!r} is no group of publishers for this program")
        for group, path in grouped.items()
        if group not in known
    ]
    return found


def _never(rule: Rule, path: str) -> Iterator[tuple[str, str, str]]:
    """Values that no order has."""
    for name, values in _VALUES.items():
        unknown = sorted(set(rule.when.values.get(name, ())) - set(values))
        if unknown:
            listed = ", ".join(values)
            yield f"{path}.when.{name}", "choice", f"{unknown[0]!r} is none of {listed}"
