"""Orders and changes a process has acknowledged that the database may not know yet.

Only ever a help: it is bounded, and what it forgets too early, or another process acknowledged, is
told apart when the journals are shipped.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Collection, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import islice
from typing import Final

from tracker.events import ChangeReported, OrderReported

ORDERS_MAX: Final = 100_000
CHANGED_ORDERS_MAX: Final = 100_000


@dataclass(slots=True)
class _Turn:
    """A lock and how many hold it or wait for it."""

    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    users: int = 0


class Claims:
    """Remembers acknowledged events, and lets one request at a time deal with an order."""

    def __init__(self) -> None:
        self._orders: OrderedDict[str, OrderReported] = OrderedDict()
        self._changes: OrderedDict[str, dict[str, ChangeReported]] = OrderedDict()
        self._turns: dict[str, _Turn] = {}
        # `forget` runs in a thread; everything else runs in the event loop.
        self._guard = threading.Lock()

    @asynccontextmanager
    async def hold(self, conversion_ids: Iterable[str]) -> AsyncIterator[None]:
        """Be the only request of this process that deals with these orders."""
        async with AsyncExitStack() as turns:
            # Always in the same order, so that two batches never wait for one another.
            for conversion_id in sorted(set(conversion_ids)):
                await turns.enter_async_context(self._turn(conversion_id))
            yield

    @asynccontextmanager
    async def _turn(self, conversion_id: str) -> AsyncIterator[None]:
        turn = self._turns.setdefault(conversion_id, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if turn.users == 0:
                del self._turns[conversion_id]

    def order(self, conversion_id: str) -> OrderReported | None:
        """The report of this order that was acknowledged first, if it is remembered."""
        return self._orders.get(conversion_id)

    def remember(self, report: OrderReported) -> None:
        """Keep an acknowledged order; the first report of it stays."""
        with self._guard:
            self._orders.setdefault(report.conversion_id, report)
            while len(self._orders) > ORDERS_MAX:
                self._orders.popitem(last=False)

    def oldest(self, count: int) -> list[str]:
        """The orders remembered longest."""
        with self._guard:
            return list(islice(self._orders, count))

    def forget(self, conversion_ids: Collection[str]) -> None:
        """Let go of orders that are in the database."""
        with self._guard:
            for conversion_id in conversion_ids:
                self._orders.pop(conversion_id, None)

    def changes(self, conversion_id: str) -> list[ChangeReported]:
        """The remembered changes of an order, in the order of their receipt."""
        return list(self._changes.get(conversion_id, {}).values())

    def remember_change(self, change: ChangeReported) -> None:
        """Keep an acknowledged change; the first of its key stays."""
        self._changes.setdefault(change.conversion_id, {}).setdefault(change.key, change)
        while len(self._changes) > CHANGED_ORDERS_MAX:
            self._changes.popitem(last=False)
