"""Ids: sortable when fresh, repeatable when derived, and never the same for different facts."""

from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from kernel.ids import derived_id, new_id

KEY = bytes(32)
START = datetime(2000, 1, 1, tzinfo=UTC)
ALPHABET = set("0123456789abcdefghjkmnpqrstvwxyz")
parts = st.lists(st.text(st.characters(exclude_categories=["Cs"])), max_size=4)
milliseconds = st.integers(0, 100 * 365 * 86_400_000)


def test_a_fresh_id_has_its_prefix_and_26_characters() -> None:
    prefix, _, rest = new_id("pub").partition("_")

    assert prefix == "pub"
    assert len(rest) == 26
    assert set(rest) <= ALPHABET


def test_fresh_ids_of_one_instant_differ() -> None:
    assert len({new_id("clk", at=START) for _ in range(1000)}) == 1000


@given(milliseconds, st.integers(1, 10**9))
def test_an_id_made_later_sorts_later_to_the_millisecond(since: int, pause: int) -> None:
    earlier = START + timedelta(milliseconds=since)

    assert new_id("x", at=earlier) < new_id("x", at=earlier + timedelta(milliseconds=pause))


def test_bug_a_float_put_an_id_into_the_millisecond_before() -> None:
    # 2004-05-09T17:29:13.471Z times 1000 is a hair below a whole number as a float.
    earlier = START + timedelta(milliseconds=137_438_953_471)

    first, second = new_id("x", at=earlier), new_id("x", at=earlier + timedelta(milliseconds=1))

    assert first < second


@given(parts, parts)
def test_equal_parts_give_the_equal_id_and_distinct_parts_a_distinct_one(
    one: list[str], other: list[str]
) -> None:
    assert (derived_id("c", KEY, *one) == derived_id("c", KEY, *other)) == (one == other)


def test_parts_are_not_run_together() -> None:
    ids = {
        derived_id("c", KEY, *each) for each in (("a", "bc"), ("ab", "c"), ("abc",), ("abc", ""))
    }

    assert len(ids) == 4


def test_a_derived_id_needs_the_key_and_stays_the_same_for_ever() -> None:
    # Written down: ids of orders already recorded must not change with a release.
    assert derived_id("cnv", KEY, "prg_1", "order-1") == "cnv_21z8tamd721sd2ask6e6v988b0"
    assert derived_id("cnv", b"\1" * 32, "prg_1", "order-1") != "cnv_21z8tamd721sd2ask6e6v988b0"
