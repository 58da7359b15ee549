"""Simulations and re-rates of a program: watched while they run, then read and decided."""

from typing import Any, Final

from starlette.responses import Response

from commissions import periods, plan_jobs
from commissions.periods import Period
from commissions.plan_models import JobKind, PlanJob
from console import forms, programs, reads
from console.pages import MANAGERS, View, Visit, redirect
from kernel.errors import invalid
from network.models import Program

JOBS_SHOWN: Final = 50
ROWS_SHOWN: Final = 50
_REFRESH_SECONDS: Final = "2"
_DECISIONS: Final = frozenset({"confirm", "dismiss"})


def _show_simulation(visit: Visit) -> Response:
    program = programs.own(visit)
    job = _job(visit, program, JobKind.SIMULATE)
    tables = {
        name: (job.result[name][:ROWS_SHOWN], len(job.result[name]) - ROWS_SHOWN)
        for name in ("publishers", "regions", "categories")
        if job.result
    }
    keys = [row["key"] for row, *_ in [tables.get("publishers", ([], 0))] for row in row]
    response = visit.page(
        "programs/simulation.html",
        program=program,
        job=job,
        is_open=job.status in plan_jobs.WAITING,
        tables=tables,
        names=reads.publisher_names(visit.session, keys),
    )
    return _refreshing(response, job, f"/programs/{program.id}/simulations/{job.id}")


def _list_rerates(visit: Visit) -> Response:
    program = programs.own(visit)
    found = plan_jobs.page(visit.session, program.id, JobKind.RERATE, limit=JOBS_SHOWN)
    return visit.page(
        "programs/rerates.html",
        program=program,
        jobs=found,
        form=visit.form,
        people=reads.user_names(visit.session, [one.actor_id for one in found]),
    )


def _start_rerate(visit: Visit) -> Response:
    program = programs.own(visit)
    first, last = (forms.day(visit.form, name) for name in ("from", "to"))
    start = forms.start_of(first, zone=program.timezone)
    end = forms.start_of(last, zone=program.timezone, days_later=1)
    if start is None or end is None:
        raise invalid("from", "missing", "is required, as is the last day")
    periods.check_bounds(start, end)
    job = plan_jobs.add_rerate(
        visit.session,
        Period(program.id, start, end),
        reason=forms.text(visit.form, "reason"),
        actor=str(visit.actor),
        now=visit.now,
    )
    return redirect(f"/programs/{program.id}/rerates/{job.id}")


def _show_rerate(visit: Visit) -> Response:
    program = programs.own(visit)
    job = _job(visit, program, JobKind.RERATE)
    found: dict[str, Any] = job.result.get("applied") or job.result.get("preview") or {}
    rows = found.get("publishers", [])[:ROWS_SHOWN]
    response = visit.page(
        "programs/rerate.html",
        program=program,
        job=job,
        is_open=job.status in plan_jobs.WAITING,
        is_applied="applied" in job.result,
        found=found,
        rows=rows,
        names=reads.publisher_names(visit.session, [row["publisher_id"] for row in rows]),
    )
    return _refreshing(response, job, f"/programs/{program.id}/rerates/{job.id}")


def _decide(visit: Visit) -> Response:
    program = programs.own(visit)
    decision = forms.choice(visit.form, "decision", _DECISIONS)
    decide = plan_jobs.confirm if decision == "confirm" else plan_jobs.dismiss
    job_id = visit.path["job_id"]
    decide(visit.session, program.id, job_id, actor=str(visit.actor), now=visit.now)
    done = "rerate_confirmed" if decision == "confirm" else "rerate_dismissed"
    return redirect(f"/programs/{program.id}/rerates/{job_id}", done=done)


def _job(visit: Visit, program: Program, kind: JobKind) -> PlanJob:
    return plan_jobs.get(visit.session, program.id, visit.path["job_id"], kind)


def _refreshing(response: Response, job: PlanJob, path: str) -> Response:
    if job.status in plan_jobs.WAITING:
        response.headers["Refresh"] = f"{_REFRESH_SECONDS}; url={path}"
    return response


_RERATES: Final = "/programs/{program_id}/rerates"
VIEWS: Final = (
    View(
        method="GET",
        path="/programs/{program_id}/simulations/{job_id}",
        handler=_show_simulation,
        roles=programs.WHO,
    ),
    View(method="GET", path=_RERATES, handler=_list_rerates, roles=MANAGERS),
    View(method="POST", path=_RERATES, handler=_start_rerate, roles=MANAGERS, retry=_list_rerates),
    View(method="GET", path=f"{_RERATES}/{{job_id}}", handler=_show_rerate, roles=MANAGERS),
    View(
        method="POST",
        path=f"{_RERATES}/{{job_id}}",
        handler=_decide,
        roles=MANAGERS,
        retry=_show_rerate,
    ),
)
