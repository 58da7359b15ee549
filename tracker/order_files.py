"""Files of orders, as shops export them: CSV in several spellings, and Excel workbooks.

Read into rows of plain text by the names that `tracker.orders` knows. Formulas are never evaluated
(their last shown value counts), and nothing is guessed about numbers: a comma is a decimal comma
only when the sender says so. The one door to openpyxl.
"""

import csv
import io
import re
import zipfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any, Final
from zoneinfo import ZoneInfo

from kernel.clock import to_rfc3339
from kernel.errors import AppError, InvalidInput, TooLarge, invalid
from tracker.order_fields import MORE_MONEY
from tracker.order_items import LINE_MONEY
from tracker.orders import ALIASES, CUSTOM_NAME, FIELDS

CSV: Final = "csv"
XLSX: Final = "xlsx"
CHANGE_COLUMNS: Final = ("refund", "refund_id", "reason", "reason_code")
_MONEY: Final = ("amount", "refund", *LINE_MONEY, *MORE_MONEY)
_DECIMALS: Final = (*_MONEY, "vat_percent")
_TIMES: Final = ("occurred_at", "cart_at")
_COLUMNS: Final = frozenset({*FIELDS, *CHANGE_COLUMNS}) - {"items", "custom"}
_HEADERS: Final[Mapping[str, str]] = {
    **ALIASES,
    "order_number": "order_id",
    "order_no": "order_id",
    "order_reference": "order_id",
    "click": "click_id",
    "order_amount": "amount",
    "sale_amount": "amount",
    "currency_code": "currency",
    "country_code": "country",
    "date": "occurred_at",
    "order_date": "occurred_at",
    "refund_amount": "refund",
}
_DELIMITERS: Final = (",", ";", "\t", "|")
_COLUMNS_MAX: Final = 200
_DECIMAL_COMMA: Final = re.compile(r"[0-9]+(?:,[0-9]+)?", re.ASCII)
_ZIP_MAGIC: Final = b"PK\x03\x04"
_PARTS_MAX: Final = 1_000
_DOCTYPE_BYTES: Final = 1_024
_XLSX_ERRORS: Final = (
    zipfile.BadZipFile,
    KeyError,
    ValueError,
    TypeError,
    AttributeError,
    IndexError,
    EOFError,
    OSError,
    NotImplementedError,
    RuntimeError,
    # What both of its XML parsers call their errors.
    SyntaxError,
)


class TooManyFileRows(TooLarge):
    """A file has more rows than `upload_rows_max`; nothing of it was taken in."""

    code = "too_many_file_rows"


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """How a file is read: its decimal mark, the zone of times without one, and its limits."""

    decimal: str = "."
    zone: str = "UTC"
    rows_max: int
    decoded_bytes_max: int


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderFile:
    """A file that was read: rows as (number in the file, values by name), the header is row 1."""

    format: str
    rows: list[tuple[int, dict[str, Any]]]
    unused_columns: list[str]


def read(content: bytes, reading: Reading) -> OrderFile:
    """The rows of a file. InvalidInput on `file` when it cannot be read as a whole, TooLarge."""
    if content.startswith(_ZIP_MAGIC):
        return _collect(XLSX, _xlsx_rows(content, reading), reading)
    return _collect(CSV, _csv_rows(content), reading)


def _collect(kind: str, lines: Iterable[Sequence[Any]], reading: Reading) -> OrderFile:
    zone = ZoneInfo(reading.zone)
    numbered = enumerate(lines, start=1)
    header = next((cells for _, cells in numbered if any(_is_there(cell) for cell in cells)), None)
    if header is None:
        raise invalid("file", "empty", "holds no rows")
    names, unused = _names(header)
    rows: list[tuple[int, dict[str, Any]]] = []
    for number, cells in numbered:
        values = _values(names, cells, decimal=reading.decimal, zone=zone)
        if not values:
            continue
        if len(rows) >= reading.rows_max:
            raise TooManyFileRows(
                f"a file has at most {reading.rows_max} rows",
                limit="upload_rows_max",
                limit_rows=reading.rows_max,
            )
        rows.append((number, values))
    if not rows:
        raise invalid("file", "empty", "holds no rows below its header")
    return OrderFile(format=kind, rows=rows, unused_columns=unused)


def _names(header: Sequence[Any]) -> tuple[list[str], list[str]]:
    """The field of each column (empty: none of ours), and the columns that are not used."""
    used = max((at for at, cell in enumerate(header, start=1) if _is_there(cell)), default=0)
    if used > _COLUMNS_MAX:
        raise invalid("file", "columns", f"must have at most {_COLUMNS_MAX} columns")
    names: list[str] = []
    unused: list[str] = []
    for cell in header[:used]:
        shown = str(cell).strip() if cell is not None else ""
        name = _name(shown)
        if not name and shown:
            unused.append(shown[:64])
        if name and name in names:
            raise invalid("file", "repeated", f"has two columns for {name}")
        names.append(name)
    if "order_id" not in names:
        raise invalid("file", "header", "needs a header row with a column order_id")
    return names, unused


