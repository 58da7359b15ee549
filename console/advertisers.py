"""What an advertiser sees: its orders and their state, and what could not be recorded."""

from starlette.responses import Response

from commissions import statements
from console import conversions, panels, reads
from console.pages import View, Visit
from kernel import pages as cursors
from network.models import Role
from tracker import refusals

NEWEST_SHOWN = 15
PAGE_ROWS = 50
REFUSALS_NOTED = 5


def overview(visit: Visit) -> Response:
    """Sales and commission by status, newest orders, newest refusals."""
    session, actor = visit.session, visit.actor
    found = panels.panels(session, actor, now=visit.now)
    lines = statements.newest(session, actor, filters=statements.Filters(), limit=NEWEST_SHOWN)
    noted = refusals.page(session, actor, limit=REFUSALS_NOTED)
    return visit.page(
        "advertisers/overview.html",
        panels=found,
        panel=panels.choose(found, visit.query.get("currency", "")),
        lines=lines,
        refusals=noted,
        programs=reads.programs_by_id(
            session,
            [
                *(line.conversion.program_id for line in lines),
                *(refusal.program_id for refusal in noted),
            ],
        ),
        publishers=conversions.publisher_names(visit, lines),
    )


def _refusals(visit: Visit) -> Response:
    cursor = visit.query.get("cursor", "")
    before_seq = cursors.decode(cursor, int)[0] if cursor else None
    found = refusals.page(visit.session, visit.actor, before_seq=before_seq, limit=PAGE_ROWS + 1)
    shown = found[:PAGE_ROWS]
    return visit.page(
        "advertisers/refusals.html",
        refusals=shown,
        programs=reads.programs_by_id(visit.session, [one.program_id for one in shown]),
        next_cursor=cursors.encode(shown[-1].seq or 0) if len(found) > PAGE_ROWS else None,
        is_first_page=not cursor,
    )


VIEWS = (
    View(
        method="GET",
        path="/refusals",
        handler=_refusals,
        roles=(Role.ADVERTISER, Role.MANAGER),
    ),
)
