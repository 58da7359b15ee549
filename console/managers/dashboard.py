"""The first page of a manager: what needs a decision, how the network does, what just came in."""

from starlette.responses import Response

from commissions import statements
from console import panels, reads
from console.pages import Visit
from fraud import flags

NEWEST_SHOWN = 8
TOP_SHOWN = 5


def show(visit: Visit) -> Response:
    """The overview of the whole network."""
    session, actor = visit.session, visit.actor
    found = panels.panels(session, actor, now=visit.now)
    chosen = panels.choose(found, visit.query.get("currency", ""))
    lines = statements.newest(session, actor, filters=statements.Filters(), limit=NEWEST_SHOWN)
    return visit.page(
        "managers/dashboard.html",
        panels=found,
        panel=chosen,
        open_flags=flags.count_open(session, actor),
        lines=lines,
        programs=reads.programs_by_id(session, [line.conversion.program_id for line in lines]),
        publishers=reads.publisher_names(
            session, [line.attribution.publisher_id for line in lines if line.attribution]
        ),
        top=[
            one
            for one in reads.top_publishers(
                session, actor, since=panels.since(visit.now), limit=TOP_SHOWN
            )
            if chosen is not None and one.currency == chosen.currency
        ],
    )
