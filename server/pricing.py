"""`tallystick price`: runs documents in the format of the commission vectors through the engine.

For an event, what is booked is the difference of two evaluations, one without and one with it. A
section or an expectation that is not known is never ok.
"""

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from fractions import Fraction
from typing import Any

from commissions.rules import Event, Plan, evaluate, parse_events, parse_plan
from commissions.schedules import CARRIED
from kernel.money import allocate
from server import crediting, pricing_sections

# Sections that are one object, not a list of entries.
_WHOLE = frozenset({"tlog"})
_TEXTS = frozenset({"format", "generated_for", "conventions", "fields", "errata"})
_METHODS = frozenset({"largest_remainder", "largest_remainder_ties_to_earlier"})


class BrokenDocument(ValueError):
    """The file is no document of vectors; the message says where it stops being one."""


def read(text: str) -> Mapping[str, Any]:
    """The document in a file's text."""
    try:
        document = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise BrokenDocument(f"not a JSON document ({error})") from error
    if not isinstance(document, dict):
        raise BrokenDocument("the document must be an object of sections")
    return document


def run(document: Mapping[str, Any]) -> tuple[dict[str, Any], bool]:
    """(the same sections with `{id, computed, expect, ok}` entries, whether all are ok)."""
    sections: dict[str, Any] = {}
    for name, entries in document.items():
        if name in _TEXTS:
            continue
        if name in _WHOLE and isinstance(entries, Mapping):
            sections[name] = [_entry(name, {"id": name, **entries})]
        elif isinstance(entries, list):
            sections[name] = [_entry(name, entry) for entry in entries]
        else:
            sections[name] = [_refused(None, "a section must be a list of entries")]
    ok = all(entry["ok"] for entries in sections.values() for entry in entries)
    return sections, ok


def _refused(entry_id: Any, reason: str, expect: Any = None) -> dict[str, Any]:
    return {"id": entry_id, "computed": None, "expect": expect, "ok": False, "reason": reason}


def _entry(section: str, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, Mapping):
        return _refused(None, "an entry must be an object")
    expect = entry.get("expect")
    if section not in _SECTIONS:
        reason = f"the section {section} is not known"
        return _refused(entry.get("id"), reason, expect)
    try:
        return {"id": entry.get("id"), **_SECTIONS[section](section, entry)}
    except Exception as error:  # noqa: BLE001 - whatever one entry holds, the others are computed
        return _refused(entry.get("id"), f"{type(error).__name__}: {error}", expect)


