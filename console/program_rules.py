"""A program's rules of attribution: the version in force, those before and after, and the next."""

from dataclasses import dataclass
from datetime import datetime
from typing import Final

from starlette.responses import Response

from console import attribution_form, credit_words, forms, programs, reads
from console.credit_words import CreditText
from console.pages import View, Visit, redirect
from tracker import attribution_terms
from tracker.credit_terms import CustomerChoice
from tracker.models import AttributionTerms

VERSIONS_SHOWN: Final = 50


@dataclass(frozen=True, slots=True)
class Row:
    """A published version, where it stands today, and what it says."""

    version: AttributionTerms
    state: str
    text: CreditText


def _show(visit: Visit) -> Response:
    program = programs.own(visit)
    now = attribution_terms.version_at(visit.session, program.id, visit.now)
    found = attribution_terms.versions(visit.session, program.id, limit=VERSIONS_SHOWN)
    members = reads.members(visit.session, program.id)
    codes = {one.publisher.id: one.publisher.code for one in members}
    # The next version begins as the newest one: who changes one thing keeps the others.
    latest = found[0].document if found else {}
    return visit.page(
        "programs/attribution.html",
        program=program,
        in_force=now,
        credit=programs.in_words(visit, program, now),
        rows=[
            Row(one, _state(one, now, visit.now), programs.in_words(visit, program, one))
            for one in found
        ],
        people=reads.user_names(visit.session, [one.published_by for one in found]),
        members=members,
        form=visit.form or attribution_form.fields_of(latest, codes),
        models=credit_words.MODELS,
        missing=credit_words.MISSING,
        sources=credit_words.SOURCES,
        source_fields=attribution_form.SOURCE_FIELDS,
        choices=tuple(CustomerChoice),
    )


def _state(one: AttributionTerms, now_in_force: AttributionTerms | None, now: datetime) -> str:
    if now_in_force is not None and one.id == now_in_force.id:
        return "in_force"
    return "coming" if one.effective_from > now else "replaced"


def _publish(visit: Visit) -> Response:
    program = programs.own(visit)
    members = reads.members(visit.session, program.id)
    ids = {one.publisher.code: one.publisher.id for one in members}
    effective_from = forms.instant(visit.form, "effective_from", zone=program.timezone)
    attribution_terms.publish(
        visit.session,
        program_id=program.id,
        document=attribution_form.document_of(visit.form, ids),
        effective_from=effective_from or visit.now,
        actor=str(visit.actor),
        now=visit.now,
        allow_past=visit.actor.is_manager,
    )
    return redirect(f"/programs/{program.id}/attribution", done="rules_published")


_PATH = "/programs/{program_id}/attribution"
VIEWS = (
    View(method="GET", path=_PATH, handler=_show, roles=programs.WHO),
    View(method="POST", path=_PATH, handler=_publish, roles=programs.WHO, retry=_show),
)
