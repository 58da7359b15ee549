"""Coupon codes of a program: whose they are, and which pay nobody."""

from collections.abc import Sequence
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from sqlmodel import Session

from kernel import pages
from kernel.errors import Forbidden, NotFound, TooLarge
from kernel.http import Call, Endpoint
from network.access import require
from network.models import Role
from partner_api import lookups
from partner_api.schemas import (
    Instant,
    PageQuery,
    PublisherRef,
    Text,
    Time,
    after_number,
    cut,
    path_id,
    rows_wanted,
)
from tracker import coupons
from tracker.coupons import CouponTaken
from tracker.models import Coupon

_ROLES = (Role.ADVERTISER, Role.MANAGER)


class CouponQuery(PageQuery):
    """Which coupons: every condition must hold."""

    code: Text | None = Field(None, description="The code, without regard to case.")
    publisher: Text | None = Field(None, description="Code or id of the owner.")


class CouponView(BaseModel):
    """A coupon. It holds from `starts_at` on and before `ends_at`; null is without a bound."""

    id: str
    code: str
    operator: str
    effect: str
    publisher: PublisherRef | None
    starts_at: Time | None
    ends_at: Time | None
    created_at: Time


class CouponPage(BaseModel):
    """Coupons in the order in which they were added."""

    data: list[CouponView]
    next_cursor: str | None


class CouponList(BaseModel):
    """The coupons that were added or ended, in the order of the request."""

    data: list[CouponView]


class NewCoupons(BaseModel):
    """Coupons to add, all or none.

    Each has a `code`; an `operator` (`EQUALS`, `STARTS_WITH`, `ENDS_WITH`, `CONTAINS`); an
    `effect` (`owner`, `exclusive`, `suppressed`); a `publisher` unless it is suppressed; and, if
    wanted, `starts_at` and `ends_at`.
    """

    model_config = ConfigDict(extra="forbid")

    coupons: list[dict[str, Any]] = Field(min_length=1)


class EndedCoupons(BaseModel):
    """Coupons to end, all or none."""

    model_config = ConfigDict(extra="forbid")

    ids: list[Text] = Field(min_length=1)
    ends_at: Instant | None = Field(None, description="Now when left out.")


def list_coupons(call: Call) -> CouponPage:
    """The coupons of a program, ended ones as well."""
    program = lookups.visible_program(call.session, call.actor, path_id(call, "id"))
    limit = rows_wanted(call)
    owner = None
    if call.query.publisher is not None:
        owner = lookups.visible_publisher(call.session, call.actor, call.query.publisher).id
    found = coupons.page(
        call.session,
        program.id,
        code=call.query.code,
        publisher_id=owner,
        after_seq=after_number(call),
        limit=limit + 1,
    )
    shown, last = cut(found, limit)
    return CouponPage(
        data=_views(call.session, shown), next_cursor=pages.encode(last.seq or 0) if last else None
    )


def add_coupons(call: Call) -> CouponList:
    """Add coupons to a program, all or none.

    Orders that are nobody's so far and carry one of them go to its owner.
    """
    program = lookups.visible_program(call.session, call.actor, path_id(call, "id"))
    rows_max = call.context.settings.coupon_rows_max
    coupons.check_count(len(call.body.coupons), rows_max=rows_max)
    added = coupons.add(
        call.session,
        call.body.coupons,
        program_id=program.id,
        actor=str(call.actor),
        now=call.now,
    )
    return CouponList(data=_views(call.session, added))


def end_coupons(call: Call) -> CouponList:
    """End coupons of a program, all or none. Orders that were decided keep their publisher."""
    program = lookups.visible_program(call.session, call.actor, path_id(call, "id"))
    rows_max = call.context.settings.coupon_rows_max
    coupons.check_count(len(call.body.ids), rows_max=rows_max)
    ended = coupons.end(
        call.session,
        call.body.ids,
        program_id=program.id,
        actor=str(call.actor),
        at=call.body.ends_at or call.now,
        now=call.now,
    )
    return CouponList(data=_views(call.session, ended))


def _views(session: Session, found: Sequence[Coupon]) -> list[CouponView]:
    owners = lookups.publisher_refs(session, (one.publisher_id for one in found))
    return [
        CouponView(
            id=one.id,
            code=one.code,
            operator=one.operator,
            effect=one.effect,
            publisher=owners.get(one.publisher_id or ""),
            starts_at=one.starts_at,
            ends_at=one.ends_at,
            created_at=one.created_at,
        )
        for one in found
    ]


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/programs/{id}/coupons",
        handler=list_coupons,
        summary="List coupons",
        tag="Attribution",
        guard=require(*_ROLES),
        roles=_ROLES,
        query=CouponQuery,
        reply=CouponPage,
        errors=(Forbidden, NotFound),
    ),
    Endpoint(
        method="POST",
        path="/v1/programs/{id}/coupons",
        handler=add_coupons,
        summary="Add coupons",
        tag="Attribution",
        guard=require(*_ROLES),
        roles=_ROLES,
        body=NewCoupons,
        reply=CouponList,
        status=201,
        writes=True,
        errors=(Forbidden, NotFound, CouponTaken, TooLarge),
    ),
    Endpoint(
        method="POST",
        path="/v1/programs/{id}/coupons/end",
        handler=end_coupons,
        summary="End coupons",
        tag="Attribution",
        guard=require(*_ROLES),
        roles=_ROLES,
        body=EndedCoupons,
        reply=CouponList,
        writes=True,
        errors=(Forbidden, NotFound, TooLarge),
    ),
)
