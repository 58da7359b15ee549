"""Who is paid for a conversion, and what part of its commission each gets. Pure.

A conversion is priced once, for the publisher for whom it counts; the publishers that share it
are paid parts of that by largest remainder. What one of them may read of it stands here too.
"""

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from math import lcm
from typing import Any

from commissions.order_events import Share

_OF_THE_COUNTER = ("tier",)


def weighed(parts: Sequence[tuple[str, int, int]]) -> tuple[Share, ...]:
    """(publisher, numerator, denominator) in their order as the shares of an order.

    Empty where one publisher has all of it.
    """
    if len(parts) < 2:  # noqa: PLR2004 - one part is no share
        return ()
    common = lcm(*(denominator for _, _, denominator in parts))
    return tuple([Share(name, top * (common // bottom)) for name, top, bottom in parts])


def fractions(shares: Iterable[Share]) -> list[tuple[str, Fraction]]:
    """The shares as parts of one, in their order."""
    found = tuple(shares)
    total = sum(one.weight for one in found)
    return [(one.publisher, Fraction(one.weight, total)) for one in found]


def told(priced: Mapping[str, Mapping[str, Any]], own: Mapping[str, Any]) -> dict[str, Any]:
    """The explanation of a booking: a part's is that of the booking it names, with its own event.

    `priced` are the explanations of the conversion's bookings by their keys.
    """
    of = own.get("of")
    if of is None:
        return dict(own)
    return {**priced.get(of, {}), **{name: value for name, value in own.items() if name != "of"}}


def seen_by(explained: Mapping[str, Any], publisher_id: str) -> dict[str, Any]:
    """The explanation as that publisher may read it: nothing of whom else the order pays.

    Where the counters of the publisher stand for whom the order counts is not told to others.
    """
    found = dict(explained)
    payees = found.get("payees", {})
    if len(payees) > 1 or publisher_id not in payees:
        found["payees"] = {name: part for name, part in payees.items() if name == publisher_id}
    if found.get("publisher", publisher_id) != publisher_id:
        found["publisher"] = None
        found["lines"] = [
            {name: value for name, value in line.items() if name not in _OF_THE_COUNTER}
            for line in found.get("lines", [])
        ]
    return found
