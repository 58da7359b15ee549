"""Keeps the roll-ups while facts are recorded, in the transaction that records them.

A batch is summed up in memory and added with one statement a table. Visits are added once, because
they are added where the journal's position moves. A conversion leaves a row that says what it is
counted with (`RollupConversion`), so that counting it again takes the old sums out: a refund, a new
attribution, a changed commission and a second delivery are all the same call.
"""

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, SQLModel, col, select

from network.models import Program, Publisher
from tracker.agents import device_of
from tracker.clicks import WITHOUT_CONSENT
from tracker.rollup_models import RollupDay, RollupHour, RollupWidth

NOBODY: Final = 0
MORE: Final = "(more)"
"""The value that takes the visits of a dimension's values past the limit of a day."""

TOTAL: Final = ""
SUB_IDS: Final = ("s1", "s2", "s3", "s4", "s5")
CAPPED: Final = frozenset({"link", *SUB_IDS})
DIMENSIONS: Final = ("link", "country", "device", *SUB_IDS, "reason")
COUNTERS: Final = (
    "impressions",
    "clicks",
    "filtered_clicks",
    "unique_clicks",
    "conversions",
    "sales_minor",
    "refunded_minor",
    "commission_minor",
)
HOUR_SECONDS: Final = 3600
HOURS_A_DAY: Final = 24

HourKey = tuple[int, int, int, str]
"""Hour, program, publisher, currency."""
DayKey = tuple[str, int, int, int, str, str]
"""Dimension, day, program, publisher, value, currency."""


class Counts(NamedTuple):
    """What one thing adds to each counter."""

    impressions: int = 0
    clicks: int = 0
    filtered_clicks: int = 0
    unique_clicks: int = 0
    conversions: int = 0
    sales_minor: int = 0
    refunded_minor: int = 0
    commission_minor: int = 0


@dataclass(slots=True)
class Tally:
    """Sums to be added, by the row they are added to."""

    hours: dict[HourKey, list[int]] = field(default_factory=dict)
    days: dict[DayKey, list[int]] = field(default_factory=dict)

    def add(
        self,
        counts: Sequence[int],
        *,
        hour: int,
        program: int,
        publisher: int,
        currency: str,
        values: Iterable[tuple[str, str]],
    ) -> None:
        """Add to the hour, to the day, and to the day of each (dimension, value)."""
        _increase(self.hours, (hour, program, publisher, currency), counts)
        day = hour // HOURS_A_DAY
        _increase(self.days, (TOTAL, day, program, publisher, "", currency), counts)
        for dimension, value in values:
            _increase(self.days, (dimension, day, program, publisher, value, currency), counts)


def _increase(sums: dict[Any, list[int]], key: Any, counts: Sequence[int]) -> None:
    found = sums.get(key)
    if found is None:
        sums[key] = list(counts)
    else:
        for at, count in enumerate(counts):
            if count:
                found[at] += count


def hour_of(at: datetime) -> int:
    """Whole hours from 1970 to this instant."""
    return int(at.timestamp()) // HOUR_SECONDS


def add_clicks(session: Session, rows: Sequence[Mapping[str, Any]], *, values_max: int) -> None:
    """Count clicks that were just added; the rows as `clicks.record` stores them.

    A click that may earn, or lacks only consent, counts in `clicks`, every other in
    `filtered_clicks`; its reason is a dimension of its own. The first click that may earn of a
    visitor on a publisher's program in a UTC day is `unique`. Not to be repeated.
    """
    if not rows:
        return
    numbers = Numbers.of(session, rows)
    tally = Tally()
    hours = [hour_of(row["at"]) for row in rows]
    firsts = _first_of_day(session, rows, hours, numbers)
    for at, row in enumerate(rows):
        tally.add(
            counts_of_click(row["unbillable_reason"], is_first=at in firsts),
            hour=hours[at],
            program=numbers.programs[row["program_id"]],
            publisher=numbers.publishers[row["publisher_id"]],
            currency="",
            values=values_of_click(row),
        )
    store(session, tally, values_max=values_max)


def counts_of_click(reason: str, *, is_first: bool) -> Counts:
    """What a click adds: without consent it cannot earn, and yet a person came."""
    is_click = not reason or reason in WITHOUT_CONSENT
    return Counts(
        clicks=int(is_click), filtered_clicks=int(not is_click), unique_clicks=int(is_first)
    )


