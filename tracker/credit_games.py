"""Credit from many orders at once: Shapley values and Markov removal effects. Pure and exact.

For reports, not for money: the figures change whenever the orders that they are fitted to do, and
no single order can be explained by them.
"""

from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction
from itertools import combinations
from math import factorial
from typing import Final

PLAYERS_MAX: Final = 12
STATES_MAX: Final = 60
CONVERTED: Final = "conv"
LOST: Final = "null"
_START: Final = ""


def shapley(
    players: Collection[str], values: Mapping[frozenset[str], Fraction]
) -> dict[str, Fraction]:
    """The players' weights: what each adds to a coalition, on average over every order of joining.

    `values` has one for every coalition of the players; the empty one is worth 0 unless it is
    named. Who adds less than nothing gets nothing. Empty when nobody adds anything. ValueError for
    a coalition without a value, or too many players.
    """
    names = sorted(set(players))
    if len(names) > PLAYERS_MAX:
        raise ValueError(f"coalitions: more than {PLAYERS_MAX} publishers")
    worth = {frozenset[str](): Fraction(), **values}
    total = factorial(len(names))
    added = dict.fromkeys(names, Fraction())
    for name in names:
        others = [other for other in names if other != name]
        for size in range(len(names)):
            orders = factorial(size) * factorial(len(names) - size - 1)
            for chosen in combinations(others, size):
                coalition = frozenset(chosen)
                gain = _worth(worth, coalition | {name}) - _worth(worth, coalition)
                added[name] += gain * Fraction(orders, total)
    return normalised(added)


def _worth(values: Mapping[frozenset[str], Fraction], coalition: frozenset[str]) -> Fraction:
    if coalition not in values:
        raise ValueError(f"coalitions: {'|'.join(sorted(coalition))} has no value")
    return values[coalition]


def normalised(values: Mapping[str, Fraction]) -> dict[str, Fraction]:
    """The positive values as parts of their sum; empty when there is none."""
    positive = {name: value for name, value in values.items() if value > 0}
    total = sum(positive.values())
    return {name: value / total for name, value in positive.items()}


def removal_effects(
    paths: Sequence[tuple[Sequence[str], int]],
) -> tuple[Fraction, dict[str, Fraction]]:
    """(chance that a visitor converts, the part of it that is lost without each publisher).

    A path is the publishers in order and, last, `conv` or `null`, with how often it was seen. A
    visitor moves as often as seen from each publisher to the next; without a publisher, whoever
    would go there is lost. ValueError for a path without an end, or none that converts.
    """
    chain = _transitions(paths)
    states = [state for state in chain if state != _START]
    if len(states) > STATES_MAX:
        raise ValueError(f"paths: more than {STATES_MAX} publishers")
    converts = _chance(chain, without=None)
    if not converts:
        raise ValueError("paths: none converts")
    return converts, {
        state: 1 - _chance(chain, without=state) / converts for state in sorted(states)
    }


_Chain = dict[str, dict[str, Fraction]]


def _transitions(paths: Sequence[tuple[Sequence[str], int]]) -> _Chain:
    counts: dict[str, dict[str, int]] = {}
    for path, times in paths:
        if not path or path[-1] not in (CONVERTED, LOST) or times < 1:
            raise ValueError(
                f"paths: each ends with {CONVERTED} or {LOST} and is seen once or more"
            )
        if CONVERTED in path[:-1] or LOST in path[:-1] or _START in path:
            raise ValueError(f"paths: {CONVERTED} and {LOST} only end a path")
        for here, there in zip((_START, *path[:-1]), path, strict=True):
            onwards = counts.setdefault(here, {})
            onwards[there] = onwards.get(there, 0) + times
    return {
        here: {there: Fraction(seen, sum(onwards.values())) for there, seen in onwards.items()}
        for here, onwards in counts.items()
    }


def _chance(chain: _Chain, *, without: str | None) -> Fraction:
    """The chance to convert from the start: one linear equation for each state, solved exactly."""
    states = [state for state in chain if state != without]
    place = {state: at for at, state in enumerate(states)}
    rows = []
    for state in states:
        row = [Fraction()] * (len(states) + 1)
        row[place[state]] += 1
        for there, chance in chain[state].items():
            if there in place:
                row[place[there]] -= chance
            elif there == CONVERTED:
                row[-1] += chance
        rows.append(row)
    return _solve(rows)[place[_START]] if _START in place else Fraction()


def _solve(rows: list[list[Fraction]]) -> list[Fraction]:
    """Gauss and Jordan. Every state reaches an end, so the equations have exactly one solution."""
    for at in range(len(rows)):
        pivot = next(row for row in range(at, len(rows)) if rows[row][at])
        rows[at], rows[pivot] = rows[pivot], rows[at]
        scale = rows[at][at]
        rows[at] = [value / scale for value in rows[at]]
        for other in range(len(rows)):
            factor = rows[other][at]
            if other != at and factor:
                rows[other] = [
                    value - factor * above
                    for value, above in zip(rows[other], rows[at], strict=True)
                ]
    return [row[-1] for row in rows]
