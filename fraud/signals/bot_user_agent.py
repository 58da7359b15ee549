"""The user agent names a robot. Anyone may claim to be one, and nobody who buys does."""

from fraud.evidence import Evidence, Finding, Group, IvtClass
from tracker.agents import AgentClass

CODE = "bot_user_agent"
NAME = "Declared bot"
DESCRIPTION = (
    "The user agent of the click names a crawler, monitor, preview fetcher or another robot."
)
INNOCENT = (
    "Link previews of messengers and scanners of mail gateways click before the person does; "
    "the person clicks again with a browser, and that click is the one that should be "
    "attributed."
)
DEFAULT = "450 points, hard: holds alone."
SOURCE = (
    "MRC and IAB: general invalid traffic, filtered by list; impact.com rejects it at the click."
)


def find(evidence: Evidence) -> Finding | None:
    """Fire as DEFAULT says; None when the facts are missing or ordinary."""
    if evidence.agent_class is not AgentClass.BOT:
        return None
    return Finding(
        code=CODE,
        group=Group.CLIENT,
        points=450,
        hard=True,
        tags=True,
        billable=False,
        ivt_class=IvtClass.GENERAL,
        value=AgentClass.BOT,
        text="The click came from software that declares itself a robot.",
    )
