"""What a feed file would change, worked out on disk before the catalogue is touched.

A private SQLite file, deleted by the operating system even if the process is killed, holds the
stored fingerprints and the rows that differ. So memory does not grow with the feed, nothing waits
for the parser, and a file that turns out to be broken in its last line has changed nothing.
"""

import sqlite3
from collections.abc import Iterable, Iterator
from datetime import date, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

import msgspec

from feeds.formats import FeedLimits, detect, read_items
from feeds.rules import ITEM_ID_CHARS_MAX, Item, Problem, RawItem, fingerprint, normalise
from kernel.clock import to_rfc3339

PROBLEMS_KEPT_MAX = 1_000  # of each severity
_COLUMN_CHARS_MAX = 100
_MESSAGE_CHARS_MAX = 500
_SCHEMA = """
PRAGMA journal_mode = OFF;
CREATE TABLE stored (
    item_id TEXT PRIMARY KEY, product_id TEXT, fingerprint TEXT, removed INTEGER,
    seen INTEGER DEFAULT 0
) WITHOUT ROWID;
CREATE TABLE changed (
    number INTEGER PRIMARY KEY, item_id TEXT UNIQUE, product_id TEXT, removed INTEGER, columns BLOB
);
BEGIN;
"""


class Stored(NamedTuple):
    """What the catalogue keeps of an item."""

    item_id: str
    product_id: str
    fingerprint: str
    removed: bool


class Change(NamedTuple):
    """An item to write. `product_id` is empty for a new one; `is_back` if it was removed before."""

    product_id: str
    is_back: bool
    columns: dict[str, Any]


class Staging:
    """One look at one file. `load` first, then `read`, then what differs; use it with `with`."""

    def __init__(self) -> None:
        self._database = sqlite3.connect("", isolation_level=None)
        self._database.executescript(_SCHEMA)
        self.format = ""
        self.rows = 0
        self.taken = 0
        self.unchanged = 0
        self.rejected = 0
        self.stored_live = 0
        self.problems: list[tuple[str, Problem]] = []
        self._kept = {"error": 0, "warning": 0}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._database.close()

    def load(self, stored: Iterable[Stored]) -> None:
        """Note what the catalogue holds of this source now."""
        self._database.executemany(
            "INSERT INTO stored (item_id, product_id, fingerprint, removed) VALUES (?, ?, ?, ?)",
            stored,
        )
        (self.stored_live,) = self._database.execute(
            "SELECT count(*) FROM stored WHERE NOT removed"
        ).fetchone()

    def read(
        self,
        path: Path,
        *,
        currency: str,
        allowed_domains: frozenset[str],
        limits: FeedLimits,
        today: date,
    ) -> None:
        """Judge every row and keep the ones that differ. Raises FeedError for a broken file."""
        known = detect(path, limits=limits)
        self.format = known
        for raw in read_items(path, limits=limits, file_format=known):
            self.rows += 1
            judged = normalise(raw, currency=currency, allowed_domains=allowed_domains, today=today)
            if not isinstance(judged, Item):
                self._reject(_named(raw), judged)
            elif self._take(judged):
                self._note(judged.item_id, judged.warnings)
            else:
                message = "another row before this one has the same id"
                problem = Problem(raw.row_number, "id", "duplicate_id", "error", message)
                self._reject(judged.item_id, [problem])

    def changes(self, rows: int) -> Iterator[list[Change]]:
        """What is new, different or back, in the order of the file, so many at a time."""
        found = self._database.execute(
            "SELECT product_id, removed, columns FROM changed ORDER BY number"
        )
        while chunk := found.fetchmany(rows):
            yield [
                Change(product_id, bool(removed), msgspec.json.decode(columns))
                for product_id, removed, columns in chunk
            ]

    def gone(self, rows: int) -> Iterator[list[str]]:
        """Product ids of what the catalogue offers and the file no longer does."""
        found = self._database.execute(
            "SELECT product_id FROM stored WHERE NOT removed AND NOT seen ORDER BY item_id"
        )
        while chunk := found.fetchmany(rows):
            yield [product_id for (product_id,) in chunk]

    def _take(self, item: Item) -> bool:
        """Whether the item was taken; False if its id was taken before."""
        row = self._database.execute(
            "SELECT product_id, fingerprint, removed, seen FROM stored WHERE item_id = ?",
            (item.item_id,),
        ).fetchone()
        product_id, known, removed, seen = row or ("", "", 0, 0)
        if seen:
            return False
        mark = fingerprint(item)
        if row:
            self._database.execute("UPDATE stored SET seen = 1 WHERE item_id = ?", (item.item_id,))
        if row and known == mark and not removed:
            self.unchanged += 1
        elif not self._keep(item, mark, product_id=product_id, removed=removed):
            return False
        self.taken += 1
        return True

    def _keep(self, item: Item, mark: str, *, product_id: str, removed: int) -> bool:
        columns = msgspec.json.encode(columns_of(item) | {"fingerprint": mark})
        added = self._database.execute(
            "INSERT OR IGNORE INTO changed (item_id, product_id, removed, columns) "
            "VALUES (?, ?, ?, ?)",
            (item.item_id, product_id, removed, columns),
        )
        return added.rowcount == 1

    def _reject(self, item_id: str, problems: Iterable[Problem]) -> None:
        self.rejected += 1
        self._note(item_id, problems)

    def _note(self, item_id: str, problems: Iterable[Problem]) -> None:
        for problem in problems:
            if self._kept[problem.severity] < PROBLEMS_KEPT_MAX:
                self._kept[problem.severity] += 1
                self.problems.append((item_id, problem))


def columns_of(item: Item) -> dict[str, Any]:
    """The item as columns of `Product`; `extra` has what is not searched, without the empty."""
    extra = {
        "google_category": item.google_category,
        "additional_images": list(item.additional_images),
        "sale_from": _time(item.sale_from),
        "sale_to": _time(item.sale_to),
        "availability_date": _time(item.availability_date),
        "expires_at": _time(item.expires_at),
        "attributes": item.attributes,
        "custom_labels": item.custom_labels,
        "commission_group": item.commission_group,
    }
    return {
        "item_id": item.item_id,
        "group_id": item.group_id,
        "title": item.title,
        "description": item.description,
        "brand": item.brand,
        "gtin14": item.gtin14,
        "mpn": item.mpn,
        "condition": item.condition,
        "category": item.category,
        "link": item.link,
        "image_link": item.image_link,
        "availability": item.availability,
        "price_minor": item.price_minor,
        "sale_price_minor": item.sale_price_minor,
        "currency": item.currency,
        "extra": {name: value for name, value in extra.items() if value},
    }


def rejection_columns(item_id: str, problem: Problem) -> dict[str, Any]:
    """A problem as columns of `Rejection`, cut to what is worth keeping of a stranger's text."""
    return {
        "row": problem.row_number,
        "item_id": _cut(item_id, ITEM_ID_CHARS_MAX),
        "column": _cut(problem.column, _COLUMN_CHARS_MAX),
        "rule": problem.rule,
        "severity": problem.severity,
        "message": _cut(problem.message, _MESSAGE_CHARS_MAX),
    }


def _named(raw: RawItem) -> str:
    value = raw.values.get("id", "")
    first = value if isinstance(value, str) else value[0]
    return first if isinstance(first, str) else ""


def _time(instant: datetime | None) -> str:
    return "" if instant is None else to_rfc3339(instant)


def _cut(text: str, chars_max: int) -> str:
    # PostgreSQL stores no NUL in text.
    return text.replace("\0", "")[:chars_max]
