"""A report as a table of texts, for CSV files: one row a group and currency, amounts exact."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any, Final

from sqlmodel import Session

from kernel.clock import to_rfc3339
from kernel.money import format_amount
from tracker import reports
from tracker.reports import Amount, Line, Named, Report

MEDIA_TYPE: Final = "text/csv; charset=utf-8"
Names = Mapping[str, Mapping[Any, Named]]
_COUNTS: Final = ("impressions", "clicks", "filtered_clicks", "unique_clicks")
_AMOUNTS: Final = ("conversions", "sales", "refunded", "commission", "epc")
_NO_AMOUNT: Final[tuple[None]] = (None,)
# A spreadsheet takes a cell that begins so for a formula, and sub-ids are anybody's text.
_FORMULA_SIGNS: Final = ("=", "+", "-", "@", "\t", "\r")


def names(session: Session, groups: Sequence[str], lines: Sequence[Line]) -> Names:
    """The programs and publishers that lines are about, by group and number."""
    return {
        group: reports.named(session, group, lines, place)
        for place, group in enumerate(groups)
        if group in reports.PARTIES
    }


def csv_of(session: Session, report: Report) -> str:
    """The whole report, a row for each group and currency.

    Visits, which all currencies share, stand in the first row of a group only, orders in the row
    of their currency, so that every column of counts may be summed.
    """
    groups = report.question.groups
    found = names(session, groups, report.lines)
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow([*groups, *_COUNTS, "currency", *_AMOUNTS])
    for line in report.lines:
        keys = [_key(group, key, found) for group, key in zip(groups, line.keys, strict=True)]
        counts: list[Any] = [getattr(line, name) for name in _COUNTS]
        for amount in [*line.amounts] or _NO_AMOUNT:
            writer.writerow([*keys, *counts, *_cells(amount)])
            counts = [0] * len(_COUNTS)
    return text.getvalue()


def _key(group: str, key: int | str, found: Names) -> str:
    if group in reports.TIMES:
        return to_rfc3339(reports.start_of(group, int(key)))
    if group in reports.PARTIES:
        named = found[group].get(key)
        return named.code if named else ""
    text = str(key)
    return f"'{text}" if text.startswith(_FORMULA_SIGNS) else text


def _cells(amount: Amount | None) -> list[str]:
    if amount is None:
        return [""] * (1 + len(_AMOUNTS))
    minors = (
        amount.sales_minor,
        amount.refunded_minor,
        amount.commission_minor,
        amount.epc_minor,
    )
    return [
        amount.currency,
        str(amount.conversions),
        *("" if minor is None else format_amount(minor, amount.currency) for minor in minors),
    ]
