"""Every refusal is a class with a stable code and facts; kernel.problems makes HTTP of it.

    AppError
    ├── InvalidInput        a field breaks a rule; names both; nothing changed
    ├── Unauthenticated     who is asking is not known
    ├── Forbidden           known, but may not do this
    ├── NotFound            does not exist, or is another party's (never told apart)
    ├── Conflict            contradicts what is already recorded
    ├── Refused             well-formed, but a business rule says no
    ├── TooLarge            a documented limit was passed
    ├── TooMany             a rate limit was passed
    └── Unavailable         cannot be done now; a repeat may succeed

A package subclasses the fitting branch and sets `code`. An error is raised where the rule is known,
and turned into an answer once, at the edge.
"""

from dataclasses import asdict, dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class FieldProblem:
    """One broken rule: the field's path (`items[2].amount`), the rule's code, a sentence."""

    field: str
    rule: str
    message: str


class AppError(Exception):
    """A refusal with a stable `code`, a sentence for people and facts for programs."""

    code: ClassVar[str] = "error"
    title: ClassVar[str] = "The request failed"

    def __init__(self, message: str, **facts: Any) -> None:
        super().__init__(message)
        self.message = message
        self.facts = facts


class InvalidInput(AppError):
    """Input that breaks a rule. `problems` names every field found wrong, not only the first."""

    code = "invalid_input"
    title = "The input breaks a rule"

    def __init__(self, problems: list[FieldProblem]) -> None:
        first = problems[0]
        super().__init__(
            f"{first.field}: {first.message}", errors=[asdict(problem) for problem in problems]
        )
        self.problems = problems


class Unauthenticated(AppError):
    """Missing, wrong or expired credentials. The answer is the same for all three."""

    code = "unauthenticated"
    title = "Who is asking is not known"


class Forbidden(AppError):
    """The actor is known and this action is not theirs."""

    code = "forbidden"
    title = "Not allowed"


class NotFound(AppError):
    """No such thing for this actor."""

    code = "not_found"
    title = "Not found"


class Conflict(AppError):
    """What is asked contradicts what is recorded; nothing changed."""

    code = "conflict"
    title = "Contradicts what is recorded"


class Refused(AppError):
    """Well-formed, and a business rule says no; nothing changed."""

    code = "refused"
    title = "Refused by a rule"


class TooLarge(AppError):
    """A documented size or count limit was passed."""

    code = "too_large"
    title = "Over a limit"


class TooMany(AppError):
    """A rate limit was passed; `retry_after_seconds` says when to come back."""

    code = "too_many_requests"
    title = "Too many requests"

    def __init__(self, message: str, *, retry_after_seconds: int) -> None:
        super().__init__(message, retry_after_seconds=retry_after_seconds)
        self.retry_after_seconds = retry_after_seconds


class Unavailable(AppError):
    """Cannot be done now. Nothing was recorded; the caller keeps the work and repeats it."""

    code = "unavailable"
    title = "Temporarily unavailable"


def invalid(field: str, rule: str, message: str) -> InvalidInput:
    """The InvalidInput for a single field."""
    return InvalidInput([FieldProblem(field=field, rule=rule, message=message)])
