"""The click came from a data centre, where few people live."""

from fraud.evidence import Evidence, Finding, Group, IvtClass

CODE = "hosting_network"
NAME = "Hosting network"
DESCRIPTION = "The address of the click is in the published range of a cloud or hosting provider."
INNOCENT = (
    "Company networks, virtual desktops and VPNs that leave through a cloud provider. Relays "
    "that carry whole phone fleets (Private Relay, WARP) are not counted as hosting."
)
DEFAULT = (
    "300 points: tags alone, holds with any second signal. The likelihood ratio measured on "
    "public web logs is 8.7 (220 points); the rest is what it takes to hold in company."
)
SOURCE = 'impact.com event reason "data center", risk high; MRC: data-centre traffic.'


def find(evidence: Evidence) -> Finding | None:
    """Fire as DEFAULT says; None when the facts are missing or ordinary."""
    if not evidence.is_hosting:
        return None
    return Finding(
        code=CODE,
        group=Group.NETWORK,
        points=300,
        tags=True,
        ivt_class=IvtClass.GENERAL,
        value="hosting",
        text="The click came from the network of a hosting provider.",
    )
