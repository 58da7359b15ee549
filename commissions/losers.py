"""Why a rule does not pay a line, as it was recorded, read back as sentences. Pure."""

import re
from typing import Any, Final

_OUTRANKED: Final = "outranked by "
_S: Final = r"[a-z_, ]+"
# What `choosing` writes down, and the sentence it becomes. Words of the vocabulary are translated,
# values are not.
_PATTERNS: Final = (
    (
        r"outranked by (?P<winner>.+): priority (?P<high>-?\d+) over (?P<low>-?\d+)",
        "Line {line}: rule {rule} loses to {winner}: priority {high} over {low}.",
    ),
    (
        rf"outranked by (?P<winner>.+): (?P<more_>{_S}) is more specific than (?P<less_>{_S})",
        "Line {line}: rule {rule} loses to {winner}: {more} is more specific than {less}.",
    ),
    (
        r"outranked by (?P<winner>.+): it is effective from a later date",
        "Line {line}: rule {rule} loses to {winner}, which began later.",
    ),
    (
        r"outranked by (?P<winner>.+): its id comes first",
        "Line {line}: rule {rule} loses to {winner}, whose name comes first.",
    ),
    (
        r"not in force when the order occurred",
        "Line {line}: rule {rule} was not in force when the order occurred.",
    ),
    (
        r"order total is under the minimum",
        "Line {line}: rule {rule} does not match: the order is below its minimum.",
    ),
    (
        r"order total is not over the bound",
        "Line {line}: rule {rule} does not match: the order is not over its bound.",
    ),
    (
        r"order total is over the maximum",
        "Line {line}: rule {rule} does not match: the order is over its maximum.",
    ),
    (
        r"too long after the first payment",
        "Line {line}: rule {rule} does not match: it is too long after the first order.",
    ),
    # Last, because their form is that of others too.
    (
        r"(?P<name_>[a-z_]+) is unknown",
        "Line {line}: rule {rule} does not match: {name} is unknown.",
    ),
    (
        r"(?P<name_>[a-z_]+) is (?P<value>.+)",
        "Line {line}: rule {rule} does not match: {name} is {value}.",
    ),
)
_COMPILED: Final = tuple((re.compile(pattern), message) for pattern, message in _PATTERNS)


def is_outranked(reason: str) -> bool:
    """Whether the rule matched and another came first."""
    return reason.startswith(_OUTRANKED)


def sentence(reason: str) -> tuple[str, dict[str, Any]]:
    """A sentence about `line` and `rule`, and its other values; words to translate are tuples."""
    for pattern, message in _COMPILED:
        match = pattern.fullmatch(reason)
        if match:
            return message, {
                name.rstrip("_"): tuple(value.split(", ")) if name.endswith("_") else value
                for name, value in match.groupdict().items()
            }
    return "Line {line}: rule {rule} does not pay it: {why}.", {"why": reason}
