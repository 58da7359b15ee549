"""Keeps the roll-ups while facts are recorded, in the transaction that records them.

A batch is summed up in memory and added with one statement a table. Visits (of clicks, see
`rollup_clicks`, and impressions) are added once, because they are added where the journal's
position moves. A conversion leaves a row that says what it is
counted with (`RollupConversion`), so that counting it again takes the old sums out: a refund, a new
attribution, a changed commission and a second delivery are all the same call.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import msgspec
import sqlalchemy as sa
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
Group = tuple[str, int, int, int]
"""Dimension, day, program, publisher: what shares a limit of values."""
WidthKey = tuple[int, int, int, str]
"""Day, program, publisher, dimension."""


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
        increase(self.hours, (hour, program, publisher, currency), counts)
        day = hour // HOURS_A_DAY
        increase(self.days, (TOTAL, day, program, publisher, "", currency), counts)
        for dimension, value in values:
            increase(self.days, (dimension, day, program, publisher, value, currency), counts)


def increase(sums: dict[Any, list[int]], key: Any, counts: Sequence[int]) -> None:
    """Add counts to those of a key."""
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
        ("device", device_of(row.get("user_agent") or "").value),
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


# The same rows of JSON, one row a key; each database spells it in its own way.
_KEYS: Final = {
    "sqlite": "SELECT value ->> 0 AS a, value ->> 1 AS b, value ->> 2 AS c, value ->> 3 AS d, "
    "value ->> 4 AS e FROM json_each(:given)",
    "postgresql": "SELECT k ->> 0 AS a, (k ->> 1)::bigint AS b, (k ->> 2)::bigint AS c, "
    "(k ->> 3)::bigint AS d, k ->> 4 AS e FROM json_array_elements(CAST(:given AS json)) AS k",
}
_KEY: Final = "dimension, day, program_number, publisher_number, value, currency"
_KNOWN_VALUES: Final = {
    "sqlite": sa.text(
        f"SELECT a, b, c, d, e FROM ({_KEYS['sqlite']}) AS given CROSS JOIN rollup_day "  # noqa: S608 - constants
        "WHERE dimension = a AND day = b AND program_number = c AND publisher_number = d "
        "AND value = e AND currency = ''"
    ),
    # The first row from the key on, in the order of the primary key, which no other index has: of a
    # day that it has no statistics of, PostgreSQL may think another index as good, and for each
    # value read all of the program's.
    "postgresql": sa.text(
        f"SELECT a, b, c, d, e FROM ({_KEYS['postgresql']}) AS given CROSS JOIN LATERAL "  # noqa: S608 - constants
        f"(SELECT {_KEY} FROM rollup_day WHERE ({_KEY}) >= (a, b, c, d, e, '') "
        f"ORDER BY {_KEY} LIMIT 1) AS found "
        "WHERE dimension = a AND day = b AND program_number = c AND publisher_number = d "
        "AND value = e AND currency = ''"
    ),
}
_WIDTHS: Final = {
    dialect: f"SELECT a, b, c, d, value_count FROM ({rows}) AS given CROSS JOIN rollup_width "  # noqa: S608 - constants
    "WHERE dimension = a AND day = b AND program_number = c AND publisher_number = d"
    for dialect, rows in _KEYS.items()
}
_COUNTS: Final = {
    dialect: sa.text(
        "SELECT a, b, c, d, (SELECT count(*) FROM rollup_day WHERE dimension = a AND day = b "  # noqa: S608 - constants
        "AND program_number = c AND publisher_number = d AND currency = '' AND value <> :more) "
        f"FROM ({rows}) AS given"
    ).bindparams(more=MORE)
    for dialect, rows in _KEYS.items()
}


def store(session: Session, tally: Tally, *, values_max: int) -> None:
    """Add the sums. Of a dimension without bound, a day has `values_max` rows of visits at most."""
    widths = _fold(session, tally, values_max)
    _upsert(session, RollupHour, tally.hours)
    _upsert(session, RollupDay, tally.days)
    _upsert(session, RollupWidth, widths)


def _fold(session: Session, tally: Tally, values_max: int) -> dict[WidthKey, list[int]]:
    """Move visits of values past the limit to MORE; what is to be added to the widths comes back.

    A width is at least the number of values. While even all of these would fit, nobody asks which
    of them are new; near the limit the values are counted, and from then on the width is exact.
    """
    groups: dict[Group, list[DayKey]] = {}
    for key in tally.days:
        if key[0] in CAPPED and not key[5] and key[4] != MORE:
            groups.setdefault(key[:4], []).append(key)
    if not groups:
        return {}
    widths = _by_group(session, _WIDTHS, groups)
    near = [
        group for group, keys in groups.items() if widths.get(group, 0) + len(keys) >= values_max
    ]
    added = {group: len(keys) for group, keys in groups.items()}
    if near:
        added |= _fold_exactly(session, tally, {group: groups[group] for group in near}, values_max)
    return {
        (day, program, publisher, dimension): [count]
        for (dimension, day, program, publisher), count in added.items()
        if count
    }


def _fold_exactly(
    session: Session, tally: Tally, groups: Mapping[Group, Sequence[DayKey]], values_max: int
) -> dict[Group, int]:
    # Two shippers at one group: the second waits, and sees what the first has named.
    widths = _by_group(session, _WIDTHS, groups, lock=True)
    # A width reaches the limit only by counting, and values never go.
    counts = {group: width for group, width in widths.items() if width == values_max}
    inexact = [group for group in groups if group not in counts]
    counts |= _by_group(session, _COUNTS, inexact)
    asked = [key[:5] for keys in groups.values() for key in keys]
    known = _rows(session, _KNOWN_VALUES[_dialect(session)], asked)
    added = {}
    for group, keys in groups.items():
        count = counts[group]
        for key in keys:
            if key[:5] in known:
                continue
            if count < values_max:
                count += 1
            else:
                increase(tally.days, (*group, MORE, ""), tally.days.pop(key))
        added[group] = count - widths.get(group, 0)
    return added


def _by_group(
    session: Session,
    statements: Mapping[str, Any],
    groups: Collection[Group],
    *,
    lock: bool = False,
) -> dict[Group, int]:
    """The number that a statement finds for each of these groups that has one."""
    if not groups:
        return {}
    dialect = _dialect(session)
    statement = statements[dialect]
    if lock and dialect != "sqlite":
        statement = f"{statement} ORDER BY b, c, d, a FOR UPDATE OF rollup_width"
    if isinstance(statement, str):
        statement = sa.text(statement)
    found = _rows(session, statement, sorted(groups))
    return {(a, b, c, d): count for a, b, c, d, count in found}


def _dialect(session: Session) -> str:
    return session.get_bind().dialect.name


def _rows(
    session: Session, statement: sa.TextClause, keys: Sequence[tuple[Any, ...]]
) -> set[tuple[Any, ...]]:
    given = msgspec.json.encode(keys).decode()
    return {tuple(row) for row in session.execute(statement, {"given": given})}


def _upsert(session: Session, model: type[SQLModel], sums: Mapping[Any, list[int]]) -> None:
    if not sums:
        return
    # In order of the key: neighbours in the tree, and no two writers wait crosswise.
    rows = [(*key, *sums[key]) for key in sorted(sums)]
    connection = session.connection()
    # Straight to the driver: for each row, naming its values costs more than storing them.
    if connection.dialect.name == "sqlite":
        connection.exec_driver_sql(_addition(model), rows)
        return
    if not any(map(any, sums.values())):
        return
    columns = [(at, column) for at, column in enumerate(zip(*rows, strict=True)) if any(column)]
    given = tuple(_array(column) for _, column in columns)
    connection.exec_driver_sql(_addition_by_column(model, tuple(at for at, _ in columns)), given)


def _array(column: Sequence[int] | Sequence[str]) -> str:
    """A column as PostgreSQL writes an array; the driver takes ten times as long for it."""
    if isinstance(column[0], int):
        return "{" + ",".join(map(str, column)) + "}"
    texts = (str(one).replace("\\", "\\\\").replace('"', '\\"') for one in column)
    return '{"' + '","'.join(texts) + '"}'


@lru_cache(maxsize=8)
def _addition(model: type[SQLModel]) -> str:
    table = model.metadata.tables[str(model.__tablename__)]
    return _add_sql(table, list(table.columns), f"VALUES ({', '.join('?' * len(table.columns))})")


@lru_cache(maxsize=64)
def _addition_by_column(model: type[SQLModel], given: tuple[int, ...]) -> str:
    """For columns given as arrays; nothing is added to the others, and of a key they are empty."""
    table = model.metadata.tables[str(model.__tablename__)]
    columns = list(table.columns)
    kinds = ["bigint" if isinstance(one.type, sa.Integer) else "text" for one in columns]
    arrays = ", ".join(f"%s::{kinds[at]}[]" for at in given)
    names = ", ".join(columns[at].name for at in given)
    values = ", ".join(
        columns[at].name if at in given else "''" if kinds[at] == "text" else "0"
        for at in range(len(columns))
    )
    changed = [columns[at] for at in given]
    return _add_sql(table, changed, f"SELECT {values} FROM unnest({arrays}) AS given ({names})")  # noqa: S608 - our own names


def _add_sql(table: sa.Table, changed: Sequence[sa.Column[Any]], rows: str) -> str:
    added = ", ".join(
        f"{one.name} = {table.name}.{one.name} + excluded.{one.name}"
        for one in changed
        if not one.primary_key
    )
    return (
        f"INSERT INTO {table.name} ({', '.join(one.name for one in table.columns)}) {rows} "
        f"ON CONFLICT ({', '.join(one.name for one in table.primary_key)}) DO UPDATE SET {added}"
    )
