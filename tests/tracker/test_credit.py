from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kernel.money import allocate
from tracker.credit import (
    DECAY_BITS,
    Conditions,
    MissingContributor,
    Model,
    Params,
    Role,
    Share,
    Touch,
    decay,
    payee,
    share,
    sift,
)

ORDER_AT = datetime(2026, 3, 15, 12, 0, tzinfo=UTC)
WINDOW = Conditions(window=timedelta(hours=720))


def touch(name: str, before: timedelta, publisher: str = "", **facts: Any) -> Touch:
    return Touch(id=name, publisher=publisher or f"pub-{name}", at=ORDER_AT - before, **facts)


def way(publishers: str) -> list[Touch]:
    """A touch of each of these publishers, a day apart, the last at the order."""
    return [
        touch(f"t{at}", timedelta(days=len(publishers) - 1 - at), publisher)
        for at, publisher in enumerate(publishers)
    ]


def weights(shares: Sequence[Share]) -> dict[str, str]:
    return {one.publisher: str(one.weight) for one in shares}


@pytest.mark.parametrize(
    ("touches", "winner", "reason"),
    [
        ([], None, ""),
        ([touch("a", timedelta(days=14)), touch("b", timedelta(days=7))], "b", ""),
        ([touch("a", timedelta(hours=720))], "a", ""),
        ([touch("a", timedelta(hours=720, milliseconds=1))], None, "outside_window"),
        ([touch("a", timedelta(seconds=-60))], "a", ""),
        ([touch("a", timedelta(seconds=-60, milliseconds=-1))], None, "click_after_order"),
        ([touch("a", timedelta(1), refusal="prefetch")], None, "prefetch"),
        ([touch("a", timedelta(2)), touch("b", timedelta(1), refusal="paused")], "a", "paused"),
        ([touch("a", timedelta(1)), touch("b", timedelta(1))], "b", ""),
        ([touch("a", timedelta(1), kind="impression")], None, "impression"),
    ],
)
def test_last_click(touches: list[Touch], winner: str | None, reason: str) -> None:
    for given_in in (touches, touches[::-1]):
        kept, lost = sift(given_in, converted_at=ORDER_AT, conditions=WINDOW)
        shares = share(kept, Model.LAST_CLICK, Params())
        found = shares[0].touch if shares else None
        assert (found.id if found else None, lost[-1][1] if lost else "") == (winner, reason)


@pytest.mark.parametrize(
    ("model", "publishers", "expected"),
    [
        (Model.FIRST_CLICK, "ABC", {"A": "1"}),
        (Model.LINEAR, "ABC", {"A": "1/3", "B": "1/3", "C": "1/3"}),
        (Model.LINEAR, "ABA", {"A": "2/3", "B": "1/3"}),
        (Model.POSITION, "A", {"A": "1"}),
        (Model.POSITION, "AB", {"A": "1/2", "B": "1/2"}),
        (Model.POSITION, "ABC", {"A": "2/5", "B": "1/5", "C": "2/5"}),
        (Model.POSITION, "ABCD", {"A": "2/5", "B": "1/10", "C": "1/10", "D": "2/5"}),
        (Model.SPLIT, "A", {"A": "1"}),
        (Model.SPLIT, "AB", {"A": "2/5", "B": "3/5"}),
        (Model.SPLIT, "ABC", {"A": "2/5", "B": "1/5", "C": "2/5"}),
        (Model.SPLIT, "ABBCD", {"A": "2/5", "B": "1/10", "C": "1/10", "D": "2/5"}),
        (Model.SPLIT, "ABA", {"A": "4/5", "B": "1/5"}),
    ],
)
def test_shares(model: Model, publishers: str, expected: dict[str, str]) -> None:
    assert weights(share(way(publishers), model, Params())) == expected


