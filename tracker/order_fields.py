"""What an order may say beside its amount and click: customer, other clicks, statuses, own fields.

Read for `tracker.orders`, with the same rule: an empty field is an absent one, and everything that
is wrong is remembered in the Fields, never echoed.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypedDict

from tracker.fields import Fields

MORE_MONEY: Final = ("discount", "tax", "shipping")
MORE_FIELDS: Final = (
    "click_ids",
    "customer_id",
    "email_hash",
    "parent_order_id",
    "publisher",
    "channel",
    "cart_at",
    "test",
    "custom",
    "site",
    "country_billing",
    "country_site",
    *MORE_MONEY,
)
STATUSES: Final = ("pending", "approved", "declined", "cancelled", "refunded")
_CLICK_ID_CHARS_MAX: Final = 255
_ID_CHARS_MAX: Final = 128
_CODE_CHARS_MAX: Final = 64
_HASH: Final = re.compile(r"[0-9A-Fa-f]{64}", re.ASCII)
_SEPARATORS: Final = re.compile(r"[\s,|;]+")
_CUSTOM_NAME: Final = re.compile(r"[A-Za-z0-9_.-]{1,64}", re.ASCII)
_TRUE: Final = (True, 1, "1", "true")
_FALSE: Final = (False, 0, "0", "false")


@dataclass(frozen=True, slots=True, kw_only=True)
class More:
    """What the fields are checked against."""

    click_id: str | None
    now: datetime
    click_ids_max: int
    custom_fields_max: int
    custom_chars_max: int


class MoreValues(TypedDict):
    """The fields as an Order has them."""

    click_ids: tuple[str, ...]
    customer_id: str | None
    email_hash: str | None
    parent_order_id: str | None
    publisher: str | None
    paid_channel: str | None
    cart_at: datetime | None
    is_test: bool
    custom: dict[str, str]
    site: str | None
    country_billing: str | None
    country_site: str | None


def read_more(fields: Fields, limits: More) -> MoreValues:
    """The fields, each absent or right; what is wrong is remembered in `fields`."""
    return MoreValues(
        click_ids=_click_ids(fields, limits),
        customer_id=fields.text("customer_id", chars_max=_ID_CHARS_MAX),
        email_hash=_email_hash(fields),
        parent_order_id=fields.text("parent_order_id", chars_max=_ID_CHARS_MAX),
        publisher=fields.text("publisher", chars_max=_CODE_CHARS_MAX),
        paid_channel=fields.text("channel", chars_max=_CODE_CHARS_MAX),
        cart_at=fields.time("cart_at", now=limits.now),
        is_test=_flag(fields, "test"),
        custom=_custom(fields, limits),
        site=fields.text("site", chars_max=_CODE_CHARS_MAX),
        country_billing=fields.country("country_billing"),
        country_site=fields.country("country_site"),
    )


def read_status(fields: Fields, words: Mapping[str, str]) -> str:
    """The status meant, by the advertiser's words and then by ours; empty when none is named."""
    found = fields.value("status")
    if found is None:
        return ""
    word = str(found).strip().lower() if isinstance(found, str | int) else ""
    status = words.get(word) or (word if word in STATUSES else "")
    if not status:
        known = ", ".join(sorted({*words, *STATUSES}))
        fields.problem("status", "choice", f"must be one of {known}")
    return status


def _click_ids(fields: Fields, limits: More) -> tuple[str, ...]:
    found = fields.value("click_ids")
    if found is None:
        return ()
    listed: list[Any]
    if isinstance(found, str):
        listed = [part for part in _SEPARATORS.split(found) if part]
    elif isinstance(found, list):
        listed = found
    else:
        fields.problem("click_ids", "type", "must be a list of texts, or one joined by commas")
        return ()
    if len(listed) > limits.click_ids_max:
        fields.problem("click_ids", "count", f"must be at most {limits.click_ids_max}")
        return ()
    if not all(_is_click_id(one) for one in listed):
        fields.problem("click_ids", "format", "must each be 1 to 255 printable characters")
        return ()
    # Oldest first; the click that the order itself names is no earlier one.
    return tuple(one for one in dict.fromkeys(listed) if one != limits.click_id)


def _is_click_id(value: Any) -> bool:
    return isinstance(value, str) and 0 < len(value) <= _CLICK_ID_CHARS_MAX and value.isprintable()


def _email_hash(fields: Fields) -> str | None:
    found = fields.value("email_hash")
    if found is None:
        return None
    if not isinstance(found, str) or _HASH.fullmatch(found) is None:
        # Neither the rule nor the sentence repeats what came: it may be somebody's address.
        is_plain = isinstance(found, str) and "@" in found
        fields.problem(
            "email_hash",
            "plain_email" if is_plain else "sha_256",
            "must be the SHA-256 of the trimmed, lower-case e-mail address as 64 hexadecimal"
            " digits, never the address itself",
        )
        return None
    return found.lower()


def _flag(fields: Fields, name: str) -> bool:
    found = fields.value(name)
    if found is None or found in _FALSE:
        return False
    if found not in _TRUE:
        fields.problem(name, "boolean", "must be 1 or 0, true or false")
    return True


def _custom(fields: Fields, limits: More) -> dict[str, str]:
    found = fields.value("custom")
    if found is None:
        return {}
    if not isinstance(found, Mapping):
        fields.problem("custom", "type", "must be an object of texts")
        return {}
    if len(found) > limits.custom_fields_max:
        fields.problem("custom", "count", f"must be at most {limits.custom_fields_max} fields")
        return {}
    own = Fields(found, path="custom.")
    read: dict[str, str] = {}
    for name in found:
        if not isinstance(name, str) or _CUSTOM_NAME.fullmatch(name) is None:
            fields.problem(
                "custom", "name", "has a name that is not 1 to 64 of A-Z, a-z, 0-9, _, . and -"
            )
            continue
        value = own.text(name, chars_max=limits.custom_chars_max)
        if value is not None:
            read[name] = value
    fields.problems += own.problems
    return read
