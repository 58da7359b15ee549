"""Many rows into one table without SQLAlchemy's work for each of them.

The values still go through the column types, so that what is stored is what the tables say; a time
that many rows share is converted once, and documents are written by a faster encoder.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlmodel import Session
from sqlmodel.sql.sqltypes import UTCDateTime

_Convert = Callable[[Any], Any] | None


class Insert:
    """INSERT of the named columns of a table; rows are numbered in the order given.

    With a `key`, a row that is there already with the same value of it takes the new values; with
    `unless` it stays as it is.
    """

    def __init__(self, table: sa.Table, *names: str, key: str = "", unless: str = "") -> None:
        self._columns = [table.c[name] for name in names]
        self._names = names
        self._key = key
        self._unless = unless
        self._table = table
        self._prepared: dict[str, tuple[str, list[tuple[str, _Convert]]]] = {}

    def __call__(self, session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert the rows; each must have a value for every column."""
        self.rows(session, [[row[name] for name in self._names] for row in rows])

    def rows(self, session: Session, rows: Sequence[Sequence[Any]]) -> int:
        """Insert rows that have the values in the order of the columns; how many there are now."""
        if not rows:
            return 0
        connection = session.connection()
        sql, columns = self._for(connection.dialect)
        converted: Any = rows
        if any(convert for _, convert in columns):
            by_column = zip(*rows, strict=True)
            values = [
                _column(column, convert)
                for column, (_, convert) in zip(by_column, columns, strict=True)
            ]
            converted = zip(*values, strict=True)
        found = connection.exec_driver_sql(sql, list(map(tuple, converted)))
        return found.rowcount

    def _for(self, dialect: Dialect) -> tuple[str, list[tuple[str, _Convert]]]:
        if dialect.name not in self._prepared:
            quote = dialect.identifier_preparer.quote
            names = ", ".join(quote(name) for name in self._names)
            marks = ", ".join("?" if dialect.paramstyle == "qmark" else "%s" for _ in self._names)
            table = quote(self._table.name)
            sql = f"INSERT INTO {table} ({names}) VALUES ({marks})"  # noqa: S608 - our own names
            if self._key:
                values = (name for name in self._names if name != self._key)
                became = ", ".join(f"{quote(one)} = excluded.{quote(one)}" for one in values)
                sql += f" ON CONFLICT ({quote(self._key)}) DO UPDATE SET {became}"
            if self._unless:
                sql += f" ON CONFLICT ({quote(self._unless)}) DO NOTHING"
            converters = [(one.name, _converter(one, dialect)) for one in self._columns]
            self._prepared[dialect.name] = sql, converters
        return self._prepared[dialect.name]


def numbers(session: Session, column: sa.Column[Any], count: int) -> range | list[int]:
    """Numbers that the database will not give to anybody else in the rows of a table.

    On SQLite the writer's transaction is what keeps them: write the rows before it ends.
    """
    table = column.table
    if session.get_bind().dialect.name == "sqlite":
        last = session.execute(sa.select(sa.func.max(column))).scalar() or 0
        return range(last + 1, last + 1 + count)
    sequence = sa.func.pg_get_serial_sequence(str(table), column.name)
    series = sa.func.generate_series(1, count).table_valued("number")
    return list(session.execute(sa.select(sa.func.nextval(sequence)).select_from(series)).scalars())


def _column(values: Sequence[Any], convert: _Convert) -> Sequence[Any]:
    if convert is None:
        return values
    found: list[Any] = []
    last: Any = None
    became: Any = convert(None)
    for value in values:
        # The rows of a batch mostly carry the very same instant.
        if value is not last:
            last, became = value, convert(value)
        found.append(became)
    return found


def _converter(column: sa.Column[Any], dialect: Dialect) -> _Convert:
    if isinstance(column.type, sa.JSON) and dialect.name == "sqlite":
        return _document
    if isinstance(column.type, UTCDateTime) and dialect.name == "sqlite":
        return _instant
    convert: _Convert = column.type.dialect_impl(dialect).bind_processor(dialect)
    return convert


def _instant(value: datetime | None) -> str | None:
    if value is None:
        return None
    if value.tzinfo is None:
        raise ValueError("a time must have its zone")
    return value.astimezone(UTC).replace(tzinfo=None).isoformat(" ", "microseconds")


def _document(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, OverflowError):
        # Whole numbers of any size, for one, which the fast encoder does not write.
        return json.dumps(value)
