"""The form for the next rules of attribution: a document as flat fields of text, and back. Pure.

What is in the fields becomes the document as it stands; whether it may be so is the document's own
matter (`credit_terms.parse`), which names what is wrong by the same names.
"""

import json
from collections.abc import Mapping
from typing import Any, Final

from kernel.errors import invalid
from tracker.credit import Model
from tracker.credit_terms import CHANNELS_DEFAULT, PARAMS, SOURCES_DEFAULT, Source

WHOLE: Final = ("window_hours", "stand_down_seconds", "in_cart_seconds", "customer_days")
PARAM_NAMES: Final = tuple(dict.fromkeys(name for names in PARAMS.values() for name in names))
SOURCE_FIELDS: Final = tuple(f"source_{place}" for place in range(1, len(Source) + 1))
MORE: Final = ("groups", "preferred", "rules")
"""Parts of a document that the form takes as JSON."""


def fields_of(document: Mapping[str, Any], codes: Mapping[str, str]) -> dict[str, str]:
    """The form filled in with a document; publishers by their codes, where `codes` has their id."""
    params = document.get("params") or {}
    fields = {name: str(params.get(name, "")) for name in PARAM_NAMES}
    fields |= {name: str(document.get(name, "")) for name in WHOLE}
    fields["model"] = document.get("model") or Model.LAST_CLICK
    fields["in_cart_rejects_solo"] = "yes" if document.get("in_cart_rejects_solo") else ""
    sources = document.get("sources", SOURCES_DEFAULT)
    fields |= dict.fromkeys(SOURCE_FIELDS, "") | dict(zip(SOURCE_FIELDS, sources, strict=False))
    fields["customer_choice"] = document.get("customer_choice", "")
    fields["channels"] = "\n".join(document.get("channels", CHANNELS_DEFAULT))
    fields["excluded"] = "\n".join(codes.get(one, one) for one in document.get("excluded", ()))
    more = {name: document[name] for name in MORE if document.get(name)}
    fields["more"] = json.dumps(more, indent=2, ensure_ascii=False) if more else ""
    return fields


def document_of(form: Mapping[str, str], ids: Mapping[str, str]) -> dict[str, Any]:
    """The document that a form asks for; `ids` are those of the publishers' codes.

    InvalidInput where a text is no number or no JSON.
    """
    given = {name: form.get(name, "").strip() for name in form}
    params = {name: given[name] for name in PARAM_NAMES if given.get(name)}
    document: dict[str, Any] = {"model": given.get("model") or Model.LAST_CLICK.value}
    if params:
        document["params"] = params
    document |= {name: _whole(name, given[name]) for name in WHOLE if given.get(name)}
    if given.get("in_cart_rejects_solo"):
        document["in_cart_rejects_solo"] = True
    document["sources"] = [given[name] for name in SOURCE_FIELDS if given.get(name)]
    if given.get("customer_choice"):
        document["customer_choice"] = given["customer_choice"]
    document["channels"] = _lines(given.get("channels", ""))
    excluded = [ids.get(one, one) for one in _lines(given.get("excluded", ""))]
    if excluded:
        document["excluded"] = excluded
    return document | _more(given.get("more", ""))


def _whole(name: str, text: str) -> int:
    # int() takes digits of every script, signs and underscores; a form shall not.
    if not (text.isascii() and text.isdigit() and len(text) <= 9):  # noqa: PLR2004 - far beyond every range
        raise invalid(name, "range", "must be a whole number")
    return int(text)


def _lines(text: str) -> list[str]:
    return [line.strip() for line in text.splitlines() if line.strip()]


def _more(text: str) -> dict[str, Any]:
    if not text:
        return {}
    try:
        found = json.loads(text)
    except ValueError as error:
        raise invalid("more", "json", "must be JSON") from error
    if not isinstance(found, dict) or set(found) - set(MORE):
        raise invalid("more", "fields", f"must be an object with {', '.join(MORE)} only")
    return found
