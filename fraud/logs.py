"""Scores a log of clicks given as JSON lines, without a database."""

import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from datetime import datetime

from fraud.rules import score_click
from kernel.errors import InvalidInput, invalid
from tracker.geo import GeoResolver

MAX_LINE_CHARS = 65_536
MAX_VISITORS = 50_000
MINUTE_SECONDS = 60
HOUR_SECONDS = 3_600
# More clicks than this of one visitor within an hour change no verdict.
_MAX_CLICKS_KEPT = 64
_MAX_KEY_CHARS = 256
_FIELDS = (
    "ip",
    "user_agent",
    "referrer",
    "accept_language",
    "sec_fetch_dest",
    "sec_fetch_mode",
    "sec_fetch_user",
    "sec_purpose",
    "program",
    "publisher",
    "sub_id",
)

Row = dict[str, str | None]


def score_lines(
    lines: Iterable[str], geo: GeoResolver, *, max_visitors: int = MAX_VISITORS
) -> Iterator[dict[str, object]]:
    """One answer for each line, in order: `{score, action, reasons}` or `{error: {...}}`.

    Repeats are counted over the `max_visitors` visitors seen last, in the order of the lines. A
    visitor is an address with its user agent on one program; a line without an address has none.
    A line that cannot be read is not counted and stops nothing.
    """
    visitors = _Visitors(max_visitors)
    for number, line in enumerate(lines, start=1):
        try:
            at, row = parse_line(line)
        except InvalidInput as refusal:
            problem = refusal.problems[0]
            yield {
                "error": {
                    "line": number,
                    "field": problem.field,
                    "reason": problem.message,
                }
            }
            continue
        ip = row.get("ip")
        minute, hour = (None, None) if not ip else visitors.count(_visitor(row), at.timestamp())
        yield score_click(
            row,
            is_hosting=geo.lookup(ip).is_hosting if ip else None,
            duplicate_clicks=minute,
            visitor_clicks_hour=hour,
        )


def parse_line(line: str) -> tuple[datetime, Row]:
    """Time and the known fields that are present. Unknown fields are ignored, null is absent.

    Raise InvalidInput naming the first field that breaks its rule; `$` is the line as a whole.
    """
    if len(line) > MAX_LINE_CHARS:
        raise invalid("$", "too_long", f"longer than {MAX_LINE_CHARS} characters")
    try:
        data = json.loads(line)
    except (ValueError, RecursionError):
        raise invalid("$", "json", "not a JSON document") from None
    if not isinstance(data, dict):
        raise invalid("$", "object", "not a JSON object")
    at = _time(data.get("at"))
    row: Row = {}
    for name in _FIELDS:
        value = data.get(name)
        if value is None:
            continue
        if not isinstance(value, str):
            raise invalid(name, "string", "must be a string")
        row[name] = value
    return at, row


def _time(value: object) -> datetime:
    if value is None:
        raise invalid("at", "required", "is required")
    try:
        at = datetime.fromisoformat(value) if isinstance(value, str) else None
        # Near the ends of the calendar a valid text has no instant.
        usable = at is not None and at.tzinfo is not None and at.timestamp() is not None
    except (ValueError, OverflowError):
        at, usable = None, False
    if at is None or not usable:
        raise invalid("at", "rfc3339", "must be an RFC 3339 time with an offset")
    return at


def _visitor(row: Row) -> tuple[str, ...]:
    # Cut, so that what is kept for each visitor has an upper bound whatever the lines hold.
    return tuple((row.get(name) or "")[:_MAX_KEY_CHARS] for name in ("ip", "user_agent", "program"))


class _Visitors:
    """Recent click times of each visitor; the visitor not seen for longest is forgotten first."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._times: OrderedDict[tuple[str, ...], list[float]] = OrderedDict()

    def count(self, visitor: tuple[str, ...], at_s: float) -> tuple[int, int]:
        """Clicks within the minute and the hour up to `at_s`, this one included."""
        known = self._times.pop(visitor, [])
        # A log merged from several machines is not quite in order, so "near" counts both ways.
        times = [seen for seen in known if abs(at_s - seen) < HOUR_SECONDS][1 - _MAX_CLICKS_KEPT :]
        times.append(at_s)
        self._times[visitor] = times
        if len(self._times) > self._most:
            self._times.popitem(last=False)
        return sum(abs(at_s - seen) < MINUTE_SECONDS for seen in times), len(times)
