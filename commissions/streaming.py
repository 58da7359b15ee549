"""`rules.evaluate` for orders that come one after the other and are not kept. Pure.

What an order is worth depends on others only through counters: what was booked before it, what its
window adds up to, what the window before had come to when its own began, what caps have left. A
`Stream` keeps those sums and no order, so that a million orders take no more memory than ten.

A plan with a volume or a status tier has to see all orders twice: `measure` each of them first,
then `price` each, both times in booking order. Only counters over the last days before each
order (`rolling_Nd`) need the orders themselves; `can_stream` is False for such a plan.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

from commissions.awards import Accounts
from commissions.choosing import CounterKey, Prepared, prepare, previous_key
from commissions.folding import Conversion, changed, looking, opened
from commissions.line_pay import Standing
from commissions.order_events import Change, Event, EventError, Order
from commissions.plan_document import Plan, Tiers
from commissions.priced import Priced, price_at
from commissions.rules import spends
from commissions.tiers import ORDER_WINDOW, Number, plain, window_of

_OF_ONE_ORDER = f"{ORDER_WINDOW}:"


def can_stream(plan: Plan) -> bool:
    """Whether sums say all that an order of this plan has to know of the others."""
    return not any(tiers.rolling_days for _, tiers in plan.counting)


class Seen(NamedTuple):
    """An order with its changes, as it counts after those of them that do."""

    conversion: Conversion
    prepared: Prepared


class Stream:
    """The sums of orders that are evaluated together. EventError as `rules.evaluate`."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.spends = spends(plan)
        self._status = {rule.id: tiers for rule, tiers in plan.counting if tiers.mode == "status"}
        self.is_measured = bool(self._status) or any(
            tiers.mode == "volume" for _, tiers in plan.counting
        )
        self._totals: dict[CounterKey, Number] = {}
        self._known: dict[CounterKey, Number] = {}
        self._running: dict[CounterKey, Number] = {}
        self._accounts = Accounts()

    @property
    def sums(self) -> int:
        """How many sums of counters are kept."""
        return len(self._totals) + len(self._known) + len(self._running)

    def see(self, events: Sequence[Event]) -> Seen:
        """An order, given with all that happened to it, ready to be added up and priced."""
        return _seen(self.plan, events)

    def measure(self, seen: Seen) -> None:
        """Add up an order before any is priced."""
        one, prepared = seen.conversion, seen.prepared
        _add(self._totals, prepared.contributions)
        for rule_id, tiers in self._status.items():
            # A window decides what is paid in the next one by what was known when that began.
            _, end = window_of(tiers.window, one.order.at, tiers.zone)
            if end is not None and one.order.known_at < end:
                early = prepared
                if one.changes:
                    early = prepare(self.plan, one.known(end), on_time=one.on_time)
                _add(self._known, early.contributions, rule_id)

    def count(self, seen: Seen) -> None:
        """Pass an order whose price nobody asks for; not where plans spend."""
        _add(self._running, seen.prepared.contributions)

    def price(self, seen: Seen) -> Priced:
        """What the next order in booking order is worth."""
        one, prepared = seen.conversion, seen.prepared
        standing = Standing(self._running, self._totals, self._measures(prepared))
        after = one.known(None) if one.changes else prepared.remaining
        priced = price_at(self.plan, prepared, after, standing, self._accounts)
        _add(self._running, prepared.contributions)
        return priced

    def _measures(self, prepared: Prepared) -> Mapping[CounterKey, Number]:
        found: dict[CounterKey, Number] = {}
        if self._status:
            for key, tiers in looking(self.plan, prepared):
                if _begins(tiers, prepared.order):
                    found[key] = self._known.get(previous_key(key, tiers, prepared.order), 0)
        return found


def _begins(tiers: Tiers, order: Order) -> bool:
    return window_of(tiers.window, order.at, tiers.zone)[0] is not None


def _seen(plan: Plan, events: Sequence[Event]) -> Seen:
    order = events[0] if events else None
    if not isinstance(order, Order):
        raise EventError([("events", "do not begin with their order")])
    one, prepared = opened(plan, order)
    changes = tuple((at, event) for at, event in enumerate(events) if isinstance(event, Change))
    if changes:
        one = replace(one, changes=changes)
        prepared = changed(plan, one)
    return Seen(one, prepared)


def _add(
    sums: dict[CounterKey, Number], sizes: Mapping[CounterKey, Number], rule_id: str | None = None
) -> None:
    for key, size in sizes.items():
        # No other order ever looks at the counter of one order alone.
        is_shared = not key.window_start.startswith(_OF_ONE_ORDER)
        if is_shared and (rule_id is None or key.rule_id == rule_id):
            sums[key] = plain(sums.get(key, 0) + size)
