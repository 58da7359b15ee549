"""The browser fetched the link ahead of a click that may never come."""

from fraud.evidence import Evidence, Finding, Group, IvtClass

CODE = "prefetch"
NAME = "Prefetch"
DESCRIPTION = "`Sec-Purpose` says that the browser loaded the link in advance."
INNOCENT = (
    "All of it: the browser decides. The visitor may follow the link a moment later without a"
    " second request."
)
DEFAULT = "0 points: the click is not billable, and says nothing about the publisher."
SOURCE = "Fetch standard, `Sec-Purpose`; MRC: pre-fetch is not a click."


def find(evidence: Evidence) -> Finding | None:
    """Fire as DEFAULT says; None when the facts are missing or ordinary."""
    purpose = (evidence.sec_purpose or "").strip().lower()
    if not purpose.startswith(("prefetch", "prerender", "preview")):
        return None
    return Finding(
        code=CODE,
        group=Group.CLIENT,
        points=0,
        tags=True,
        billable=False,
        ivt_class=IvtClass.GENERAL,
        value="prefetch",
        text="The browser loaded the link in advance; no click is billed for it.",
    )
