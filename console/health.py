"""The page of tracking health: what is wrong with what comes in, in words, the worst first."""

from collections import Counter
from typing import Final

from starlette.responses import Response

from console import forms, reads
from console.pages import View, Visit
from tracker import health
from tracker.judgements import Status

ROWS_SHOWN: Final = 200


def _show(visit: Visit) -> Response:
    session, actor = visit.session, visit.actor
    choices = reads.programs(session, actor)
    program_id = forms.choice(visit.query, "program", frozenset(one.id for one in choices))
    status = forms.choice(visit.query, "status", frozenset(Status))
    found = health.read(
        session, actor, visit.context.settings, now=visit.now, program_id=program_id
    )
    shown = [one for one in found if status in (None, one.judgement.status)]
    settings = visit.context.settings
    return visit.page(
        "health.html",
        findings=[(one, health.sentence(one.judgement, visit.language)) for one in shown][
            :ROWS_SHOWN
        ],
        rows_hidden=len(shown) - ROWS_SHOWN,
        counts=Counter(one.judgement.status.value for one in found),
        statuses=[one.value for one in Status][::-1],
        chosen=status or "",
        program_id=program_id or "",
        program_choices=choices,
        programs=reads.programs_by_id(session, {one.program_id for one in shown}),
        publishers=reads.publisher_names(session, {one.publisher_id for one in shown}),
        days=settings.health_days,
        days_before=settings.health_history_days,
    )


VIEWS = (View(method="GET", path="/health", handler=_show),)
