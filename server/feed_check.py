"""`tallystick feeds check`: the readers and rules of the server, run over a file offline."""

from collections import Counter
from datetime import date
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from feeds import formats, rules
from feeds.formats import FeedError, FeedLimits

_PROBLEMS_SHOWN = 200


def check(file: Path, *, currency: str, domains: tuple[str, ...], today: date) -> dict[str, Any]:
    """The report: format, counts, and the first problems with row, column, rule and message."""
    report: dict[str, Any] = {
        "file": file.name,
        "format": None,
        "rows": 0,
        "taken": 0,
        "errors": 0,
        "warnings": 0,
        "rules": {},
        "problems": [],
    }
    try:
        report["format"] = formats.detect(file)
        _rows(file, report, currency=currency, domains=domains, today=today)
    except FeedError as error:
        report["errors"] += 1
        report["problems"].append({"rule": error.code, "severity": "error", "message": str(error)})
    return report


def _rows(
    file: Path, report: dict[str, Any], *, currency: str, domains: tuple[str, ...], today: date
) -> None:
    counted: Counter[str] = Counter()
    for raw in formats.read_items(file, limits=FeedLimits()):
        report["rows"] += 1
        found = rules.normalise(
            raw,
            currency=currency,
            allowed_domains=frozenset(domains or _own_domain(raw)),
            today=today,
        )
        problems = found if isinstance(found, list) else list(found.warnings)
        report["taken"] += not isinstance(found, list)
        for problem in problems:
            counted[problem.rule] += 1
            report["errors" if problem.severity == "error" else "warnings"] += 1
            if len(report["problems"]) < _PROBLEMS_SHOWN:
                report["problems"].append(
                    {
                        "row": problem.row_number,
                        "column": problem.column,
                        "rule": problem.rule,
                        "severity": problem.severity,
                        "message": problem.message,
                    }
                )
    report["rules"] = dict(counted)


def _own_domain(raw: rules.RawItem) -> set[str]:
    # Without a program there is no list of domains: each item's own host is taken as allowed.
    link = raw.values.get("link")
    try:
        host = urlsplit(link).hostname if isinstance(link, str) else None
    except ValueError:
        host = None
    return {host} if host else set()


def text(report: dict[str, Any]) -> str:
    """The report for people."""
    lines = [
        "{file}: {format}, {rows} rows, {taken} taken, {errors} errors, {warnings} warnings".format(
            **{**report, "format": report["format"] or "unknown format"}
        )
    ]
    lines.extend(
        f"  row {problem.get('row', '-')} {problem.get('column', '')} "
        f"{problem['severity']} {problem['rule']}: {problem['message']}"
        for problem in report["problems"]
    )
    return "\n".join(lines)
