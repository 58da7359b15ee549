"""Where an event leaves a commission: its status and the reason it carries. Pure."""

import re

from commissions.models import CommissionStatus
from commissions.order_events import Remaining
from commissions.reasons import Reason
from commissions.rules import Priced
from tracker.models import ChangeKind, ConversionChange

CODE = re.compile(r"[a-z0-9][a-z0-9_]{0,63}")
ASIDE = (CommissionStatus.DECLINED, CommissionStatus.REVERSED)
UNDER_WAY = (CommissionStatus.APPROVED, CommissionStatus.PAYABLE, CommissionStatus.PAID)
# Where a commission stands that nothing but a cap or a budget stops from being earned.
_CUTTABLE = (CommissionStatus.PENDING, CommissionStatus.APPROVED, CommissionStatus.CAPPED)
_CUT_BY: dict[object, Reason] = {
    "publisher": Reason.PUBLISHER_CAP,
    "budget": Reason.PROGRAM_BUDGET,
}
# Reasons that say why an amount is what it is, and go when it changes.
_OF_AMOUNT = frozenset(
    {Reason.ZERO_RATE, Reason.NO_RULE, Reason.TIER_CHANGED, Reason.SHARE_TOO_SMALL}
    | {Reason.CAPPED, *_CUT_BY.values()}
)


def next_status(current: str, remaining: Remaining, kind: str) -> str:
    """Where an order's commission stands after an event; what is under way stays under way."""
    if remaining.cancelled and current in ASIDE:
        return current
    if kind == "void" or (remaining.decision == "declined" and not remaining.cancelled):
        return CommissionStatus.DECLINED
    if not remaining.live:
        return CommissionStatus.REVERSED
    if remaining.held:
        return CommissionStatus.HELD
    if current in UNDER_WAY:
        return current
    approved = remaining.decision == "approved"
    return CommissionStatus.APPROVED if approved else CommissionStatus.PENDING


def is_cut_off(priced: Priced) -> bool:
    """Whether caps and budget leave nothing of a commission that there would be without them."""
    return not priced.commission_minor and priced.uncapped_minor > 0


def status_when_priced(status: str, priced: Priced | None) -> str:
    """Where a commission of this status stands at its price: `capped` when that is cut off."""
    if status not in _CUTTABLE or priced is None:
        return status
    if is_cut_off(priced):
        return CommissionStatus.CAPPED
    if status != CommissionStatus.CAPPED:
        return status
    # There is room again. Where its lock date has passed, the next sweep takes it on from here.
    approved = priced.status == "approved"
    return CommissionStatus.APPROVED if approved else CommissionStatus.PENDING


def reason_of(priced: Priced, remaining: Remaining | None, *, part_minor: int) -> str:
    """Why a live commission is zero or less than it might be; empty when nothing is unusual.

    `part_minor` is the publisher's part of it.
    """
    traced = priced.explanation
    if traced["coupon_effect"] == "suppressed":
        return Reason.COUPON_SUPPRESSED
    if traced["caps"]:
        # Of two that cut, the later one left less.
        return _CUT_BY.get(traced["caps"][-1]["cap"], Reason.CAPPED)
    if not priced.commission_minor:
        return Reason.ZERO_RATE if priced.rule_ids else Reason.NO_RULE
    if not part_minor:
        return Reason.SHARE_TOO_SMALL
    shrunk = remaining and any(one.net != one.line.net_minor for one in remaining.lines)
    return Reason.PARTLY_REFUNDED if shrunk else ""


def reason_after_true_up(
    status: str, reason: str, before_minor: int, priced: Priced, *, part_minor: int
) -> str:
    """The reason of a commission whose amount another order's event changed."""
    if status in (*ASIDE, CommissionStatus.HELD):
        return reason
    unusual = reason_of(priced, None, part_minor=part_minor)
    if unusual or reason in _OF_AMOUNT:
        reason = unusual
    fell = part_minor < before_minor
    return reason or (Reason.TIER_CHANGED if fell else "")


def reason_of_change(change: ConversionChange) -> str:
    """The advertiser's reason where it is a code; words of its own stay in the booking."""
    if change.reason_code:
        return change.reason_code
    if CODE.fullmatch(change.reason):
        return change.reason
    return {
        ChangeKind.CANCEL: Reason.CANCELLED,
        ChangeKind.DECLINE: Reason.DECLINED_BY_ADVERTISER,
        ChangeKind.REFUND: Reason.PARTLY_REFUNDED,
    }.get(ChangeKind(change.kind), "")
