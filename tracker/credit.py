"""Which touches count for an order, and how its credit is shared between them. Pure and exact.

Weights are fractions that sum to 1. Touches are ordered by their time and, at the same time, by
their id, so that no answer depends on the order in which they were given.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from fractions import Fraction
from math import isqrt
from typing import Final

from tracker.rules import CLOCK_TOLERANCE, AttributionReason

# 2^-x is irrational for most x; this many binary digits of it are kept, always the same ones.
DECAY_BITS: Final = 32
_GUARD_BITS: Final = 64
_EXPONENT_BITS: Final = 48


class Model(StrEnum):
    """How the credit of an order is shared between the touches that count."""

    LAST_CLICK = "last_click"
    FIRST_CLICK = "first_click"
    LINEAR = "linear"
    POSITION = "position"
    TIME_DECAY = "time_decay"
    SPLIT = "split"


class Kind(StrEnum):
    """What a touch was. An impression counts only where it has a window of its own."""

    CLICK = "click"
    IMPRESSION = "impression"
    COUPON = "coupon"


class Role(StrEnum):
    """What a publisher did for an order: began the way to it, was on it, or ended it."""

    INITIATOR = "initiator"
    CONTRIBUTOR = "contributor"
    CONVERTER = "converter"


class MissingContributor(StrEnum):
    """Who gets the contributors' part when nobody stands between the first and the last."""

    CONVERTER = "converter"
    INITIATOR = "initiator"
    SPLIT = "split"


@dataclass(frozen=True, slots=True, kw_only=True)
class Touch:
    """A visit that a publisher brought. `refusal` is why it may not earn, empty when it may."""

    publisher: str
    at: datetime
    id: str = ""
    kind: str = Kind.CLICK
    refusal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Params:
    """The figures of the models; each model reads its own. Percents of a model sum to 100."""

    half_life_seconds: int = 7 * 86_400
    first_percent: Fraction = Fraction(40)
    last_percent: Fraction = Fraction(40)
    initiator_percent: Fraction = Fraction(40)
    contributor_percent: Fraction = Fraction(20)
    converter_percent: Fraction = Fraction(40)
    missing_contributor: MissingContributor = MissingContributor.CONVERTER


@dataclass(frozen=True, slots=True, kw_only=True)
class Conditions:
    """Which touches count. A window None is without end; 0 for impressions: they never count.

    `windows` are those of single publishers. A touch of the last `stand_down_seconds` before the
    order loses to an earlier one of another publisher; a touch after `cart_at` (and within
    `in_cart_seconds` of the order, when given) to one from before the basket was filled.
    """

    window: timedelta | None = None
    windows: Mapping[str, timedelta] = field(default_factory=dict)
    impression_window: timedelta = timedelta()
    tolerance: timedelta = CLOCK_TOLERANCE
    excluded: frozenset[str] = frozenset()
    cart_at: datetime | None = None
    in_cart_seconds: int | None = None
    in_cart_rejects_solo: bool = False
    stand_down_seconds: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Share:
    """A publisher's part of an order, with the latest of its touches that count."""

    publisher: str
    weight: Fraction
    role: Role
    touch: Touch | None = None


def ordered(touches: Sequence[Touch]) -> list[Touch]:
    """The touches by time; at the same time by id, then by publisher."""
    return sorted(touches, key=lambda touch: (touch.at, touch.id, touch.publisher, touch.kind))


def sift(
    touches: Sequence[Touch], *, converted_at: datetime, conditions: Conditions
) -> tuple[list[Touch], list[tuple[Touch, str]]]:
    """(touches that count, touches that do not with the reason), both oldest first."""
    kept: list[Touch] = []
    lost: list[tuple[Touch, str]] = []
    for touch in ordered(touches):
        reason = _refusal(touch, converted_at, conditions)
        if reason:
            lost.append((touch, reason))
        else:
            kept.append(touch)
    for guard in (_without_late_clicks, _without_overwrites):
        kept, more = guard(kept, converted_at, conditions)
        lost += more
    return kept, sorted(lost, key=lambda one: (one[0].at, one[0].id, one[0].publisher))


