"""Plans of a program: check a draft, publish the next version, see them all, promise notice."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.responses import JSONResponse

from commissions import notices, plans
from commissions.models import PlanVersion
from commissions.plan_comparison import Finding
from commissions.plan_models import PlanWaiver
from commissions.plans import Draft, NoticeTooShort
from kernel import pages
from kernel.errors import FieldProblem, Forbidden, InvalidInput, NotFound, TooLarge
from kernel.http import Call, Endpoint
from network.access import require
from network.models import Program, Role
from partner_api import lookups
from partner_api.schemas import (
    Instant,
    PageQuery,
    Time,
    after_number,
    cut,
    path_id,
    rows_wanted,
)

_ROLES = (Role.ADVERTISER, Role.MANAGER)
_VERSION_MAX = 2**31


class PlanBody(BaseModel):
    """A plan document and from when on it holds."""

    model_config = ConfigDict(extra="forbid")

    document: dict[str, Any]
    effective_from: Instant | None = Field(
        None, description="Now when left out. Only managers may name a time that has passed."
    )
    dry_run: bool = Field(
        default=False, description="Check it and compare it with what is in force; publish nothing."
    )
    notice_waiver: str | None = Field(
        None,
        description="Why rates fall sooner than promised; publishers read it. Managers only.",
    )


class ProblemView(BaseModel):
    """What is wrong, by its path in the document."""

    field: str
    rule: str
    message: str


class FindingView(BaseModel):
    """What becomes of the orders that the rule `before` paid and the rule `after` would pay.

    `where` is an example: what such an order line has of the values that either plan names. A
    `path` stands for a part of the plan instead of a pair of rules. `reason` says why it counts as
    `lowered`; what cannot be proved to be at least as much does.
    """

    verdict: str
    before: str | None
    after: str | None
    where: dict[str, str]
    path: str
    reason: str


class DraftView(BaseModel):
    """A draft that was checked. Nothing was published.

    It would be in force in [`effective_from`, `effective_to`), where now version `replaces` is.
    Where `too_soon` has an entry, it could be published from `earliest_at` on, or with a waiver.
    """

    publishable: bool
    problems: list[ProblemView]
    warnings: list[ProblemView]
    effective_from: Time
    effective_to: Time | None
    replaces: int | None
    changes: list[FindingView]
    too_soon: list[FindingView]
    notice_days: int
    earliest_at: Time


class WaiverView(BaseModel):
    """That a version lowered rates before its program's notice period had run out, and why."""

    reason: str
    earliest_at: Time


class PlanVersionView(BaseModel):
    """A published version, in force for orders in [`effective_from`, `effective_to`).

    One that another version with the same start took the place of ends where it begins.
    """

    id: str
    program_id: str
    version: int
    effective_from: Time
    effective_to: Time | None
    published_at: Time
    content_hash: str
    notice_waived: WaiverView | None
    document: dict[str, Any]


class PlanVersionPage(BaseModel):
    """Versions, newest first."""

    data: list[PlanVersionView]
    next_cursor: str | None


class NoticeBody(BaseModel):
    """The notice period of a program."""

    model_config = ConfigDict(extra="forbid")

    notice_days: int = Field(description="0 to 366 days before lower rates may begin.")


class NoticeView(BaseModel):
    """The notice period in force. A shorter one begins when the longer one before has run out."""

    program_id: str
    notice_days: int
    earliest_at: Time


def publish_plan(call: Call) -> PlanVersionView | JSONResponse:
    """Publish the next version of a program's plan, or check it only.

    Orders keep the version that was in force when they were booked. A version that could pay
    anybody less, sooner than the notice period allows, is refused with the rules and the earliest
    date.
    """
    program = _program(call)
    body: PlanBody = call.body
    if body.notice_waiver and not call.actor.is_manager:
        raise Forbidden("only a manager may waive the notice period")
    if body.dry_run:
        return JSONResponse(_checked(call, program, body).model_dump(mode="json"))
    version = plans.publish(
        call.session,
        program_id=program.id,
        document=body.document,
        effective_from=body.effective_from or call.now,
        actor=str(call.actor),
        now=call.now,
        allow_past=call.actor.is_manager,
        waiver=body.notice_waiver or "",
    )
    return view(call, version)


def check_plan(call: Call) -> DraftView:
    """Check a draft, compare it with the version whose place it would take, and publish nothing."""
    return _checked(call, _program(call), call.body)


def list_plans(call: Call) -> PlanVersionPage:
    """Every version of a program's plan, newest first."""
    program = _program(call)
    limit = rows_wanted(call)
    found = plans.versions(
        call.session, program.id, before_version=after_number(call) or None, limit=limit + 1
    )
    shown, last = cut(found, limit)
    return PlanVersionPage(
        data=[view(call, one) for one in shown],
        next_cursor=pages.encode(last.version) if last else None,
    )


def read_plan(call: Call) -> PlanVersionView:
    """One version of a program's plan, as published."""
    number = path_id(call, "version")
    if not (number.isascii() and number.isdigit() and int(number) < _VERSION_MAX):
        raise NotFound("no such plan version", kind="plan_version")
    return view(call, plans.get(call.session, _program(call).id, int(number)))


