"""Clicks over HTTP: what both fronts share, and the one that is a plain ASGI application.

A front looks at the routing table in memory and never at the database. The answer leaves after the
click is on stable storage; when the journal cannot record, the visitor is sent on without a click
id: a link never stops working because of us. The other front is `tracker.http_protocol`.
"""

import asyncio
from collections.abc import Callable
from functools import partial

from prometheus_client import Counter
from starlette.types import Receive, Scope, Send

from kernel.errors import TooLarge, Unavailable
from tracker import metrics
from tracker.click_answers import Answer
from tracker.click_core import ClickCore, ClickRequest, Decision
from tracker.click_headers import read_headers
from tracker.deep_links import DeepLinkSigner
from tracker.journal_segments import Outcome
from tracker.node import TrackerNode

Answered = Callable[[Answer], object]


class ClickDesk:
    """Decides about the clicks of a node and records them, for whichever front they come by."""

    def __init__(self, node: TrackerNode) -> None:
        self._node = node
        self._core = ClickCore(node.settings, node.signer, DeepLinkSigner(node.keys))
        self._counters: dict[str, Counter] = {}
        self._uncounted: dict[str, int] = {}

    def decide(self, request: ClickRequest) -> Decision:
        """The decision about a request, by the table of this moment."""
        return self._core.decide(request, self._node.routing.table)

    def record(self, decision: Decision, answered: Answered) -> None:
        """Call `answered` with the answer as soon as it may leave: at once, or after a sync."""
        if decision.payload is None:
            metrics.CLICKS_REFUSED.labels(decision.outcome).inc()
            answered(decision.answer)
            return
        try:
            self._node.journal.record(
                (decision.payload,), partial(self._recorded, decision, answered)
            )
        except (Unavailable, TooLarge):
            metrics.CLICKS_UNTRACKED.inc()
            answered(decision.untracked or decision.answer)

    def _recorded(self, decision: Decision, answered: Answered, outcome: Outcome) -> None:
        if isinstance(outcome, str):
            metrics.CLICKS_UNTRACKED.inc()
            answered(decision.untracked or decision.answer)
            return
        uncounted = self._uncounted
        if not uncounted:
            # The clicks of a batch are told together: a counter that is locked once counts them.
            asyncio.get_running_loop().call_soon(self._count)
        uncounted[decision.outcome] = uncounted.get(decision.outcome, 0) + 1
        answered(decision.answer)

    def _count(self) -> None:
        for outcome, number in self._uncounted.items():
            counter = self._counters.get(outcome)
            if counter is None:
                # Looking a label up costs more than counting.
                counter = self._counters[outcome] = metrics.CLICKS.labels(outcome)
            counter.inc(number)
        self._uncounted.clear()


class ClickApp:
    """Answers every request for a link, on any ASGI server. Stateless but for its desk."""

    def __init__(self, node: TrackerNode) -> None:
        self.desk = ClickDesk(node)

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer one HTTP request; its body is not read."""
        answering: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self.desk.record(self.desk.decide(read_request(scope)), partial(_settle, answering))
        answer = await answering
        await send(
            {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
        )
        body = b"" if scope["method"] == "HEAD" else answer.body
        await send({"type": "http.response.body", "body": body})


def read_request(scope: Scope) -> ClickRequest:
    """The request of an ASGI scope."""
    peer = scope.get("client")
    return ClickRequest(
        method=scope["method"],
        path=scope.get("raw_path") or scope["path"].encode(),
        query=scope["query_string"],
        headers=read_headers(scope["headers"]),
        peer=str(peer[0]) if peer else "",
    )


def _settle(answering: "asyncio.Future[Answer]", answer: Answer) -> None:
    # A visitor who has gone meanwhile has cancelled it; the click is recorded all the same.
    if not answering.done():
        answering.set_result(answer)
