"""The section `attribution` of documents of vectors: touches and a model in, exact weights out.

Beside the models of `tracker.credit`, a model may be the name of a guard (`in_cart`, `stand_down`,
`channel_dedup`, `preferred_partner`, `coupon`, `lead_then_sale`): then `base` names the model that
shares what the guard leaves, the last click unless it says otherwise. Every guard also works
beside every model, by its parameters alone.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from fractions import Fraction
from typing import Any, Final

from kernel.money import allocate
from tracker.coupons import Code
from tracker.credit import Conditions, Model, Role, Share, Touch, ordered, share, sift
from tracker.credit_games import normalised, removal_effects, shapley
from tracker.credit_terms import Preferred, read_params
from tracker.fields import Fields, parse_time
from tracker.rules import CLOCK_TOLERANCE, AttributionReason

_GUARDS: Final = frozenset(
    {"in_cart", "stand_down", "channel_dedup", "preferred_partner", "coupon", "lead_then_sale"}
)
_GAMES: Final = frozenset({"shapley", "markov"})
_SPLIT: Final = re.compile(r"split_of_([0-9]{1,15})_minor")
_DAY: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", re.ASCII)
_FIGURES: Final = (
    "half_life_days",
    "first_percent",
    "last_percent",
    "initiator_percent",
    "contributor_percent",
    "converter_percent",
    "missing_contributor",
)
_PARAMS: Final = frozenset(
    {
        *_FIGURES,
        "base",
        "middle_percent",
        "window_hours",
        "windows",
        "impression_window_hours",
        "tolerance_seconds",
        "excluded",
        "cart_at",
        "threshold_seconds",
        "reject_solo",
        "stand_down_seconds",
        "channel",
        "affiliate_channel",
        "preferred",
        "coupon",
        "coupons",
        "earlier",
        "within_days",
        "coalitions",
        "paths",
        "p_conv",
        "removal",
    }
)
_Weights = tuple[dict[str, Fraction], str]
"""The weights by publisher, oldest first touch first, and the reason for them or for none."""


def evaluate(entry: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any] | None, bool]:
    """(what was computed, what the entry expects of it, whether they agree).

    Computed: `weights` as fractions, `reason`, and the split of every amount that is expected, or
    of 1000. Weights agree when they are equal numbers, however they are written. ValueError names
    what the entry says that this version does not know.
    """
    expect = {
        name.removeprefix("expect_"): value
        for name, value in entry.items()
        if name.startswith("expect_")
    }
    if isinstance(entry.get("expect"), Mapping):
        expect |= entry["expect"]
    weights, reason = _weigh(entry)
    amounts = [int(found[1]) for name in expect if (found := _SPLIT.fullmatch(name))]
    computed: dict[str, Any] = {
        "weights": {publisher: str(weight) for publisher, weight in weights.items()},
        "reason": str(reason),
    }
    for amount in amounts or [1000]:
        parts = allocate(amount, list(weights.values())) if weights else []
        computed[f"split_of_{amount}_minor"] = dict(zip(weights, parts, strict=True))
    agrees = all(_agrees(name, computed.get(name), value) for name, value in expect.items())
    return computed, expect or None, agrees


def _agrees(name: str, computed: Any, expected: Any) -> bool:
    if name != "weights" or computed is None:
        return bool(computed == expected)
    wanted = {publisher: _number(value) for publisher, value in expected.items()}
    found = {publisher: Fraction(value) for publisher, value in computed.items()}
    return found == {publisher: weight for publisher, weight in wanted.items() if weight}


def _weigh(entry: Mapping[str, Any]) -> _Weights:
    params = entry.get("params") or {}
    unknown = sorted(set(params) - _PARAMS)
    if unknown:
        raise ValueError(f"params.{unknown[0]}: is not known")
    named = entry["model"]
    base = params.get("base", Model.LAST_CLICK) if named in _GUARDS else named
    if base not in (*Model, *_GAMES):
        raise ValueError(f"model: {named!r} is not known")
    converted_at = _instant(entry["converted_at"])
    touches = [_touch(touch, at) for at, touch in enumerate(entry["touches"])]
    kept, lost = sift(touches, converted_at=converted_at, conditions=_conditions(params))
    for guard in (_by_channel, _by_coupon, _by_preference):
        decided = guard(params, kept, converted_at)
        if decided is not None:
            return decided
    if kept:
        return _shared(base, kept, params)
    return _carried(params, converted_at) or (
        {},
        lost[-1][1] if lost else AttributionReason.NO_CLICK_ID,
    )


def _touch(touch: Mapping[str, Any], at: int) -> Touch:
    return Touch(
        publisher=touch["publisher"],
        at=_instant(touch["at"]),
        # Of touches at one time, the one that is listed later came later.
        id=touch.get("id", f"{at:06d}"),
        kind=touch.get("kind", "click"),
        refusal=touch.get("refusal", ""),
    )


def _conditions(params: Mapping[str, Any]) -> Conditions:
    hours = params.get("window_hours")
    cart_at = params.get("cart_at")
    tolerance = params.get("tolerance_seconds")
    return Conditions(
        window=None if hours is None else _hours(hours),
        windows={name: _hours(value) for name, value in params.get("windows", {}).items()},
        impression_window=_hours(params.get("impression_window_hours", 0)),
        tolerance=CLOCK_TOLERANCE if tolerance is None else timedelta(seconds=tolerance),
        excluded=frozenset(params.get("excluded", ())),
        cart_at=None if cart_at is None else _instant(cart_at),
        in_cart_seconds=params.get("threshold_seconds"),
        in_cart_rejects_solo=bool(params.get("reject_solo", False)),
        stand_down_seconds=params.get("stand_down_seconds", 0),
    )


def _hours(value: Any) -> timedelta:
    return timedelta(microseconds=int(_number(value) * 3_600_000_000))


def _number(value: Any) -> Fraction:
    return Fraction(str(value))


def _instant(value: str) -> datetime:
    found = parse_time(value)
    if found is None:
        raise ValueError(f"{value!r} is not an RFC 3339 time")
    return found


def _shared(model: str, kept: Sequence[Touch], params: Mapping[str, Any]) -> _Weights:
    if model in _GAMES:
        return _played(model, kept, params), model
    fields = Fields({name: params[name] for name in _FIGURES if name in params}, path="params.")
    figures = read_params(fields)
    middle = 100 - figures.first_percent - figures.last_percent
    if _number(params.get("middle_percent", middle)) != middle:
        fields.problem("middle_percent", "sum", "and the ends must be 100 together")
    fields.finish()
    return _weights_of(share(kept, Model(model), figures)), model


def _weights_of(shares: Iterable[Share]) -> dict[str, Fraction]:
    return {one.publisher: one.weight for one in shares}


def _played(model: str, kept: Sequence[Touch], params: Mapping[str, Any]) -> dict[str, Fraction]:
    """Credit from many orders, for those publishers that took part in this one."""
    players = list(dict.fromkeys(touch.publisher for touch in ordered(kept)))
    if model == "shapley":
        values = {
            frozenset(name.split("|")) - {""}: _number(value)
            for name, value in params["coalitions"].items()
        }
        found = shapley(players, values)
    else:
        effects = (
            removal_effects([_path(path) for path in params["paths"]])[1]
            if "paths" in params
            else {name: _number(value) for name, value in params["removal"].items()}
        )
        found = normalised({name: effects.get(name, Fraction()) for name in players})
    return {name: found[name] for name in players if name in found}


def _path(path: Any) -> tuple[Sequence[str], int]:
    if isinstance(path, Mapping):
        return path["path"], path.get("count", 1)
    return path, 1


def _by_channel(
    params: Mapping[str, Any], _kept: Sequence[Touch], _converted_at: datetime
) -> _Weights | None:
    """Nobody, when the shop pays another channel for the order."""
    channel, ours = params.get("channel"), params.get("affiliate_channel")
    names = [ours] if isinstance(ours, str) else ours or []
    if not channel or not names or channel.casefold() in [name.casefold() for name in names]:
        return None
    return {}, AttributionReason.OTHER_CHANNEL


def _by_coupon(
    params: Mapping[str, Any], kept: Sequence[Touch], converted_at: datetime
) -> _Weights | None:
    """Nobody for a suppressed code, its owner for an exclusive one, or for any without a touch."""
    code = params.get("coupon")
    if not code:
        return None
    matching = sorted(
        (one for one in map(_coupon, params.get("coupons", ())) if one.matches(code, converted_at)),
        key=lambda one: one.rank,
    )
    for effect, reason in (
        ("suppressed", AttributionReason.COUPON_SUPPRESSED),
        ("exclusive", AttributionReason.COUPON_EXCLUSIVE),
        ("owner", AttributionReason.COUPON_OWNER),
    ):
        found = next((one for one in matching if one.effect == effect), None)
        if found is not None and (effect != "owner" or not kept):
            return ({found.publisher_id: Fraction(1)} if found.publisher_id else {}), reason
    return None


def _coupon(row: Mapping[str, Any]) -> Code:
    return Code(
        id=row.get("id", ""),
        program_id="",
        publisher_id=row.get("publisher"),
        key=row["code"].casefold(),
        operator=row.get("operator", "EQUALS"),
        effect=row.get("effect", "exclusive"),
        starts_at=_start(row.get("from")),
        ends_at=_end(row.get("to")),
    )


def _by_preference(
    params: Mapping[str, Any], kept: Sequence[Touch], converted_at: datetime
) -> _Weights | None:
    """The first publisher that is preferred then and has a touch that counts, or needs none."""
    touching = {touch.publisher for touch in kept}
    for row in params.get("preferred", ()):
        one = Preferred(
            publisher=row["publisher"],
            starts_at=_start(row.get("from")),
            ends_at=_end(row.get("to")),
            clickless=bool(row.get("clickless", False)),
        )
        if one.holds(converted_at) and (one.clickless or one.publisher in touching):
            return {one.publisher: Fraction(1)}, AttributionReason.PREFERRED
    return None


def _start(value: str | None) -> datetime | None:
    if value is None or not _DAY.fullmatch(value):
        return None if value is None else _instant(value)
    return datetime.combine(date.fromisoformat(value), datetime.min.time(), tzinfo=UTC)


def _end(value: str | None) -> datetime | None:
    """An instant is exclusive; a day counts whole."""
    start = _start(value)
    is_day = value is not None and _DAY.fullmatch(value)
    return start + timedelta(days=1) if start is not None and is_day else start


def _carried(params: Mapping[str, Any], converted_at: datetime) -> _Weights | None:
    """What the customer's latest earlier order was attributed to, within the days that count."""
    days = params.get("within_days")
    earlier = sorted(
        ((_instant(row["at"]), row["weights"]) for row in params.get("earlier", ())),
        key=lambda one: one[0],
    )
    for at, weights in reversed(earlier):
        is_in_time = days is None or at >= converted_at - timedelta(days=days)
        if at <= converted_at and is_in_time:
            shares = [
                Share(publisher=name, weight=_number(value), role=Role.CONVERTER)
                for name, value in weights.items()
            ]
            return _weights_of(shares), AttributionReason.SAME_CUSTOMER
    return None
