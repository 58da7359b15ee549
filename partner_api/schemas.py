"""What goes in and comes out of every list: amounts, times, pages, and what a query may say."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    Field,
    GetCoreSchemaHandler,
    PlainSerializer,
    StringConstraints,
    WithJsonSchema,
)
from pydantic_core import CoreSchema, core_schema

from kernel import i18n, pages
from kernel.clock import to_rfc3339
from kernel.errors import NotFound, invalid
from kernel.http import Call, NoQuery

_Row = TypeVar("_Row")

PAGE_ROWS_DEFAULT = 100
_SEQ_MAX = 2**63 - 1
_RFC3339 = re.compile(
    r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{1,9})?(Z|[+-]\d\d:\d\d)", re.ASCII | re.IGNORECASE
)
_ID = re.compile(r"[\w.:+-]{1,128}", re.ASCII)

Time = Annotated[
    datetime,
    PlainSerializer(to_rfc3339, return_type=str),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""An instant in an answer: RFC 3339, UTC, milliseconds."""


def _rfc3339(value: Any) -> Any:
    # A bare number would otherwise be taken for seconds since 1970, which is a guess.
    if isinstance(value, str) and not _RFC3339.fullmatch(value):
        raise ValueError("must be an RFC 3339 time such as 2026-03-01T12:00:00Z")
    return value


def _in_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError as error:
        raise ValueError("is out of range") from error


Instant = Annotated[
    AwareDatetime,
    BeforeValidator(_rfc3339),
    AfterValidator(_in_utc),
    WithJsonSchema({"type": "string", "format": "date-time"}),
]
"""An instant in a query: RFC 3339 with an offset; in a URL `+` is written `%2B`."""

# PostgreSQL has no NUL in its texts; no name of ours has one either.
Text = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=r"^[^\x00]*$")]
"""A text to compare with."""


@dataclass(frozen=True, slots=True)
class OneOf:
    """Metadata of a text that is one of these words.

    Written out in the reference; parameters there have no place for the shared definitions that
    an enum class makes.
    """

    words: tuple[str, ...]

    def __get_pydantic_core_schema__(
        self, _source: Any, _handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        """The check, for pydantic."""
        return core_schema.literal_schema(list(self.words))


Language = Annotated[str, OneOf(i18n.LANGUAGES)]
"""A language we speak."""


class MoneyAmount(BaseModel):
    """An exact amount: `minor` units of an ISO 4217 currency, so 1234 EUR is 12.34 euros."""

    minor: int
    currency: str


class ProgramRef(BaseModel):
    """A program, by id and by the code that links use."""

    id: str
    code: str


class PublisherRef(BaseModel):
    """A publisher, by id and by the code that links use."""

    id: str
    code: str


class PageQuery(NoQuery):
    """Where a list goes on and how many rows it shows at once."""

    cursor: Annotated[str, StringConstraints(max_length=512)] | None = Field(
        None, description="`next_cursor` of the page before."
    )
    limit: int = Field(
        PAGE_ROWS_DEFAULT,
        ge=1,
        description="Rows of a page; the server's maximum is 1000 unless its operator changed it.",
    )


def rows_wanted(call: Call, *, ceiling: int | None = None) -> int:
    """The `limit` of a list; more than `page_rows_max` is refused, not cut."""
    limit: int = call.query.limit
    rows_max = call.context.settings.page_rows_max
    if limit > rows_max:
        raise invalid("limit", "maximum", f"must be at most {rows_max}")
    return limit if ceiling is None else min(limit, ceiling)


def after_number(call: Call) -> int:
    """The number in `cursor`, 0 without one; for lists in the order of a sequence."""
    if call.query.cursor is None:
        return 0
    [position] = pages.decode(call.query.cursor, int)
    # No sequence of ours goes further than 64 bits, and no database driver takes more.
    if not 0 <= position <= _SEQ_MAX:
        raise invalid("cursor", "cursor", "is not a cursor that this list gave out")
    return int(position)


def after_id(call: Call) -> str:
    """The id in `cursor`, empty without one; for lists in the order of their ids."""
    if call.query.cursor is None:
        return ""
    [position] = pages.decode(call.query.cursor, str)
    if not _ID.fullmatch(position):
        raise invalid("cursor", "cursor", "is not a cursor that this list gave out")
    return str(position)


def rows_to_fetch(limit: int, ceiling: int) -> int:
    """How many rows to ask a reading function for that gives out at most `ceiling`."""
    return min(limit + 1, ceiling)


def cut(
    rows: Sequence[_Row], limit: int, *, ceiling: int | None = None
) -> tuple[Sequence[_Row], _Row | None]:
    """The rows of this page and, when there are more, its last row.

    Callers fetch `limit + 1` rows: the one too many is what tells a full last page from a page
    that is followed by another. At the ceiling it cannot be fetched, and a full page counts as
    followed; the page after it may be empty.
    """
    if len(rows) > limit or (ceiling is not None and len(rows) == limit == ceiling):
        return rows[:limit], rows[limit - 1]
    return rows, None


def path_id(call: Call, name: str) -> str:
    """An id from the path. What cannot be an id of ours is not found, like one that is unknown."""
    value = call.path[name]
    if not _ID.fullmatch(value):
        raise NotFound("no such thing")
    return value
