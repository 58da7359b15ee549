"""`tallystick demo replay`: plays a shop's order file through a running server, over HTTP only.

History goes the way of a network that moves in: clicks through `POST /v1/clicks`, orders through
`POST /v1/conversions` with their own dates, cancellations as refunds. Some of the orders, dated
now, go the public way too: redirect, then postback. Everything is named deterministically, so a
second replay finds everything there and changes nothing.
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import httpx

from kernel import clock, log
from kernel.money import format_amount
from server.retail import (
    CURRENCY,
    Book,
    Order,
    Refund,
    minutes_before_order,
    number_of,
)

_log = log.get(__name__)
_T = TypeVar("_T")
BATCH_ROWS = 1_000
PAGE_ROWS = 1_000
LIVE_ORDERS = 500
LIVE_SUFFIX = "-live"
_TIMEOUT_SECONDS = 60.0
_IDLE_SECONDS_MAX = 600.0
_WEBKIT = "AppleWebKit/605.1.15 (KHTML, like Gecko)"
_AGENTS = (
    f"Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) {_WEBKIT} Version/18.5 Safari/605.1.15",
    f"Mozilla/5.0 (iPhone; CPU iPhone OS 18_5 like Mac OS X) {_WEBKIT} Mobile/15E148 Safari/604.1",
    "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0",
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:143.0) Gecko/20100101 Firefox/143.0",
)
# Shoppers of the public way come from the networks reserved for documentation (RFC 5737).
_NETWORKS = ("192.0.2", "198.51.100", "203.0.113")

Progress = Callable[[str, int, int], None]
"""(what, done, total)"""


class ReplayError(Exception):
    """The server answered something that a replay cannot go on from."""


@dataclass(frozen=True, slots=True)
class Access:
    """What `var/demo.json` says, as far as a replay needs it."""

    manager_id: str
    manager_secret: str
    program: str
    postback_token: str
    publishers: tuple[str, ...]


@dataclass(slots=True)
class Outcome:
    """What a replay sent and what the server said to it."""

    clicks: int = 0
    orders_new: int = 0
    orders_known: int = 0
    refunds_new: int = 0
    refunds_known: int = 0
    live_new: int = 0
    live_known: int = 0
    refused: list[dict[str, Any]] = field(default_factory=list)
    seconds: float = 0.0

    @property
    def changed(self) -> bool:
        """Whether the server took anything that it did not have before."""
        return bool(self.orders_new or self.refunds_new or self.live_new)


def read_access(path: Path) -> Access:
    """The credentials of the demo network's program in pounds."""
    document = json.loads(path.read_text())
    advertiser = next(entry for entry in document["advertisers"] if entry["currency"] == CURRENCY)
    return Access(
        manager_id=document["manager"]["client_id"],
        manager_secret=document["manager"]["client_secret"],
        program=advertiser["program"],
        postback_token=advertiser["postback_token"],
        publishers=tuple(sorted(entry["code"] for entry in document["publishers"])),
    )


