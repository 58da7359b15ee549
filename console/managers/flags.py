"""Fraud flags: what waits for a person, the evidence, and the decision with its note."""

from starlette.responses import Response

from console import evidence, forms, reads
from console.pages import MANAGERS, View, Visit, redirect
from fraud import flags
from fraud.flags import FlagStatus
from fraud.models import Outcome
from fraud.rules import PRIOR_LOG_ODDS
from kernel import pages as cursors
from kernel.errors import invalid
from network import programs
from tracker.models import Conversion

PAGE_ROWS = 50
_ALL = "all"


def _list(visit: Visit) -> Response:
    choices = (*FlagStatus, _ALL)
    shown_status = forms.choice(visit.query, "status", frozenset(choices)) or FlagStatus.OPEN
    cursor = visit.query.get("cursor", "")
    after_seq = cursors.decode(cursor, int)[0] if cursor else 0
    found = flags.page(
        visit.session,
        visit.actor,
        status=None if shown_status == _ALL else FlagStatus(shown_status),
        after_seq=after_seq,
        limit=PAGE_ROWS + 1,
    )
    shown = found[:PAGE_ROWS]
    more = len(found) > PAGE_ROWS
    return visit.page(
        "managers/flags.html",
        status_shown=shown_status,
        statuses=choices,
        views=shown,
        conversions=reads.conversions_by_id(
            visit.session, [view.flag.conversion_id for view in shown]
        ),
        programs=reads.programs_by_id(visit.session, [view.flag.program_id for view in shown]),
        publishers=reads.publisher_names(visit.session, [view.flag.publisher_id for view in shown]),
        strongest={
            view.flag.id: evidence.reasons_of(view.assessment, visit.language)[:2] for view in shown
        },
        next_cursor=cursors.encode(shown[-1].flag.seq or 0) if more else None,
        is_first_page=not cursor,
    )


def _detail(visit: Visit) -> Response:
    view = flags.get(visit.session, visit.actor, visit.path["flag_id"])
    conversion: Conversion = reads.conversions_by_id(visit.session, [view.flag.conversion_id])[
        view.flag.conversion_id
    ]
    people = [view.decision.decided_by] if view.decision else []
    return visit.page(
        "managers/flag.html",
        view=view,
        reasons=evidence.reasons_of(view.assessment, visit.language),
        prior_points=round(PRIOR_LOG_ODDS * 100),
        conversion=conversion,
        program=programs.get(visit.session, view.flag.program_id),
        publishers=reads.publisher_names(visit.session, [view.flag.publisher_id]),
        people=reads.user_names(visit.session, people),
        note=visit.form.get("note", ""),
    )


def _decide(visit: Visit) -> Response:
    flag_id = visit.path["flag_id"]
    # Asked for first, so that an unknown flag is a 404 page and not a form with a problem.
    flags.get(visit.session, visit.actor, flag_id)
    outcome = forms.choice(visit.form, "outcome", frozenset(_VERBS))
    if outcome is None:
        raise invalid("outcome", "required", "must be chosen")
    _VERBS[outcome](
        visit.session,
        flag_id,
        note=forms.text(visit.form, "note"),
        actor=visit.actor.id,
        now=visit.now,
    )
    return redirect(f"/flags/{flag_id}", done=f"flag_{outcome}")


_VERBS = {Outcome.CLEARED.value: flags.clear, Outcome.CONFIRMED.value: flags.confirm}

VIEWS = (
    View(method="GET", path="/flags", handler=_list, roles=MANAGERS),
    View(method="GET", path="/flags/{flag_id}", handler=_detail, roles=MANAGERS),
    View(
        method="POST",
        path="/flags/{flag_id}/decision",
        handler=_decide,
        roles=MANAGERS,
        retry=_detail,
    ),
)
