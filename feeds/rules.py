"""What a feed row must be to become an item. Pure: values in, values out.

A row that breaks a rule which a shopper or a partner would pay for (identity, price, landing page)
is refused with every broken rule named. Anything else is put right or left out, with a warning.
"""

import hashlib
import html
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from types import MappingProxyType
from typing import Final, Literal
from urllib.parse import SplitResult, urlsplit

import msgspec
from stdnum import ean

from kernel.money import MoneyError, parse_amount

Severity = Literal["error", "warning"]
RawValue = str | list[str | dict[str, str]]

ITEM_ID_CHARS_MAX: Final = 50
TITLE_CHARS_MAX: Final = 150
DESCRIPTION_CHARS_MAX: Final = 5_000
NAME_CHARS_MAX: Final = 70
LINK_CHARS_MAX: Final = 2_000
CATEGORY_CHARS_MAX: Final = 750
LABEL_CHARS_MAX: Final = 100
ADDITIONAL_IMAGES_MAX: Final = 10
AVAILABILITY_DAYS_AHEAD_MAX: Final = 366

# Compared by letters alone, so that "in stock", "in_stock" and ".../InStock" are one spelling.
_AVAILABILITY: Final = MappingProxyType(
    {
        "instock": "in_stock",
        "limited": "limited",
        "limitedstock": "limited",
        "limitedavailability": "limited",
        "preorder": "preorder",
        "backorder": "backorder",
        "availablefororder": "backorder",
        "outofstock": "out_of_stock",
        "soldout": "out_of_stock",
        "discontinued": "discontinued",
    }
)
_CONDITION: Final = MappingProxyType(
    {
        "": "new",
        "new": "new",
        "refurbished": "refurbished",
        "cpo": "refurbished",
        "used": "used",
        "usedlikenew": "used",
        "usedgood": "used",
        "usedfair": "used",
    }
)
_ATTRIBUTES: Final = (
    "color",
    "size",
    "material",
    "pattern",
    "gender",
    "age_group",
    "size_system",
    "size_type",
)
_LABELS: Final = tuple(f"custom_label_{number}" for number in range(5))

_PRICE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?) ([A-Z]{3})")
_PRICE_LOOSE: Final = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*([A-Za-z]{3})")
_PRICE_TURNED: Final = re.compile(r"([A-Za-z]{3})\s*([0-9]+(?:\.[0-9]+)?)")
_TAG: Final = re.compile(r"<([/!?a-zA-Z][^<>]*)>")
_CONTROL: Final = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f]")
_HOST: Final = re.compile(r"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*\.?")
_RESTRICTED_GTIN: Final = re.compile(r"(?:02|04|05|2|98|99)")


@dataclass(frozen=True, slots=True)
class Problem:
    """A broken rule in one row: which column, the rule's stable code, a sentence.

    `row_number` is as in RawItem. An `error` keeps the row out of the catalogue, a `warning` does
    not.
    """

    row_number: int
    column: str
    rule: str
    severity: Severity
    message: str


@dataclass(frozen=True, slots=True)
class RawItem:
    """A row as it was read. A column given once is text; repeated or nested ones are a list.

    `row_number` counts records as a spreadsheet does (the header is 1), or items of an XML feed
    from 1. Column names are in lower case with underscores and without the `g:` prefix.
    """

    row_number: int
    values: dict[str, RawValue]
    problems: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Item:
    """A variant that can be promoted. Absent text is empty; prices are minor units of `currency`.

    The sale price holds from `sale_from` until before `sale_to` (None: open on that side), aware
    UTC. `warnings` are about the row, not part of the item: they are not in its fingerprint.
    """

    item_id: str
    group_id: str
    title: str
    description: str
    brand: str
    gtin14: str
    mpn: str
    condition: str
    category: str
    google_category: str
    link: str
    image_link: str
    additional_images: tuple[str, ...]
    price_minor: int
    sale_price_minor: int | None
    sale_from: datetime | None
    sale_to: datetime | None
    currency: str
    availability: str
    availability_date: datetime | None
    expires_at: datetime | None
    attributes: dict[str, str]
    custom_labels: dict[str, str]
    commission_group: str
    warnings: tuple[Problem, ...] = ()


