"""What another report of a known order is. Pure: intake and shipper ask the same question.

A report with the content of an earlier one is a repeat of it. One that differs in its status alone
says what became of the order. Any other is judged by the mode it came with.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final

import msgspec

from tracker import orders
from tracker.events import CHANNEL_TAG, Order, OrderReported
from tracker.models import ChangeKind

IGNORE: Final = "ignore"
NEW: Final = "new"
ADD: Final = "add"
EDIT: Final = "edit"
FURTHER: Final = (NEW, ADD, EDIT)


class Result(StrEnum):
    """What became of a report, as arrivals say it."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    IGNORED = "ignored"
    CONFLICT = "conflict"
    STATUS = "status"


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """A conversion of the order that is known. `standing`: no restatement took its place.

    `by_browser`: nobody but a browser told of it.
    """

    conversion_id: str
    content_hash: str
    number: int
    received_at: datetime
    standing: bool = True
    by_browser: bool = False


@dataclass(frozen=True, slots=True)
class Judgement:
    """What a report is, and which earlier conversion it repeats, changes or contradicts."""

    result: Result
    of: Earlier | None = None


STATUS_KINDS: Final = {
    "approved": ChangeKind.APPROVE,
    "declined": ChangeKind.DECLINE,
    "cancelled": ChangeKind.CANCEL,
    "refunded": ChangeKind.REFUND,
}


def is_browsers(report: OrderReported) -> bool:
    """Whether nobody but a browser tells."""
    return report.channel == CHANNEL_TAG


def over_browsers(report: OrderReported, earlier: Sequence[Earlier]) -> OrderReported:
    """The report, to take the place of what only browsers told so far; else as it came.

    So nobody who guesses the number of an order can be before the server that knows it.
    """
    standing = [one for one in earlier if one.standing]
    is_first_word = bool(standing) and all(one.by_browser for one in standing)
    if is_browsers(report) or not is_first_word:
        return report
    return msgspec.structs.replace(report, mode=EDIT)


def judge(
    report: OrderReported, earlier: Sequence[Earlier], order_of: Callable[[Earlier], Order]
) -> Judgement:
    """The judgement on a report, given the order's conversions by number.

    `order_of` gives the content of an earlier conversion; it is asked only when hashes differ.
    """
    for one in earlier:
        if one.content_hash == report.content_hash:
            return Judgement(Result.DUPLICATE, one)
    if not earlier:
        return Judgement(Result.ACCEPTED)
    standing = [one for one in earlier if one.standing] or list(earlier)
    for one in standing:
        said = _by_status(report.order, order_of(one))
        if said is not None:
            return Judgement(said, one)
    if report.mode == IGNORE:
        return Judgement(Result.IGNORED, standing[0])
    if report.mode in FURTHER:
        return Judgement(Result.ACCEPTED, standing[-1])
    return Judgement(Result.CONFLICT, standing[0])


def _by_status(reported: Order, recorded: Order) -> Result | None:
    """Whether the report says nothing but a status about the recorded order."""
    if reported.status == recorded.status or not says_nothing_else(reported, recorded):
        return None
    if reported.status in STATUS_KINDS:
        return Result.STATUS
    # Without a status it says nothing about one; an order that was reported as decided cannot go
    # back to pending.
    if not reported.status or recorded.status in {"", "pending"}:
        return Result.DUPLICATE
    return None


def says_nothing_else(reported: Order, recorded: Order) -> bool:
    """Whether two reports of an order agree in all that both say, the status left aside.

    A report of the status alone, without amount or anything else, agrees with every content.
    """
    if reported.status and orders.is_bare(reported):
        return reported.click_id in {None, recorded.click_id}
    differing = set(orders.differences(recorded, reported)) - {"status"}
    if reported.occurred_at is None:
        differing.discard("occurred_at")
    return not differing


def takes_place(report: OrderReported, earlier: Earlier) -> bool:
    """Whether an edited report is the later of the two, whichever is shipped first.

    A browser's word is always the earlier one.
    """
    if earlier.by_browser and not is_browsers(report):
        return True
    return (report.received_at, report.content_hash) > (earlier.received_at, earlier.content_hash)
