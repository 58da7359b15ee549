"""The performance report: clicks, orders and earnings from roll-ups, as JSON pages or one CSV."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, Field, StringConstraints
from starlette.responses import Response

from kernel import pages
from kernel.errors import Forbidden, NotFound, invalid
from kernel.http import Call, Endpoint
from network.access import require
from network.models import Role
from partner_api import lookups
from partner_api.schemas import (
    Instant,
    MoneyAmount,
    OneOf,
    PageQuery,
    ProgramRef,
    PublisherRef,
    Text,
    Time,
    cut,
    rows_wanted,
)
from tracker import report_tables, reports
from tracker.reports import Amount, Line, Question, ReportTooLarge

_EVERYONE = (Role.PUBLISHER, Role.ADVERTISER, Role.MANAGER)
_DAYS_DEFAULT = 30
_NUMBER_GROUPS = frozenset((*reports.TIMES, *reports.PARTIES))
_COUNTS = ("impressions", "clicks", "filtered_clicks", "unique_clicks", "conversions")


def _groups(text: str) -> str:
    return text.replace(" ", "")


class PerformanceQuery(PageQuery):
    """What is added up, and how it is grouped. All times are UTC."""

    group_by: Annotated[str, StringConstraints(max_length=64), AfterValidator(_groups)] = Field(
        "day",
        description="One or two of hour, day, week, month, program, publisher, link, country, "
        "device, s1 to s5, reason, with a comma between; at most one time and one value.",
    )
    reported_from: Instant | None = Field(
        None, alias="from", description="Not before this; 30 days ago unless given."
    )
    reported_to: Instant | None = Field(
        None, alias="to", description="Before this; the end of today unless given."
    )
    program: Text | None = Field(None, description="Code or id of a program.")
    publisher: Text | None = Field(None, description="Code or id of a publisher.")
    format: Annotated[str, OneOf(("json", "csv"))] | None = Field(
        None, description="`csv` for the whole report as a table; or ask with `Accept: text/csv`."
    )


class AmountsView(BaseModel):
    """One currency of a row: its orders, what they brought, and what is booked in it.

    `epc` is what 100 clicks earned, null without clicks. It is divided by `clicks`: those on
    programs that pay in this currency.
    """

    currency: str
    clicks: int
    conversions: int
    sales: MoneyAmount
    refunded: MoneyAmount
    commission: MoneyAmount
    epc: MoneyAmount | None


class PerformanceTotal(BaseModel):
    """Sums of the whole report, on every page of it.

    The counts are of all currencies; those of one, beside its money, stand in `amounts`.
    """

    impressions: int
    clicks: int
    filtered_clicks: int
    unique_clicks: int
    conversions: int
    amounts: list[AmountsView]


class PerformanceRow(PerformanceTotal):
    """One group. Of the fields that name it, those that are grouped by are there.

    `period` is when the hour, day, week or month begins; `value` is a link's code, a country, a
    device, a sub-id or a reason: empty where there is none, `(more)` past the limit of a day.
    """

    period: Time | None = None
    program: ProgramRef | None = None
    publisher: PublisherRef | None = None
    value: str | None = None


class PerformanceReply(BaseModel):
    """Rows in order of their groups. Sums of different currencies are never added."""

    group_by: list[str]
    data: list[PerformanceRow]
    total: PerformanceTotal
    next_cursor: str | None


def read_performance(call: Call) -> PerformanceReply | Response:
    """Clicks, orders and earnings by time, party or one thing about the click."""
    report = reports.run(
        call.session,
        call.actor,
        _question(call),
        rows_max=call.context.settings.report_rows_max,
    )
    groups = report.question.groups
    accepts = call.request.headers.get("accept", "")
    if (call.query.format or ("csv" if accepts.startswith("text/csv") else "json")) == "csv":
        return Response(
            report_tables.csv_of(call.session, report), media_type=report_tables.MEDIA_TYPE
        )
    limit = rows_wanted(call)
    after = _after(call, groups)
    rest = [line for line in report.lines if after is None or line.keys > after]
    shown, last = cut(rest, limit)
    names = report_tables.names(call.session, groups, shown)
    return PerformanceReply(
        group_by=list(groups),
        data=[_row(line, groups, names) for line in shown],
        total=PerformanceTotal(**_sums(report.total)),
        next_cursor=pages.encode(*last.keys) if last is not None else None,
    )


def _question(call: Call) -> Question:
    query, session, actor = call.query, call.session, call.actor
    start, end = reports.last_days(call.now, _DAYS_DEFAULT)
    program = lookups.visible_program(session, actor, query.program) if query.program else None
    publisher = (
        lookups.visible_publisher(session, actor, query.publisher) if query.publisher else None
    )
    question = Question(
        groups=reports.parse_groups(query.group_by, role=actor.role),
        start=query.reported_from or start,
        end=query.reported_to or end,
        program_id=program.id if program else None,
        publisher_id=publisher.id if publisher else None,
    )
    reports.check_span(question, hours_days=call.context.settings.rollup_hours_days, now=call.now)
    return question


def _after(call: Call, groups: Sequence[str]) -> reports.Key | None:
    if call.query.cursor is None:
        return None
    kinds = [int if group in _NUMBER_GROUPS else str for group in groups]
    position = pages.decode(call.query.cursor, *kinds)
    if any(isinstance(part, int) and part < 0 for part in position):
        raise invalid("cursor", "cursor", "is not a cursor that this list gave out")
    return tuple(position)


def _row(line: Line, groups: Sequence[str], named: report_tables.Names) -> PerformanceRow:
    facts: dict[str, Any] = {}
    for group, key in zip(groups, line.keys, strict=True):
        if group in reports.TIMES:
            facts["period"] = reports.start_of(group, int(key))
        elif group in reports.PARTIES:
            who = named[group].get(key)
            facts[group] = {"id": who.id, "code": who.code} if who else None
        else:
            facts["value"] = key
    return PerformanceRow(**facts, **_sums(line))


def _sums(line: Line) -> dict[str, Any]:
    counts = {name: getattr(line, name) for name in _COUNTS}
    return {**counts, "amounts": [_amounts(one) for one in line.amounts]}


def _amounts(one: Amount) -> AmountsView:
    def money(minor: int) -> MoneyAmount:
        return MoneyAmount(minor=minor, currency=one.currency)

    epc = one.epc_minor
    return AmountsView(
        currency=one.currency,
        clicks=one.clicks,
        conversions=one.conversions,
        sales=money(one.sales_minor),
        refunded=money(one.refunded_minor),
        commission=money(one.commission_minor),
        epc=money(epc) if epc is not None else None,
    )


ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/reports/performance",
        handler=read_performance,
        summary="Read a performance report",
        tag="Reports",
        guard=require(*_EVERYONE),
        roles=_EVERYONE,
        query=PerformanceQuery,
        reply=PerformanceReply,
        errors=(Forbidden, NotFound, ReportTooLarge),
    ),
)
