"""Feed files to rows, streaming: memory stays the size of one row, whatever the file.

Read are Google Merchant tables (TSV, CSV) and RSS 2.0 with the `g:` namespace, plain or gzip. A
fault inside a row becomes a problem of that row. A fault after which rows may be missing is a
FeedError, and the importer must not take what came before it for the whole feed.
"""

import csv
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final, Literal

from lxml import etree

from feeds.rules import Problem, RawItem, RawValue
from kernel.outbound import BoundedGunzip, OutboundRefused

Format = Literal["google_tsv", "google_csv", "google_rss"]

_GOOGLE: Final = "http://base.google.com/ns/1.0"
_HEAD_BYTES: Final = 65_536
_GZIP_MAGIC: Final = b"\x1f\x8b"
_DELIMITERS: Final = {"google_tsv": "\t", "google_csv": ","}
# A table is one of ours if its header names the item and at least one of these.
_TELLTALE: Final = frozenset({"title", "link", "price", "availability"})
# Python's csv reader stops at this length by itself; it is for the whole process, so it is kept.
_CSV_CELL_CHARS_MAX: Final = 131_072
_BOMS: Final = ((b"\xef\xbb\xbf", "utf-8-sig"), (b"\xff\xfe", "utf-16"), (b"\xfe\xff", "utf-16"))
_XML_ENCODINGS: Final = re.compile(
    r"(?:utf-?(?:8|16|16le|16be)|us-ascii|iso-8859-\d{1,2}|windows-125[0-8])", re.IGNORECASE
)
_XML_ENCODING: Final = re.compile(r"<\?xml[^>]*?encoding\s*=\s*[\"']([^\"']*)[\"']")
_NOT_UTF8: Final = "\ufffd"


@dataclass(frozen=True, kw_only=True)
class FeedLimits:
    """How large a feed may be. Every refusal names the field it broke."""

    decoded_bytes_max: int = 2 * 2**30
    ratio_max: int = 200
    rows_max: int = 5_000_000
    columns_max: int = 300
    cell_chars_max: int = 65_536
    line_chars_max: int = 1_048_576
    row_lines_max: int = 2_000
    repeats_max: int = 100
    xml_depth_max: int = 32
    xml_elements_per_item_max: int = 1_000
    xml_chars_per_item_max: int = 1_048_576
    xml_attributes_max: int = 64


