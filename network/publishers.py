"""Publishers and their memberships in programs."""

from collections.abc import Sequence
from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Session, col, select

from kernel import audit
from kernel.database import take_turns
from kernel.errors import NotFound
from kernel.ids import new_id
from network.models import Membership, MembershipStatus, Program, Publisher
from network.programs import CodeTaken, check_code, check_page, touch_routing


def add(session: Session, *, code: str, name: str, now: datetime) -> Publisher:
    """A new publisher."""
    check_code(code)
    # Its number is the next one only while nobody else takes one.
    take_turns(session, "publisher.number")
    if session.exec(select(Publisher.id).where(Publisher.code == code)).first() is not None:
        raise CodeTaken(f"a publisher with the code {code!r} exists", field="code")
    number = session.exec(select(sa.func.coalesce(sa.func.max(col(Publisher.number)), 0))).one()
    publisher = Publisher(
        id=new_id("pub", at=now), number=number + 1, code=code, name=name, created_at=now
    )
    session.add(publisher)
    touch_routing(session)
    session.flush()
    return publisher


def get(session: Session, publisher_id: str) -> Publisher:
    """The publisher; NotFound when there is none."""
    publisher = session.get(Publisher, publisher_id)
    if publisher is None:
        raise NotFound("no such publisher", kind="publisher")
    return publisher


def set_fallback(
    session: Session, publisher: Publisher, *, fallback_url: str, actor: str, now: datetime
) -> None:
    """Say where visitors of the publisher's dead links go; empty: where the program says.

    A repeat changes nothing.
    """
    if fallback_url:
        check_page("fallback_url", fallback_url)
    if publisher.fallback_url == fallback_url:
        return
    audit.record(
        session,
        actor=actor,
        action="publisher.tracking",
        subject_id=publisher.id,
        now=now,
        before={"fallback_url": publisher.fallback_url},
        after={"fallback_url": fallback_url},
    )
    publisher.fallback_url = fallback_url
    session.add(publisher)
    touch_routing(session)


def set_membership(
    session: Session,
    *,
    program: Program,
    publisher: Publisher,
    status: MembershipStatus,
    actor: str,
    now: datetime,
) -> Membership:
    """The publisher's place in the program, made or changed; a repeat changes nothing."""
    membership = session.exec(
        select(Membership).where(
            Membership.program_id == program.id, Membership.publisher_id == publisher.id
        )
    ).one_or_none()
    if membership is not None and membership.status == status:
        return membership
    before = membership.status if membership else None
    if membership is None:
        membership = Membership(
            id=new_id("mem", at=now),
            program_id=program.id,
            publisher_id=publisher.id,
            created_at=now,
        )
    membership.status = status
    session.add(membership)
    audit.record(
        session,
        actor=actor,
        action="membership.status",
        subject_id=membership.id,
        now=now,
        before=before,
        after=status,
    )
    touch_routing(session)
    session.flush()
    return membership


def programs_of(session: Session, publisher_id: str) -> list[Program]:
    """The programs in which the publisher is approved, by name."""
    query = (
        select(Program)
        .join(Membership, col(Membership.program_id) == col(Program.id))
        .where(
            Membership.publisher_id == publisher_id,
            Membership.status == MembershipStatus.APPROVED,
        )
        .order_by(col(Program.name))
    )
    return list(session.exec(query))


def codes_of(session: Session, publisher_ids: Sequence[str]) -> dict[str, str]:
    """The codes of these publishers, by id."""
    query = select(Publisher.id, Publisher.code).where(col(Publisher.id).in_(publisher_ids))
    return dict(session.exec(query).all())
