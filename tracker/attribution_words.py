"""Why an order has the publisher it has, in words and as plain data, for whoever may read it.

A publisher reads its own touches whole; of another publisher's it learns that they were there and
what became of them, never whose they were.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, Final

from sqlmodel import Session

from kernel.clock import to_rfc3339
from kernel.i18n import translate
from tracker import attribution as decisions
from tracker.models import Attribution, AttributionShare, AttributionSuperseded

_PACKAGE: Final = "tracker"
SENTENCES: Final[Mapping[str, str]] = {
    "last_click": "The last click before the order decides, and it was this publisher's.",
    "first_click": "The first click within the attribution window decides.",
    "linear": "Every click within the attribution window has an equal part.",
    "position": "The first and the last click have the greater parts, the others the rest.",
    "time_decay": "The closer a click is to the order, the greater its part.",
    "split": "Who began, who helped and who completed the order have the parts that were agreed.",
    "preferred_partner": "The program prefers this publisher at the time of the order.",
    "coupon_exclusive": "The order's coupon belongs to this publisher alone.",
    "coupon_owner": "No click decides, and the order's coupon belongs to this publisher.",
    "same_customer": "This publisher brought an earlier order of the same customer.",
    "parent_order": "The order belongs to an earlier one, which this publisher brought.",
    "named_publisher": "The advertiser's report names this publisher.",
    "assigned": "A manager assigned the order by hand.",
    "no_click": "The advertiser reported no click.",
    "no_click_id": "The advertiser reported no click.",
    "click_id_malformed": "What the advertiser reported is no click id.",
    "click_id_unknown_key": "The click id was signed with a key that is not in use here.",
    "click_id_forged": "The click id was altered or not issued here.",
    "click_of_other_program": "The click belongs to another program.",
    "publisher_unknown": "The publisher that is named does not exist.",
    "not_a_member": "The publisher was not an approved member of the program.",
    "click_not_billable": "The click may not earn.",
    "click_after_order": "The click came after the order.",
    "outside_window": "The click is older than the program's attribution window.",
    "coupon_suppressed": "The program pays nothing for orders with this coupon.",
    "other_channel": "The advertiser pays another marketing channel for this order.",
    "test_order": "It is a test order, which never counts.",
    "impression": "The visitor saw the link and did not click it.",
    "excluded": "The program gives this publisher no part of shared orders.",
    "in_cart": "The click came after the basket was filled.",
    "stand_down": "The click came at the checkout, after another publisher's.",
    "later_touch": "A later click decides.",
    "earlier_touch": "An earlier click decides.",
    "outranked": "Something else than a click decides.",
    "customer_ambiguous": "What the advertiser calls the customer stands for many people.",
    "paused": "The program was paused at the time of the click.",
    "head": "A machine asked for the link ahead of a person.",
    "prefetch": "The browser loaded the link in advance.",
    "preview": "A program looked at the link to show a preview of it.",
    "link_retired": "The short link was retired at the time of the click.",
    "no_consent": "The visitor gave no consent to be tracked.",
    "no_consent_tcf": "The consent string of the link does not allow tracking.",
    "global_privacy_control": "The visitor's browser asked not to be tracked.",
}
_TOUCH: Final = "{at}, click of {who}: {why}"
_UNREADABLE: Final = "Reported as a click, {id}: {why}"
_PART: Final = "{who} has {weight} of the order, as {role}."
_PAID: Final = "The commission is paid to {who}, whose part is the greatest."
_NOTE: Final = "Note: {note}"
_BEFORE: Final = "Until {at} the order was nobody's. {why}"
_WOULD_BE: Final = "If it were no test order, {who} would have {weight} of it."
_OTHER: Final = "another publisher"
_ROLES: Final = {
    "initiator": "who began it",
    "contributor": "who helped",
    "converter": "who completed it",
}


def sentence(code: str, language: str) -> str:
    """A reason as a sentence; the code read out where it has none."""
    known = SENTENCES.get(code)
    return translate(_PACKAGE, language, known) if known else code.replace("_", " ").capitalize()


def publishers_in(found: Mapping[str, Any]) -> set[str]:
    """The publishers that `tell` names, for looking up what they are called."""
    named = {row.get("publisher_id") for row in (*found["touches"], *found["shares"])}
    named |= {row["publisher_id"] for row in found["would_be"]} | {found["publisher_id"]}
    return {one for one in named if one}


def facts(session: Session, one: Attribution, *, reader: str | None) -> dict[str, Any]:
    """The decision as plain data. `reader` is the publisher who reads it, None for the network's.

    Publisher ids and click ids of others than the reader are None.
    """
    parts = decisions.shares(session, [one.conversion_id]).get(one.conversion_id, [])
    before = session.get(AttributionSuperseded, one.conversion_id)
    trace = one.trace
    return {
        "publisher_id": _shown(one.publisher_id, reader),
        "source": one.source,
        "reason": one.reason,
        "decided_at": to_rfc3339(one.decided_at),
        "terms_id": one.terms_id,
        "model": trace.get("model"),
        "window_hours": trace.get("window_hours"),
        "rules": trace.get("rules", []),
        "tried": [{"source": name, "reason": why} for name, why in trace.get("tried", [])],
        "touches": [_touch(row, reader) for row in trace.get("touches", [])],
        "touches_left_out": trace.get("touches_left_out", 0),
        "shares": [_part(row, reader) for row in parts],
        "would_be": [
            {"publisher_id": _shown(publisher, reader), "weight": weight}
            for publisher, weight in trace.get("would_be", [])
        ],
        "note": trace.get("note", "") if _is_readers(one.publisher_id, reader) else "",
        "before": {
            "reason": before.reason,
            "decided_at": to_rfc3339(before.decided_at),
            "superseded_at": to_rfc3339(before.superseded_at),
        }
        if before
        else None,
    }


def _is_readers(publisher_id: str | None, reader: str | None) -> bool:
    return reader is None or publisher_id == reader


def _shown(publisher_id: str | None, reader: str | None) -> str | None:
    return publisher_id if _is_readers(publisher_id, reader) else None


def _touch(row: Mapping[str, Any], reader: str | None) -> dict[str, Any]:
    publisher_id = row.get("publisher")
    # An id that cannot be read is nobody's, and what stands in it is not for publishers.
    mine = _is_readers(publisher_id, reader)
    return {
        "click_id": row["id"] if mine else None,
        "publisher_id": publisher_id if mine else None,
        "at": row.get("at"),
        "reason": row["reason"],
    }


def _part(row: AttributionShare, reader: str | None) -> dict[str, Any]:
    mine = _is_readers(row.publisher_id, reader)
    return {
        "publisher_id": row.publisher_id if mine else None,
        "weight": f"{row.numerator}/{row.denominator}" if row.denominator > 1 else "1",
        "role": row.role,
        "click_id": row.click_id if mine else None,
    }


def tell(found: Mapping[str, Any], names: Mapping[str, str], language: str) -> list[str]:
    """The same as sentences, in the order in which one would tell it."""

    def who(publisher_id: str | None) -> str:
        if publisher_id is None:
            return translate(_PACKAGE, language, _OTHER)
        return names.get(publisher_id, publisher_id)

    said: dict[str, Callable[[Any], str]] = {
        "who": who,
        "why": lambda code: sentence(code, language),
        "role": lambda role: translate(_PACKAGE, language, _ROLES.get(role, role)),
    }
    return [
        translate(
            _PACKAGE,
            language,
            text,
            **{name: said.get(name, str)(value) for name, value in values.items()},
        )
        for text, values in _sentences(found)
    ]


_Said = tuple[str, dict[str, Any]]


def _sentences(found: Mapping[str, Any]) -> Iterator[_Said]:
    before = found["before"]
    if before is not None:
        yield _BEFORE, {"at": before["superseded_at"], "why": before["reason"]}
    yield "{why}", {"why": found["reason"]}
    if found["note"]:
        yield _NOTE, {"note": found["note"]}
    for row in found["touches"]:
        if row["at"] is not None:
            yield _TOUCH, {"at": row["at"], "who": row["publisher_id"], "why": row["reason"]}
        elif row["click_id"] is not None:
            yield _UNREADABLE, {"id": row["click_id"], "why": row["reason"]}
    yield from _shared(found["shares"], found["publisher_id"])
    for row in found["would_be"]:
        yield _WOULD_BE, {"who": row["publisher_id"], "weight": row["weight"]}


def _shared(parts: Sequence[Mapping[str, Any]], payee: str | None) -> Iterator[_Said]:
    if len(parts) > 1:
        for row in parts:
            yield _PART, {"who": row["publisher_id"], "weight": row["weight"], "role": row["role"]}
        yield _PAID, {"who": payee}


def every_sentence() -> Collection[str]:
    """Everything that is said here and has a place in the catalogues."""
    fixed = (_TOUCH, _UNREADABLE, _PART, _PAID, _NOTE, _BEFORE, _WOULD_BE, _OTHER)
    return {*SENTENCES.values(), *fixed, *_ROLES.values()}
