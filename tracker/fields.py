"""Reading reported values one by one, and saying everything that is wrong with them at once."""

import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from babel.core import get_global

from kernel.errors import FieldProblem, InvalidInput

# Reserved, withdrawn and test codes that the locale data lists beside the assigned ones.
_NO_COUNTRIES: Final = "AC BU CP CQ CS DD DG EA EU EZ IC QO SU TA TP UN XA XB YD YU ZR ZZ"
COUNTRIES: Final = frozenset(
    code
    # The countries with their currencies; the names of countries would stay in memory.
    for code in map(str, get_global("territory_currencies"))
    if re.fullmatch("[A-Z]{2}", code) and code not in _NO_COUNTRIES
)
CUSTOMERS: Final = ("new", "returning", "reactivated")
FUTURE_TOLERANCE: Final = timedelta(minutes=5)
_RFC3339: Final = re.compile(
    r"[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt ][0-9]{2}:[0-9]{2}:[0-9]{2}(?:\.[0-9]{1,9})?"
    r"(?:[Zz]|[+-][0-9]{2}:[0-9]{2})",
    re.ASCII,
)
_EARLIEST: Final = datetime(1970, 1, 1, tzinfo=UTC)


class Fields:
    """A reported object. What is missing, null or empty is None; what is wrong is remembered.

    `finish` raises one InvalidInput that names every wrong field.
    """

    def __init__(self, values: Mapping[str, Any], *, path: str = "") -> None:
        self._values = values
        self._path = path
        self.problems: list[FieldProblem] = []

    @property
    def path(self) -> str:
        """What stands before the names of the fields; empty for the report itself."""
        return self._path

    def problem(self, name: str, rule: str, message: str) -> None:
        """Remember that a field breaks a rule."""
        self.problems.append(FieldProblem(f"{self._path}{name}", rule, message))

    def value(self, name: str) -> Any:
        """The value as it came, or None when there is none."""
        found = self._values.get(name)
        return None if found == "" else found

    def text(
        self, name: str, *, chars_max: int, pattern: re.Pattern[str] | None = None
    ) -> str | None:
        """Printable text of 1 to `chars_max` characters, of the whole pattern when one is given."""
        found = self.value(name)
        if found is None:
            return None
        if not isinstance(found, str):
            self.problem(name, "type", "must be text")
        elif len(found) > chars_max or not found.isprintable():
            self.problem(name, "length", f"must be 1 to {chars_max} printable characters")
        elif pattern is not None and pattern.fullmatch(found) is None:
            self.problem(name, "format", f"must match {pattern.pattern}")
        else:
            return found
        return None

    def required_text(self, name: str, *, chars_max: int) -> str:
        """`text` of a field that must be there."""
        if self.value(name) is None:
            self.problem(name, "missing", "is required")
        return self.text(name, chars_max=chars_max) or ""

    def choice(self, name: str, choices: Sequence[str]) -> str | None:
        """One of the words."""
        found = self.value(name)
        if found is None:
            return None
        if found not in choices:
            self.problem(name, "choice", "must be one of " + ", ".join(choices))
            return None
        return str(found)

    def country(self, name: str) -> str | None:
        """An ISO 3166-1 alpha-2 code, in upper case."""
        found = self.value(name)
        if found is None:
            return None
        if not isinstance(found, str) or found.upper() not in COUNTRIES:
            self.problem(name, "iso_3166", "must be an ISO 3166-1 alpha-2 country code")
            return None
        return found.upper()

    def time(
        self, name: str, *, now: datetime, days_back_max: int | None = None
    ) -> datetime | None:
        """An RFC 3339 time, to the millisecond; not in the future, nor too far back."""
        found = self.value(name)
        if found is None:
            return None
        instant = parse_time(found)
        if instant is None:
            self.problem(name, "rfc_3339", "must be an RFC 3339 time such as 2026-03-01T12:00:00Z")
        elif instant > now + FUTURE_TOLERANCE:
            self.problem(name, "future", "must not lie in the future")
        elif days_back_max is not None and instant < now - timedelta(days=days_back_max):
            self.problem(name, "too_old", f"must not be more than {days_back_max} days back")
        else:
            return instant
        return None

    def only(self, *names: str) -> None:
        """Name every field that is not one of these."""
        for name in self._values:
            if name not in names:
                self.problem(name, "unknown", "is no field of this object")

    def finish(self) -> None:
        """Raise InvalidInput when anything was wrong."""
        if self.problems:
            raise InvalidInput(self.problems)


def parse_time(value: object) -> datetime | None:
    """The UTC instant of an RFC 3339 text, cut to the millisecond, or None."""
    if not isinstance(value, str) or _RFC3339.fullmatch(value) is None:
        return None
    try:
        instant = datetime.fromisoformat(value.upper()).astimezone(UTC)
    except (ValueError, OverflowError):
        return None
    if instant < _EARLIEST:
        return None
    return instant.replace(microsecond=instant.microsecond // 1000 * 1000)
