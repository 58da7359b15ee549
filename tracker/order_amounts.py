"""Money as reports say it, and the currency it is in.

Amounts are decimal texts in major units, or `{"minor", "currency"}`.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from kernel.money import MAX_MINOR, MoneyError, parse_amount
from tracker.fields import Fields


def currency_meant(values: Iterable[Any], own: str, others: Sequence[str]) -> str:
    """The first of the accepted currencies that is named by these values; else the program's own.

    A value is a currency code, or an amount that carries its currency.
    """
    for value in values:
        named = value.get("currency") if isinstance(value, Mapping) else value
        if isinstance(named, str) and named in (own, *others):
            return named
    return own


def read_amount(fields: Fields, name: str, currency: str) -> int | None:
    """Minor units of a money field, or None when it is absent or wrong (then remembered)."""
    found = fields.value(name)
    if found is None:
        return None
    if isinstance(found, Mapping):
        return _minor_of_object(fields, name, found, currency)
    if not isinstance(found, str):
        fields.problem(name, "type", 'must be a decimal text or {"minor", "currency"}')
        return None
    try:
        return parse_amount(found, currency)
    except MoneyError as error:
        fields.problem(name, "amount", error.reason)
        return None


def check_currency(
    fields: Fields, currency: str, *, needed: bool, own: str = "", others: Sequence[str] = ()
) -> None:
    """Remember when `currency` is not the one meant, or is missing although it is needed."""
    found = fields.value("currency")
    if found is None and needed:
        fields.problem("currency", "missing", "is required with an amount")
    elif found is not None and found != currency:
        allowed = f"must be {own or currency}, the program's own"
        if others:
            allowed += f", or {', '.join(others)}"
        fields.problem("currency", "program_currency", allowed)


def _minor_of_object(
    fields: Fields, name: str, found: Mapping[str, Any], currency: str
) -> int | None:
    minor = found.get("minor")
    if set(found) != {"minor", "currency"}:
        fields.problem(name, "type", 'must have exactly "minor" and "currency"')
    elif type(minor) is not int or not 0 <= minor <= MAX_MINOR:
        fields.problem(name, "amount", f"minor must be a whole number from 0 to {MAX_MINOR}")
    elif found["currency"] != currency:
        fields.problem("currency", "program_currency", f"must be {currency} here")
    else:
        return minor
    return None
