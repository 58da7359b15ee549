"""Many rows into one table without SQLAlchemy's work for each of them.

The values still go through the column types, so that what is stored is what the tables say; a time
that many rows share is converted once, and documents are written by a faster encoder.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Dialect
from sqlmodel import Session

_Convert = Callable[[Any], Any] | None


class Insert:
    """INSERT of the named columns of a table; rows are numbered in the order given.

    With a `key`, a row that is there already with the same value of it takes the new values.
    """

    def __init__(self, table: sa.Table, *names: str, key: str = "") -> None:
        self._columns = [table.c[name] for name in names]
        self._names = names
        self._key = key
        self._table = table
        self._prepared: dict[str, tuple[str, list[tuple[str, _Convert]]]] = {}

    def __call__(self, session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert the rows; each must have a value for every column."""
        if not rows:
            return
        connection = session.connection()
        sql, columns = self._for(connection.dialect)
        converted = zip(*(_column(rows, name, convert) for name, convert in columns), strict=True)
        connection.exec_driver_sql(sql, list(converted))

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
            converters = [(one.name, _converter(one, dialect)) for one in self._columns]
            self._prepared[dialect.name] = sql, converters
        return self._prepared[dialect.name]


def _column(rows: Sequence[Mapping[str, Any]], name: str, convert: _Convert) -> list[Any]:
    values = [row[name] for row in rows]
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
    convert: _Convert = column.type.dialect_impl(dialect).bind_processor(dialect)
    return convert


def _document(value: Any) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (TypeError, ValueError, OverflowError):
        # Whole numbers of any size, for one, which the fast encoder does not write.
        return json.dumps(value)
