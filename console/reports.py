"""The report page: what links brought, by a grouping and a span of days of the reader's choice."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from starlette.responses import Response

from console import charts, forms, reads
from console.pages import View, Visit
from console.rendering import SECURITY_HEADERS
from kernel.errors import NotFound
from network.access import Actor
from network.models import Role
from tracker import report_tables, reports
from tracker.reports import Amount, Line, Question, Report
from tracker.rollups import SUB_IDS

ROWS_SHOWN: Final = 200
PRESETS: Final = (1, 7, 30, 90, 365)
_DAYS_DEFAULT: Final = 30
_KEPT: Final = ("by", "then", "program", "publisher", "days", "from", "to", "currency")
_TIME_FORMATS: Final = {"hour": "%m-%d %H:00", "day": "%m-%d", "week": "%m-%d", "month": "%Y-%m"}


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: what it is about, its counts, its amounts in the currency shown."""

    cells: tuple[str, ...]
    line: Line
    amount: Amount


def _groups(actor: Actor) -> list[str]:
    hidden = SUB_IDS if actor.role is Role.ADVERTISER else ()
    return [group for group in reports.GROUPS if group not in hidden]


def _question(visit: Visit) -> Question:
    query, actor = visit.query, visit.actor
    groups = [query.get("by") or "day", query.get("then") or ""]
    start, end = _span(visit)
    question = Question(
        groups=reports.parse_groups(",".join(filter(None, groups)), role=actor.role),
        start=start,
        end=end,
        program_id=_own(query.get("program"), reads.programs(visit.session, actor)),
        publisher_id=_own(query.get("publisher"), reads.publishers(visit.session, actor)),
    )
    hours_days = visit.context.settings.rollup_hours_days
    reports.check_span(question, hours_days=hours_days, now=visit.now)
    return question


def _own(wanted: str | None, choices: Sequence[Any]) -> str | None:
    if not wanted:
        return None
    if wanted not in {one.id for one in choices}:
        raise NotFound("no such program or publisher")
    return wanted


def _span(visit: Visit) -> tuple[datetime, datetime]:
    """Whole UTC days: two dates, the last one included, or so many days up to today."""
    first = forms.start_of(forms.day(visit.query, "from"))
    last = forms.start_of(forms.day(visit.query, "to"), days_later=1)
    days = visit.query.get("days", "")
    count = int(days) if days in map(str, PRESETS) else _DAYS_DEFAULT
    start, end = reports.last_days(visit.now, count)
    if last is not None:
        start, end = last - timedelta(days=count), last
    return first or start, end


def _show(visit: Visit) -> Response:
    question = _question(visit)
    report = reports.run(
        visit.session,
        visit.actor,
        question,
        rows_max=visit.context.settings.report_rows_max,
    )
    currencies = [amount.currency for amount in report.total.amounts]
    currency = visit.query.get("currency", "")
    if currency not in currencies:
        currency = _busiest(report.total.amounts)
    kept = {name: visit.query[name] for name in _KEPT if visit.query.get(name)}
    found = _rows(visit, report, currency)
    return visit.page(
        "reports.html",
        groups=_groups(visit.actor),
        question=question,
        last_day=question.end - timedelta(days=1),
        kept=kept,
        presets=[(days, _url(kept | {"days": str(days)}, "from", "to")) for days in PRESETS],
        days=(question.end - question.start).days,
        currency=currency,
        currencies=[(code, _url(kept | {"currency": code})) for code in currencies],
        total=report.total,
        amount=report.total.by_currency.get(currency, Amount(currency)),
        rows=found[:ROWS_SHOWN],
        rows_hidden=len(found) - ROWS_SHOWN,
        charts=_charts(report, currency),
        csv_url=f"/reports.csv?{urlencode(kept)}",
        program_choices=reads.programs(visit.session, visit.actor),
        publisher_choices=reads.publishers(visit.session, visit.actor),
    )


