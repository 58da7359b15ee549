"""Counters of the tracker, for Prometheus."""

from typing import Final

from prometheus_client import Counter

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