def _refusal(touch: Touch, converted_at: datetime, conditions: Conditions) -> str:
    if touch.refusal:
        return touch.refusal
    if touch.publisher in conditions.excluded:
        return AttributionReason.EXCLUDED
    if touch.at > converted_at + conditions.tolerance:
        return AttributionReason.CLICK_AFTER_ORDER
    window = conditions.windows.get(touch.publisher, conditions.window)
    if touch.kind == Kind.IMPRESSION:
        if not conditions.impression_window:
            return AttributionReason.IMPRESSION
        window = conditions.impression_window
    if window is not None and touch.at < converted_at - window:
        return AttributionReason.OUTSIDE_WINDOW
    return ""


_Sifted = tuple[list[Touch], list[tuple[Touch, str]]]


def _without_late_clicks(
    touches: list[Touch], converted_at: datetime, conditions: Conditions
) -> _Sifted:
    """Drop touches that came after the basket was filled, when an earlier one is there."""
    cart_at = conditions.cart_at
    if cart_at is None:
        return touches, []
    has_earlier = any(touch.at < cart_at for touch in touches)
    if not has_earlier and not conditions.in_cart_rejects_solo:
        return touches, []
    seconds = conditions.in_cart_seconds
    threshold = None if seconds is None else converted_at - timedelta(seconds=seconds)

    def is_late(touch: Touch) -> bool:
        return touch.at >= cart_at and (threshold is None or touch.at >= threshold)

    late: list[tuple[Touch, str]] = [
        (touch, AttributionReason.IN_CART) for touch in touches if is_late(touch)
    ]
    return [touch for touch in touches if not is_late(touch)], late


def _without_overwrites(
    touches: list[Touch], converted_at: datetime, conditions: Conditions
) -> _Sifted:
    """Drop touches at the checkout by which a publisher would displace another one."""
    if not conditions.stand_down_seconds:
        return touches, []
    guarded_from = converted_at - timedelta(seconds=conditions.stand_down_seconds)
    kept: list[Touch] = []
    lost: list[tuple[Touch, str]] = []
    for touch in touches:
        if touch.at >= guarded_from and kept and kept[-1].publisher != touch.publisher:
            lost.append((touch, AttributionReason.STAND_DOWN))
        else:
            kept.append(touch)
    return kept, lost


def share(touches: Sequence[Touch], model: Model, params: Params) -> list[Share]:
    """The shares of an order between the touches that count, by their first touch, oldest first.

    Empty without touches. Impressions share with clicks, but for `last_click` and `first_click`:
    there a click, however old, comes before any impression.
    """
    way = ordered(touches)
    if not way:
        return []
    weights = _WEIGHTS[model](way, params)
    sums: dict[str, Fraction] = {}
    latest: dict[str, Touch] = {}
    for touch, weight in zip(way, weights, strict=True):
        sums[touch.publisher] = sums.get(touch.publisher, Fraction()) + weight
        if weight:
            latest[touch.publisher] = touch
    earning = [publisher for publisher, weight in sums.items() if weight]
    roles = _roles(way, earning)
    return [
        Share(
            publisher=publisher,
            weight=sums[publisher],
            role=roles[publisher],
            touch=latest[publisher],
        )
        for publisher in earning
    ]


def payee(shares: Sequence[Share]) -> Share:
    """The share that decides who is paid where one is: the greatest; of equal ones the latest."""
    return max(
        shares,
        key=lambda one: (one.weight, one.role is Role.CONVERTER, *_latest(one), one.publisher),
    )


def _latest(one: Share) -> tuple[float, str]:
    return (one.touch.at.timestamp(), one.touch.id) if one.touch else (0, "")


def _roles(way: Sequence[Touch], earning: Sequence[str]) -> dict[str, Role]:
    first, last = way[0].publisher, way[-1].publisher
    roles = dict.fromkeys(earning, Role.CONTRIBUTOR)
    for publisher, role in ((first, Role.INITIATOR), (last, Role.CONVERTER)):
        if publisher in roles:
            roles[publisher] = role
    if len(earning) == 1:
        roles[earning[0]] = Role.CONVERTER
    return roles


def _of_clicks(way: Sequence[Touch]) -> list[int]:
    """Positions of the clicks, or of everything where there is no click."""
    found = [at for at, touch in enumerate(way) if touch.kind != Kind.IMPRESSION]
    return found or list(range(len(way)))