def _busiest(amounts: Sequence[Amount]) -> str:
    """The currency with most orders; the first of equals."""
    return max(amounts, key=lambda one: one.conversions).currency if amounts else ""


def _url(query: dict[str, str], *without: str) -> str:
    return f"/reports?{urlencode({k: v for k, v in query.items() if k not in without})}"


def _rows(visit: Visit, report: Report, currency: str) -> list[Row]:
    groups = report.question.groups
    names = report_tables.names(visit.session, groups, report.lines)

    def in_it(line: Line) -> Amount:
        return line.by_currency.get(currency, Amount(currency))

    lines = list(report.lines)
    if groups[0] not in reports.TIMES:
        lines.sort(key=lambda line: (-line.clicks, -in_it(line).conversions, line.keys))
    return [
        Row(
            cells=tuple(
                _cell(visit, group, key, names)
                for group, key in zip(groups, line.keys, strict=True)
            ),
            line=line,
            amount=in_it(line),
        )
        for line in lines
    ]


def _cell(visit: Visit, group: str, key: int | str, names: report_tables.Names) -> str:
    if group in reports.TIMES:
        pattern = {"hour": "%Y-%m-%d %H:00", "month": "%Y-%m"}.get(group, "%Y-%m-%d")
        return reports.start_of(group, int(key)).strftime(pattern)
    if group in reports.PARTIES:
        named = names[group].get(key)
        return named.name if named else visit.gettext("Nobody")
    return str(key) or visit.gettext("None given")


@dataclass(frozen=True, slots=True)
class Charts:
    """The pictures above the table: columns over time, or the strongest rows side by side."""

    clicks: charts.BarChart
    commission: charts.BarChart | None


def _charts(report: Report, currency: str) -> Charts | None:
    """Over the first grouping when it is a time; an hour without anything is a 0."""
    group = report.question.groups[0]
    if group not in reports.TIMES or not report.lines:
        return None
    clicks: dict[int | str, int] = {}
    commission: dict[int | str, int] = {}
    for line in report.lines:
        key = line.keys[0]
        clicks[key] = clicks.get(key, 0) + line.clicks
        amount = line.by_currency.get(currency)
        commission[key] = commission.get(key, 0) + (amount.commission_minor if amount else 0)
    stretches = list(_stretches(report.question, group))

    def drawn(values: dict[int | str, int], unit: str) -> charts.BarChart:
        return charts.columns(
            [(text, label, values.get(key, 0)) for key, text, label in stretches], currency=unit
        )

    return Charts(
        clicks=drawn(clicks, charts.COUNT),
        commission=drawn(commission, currency) if currency else None,
    )


def _stretches(question: Question, group: str) -> Iterator[tuple[int, str, str]]:
    """(key, what it is called, label on the axis) of each hour, day, week or month of the span."""
    seen: set[int] = set()
    at = question.start
    while at < question.end:
        key = reports.key_of(group, at)
        if key not in seen:
            seen.add(key)
            begins = reports.start_of(group, key)
            label = begins.strftime(_TIME_FORMATS[group])
            yield key, begins.strftime("%Y-%m-%d %H:00" if group == "hour" else "%Y-%m-%d"), label
        at += timedelta(hours=1) if group == "hour" else timedelta(days=1)


def _csv(visit: Visit) -> Response:
    question = _question(visit)
    report = reports.run(
        visit.session,
        visit.actor,
        question,
        rows_max=visit.context.settings.report_rows_max,
    )
    name = f"tallystick-{'-'.join(question.groups)}-{question.start:%Y-%m-%d}.csv"
    return Response(
        report_tables.csv_of(visit.session, report),
        media_type=report_tables.MEDIA_TYPE,
        headers={**SECURITY_HEADERS, "Content-Disposition": f'attachment; filename="{name}"'},
    )


VIEWS = (
    View(method="GET", path="/reports", handler=_show),
    View(method="GET", path="/reports.csv", handler=_csv),
)
