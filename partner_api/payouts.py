"""What a publisher is paid."""

from pydantic import BaseModel
from sqlmodel import col, select

from commissions.models import Payout, PayoutStatus
from kernel import pages
from kernel.errors import Forbidden
from kernel.http import Call, Endpoint
from network.access import require
from network.models import Role
from partner_api.schemas import MoneyAmount, PageQuery, Time, after_id, cut, rows_wanted


class PayoutView(BaseModel):
    """Money on its way, or paid. `reference` is what the bank calls it, once settled."""

    id: str
    status: str
    amount: MoneyAmount
    reference: str
    updated_at: Time


class PayoutPage(BaseModel):
    """Payouts in the order in which they were proposed."""

    data: list[PayoutView]
    next_cursor: str | None


def list_payouts(call: Call) -> PayoutPage:
    """The publisher's own payouts, from their approval on; a draft is not a promise yet."""
    limit = rows_wanted(call)
    query = (
        select(Payout)
        .where(
            Payout.publisher_id == call.actor.party_id,
            Payout.status != PayoutStatus.DRAFT,
            col(Payout.id) > after_id(call),
        )
        .order_by(col(Payout.id))
        .limit(limit + 1)
    )
    shown, last = cut(call.session.exec(query).all(), limit)
    return PayoutPage(
        data=[
            PayoutView(
                id=row.id,
                status=row.status,
                amount=MoneyAmount(minor=row.amount_minor, currency=row.currency),
                reference=row.reference,
                updated_at=row.updated_at,
            )
            for row in shown
        ],
        next_cursor=pages.encode(last.id) if last else None,
    )


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/payouts",
        handler=list_payouts,
        summary="List payouts",
        tag="Earnings",
        guard=require(Role.PUBLISHER),
        roles=(Role.PUBLISHER,),
        query=PageQuery,
        reply=PayoutPage,
        errors=(Forbidden,),
    ),
)
