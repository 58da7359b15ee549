"""From counts to a status and a sentence with its numbers: pure, no table, no clock.

Sentences are English message ids with `{names}`; `tracker/locale` has the other languages.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from tracker.expectations import Forecast

_RED_BELOW: Final = 0.001
_AMBER_BELOW: Final = 0.02
_PERCENT: Final = 100


class Status(StrEnum):
    """`green` is well, `amber` worth a look, `red` most likely money lost."""

    GREEN = "green"
    AMBER = "amber"
    RED = "red"


class Check(StrEnum):
    """What is looked at."""

    CONVERSIONS = "conversions"
    SILENCE = "silence"
    NO_CLICK = "no_click"
    UNMATCHED = "unmatched"
    LATE = "late"
    CONFLICTS = "conflicts"
    REFUSED = "refused"
    REPEAT_CLICKS = "repeat_clicks"
    REPEAT_ORDERS = "repeat_orders"
    LINKS = "links"


@dataclass(frozen=True, slots=True)
class Judgement:
    """A status with its reason: a sentence and the numbers that go into it."""

    check: Check
    status: Status
    sentence: str
    numbers: Mapping[str, int | str] = field(default_factory=dict)


def N_(message: str) -> str:  # noqa: N802 - the extractor's customary mark
    """Mark a sentence for the catalogue."""
    return message


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Clicks that may earn and orders, lately and in the history before that."""

    clicks: int
    unique_clicks: int
    orders: int
    clicks_before: int
    orders_before: int
    days: int
    days_before: int


_AS_EXPECTED: Final = N_(
    "{orders} orders from {clicks} clicks in the last {days} days; expected were about {number} "
    "({least} to {most} in 95 of 100 cases), going by {orders_before} orders from {clicks_before} "
    "clicks in the {days_before} days before."
)
_FEWER: Final = N_(
    "Only {orders} orders from {clicks} clicks in the last {days} days; expected were about "
    "{number} ({least} to {most} in 95 of 100 cases), going by {orders_before} orders from "
    "{clicks_before} clicks in the {days_before} days before. Orders may be lost on the way: look "
    "at the postback and at the pages after the click."
)
_MORE: Final = N_(
    "{orders} orders from {clicks} clicks in the last {days} days, more than expected: about "
    "{number} ({least} to {most} in 95 of 100 cases), going by {orders_before} orders from "
    "{clicks_before} clicks in the {days_before} days before. Look for orders that are reported "
    "twice under different ids."
)


def judge_conversions(traffic: Traffic, *, orders_min: int) -> Judgement | None:
    """Orders received against those expected; None while the history is too short to expect any."""
    if traffic.orders_before < orders_min or not traffic.clicks_before:
        return None
    # Orders without a click (coupons) can outnumber clicks; they are then counted by the day.
    by_click = traffic.orders_before <= traffic.clicks_before
    forecast = Forecast(
        seen=traffic.orders_before,
        over=traffic.clicks_before if by_click else traffic.days_before,
        size=traffic.clicks if by_click else traffic.days,
    )
    expected = forecast.expected()
    status, sentence = Status.GREEN, _AS_EXPECTED
    fewer, more = forecast.at_most(traffic.orders), forecast.at_least(traffic.orders)
    if fewer < _AMBER_BELOW:
        status, sentence = Status.RED if fewer < _RED_BELOW else Status.AMBER, _FEWER
    elif more < _RED_BELOW:
        status, sentence = Status.AMBER, _MORE
    return Judgement(
        Check.CONVERSIONS,
        status,
        sentence,
        {
            "orders": traffic.orders,
            "clicks": traffic.clicks,
            "days": traffic.days,
            "number": expected.number,
            "least": expected.least,
            "most": expected.most,
            "orders_before": traffic.orders_before,
            "clicks_before": traffic.clicks_before,
            "days_before": traffic.days_before,
        },
    )


_SILENT: Final = N_(
    "No order for {hours} hours; in these hours of the day there are usually about {number}, going "
    "by {orders_before} orders in {days_before} days."
)


def judge_silence(
    *, orders_by_hour: Mapping[int, int], last_hour: int, now_hour: int, days: int, hours_min: int
) -> Judgement | None:
    """How unusual it is that no order came since; None while it is not.

    `orders_by_hour` counts the history's orders by hour of the day, UTC; the hours that count are
    the whole ones after the last order and before now.
    """
    hours = now_hour - last_hour - 1
    seen = sum(orders_by_hour.values())
    if hours < hours_min or not seen:
        return None
    silent = sum(orders_by_hour.get(hour % 24, 0) for hour in range(last_hour + 1, now_hour))
    forecast = Forecast(seen=seen, over=1.0, size=silent / (days * seen))
    chance = forecast.at_most(0)
    if chance >= _AMBER_BELOW:
        return None
    return Judgement(
        Check.SILENCE,
        Status.RED if chance < _RED_BELOW else Status.AMBER,
        _SILENT,
        {
            "hours": hours,
            "number": round(forecast.mean),
            "orders_before": seen,
            "days_before": days,
        },
    )


