"""What a publisher sees first: what is earned, where it stands, and why."""

from starlette.responses import Response

from commissions import payouts, statements
from console import conversions, panels, reads
from console.pages import Visit

NEWEST_SHOWN = 15
PAYOUTS_SHOWN = 12


def overview(visit: Visit) -> Response:
    """Earnings by status, newest conversions with their reasons, payouts."""
    session, actor = visit.session, visit.actor
    found = panels.panels(session, actor, now=visit.now)
    lines = statements.newest(session, actor, filters=statements.Filters(), limit=NEWEST_SHOWN)
    paid = sorted(
        payouts.of_publisher(session, actor.party_id),
        key=lambda payout: payout.updated_at,
        reverse=True,
    )
    return visit.page(
        "publishers/overview.html",
        panels=found,
        panel=panels.choose(found, visit.query.get("currency", "")),
        lines=lines,
        programs=reads.programs_by_id(session, [line.conversion.program_id for line in lines]),
        publishers=conversions.publisher_names(visit, lines),
        memberships=reads.programs(session, actor),
        payouts=paid[:PAYOUTS_SHOWN],
    )
