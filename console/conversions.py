"""The list of conversions and the page of one, for every role; rows are scoped to the actor."""

from dataclasses import replace
from typing import Final
from urllib.parse import urlencode

from starlette.responses import Response

from commissions import explanations, statements
from commissions.models import CommissionStatus
from console import decisions, evidence, forms, reads
from console.pages import View, Visit
from kernel import pages as cursors
from network import programs
from network.models import Program, Role
from tracker import arrivals, changes

PAGE_ROWS: Final = 50
ARRIVALS_SHOWN: Final = 50
_TEXT_FILTERS: Final = ("program", "publisher", "status", "order_id", "from", "to")
STATUSES: Final = (*CommissionStatus, statements.UNATTRIBUTED, statements.RECORDED)
_ORDERS: Final = frozenset(("newest", "oldest"))


def _filters(visit: Visit, found: list[Program]) -> statements.Filters:
    query = visit.query
    chosen = next((one for one in found if one.id == query.get("program")), None)
    zone = chosen.timezone if chosen else "UTC"
    return statements.Filters(
        program_id=query.get("program") or None,
        publisher_id=query.get("publisher") or None,
        order_id=query.get("order_id", "").strip() or None,
        status=forms.choice(query, "status", frozenset(STATUSES)),
        occurred_from=forms.start_of(forms.day(query, "from"), zone=zone),
        # The last day is meant whole.
        occurred_to=forms.start_of(forms.day(query, "to"), zone=zone, days_later=1),
    )


def _list(visit: Visit) -> Response:
    session, actor = visit.session, visit.actor
    choices = reads.programs(session, actor)
    filters = _filters(visit, choices)
    order = forms.choice(visit.query, "order", _ORDERS) or "newest"
    cursor = visit.query.get("cursor", "")
    seq = cursors.decode(cursor, int)[0] if cursor else None
    if order == "newest":
        found = _newest(visit, filters, before_seq=seq)
    else:
        found = statements.page(
            session, actor, filters=filters, after_seq=seq or 0, limit=PAGE_ROWS + 1
        )
    lines = found[:PAGE_ROWS]
    kept = {name: visit.query[name] for name in _TEXT_FILTERS if visit.query.get(name)}
    more = len(found) > PAGE_ROWS
    return visit.page(
        "conversions.html",
        lines=lines,
        order=order,
        kept=kept,
        first_url=_url({"order": order, **kept}),
        newest_url=_url(kept),
        oldest_url=_url({"order": "oldest", **kept}),
        next_url=_url({"order": order, **kept, "cursor": cursors.encode(_seq(lines[-1]))})
        if more
        else "",
        is_first_page=not cursor,
        newest_max=statements.LIMIT_MAX,
        statuses=STATUSES,
        program_choices=choices,
        publisher_choices=reads.publishers(session, actor),
        programs=reads.programs_by_id(session, [line.conversion.program_id for line in lines]),
        publishers=publisher_names(visit, lines),
    )


def _newest(
    visit: Visit, filters: statements.Filters, *, before_seq: int | None
) -> list[statements.StatementLine]:
    """The next lines before a position, newest first, among the newest LIMIT_MAX."""
    if before_seq is None:
        return statements.newest(visit.session, visit.actor, filters=filters, limit=PAGE_ROWS + 1)
    lines = statements.newest(
        visit.session, visit.actor, filters=filters, limit=statements.LIMIT_MAX
    )
    return [line for line in lines if _seq(line) < before_seq]


def _seq(line: statements.StatementLine) -> int:
    return line.conversion.seq or 0


def _url(query: dict[str, str]) -> str:
    return f"/conversions?{urlencode(query)}" if query else "/conversions"


def publisher_names(visit: Visit, lines: list[statements.StatementLine]) -> dict[str, str]:
    """Names of the publishers that a list of conversions is attributed to, or that share them."""
    named = [line.attribution.publisher_id for line in lines if line.attribution]
    named += [part.publisher_id for line in lines for part in line.parts]
    return reads.publisher_names(visit.session, named)


def _detail(visit: Visit) -> Response:
    session, actor = visit.session, visit.actor
    line = statements.get(session, actor, visit.path["conversion_id"])
    conversion = line.conversion
    explanation = explanations.explain(session, actor, conversion.id)
    program = programs.get(session, conversion.program_id)
    assessment = reads.assessment(session, actor, conversion.id)
    return visit.page(
        "conversion.html",
        line=line,
        conversion=conversion,
        program=program,
        items=statements.items(session, conversion.id),
        # Why it stands where it does is said once, above the story.
        words=explanations.words(
            replace(explanation, reason=""), visit.language, zone=program.timezone
        )
        if line.commission
        else [],
        decision=decisions.of(visit, line),
        publishers=publisher_names(visit, [line]) if line.parts else {},
        bookings=explanation.bookings,
        steps=explanation.steps,
        sub_ids=reads.sub_ids(line.attribution),
        changes=changes.of_conversion(session, conversion.id),
        # How an advertiser reports is between it and the network.
        arrivals=[]
        if actor.role is Role.PUBLISHER
        else arrivals.of_conversion(session, conversion.id, limit=ARRIVALS_SHOWN),
        assessment=assessment,
        reasons=evidence.reasons_of(assessment, visit.language) if assessment else [],
        flag=reads.flag_of(session, actor, conversion.id),
    )


VIEWS = (
    View(method="GET", path="/conversions", handler=_list),
    View(method="GET", path="/conversions/{conversion_id}", handler=_detail),
)
