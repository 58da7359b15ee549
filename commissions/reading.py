"""Reading JSON that people wrote: every problem is collected with its path, none is raised. Pure.

A `Reader` remembers which fields were asked for; `finish` reports the rest as unknown, so a field
the engine does not evaluate can never pass unnoticed.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from datetime import UTC, datetime
from fractions import Fraction
from zoneinfo import ZoneInfo

from kernel.money import MAX_MINOR

Problems = list[tuple[str, str]]

MAX_TEXT = 200
MAX_ITEMS = 2000
MAX_RATE = 10**9

_DECIMAL = re.compile(r"[0-9]{1,12}(?:\.[0-9]{1,6})?", re.ASCII)
_SHARE = re.compile(r"[0-9]{1,12}(\.[0-9]{1,6}|/([0-9]{1,12}))?", re.ASCII)
_NEGATIVE = re.compile(r"-[0-9.]+", re.ASCII)


class Reader:
    """One JSON object at a path."""

    def __init__(self, document: object, path: str, problems: Problems) -> None:
        self.path = path
        self._problems = problems
        self._asked: set[str] = set()
        self._fields: Mapping[str, object] = {}
        if isinstance(document, Mapping) and all(isinstance(key, str) for key in document):
            self._fields = document
        else:
            problems.append((path, "must be an object"))

    def problem(self, name: str, reason: str) -> None:
        """Report a problem of the field `name`."""
        self._problems.append((self._at(name), reason))

    def has(self, name: str) -> bool:
        """Whether the object names the field."""
        return name in self._fields

    def names(self) -> list[str]:
        """The names of the object's fields, in order."""
        return list(self._fields)

    def finish(self) -> None:
        """Report every field that nobody asked for."""
        for name in self._fields:
            if name not in self._asked:
                self.problem(name, "unknown field")

    def refuse(self, *names: str, reason: str) -> None:
        """Report these fields, where present, as known but not evaluated."""
        for name in names:
            if self.has(name):
                self._asked.add(name)
                self.problem(name, reason)

    def text(self, name: str, default: str = "") -> str:
        """A non-empty string; without a default it must be there."""
        value = self.optional_text(name)
        if value is None and not default and not self.is_reported(name):
            self.problem(name, "missing")
        return default if value is None else value

    def optional_text(self, name: str) -> str | None:
        """A non-empty string or None when the field is absent or null."""
        value = self._take(name)
        if value is None:
            return None
        if isinstance(value, str) and 0 < len(value) <= MAX_TEXT:
            return value
        self.problem(name, f"must be text of 1 to {MAX_TEXT} characters")
        return None

    def choice(self, name: str, allowed: Collection[str], default: str = "") -> str:
        """One of the allowed words; anything else is reported as not supported."""
        value = self.text(name, default)
        if value and value not in allowed:
            self.problem(name, "not supported")
            return default
        return value

    def texts(self, name: str, limit: int = MAX_ITEMS) -> tuple[str, ...]:
        """Distinct non-empty strings in the given order."""
        values = self._sequence(name, limit)
        if not all(isinstance(value, str) and 0 < len(value) <= MAX_TEXT for value in values):
            self.problem(name, f"must hold texts of 1 to {MAX_TEXT} characters")
            return ()
        return tuple(dict.fromkeys(str(value) for value in values))

    def is_list(self, name: str) -> bool:
        """Whether the field is there and is a list."""
        return isinstance(self._fields.get(name), list | tuple)

    def integers(self, name: str, limit: int = MAX_MINOR) -> tuple[int, ...]:
        """Integers from 0 to `limit`, in the given order."""
        values = self._sequence(name, MAX_ITEMS)
        found = [value for value in values if type(value) is int and 0 <= value <= limit]
        if len(found) != len(values):
            self.problem(name, f"must hold integers from 0 to {limit}")
            return ()
        return tuple(found)

    def given(self, name: str) -> object:
        """The field as it stands, for a caller that reads it in its own way; None when absent."""
        return self._take(name)

    def objects(self, name: str, limit: int = MAX_ITEMS) -> list["Reader"]:
        """A reader for each object of a list."""
        values = self._sequence(name, limit)
        return [
            Reader(value, f"{self._at(name)}[{at}]", self._problems)
            for at, value in enumerate(values)
        ]

    def nested(self, name: str) -> "Reader | None":
        """A reader for a nested object; None when the field is absent or null."""
        value = self._take(name)
        return None if value is None else Reader(value, self._at(name), self._problems)

    def integer(self, name: str, default: int | None = None, limit: int = MAX_MINOR) -> int:
        """An integer from 0 to `limit`; without a default it must be there."""
        value = self.optional_integer(name, limit)
        if value is not None:
            return value
        if default is None and not self.is_reported(name):
            self.problem(name, "missing")
        return default or 0

    def optional_integer(self, name: str, limit: int = MAX_MINOR) -> int | None:
        """An integer from 0 to `limit`, or None when the field is absent or null."""
        value = self._take(name)
        if value is None:
            return None
        if type(value) is not int:
            self.problem(name, "must be an integer")
        elif value < 0:
            self.problem(name, "must not be negative")
        elif value > limit:
            self.problem(name, f"must be at most {limit}")
        else:
            return value
        return None

    def signed(self, name: str, limit: int = MAX_RATE) -> int:
        """An integer of either sign, 0 when absent."""
        value = self._take(name)
        if value is None:
            return 0
        if type(value) is int and abs(value) <= limit:
            return value
        self.problem(name, f"must be an integer of at most {limit}")
        return 0

    def flag(self, name: str) -> bool:
        """A boolean, False when absent."""
        value = self._take(name)
        if isinstance(value, bool | None):
            return bool(value)
        self.problem(name, "must be true or false")
        return False

    def decimal(self, name: str, limit: int = MAX_RATE) -> Fraction:
        """A decimal string with at most 6 decimals, exact; 0 when absent."""
        value = self._take(name)
        if value is None:
            return Fraction(0)
        if isinstance(value, str) and _NEGATIVE.fullmatch(value):
            self.problem(name, "must not be negative")
        elif not isinstance(value, str) or not _DECIMAL.fullmatch(value):
            self.problem(name, "must be a decimal string with at most 6 decimals")
        elif Fraction(value) > limit:
            self.problem(name, f"must be at most {limit}")
        else:
            return Fraction(value)
        return Fraction(0)

    def weight(self, name: str) -> int | Fraction:
        """A share: an integer, a decimal or a fraction such as "1/3", not negative; exact."""
        value = self._fields.get(name)
        if not isinstance(value, str):
            return self.integer(name)
        self._asked.add(name)
        match = _SHARE.fullmatch(value)
        if match is None or (match[2] is not None and not int(match[2])):
            self.problem(name, "must be an integer, a decimal or a fraction, not negative")
            return 0
        return Fraction(value)

    def time(self, name: str, zone: ZoneInfo) -> datetime | None:
        """An ISO 8601 time in UTC; without an offset it is local to `zone`."""
        value = self.optional_text(name)
        if value is None:
            return None
        try:
            parsed = datetime.fromisoformat(value)
            local = parsed if parsed.tzinfo else parsed.replace(tzinfo=zone)
            return local.astimezone(UTC)
        except (ValueError, OverflowError):
            self.problem(name, "must be an ISO 8601 time")
            return None

    def _sequence(self, name: str, limit: int) -> Sequence[object]:
        value = self._take(name)
        if value is None:
            return ()
        if not isinstance(value, list | tuple):
            self.problem(name, "must be a list")
            return ()
        if len(value) > limit:
            self.problem(name, f"must hold at most {limit} entries")
            return ()
        return value

    def _take(self, name: str) -> object:
        self._asked.add(name)
        return self._fields.get(name)

    def is_reported(self, name: str) -> bool:
        """Whether there is a problem of the field already."""
        return any(path == self._at(name) for path, _ in self._problems)

    def _at(self, name: str) -> str:
        return ".".join(part for part in (self.path, name) if part)