def set_notice(call: Call) -> NoticeView:
    """Promise how many days ahead lower rates are published, from now on."""
    program = _program(call)
    notices.set_days(
        call.session,
        program.id,
        call.body.notice_days,
        actor=str(call.actor),
        now=call.now,
    )
    return _notice(call, program)


def read_notice(call: Call) -> NoticeView:
    """The notice period of a program."""
    return _notice(call, _program(call))


def waiver_view(waiver: PlanWaiver | None) -> WaiverView | None:
    """A waiver as answers show it."""
    if waiver is None:
        return None
    return WaiverView(reason=waiver.reason, earliest_at=waiver.earliest_at)


def view(call: Call, version: PlanVersion) -> PlanVersionView:
    """A version with the end of its interval."""
    following = plans.next_after(call.session, version.program_id, version)
    replaced = plans.version_at(call.session, version.program_id, version.effective_from)
    never = replaced is not None and replaced.id != version.id
    ends = following.effective_from if following else None
    return PlanVersionView(
        id=version.id,
        program_id=version.program_id,
        version=version.version,
        effective_from=version.effective_from,
        effective_to=version.effective_from if never else ends,
        published_at=version.published_at,
        content_hash=version.content_hash,
        notice_waived=waiver_view(notices.waivers(call.session, [version.id]).get(version.id)),
        document=version.document,
    )


def _program(call: Call) -> Program:
    return lookups.visible_program(call.session, call.actor, path_id(call, "id"))


def _notice(call: Call, program: Program) -> NoticeView:
    return NoticeView(
        program_id=program.id,
        notice_days=notices.days_at(call.session, program.id, call.now),
        earliest_at=notices.earliest(call.session, program.id, call.now),
    )


def _checked(call: Call, program: Program, body: PlanBody) -> DraftView:
    draft = plans.check(
        call.session,
        program_id=program.id,
        document=body.document,
        effective_from=body.effective_from or call.now,
        now=call.now,
        allow_past=call.actor.is_manager,
    )
    days = notices.days_at(call.session, program.id, call.now)
    return _draft_view(draft, days)


def _draft_view(draft: Draft, notice_days: int) -> DraftView:
    return DraftView(
        publishable=draft.is_publishable,
        problems=[_problem(one) for one in draft.problems],
        warnings=[_problem(one) for one in draft.warnings],
        effective_from=draft.effective_from,
        effective_to=draft.ends,
        replaces=draft.replaced.version if draft.replaced else None,
        changes=[_finding(one) for one in draft.findings],
        too_soon=[_finding(one) for one in draft.too_soon],
        notice_days=notice_days,
        earliest_at=draft.earliest_at,
    )


def _problem(one: FieldProblem) -> ProblemView:
    return ProblemView(field=one.field, rule=one.rule, message=one.message)


def _finding(one: Finding) -> FindingView:
    return FindingView.model_validate(notices.as_json(one))


ENDPOINTS = (
    Endpoint(
        method="POST",
        path="/v1/programs/{id}/plans",
        handler=publish_plan,
        summary="Publish a plan",
        tag="Plans",
        guard=require(*_ROLES),
        roles=_ROLES,
        body=PlanBody,
        reply=PlanVersionView,
        status=201,
        writes=True,
        errors=(Forbidden, NotFound, InvalidInput, NoticeTooShort, TooLarge),
    ),
    Endpoint(
        method="POST",
        path="/v1/programs/{id}/plans/check",
        handler=check_plan,
        summary="Check a plan",
        tag="Plans",
        guard=require(*_ROLES),
        roles=_ROLES,
        body=PlanBody,
        reply=DraftView,
        errors=(Forbidden, NotFound, TooLarge),
    ),
    Endpoint(
        method="GET",
        path="/v1/programs/{id}/plans",
        handler=list_plans,
        summary="List versions of a plan",
        tag="Plans",
        guard=require(*_ROLES),
        roles=_ROLES,
        query=PageQuery,
        reply=PlanVersionPage,
        errors=(Forbidden, NotFound),
    ),
    Endpoint(
        method="GET",
        path="/v1/programs/{id}/plans/{version}",
        handler=read_plan,
        summary="Read a version of a plan",
        tag="Plans",
        guard=require(*_ROLES),
        roles=_ROLES,
        reply=PlanVersionView,
        errors=(Forbidden, NotFound),
    ),
    Endpoint(
        method="GET",
        path="/v1/programs/{id}/plan-notice",
        handler=read_notice,
        summary="Read the notice period of plans",
        tag="Plans",
        guard=require(*_ROLES),
        roles=_ROLES,
        reply=NoticeView,
        errors=(Forbidden, NotFound),
    ),
    Endpoint(
        method="PUT",
        path="/v1/programs/{id}/plan-notice",
        handler=set_notice,
        summary="Set the notice period of plans",
        tag="Plans",
        guard=require(Role.MANAGER),
        roles=(Role.MANAGER,),
        body=NoticeBody,
        reply=NoticeView,
        writes=True,
        errors=(Forbidden, NotFound, InvalidInput),
    ),
)
