"""What a plan document says to one publisher: its own terms and nothing about another's. Pure."""

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Any


def narrowed(document: Mapping[str, Any], publisher_id: str) -> dict[str, Any]:
    """The document without the rules and coupons that are for other publishers only.

    A rule that several publishers share names the reader alone.
    """
    own = dict(document)
    own["rules"] = [
        _narrowed_rule(rule, publisher_id)
        for rule in document.get("rules", ())
        if publisher_id in _publishers(rule, publisher_id)
    ]
    if "exclusive_coupons" in document:
        own["exclusive_coupons"] = {
            code: owner
            for code, owner in document["exclusive_coupons"].items()
            if owner == publisher_id
        }
    return own


def percents(document: Mapping[str, Any]) -> tuple[str, str] | None:
    """The lowest and the highest percentage that a base rule of the document pays, as written."""
    found = [text for rule in document.get("rules", ()) for text in _rule_percents(rule)]
    if not found:
        return None
    return min(found, key=Decimal), max(found, key=Decimal)


def _publishers(rule: Mapping[str, Any], everyone: str) -> list[str]:
    when: Mapping[str, Any] = rule.get("when") or {}
    return list(when.get("publisher", [everyone]))


def _narrowed_rule(rule: Mapping[str, Any], publisher_id: str) -> dict[str, Any]:
    when = rule.get("when") or {}
    if "publisher" not in when:
        return dict(rule)
    return {**rule, "when": {**when, "publisher": [publisher_id]}}


def _rule_percents(rule: Mapping[str, Any]) -> Iterator[str]:
    if rule.get("kind", "base") != "base":
        return
    levels = (rule.get("tiers") or {}).get("levels", ())
    for part in (rule.get("pay") or {}, *levels):
        if part.get("percent") is not None:
            yield str(part["percent"])
