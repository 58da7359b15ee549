"""The click came from an HTTP library or command-line client instead of a browser."""

from fraud.evidence import Evidence, Finding, Group, IvtClass
from tracker.agents import AgentClass

CODE = "tool_user_agent"
NAME = "Non-browser tool"
DESCRIPTION = (
    "The user agent of the click belongs to an HTTP library, a command-line client or a "
    "download manager."
)
INNOCENT = (
    "Apps that resolve a link with their own HTTP library before they open the browser, link "
    "checkers of the publisher, uptime tests."
)
DEFAULT = "300 points: tags alone, holds with a second signal."
SOURCE = "MRC: general invalid traffic, non-browser user agents."


def find(evidence: Evidence) -> Finding | None:
    """Fire as DEFAULT says; None when the facts are missing or ordinary."""
    if evidence.agent_class is not AgentClass.TOOL:
        return None
    return Finding(
        code=CODE,
        group=Group.CLIENT,
        points=300,
        tags=True,
        ivt_class=IvtClass.GENERAL,
        value=AgentClass.TOOL,
        text="The click came from an HTTP library or tool, not from a browser.",
    )