def _name(shown: str) -> str:
    if CUSTOM_NAME.fullmatch(shown):
        return shown
    plain = re.sub(r"[\s\-]+", "_", shown.lower())
    found = _HEADERS.get(plain, plain)
    return found if found in _COLUMNS else ""


def _values(
    names: Sequence[str], cells: Sequence[Any], *, decimal: str, zone: ZoneInfo
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    custom: dict[str, str] = {}
    for name, cell in zip(names, cells, strict=False):
        if not name or not _is_there(cell):
            continue
        value = _text(cell, zone)
        named = CUSTOM_NAME.fullmatch(name)
        if named is not None:
            custom[named[1]] = value
        elif name in _DECIMALS and decimal == "," and _DECIMAL_COMMA.fullmatch(value):
            values[name] = value.replace(",", ".")
        elif name in _TIMES:
            values[name] = _time_text(value, zone)
        else:
            values[name] = value
    if custom:
        values["custom"] = custom
    return values


def _is_there(cell: Any) -> bool:
    return cell is not None and str(cell).strip() != ""


def _text(cell: Any, zone: ZoneInfo) -> str:
    """A cell as text: a number without an exponent, a date as an instant of the zone."""
    if isinstance(cell, bool):
        return "1" if cell else "0"
    if isinstance(cell, float):
        # The shortest decimal that is this number: what the sheet shows, and never rounded.
        shown = format(Decimal(repr(cell)), "f")
        return shown.removesuffix(".0")
    if isinstance(cell, datetime):
        return to_rfc3339(_instant(cell, zone))
    if isinstance(cell, date):
        return to_rfc3339(_instant(datetime.combine(cell, time()), zone))
    return str(cell).strip()


def _time_text(value: str, zone: ZoneInfo) -> str:
    """A time without an offset is one of the zone; anything else is left for its own check."""
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        return value
    return value if found.tzinfo is not None else to_rfc3339(_instant(found, zone))


def _instant(local: datetime, zone: ZoneInfo) -> datetime:
    try:
        return local.replace(tzinfo=zone).astimezone(UTC)
    except OverflowError:
        return local.replace(tzinfo=UTC)


def _csv_rows(content: bytes) -> Iterator[list[str]]:
    text = _decoded(content)
    if "\0" in text:
        raise invalid("file", "encoding", "is neither text nor an Excel workbook (.xlsx)")
    first = next((line for line in text.splitlines() if line.strip()), "")
    delimiter = max(_DELIMITERS, key=first.count)
    try:
        yield from csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    except csv.Error as error:
        raise invalid("file", "csv", f"is no CSV that can be read ({error})") from error


def _decoded(content: bytes) -> str:
    """UTF-8 or UTF-16 by its mark or its shape, else what Windows wrote before them."""
    tries = ["utf-8-sig", "cp1252"]
    if content[:2] in {b"\xff\xfe", b"\xfe\xff"}:
        tries = ["utf-16"]
    elif content[1:2] == b"\0":
        tries = ["utf-16-le"]
    elif content[:1] == b"\0":
        tries = ["utf-16-be"]
    for encoding in tries:
        try:
            return content.decode(encoding)
        except UnicodeDecodeError:
            continue
    raise invalid("file", "encoding", "must be UTF-8, UTF-16 or windows-1252 text")


def _xlsx_rows(content: bytes, reading: Reading) -> Iterator[Sequence[Any]]:
    # Nearly 10 MB in every serving process, most of which never see a workbook.
    import openpyxl  # noqa: PLC0415

    try:
        _check_archive(content, reading)
        book = openpyxl.load_workbook(
            io.BytesIO(content), read_only=True, data_only=True, keep_links=False
        )
        sheet = book.worksheets[0]
        # The size a sheet claims for itself is often wrong; its rows are not.
        sheet.reset_dimensions()
        yield from sheet.iter_rows(values_only=True, max_col=_COLUMNS_MAX + 1)
    except AppError:
        raise
    except _XLSX_ERRORS as error:
        raise _unreadable() from error


def _unreadable() -> InvalidInput:
    return invalid("file", "xlsx", "is no Excel workbook that can be read")


def _check_archive(content: bytes, reading: Reading) -> None:
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        parts = archive.infolist()
        size = sum(part.file_size for part in parts)
        if len(parts) > _PARTS_MAX or size > reading.decoded_bytes_max:
            raise TooLarge(
                f"the workbook unpacks to more than {reading.decoded_bytes_max} bytes",
                limit="upload_decoded_bytes_max",
                limit_bytes=reading.decoded_bytes_max,
            )
        for part in parts:
            # No workbook has a document type; what has one is after the parser.
            if part.filename.endswith((".xml", ".rels")):
                with archive.open(part) as file:
                    if b"<!DOCTYPE" in file.read(_DOCTYPE_BYTES).replace(b"\0", b""):
                        raise _unreadable()
