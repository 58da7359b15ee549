"""The order follows the click faster than a person can order."""

from fraud.evidence import Evidence, Finding, Group, IvtClass

CODE = "fast_order"
NAME = "Fast order"
DESCRIPTION = "Less than 5 seconds lie between the click and the order."
INNOCENT = (
    "A coupon or cashback extension that clicks at the checkout of a real customer is fast, "
    "which is why 2 to 5 seconds only tags. An advertiser whose clock is off, or who reports "
    "times cut to the minute, shifts every order; an order before its click is therefore not "
    "judged here."
)
DEFAULT = "Below 2 seconds: 450 points, hard: holds alone. Below 5 seconds: 200 points, tags."
SOURCE = (
    "Everflow: below 5 s suspicious in e-commerce; TalkingData sample: 1.3 % of attributed "
    "clicks within 5 s. Below 2 s no page loads and is paid."
)

FAST_SECONDS = 5
IMPOSSIBLE_SECONDS = 2


def find(evidence: Evidence) -> Finding | None:
    """Fire as DEFAULT says; None when the facts are missing or ordinary."""
    seconds = evidence.seconds_click_to_order
    if not evidence.is_conversion or seconds is None or not 0 <= seconds < FAST_SECONDS:
        return None
    impossible = seconds < IMPOSSIBLE_SECONDS
    return Finding(
        code=CODE,
        group=Group.TIMING,
        points=450 if impossible else 200,
        hard=impossible,
        tags=True,
        ivt_class=IvtClass.SOPHISTICATED,
        value=seconds,
        baseline=IMPOSSIBLE_SECONDS if impossible else FAST_SECONDS,
        text="The order came within seconds of the click.",
        facts={"unit": "seconds"},
    )