@dataclass(slots=True)
class _Row:
    """A row being judged: gives out columns, takes down problems."""

    raw: RawItem
    problems: list[Problem] = field(default_factory=list)

    def error(self, column: str, rule: str, message: str) -> None:
        self.problems.append(Problem(self.raw.row_number, column, rule, "error", message))

    def warn(self, column: str, rule: str, message: str) -> None:
        self.problems.append(Problem(self.raw.row_number, column, rule, "warning", message))

    def all(self, column: str) -> list[str]:
        """Every text given for a column; nested values have no text of their own."""
        value = self.raw.values.get(column, "")
        given = [value] if isinstance(value, str) else value
        return [text for part in given if isinstance(part, str) and (text := _one_line(part))]

    def text(self, column: str) -> str:
        given = self.all(column)
        if len(given) > 1:
            self.warn(column, "repeated", f"{column} is given {len(given)} times; the first counts")
        return given[0] if given else ""

    def within(self, column: str, text: str, chars_max: int, *, cut: bool) -> str:
        """The text if it fits; if not, cut with a warning, or refused (an identity is not cut)."""
        if len(text) <= chars_max:
            return text
        message = f"{column} has {len(text)} characters, {chars_max} are allowed"
        if cut:
            self.warn(column, "too_long", message)
            return text[:chars_max].rstrip()
        self.error(column, "too_long", message)
        return ""

    def required(self, column: str) -> str:
        text = self.text(column)
        if not text:
            self.error(column, "required", f"{column} is required")
        return text

    def refused(self) -> bool:
        return any(problem.severity == "error" for problem in self.problems)


def normalise(
    raw: RawItem, *, currency: str, allowed_domains: frozenset[str], today: date
) -> Item | list[Problem]:
    """The item a row describes, or all its problems if one of them is an error.

    `currency` is the feed's; `allowed_domains` are the advertiser's, in lower case and punycode,
    and stand for their subdomains too. `today` only judges dates: it never changes the item.
    """
    row = _Row(raw, list(raw.problems))
    price_minor = _price(row, "price", currency, needed=True)
    sale_price_minor = _price(row, "sale_price", currency, needed=False)
    sale_from, sale_to = _sale_window(row, today)
    if price_minor and sale_price_minor and sale_price_minor >= price_minor:
        row.error("sale_price", "sale_not_below", "sale_price must be below price")
    availability = _availability(row)
    labels = {name: row.within(name, row.text(name), LABEL_CHARS_MAX, cut=True) for name in _LABELS}
    item = Item(
        item_id=row.within("id", row.required("id"), ITEM_ID_CHARS_MAX, cut=False),
        group_id=row.within(
            "item_group_id", row.text("item_group_id"), ITEM_ID_CHARS_MAX, cut=False
        ),
        title=_prose(row, "title", TITLE_CHARS_MAX),
        description=_prose(row, "description", DESCRIPTION_CHARS_MAX),
        brand=row.within("brand", row.text("brand"), NAME_CHARS_MAX, cut=True),
        gtin14=_gtin14(row),
        mpn=_mpn(row),
        condition=_condition(row),
        category=row.within("product_type", row.text("product_type"), CATEGORY_CHARS_MAX, cut=True),
        google_category=row.within(
            "google_product_category",
            row.text("google_product_category"),
            CATEGORY_CHARS_MAX,
            cut=True,
        ),
        link=_landing_link(row, allowed_domains),
        image_link=_web_link(row, "image_link", row.required("image_link")),
        additional_images=_additional_images(row),
        price_minor=price_minor or 0,
        sale_price_minor=sale_price_minor,
        sale_from=sale_from,
        sale_to=sale_to,
        currency=currency,
        availability=availability,
        availability_date=_availability_date(row, availability, today),
        expires_at=_expires_at(row, today),
        attributes={name: text for name in _ATTRIBUTES if (text := row.text(name))},
        custom_labels={name: text for name, text in labels.items() if text},
        commission_group=row.within(
            "commission_group", row.text("commission_group"), NAME_CHARS_MAX, cut=False
        ),
    )
    return row.problems if row.refused() else replace(item, warnings=tuple(row.problems))


def effective_price_minor(item: Item, *, now: datetime) -> int:
    """What a shopper pays at an instant: the sale price inside its window, else the price."""
    if item.sale_price_minor is None:
        return item.price_minor
    begun = item.sale_from is None or item.sale_from <= now
    ended = item.sale_to is not None and item.sale_to <= now
    return item.sale_price_minor if begun and not ended else item.price_minor


