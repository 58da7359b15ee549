"""An explanation in sentences, in English and Chinese, in the order things happened. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

from commissions import fact_words, losers
from commissions.models import CommissionStatus
from commissions.reasons import sentence_of
from kernel.i18n import translate
from kernel.money import exponent_of, format_amount

_LINES_TOLD = 20
_LOSERS_TOLD = 5


@dataclass(frozen=True, slots=True)
class Explanation:
    """Plain data, ready for JSON: times RFC 3339, amounts in minor units beside a currency.

    `commission` and `plan` are None where there is none. Each booking holds `kind`, `at`,
    `delta_minor`, `total_minor` and what the rules said; each step `from`, `to`, `reason`, `at`.
    """

    conversion: dict[str, Any]
    attribution: dict[str, Any] | None
    commission: dict[str, Any] | None
    plan: dict[str, Any] | None
    bookings: list[dict[str, Any]]
    steps: list[dict[str, Any]]
    refunded_minor: int
    status: str
    reason: str


def words(explanation: Explanation, language: str, *, zone: str = "UTC") -> list[str]:
    """The same as sentences in one of the languages, in the order things happened.

    Days are those of the zone.
    """
    return [
        translate("commissions", language, message, **_translated(values, language))
        for message, values in _sentences(explanation, ZoneInfo(zone))
    ]


def _day(at: str, zone: ZoneInfo) -> str:
    return datetime.fromisoformat(at).astimezone(zone).date().isoformat()


def _translated(values: Mapping[str, Any], language: str) -> dict[str, Any]:
    """Values that are words themselves are looked up too; names and figures are found as is."""
    return {
        name: ", ".join(translate("commissions", language, word) for word in value)
        if isinstance(value, tuple)
        else value
        for name, value in values.items()
    }


_Sentence = tuple[str, dict[str, Any]]


def _sentences(explanation: Explanation, zone: ZoneInfo) -> Iterator[_Sentence]:
    commission = explanation.commission
    if commission is None:
        yield "No commission: this order is not attributed to a publisher.", {}
        return
    currency = commission["currency"]
    if explanation.plan is not None:
        yield (
            "Version {version} of the commission plan applies, in force since {since}.",
            {
                "version": explanation.plan["version"],
                "since": _day(explanation.plan["effective_from"], zone),
            },
        )
    for booking in explanation.bookings:
        yield from _booking_sentences(booking, currency, zone)
    yield from _share_sentences(commission, currency)
    yield (
        "The commission is {amount} {currency}; its status is {status}.",
        {
            "amount": format_amount(commission["amount_minor"], currency),
            "currency": currency,
            "status": (commission["status"],),
        },
    )
    if explanation.reason:
        yield "Reason {code}: {sentence}", _reason(explanation.reason)
    if commission["waits_for_approval"]:
        yield "Only a browser reported the order: the advertiser has to approve it.", {}
    elif commission["status"] in {CommissionStatus.PENDING, CommissionStatus.APPROVED}:
        yield "It becomes payable on {date}.", {"date": _day(commission["lock_at"], zone)}


def _share_sentences(commission: Mapping[str, Any], currency: str) -> Iterator[_Sentence]:
    if commission["share"] != "1":
        yield (
            "Several publishers share the order; this share is {share} of its commission.",
            {"share": commission["share"]},
        )
    for part in commission["parts"]:
        yield (
            "The order is shared: {share} of it is {amount} {currency}.",
            {
                "share": part["share"],
                "amount": format_amount(part["amount_minor"], currency),
                "currency": currency,
            },
        )


def _reason(code: str) -> dict[str, Any]:
    return {"code": code, "sentence": (sentence_of(code),)}


def _booking_sentences(
    booking: Mapping[str, Any], currency: str, zone: ZoneInfo
) -> Iterator[_Sentence]:
    event = booking.get("event", {})
    facts = {
        "date": _day(booking["at"], zone),
        "delta": format_amount(booking["delta_minor"], currency),
        "total": format_amount(booking["total_minor"], currency),
        "currency": currency,
    }
    yield _opening(booking, event, facts)
    yield from _circumstances(booking)
    if event.get("said"):
        said = _SAID_BY_NETWORK if booking["kind"] == "rerate" else _SAID
        yield said, {"said": event["said"]}
    if event.get("kind") == "refund" and event.get("amount_minor"):
        order_currency = booking.get("order_currency", currency)
        amount = format_amount(event["amount_minor"], order_currency)
        yield "Refunded: {amount} {currency}.", {"amount": amount, "currency": order_currency}
    lines = booking.get("lines", [])
    for line in lines[:_LINES_TOLD]:
        yield from _line_sentences(line, currency, booking.get("order_currency", currency))
        if booking["kind"] in _RATED:
            yield from _loser_sentences(line)
    if len(lines) > _LINES_TOLD:
        yield "And {count} more lines.", {"count": len(lines) - _LINES_TOLD}
    for bonus in booking.get("bonuses", []):
        yield (
            "Bonus rule {rule} adds {amount} {currency}.",
            {
                "rule": bonus["rule_id"],
                "amount": format_amount(bonus["commission_minor"], currency),
                "currency": currency,
            },
        )
    for cut in booking.get("caps", []):
        yield _cut_sentence(cut, currency)


def _cut_sentence(cut: Mapping[str, Any], currency: str) -> _Sentence:
    if "cap_count" in cut:
        return (
            "Only {count} orders are paid; this one is above them.",
            {"count": cut["cap_count"]},
        )
    return (
        "A cap of {cap} {currency} limits it from {before} {currency}.",
        {
            "cap": format_amount(cut["cap_minor"], currency),
            "before": format_amount(cut["from"], currency),
            "currency": currency,
        },
    )


def _opening(
    booking: Mapping[str, Any], event: Mapping[str, Any], facts: dict[str, Any]
) -> _Sentence:
    if booking["kind"] != "rerate":
        return _OPENINGS.get(booking["kind"], _OPENING), facts
    before, after = event.get("plan_before"), event.get("plan_after")
    if before == after or after is None:
        return _OPENING, facts
    if before is None:
        return _FIRST_RATED, {**facts, "after": after["version"]}
    return _OPENINGS["rerate"], {**facts, "before": before["version"], "after": after["version"]}


_SAID = "The advertiser said: {said}"
_SAID_BY_NETWORK = "The network said: {said}"
_FIRST_RATED = (
    "{date}: rated by version {after} of the plan, which was published later: {delta} {currency}."
)
_OPENING = "{date}: a change of {delta} {currency}, {total} {currency} in total."
_OPENINGS = {
    "accrue": "{date}: booked {delta} {currency}.",
    "refund": "{date}: after a refund {delta} {currency}, {total} {currency} remain.",
    "cancel": "{date}: the advertiser cancelled the order: {delta} {currency}.",
    "decline": "{date}: the advertiser declined the order: {delta} {currency}.",
    "approve": "{date}: the advertiser approved the order.",
    "hold": "{date}: put on hold.",
    "release": "{date}: released from hold.",
    "rated": "{date}: there is an exchange rate now: booked {delta} {currency}.",
    "void": "{date}: declined by the network: {delta} {currency}.",
    "rerate": "{date}: rated again by version {after} of the plan instead of version {before}: "
    "{delta} {currency}, {total} {currency} in total.",
    "tier_true_up": "{date}: another order moved the tier: {delta} {currency}, "
    "{total} {currency} in total.",
}


_RATED = ("accrue", "rated", "rerate")


def _circumstances(booking: Mapping[str, Any]) -> Iterator[_Sentence]:
    """What was looked at before any line, told where the order was rated as a whole."""
    if booking["kind"] not in _RATED:
        return
    yield from fact_words.sentences(booking, booking.get("lines", [])[:_LINES_TOLD])
    effect = booking.get("coupon_effect")
    if effect:
        yield _COUPONS[effect], {"coupon": booking.get("coupon")}


_COUPONS = {
    "exclusive": "The coupon {coupon} belongs to the publisher who is paid.",
    "suppressed": "The plan pays nothing for the coupon {coupon}.",
}


def _loser_sentences(line: Mapping[str, Any]) -> Iterator[_Sentence]:
    told = [one for one in line.get("losers", ()) if one["rule_id"] != line["rule_id"]]
    # Those that matched and lost say more than those that never met.
    told.sort(key=lambda one: not losers.is_outranked(one["reason"]))
    for one in told[:_LOSERS_TOLD]:
        message, values = losers.sentence(one["reason"])
        yield message, {"line": line["line"] + 1, "rule": one["rule_id"], **values}


def _line_sentences(
    line: Mapping[str, Any], currency: str, order_currency: str
) -> Iterator[_Sentence]:
    number = line["line"] + 1
    if line["rule_id"] is None:
        yield "Line {line}: no rule matches.", {"line": number}
        return
    yield (
        "Line {line}: rule {rule} pays it; it matches {matched}.",
        {"line": number, "rule": line["rule_id"], "matched": fact_words.matched_names(line)},
    )
    yield from fact_words.line_sentences(line, order_currency)
    tier = line.get("tier") or {}
    yield from _tier_sentences(number, tier, currency)
    for part in line.get("slices", []):
        if part["level"] is not None:
            yield from _slice_sentences(part, line, currency)
    yield from _limit_sentences(line, tier, currency)


def _tier_sentences(number: int, tier: Mapping[str, Any], currency: str) -> Iterator[_Sentence]:
    if "before" in tier:
        measure = tier["measure"]
        counted = {at: counter_text(measure, tier[at], currency) for at in ("before", "after")}
        yield (
            "Line {line}: the counter of {measure} goes from {before} to {after}.",
            {"line": number, "measure": (measure,), **counted},
        )
    if "decided_by" in tier:
        total = counter_text(tier["measure"], tier["decided_by"], currency)
        yield "Line {line}: the level is decided by {total}.", {"line": number, "total": total}


def _limit_sentences(
    line: Mapping[str, Any], tier: Mapping[str, Any], currency: str
) -> Iterator[_Sentence]:
    """What is added to the rates or taken off them, and the rounding."""
    facts = {"line": line["line"] + 1, "currency": currency}
    cap = line.get("per_unit_cap")
    if cap and Fraction(cap["uncapped"]) > Fraction(cap["cap_minor"]):
        before, after = (major_text(cap[name], currency) for name in ("uncapped", "cap_minor"))
        yield (
            "Line {line}: a cap per unit limits it from {before} to {cap} {currency}.",
            {**facts, "before": before, "cap": after},
        )
    if line.get("fixed_minor"):
        fixed = major_text(str(line["fixed_minor"]), currency)
        yield "Line {line}: {fixed} {currency}, fixed.", {**facts, "fixed": fixed}
    if tier.get("flat_minor"):
        flat = major_text(str(tier["flat_minor"]), currency)
        yield "Line {line}: {flat} {currency} once, for the level.", {**facts, "flat": flat}
    yield _rounding_sentence(line, currency)
    if "per_order_clamped_from_minor" in line:
        yield (
            "Line {line}: the limits of an order make {amount} {currency} of it.",
            {**facts, "amount": format_amount(line["commission_minor"], currency)},
        )


def _slice_sentences(
    part: Mapping[str, Any], line: Mapping[str, Any], currency: str
) -> Iterator[_Sentence]:
    number, percent, unit = line["line"] + 1, Fraction(part["percent"]), Fraction(part["per_unit"])
    if percent or not unit:
        portion = Fraction(line["base_minor"]) * Fraction(part["share"])
        yield (
            "Line {line}: {percent} % of {base} {currency}.",
            {
                "line": number,
                "percent": decimal_text(percent),
                "base": major_text(str(portion), currency),
                "currency": currency,
            },
        )
    if unit:
        yield (
            "Line {line}: {unit} {currency} for each of {count} pieces.",
            {
                "line": number,
                "unit": major_text(str(unit), currency),
                "count": decimal_text(Fraction(line["qty"]) * Fraction(part["share"])),
                "currency": currency,
            },
        )


def _rounding_sentence(line: Mapping[str, Any], currency: str) -> _Sentence:
    facts: dict[str, Any] = {
        "line": line["line"] + 1,
        "amount": format_amount(line["commission_minor"], currency),
        "currency": currency,
    }
    if Fraction(line["exact"]) == line["commission_minor"]:
        return "Line {line}: that is {amount} {currency}, exactly.", facts
    mode = _ROUNDINGS[line.get("rounding", "half_up")]
    return (
        "Line {line}: exactly {exact} {currency}, rounded {rounding} to {amount} {currency}.",
        {**facts, "exact": major_text(line["exact"], currency), "rounding": (mode,)},
    )


_ROUNDINGS = {"half_up": "half up", "half_even": "half to even", "down": "down"}


def counter_text(measure: str, value: object, currency: str) -> str:
    """A counter as people read it: a number of things, or an amount."""
    if measure in {"count", "units"}:
        return str(value)
    return f"{major_text(str(value), currency)} {currency}"


def major_text(minor: str, currency: str) -> str:
    """Exact major units of an exact number of minor units, with the currency's decimals or more."""
    exponent = exponent_of(currency)
    return decimal_text(Fraction(minor) / 10**exponent, at_least=exponent)


def decimal_text(value: Fraction, *, at_least: int = 0) -> str:
    """All decimals where they end, a fraction where they never do."""
    rest, places = value.denominator, 0
    while rest % 10 == 0 or rest % 2 == 0 or rest % 5 == 0:
        rest //= 10 if rest % 10 == 0 else 2 if rest % 2 == 0 else 5
        places += 1
    if rest != 1:
        return str(value)
    places = max(places, at_least)
    scaled = abs(value) * 10**places
    whole, decimals = divmod(scaled.numerator, 10**places)
    sign = "-" if value < 0 else ""
    return f"{sign}{whole}.{decimals:0{places}d}" if places else f"{sign}{whole}"
