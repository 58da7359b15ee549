"""Why a commission is what it is: every booking with its rules, tiers, rates and rounding.

`explain` gives it to programs, `words` to people. Both say what was recorded when it was booked;
nothing is computed again.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Any
from zoneinfo import ZoneInfo

from sqlmodel import Session, col, select

from commissions import statements, unconfirmed
from commissions.models import (
    Booking,
    Commission,
    CommissionStatus,
    CommissionStep,
    PlanVersion,
)
from commissions.reasons import sentence_of
from commissions.statements import StatementLine
from kernel.clock import to_rfc3339
from kernel.errors import NotFound
from kernel.i18n import translate
from kernel.money import exponent_of, format_amount
from network.access import Actor
from network.models import Role

_LINES_TOLD = 20


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


def explain(session: Session, actor: Actor, public_id: str) -> Explanation:
    """The whole story of a conversion or commission id; NotFound for another party's as well."""
    line = statements.get(session, actor, public_id)
    conversion_id = line.conversion.id
    bookings = session.exec(
        select(Booking).where(Booking.conversion_id == conversion_id).order_by(col(Booking.seq))
    )
    steps = session.exec(
        select(CommissionStep)
        .where(CommissionStep.conversion_id == conversion_id)
        .order_by(col(CommissionStep.seq))
    )
    return Explanation(
        conversion=_conversion(session, line),
        attribution=_attribution(line, actor),
        commission=_commission(session, line.commission),
        plan=_plan(session, line.commission),
        bookings=[_booking(session, actor, one) for one in bookings],
        steps=[_step(actor, one) for one in steps],
        refunded_minor=line.refunded_minor,
        status=line.status,
        reason=line.reason,
    )


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


def _conversion(session: Session, line: StatementLine) -> dict[str, Any]:
    one = line.conversion
    return {
        "id": one.id,
        "order_id": one.order_id,
        "program_id": one.program_id,
        "event": one.event,
        "occurred_at": to_rfc3339(one.occurred_at),
        "currency": one.currency,
        "amount_minor": one.amount_minor,
        "country": one.country,
        "customer": one.customer,
        "coupon": one.coupon,
        "items": [
            {
                "line": item.line,
                "sku": item.sku,
                "category": item.category,
                "quantity": item.quantity,
                "amount_minor": item.amount_minor,
            }
            for item in statements.items(session, one.id)
        ],
    }


def _attribution(line: StatementLine, actor: Actor) -> dict[str, Any] | None:
    one = line.attribution
    if one is None:
        return None
    # The owner of an exclusive coupon is paid for an order that another publisher's click brought;
    # whose click that was is not theirs to know.
    foreign = actor.role is Role.PUBLISHER and one.publisher_id != actor.party_id
    return {
        "publisher_id": None if foreign else one.publisher_id,
        "click_id": None if foreign else one.click_id,
        "source": one.source,
        "reason": one.reason,
    }


def _commission(session: Session, one: Commission | None) -> dict[str, Any] | None:
    if one is None:
        return None
    return {
        "id": one.id,
        "publisher_id": one.publisher_id,
        "currency": one.currency,
        "amount_minor": one.amount_minor,
        "claimed_minor": one.claimed_minor,
        "status": one.status,
        "reason": one.reason,
        "lock_at": to_rfc3339(one.lock_at),
        "waits_for_approval": unconfirmed.is_waiting(session, one.conversion_id),
    }


def _plan(session: Session, one: Commission | None) -> dict[str, Any] | None:
    version = session.get(PlanVersion, one.plan_version_id) if one and one.plan_version_id else None
    if version is None:
        return None
    return {
        "id": version.id,
        "version": version.version,
        "effective_from": to_rfc3339(version.effective_from),
        "content_hash": version.content_hash,
    }