@pytest.mark.parametrize(
    ("missing", "expected"),
    [
        (MissingContributor.CONVERTER, {"A": "3/10", "B": "7/10"}),
        (MissingContributor.INITIATOR, {"A": "1/2", "B": "1/2"}),
        (MissingContributor.SPLIT, {"A": "2/5", "B": "3/5"}),
    ],
)
def test_who_gets_the_part_of_a_missing_contributor(
    missing: MissingContributor, expected: dict[str, str]
) -> None:
    params = Params(
        initiator_percent=Fraction(30),
        contributor_percent=Fraction(20),
        converter_percent=Fraction(50),
        missing_contributor=missing,
    )
    assert weights(share(way("AB"), Model.SPLIT, params)) == expected


def test_half_as_much_for_every_half_life() -> None:
    touches = [touch(str(days), timedelta(days=days), f"p{days}") for days in (14, 7, 0)]
    found = share(touches, Model.TIME_DECAY, Params())
    assert weights(found) == {"p14": "1/7", "p7": "2/7", "p0": "4/7"}


def test_a_touch_too_old_to_weigh_anything_has_no_share() -> None:
    touches = [touch("a", timedelta(days=40)), touch("b", timedelta())]
    found = share(touches, Model.TIME_DECAY, Params(half_life_seconds=86_400))
    assert [(one.publisher, one.weight, one.role) for one in found] == [
        ("pub-b", Fraction(1), Role.CONVERTER)
    ]


@given(st.integers(0, 40 * 86_400), st.integers(1, 30 * 86_400))
def test_decay_is_within_a_unit_of_the_true_value(age: int, half_life: int) -> None:
    true = 2.0 ** (DECAY_BITS - age / half_life)
    assert abs(decay(age, half_life) - true) <= 1


def test_roles() -> None:
    found = share(way("ABC"), Model.LINEAR, Params())
    assert [one.role for one in found] == [Role.INITIATOR, Role.CONTRIBUTOR, Role.CONVERTER]
    assert payee(found).publisher == "C"
    assert payee(share(way("ABA"), Model.LINEAR, Params())).publisher == "A"
    assert share(way("ABC"), Model.FIRST_CLICK, Params())[0].role is Role.CONVERTER


def test_a_click_comes_before_a_later_impression() -> None:
    touches = [
        touch("a", timedelta(2)),
        touch("b", timedelta(hours=1), kind="impression"),
    ]
    conditions = Conditions(impression_window=timedelta(days=1))
    kept, lost = sift(touches, converted_at=ORDER_AT, conditions=conditions)
    assert not lost
    assert weights(share(kept, Model.LAST_CLICK, Params())) == {"pub-a": "1"}
    assert weights(share(kept, Model.LINEAR, Params())) == {"pub-a": "1/2", "pub-b": "1/2"}


def fates(touches: Sequence[Touch], **conditions: Any) -> dict[str, str]:
    kept, lost = sift(touches, converted_at=ORDER_AT, conditions=Conditions(**conditions))
    return dict.fromkeys((one.id for one in kept), "") | {one.id: why for one, why in lost}


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(30, {"a": "", "b": "stand_down"}), (29, {"a": "", "b": ""})],
)
def test_a_last_second_overwrite_stands_down(seconds: int, expected: dict[str, str]) -> None:
    touches = [touch("a", timedelta(days=1)), touch("b", timedelta(seconds=30))]
    assert fates(touches, stand_down_seconds=seconds) == expected


def test_nobody_stands_down_for_themselves_or_for_no_one() -> None:
    alone = [touch("b", timedelta(seconds=5), "B")]
    assert fates(alone, stand_down_seconds=60) == {"b": ""}
    again = [touch("a", timedelta(1), "B"), *alone]
    assert fates(again, stand_down_seconds=60) == {"a": "", "b": ""}
    three = [
        touch("a", timedelta(1), "A"),
        touch("b", timedelta(seconds=50), "B"),
        touch("c", timedelta(seconds=10), "A"),
    ]
    assert fates(three, stand_down_seconds=60) == {"a": "", "b": "stand_down", "c": ""}


