"""Small look-ups that several pages need: names for ids, lists to choose from, a few sums.

Every function takes the actor and returns only what that actor may see.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Session, col, select

from commissions.models import Commission
from fraud.models import Assessment, Flag
from network.access import Actor, scope_to_party
from network.models import (
    Advertiser,
    Membership,
    MembershipStatus,
    Program,
    Publisher,
    Role,
    User,
)
from tracker.models import Attribution, Conversion

_CHOICES_MAX = 500


@dataclass(frozen=True, slots=True)
class TopPublisher:
    """What one publisher brought in one currency."""

    publisher_id: str
    name: str
    currency: str
    conversions: int
    sales_minor: int
    commission_minor: int


@dataclass(frozen=True, slots=True)
class Member:
    """A publisher's place in a program."""

    publisher: Publisher
    membership: Membership


def programs(session: Session, actor: Actor) -> list[Program]:
    """The programs this actor has to do with, by name, at most 500."""
    query = select(Program).order_by(col(Program.name)).limit(_CHOICES_MAX)
    if actor.role is Role.PUBLISHER:
        query = query.join(Membership, col(Membership.program_id) == col(Program.id)).where(
            Membership.publisher_id == actor.party_id,
            Membership.status == MembershipStatus.APPROVED,
        )
    if actor.role is Role.ADVERTISER:
        query = query.where(Program.advertiser_id == actor.party_id)
    return list(session.exec(query))


def programs_by_id(session: Session, ids: Iterable[str]) -> dict[str, Program]:
    """The programs with these ids."""
    query = select(Program).where(col(Program.id).in_(set(ids)))
    return {program.id: program for program in session.exec(query)}


def publishers(session: Session, actor: Actor) -> list[Publisher]:
    """The publishers a manager may choose from, by name, at most 500; nobody else chooses."""
    if not actor.is_manager:
        return []
    return list(session.exec(select(Publisher).order_by(col(Publisher.name)).limit(_CHOICES_MAX)))


def publisher_names(session: Session, ids: Iterable[str | None]) -> dict[str, str]:
    """Names of publishers by id."""
    wanted = {one for one in ids if one}
    query = select(Publisher.id, Publisher.name).where(col(Publisher.id).in_(wanted))
    return dict(session.exec(query).all())


def advertiser_names(session: Session, ids: Collection[str]) -> dict[str, str]:
    """Names of advertisers by id."""
    query = select(Advertiser.id, Advertiser.name).where(col(Advertiser.id).in_(set(ids)))
    return dict(session.exec(query).all())


def user_names(session: Session, ids: Iterable[str]) -> dict[str, str]:
    """Names of people by id; what is not a person (a system actor) is left out."""
    query = select(User.id, User.name).where(col(User.id).in_(set(ids)))
    return dict(session.exec(query).all())


def has_several_managers(session: Session) -> bool:
    """Whether a second person is there who could approve what the first proposed."""
    query = (
        select(User.id).where(User.role == Role.MANAGER, col(User.disabled_at).is_(None)).limit(2)
    )
    return len(session.exec(query).all()) > 1


def members(session: Session, program_id: str) -> list[Member]:
    """The publishers of a program, by name, at most 500."""
    query = (
        select(Publisher, Membership)
        .join(Membership, col(Membership.publisher_id) == col(Publisher.id))
        .where(Membership.program_id == program_id)
        .order_by(col(Publisher.name))
        .limit(_CHOICES_MAX)
    )
    return [Member(publisher, membership) for publisher, membership in session.exec(query)]


def conversions_by_id(session: Session, ids: Iterable[str]) -> dict[str, Conversion]:
    """Conversions by id, for lists that already are the actor's own."""
    query = select(Conversion).where(col(Conversion.id).in_(set(ids)))
    return {conversion.id: conversion for conversion in session.exec(query)}


def assessment(session: Session, actor: Actor, conversion_id: str) -> Assessment | None:
    """The newest assessment of a conversion. Evidence is for managers; nobody else gets any."""
    if not actor.is_manager:
        return None
    query = (
        select(Assessment)
        .where(Assessment.conversion_id == conversion_id)
        .order_by(col(Assessment.seq).desc())
        .limit(1)
    )
    return session.exec(query).one_or_none()


def flag_of(session: Session, actor: Actor, conversion_id: str) -> Flag | None:
    """The flag of a conversion, decided or not. For managers; nobody else gets any."""
    if not actor.is_manager:
        return None
    return session.exec(select(Flag).where(Flag.conversion_id == conversion_id)).one_or_none()


def sub_ids(attribution: Attribution | None) -> dict[str, str]:
    """The sub-ids of the click a conversion is attributed to."""
    return dict(attribution.sub_ids) if attribution else {}


def top_publishers(
    session: Session, actor: Actor, *, since: datetime, limit: int
) -> list[TopPublisher]:
    """Publishers by commission since then, per currency, highest first; `limit` per currency."""
    commission = sa.func.sum(col(Commission.amount_minor))
    # An order in another currency than its program's has sales that cannot be added here.
    same_currency = sa.case(
        (col(Conversion.currency) == col(Commission.currency), col(Conversion.amount_minor)),
        else_=0,
    )
    rank = sa.func.row_number().over(
        partition_by=col(Commission.currency),
        order_by=(commission.desc(), col(Commission.publisher_id)),
    )
    grouped = (
        sa.select(
            col(Commission.publisher_id).label("publisher_id"),
            col(Commission.currency).label("currency"),
            sa.func.count().label("conversions"),
            sa.func.sum(same_currency).label("sales_minor"),
            commission.label("commission_minor"),
            rank.label("rank"),
        )
        .join(Conversion, col(Conversion.id) == col(Commission.conversion_id))
        .where(col(Commission.occurred_at) >= since)
        .group_by(col(Commission.publisher_id), col(Commission.currency))
    )
    ranked = scope_to_party(
        grouped,
        actor,
        publisher=col(Commission.publisher_id),
        advertiser=col(Commission.advertiser_id),
    ).subquery()
    rows = session.execute(
        sa.select(ranked, col(Publisher.name).label("name"))
        .join(Publisher, col(Publisher.id) == ranked.c.publisher_id)
        .where(ranked.c["rank"] <= limit)
        .order_by(ranked.c.currency, ranked.c["rank"])
    )
    return [
        TopPublisher(
            publisher_id=row.publisher_id,
            name=row.name,
            currency=row.currency,
            conversions=row.conversions,
            # PostgreSQL sums 64-bit integers to numeric.
            sales_minor=int(row.sales_minor),
            commission_minor=int(row.commission_minor),
        )
        for row in rows
    ]