def _only(way: Sequence[Touch], chosen: int) -> list[Fraction]:
    return [Fraction(at == chosen) for at in range(len(way))]


def _last_click(way: Sequence[Touch], _params: Params) -> list[Fraction]:
    return _only(way, _of_clicks(way)[-1])


def _first_click(way: Sequence[Touch], _params: Params) -> list[Fraction]:
    return _only(way, _of_clicks(way)[0])


def _linear(way: Sequence[Touch], _params: Params) -> list[Fraction]:
    return [Fraction(1, len(way))] * len(way)


def _position(way: Sequence[Touch], params: Params) -> list[Fraction]:
    """First and last as given, the rest in equal parts; one or two touches share equally."""
    first, last = params.first_percent / 100, params.last_percent / 100
    between = len(way) - 2
    if between <= 0:
        return [Fraction(1, len(way))] * len(way)
    return [first, *[(1 - first - last) / between] * between, last]


def _time_decay(way: Sequence[Touch], params: Params) -> list[Fraction]:
    """Half as much for every half-life that a touch is older than the youngest one."""
    youngest = way[-1].at
    second = timedelta(seconds=1)
    values = [decay((youngest - touch.at) // second, params.half_life_seconds) for touch in way]
    total = sum(values)
    return [Fraction(value, total) for value in values]


def decay(age_seconds: int, half_life_seconds: int) -> int:
    """2^(-age / half-life) in units of 2^-DECAY_BITS, to the nearest unit; 0 when too old.

    Whole numbers only, so it is the same on every machine: exact for whole half-lives, otherwise
    within a unit. The fraction of the exponent is cut after 48 binary digits, and each digit that
    is set multiplies by a root of one half from a table of 64 binary digits.
    """
    whole, rest = divmod(age_seconds, half_life_seconds)
    if whole > DECAY_BITS:
        return 0
    digits = (rest << _EXPONENT_BITS) // half_life_seconds
    value = 1 << _GUARD_BITS
    for at, root in enumerate(_ROOTS, start=1):
        if digits >> (_EXPONENT_BITS - at) & 1:
            value = value * root >> _GUARD_BITS
    down = _GUARD_BITS - DECAY_BITS + whole
    return (value + (1 << (down - 1))) >> down


def _roots_of_half() -> tuple[int, ...]:
    """2^(-1/2), 2^(-1/4), 2^(-1/8) ... with 64 binary digits."""
    roots = [isqrt(1 << (2 * _GUARD_BITS - 1))]
    while len(roots) < _EXPONENT_BITS:
        roots.append(isqrt(roots[-1] << _GUARD_BITS))
    return tuple(roots)


_ROOTS: Final = _roots_of_half()


def _split(way: Sequence[Touch], params: Params) -> list[Fraction]:
    """By what each publisher did; each publisher's part stands at its last touch."""
    first, last = way[0].publisher, way[-1].publisher
    between = {touch.publisher for touch in way} - {first, last}
    parts = dict.fromkeys(between, Fraction())
    parts |= {first: Fraction(), last: Fraction()}
    parts[first] += params.initiator_percent / 100
    parts[last] += params.converter_percent / 100
    rest = params.contributor_percent / 100
    for publisher in between:
        parts[publisher] += rest / len(between)
    if not between:
        to_first = _SHARE_OF_INITIATOR[params.missing_contributor] * rest
        parts[first] += to_first
        parts[last] += rest - to_first
    final = {touch.publisher: at for at, touch in enumerate(way)}
    return [
        parts[touch.publisher] if final[touch.publisher] == at else Fraction()
        for at, touch in enumerate(way)
    ]


_SHARE_OF_INITIATOR: Final[Mapping[str, Fraction]] = {
    MissingContributor.CONVERTER: Fraction(0),
    MissingContributor.INITIATOR: Fraction(1),
    MissingContributor.SPLIT: Fraction(1, 2),
}
_WEIGHTS: Final[Mapping[Model, Callable[[Sequence[Touch], Params], list[Fraction]]]] = {
    Model.LAST_CLICK: _last_click,
    Model.FIRST_CLICK: _first_click,
    Model.LINEAR: _linear,
    Model.POSITION: _position,
    Model.TIME_DECAY: _time_decay,
    Model.SPLIT: _split,
}
