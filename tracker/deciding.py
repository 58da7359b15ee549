"""Who brought an order: every source in the order of the program's terms, with a trace. Pure.

The trace is what the decision was made from, small enough to keep with it: the sources that were
tried, the touches with what became of each, and the rules that were in force.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from fractions import Fraction
from typing import Any, Final

from kernel.clock import to_rfc3339
from tracker.credit import Model, Role, Share, Touch, payee, share, sift
from tracker.credit_terms import CustomerChoice, Resolved, Source, Terms, resolve
from tracker.rules import AttributionReason as Why

SOURCE_NONE: Final = "none"
SOURCE_PREFERRED: Final = "preferred"
TOUCHES_TRACED_MAX: Final = 20
# Decisions for nobody that no later finding may change.
FINAL: Final = frozenset({Why.OTHER_CHANNEL, Why.COUPON_SUPPRESSED, Why.TEST_ORDER})


@dataclass(frozen=True, slots=True, kw_only=True)
class Owned:
    """A coupon that matches the order's code, with why its owner may not earn, if so."""

    coupon_id: str
    effect: str
    publisher: str | None
    refusal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Earlier:
    """An earlier order whose attribution may be carried over. Shares of members only."""

    conversion_id: str
    at: datetime
    shares: tuple[Share, ...]
    refusal: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Everything that is known about who brought an order.

    `unreadable` are click ids that are none of ours, with the reason; the order's own one last.
    """

    occurred_at: datetime
    window_hours: int
    event: str = ""
    customer: str | None = None
    coupon: str | None = None
    paid_channel: str | None = None
    cart_at: datetime | None = None
    is_test: bool = False
    touches: tuple[Touch, ...] = ()
    unreadable: tuple[tuple[str, str], ...] = ()
    coupons: tuple[Owned, ...] = ()
    parent: Earlier | None = None
    customers: tuple[Earlier, ...] = ()
    customer_refusal: str = ""
    named: Touch | None = None
    members: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """The shares of an order (none: nobody earns), what decided and why, and the trace."""

    shares: tuple[Share, ...]
    source: str
    reason: str
    trace: Mapping[str, Any] = field(default_factory=dict)

    @property
    def payee(self) -> Share | None:
        """Who is paid where one publisher is."""
        return payee(self.shares) if self.shares else None


_Found = tuple[tuple[Share, ...], str, str]
"""(shares, the reason for them or against any, the id of what they were taken from)"""


@dataclass(slots=True)
class _Work:
    """One decision in the making."""

    facts: Facts
    terms: Terms
    resolved: Resolved
    kept: list[Touch]
    lost: list[tuple[Touch, str]]
    tried: list[tuple[str, str]] = field(default_factory=list)


def decide(facts: Facts, terms: Terms) -> Decision:
    """The decision for an order; the same for the same facts and terms."""
    resolved = resolve(
        terms,
        window_hours=facts.window_hours,
        cart_at=facts.cart_at,
        event=facts.event,
        customer=facts.customer,
        coupon=facts.coupon,
    )
    kept, lost = sift(facts.touches, converted_at=facts.occurred_at, conditions=resolved.conditions)
    work = _Work(facts, terms, resolved, kept, lost)
    source, (shares, reason, origin) = _first_source(work)
    trace = _trace(work, source, shares, reason)
    if origin:
        trace["from"] = origin
    if facts.is_test:
        trace["would_be"] = [[one.publisher, str(one.weight)] for one in shares]
        return Decision(shares=(), source=SOURCE_NONE, reason=Why.TEST_ORDER, trace=trace)
    return Decision(shares=shares, source=source, reason=reason, trace=trace)


def _first_source(work: _Work) -> tuple[str, _Found]:
    ruled_out = _ruled_out(work)
    if ruled_out:
        return SOURCE_NONE, ((), ruled_out, "")
    ahead: tuple[tuple[str, Callable[[_Work], _Found]], ...] = (
        (Source.COUPON, _exclusive),
        (SOURCE_PREFERRED, _preferred),
    )
    in_turn = ((source, _SOURCES[source]) for source in work.terms.sources)
    for source, look in (*ahead, *in_turn):
        found = look(work)
        if found[0]:
            return source, found
        if found[1]:
            work.tried.append((source, found[1]))
    return SOURCE_NONE, ((), _refusal(work), "")


def _ruled_out(work: _Work) -> str:
    channel = work.facts.paid_channel
    if channel and work.terms.channels and channel.casefold() not in work.terms.channels:
        return Why.OTHER_CHANNEL
    if any(one.effect == "suppressed" for one in work.facts.coupons):
        return Why.COUPON_SUPPRESSED
    return ""


def _refusal(work: _Work) -> str:
    """Why nobody earns: what is wrong with the click, where one was named."""
    named_click = work.facts.touches or work.facts.unreadable
    refusals = dict(reversed(work.tried))
    if named_click and Source.CLICK in refusals:
        return refusals[Source.CLICK]
    return work.tried[0][1] if work.tried else Why.NO_CLICK_ID


def _one(publisher: str, touch: Touch | None = None) -> tuple[Share, ...]:
    return (Share(publisher=publisher, weight=Fraction(1), role=Role.CONVERTER, touch=touch),)


def _last_touch_of(work: _Work, publisher: str) -> Touch | None:
    return next((one for one in reversed(work.kept) if one.publisher == publisher), None)


def _exclusive(work: _Work) -> _Found:
    return _by_coupon(work, "exclusive", Why.COUPON_EXCLUSIVE)


def _owner(work: _Work) -> _Found:
    return _by_coupon(work, "owner", Why.COUPON_OWNER)


def _by_coupon(work: _Work, effect: str, reason: str) -> _Found:
    """The first coupon with this effect whose owner may earn."""
    owned = [one for one in work.facts.coupons if one.effect == effect and one.publisher]
    for one in owned:
        if one.publisher and not one.refusal:
            return _one(one.publisher, _last_touch_of(work, one.publisher)), reason, one.coupon_id
    return (), owned[0].refusal if owned else "", ""


def _preferred(work: _Work) -> _Found:
    for one in work.terms.preferred:
        touch = _last_touch_of(work, one.publisher)
        may_earn = touch is not None or (one.clickless and one.publisher in work.facts.members)
        if may_earn and one.holds(work.facts.occurred_at):
            return _one(one.publisher, touch), Why.PREFERRED, ""
    return (), "", ""


def _clicks(work: _Work) -> _Found:
    shares = share(work.kept, work.resolved.model, work.resolved.params)
    if shares:
        return tuple(shares), work.resolved.model, ""
    refusals = [why for _, why in (*work.facts.unreadable, *work.lost)]
    return (), refusals[-1] if refusals else "", ""


def _parent(work: _Work) -> _Found:
    return _carried(work.facts.parent, Why.PARENT_ORDER)


def _customer(work: _Work) -> _Found:
    facts, terms = work.facts, work.terms
    if facts.customer_refusal:
        return (), facts.customer_refusal, ""
    since = facts.occurred_at - timedelta(days=terms.customer_days)
    found = [
        one
        for one in facts.customers
        if terms.customer_days and since <= one.at <= facts.occurred_at
    ]
    found.sort(key=lambda one: (one.at, one.conversion_id))
    if not found:
        return (), "", ""
    is_first = terms.customer_choice is CustomerChoice.FIRST
    return _carried(found[0 if is_first else -1], Why.SAME_CUSTOMER)


def _carried(earlier: Earlier | None, reason: str) -> _Found:
    if earlier is None:
        return (), "", ""
    if not earlier.shares:
        return (), earlier.refusal, ""
    return earlier.shares, reason, earlier.conversion_id


def _named(work: _Work) -> _Found:
    named = work.facts.named
    if named is None:
        return (), "", ""
    if named.refusal:
        return (), named.refusal, ""
    return _one(named.publisher), Why.NAMED, ""


_SOURCES: Final[Mapping[Source, Callable[[_Work], _Found]]] = {
    Source.CLICK: _clicks,
    Source.COUPON: _owner,
    Source.ORDER: _parent,
    Source.CUSTOMER: _customer,
    Source.PUBLISHER: _named,
}
_NOT_CHOSEN: Final[Mapping[str, str]] = {
    Model.LAST_CLICK: Why.LATER_TOUCH,
    Model.FIRST_CLICK: Why.EARLIER_TOUCH,
}


def _trace(work: _Work, source: str, shares: Sequence[Share], reason: str) -> dict[str, Any]:
    trace: dict[str, Any] = {
        "model": str(work.resolved.model),
        "window_hours": work.resolved.window_hours,
    }
    if work.resolved.rules:
        trace["rules"] = list(work.resolved.rules)
    if work.tried:
        trace["tried"] = [[str(name), str(why)] for name, why in work.tried]
    rows = _touch_rows(work, source, shares, reason)
    if rows:
        # The newest are what decides nearly always.
        trace["touches"] = rows[-TOUCHES_TRACED_MAX:]
    if len(rows) > TOUCHES_TRACED_MAX:
        trace["touches_left_out"] = len(rows) - TOUCHES_TRACED_MAX
    return trace


def _touch_rows(
    work: _Work, source: str, shares: Sequence[Share], reason: str
) -> list[dict[str, Any]]:
    weights = {one.publisher: one for one in shares}
    by_clicks = source == Source.CLICK

    def fate(touch: Touch) -> str:
        won = weights.get(touch.publisher)
        if won is not None and (won.touch == touch or (by_clicks and len(shares) > 1)):
            return reason
        if by_clicks:
            return _NOT_CHOSEN.get(reason, Why.LATER_TOUCH)
        return Why.OUTRANKED

    fates = [(touch, fate(touch)) for touch in work.kept] + work.lost
    rows = [
        {
            "id": touch.id,
            "publisher": touch.publisher,
            "at": to_rfc3339(touch.at),
            "reason": str(why),
        }
        for touch, why in sorted(fates, key=lambda one: (one[0].at, one[0].id))
    ]
    bad = [{"id": text[:80], "reason": str(why)} for text, why in work.facts.unreadable]
    return [*bad, *rows]
