"""A server that loses its power, or one of its processes, and comes back with all it promised."""

import itertools
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.stories.house import House, eventually

pytestmark = [
    pytest.mark.xdist_group("restart"),
    pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="no /proc to look at"),
]

PROGRAM, PUBLISHER = "summit-us", "teatime-blog"
GONE_SECONDS = 10


class Shop:
    """Clicks and reports orders, and remembers what it was promised."""

    def __init__(self, house: House) -> None:
        self.house = house
        self.token = house.advertiser(PROGRAM)["postback_token"]
        self.promised: dict[str, tuple[str, str]] = {}
        self._numbers = itertools.count()
        self._lock = threading.Lock()

    def sell(self) -> str:
        """One click and its order; the order id, once it is acknowledged."""
        with self._lock:
            number = next(self._numbers)
        address = f"198.51.{number // 250}.{number % 250 + 1}"
        click_id = self.house.click(PROGRAM, PUBLISHER, address=address)
        order_id = f"restart-{number}"
        answer = self.house.postback(
            {
                "token": self.token,
                "order_id": order_id,
                "click_id": click_id,
                "amount": "40.00",
                "currency": "USD",
                "country": "US",
            }
        )
        assert answer.status_code == 202, answer.text
        body = answer.json()
        assert body["duplicate"] is False
        with self._lock:
            self.promised[order_id] = (body["conversion_id"], click_id)
        return order_id

    def sell_until_cut_off(self) -> None:
        try:
            while True:
                self.sell()
        except httpx.TransportError:
            return  # whether the last one was taken in is open, and either is right

    def check(self) -> None:
        """Everything promised is there, once, with its click."""
        api = self.house.api(self.house.demo["manager"])
        api.idle()
        rows = [
            row
            for row in api.conversions(program=PROGRAM)
            if row["order_id"].startswith("restart-")
        ]
        found = {row["order_id"]: (row["id"], row["click_id"]) for row in rows}
        assert len(found) == len(rows)
        assert self.promised.items() <= found.items()
        # The click itself is there, too: an attribution says so, and sub-ids come from it.
        assert {row["attribution"]["reason"] for row in rows} == {"last_click"}
        assert len(rows) - len(self.promised) <= CLIENTS
        api.close()


CLIENTS = 3


def without_address(demo: dict[str, Any]) -> dict[str, Any]:
    """What `demo.json` says, wherever the server listens."""
    said: dict[str, Any] = json.loads(json.dumps(demo).replace(demo["base_url"], ""))
    return said


def test_a_killed_server_ends_whole_and_comes_back_with_everything(
    demo_copy: Path, open_house: Callable[..., House]
) -> None:
    house = open_house(demo_copy).start()
    shop = Shop(house)
    shop.sell()
    threads = [threading.Thread(target=shop.sell_until_cut_off) for _ in range(CLIENTS)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(shop.promised) > 20)

    house.kill()

    killed_at = time.monotonic()
    eventually(lambda: not house.processes(), seconds=GONE_SECONDS)
    for thread in threads:
        thread.join(timeout=30)
    assert time.monotonic() - killed_at < GONE_SECONDS

    promised_before = dict(shop.promised)
    demo_before = house.demo
    started_at = time.monotonic()
    house.start()
    assert time.monotonic() - started_at < GONE_SECONDS
    shop.check()
    shop.sell()
    shop.check()
    assert promised_before.items() < shop.promised.items()
    # The same logins and keys as before; only the port is another.
    assert without_address(house.demo) == without_address(demo_before)
    house.stop()
    assert house.audit().returncode == 0


def test_killed_processes_are_replaced_and_work_goes_on(
    demo_copy: Path, open_house: Callable[..., House]
) -> None:
    house = open_house(demo_copy).start()
    shop = Shop(house)
    shop.sell()
    api = house.api(house.demo["manager"])
    for role in ("worker", "shipper", "web"):
        (before,) = house.children(role)

        os.kill(before, signal.SIGKILL)

        # Until somebody listens again the supervisor's socket keeps the connection waiting.
        assert api.booked(shop.sell())["commission"]["currency"] == "USD"
        # A worker's beat used to be a process of its own, which went on without its worker.
        (after,) = eventually(lambda role=role: house.children(role))  # type: ignore[misc]  # mypy cannot infer a lambda's default
        assert after != before
    api.close()
    shop.check()
    assert house.said.count('"child_died"') == 3
    # The supervisor, one for each role, and the writer of the web's journal.
    assert len(house.processes()) == 5
    house.stop()