class Player:
    """One replay against one server."""

    def __init__(self, base_url: str, access: Access, *, progress: Progress) -> None:
        self._client = httpx.Client(
            base_url=base_url, timeout=_TIMEOUT_SECONDS, follow_redirects=False, trust_env=False
        )
        self._access = access
        self._progress = progress
        self._token = ""
        self._token_until = datetime.min.replace(tzinfo=UTC)
        self.outcome = Outcome()

    def close(self) -> None:
        """Give the connections back."""
        self._client.close()

    def play(self, book: Book) -> Outcome:
        """Send the whole book and wait until the server has booked it."""
        started = time.monotonic()
        live = pick_live(book.orders)
        present = self._live_orders_present()
        fresh = [order for order in live if order.order_id not in present]
        clicked = self._click_in_public(fresh)
        self._import_history(book)
        self._report_in_public(clicked, known=len(live) - len(fresh))
        self._wait_until_booked()
        self.outcome.seconds = time.monotonic() - started
        return self.outcome

    def conversions(self, **filters: str) -> Iterator[dict[str, Any]]:
        """Every conversion of the program that the filters allow, page by page."""
        cursor: str | None = None
        while True:
            parameters = {"program": self._access.program, "limit": str(PAGE_ROWS), **filters}
            if cursor is not None:
                parameters["cursor"] = cursor
            page = self._get("/v1/conversions", parameters)
            yield from page["data"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def _publisher(self, order: Order) -> str:
        publishers = self._access.publishers
        return publishers[number_of(order.customer_id) % len(publishers)]

    # History -------------------------------------------------------------------------------

    def _import_history(self, book: Book) -> None:
        for batch in _tracked("orders", book.orders, BATCH_ROWS, self._progress):
            self._import_orders(batch, self._import_clicks(batch))
        self._wait_until_booked()
        for refund in _tracked("refunds", book.refunds, 1, self._progress):
            self._refund(refund[0])

    def _import_clicks(self, orders: Sequence[Order]) -> dict[str, str]:
        """Click ids by order id; an order without customer was brought by nobody we know."""
        brought = [order for order in orders if order.customer_id]
        rows = [
            {
                "program": self._access.program,
                "publisher": self._publisher(order),
                "clicked_at": clock.to_rfc3339(order.occurred_at - minutes_before_order(order)),
                "ref": order.order_id,
            }
            for order in brought
        ]
        if not rows:
            return {}
        answer = self._post("/v1/clicks", {"clicks": rows})
        self.outcome.clicks += len(rows)
        return {
            order.order_id: result["click_id"]
            for order, result in zip(brought, answer["results"], strict=True)
        }

    def _import_orders(self, orders: Sequence[Order], clicks: dict[str, str]) -> None:
        rows = [
            {
                **order_document(order),
                "program": self._access.program,
                "occurred_at": clock.to_rfc3339(order.occurred_at),
                **({"click_id": clicks[order.order_id]} if order.order_id in clicks else {}),
            }
            for order in orders
        ]
        answer = self._post("/v1/conversions", {"conversions": rows})
        for row, result in zip(rows, answer["results"], strict=True):
            if result["status"] == "accepted":
                self.outcome.orders_new += 1
            elif result["status"] == "duplicate":
                self.outcome.orders_known += 1
            else:
                self._refuse(str(row["order_id"]), result["problem"])

    def _refund(self, refund: Refund) -> None:
        answer = self._post(
            f"/v1/conversions/{refund.order_id}/refunds",
            {
                "program": self._access.program,
                "refund_id": refund.refund_id,
                "amount": format_amount(refund.amount_minor, CURRENCY),
                "line": refund.line,
                "qty": refund.quantity,
                "reason": "cancelled by the customer",
                "occurred_at": clock.to_rfc3339(refund.occurred_at),
            },
            refusals_allowed=True,
        )
        if "receipt" not in answer:
            self._refuse(refund.refund_id, answer)
        elif answer["duplicate"]:
            self.outcome.refunds_known += 1
        else:
            self.outcome.refunds_new += 1

    # The public way ------------------------------------------------------------------------

    def _live_orders_present(self) -> set[str]:
        since = clock.to_rfc3339(clock.now() - timedelta(days=400))
        return {
            entry["order_id"].removesuffix(LIVE_SUFFIX)
            for entry in self.conversions(occurred_from=since)
            if entry["order_id"].endswith(LIVE_SUFFIX)
        }

    def _click_in_public(self, orders: Sequence[Order]) -> list[tuple[Order, str]]:
        clicked = []
        for batch in _tracked("clicks", orders, 1, self._progress):
            order = batch[0]
            response = self._send(
                "GET",
                f"/c/{self._access.program}/{self._publisher(order)}",
                params={"s1": "replay", "s2": order.order_id},
                headers=_shopper(order),
            )
            location = response.headers.get("location", "")
            click_id = parse_qs(urlsplit(location).query).get("ts_click", [""])[0]
            if response.status_code != httpx.codes.FOUND or not click_id:
                raise ReplayError(f"a click was answered {response.status_code} to {location!r}")
            clicked.append((order, click_id))
        return clicked

    def _report_in_public(self, clicked: Sequence[tuple[Order, str]], *, known: int) -> None:
        self.outcome.live_known = known
        for batch in _tracked("postbacks", clicked, 1, self._progress):
            order, click_id = batch[0]
            response = self._send(
                "POST",
                "/postback",
                json={
                    **order_document(order),
                    "token": self._access.postback_token,
                    "order_id": f"{order.order_id}{LIVE_SUFFIX}",
                    "click_id": click_id,
                },
            )
            if response.status_code == httpx.codes.ACCEPTED:
                self.outcome.live_new += 1
            else:
                self._refuse(f"{order.order_id}{LIVE_SUFFIX}", response.json())

    # The server ----------------------------------------------------------------------------

    def _wait_until_booked(self) -> None:
        deadline = time.monotonic() + _IDLE_SECONDS_MAX
        most = 0
        while time.monotonic() < deadline:
            status = self._get("/v1/status", {})
            left = status["uploads_open"] + status["outbox_pending"]
            left += 1 if status["journal_bytes"] else 0
            most = max(most, left)
            self._progress("booking", most - left, most)
            if left == 0:
                return
            time.sleep(0.25)
        raise ReplayError(f"the server has not booked everything after {_IDLE_SECONDS_MAX:.0f} s")

    def _refuse(self, subject: str, answer: dict[str, Any]) -> None:
        self.outcome.refused.append({"subject": subject, "answer": answer})

    def _get(self, path: str, parameters: dict[str, str]) -> dict[str, Any]:
        return self._checked(
            self._patiently(
                lambda: self._send("GET", path, params=parameters, headers=self._authorised())
            )
        )

    def _post(
        self, path: str, document: dict[str, Any], *, refusals_allowed: bool = False
    ) -> dict[str, Any]:
        response = self._patiently(
            lambda: self._send("POST", path, json=document, headers=self._authorised())
        )
        if refusals_allowed and response.status_code in {404, 409, 422}:
            return dict(response.json())
        return self._checked(response)

    def _send(self, method: str, path: str, **parts: Any) -> httpx.Response:
        try:
            return self._client.request(method, path, **parts)
        except httpx.HTTPError as error:
            raise ReplayError(f"{method} {path} was not answered: {error}") from error

    def _patiently(self, send: Callable[[], httpx.Response]) -> httpx.Response:
        response = send()
        while response.status_code == httpx.codes.TOO_MANY_REQUESTS:
            time.sleep(int(response.headers["retry-after"]))
            response = send()
        return response

    def _authorised(self) -> dict[str, str]:
        if clock.now() >= self._token_until:
            response = self._send(
                "POST",
                "/oauth/token",
                data={"grant_type": "client_credentials"},
                auth=(self._access.manager_id, self._access.manager_secret),
            )
            answer = self._checked(response)
            self._token = answer["access_token"]
            self._token_until = clock.now() + timedelta(seconds=answer["expires_in"] / 2)
        return {"Authorization": f"Bearer {self._token}"}

    @staticmethod
    def _checked(response: httpx.Response) -> dict[str, Any]:
        if response.status_code >= httpx.codes.BAD_REQUEST:
            raise ReplayError(
                f"{response.request.method} {response.request.url.path} was answered "
                f"{response.status_code}: {response.text[:500]}"
            )
        return dict(response.json())


def order_document(order: Order) -> dict[str, Any]:
    """The order as the contract's fields."""
    return {
        "order_id": order.order_id,
        "amount": format_amount(order.amount_minor, CURRENCY),
        "currency": CURRENCY,
        **({"country": order.country} if order.country else {}),
        **({"customer": order.customer} if order.customer else {}),
        "items": [
            {
                "sku": item.sku,
                "category": item.category,
                "qty": item.quantity,
                "amount": format_amount(item.amount_minor, CURRENCY),
            }
            for item in order.items
        ],
    }


def pick_live(orders: Sequence[Order]) -> list[Order]:
    """The orders that go the public way too: spread evenly, one a customer."""
    by_customer = {order.customer_id: order for order in orders if order.customer_id}
    chosen = sorted(by_customer.values(), key=lambda order: number_of(order.order_id))
    return chosen[:LIVE_ORDERS]


def _shopper(order: Order) -> dict[str, str]:
    number = number_of(f"shopper {order.customer_id}")
    network = _NETWORKS[number % len(_NETWORKS)]
    return {
        "User-Agent": _AGENTS[number // 7 % len(_AGENTS)],
        "X-Forwarded-For": f"{network}.{1 + number // 31 % 254}",
        "Accept-Language": "en-GB,en;q=0.9",
        "Referer": "https://www.example.org/reviews",
        "Sec-Fetch-Dest": "document",
        "Sec-Fetch-Mode": "navigate",
        "Sec-Fetch-Site": "cross-site",
        "Sec-Fetch-User": "?1",
    }


def _tracked(
    what: str, rows: Sequence[_T], size: int, progress: Progress
) -> Iterator[Sequence[_T]]:
    progress(what, 0, len(rows))
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
        progress(what, min(start + size, len(rows)), len(rows))
