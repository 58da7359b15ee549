"""One visitor clicks the same program again and again within a minute."""

from fraud.evidence import Evidence, Finding, Group, IvtClass

CODE = "duplicate_clicks"
NAME = "Duplicate clicks"
DESCRIPTION = "The same visitor clicked links of the same program several times within 60 seconds."
INNOCENT = (
    "An office or a campus behind one address whose machines are alike, above all just after "
    "a newsletter; an impatient double click on a slow page."
)
DEFAULT = "From 3: 120 points, tags. From 10: 300 points, tags; holds with a second signal."
SOURCE = "FDMA 2012 (JMLR 15, 99-140): repeats within a minute are among the strongest features."

FEW = 3
MANY = 10


def find(evidence: Evidence) -> Finding | None:
    """Fire as DEFAULT says; None when the facts are missing or ordinary."""
    clicks = evidence.duplicate_clicks
    if clicks is None or clicks < FEW:
        return None
    return Finding(
        code=CODE,
        group=Group.VELOCITY,
        points=300 if clicks >= MANY else 120,
        tags=True,
        ivt_class=IvtClass.SOPHISTICATED,
        value=clicks,
        baseline=FEW,
        text="The same visitor clicked this program repeatedly within a minute.",
        facts={"window_seconds": 60},
    )
