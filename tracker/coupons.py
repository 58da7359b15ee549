"""Coupon codes of a program: whose they are, which pay nobody, and since when until when."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import sqlalchemy as sa
from sqlmodel import Session, col, select

from kernel import audit, outbox
from kernel.errors import Conflict, FieldProblem, InvalidInput, NotFound, TooLarge
from kernel.ids import new_id
from network.models import Membership, Publisher
from tracker import customers
from tracker.fields import Fields, parse_time
from tracker.models import Coupon

ADDED: Final = "coupon.added"
CODE_CHARS_MAX: Final = 128
_PATTERN_CHARS_MIN: Final = 3
_FIELDS: Final = ("code", "operator", "effect", "publisher", "starts_at", "ends_at")


class Operator(StrEnum):
    """How a coupon's code is compared with an order's, without regard to case."""

    EQUALS = "EQUALS"
    STARTS_WITH = "STARTS_WITH"
    ENDS_WITH = "ENDS_WITH"
    CONTAINS = "CONTAINS"


class Effect(StrEnum):
    """What a coupon does: its owner earns where no click does, or in any case, or nobody earns."""

    OWNER = "owner"
    EXCLUSIVE = "exclusive"
    SUPPRESSED = "suppressed"


class CouponTaken(Conflict):
    """A coupon with this code and operator is in force in the same time; nothing was added."""

    code = "coupon_taken"


_coupon = Coupon.metadata.tables["coupon"]
_MATCHES: Final[Mapping[Operator, Callable[[str, str], bool]]] = {
    Operator.EQUALS: str.__eq__,
    Operator.STARTS_WITH: str.startswith,
    Operator.ENDS_WITH: str.endswith,
    Operator.CONTAINS: str.__contains__,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """A coupon as the decision needs it."""

    id: str
    program_id: str
    publisher_id: str | None
    key: str
    operator: str
    effect: str
    starts_at: datetime | None
    ends_at: datetime | None

    def matches(self, code: str, at: datetime) -> bool:
        """Whether an order of that time with that code is meant; the end is exclusive."""
        is_in_force = (self.starts_at is None or self.starts_at <= at) and (
            self.ends_at is None or at < self.ends_at
        )
        return is_in_force and _MATCHES[Operator(self.operator)](code.casefold(), self.key)

    @property
    def rank(self) -> tuple[int, int, str]:
        """The more exact coupon comes first: the operator, the longer code, the older coupon."""
        return (list(Operator).index(Operator(self.operator)), -len(self.key), self.id)


def check_count(rows: int, *, rows_max: int) -> None:
    """TooLarge when more coupons are added or ended at once than `coupon_rows_max` allows."""
    if rows > rows_max:
        raise TooLarge(
            f"at most {rows_max} coupons at once", limit="coupon_rows_max", limit_rows=rows_max
        )


def add(
    session: Session,
    rows: Sequence[Mapping[str, Any]],
    *,
    program_id: str,
    actor: str,
    now: datetime,
) -> list[Coupon]:
    """Add coupons, all or none: `code`, `operator` (EQUALS), `effect` (owner), `publisher`, dates.

    `publisher` is the owner's id or code; a suppressed coupon has none. Orders that were nobody's
    and carry one of the codes are tried again. InvalidInput names row and field; CouponTaken when
    an equal code is in force in the same time.
    """
    owners = _owners(session, rows, program_id)
    problems: list[FieldProblem] = []
    coupons = []
    for at, row in enumerate(rows):
        fields = Fields(row, path=f"coupons[{at}]." if len(rows) > 1 else "")
        coupons.append(_read(fields, owners, program_id=program_id, actor=actor, now=now))
        problems += fields.problems
    if problems:
        raise InvalidInput(problems)
    _check_free(session, coupons, program_id)
    for coupon in coupons:
        session.add(coupon)
        audit.record(
            session,
            actor=actor,
            action="coupon.add",
            subject_id=coupon.id,
            now=now,
            program_id=program_id,
            code=coupon.code,
            operator=coupon.operator,
            effect=coupon.effect,
            publisher_id=coupon.publisher_id,
        )
        if coupon.effect != Effect.SUPPRESSED:
            outbox.append(session, ADDED, coupon.id, lane=program_id, now=now)
    session.flush()
    return coupons


def _read(
    fields: Fields, owners: Mapping[str, str], *, program_id: str, actor: str, now: datetime
) -> Coupon:
    fields.only(*_FIELDS)
    code = fields.required_text("code", chars_max=CODE_CHARS_MAX).strip()
    operator = Operator(fields.choice("operator", tuple(Operator)) or Operator.EQUALS)
    effect = Effect(fields.choice("effect", tuple(Effect)) or Effect.OWNER)
    named = fields.text("publisher", chars_max=CODE_CHARS_MAX)
    if operator is not Operator.EQUALS and len(code) < _PATTERN_CHARS_MIN:
        fields.problem("code", "length", f"must have {_PATTERN_CHARS_MIN} characters to be a part")
    if effect is Effect.SUPPRESSED and named:
        fields.problem("publisher", "effect", "has no place on a code that pays nobody")
    elif effect is not Effect.SUPPRESSED and not named:
        fields.problem("publisher", "missing", "is required, unless the code is suppressed")
    elif named and named not in owners:
        fields.problem("publisher", "unknown", "names no publisher of the program")
    starts_at, ends_at = _instant(fields, "starts_at"), _instant(fields, "ends_at")
    if starts_at and ends_at and starts_at >= ends_at:
        fields.problem("ends_at", "order", "must come after starts_at")
    return Coupon(
        id=new_id("cpn", at=now),
        program_id=program_id,
        publisher_id=owners.get(named or ""),
        code=code,
        key=code.casefold(),
        operator=operator,
        effect=effect,
        starts_at=starts_at,
        ends_at=ends_at,
        created_by=actor,
        created_at=now,
    )


def _instant(fields: Fields, name: str) -> datetime | None:
    found = fields.value(name)
    instant = parse_time(found)
    if found is not None and instant is None:
        fields.problem(name, "rfc_3339", "must be an RFC 3339 time such as 2026-03-01T12:00:00Z")
    return instant


def _owners(session: Session, rows: Sequence[Mapping[str, Any]], program_id: str) -> dict[str, str]:
    """Ids of publishers with a place in the program, by the ids and codes that the rows name."""
    named = {row.get("publisher") for row in rows}
    texts = sorted(name for name in named if isinstance(name, str) and name)
    query = (
        select(Publisher.id, Publisher.code)
        .join(Membership, col(Membership.publisher_id) == col(Publisher.id))
        .where(
            Membership.program_id == program_id,
            sa.or_(col(Publisher.id).in_(texts), col(Publisher.code).in_(texts)),
        )
    )
    found: dict[str, str] = {}
    for publisher_id, code in session.exec(query):
        found.setdefault(code, publisher_id)
        found[publisher_id] = publisher_id
    return found


def _check_free(session: Session, coupons: Sequence[Coupon], program_id: str) -> None:
    keys = sorted({coupon.key for coupon in coupons})
    query = select(Coupon).where(Coupon.program_id == program_id, col(Coupon.key).in_(keys))
    taken = list(session.exec(query))
    for coupon in coupons:
        for other in taken:
            same = (coupon.key, coupon.operator) == (other.key, other.operator)
            if same and _overlap(coupon, other):
                raise CouponTaken(
                    f"the coupon {coupon.code!r} is in force already", coupon_id=other.id
                )
        taken.append(coupon)


def _overlap(one: Coupon, other: Coupon) -> bool:
    def ends_before(first: Coupon, second: Coupon) -> bool:
        ends, starts = first.ends_at, second.starts_at
        return ends is not None and starts is not None and ends <= starts

    return not ends_before(one, other) and not ends_before(other, one)


def end(
    session: Session,
    coupon_ids: Sequence[str],
    *,
    program_id: str,
    actor: str,
    at: datetime,
    now: datetime,
) -> list[Coupon]:
    """End coupons of the program at a time, all or none; orders decided before keep their owner.

    NotFound names the first that is not the program's. One that ends no later stays as it is.
    """
    query = select(Coupon).where(Coupon.program_id == program_id, col(Coupon.id).in_(coupon_ids))
    found = {coupon.id: coupon for coupon in session.exec(query.with_for_update())}
    for coupon_id in coupon_ids:
        if coupon_id not in found:
            raise NotFound("no such coupon", kind="coupon", coupon_id=coupon_id)
    for coupon in found.values():
        if coupon.ends_at is not None and coupon.ends_at <= at:
            continue
        audit.record(
            session,
            actor=actor,
            action="coupon.end",
            subject_id=coupon.id,
            now=now,
            before=coupon.ends_at.isoformat() if coupon.ends_at else None,
            after=at.isoformat(),
        )
        coupon.ends_at = at
        session.add(coupon)
    session.flush()
    return [found[coupon_id] for coupon_id in coupon_ids]


def page(
    session: Session,
    program_id: str,
    *,
    code: str | None = None,
    publisher_id: str | None = None,
    after_seq: int = 0,
    limit: int,
) -> list[Coupon]:
    """Coupons of the program in the order in which they were added."""
    query = select(Coupon).where(Coupon.program_id == program_id, col(Coupon.seq) > after_seq)
    if code is not None:
        query = query.where(Coupon.key == code.casefold())
    if publisher_id is not None:
        query = query.where(Coupon.publisher_id == publisher_id)
    return list(session.exec(query.order_by(col(Coupon.seq)).limit(limit)))


def candidates(session: Session, codes: Mapping[str, Collection[str]]) -> dict[str, list[Code]]:
    """By program, the coupons that may match these codes, the most exact first; one statement."""
    exact = [
        sa.and_(
            _coupon.c.program_id == program_id,
            sa.or_(
                _coupon.c.operator != Operator.EQUALS,
                _coupon.c.key.in_(sorted({code.casefold() for code in found})),
            ),
        )
        for program_id, found in sorted(codes.items())
    ]
    if not exact:
        return {}
    names = list(Code.__dataclass_fields__)
    query = sa.select(*(_coupon.c[name] for name in names)).where(sa.or_(*exact))
    coupons: dict[str, list[Code]] = {}
    for row in session.execute(query):
        one = Code(**dict(zip(names, row, strict=True)))
        coupons.setdefault(one.program_id, []).append(one)
    return {program_id: sorted(found, key=_rank) for program_id, found in coupons.items()}


def _rank(one: Code) -> tuple[int, int, str]:
    return one.rank


def announce(session: Session, coupon_id: str, *, now: datetime) -> int:
    """Have the orders tried again that are nobody's and carry this coupon; how many they are."""
    coupon = session.exec(select(Coupon).where(Coupon.id == coupon_id)).one_or_none()
    if coupon is None:
        return 0
    matches = _MATCHES[Operator(coupon.operator)]
    prefix = customers.coupon_key(coupon.program_id, "")
    wanted: Iterable[str] = customers.wanted_coupons(session, coupon.program_id)
    keys = [key for key in wanted if matches(key.removeprefix(prefix), coupon.key)]
    found = ((customers.WANTS_COUPON, key) for key in keys)
    return customers.announce(session, found, now=now)