def add_impressions(
    session: Session, rows: Sequence[Mapping[str, Any]], *, values_max: int
) -> None:
    """Count impressions. Not to be repeated.

    The rows have `at`, `program_id`, `publisher_id` and, where known, `count` (1 without), `link`,
    `country`, `user_agent` and `sub_ids`, named and written as clicks have them.
    """
    if not rows:
        return
    numbers = Numbers.of(session, rows)
    tally = Tally()
    for row in rows:
        tally.add(
            Counts(impressions=int(row.get("count", 1))),
            hour=hour_of(row["at"]),
            program=numbers.programs[row["program_id"]],
            publisher=numbers.publishers[row["publisher_id"]],
            currency="",
            values=values_of_click(row),
        )
    store(session, tally, values_max=values_max)


def values_of_click(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """The (dimension, value) pairs under which a visit is counted beside its total."""
    values = [
        ("country", row.get("country") or ""),
        ("device", device_of(row.get("user_agent") or "")),
    ]
    if link := row.get("link"):
        values.append(("link", link))
    if reason := row.get("unbillable_reason"):
        values.append(("reason", reason))
    if sub_ids := row.get("sub_ids"):
        values.extend((slot, sub_ids[slot]) for slot in SUB_IDS if sub_ids.get(slot))
    return values


@dataclass(frozen=True, slots=True)
class Numbers:
    """Short numbers of programs and publishers by their ids."""

    programs: dict[str, int]
    publishers: dict[str, int]

    @classmethod
    def of(cls, session: Session, rows: Iterable[Mapping[str, Any]]) -> "Numbers":
        """The numbers of everybody that these rows name."""
        programs = {row["program_id"] for row in rows}
        publishers = {row["publisher_id"] for row in rows}
        return cls(_numbers(session, Program, programs), _numbers(session, Publisher, publishers))


def _numbers(
    session: Session, model: type[Program | Publisher], ids: Collection[str]
) -> dict[str, int]:
    query = select(model.id, model.number).where(col(model.id).in_(ids))
    return dict(session.exec(query).all())


def visitor_hash(program: int, publisher: int, visitor_key: str) -> int:
    """63 bits for a visitor of a publisher's program: two of ten million meet once in 100,000 days.

    Not the visitor key itself, so that these rows cannot be joined to clicks or across programs.
    """
    text = f"{program} {publisher} {visitor_key}".encode()
    return int.from_bytes(blake2b(text, digest_size=8).digest(), "big") >> 1


# The same rows of JSON, one row an entry; each database spells it in its own way.
_PAIRS: Final = {
    "sqlite": "SELECT value ->> 0 AS a, value ->> 1 AS b FROM json_each(:given)",
    "postgresql": "SELECT (e ->> 0)::bigint AS a, (e ->> 1)::bigint AS b "
    "FROM json_array_elements(CAST(:given AS json)) AS e",
}
_KEYS: Final = {
    "sqlite": "SELECT value ->> 0 AS a, value ->> 1 AS b, value ->> 2 AS c, value ->> 3 AS d, "
    "value ->> 4 AS e FROM json_each(:given)",
    "postgresql": "SELECT k ->> 0 AS a, (k ->> 1)::bigint AS b, (k ->> 2)::bigint AS c, "
    "(k ->> 3)::bigint AS d, k ->> 4 AS e FROM json_array_elements(CAST(:given AS json)) AS k",
}


def _first_of_day(
    session: Session,
    rows: Sequence[Mapping[str, Any]],
    hours: Sequence[int],
    numbers: Numbers,
) -> frozenset[int]:
    """Which of the rows are the first click of their visitor on that day, by place in `rows`."""
    places: dict[tuple[int, int], int] = {}
    for at, row in enumerate(rows):
        if row["visitor_key"] and not row["unbillable_reason"]:
            visitor = visitor_hash(
                numbers.programs[row["program_id"]],
                numbers.publishers[row["publisher_id"]],
                row["visitor_key"],
            )
            places.setdefault((hours[at] // HOURS_A_DAY, visitor), at)
    if not places:
        return frozenset()
    # In order, so that two shippers that meet the same visitors wait for one another in one order.
    statement = _MARK_VISITORS[session.get_bind().dialect.name]
    added = session.execute(statement, {"given": json.dumps(sorted(places))})
    return frozenset(places[day, visitor] for day, visitor in added)


_MARK_VISITORS: Final = {
    dialect: sa.text(
        f"INSERT INTO rollup_visitor (day, visitor) SELECT a, b FROM ({rows}) AS given "  # noqa: S608 - constants
        "WHERE true ON CONFLICT DO NOTHING RETURNING day, visitor"
    )
    for dialect, rows in _PAIRS.items()
}
_KNOWN_VALUES: Final = {
    dialect: sa.text(
        f"SELECT a, b, c, d, e FROM ({rows}) AS given CROSS JOIN rollup_day "  # noqa: S608 - constants
        "WHERE dimension = a AND day = b AND program_number = c AND publisher_number = d "
        "AND value = e AND currency = ''"
    )
    for dialect, rows in _KEYS.items()
}
_WIDTHS: Final = {
    dialect: sa.text(
        f"SELECT a, b, c, d, value_count FROM ({rows}) AS given CROSS JOIN rollup_width "  # noqa: S608 - constants
        "WHERE dimension = a AND day = b AND program_number = c AND publisher_number = d"
    )
    for dialect, rows in _KEYS.items()
}


def store(session: Session, tally: Tally, *, values_max: int) -> None:
    """Add the sums. Of a dimension without bound, a day has `values_max` rows of visits at most."""
    widths = _fold(session, tally, values_max)
    _upsert(session, RollupHour, tally.hours)
    _upsert(session, RollupDay, tally.days)
    _upsert(session, RollupWidth, widths)


def _fold(
    session: Session, tally: Tally, values_max: int
) -> dict[tuple[int, int, int, str], list[int]]:
    """Move visits of values past the limit to MORE; the new values of each group come back."""
    asked = [key for key in tally.days if key[0] in CAPPED and key[5] == ""]
    widths: dict[tuple[int, int, int, str], list[int]] = {}
    if not asked:
        return widths
    dialect = session.get_bind().dialect.name
    known = _rows(session, _KNOWN_VALUES[dialect], [key[:5] for key in asked])
    fresh = [key for key in asked if key[:5] not in known]
    groups = {key[:4] for key in fresh}
    room = dict.fromkeys(groups, values_max)
    for *group, count in _rows(session, _WIDTHS[dialect], sorted(groups)):
        room[group[0], group[1], group[2], group[3]] = values_max - count
    for key in fresh:
        dimension, day, program, publisher, _, currency = key
        if room[key[:4]] > 0:
            room[key[:4]] -= 1
            _increase(widths, (day, program, publisher, dimension), (1,))
        else:
            more = (dimension, day, program, publisher, MORE, currency)
            _increase(tally.days, more, tally.days.pop(key))
    return widths


def _rows(
    session: Session, statement: sa.TextClause, keys: Sequence[tuple[Any, ...]]
) -> set[tuple[Any, ...]]:
    return {tuple(row) for row in session.execute(statement, {"given": json.dumps(keys)})}


def _upsert(session: Session, model: type[SQLModel], sums: Mapping[Any, list[int]]) -> None:
    if not sums:
        return
    dialect = session.get_bind().dialect.name
    names = _names(model)
    # In order of the key: neighbours in the tree, and no two writers wait crosswise.
    rows = [(*key, *counts) for key, counts in sorted(sums.items())]
    if dialect == "sqlite":
        # Straight to the driver: for each row, naming its values costs more than storing them.
        session.connection().exec_driver_sql(_addition_text(model), rows)
    else:
        session.execute(
            _addition(model, dialect), [dict(zip(names, row, strict=True)) for row in rows]
        )


def _names(model: type[SQLModel]) -> list[str]:
    return [column.name for column in model.metadata.tables[str(model.__tablename__)].columns]


@lru_cache(maxsize=8)
def _addition_text(model: type[SQLModel]) -> str:
    return str(_addition(model, "sqlite").compile(dialect=sqlite.dialect()))


@lru_cache(maxsize=8)
def _addition(model: type[SQLModel], dialect: str) -> Any:
    table = model.metadata.tables[str(model.__tablename__)]
    statement = (sqlite if dialect == "sqlite" else postgresql).insert(table)
    return statement.on_conflict_do_update(
        index_elements=[column.name for column in table.primary_key],
        set_={
            column.name: column + statement.excluded[column.name]
            for column in table.columns
            if not column.primary_key
        },
    )
