"""Orders and changes a process has acknowledged that the database may not know yet.

Only ever a help: it is bounded, and what it forgets too early, or another process acknowledged, is
told apart when the journals are shipped.
"""

import asyncio
import threading
from collections import OrderedDict
from collections.abc import AsyncIterator, Iterable, Mapping
from collections.abc import Set as AbstractSet
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from itertools import islice
from typing import Final

from tracker.events import ChangeReported, OrderKey, OrderReported

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
        self._orders: OrderedDict[OrderKey, dict[str, OrderReported]] = OrderedDict()
        self._changes: OrderedDict[str, dict[str, ChangeReported]] = OrderedDict()
        self._turns: dict[OrderKey, _Turn] = {}
        # `forget` runs in a thread; everything else runs in the event loop.
        self._guard = threading.Lock()

    @asynccontextmanager
    async def hold(self, keys: Iterable[OrderKey]) -> AsyncIterator[None]:
        """Be the only request of this process that deals with these orders."""
        async with AsyncExitStack() as turns:
            # Always in the same order, so that two batches never wait for one another.
            for key in sorted(set(keys)):
                await turns.enter_async_context(self._turn(key))
            yield

    @asynccontextmanager
    async def _turn(self, key: OrderKey) -> AsyncIterator[None]:
        turn = self._turns.setdefault(key, _Turn())
        turn.users += 1
        try:
            async with turn.lock:
                yield
        finally:
            turn.users -= 1
            if turn.users == 0:
                del self._turns[key]

    def reports(self, key: OrderKey) -> list[OrderReported]:
        """The reports of this order that were acknowledged and are remembered, oldest first."""
        with self._guard:
            return list(self._orders.get(key, {}).values())

    def remember(self, report: OrderReported) -> None:
        """Keep an acknowledged order; of equal reports the first stays."""
        with self._guard:
            self._orders.setdefault(report.key, {}).setdefault(report.content_hash, report)
            while len(self._orders) > ORDERS_MAX:
                self._orders.popitem(last=False)

    def oldest(self, count: int) -> list[OrderKey]:
        """The orders remembered longest."""
        with self._guard:
            return list(islice(self._orders, count))

    def forget(self, recorded: Mapping[OrderKey, AbstractSet[str]], *, before: datetime) -> None:
        """Let go of reports that are in the database, by the content hashes it has of each order.

        What became no conversion, such as a status, has no hash there: it is let go once the order
        is there and the report is from `before`. To forget too early costs a journal record.
        """
        with self._guard:
            for key, hashes in recorded.items():
                reports = self._orders.get(key, {})
                for one in [*reports.values()]:
                    if one.content_hash in hashes or one.received_at < before:
                        del reports[one.content_hash]
                if not reports:
                    self._orders.pop(key, None)

    def changes(self, conversion_id: str) -> list[ChangeReported]:
        """The remembered changes of an order, in the order of their receipt."""
        return list(self._changes.get(conversion_id, {}).values())

    def remember_change(self, change: ChangeReported) -> None:
        """Keep an acknowledged change; the first of its key stays."""
        self._changes.setdefault(change.conversion_id, {}).setdefault(change.key, change)
        while len(self._changes) > CHANGED_ORDERS_MAX:
            self._changes.popitem(last=False)
