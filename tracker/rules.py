"""Who brought an order, and what is left of it. Pure: values in, values out."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final

from kernel.money import allocate

CLOCK_TOLERANCE: Final = timedelta(seconds=60)


class AttributionReason(StrEnum):
    """Why an order has the publisher it has, or none.

    A click that may not earn gives its own reason instead, such as `prefetch` or `paused`.
    """

    LAST_CLICK = "last_click"
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A genuine click on the order's program. `unbillable_reason` is empty when it may earn."""

    click_id: str
    publisher_id: str
    at: datetime
    unbillable_reason: str = ""
    is_member: bool = True


def attribute(
    candidates: Sequence[Candidate],
    *,
    occurred_at: datetime,
    window_hours: int,
    tolerance: timedelta = CLOCK_TOLERANCE,
) -> tuple[Candidate | None, str]:
    """The click that earns the order, and why; without one, why the latest click does not.

    The latest eligible click wins: at most `window_hours` before the order, not after it (but for
    the `tolerance` between two clocks), billable, and of a publisher that is a member. Of clicks
    at the same time the greater click id wins, so that the answer never depends on their order.
    """
    ranked = sorted(candidates, key=lambda click: (click.at, click.click_id), reverse=True)
    first_refusal = ""
    for click in ranked:
        refusal = _refusal(click, occurred_at, timedelta(hours=window_hours), tolerance)
        if not refusal:
            return click, AttributionReason.LAST_CLICK
        first_refusal = first_refusal or refusal
    return None, first_refusal or AttributionReason.NO_CLICK_ID


def _refusal(
    click: Candidate, occurred_at: datetime, window: timedelta, tolerance: timedelta
) -> str:
    if click.unbillable_reason:
        return click.unbillable_reason
    if not click.is_member:
        return AttributionReason.NOT_A_MEMBER
    if click.at > occurred_at + tolerance:
        return AttributionReason.CLICK_AFTER_ORDER
    if click.at < occurred_at - window:
        return AttributionReason.OUTSIDE_WINDOW
    return ""


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
