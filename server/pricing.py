"""`tallystick price`: runs documents in the format of the commission vectors through the engine.

For an event, what is booked is the difference of two evaluations, one without and one with it. A
section that this version does not evaluate comes back with `computed` null and is never ok.
"""

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from commissions.rules import Plan, PlanError, evaluate, parse_events, parse_plan
from kernel.errors import InvalidInput
from kernel.money import allocate
from server import crediting

_EVALUATED = frozenset({"vectors", "allocations", "attribution"})
# Sections that are one object, not a list of entries.
_WHOLE = frozenset({"tlog"})
_TEXTS = frozenset({"format", "generated_for", "conventions", "fields", "errata"})


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
        if name in _WHOLE:
            sections[name] = [_entry(name, {"id": name})]
        elif name not in _TEXTS and isinstance(entries, list):
            sections[name] = [_entry(name, entry) for entry in entries]
    ok = all(entry["ok"] for entries in sections.values() for entry in entries)
    return sections, ok


def _entry(section: str, entry: Any) -> dict[str, Any]:
    if not isinstance(entry, Mapping):
        reason = "an entry must be an object"
        return {"id": None, "computed": None, "expect": None, "ok": False, "reason": reason}
    expect = entry.get("expect")
    computed: dict[str, Any] | list[int]
    answer: dict[str, Any] = {"id": entry.get("id"), "computed": None, "expect": expect}
    if section not in _EVALUATED:
        return {**answer, "ok": False, "reason": f"the section {section} is not evaluated yet"}
    try:
        if section == "attribution":
            computed, answer["expect"], ok = crediting.evaluate(entry)
        else:
            computed = _vector(entry) if section == "vectors" else _allocation(entry)
            ok = expect is None or _agrees(computed, expect)
    except (
        PlanError,
        InvalidInput,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        ArithmeticError,
    ) as error:
        # Whatever one entry holds, the others are still computed.
        return {**answer, "ok": False, "reason": f"{type(error).__name__}: {error}"}
    return {**answer, "computed": computed, "ok": ok}


def _allocation(entry: Mapping[str, Any]) -> list[int]:
    return allocate(entry["total_minor"], entry["weights"])


def _vector(entry: Mapping[str, Any]) -> dict[str, Any]:
    plan = parse_plan(entry["program"], entry["rules"], publishing=False)
    booked: dict[str, int] = {}
    per_event = []
    for upto, event in enumerate(entry["events"], start=1):
        now = _split(plan, entry["events"][:upto])
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


def _split(plan: Plan, events: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {
        f"{conversion}>{publisher}": minor
        for conversion, priced in evaluate(plan, parse_events(list(events), plan.zone)).items()
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