def _booking(session: Session, actor: Actor, one: Booking) -> dict[str, Any]:
    explained = dict(one.explanation)
    caused_by = explained.get("event", {}).get("because_of")
    if caused_by and not _may_see(session, actor, caused_by):
        explained["event"] = {**explained["event"], "because_of": None}
    return {
        "kind": one.kind,
        "at": to_rfc3339(one.at),
        "delta_minor": one.delta_minor,
        "total_minor": one.total_minor,
        **explained,
    }


def _may_see(session: Session, actor: Actor, conversion_id: str) -> bool:
    try:
        statements.get(session, actor, conversion_id)
    except NotFound:
        return False
    return True


def _step(actor: Actor, one: CommissionStep) -> dict[str, Any]:
    step = {
        "from": one.from_status,
        "to": one.to_status,
        "reason": one.reason,
        "at": to_rfc3339(one.at),
    }
    # Who decided is the network's own business; that and why it was decided is the publisher's.
    return {**step, "actor": one.actor} if actor.is_manager else step


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
    if event.get("said"):
        said = _SAID_BY_NETWORK if booking["kind"] == "rerate" else _SAID
        yield said, {"said": event["said"]}
    if event.get("kind") == "refund" and event.get("amount_minor"):
        order_currency = booking.get("order_currency", currency)
        amount = format_amount(event["amount_minor"], order_currency)
        yield "Refunded: {amount} {currency}.", {"amount": amount, "currency": order_currency}
    lines = booking.get("lines", [])
    for line in lines[:_LINES_TOLD]:
        yield from _line_sentences(line, currency)
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
        yield (
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
    "void": "{date}: declined by the network: {delta} {currency}.",
    "rerate": "{date}: rated again by version {after} of the plan instead of version {before}: "
    "{delta} {currency}, {total} {currency} in total.",
    "tier_true_up": "{date}: another order moved the tier: {delta} {currency}, "
    "{total} {currency} in total.",
}


def _line_sentences(line: Mapping[str, Any], currency: str) -> Iterator[_Sentence]:
    number = line["line"] + 1
    if line["rule_id"] is None:
        yield "Line {line}: no rule matches.", {"line": number}
        return
    matched = tuple(line["why"].removeprefix("matches ").split(", "))
    yield (
        "Line {line}: rule {rule} pays it; it matches {matched}.",
        {"line": number, "rule": line["rule_id"], "matched": matched},
    )
    tier = line.get("tier")
    if tier and "before" in tier:
        yield (
            "Line {line}: the counter of {measure} goes from {before} to {after}.",
            {
                "line": number,
                "measure": (tier["measure"],),
                **{at: _counter(tier, at, currency) for at in ("before", "after")},
            },
        )
    for part in line.get("slices", []):
        if part["level"] is not None:
            yield from _slice_sentences(part, line, currency)
    if line.get("fixed_minor"):
        fixed = _major(str(line["fixed_minor"]), currency)
        yield (
            "Line {line}: {fixed} {currency}, fixed.",
            {"line": number, "fixed": fixed, "currency": currency},
        )
    yield _rounding_sentence(line, currency)


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
                "percent": _decimal(percent),
                "base": _major(str(portion), currency),
                "currency": currency,
            },
        )
    if unit:
        yield (
            "Line {line}: {unit} {currency} for each of {count} pieces.",
            {
                "line": number,
                "unit": _major(str(unit), currency),
                "count": _decimal(Fraction(line["qty"]) * Fraction(part["share"])),
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
        {**facts, "exact": _major(line["exact"], currency), "rounding": (mode,)},
    )


_ROUNDINGS = {"half_up": "half up", "half_even": "half to even", "down": "down"}


def _counter(tier: Mapping[str, Any], name: str, currency: str) -> str:
    counted = tier["measure"] in {"count", "units"}
    return str(tier[name]) if counted else f"{_major(tier[name], currency)} {currency}"


def _major(minor: str, currency: str) -> str:
    """Exact major units of an exact number of minor units, with the currency's decimals or more."""
    exponent = exponent_of(currency)
    return _decimal(Fraction(minor) / 10**exponent, at_least=exponent)


def _decimal(value: Fraction, *, at_least: int = 0) -> str:
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
