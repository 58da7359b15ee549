"""Files of exchange rates as the European Central Bank publishes them. Pure.

The daily XML and the CSV of the day or of the whole history, as it is or zipped. What is not there
(`N/A`) is left out; a file that is anything else is refused as a whole.
"""

import csv
import io
import re
import zipfile
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import Final

from lxml import etree

from commissions.fx_rates import Quote
from kernel.errors import InvalidInput, TooLarge, invalid

ECB: Final = "ecb"
BASE: Final = "EUR"
BYTES_MAX: Final = 64_000_000
_ZIP_MAGIC: Final = b"PK\x03\x04"
_CODE: Final = re.compile(r"[A-Z]{3}", re.ASCII)
_ABSENT: Final = frozenset({"", "N/A"})
_DAY_FORMATS: Final = ("%Y-%m-%d", "%d %B %Y")


def read(content: bytes) -> list[Quote]:
    """The rates in a file, newest first as it has them; InvalidInput on `file`, or TooLarge."""
    if len(content) > BYTES_MAX:
        raise _too_large()
    if content.startswith(_ZIP_MAGIC):
        content = _unzipped(content)
    text = content.lstrip(b"\xef\xbb\xbf \r\n")
    quotes = list(_xml(text) if text.startswith(b"<") else _csv(text))
    if not quotes:
        raise invalid("file", "empty", "holds no rates")
    return quotes


def _too_large() -> TooLarge:
    return TooLarge(f"a file of rates has at most {BYTES_MAX} bytes", limit_bytes=BYTES_MAX)


def _unzipped(content: bytes) -> bytes:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            parts = [one for one in archive.infolist() if not one.is_dir()]
            if len(parts) != 1:
                raise invalid("file", "zip", "must hold one file")
            with archive.open(parts[0]) as file:
                found = file.read(BYTES_MAX + 1)
    except (zipfile.BadZipFile, OSError, EOFError, NotImplementedError, RuntimeError) as error:
        raise invalid("file", "zip", "is no archive that can be read") from error
    if len(found) > BYTES_MAX:
        raise _too_large()
    return found


def _xml(content: bytes) -> Iterator[Quote]:
    # Nothing outside of the document is ever fetched, and no entity is expanded.
    parser = etree.XMLParser(resolve_entities=False, no_network=True, load_dtd=False)
    try:
        root = etree.fromstring(content, parser)
    except etree.XMLSyntaxError as error:
        raise invalid("file", "xml", "is no XML that can be read") from error
    for element in root.iter("{*}Cube"):
        at = element.get("time")
        if at is not None:
            day = _day(at)
            for one in element.iterchildren("{*}Cube"):
                yield _quote(day, one.get("currency", ""), one.get("rate", ""))


def _csv(content: bytes) -> Iterator[Quote]:
    try:
        rows = csv.reader(io.StringIO(content.decode()), skipinitialspace=True, strict=True)
        header = [cell.strip() for cell in next(rows, [])]
        if not header or header[0] != "Date":
            raise invalid("file", "header", "must begin with a column Date, or be XML")
        for row in rows:
            cells = [cell.strip() for cell in row]
            if any(cells):
                yield from _row(header, cells)
    except (UnicodeDecodeError, csv.Error) as error:
        raise invalid("file", "csv", "is no CSV that can be read") from error


def _row(header: list[str], cells: list[str]) -> Iterator[Quote]:
    day = _day(cells[0])
    for code, rate in zip(header[1:], cells[1:], strict=False):
        if code and rate not in _ABSENT:
            yield _quote(day, code, rate)


def _quote(day: date, code: str, rate: str) -> Quote:
    if not _CODE.fullmatch(code):
        raise _wrong(f"{code[:10]!r} is no currency code")
    return Quote(day, BASE, code, rate)


def _day(text: str) -> date:
    for form in _DAY_FORMATS:
        try:
            return datetime.strptime(text, form).replace(tzinfo=UTC).date()
        except ValueError:
            continue
    raise _wrong(f"{text[:20]!r} is no day")


def _wrong(message: str) -> InvalidInput:
    return invalid("file", "rates", message)
