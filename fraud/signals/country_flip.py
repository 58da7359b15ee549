"""Click and order come from different countries within a day."""

from fraud.evidence import Evidence, Finding, Group, IvtClass

CODE = "country_flip"
NAME = "Country flip"
DESCRIPTION = (
    "Click and order are from different countries, both known, and less than 24 hours apart."
)
INNOCENT = (
    "Travellers, people near a border, gifts sent abroad, roaming phones, VPNs. A click from "
    "a hosting network shows the country of the data centre, so it is not compared."
)
DEFAULT = "150 points, soft: a second signal is needed even for a tag."
SOURCE = "ucliq heuristics: location mismatch."

DAY_SECONDS = 86_400


def find(evidence: Evidence) -> Finding | None:
    """Fire as DEFAULT says; None when the facts are missing or ordinary."""
    click, order = evidence.click_country, evidence.order_country
    seconds = evidence.seconds_click_to_order
    if not click or not order or seconds is None or evidence.is_hosting:
        return None
    if click.upper() == order.upper() or not 0 <= seconds < DAY_SECONDS:
        return None
    return Finding(
        code=CODE,
        group=Group.ORDER,
        points=150,
        ivt_class=IvtClass.SOPHISTICATED,
        value=order.upper(),
        baseline=click.upper(),
        text="Click and order came from different countries within a day.",
        facts={"unit": "country"},
    )
