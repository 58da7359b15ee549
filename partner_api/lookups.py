"""Programs and publishers as an actor may name them; another party's are as unknown as none."""

from collections.abc import Iterable

import sqlalchemy as sa
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from kernel.errors import NotFound
from network.access import Actor, scope_to_party
from network.models import Membership, MembershipStatus, Program, Publisher, Role
from partner_api.schemas import ProgramRef, PublisherRef


def visible_program(session: Session, actor: Actor, code_or_id: str) -> Program:
    """The program with this code or id, if it is the actor's; NotFound otherwise.

    Any for a manager, an advertiser's own, and for a publisher one in which it has a place,
    whatever became of that place.
    """
    query = _programs(actor).where(
        sa.or_(col(Program.code) == code_or_id, col(Program.id) == code_or_id)
    )
    # A code may be spelt like another program's id.
    programs = list(session.exec(query))
    found = next((each for each in programs if each.id == code_or_id), None)
    if found is None and programs:
        found = programs[0]
    if found is None:
        raise NotFound("no such program", kind="program")
    return found


def visible_publisher(session: Session, actor: Actor, code_or_id: str) -> Publisher:
    """The publisher with this code or id, if the actor works with it; NotFound otherwise.

    Any for a manager, one with a place in a program of an advertiser's, a publisher itself.
    """
    query = select(Publisher).where(
        sa.or_(col(Publisher.code) == code_or_id, col(Publisher.id) == code_or_id)
    )
    members = (
        select(Membership.publisher_id)
        .join(Program, col(Program.id) == col(Membership.program_id))
        .where(col(Program.advertiser_id) == actor.party_id)
    )
    if actor.role is Role.ADVERTISER:
        query = query.where(col(Publisher.id).in_(members))
    if actor.role is Role.PUBLISHER:
        query = query.where(col(Publisher.id) == actor.party_id)
    found = session.exec(query.order_by(col(Publisher.number))).first()
    if found is None:
        raise NotFound("no such publisher", kind="publisher")
    return found


def joined_program_ids(session: Session, publisher_id: str) -> list[str]:
    """The programs in which the publisher is approved."""
    query = select(Membership.program_id).where(
        Membership.publisher_id == publisher_id,
        Membership.status == MembershipStatus.APPROVED,
    )
    return list(session.exec(query))


def page_of_programs(
    session: Session, actor: Actor, *, after_number: int, limit: int
) -> list[Program]:
    """Programs by number: the ones a publisher is approved in, an advertiser's own, all."""
    query = _programs(actor, status=MembershipStatus.APPROVED)
    return list(
        session.exec(
            query.where(col(Program.number) > after_number)
            .order_by(col(Program.number))
            .limit(limit)
        )
    )


def own_program_ids(session: Session, actor: Actor) -> list[str]:
    """A publisher's joined programs, the ones an advertiser owns, all for a manager."""
    if actor.role is Role.PUBLISHER:
        return joined_program_ids(session, actor.party_id)
    query = select(Program.id)
    return list(
        session.exec(
            scope_to_party(query, actor, publisher=None, advertiser=col(Program.advertiser_id))
        )
    )


def signing_program_ids(session: Session, ids: Iterable[str]) -> set[str]:
    """Which of these programs follow only deep links that we signed."""
    query = select(Program.id).where(
        col(Program.id).in_(set(ids)), col(Program.requires_signed_links)
    )
    return set(session.exec(query))


def program_refs(session: Session, ids: Iterable[str]) -> dict[str, ProgramRef]:
    """How answers name these programs."""
    rows = session.exec(select(Program.id, Program.code).where(col(Program.id).in_(set(ids))))
    return {id_: ProgramRef(id=id_, code=code) for id_, code in rows}


def publisher_refs(session: Session, ids: Iterable[str | None]) -> dict[str, PublisherRef]:
    """How answers name these publishers."""
    wanted = {id_ for id_ in ids if id_ is not None}
    rows = session.exec(select(Publisher.id, Publisher.code).where(col(Publisher.id).in_(wanted)))
    return {id_: PublisherRef(id=id_, code=code) for id_, code in rows}


def _programs(actor: Actor, *, status: MembershipStatus | None = None) -> SelectOfScalar[Program]:
    query = select(Program)
    if actor.role is not Role.PUBLISHER:
        return scope_to_party(query, actor, publisher=None, advertiser=col(Program.advertiser_id))
    memberships = select(Membership.program_id).where(Membership.publisher_id == actor.party_id)
    if status is not None:
        memberships = memberships.where(Membership.status == status)
    return query.where(col(Program.id).in_(memberships))
