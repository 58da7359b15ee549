"""Reading what a browser sends: small, flat, UTF-8, and nothing else."""

from datetime import UTC, date, datetime, time, timedelta
from urllib.parse import parse_qsl
from zoneinfo import ZoneInfo

from starlette.requests import Request

from kernel import http
from kernel.errors import TooLarge, invalid
from kernel.money import MoneyError, parse_amount
from tracker import http_uploads

FORM_BYTES_MAX = 64 * 1024
_FIELDS_MAX = 50


async def read(request: Request) -> dict[str, str]:
    """The fields of an urlencoded form; a field sent twice keeps its last value."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > FORM_BYTES_MAX:
            raise TooLarge(f"a form holds at most {FORM_BYTES_MAX} bytes")
        chunks.append(chunk)
    try:
        pairs = parse_qsl(
            b"".join(chunks).decode("utf-8"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_FIELDS_MAX,
        )
    except ValueError as error:
        raise invalid("body", "form", "is not a form this server reads") from error
    return dict(pairs)


async def read_with_file(request: Request) -> dict[str, str]:
    """The fields of a multipart form; `file_of` has the file in its field `file`."""
    raw = await http.read_body(request)
    fields, content, name = await http_uploads.read_form(request, raw)
    request.state.form_file = (content or b"", name)
    return fields


def file_of(request: Request) -> tuple[bytes, str]:
    """The file that came with a form, and its name; empty when none did."""
    found: tuple[bytes, str] = request.state.form_file
    return found


def text(form: dict[str, str], name: str) -> str:
    """A field without the blanks around it; the function it is passed to knows its rules."""
    return form.get(name, "").strip()


def minor(form: dict[str, str], name: str) -> int:
    """A whole number of minor units; empty means 0."""
    given = text(form, name) or "0"
    try:
        # A currency without decimals: the field asks for minor units of every currency alike.
        return parse_amount(given, "JPY")
    except MoneyError as error:
        raise invalid(
            name, "integer", "must be a whole number of minor units, 0 or more"
        ) from error


def day(query: dict[str, str], name: str) -> date | None:
    """A date such as 2026-03-10, or None when it is left out."""
    given = text(query, name)
    if not given:
        return None
    try:
        return date.fromisoformat(given)
    except ValueError as error:
        raise invalid(name, "date", "must be a date such as 2026-03-10") from error


def start_of(at: date | None, *, zone: str = "UTC", days_later: int = 0) -> datetime | None:
    """The instant at which the day (or a later one) begins in the zone, in UTC."""
    if at is None:
        return None
    try:
        local = datetime.combine(at + timedelta(days=days_later), time(), tzinfo=ZoneInfo(zone))
        return local.astimezone(UTC)
    except OverflowError as error:
        raise invalid("date", "range", "is not a date this server can use") from error


def instant(form: dict[str, str], name: str, *, zone: str) -> datetime | None:
    """A day and time such as 2026-03-10T09:30 in the zone, in UTC, or None when it is left out."""
    given = text(form, name)
    if not given:
        return None
    try:
        local = datetime.fromisoformat(given)
        if local.tzinfo is None:
            local = local.replace(tzinfo=ZoneInfo(zone))
        return local.astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise invalid(name, "date", "must be a date and time such as 2026-03-10T09:30") from error


def choice(query: dict[str, str], name: str, allowed: frozenset[str]) -> str | None:
    """One of the allowed values, or None when it is left out."""
    given = text(query, name)
    if not given:
        return None
    if given not in allowed:
        raise invalid(name, "choice", "is not one of the values on offer")
    return given
