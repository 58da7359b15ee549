from fractions import Fraction
from itertools import combinations
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker.credit_games import normalised, removal_effects, shapley

PATHS = [(["A", "conv"], 1), (["A", "B", "conv"], 1), (["B", "null"], 1), (["A", "null"], 1)]


def test_shapley() -> None:
    values = {
        frozenset("A"): Fraction(1, 10),
        frozenset("B"): Fraction(2, 10),
        frozenset("AB"): Fraction(4, 10),
    }
    assert shapley("AB", values) == {"A": Fraction(3, 8), "B": Fraction(5, 8)}
    assert shapley("A", values) == {"A": Fraction(1)}


@pytest.mark.parametrize(
    ("players", "values", "message"),
    [
        ("AB", {frozenset("A"): Fraction(1), frozenset("B"): Fraction(1)}, "A|B has no value"),
        ("ABCDEFGHIJKLM", {}, "more than 12"),
    ],
)
def test_a_coalition_without_a_value_is_not_guessed(
    players: str, values: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message.replace("|", r"\|")):
        shapley(players, values)


@given(st.lists(st.fractions(0, 1), min_size=15, max_size=15))
def test_shapley_gives_everything_and_nothing_for_adding_nothing(
    numbers: list[Fraction],
) -> None:
    sets = [frozenset(one) for size in (1, 2, 3, 4) for one in combinations("ABCD", size)]
    values = dict(zip(sets, numbers, strict=True))
    with_idler = values | {one | {"X"}: value for one, value in values.items()}
    with_idler[frozenset("X")] = Fraction()
    found = shapley("ABCDX", with_idler)
    assert sum(found.values()) == (1 if found else 0)
    assert found == shapley("DCBA", values)


def test_markov() -> None:
    converts, effects = removal_effects(PATHS)
    assert (converts, effects) == (Fraction(1, 2), {"A": Fraction(3, 4), "B": Fraction(1, 2)})
    assert normalised(effects) == {"A": Fraction(3, 5), "B": Fraction(2, 5)}


def test_a_path_seen_twice_is_two_paths_and_loops_are_solved() -> None:
    twice = [(path, 2) for path, _ in PATHS]
    assert removal_effects(twice) == removal_effects(PATHS)
    converts, effects = removal_effects([(["A", "A", "B", "A", "conv"], 1), (["B", "null"], 1)])
    assert converts == Fraction(1, 2)
    assert effects["A"] == 1


@pytest.mark.parametrize(
    "paths",
    [
        [(["A"], 1)],
        [(["A", "conv", "B"], 1)],
        [([], 1)],
        [(["A", "conv"], 0)],
        [(["A", "null"], 1)],
    ],
)
def test_paths_without_an_end_are_refused(paths: Any) -> None:
    with pytest.raises(ValueError, match="paths"):
        removal_effects(paths)


@given(
    st.lists(
        st.tuples(
            st.lists(st.sampled_from("ABC"), min_size=1, max_size=5),
            st.sampled_from(["conv", "null"]),
            st.integers(1, 9),
        ),
        min_size=1,
        max_size=6,
    )
)
def test_no_effect_is_over_one(found: list[Any]) -> None:
    paths = [([*path, end], times) for path, end, times in [*found, (["A"], "conv", 1)]]
    converts, effects = removal_effects(paths)
    assert 0 < converts <= 1
    assert all(0 <= effect <= 1 for effect in effects.values())
    assert sum(normalised(effects).values()) == 1
