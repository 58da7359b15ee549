"""Drafts played over the past, and orders rated again: jobs that managers start and watch."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from commissions import plan_jobs
from commissions.periods import Period
from commissions.plan_jobs import NotConfirmable, TooManyJobs
from commissions.plan_models import JobKind, PlanJob
from kernel import pages
from kernel.errors import Forbidden, InvalidInput, NotFound, TooLarge
from kernel.http import Call, Endpoint, NoQuery
from network.access import require
from network.models import Program, Role
from partner_api import lookups
from partner_api.schemas import Instant, PageQuery, Time, after_id, cut, path_id, rows_wanted

_ROLES = (Role.MANAGER,)
_SIMULATORS = (Role.ADVERTISER, Role.MANAGER)


class SimulationBody(BaseModel):
    """A draft and the period over which it is played: orders that occurred in [`from`, `to`)."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    document: dict[str, Any]
    start: Instant = Field(alias="from")
    end: Instant = Field(alias="to")


class RerateBody(BaseModel):
    """The period whose orders are rated again, and why."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    start: Instant = Field(alias="from")
    end: Instant = Field(alias="to")
    reason: str = Field(description="10 to 500 characters; publishers read it.")


class JobView(BaseModel):
    """A job: where it stands, how many orders are done, and what it found.

    A simulation's `result` has `all`, `publishers`, `regions` and `categories`, each with orders,
    minor units booked and simulated, and the difference. A re-rate's has `preview` and, once it is
    confirmed, `applied`, each with what changed and what was left as it is, by reason.
    """

    id: str
    program_id: str
    status: str
    from_: Time = Field(serialization_alias="from")
    to: Time
    reason: str
    version_max: int | None = Field(description="The newest plan version a re-rate goes by.")
    orders_total: int
    orders_done: int
    result: dict[str, Any]
    detail: str
    created_at: Time
    updated_at: Time
    finished_at: Time | None


class JobPage(BaseModel):
    """Jobs, newest first."""

    data: list[JobView]
    next_cursor: str | None


def start_simulation(call: Call) -> JobView:
    """Play a draft over orders of the past, beside what was booked. Nothing is booked by it."""
    period = _period(call)
    job = plan_jobs.add_simulation(
        call.session, period, call.body.document, actor=str(call.actor), now=call.now
    )
    return _view(job)


def read_simulation(call: Call) -> JobView:
    """A simulation: how far it is, and its totals when it is done."""
    return _one(call, JobKind.SIMULATE)


def list_simulations(call: Call) -> JobPage:
    """Simulations of a program, newest first."""
    return _page(call, JobKind.SIMULATE)


def start_rerate(call: Call) -> JobView:
    """Find out what rating the orders of a period by the plans published now would change.

    Nothing is booked until it is confirmed.
    """
    period = _period(call)
    job = plan_jobs.add_rerate(
        call.session, period, reason=call.body.reason, actor=str(call.actor), now=call.now
    )
    return _view(job)


def read_rerate(call: Call) -> JobView:
    """A re-rate: how far it is, its preview, and what it booked."""
    return _one(call, JobKind.RERATE)


def list_rerates(call: Call) -> JobPage:
    """Re-rates of a program, newest first."""
    return _page(call, JobKind.RERATE)


def confirm_rerate(call: Call) -> JobView:
    """Have a previewed re-rate booked. A repeat changes nothing."""
    job = plan_jobs.confirm(
        call.session, _program(call).id, path_id(call, "job"), actor=str(call.actor), now=call.now
    )
    return _view(job)


def dismiss_rerate(call: Call) -> JobView:
    """Let a previewed re-rate go without booking anything. A repeat changes nothing."""
    job = plan_jobs.dismiss(
        call.session, _program(call).id, path_id(call, "job"), actor=str(call.actor), now=call.now
    )
    return _view(job)


def _program(call: Call) -> Program:
    return lookups.visible_program(call.session, call.actor, path_id(call, "id"))


def _period(call: Call) -> Period:
    return Period(_program(call).id, call.body.start, call.body.end)


def _one(call: Call, kind: JobKind) -> JobView:
    program = _program(call)
    return _view(plan_jobs.get(call.session, program.id, path_id(call, "job"), kind))


def _page(call: Call, kind: JobKind) -> JobPage:
    program = _program(call)
    limit = rows_wanted(call)
    found = plan_jobs.page(
        call.session, program.id, kind, before_id=after_id(call) or None, limit=limit + 1
    )
    shown, last = cut(found, limit)
    return JobPage(
        data=[_view(one) for one in shown], next_cursor=pages.encode(last.id) if last else None
    )


def _view(job: PlanJob) -> JobView:
    return JobView(
        id=job.id,
        program_id=job.program_id,
        status=job.status,
        from_=job.from_at,
        to=job.to_at,
        reason=job.reason,
        version_max=job.version_max or None,
        orders_total=job.total,
        orders_done=job.done,
        result=job.result,
        detail=job.detail,
        created_at=job.created_at,
        updated_at=job.updated_at,
        finished_at=job.finished_at,
    )


def _reading(path: str, handler: Any, summary: str, roles: tuple[Role, ...]) -> Endpoint:
    is_list = "{job}" not in path
    return Endpoint(
        method="GET",
        path=path,
        handler=handler,
        summary=summary,
        tag="Plans",
        guard=require(*roles),
        roles=roles,
        query=PageQuery if is_list else NoQuery,
        reply=JobPage if is_list else JobView,
        errors=(Forbidden, NotFound),
    )


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/programs/{id}/simulations",
        handler=start_simulation,
        summary="Simulate a plan",
        tag="Plans",
        guard=require(*_SIMULATORS),
        roles=_SIMULATORS,
        body=SimulationBody,
        reply=JobView,
        status=202,
        writes=True,
        errors=(Forbidden, NotFound, InvalidInput, TooLarge, TooManyJobs),
    ),
    _reading("/v1/programs/{id}/simulations", list_simulations, "List simulations", _SIMULATORS),
    _reading(
        "/v1/programs/{id}/simulations/{job}", read_simulation, "Read a simulation", _SIMULATORS
    ),
    Endpoint(
        method="POST",
        path="/v1/programs/{id}/rerates",
        handler=start_rerate,
        summary="Preview a re-rate",
        tag="Plans",
        guard=require(*_ROLES),
        roles=_ROLES,
        body=RerateBody,
        reply=JobView,
        status=202,
        writes=True,
        errors=(Forbidden, NotFound, InvalidInput, TooManyJobs),
    ),
    _reading("/v1/programs/{id}/rerates", list_rerates, "List re-rates", _ROLES),
    _reading("/v1/programs/{id}/rerates/{job}", read_rerate, "Read a re-rate", _ROLES),
    *(
        Endpoint(
            method="POST",
            path=f"/v1/programs/{{id}}/rerates/{{job}}/{verb}",
            handler=handler,
            summary=f"{verb.capitalize()} a re-rate",
            tag="Plans",
            guard=require(*_ROLES),
            roles=_ROLES,
            reply=JobView,
            status=202,
            writes=True,
            errors=(Forbidden, NotFound, NotConfirmable),
        )
        for verb, handler in (("confirm", confirm_rerate), ("dismiss", dismiss_rerate))
    ),
)