class FeedError(Exception):
    """A file that cannot be taken as a whole. `limit` names the field of FeedLimits it broke."""

    def __init__(self, code: str, message: str, *, limit: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.limit = limit


def detect(path: Path, *, limits: FeedLimits | None = None) -> Format:
    """Which format a file is in, judged by its first 64 KiB; FeedError if it is none of these."""
    with _opened(path, limits or FeedLimits()) as source:
        head = source.read(_HEAD_BYTES)
    text = _head_text(head)
    if text.lstrip().startswith("<"):
        if re.search(r"<rss[\s>]", text):
            return "google_rss"
        raise FeedError("format_unknown", "XML that is not RSS 2.0")
    first = text.splitlines()[0] if text.strip() else ""
    for name in ("google_tsv", "google_csv"):
        columns = _column_names(next(csv.reader([first], delimiter=_DELIMITERS[name]), []))
        if "id" in columns and _TELLTALE & set(columns):
            return name
    raise FeedError("format_unknown", "neither a table with Google's column names nor RSS 2.0")


def read_items(
    path: Path, *, limits: FeedLimits, file_format: Format | None = None
) -> Iterator[RawItem]:
    """The rows of a feed file, in order; raises FeedError where the file stops being readable."""
    known = file_format or detect(path, limits=limits)
    reader = _read_rss if known == "google_rss" else _read_table
    for count, item in enumerate(reader(path, limits, known), start=1):
        if count > limits.rows_max:
            raise FeedError(
                "too_large", f"more than {limits.rows_max} rows are not read", limit="rows_max"
            )
        yield item


class _Bounded(io.RawIOBase):
    """The decoded bytes of a file, gzip or not, up to the limits."""

    def __init__(self, file: BinaryIO, limits: FeedLimits) -> None:
        self._pieces: Iterator[bytes] = self._decoded(file, limits)
        self._rest = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._rest:
            piece = next(self._pieces, None)
            if piece is None:
                return 0
            self._rest = piece
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count

    @staticmethod
    def _decoded(file: BinaryIO, limits: FeedLimits) -> Iterator[bytes]:
        chunk = file.read(_HEAD_BYTES)
        if chunk.startswith(_GZIP_MAGIC):
            gunzip = BoundedGunzip(
                decoded_bytes_max=limits.decoded_bytes_max, ratio_max=limits.ratio_max
            )
            while chunk:
                yield from gunzip.feed(chunk)
                chunk = file.read(_HEAD_BYTES)
            gunzip.finish()
        total = 0
        while chunk:
            total += len(chunk)
            if total > limits.decoded_bytes_max:
                raise FeedError("too_large", "the file is too large", limit="decoded_bytes_max")
            yield chunk
            chunk = file.read(_HEAD_BYTES)


@contextmanager
def _opened(path: Path, limits: FeedLimits) -> Iterator["io.BufferedReader[_Bounded]"]:
    try:
        with (
            path.open("rb") as file,
            io.BufferedReader(_Bounded(file, limits), _HEAD_BYTES) as source,
        ):
            yield source
    except OutboundRefused as refusal:
        code = "too_large" if refusal.limit else "gzip_damaged"
        raise FeedError(code, "the compressed file is refused", limit=refusal.limit) from None


def _encoding(head: bytes) -> str:
    """The encoding of a text file by its first bytes; FeedError rather than guessed-at letters."""
    for mark, name in _BOMS:
        if head.startswith(mark):
            return name
    if b"\0" in head[:4]:
        return "utf-16-le" if head[1:2] == b"\0" else "utf-16-be"
    # The head may end inside a character: up to three bytes at its end prove nothing.
    try:
        head.decode("utf-8")
    except UnicodeDecodeError as error:
        if error.start < len(head) - 3:
            return _cyrillic(head)
    return "utf-8"


def _cyrillic(head: bytes) -> str:
    # In Cyrillic text high bytes stand in words, in Western European text mostly alone.
    runs = re.findall(rb"[\x80-\xff]+", head)
    in_words = sum(len(run) for run in runs if len(run) > 1)
    if in_words * 2 > sum(map(len, runs)):
        return "windows-1251"
    raise FeedError("encoding_unknown", "the file is not UTF-8, UTF-16 or windows-1251")


def _head_text(head: bytes) -> str:
    if head.startswith(b"PK\x03\x04"):
        raise FeedError("format_unknown", "zip archives are not read; gzip is")
    if head.lstrip()[:1] == b"<":
        return head.decode("latin-1")
    encoding = _encoding(head)
    text = head.decode(encoding, "replace").lstrip("\ufeff")
    if "\0" in text.partition("\n")[0]:
        raise FeedError("format_unknown", "the file is not text")
    return text


def _column_names(cells: list[str]) -> list[str]:
    names = [cell.strip().lower().removeprefix("g:") for cell in cells]
    return [re.sub(r"[\s_]+", "_", name) for name in names]


class _Lines:
    """The physical lines of a table, and those that the row being read has taken so far."""

    def __init__(self, text: io.TextIOWrapper, limits: FeedLimits) -> None:
        self._text = text
        self._limits = limits
        self.taken: list[str] = []

    def __iter__(self) -> Iterator[str]:
        while line := self._text.readline(self._limits.line_chars_max + 1):
            if len(line) > self._limits.line_chars_max:
                raise FeedError("too_large", "a line is too long", limit="line_chars_max")
            self.taken.append(line)
            if len(self.taken) > self._limits.row_lines_max:
                raise FeedError("quote_open", "a quote does not close", limit="row_lines_max")
            yield line


def _read_table(path: Path, limits: FeedLimits, known: Format) -> Iterator[RawItem]:
    with _opened(path, limits) as source:
        encoding = _encoding(source.peek(_HEAD_BYTES)[:_HEAD_BYTES])
        # Bad bytes cost their row, not the feed: they become a sign that _row finds again.
        text = io.TextIOWrapper(source, encoding=encoding, errors="replace", newline="")
        lines = _Lines(text, limits)
        rows = csv.reader(lines, delimiter=_DELIMITERS[known])
        try:
            yield from _table_rows(rows, _DELIMITERS[known], lines, limits)
        except csv.Error as error:
            # What the reader swallowed up to here may be many rows.
            limit = "cell_chars_max" if "field larger" in str(error) else ""
            raise FeedError(
                "table_malformed", f"line {rows.line_num} cannot be read", limit=limit
            ) from None


def _table_rows(
    rows: Iterator[list[str]], delimiter: str, lines: _Lines, limits: FeedLimits
) -> Iterator[RawItem]:
    header = next(rows, [])
    if len(header) > limits.columns_max:
        raise FeedError("too_large", f"{len(header)} columns", limit="columns_max")
    columns = _column_names([cell.lstrip("\ufeff") for cell in header])
    lines.taken.clear()
    for number, cells in enumerate(rows, start=2):
        if len(lines.taken) > 1 and not _well_quoted(lines.taken, delimiter, columns):
            raise FeedError("quote_open", f"a quote opened in row {number} does not close there")
        lines.taken.clear()
        if cells:
            yield _row(number, columns, cells, limits)


def _well_quoted(taken: list[str], delimiter: str, columns: list[str]) -> bool:
    """Whether a row of several lines is one by the letter of the format.

    Stray quotes are forgiven inside a line. A quote left open takes the rows after it into its
    cell, and those rows must not count as gone from the feed.
    """
    try:
        (cells,) = csv.reader(taken, delimiter=delimiter, strict=True)
    except (csv.Error, ValueError):
        return False
    return len(cells) == len(columns)


def _row(number: int, columns: list[str], cells: list[str], limits: FeedLimits) -> RawItem:
    problems: list[Problem] = []
    if len(cells) != len(columns):
        message = f"{len(cells)} cells under {len(columns)} columns"
        problems.append(Problem(number, "", "column_count", "error", message))
    values: dict[str, RawValue] = {}
    for column, cell in zip(columns, cells, strict=False):
        text = _checked(number, column, cell, limits, problems)
        if column and text:
            _put(values, column, text, limits)
    return RawItem(number, values, tuple(problems))


def _checked(
    number: int, column: str, cell: str, limits: FeedLimits, problems: list[Problem]
) -> str:
    """The text of a cell, or nothing and a problem if it cannot be believed."""
    text = cell.strip()
    if len(text) > limits.cell_chars_max:
        message = f"{len(text)} characters; the limit cell_chars_max is {limits.cell_chars_max}"
        problems.append(Problem(number, column, "cell_chars_max", "error", message))
        return ""
    if "\0" in text:
        problems.append(Problem(number, column, "nul", "error", "holds a NUL character"))
        return ""
    if _NOT_UTF8 in text:
        message = "holds bytes that are no characters in the file's encoding"
        problems.append(Problem(number, column, "encoding", "warning", message))
    return text


def _put(
    values: dict[str, RawValue], column: str, value: str | dict[str, str], limits: FeedLimits
) -> None:
    present = values.get(column)
    if present is None:
        values[column] = value if isinstance(value, str) else [value]
    elif isinstance(present, str):
        values[column] = [present, value]
    elif len(present) < limits.repeats_max:
        present.append(value)


def _read_rss(path: Path, limits: FeedLimits, _known: Format) -> Iterator[RawItem]:
    with _opened(path, limits) as source:
        _check_prolog(source.peek(_HEAD_BYTES)[:_HEAD_BYTES])
        events = etree.iterparse(
            source,
            events=("start", "end"),
            resolve_entities=False,
            no_network=True,
            load_dtd=False,
            dtd_validation=False,
            huge_tree=False,
            remove_comments=True,
            remove_pis=True,
        )
        try:
            yield from _rss_items(events, limits)
        except etree.XMLSyntaxError as error:
            line = error.lineno or 0
            raise FeedError("xml_malformed", f"the XML cannot be read at line {line}") from None


def _check_prolog(head: bytes) -> None:
    text = head.replace(b"\0", b"").decode("latin-1")
    named = _XML_ENCODING.search(text)
    # Encodings in which "<" hides behind other bytes would slip past every check on text.
    if named and not _XML_ENCODINGS.fullmatch(named[1]):
        raise FeedError("encoding_unknown", "the XML names an encoding that is not read")
    if "<!DOCTYPE" in text.partition("<rss")[0]:
        raise FeedError("xml_doctype", "XML with a DOCTYPE is refused")


def _rss_items(
    events: Iterator[tuple[str, etree._Element]], limits: FeedLimits
) -> Iterator[RawItem]:
    depth = 0
    number = 0
    chars = 0
    elements = 0
    item: etree._Element | None = None
    for event, element in events:
        chars += _chars(event, element)
        if event == "start":
            depth += 1
            elements += 1
            if item is None:
                item = element if element.tag == "item" else None
                elements = chars = 0
            _check_start(element, depth, limits)
            _check_item(elements, chars, limits)
            continue
        depth -= 1
        if element is item:
            number += 1
            _check_item(elements, chars, limits)
            yield _rss_row(number, element, limits)
            item = None
        if item is None:
            _forget(element)


def _chars(event: str, element: etree._Element) -> int:
    """Characters complete at this event: an element's own at its end, a gap's at the next start."""
    if event == "end":
        return len(element.text or "")
    before = element.getprevious()
    return 0 if before is None else len(before.tail or "")


def _check_item(elements: int, chars: int, limits: FeedLimits) -> None:
    if elements > limits.xml_elements_per_item_max:
        raise FeedError(
            "too_large", "an item has too many elements", limit="xml_elements_per_item_max"
        )
    if chars > limits.xml_chars_per_item_max:
        raise FeedError("too_large", "an item is too long", limit="xml_chars_per_item_max")


def _check_start(element: etree._Element, depth: int, limits: FeedLimits) -> None:
    if depth == 1:
        # The prolog was looked at as text; this sees what libxml2 made of it, wherever it stood.
        if element.getroottree().docinfo.doctype:  # type: ignore[attr-defined] # stubs lack it
            raise FeedError("xml_doctype", "XML with a DOCTYPE is refused")
        if element.tag != "rss":
            raise FeedError("format_unknown", "XML that is not RSS 2.0")
    if depth > limits.xml_depth_max:
        raise FeedError("too_large", "elements nest too deeply", limit="xml_depth_max")
    if len(element.attrib) > limits.xml_attributes_max:
        raise FeedError(
            "too_large", "an element has too many attributes", limit="xml_attributes_max"
        )


def _forget(element: etree._Element) -> None:
    # Clearing empties the element; its emptied elder siblings would still pile up under the parent.
    element.clear()
    parent = element.getparent()
    while parent is not None and element.getprevious() is not None:
        del parent[0]


def _rss_row(number: int, item: etree._Element, limits: FeedLimits) -> RawItem:
    """An item's values. `g:title` wins over a plain `title`: it is the one meant for catalogues."""
    problems: list[Problem] = []
    plain: dict[str, RawValue] = {}
    prefixed: dict[str, RawValue] = {}
    for child in item:
        name = etree.QName(child)
        if name.namespace not in {None, _GOOGLE}:
            continue
        column = _column_names([name.localname])[0]
        value = _element_value(number, column, child, limits, problems)
        if value:
            _put(prefixed if name.namespace else plain, column, value, limits)
    if len(plain | prefixed) > limits.columns_max:
        message = f"more than columns_max ({limits.columns_max}) different elements"
        problems.append(Problem(number, "", "columns_max", "error", message))
    return RawItem(number, plain | prefixed, tuple(problems))


def _element_value(
    number: int, column: str, child: etree._Element, limits: FeedLimits, problems: list[Problem]
) -> str | dict[str, str]:
    if not len(child):
        return _checked(number, column, child.text or "", limits, problems)
    nested = {
        _column_names([etree.QName(part).localname])[0]: _checked(
            number, column, part.text or "", limits, problems
        )
        for part in child
    }
    return {name: text for name, text in nested.items() if text}
