"""What the checks of the books find."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """A broken invariant (its number in the list of invariants), what broke it, and how."""

    invariant: int
    subject: str
    detail: str