_SHARES: Final[Mapping[Check, str]] = {
    Check.NO_CLICK: N_(
        "{count} of {orders} orders in the last {days} days ({percent} %) came without a click id; "
        "before it were {percent_before} %. If this is new, look at the cookie and the click id "
        "that the shop keeps."
    ),
    Check.UNMATCHED: N_(
        "{count} of {orders} orders in the last {days} days ({percent} %) name a click that "
        "decides nothing: {reasons}."
    ),
    Check.LATE: N_(
        "{count} of {orders} orders in the last {days} days ({percent} %) were reported more than "
        "{minutes} minutes after they occurred; half within {median} minutes, 95 of 100 within "
        "{slowest} minutes."
    ),
    Check.CONFLICTS: N_(
        "{count} reports in the last {days} days contradict an order that was reported before "
        "({percent} % of {orders} orders). Each is listed under refused events."
    ),
    Check.REFUSED: N_(
        "{count} reports in the last {days} days were refused ({percent} % of {orders} orders): "
        "{reasons}. Each is listed under refused events."
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """`count` of `orders`, and the same of the history where it is compared."""

    count: int
    orders: int
    days: int
    count_before: int | None = None
    orders_before: int = 0


def judge_share(
    check: Check,
    share: Share,
    *,
    amber_percent: int,
    orders_min: int,
    numbers: Mapping[str, int | str] | None = None,
) -> Judgement | None:
    """Amber from `amber_percent` on, red from twice that; None for too few orders.

    A share that the history has too is no news: it stays green.
    """
    if share.orders < orders_min:
        return None
    percent = _percent(share.count, share.orders)
    status = Status.GREEN
    if share.count * _PERCENT >= amber_percent * share.orders and share.count:
        twice = min(2 * amber_percent, _PERCENT)
        is_red = share.count * _PERCENT >= twice * share.orders
        status = Status.RED if is_red else Status.AMBER
    if share.count_before is not None and share.orders_before >= orders_min and _is_usual(share):
        status = Status.GREEN
    before = _percent(share.count_before or 0, share.orders_before)
    return Judgement(
        check,
        status,
        _SHARES[check],
        {
            "count": share.count,
            "orders": share.orders,
            "days": share.days,
            "percent": percent,
            "percent_before": before,
            **(numbers or {}),
        },
    )


def _is_usual(share: Share) -> bool:
    forecast = Forecast(
        seen=share.count_before or 0, over=float(share.orders_before), size=float(share.orders)
    )
    return forecast.at_least(share.count) >= _AMBER_BELOW


def _percent(count: int, of: int) -> int:
    return (200 * count + of) // (2 * of) if of else 0


_REPEATS: Final = N_(
    "{clicks} clicks in the last {days} days came from {unique_clicks} visitors a day: the same "
    "visitors click again and again, or one address stands for many."
)
_REPEATS_CLICKS_MIN: Final = 100
_REPEATS_TIMES: Final = 3


def judge_repeats(traffic: Traffic) -> Judgement | None:
    """Amber when there are more than three clicks a visitor and day; None otherwise."""
    many = traffic.clicks > _REPEATS_TIMES * traffic.unique_clicks
    if not traffic.unique_clicks or traffic.clicks < _REPEATS_CLICKS_MIN or not many:
        return None
    return Judgement(
        Check.REPEAT_CLICKS,
        Status.AMBER,
        _REPEATS,
        {
            "clicks": traffic.clicks,
            "unique_clicks": traffic.unique_clicks,
            "days": traffic.days,
        },
    )


_SAME_ORDERS: Final = N_(
    "{count} reports by {channel} in the last {days} days repeat {orders} orders that were known; "
    "{example} alone came {times} times more. Nothing is counted twice, but something sends the "
    "same again and again: look for a page that is reloaded, or a job that does not read the "
    "answer."
)
_RED_TIMES: Final = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class SameOrders:
    """Reports by one way that repeat known orders: `times` of them `example`, most of all."""

    channel: str
    count: int
    orders: int
    times: int
    example: str
    days: int


def judge_same_orders(same: SameOrders, *, times_min: int) -> Judgement | None:
    """Amber when one order was repeated `times_min` times, red from ten times that; else None."""
    if same.times < times_min:
        return None
    return Judgement(
        Check.REPEAT_ORDERS,
        Status.RED if same.times >= _RED_TIMES * times_min else Status.AMBER,
        _SAME_ORDERS,
        {
            "channel": same.channel,
            "count": same.count,
            "orders": same.orders,
            "times": same.times,
            "example": same.example,
            "days": same.days,
        },
    )


_LINKS: Final = N_("{broken} of {pages} pages that links lead to are broken: {examples}.")
_LINKS_FINE: Final = N_("All {pages} pages that links lead to and that were looked at answer.")


def judge_links(*, pages: int, failing: int, broken: int, examples: str) -> Judgement | None:
    """Red when a page failed twice in a row, amber when once; None while none was looked at."""
    if not pages:
        return None
    if not failing:
        return Judgement(Check.LINKS, Status.GREEN, _LINKS_FINE, {"pages": pages})
    return Judgement(
        Check.LINKS,
        Status.RED if broken else Status.AMBER,
        _LINKS,
        {"broken": failing, "pages": pages, "examples": examples},
    )
