"""One visitor clicks far more often in an hour than anyone shops."""

from fraud.evidence import Evidence, Finding, Group, IvtClass

CODE = "click_flood"
NAME = "Click flood"
DESCRIPTION = "The same visitor clicked links of the same program 50 times or more within an hour."
INNOCENT = (
    "Many people behind one address with the same browser: offices, schools, mobile carriers."
)
DEFAULT = "150 points, soft; shares the cap of its group with `duplicate_clicks`."
SOURCE = "Offer18 click-spam defender, level moderate: 50 clicks."

FLOOD = 50


def find(evidence: Evidence) -> Finding | None:
    """Fire as DEFAULT says; None when the facts are missing or ordinary."""
    clicks = evidence.visitor_clicks_hour
    if clicks is None or clicks < FLOOD:
        return None
    return Finding(
        code=CODE,
        group=Group.VELOCITY,
        points=150,
        ivt_class=IvtClass.SOPHISTICATED,
        value=clicks,
        baseline=FLOOD,
        text="The same visitor clicked this program very often within an hour.",
        facts={"window_seconds": 3600},
    )