def fingerprint(item: Item) -> str:
    """32 hex digits that change exactly when the item does; warnings do not count."""
    document = msgspec.to_builtins(item)
    del document["warnings"]
    canonical = msgspec.json.encode(document, order="sorted")
    return hashlib.blake2b(canonical, digest_size=16).hexdigest()


def plain_text(text: str) -> str:
    """Text without markup, entities and control characters, spaces collapsed.

    Takes time linear in its input whatever the markup. The result may still hold `<`: it is text,
    to be escaped where it is shown.
    """
    if "<" in text:
        text = " ".join(_visible(_TAG.split(text)))
    return _one_line(html.unescape(text) if "&" in text else text)


def on_domains(host: str, domains: Iterable[str]) -> bool:
    """Whether a host is one of the domains or below one, at a dot."""
    return any(host == domain or host.endswith("." + domain) for domain in domains)


def _visible(parts: list[str]) -> Iterable[str]:
    # Text and tags alternate. What stands inside script and style is not meant for readers.
    hidden = ""
    for index, part in enumerate(parts):
        if index % 2 == 0:
            if not hidden:
                yield part
        elif hidden:
            hidden = "" if part.lower().startswith("/" + hidden) else hidden
        else:
            name = part.partition(" ")[0].lower()
            hidden = name if name in {"script", "style"} else ""


def _one_line(text: str) -> str:
    return " ".join(_CONTROL.sub(" ", text).split())


def _prose(row: _Row, column: str, chars_max: int) -> str:
    text = plain_text(row.text(column))
    if not text:
        row.error(column, "required", f"{column} is required")
    return row.within(column, text, chars_max, cut=True)


def _price(row: _Row, column: str, currency: str, *, needed: bool) -> int | None:
    text = row.required(column) if needed else row.text(column)
    if not text:
        return None
    amount, named = _price_parts(row, column, text)
    if not amount:
        row.error(column, "price_form", f"{column} must look like 15.00 {currency}")
        return None
    if named != currency:
        row.error(column, "price_currency", f"{column} is in {named}, the feed in {currency}")
        return None
    try:
        minor = parse_amount(amount, currency)
    except MoneyError as error:
        row.error(column, "price_amount", f"{column}: {error}")
        return None
    if minor == 0:
        row.error(column, "price_zero", f"{column} must be above zero")
        return None
    return minor


def _price_parts(row: _Row, column: str, text: str) -> tuple[str, str]:
    if strict := _PRICE.fullmatch(text):
        return strict[1], strict[2]
    # One reading only, so it is taken; but others' readers refuse it, so the advertiser is told.
    if loose := _PRICE_LOOSE.fullmatch(text):
        amount, named = loose[1], loose[2].upper()
    elif turned := _PRICE_TURNED.fullmatch(text):
        amount, named = turned[2], turned[1].upper()
    else:
        return "", ""
    row.warn(column, "price_spelling", f"{column} should be written {amount} {named}")
    return amount, named


def _sale_window(row: _Row, today: date) -> tuple[datetime | None, datetime | None]:
    column = "sale_price_effective_date"
    text = row.text(column)
    if not text:
        return None, None
    begin, _, end = text.partition("/")
    sale_from, sale_to = _instant(begin), _instant(end)
    if sale_from is None or sale_to is None or sale_from >= sale_to:
        # A sale whose time is unknown must not be advertised as the price of today.
        row.error(column, "date_form", f"{column} must be two ISO 8601 times joined by /")
        return None, None
    if sale_to.date() < today:
        row.warn(column, "sale_ended", f"the sale ended on {sale_to.date().isoformat()}")
    return sale_from, sale_to


def _instant(text: str) -> datetime | None:
    try:
        parsed = datetime.fromisoformat(text.strip())
        return (parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)).astimezone(UTC)
    except (ValueError, OverflowError):
        return None


def _availability(row: _Row) -> str:
    text = row.required("availability")
    known = _AVAILABILITY.get(_letters(text.rpartition("/")[2]), "")
    if text and not known:
        row.error("availability", "enum_unknown", f"availability {text[:40]!r} is not known")
    return known