def test_a_click_after_the_basket_was_filled_loses_to_an_earlier_one() -> None:
    cart_at = ORDER_AT - timedelta(minutes=10)
    late = touch("b", timedelta(minutes=5))
    both = [touch("a", timedelta(hours=5)), late]
    assert fates(both, cart_at=cart_at) == {"a": "", "b": "in_cart"}
    assert fates(both, cart_at=cart_at, in_cart_seconds=300) == {"a": "", "b": "in_cart"}
    assert fates(both, cart_at=cart_at, in_cart_seconds=299) == {"a": "", "b": ""}
    assert fates([late], cart_at=cart_at) == {"b": ""}
    assert fates([late], cart_at=cart_at, in_cart_rejects_solo=True) == {"b": "in_cart"}


def test_windows_of_publishers_and_excluded_ones() -> None:
    touches = [touch("a", timedelta(hours=30), "A"), touch("b", timedelta(hours=30), "B")]
    own = {"A": timedelta(hours=24)}
    window = timedelta(hours=48)
    assert fates(touches, window=window, windows=own) == {"a": "outside_window", "b": ""}
    assert fates(touches, excluded=frozenset({"B"})) == {"a": "", "b": "excluded"}


TOUCHES = st.lists(
    st.builds(
        lambda second, publisher, number: Touch(
            id=f"t{number}", publisher=publisher, at=ORDER_AT - timedelta(seconds=second)
        ),
        st.integers(0, 50 * 86_400),
        st.sampled_from("ABCDE"),
        st.integers(0, 10**6),
    ),
    max_size=12,
    unique_by=lambda one: one.id,
)
MODELS = st.sampled_from(Model)


@given(TOUCHES, MODELS, st.integers(-(10**12), 10**12))
def test_weights_sum_to_one_and_money_is_split_whole(
    touches: list[Touch], model: Model, total: int
) -> None:
    found = share(touches, model, Params())
    assert bool(found) is bool(touches)
    if found:
        assert sum(one.weight for one in found) == 1
        assert all(one.weight > 0 for one in found)
        assert sum(allocate(total, [one.weight for one in found])) == total
        assert all(max(one.weight.denominator, one.weight.numerator) < 2**63 for one in found)
        assert payee(found) in found


@given(TOUCHES, MODELS, st.randoms())
def test_the_order_of_the_touches_does_not_matter(
    touches: list[Touch], model: Model, random: Any
) -> None:
    shuffled = list(touches)
    random.shuffle(shuffled)
    conditions = Conditions(
        stand_down_seconds=86_400, cart_at=ORDER_AT - timedelta(days=3), window=timedelta(days=30)
    )
    kept, lost = sift(touches, converted_at=ORDER_AT, conditions=conditions)
    assert sift(shuffled, converted_at=ORDER_AT, conditions=conditions) == (kept, lost)
    assert share(kept, model, Params()) == share(kept[::-1], model, Params())


@given(TOUCHES, st.integers(1, 1200), st.integers(0, 1200))
def test_a_wider_window_keeps_what_a_narrower_one_keeps(
    touches: list[Touch], hours: int, more: int
) -> None:
    def kept(window_hours: int) -> list[Touch]:
        conditions = Conditions(window=timedelta(hours=window_hours))
        return sift(touches, converted_at=ORDER_AT, conditions=conditions)[0]

    assert [one for one in kept(hours + more) if one in kept(hours)] == kept(hours)
    assert set(kept(hours)) <= set(kept(hours + more))


@given(TOUCHES, MODELS)
def test_half_of_a_publisher_is_not_more_than_all_of_it(touches: list[Touch], model: Model) -> None:
    """Calling every publisher by one name gives that one everything."""
    one = [Touch(id=each.id, publisher="A", at=each.at) for each in touches]
    found = share(one, model, Params())
    assert weights(found) == ({"A": "1"} if touches else {})
