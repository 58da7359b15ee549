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

from commissions import replays
from commissions.models import PlanVersion
from commissions.rules import Plan, PlanError, Rule, parse_plan
from kernel.errors import FieldProblem, InvalidInput, NotFound
from network import documents, groups, programs
from network.models import Program, Publisher
from tracker.agents import Device
from tracker.fields import CUSTOMERS

MAX_DOCUMENT_BYTES = 1_000_000
_PARSED_MAX = 256
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


def publish(
    session: Session,
    *,
    program_id: str,
    document: Mapping[str, Any],
    effective_from: datetime,
    actor: str,
    now: datetime,
) -> PlanVersion:
    """Publish the next version of the program's plan, for orders from `effective_from` on.

    InvalidInput names every problem by its path in the document and publishes nothing. Orders
    already booked keep their version, even when `effective_from` lies before them.
    """
    program = programs.get(session, program_id)
    lock_program(session, program_id)
    documents.check_size(document, bytes_max=MAX_DOCUMENT_BYTES, what="a plan document")
    problems = _problems(session, document, program)
    if effective_from.tzinfo is None:
        problems.append(("effective_from", "timezone", "must say its offset from UTC"))
    if problems:
        raise InvalidInput(
            [FieldProblem(field=path, rule=rule, message=text) for path, rule, text in problems]
        )
    return documents.publish(
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


def version_at(session: Session, program_id: str, at: datetime) -> PlanVersion | None:
    """The version for orders that occurred at `at`: the latest start, then the latest version."""
    return documents.version_at(session, PlanVersion, program_id, at)


def versions(session: Session, program_id: str) -> list[PlanVersion]:
    """Every version of the program's plan, newest first."""
    return documents.versions(session, PlanVersion, program_id)


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