def _condition(row: _Row) -> str:
    text = row.text("condition")
    known = _CONDITION.get(_letters(text), "")
    if not known:
        row.error("condition", "enum_unknown", f"condition {text[:40]!r} is not known")
    return known


def _letters(text: str) -> str:
    return re.sub(r"[^a-z]", "", text.lower())


def _availability_date(row: _Row, availability: str, today: date) -> datetime | None:
    column = "availability_date"
    text = row.text(column)
    if not text:
        if availability in {"preorder", "backorder"}:
            row.warn(column, "required", f"{column} should be given for {availability}")
        return None
    parsed = _instant(text)
    if parsed is None:
        row.warn(column, "date_form", f"{column} must be an ISO 8601 time")
    elif parsed.date() > today + timedelta(days=AVAILABILITY_DAYS_AHEAD_MAX):
        row.warn(column, "date_far", f"{column} is more than a year ahead")
    return parsed


def _expires_at(row: _Row, today: date) -> datetime | None:
    text = row.text("expiration_date")
    parsed = _instant(text) if text else None
    if text and parsed is None:
        row.warn("expiration_date", "date_form", "expiration_date must be an ISO 8601 time")
    elif parsed is not None and parsed.date() < today:
        row.error("expiration_date", "expired", f"expired on {parsed.date().isoformat()}")
    return parsed


def _gtin14(row: _Row) -> str:
    text = row.text("gtin")
    digits = re.sub(r"[ -]", "", text)
    if not digits:
        return ""
    if not (digits.isascii() and digits.isdigit() and ean.is_valid(digits)):
        row.warn("gtin", "gtin_invalid", "gtin is left out: wrong length or check digit")
        return ""
    padded = digits.zfill(14)
    # Numbers a shop or a coupon may use as it likes say nothing about which product it is.
    if len(digits) > len("12345678") and _RESTRICTED_GTIN.match(padded[1:]):
        row.warn("gtin", "gtin_restricted", "gtin is left out: its range is not for products")
        return ""
    return padded


def _mpn(row: _Row) -> str:
    text = row.text("mpn")
    if len(text) > NAME_CHARS_MAX:
        row.warn("mpn", "too_long", f"mpn is left out: more than {NAME_CHARS_MAX} characters")
        return ""
    return text


def _landing_link(row: _Row, allowed_domains: frozenset[str]) -> str:
    link = _web_link(row, "link", row.required("link"))
    parts = _web_parts(link)
    if link and parts is not None and not on_domains(_host(parts), allowed_domains):
        row.error("link", "link_foreign", f"{_host(parts)} is not a domain of this advertiser")
    return link


def _additional_images(row: _Row) -> tuple[str, ...]:
    column = "additional_image_link"
    # A comma inside a URL is written %2C in these files: a bare one separates.
    given = [text for cell in row.all(column) for part in cell.split(",") if (text := part.strip())]
    if len(given) > ADDITIONAL_IMAGES_MAX:
        row.warn(column, "too_many", f"only the first {ADDITIONAL_IMAGES_MAX} images are taken")
    taken = list(dict.fromkeys(given))[:ADDITIONAL_IMAGES_MAX]
    good = tuple(link for link in taken if len(link) <= LINK_CHARS_MAX and _web_parts(link))
    if len(good) < len(taken):
        row.warn(column, "link_form", f"{len(taken) - len(good)} images are left out: not web URLs")
    return good


def _web_link(row: _Row, column: str, text: str) -> str:
    link = row.within(column, text, LINK_CHARS_MAX, cut=False)
    if link and _web_parts(link) is None:
        row.error(column, "link_form", f"{column} must be an http or https URL of a named host")
        return ""
    return link


def _web_parts(link: str) -> SplitResult | None:
    """The parts of a web URL that every parser reads alike, or None."""
    if "\\" in link or any(char <= " " for char in link):
        return None
    try:
        parts = urlsplit(link)
        port = parts.port
    except ValueError:
        return None
    usual = (
        parts.scheme in {"http", "https"} and "@" not in parts.netloc and port in {None, 80, 443}
    )
    return parts if usual and _HOST.fullmatch(_host(parts)) else None


def _host(parts: SplitResult) -> str:
    host = (parts.hostname or "").rstrip(".")
    try:
        return host if host.isascii() else host.encode("idna").decode("ascii")
    except UnicodeError:
        return ""
