"""The click carried no user agent at all, which no browser does by itself."""

from fraud.evidence import Evidence, Finding, Group, IvtClass
from tracker.agents import AgentClass

CODE = "empty_user_agent"
NAME = "Empty user agent"
DESCRIPTION = "The request of the click was seen and its user agent was empty."
INNOCENT = (
    "Privacy proxies and some company gateways strip the header. A click taken over from "
    "another network has no user agent because nobody passed it on; that does not count."
)
DEFAULT = "300 points: tags alone, holds with a second signal."
SOURCE = "MRC: general invalid traffic, missing user agent."


def find(evidence: Evidence) -> Finding | None:
    """Fire as DEFAULT says; None when the facts are missing or ordinary."""
    seen_empty = evidence.user_agent_empty or evidence.agent_class is AgentClass.EMPTY
    if evidence.imported or not seen_empty:
        return None
    return Finding(
        code=CODE,
        group=Group.CLIENT,
        points=300,
        tags=True,
        ivt_class=IvtClass.GENERAL,
        value="",
        text="The click was sent without a user agent.",
    )
