"""What an order was looked at for, in words: the facts that decided, and its exchange rate."""

from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from typing import Any

from kernel.money import format_amount

Sentence = tuple[str, dict[str, Any]]

_RATE_DECIMALS = 6
BASES = {
    "country": "the delivery address",
    "country_billing": "the billing address",
    "country_site": "the site",
    "country_click": "the click",
}


def matched_names(line: Mapping[str, Any]) -> tuple[str, ...]:
    """What the rule that pays a line looks at."""
    return tuple(line["why"].removeprefix("matches ").split(", "))


def sentences(booking: Mapping[str, Any], lines: Sequence[Mapping[str, Any]]) -> Iterator[Sentence]:
    """The rate of an order in another currency, then each fact that a winning rule names."""
    rate = booking.get("rate")
    if rate is not None:
        yield (
            "Converted at the rate of {day} ({source}): 1 {currency} is {rate} {into}.",
            {
                "day": rate["day"],
                "source": rate["source"],
                "currency": booking["order_currency"],
                "rate": _decimals(Fraction(rate["value"])),
                "into": booking["currency"],
            },
        )
    named = {name for line in lines if line["rule_id"] is not None for name in matched_names(line)}
    if named & {"country", "region"} and booking.get("country"):
        basis = BASES.get(booking["country_source"], booking["country_source"])
        yield (
            "The country is {country}, by {basis}.",
            {"country": booking["country"], "basis": (basis,)},
        )
    for name, (key, message) in _FACTS.items():
        if name in named and booking.get(key) is not None:
            yield message, {key: _shown(booking[key])}


_FACTS = {
    "device": ("device", "The kind of device of the click is {device}."),
    "site": ("site", "The order came in by the site {site}."),
    "customer": ("customer", "The customer is {customer}."),
    "publisher_group": (
        "publisher_groups",
        "When the order occurred, the publisher was in {publisher_groups}.",
    ),
    "within_months_of_first": (
        "months_since_first",
        "Whole months since the customer's first order: {months_since_first}.",
    ),
}


def _shown(value: Any) -> Any:
    # Words are translated, names and numbers are not.
    if isinstance(value, list):
        return ", ".join(value)
    return (value,) if value in WORDS else value


WORDS = frozenset({"new", "returning", "reactivated", "desktop", "mobile", "tablet", "tv", "bot"})


def line_sentences(line: Mapping[str, Any], order_currency: str) -> Iterator[Sentence]:
    """What a line's percentages apply to, where it is not simply its amount."""
    number = line["line"] + 1
    if line.get("vat_derived"):
        yield (
            "Line {line}: {gross} {currency} with {vat} % tax are {net} {currency} without it.",
            {
                "line": number,
                "gross": format_amount(line["gross_minor"], order_currency),
                "vat": _decimals(Fraction(line["vat_percent"])),
                "net": format_amount(line["net_minor"], order_currency),
                "currency": order_currency,
            },
        )
    if line.get("base") == "revenue":
        yield "Line {line}: the rule pays on what the shop itself earns by it.", {"line": number}


def _decimals(value: Fraction) -> str:
    """All decimals where there are few, else the first ones and a sign that there are more."""
    scale = 10**_RATE_DECIMALS
    whole, rest = divmod(value.numerator * scale, value.denominator)
    text = f"{whole // scale}.{whole % scale:0{_RATE_DECIMALS}d}"
    return f"{text}…" if rest else text.rstrip("0").rstrip(".")
