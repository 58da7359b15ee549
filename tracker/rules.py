"""Who brought an order, and what is left of it. Pure: values in, values out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from typing import Final

from kernel.money import allocate

CLOCK_TOLERANCE: Final = timedelta(seconds=60)


class AttributionReason(StrEnum):
    """Why an order has the publisher it has, or none, and why a touch does not count.

    A click that may not earn gives its own reason instead, such as `prefetch` or `paused`.
    """

    LAST_CLICK = "last_click"
    FIRST_CLICK = "first_click"
    LINEAR = "linear"
    POSITION = "position"
    TIME_DECAY = "time_decay"
    SPLIT = "split"
    PREFERRED = "preferred_partner"
    COUPON_EXCLUSIVE = "coupon_exclusive"
    COUPON_OWNER = "coupon_owner"
    SAME_CUSTOMER = "same_customer"
    PARENT_ORDER = "parent_order"
    NAMED = "named_publisher"
    ASSIGNED = "assigned"
    NO_CLICK_ID = "no_click_id"
    CLICK_ID_MALFORMED = "click_id_malformed"
    CLICK_ID_UNKNOWN_KEY = "click_id_unknown_key"
    CLICK_ID_FORGED = "click_id_forged"
    OTHER_PROGRAM = "click_of_other_program"
    PUBLISHER_UNKNOWN = "publisher_unknown"
    NOT_A_MEMBER = "not_a_member"
    NOT_BILLABLE = "click_not_billable"
    CLICK_AFTER_ORDER = "click_after_order"
    OUTSIDE_WINDOW = "outside_window"
    COUPON_SUPPRESSED = "coupon_suppressed"
    OTHER_CHANNEL = "other_channel"
    TEST_ORDER = "test_order"
    IMPRESSION = "impression"
    EXCLUDED = "excluded"
    IN_CART = "in_cart"
    STAND_DOWN = "stand_down"
    LATER_TOUCH = "later_touch"
    EARLIER_TOUCH = "earlier_touch"
    OUTRANKED = "outranked"
    CUSTOMER_AMBIGUOUS = "customer_ambiguous"


@dataclass(frozen=True, slots=True)
class Refund:
    """What an advertiser took back: of one line, or of the order as a whole (`line` None)."""

    amount_minor: int
    line: int | None = None


def remaining_by_line(amounts_minor: Sequence[int], refunds: Iterable[Refund]) -> list[int] | None:
    """What is left of each line after the refunds, in the order they were booked.

    A refund of the whole order is spread over the lines in proportion to what is left of them.
    None when a refund takes more than is left, or names a line that is not there.
    """
    left = list(amounts_minor)
    for refund in refunds:
        if refund.line is not None and refund.line >= len(left):
            return None
        if refund.amount_minor > (sum(left) if refund.line is None else left[refund.line]):
            return None
        if refund.line is not None:
            left[refund.line] -= refund.amount_minor
        elif refund.amount_minor:
            parts = allocate(refund.amount_minor, left)
            left = [amount - part for amount, part in zip(left, parts, strict=True)]
    return left
