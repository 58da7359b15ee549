"""Counters of the tracker, for Prometheus."""

from typing import Final

from prometheus_client import Counter, Gauge

CLICKS: Final = Counter(
    "tallystick_clicks", "Clicks recorded; outcome is `billable` or why not", ["outcome"]
)
CLICKS_UNTRACKED: Final = Counter(
    "tallystick_clicks_untracked",
    "Visitors sent on without a click id because the journal could not record the click",
)
CLICKS_REFUSED: Final = Counter(
    "tallystick_clicks_refused", "Requests for links that led nowhere, by status", ["status"]
)
ORDERS: Final = Counter(
    "tallystick_orders",
    "Reported orders by channel and result",
    ["channel", "result"],
)
CHANGES: Final = Counter(
    "tallystick_order_changes", "Reported changes of orders by kind and result", ["kind", "result"]
)
WRONG_TOKENS: Final = Counter(
    "tallystick_postback_wrong_tokens", "Postbacks and pixels with a token that is none of ours"
)
JOURNAL_WRITERS_LOST: Final = Counter(
    "tallystick_journal_writers_lost", "Writer processes that died and were replaced"
)
CLICK_FRONT: Final = Gauge(
    "tallystick_click_front", "1 for the front by which this process answers links", ["front"]
)
TAG_REFUSED: Final = Counter(
    "tallystick_tag_refused", "Reports through the tag that were refused, by error code", ["code"]
)
IMPRESSIONS: Final = Counter(
    "tallystick_impressions", "Impressions recorded; outcome is `counted` or why not", ["outcome"]
)
IMPRESSIONS_LOST: Final = Counter(
    "tallystick_impressions_lost", "Impressions that the journal could not record"
)
WRONG_SIGNATURES: Final = Counter(
    "tallystick_wrong_signatures",
    "Reports with a signature that is wrong, too old or of no secret in force",
)