def _attribution(_section: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    computed, expect, ok = crediting.evaluate(entry)
    return {"computed": computed, "expect": expect, "ok": ok}


def _allocation(_section: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    method = entry.get("method", "largest_remainder")
    if method not in _METHODS:
        raise ValueError(f"method: {method!r} is not known")
    weights = [_weight(one) for one in entry["weights"]]
    total, expect = entry["total_minor"], entry.get("expect")
    if type(total) is not int:
        raise TypeError("total_minor: must be an integer")
    computed = allocate(total, weights)
    return {"computed": computed, "expect": expect, "ok": expect is None or computed == expect}


def _weight(value: Any) -> int | Fraction:
    if type(value) is int:
        return value
    if isinstance(value, str):
        return Fraction(value)
    raise TypeError("weights: must be integers, decimals or fractions as text")


def _fields(section: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """A section whose entries expect fields, compared one by one."""
    computed = pricing_sections.EVALUATE[section](entry)
    expect = _expected(entry)
    not_computed = sorted(set(expect or ()) - set(computed))
    answer: dict[str, Any] = {"computed": computed, "expect": expect}
    answer["ok"] = all(
        computed[name] == _plain(value)
        for name, value in (expect or {}).items()
        if name in computed
    )
    unknown = [name for name in not_computed if name not in CARRIED]
    if unknown:
        answer |= {"ok": False, "reason": f"expects what is not computed: {', '.join(unknown)}"}
    elif not_computed:
        answer["not_computed"] = not_computed
    return answer


def _expected(entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """`expect`, and every `expect_...` under the rest of its name."""
    found = {
        name.removeprefix("expect_"): value
        for name, value in entry.items()
        if name.startswith("expect_")
    }
    expect = entry.get("expect")
    if isinstance(expect, Mapping):
        found |= expect
    elif expect is not None:
        found["minor"] = expect
    return found or None


def _plain(value: Any) -> Any:
    """Balances of zero are no balances."""
    return _nonzero(value) if isinstance(value, Mapping) else value


def _log(_section: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    """A log says its own expectations: roots, and the paths of its proofs."""
    computed = pricing_sections.EVALUATE["tlog"](entry)
    expect = {name: entry[name] for name in computed if name in entry}
    wrong = [name for name, value in expect.items() if not _covers(computed[name], value)]
    answer = {"computed": computed, "expect": expect or None, "ok": not wrong}
    return {**answer, "reason": f"differs: {', '.join(wrong)}"} if wrong else answer


def _covers(computed: Any, expect: Any) -> bool:
    """Whether everything that is expected was computed, deep inside as well."""
    if isinstance(expect, Mapping) and isinstance(computed, Mapping):
        return all(
            name in computed and _covers(computed[name], value) for name, value in expect.items()
        )
    if isinstance(expect, list) and isinstance(computed, list):
        return len(expect) == len(computed) and all(map(_covers, computed, expect))
    return bool(computed == expect)


def _vector(_section: str, entry: Mapping[str, Any]) -> dict[str, Any]:
    expect = entry.get("expect")
    computed = _booked(entry)
    ok = expect is None or _agrees(computed, expect)
    return {"computed": computed, "expect": expect, "ok": ok}


def _booked(entry: Mapping[str, Any]) -> dict[str, Any]:
    plan = parse_plan(entry["program"], entry["rules"], publishing=False)
    events = parse_events(entry["events"], plan.zone)
    booked: dict[str, int] = {}
    per_event = []
    for upto, event in enumerate(entry["events"], start=1):
        now = _split(plan, events[:upto])
        postings = {
            key: now.get(key, 0) - booked.get(key, 0)
            for key in (*now, *(key for key in booked if key not in now))
            if now.get(key, 0) != booked.get(key, 0)
        }
        per_event.append(
            {
                "event": event.get("id", event.get("conversion")),
                "delta_minor": sum(postings.values()),
                "postings": postings,
            }
        )
        booked = now
    totals: dict[str, int] = defaultdict(int)
    for key, minor in booked.items():
        totals[key.rpartition(">")[2]] += minor
    return {"per_event": per_event, "totals": dict(totals)}


def _split(plan: Plan, events: Sequence[Event]) -> dict[str, int]:
    return {
        f"{conversion}>{publisher}": minor
        for conversion, priced in evaluate(plan, events).items()
        for publisher, minor in priced.payees.items()
    }


def _agrees(computed: Any, expect: Any) -> bool:
    if not isinstance(expect, Mapping):
        return bool(computed == expect)
    return _nonzero(computed["totals"]) == _nonzero(expect.get("totals", computed["totals"])) and (
        "per_event" not in expect
        or (
            len(expect["per_event"]) == len(computed["per_event"])
            and all(map(_event_agrees, computed["per_event"], expect["per_event"]))
        )
    )


def _event_agrees(computed: Mapping[str, Any], expect: Mapping[str, Any]) -> bool:
    return (
        computed["event"] == expect["event"]
        and computed["delta_minor"] == expect["delta_minor"]
        and ("postings" not in expect or computed["postings"] == _nonzero(expect["postings"]))
    )


def _nonzero(amounts: Mapping[str, int]) -> dict[str, int]:
    return {key: minor for key, minor in amounts.items() if minor}


_SECTIONS: Mapping[str, Callable[[str, Mapping[str, Any]], dict[str, Any]]] = {
    "vectors": _vector,
    "allocations": _allocation,
    "attribution": _attribution,
    "schedules": _fields,
    "payouts": _fields,
    "fx": _fields,
    "ledger": _fields,
    "tlog": _log,
}
