"""What is known of a payee and a customer when an order is decided. Pure.

Kept with the attribution, because commissions look at it and are replayed when it is otherwise.
"""

from calendar import monthrange
from collections.abc import Iterable
from datetime import UTC, datetime

from tracker.agents import Device, device_of


def months_between(first: datetime, at: datetime) -> int:
    """The whole months from one day to another, both in UTC; 0 before the first.

    A month is whole on the same day of the next one, or on its last day where it has no such day.
    """
    begun, ended = first.astimezone(UTC), at.astimezone(UTC)
    months = (ended.year - begun.year) * 12 + ended.month - begun.month
    _, last_day = monthrange(ended.year, ended.month)
    if ended.day < min(begun.day, last_day):
        months -= 1
    return max(0, months)


def first_order(at: datetime, earlier: Iterable[datetime], *, is_known: bool) -> datetime | None:
    """When a customer first ordered by a publisher: earlier orders of both, or this one.

    None when nothing says who the customer is.
    """
    return min([at, *earlier]) if is_known else None


def device(user_agent: str) -> str | None:
    """The kind of device behind a click, or None when its user agent does not say."""
    found = device_of(user_agent)
    return None if found is Device.UNKNOWN else found.value
