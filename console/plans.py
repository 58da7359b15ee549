"""A program's plan: its versions on a time line, a draft to check, simulate, schedule, publish."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from starlette.responses import Response

from commissions import notices, plan_jobs, plan_words, plans
from commissions.models import PlanVersion
from commissions.periods import Period
from commissions.plan_models import JobKind, PlanWaiver
from commissions.plans import Draft, NoticeTooShort
from console import forms, plan_text, programs, reads
from console.pages import MANAGERS, View, Visit, redirect
from kernel import http
from kernel.errors import FieldProblem, InvalidInput, invalid
from network.models import Program

VERSIONS_SHOWN: Final = 50
_JOBS_SHOWN: Final = 5
_RULE_AT: Final = re.compile(r"rules\[(\d{1,4})\]")
_TIED_WITH: Final = re.compile(r"ambiguous: rules (.+) and (.+) have the same priority")
_ACTIONS: Final = frozenset({"check", "simulate", "publish"})


@dataclass(frozen=True, slots=True)
class Row:
    """A published version, its interval, where it stands today, and what it says."""

    version: PlanVersion
    state: str
    ends: datetime | None
    words: list[str]
    waiver: PlanWaiver | None


@dataclass(frozen=True, slots=True)
class Checked:
    """A draft that was looked at: problems by path, and what it would change."""

    draft: Draft
    rows: list[plan_text.Row]
    words: list[str]


def _show(visit: Visit) -> Response:
    return _page(visit, programs.own(visit), None)


def _page(visit: Visit, program: Program, checked: Checked | None) -> Response:
    found = plans.versions(visit.session, program.id, limit=VERSIONS_SHOWN)
    in_force = plans.version_at(visit.session, program.id, visit.now)
    waivers = notices.waivers(visit.session, [one.id for one in found])
    # The next version begins as the newest one: who changes one thing keeps the others.
    newest = found[0].document if found else {"currency": program.currency, "rules": []}
    return visit.page(
        "programs/plan.html",
        program=program,
        rows=[_row(visit, one, in_force, waivers) for one in found],
        people=reads.user_names(visit.session, [one.published_by for one in found]),
        form={"document": _pretty(newest), **visit.form},
        checked=checked,
        problems=_problems(visit),
        tied=lambda problem: _tied(visit, problem),
        too_soon=visit.problem if isinstance(visit.problem, NoticeTooShort) else None,
        notice_days=notices.days_at(visit.session, program.id, visit.now),
        earliest_at=notices.earliest(visit.session, program.id, visit.now),
        simulations=plan_jobs.page(visit.session, program.id, JobKind.SIMULATE, limit=_JOBS_SHOWN),
        members=reads.members(visit.session, program.id),
    )


def _row(
    visit: Visit, one: PlanVersion, in_force: PlanVersion | None, waivers: Mapping[str, PlanWaiver]
) -> Row:
    following = plans.next_after(visit.session, one.program_id, one)
    at_start = plans.version_at(visit.session, one.program_id, one.effective_from)
    state = "coming" if one.effective_from > visit.now else "replaced"
    if in_force is not None and one.id == in_force.id:
        state = "in_force"
    elif at_start is not None and at_start.id != one.id:
        state = "replaced"
    return Row(
        version=one,
        state=state,
        ends=following.effective_from if following else None,
        words=plan_words.tell(one.document, visit.language),
        waiver=waivers.get(one.id),
    )


def _problems(visit: Visit) -> list[FieldProblem]:
    return visit.problem.problems if isinstance(visit.problem, InvalidInput) else []


def _tied(visit: Visit, problem: FieldProblem) -> list[str]:
    """The two rules of a tie as they stand in the draft; nothing for another problem."""
    place, named = _RULE_AT.fullmatch(problem.field), _TIED_WITH.match(problem.message)
    try:
        rules = json.loads(visit.form.get("document", ""))["rules"]
        if place is None or named is None:
            return []
        of_id = {rule.get("id"): rule for rule in rules}
        return [_pretty(of_id[one]) for one in named.groups()]
    except (ValueError, LookupError, TypeError, AttributeError):
        return []


def _pretty(document: Mapping[str, Any]) -> str:
    return json.dumps(document, indent=2, ensure_ascii=False)


def _send(visit: Visit) -> Response:
    program = programs.own(visit)
    action = forms.choice(visit.form, "action", _ACTIONS) or "check"
    document = _document(visit, program)
    effective_from = forms.instant(visit.form, "effective_from", zone=program.timezone)
    if action == "check":
        return _page(visit, program, _check(visit, program, document, effective_from))
    if action == "simulate":
        return _simulate(visit, program, document)
    waiver = forms.text(visit.form, "waiver") if visit.actor.is_manager else ""
    plans.publish(
        visit.session,
        program_id=program.id,
        document=document,
        effective_from=effective_from or visit.now,
        actor=str(visit.actor),
        now=visit.now,
        allow_past=visit.actor.is_manager,
        waiver=waiver,
    )
    return redirect(f"/programs/{program.id}/plan", done="plan_published")


def _document(visit: Visit, program: Program) -> dict[str, Any]:
    """The draft of the form: that of a simulation, a file, or the text."""
    job_id = forms.text(visit.form, "simulation")
    if job_id:
        job = plan_jobs.get(visit.session, program.id, job_id, JobKind.SIMULATE)
        visit.form["document"] = _pretty(job.document)
        return job.document
    content, _ = forms.file_of(visit.request)
    raw = content or visit.form.get("document", "").encode()
    document = http.load_json(raw)
    if not isinstance(document, dict):
        raise invalid("document", "json", "must be a JSON object")
    visit.form["document"] = _pretty(document)
    return document


def _check(
    visit: Visit, program: Program, document: Mapping[str, Any], effective_from: datetime | None
) -> Checked:
    draft = plans.check(
        visit.session,
        program_id=program.id,
        document=document,
        effective_from=effective_from or visit.now,
        now=visit.now,
        allow_past=visit.actor.is_manager,
    )
    if draft.problems:
        raise InvalidInput(list(draft.problems))
    gettext = plan_words.gettext_of(visit.language)
    documents = [document]
    if draft.replaced is not None:
        replaced = plans.get(visit.session, program.id, draft.replaced.version)
        documents.insert(0, replaced.document)
    texts = [{rule.id: rule for rule in plan_words.read(one, gettext).rules} for one in documents]
    return Checked(
        draft,
        list(plan_text.rows(draft.findings, texts[0], texts[-1], visit.gettext)),
        plan_words.tell(document, visit.language),
    )


def _simulate(visit: Visit, program: Program, document: Mapping[str, Any]) -> Response:
    first, last = (forms.day(visit.form, name) for name in ("from", "to"))
    start = forms.start_of(first, zone=program.timezone)
    end = forms.start_of(last, zone=program.timezone, days_later=1)
    if start is None or end is None:
        raise invalid("from", "missing", "is required, as is the last day")
    job = plan_jobs.add_simulation(
        visit.session,
        Period(program.id, start, end),
        document,
        actor=str(visit.actor),
        now=visit.now,
    )
    return redirect(f"/programs/{program.id}/simulations/{job.id}")


def _set_notice(visit: Visit) -> Response:
    program = programs.own(visit)
    notices.set_days(
        visit.session,
        program.id,
        forms.minor(visit.form, "notice_days"),
        actor=str(visit.actor),
        now=visit.now,
    )
    return redirect(f"/programs/{program.id}/plan", done="notice_set")


_PATH: Final = "/programs/{program_id}/plan"
VIEWS: Final = (
    View(method="GET", path=_PATH, handler=_show, roles=programs.WHO),
    View(
        method="POST",
        path=_PATH,
        handler=_send,
        roles=programs.WHO,
        takes_file=True,
        retry=_show,
    ),
    View(method="POST", path=f"{_PATH}/notice", handler=_set_notice, roles=MANAGERS, retry=_show),
)
