"""Scaled out: trackers that share a database and a secret, nothing else, and real brokers."""

import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection
from kombu.exceptions import OperationalError

from tests.stories.house import Api, House, command

pytestmark = [pytest.mark.services, pytest.mark.xdist_group("scaled")]

BROKERS = {
    "rabbitmq": "amqp://guest:guest@127.0.0.1:5672//",
    "redis": "redis://127.0.0.1:6379/9",
}
SECRET = "a secret of the tests, equal on every node"
PROGRAM, PUBLISHER = "nordlicht-eu", "gadget-grid"
NOWHERE = "postgresql://nobody@127.0.0.1:1/nothing"


@pytest.fixture
def brokers() -> dict[str, str]:
    """Brokers that answer, without what earlier runs left in our queue."""
    for name, url in BROKERS.items():
        connection = Connection(url, connect_timeout=3)
        try:
            connection.ensure_connection(max_retries=1, timeout=3)
        except (OSError, OperationalError):
            if os.environ.get("TALLYSTICK_REQUIRE_SERVICES") == "1":
                raise
            pytest.skip(f"no {name} at {url}")
        else:
            with connection.SimpleQueue("celery") as queue:
                queue.clear()
        finally:
            connection.release()
    return BROKERS


def start(*houses: House) -> None:
    """All at once: most of a start is waiting for Python to read its modules."""
    threads = [threading.Thread(target=house.start) for house in houses]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def sell(order_id: str, token: str, *, clicked_on: House, reported_to: House) -> dict[str, Any]:
    """A click on one node, its order on another."""
    address = f"203.0.113.{sum(order_id.encode()) % 250 + 1}"
    click_id = clicked_on.click(PROGRAM, PUBLISHER, address=address)
    answer = reported_to.postback(
        {
            "token": token,
            "order_id": order_id,
            "click_id": click_id,
            "amount": "20.00",
            "currency": "EUR",
            "country": "NL",
            "items": [{"category": "cables", "amount": "20.00"}],
        }
    )
    assert answer.status_code == 202, answer.text
    return {**answer.json(), "click_id": click_id}


def check(api: Api, order_id: str, acknowledged: dict[str, Any]) -> None:
    """The order is booked, once, for the publisher of its click."""
    row = api.booked(order_id)
    assert (row["id"], row["click_id"]) == (
        acknowledged["conversion_id"],
        acknowledged["click_id"],
    )
    assert row["publisher"]["code"] == PUBLISHER
    assert row["commission"] == {"minor": 140, "currency": "EUR"}
    assert row["attribution"]["reason"] == "last_click"


def test_nodes_that_share_only_the_database_are_one_network(
    postgres_url: str,
    brokers: dict[str, str],
    tmp_path: Path,
    open_house: Callable[..., House],
) -> None:
    shared = {"database_url": postgres_url, "secret": SECRET}
    home = tmp_path / "web"
    loaded = command(home, "demo", "load", **shared)
    assert loaded.returncode == 0, loaded.stderr
    shared["broker_url"] = brokers["rabbitmq"]
    web = open_house(home, "serve", "--only", "web", "--no-worker", **shared)
    tracker = ("serve", "--only", "tracker")
    node_a = open_house(tmp_path / "a", *tracker, **shared)
    node_b = open_house(tmp_path / "b", *tracker, **shared)
    worker = open_house(tmp_path / "worker", "worker", "--beat", **shared)
    start(web, node_a, node_b, worker)
    manager = web.api(web.demo["manager"])
    token = web.advertiser(PROGRAM)["postback_token"]

    first = sell("scaled-1", token, clicked_on=node_a, reported_to=node_b)

    assert first["duplicate"] is False
    check(manager, "scaled-1", first)

    # A node whose database is away, even from its start on.
    node_a.end()
    lonely = open_house(tmp_path / "a", *tracker, **{**shared, "database_url": NOWHERE})
    lonely.start()
    second = sell("scaled-2", token, clicked_on=lonely, reported_to=lonely)
    assert second["duplicate"] is None
    assert manager.conversions(order_id="scaled-2") == []
    lonely.end()
    node_a.start()
    check(manager, "scaled-2", second)

    # The same rows on another broker: messages are a doorbell, not the work.
    worker.end()
    node_b.end()
    shared["broker_url"] = brokers["redis"]
    other_worker = open_house(tmp_path / "worker", "worker", "--beat", **shared)
    node_c = open_house(tmp_path / "b", *tracker, **shared)
    start(other_worker, node_c)
    third = sell("scaled-3", token, clicked_on=node_c, reported_to=web)
    check(manager, "scaled-3", third)

    assert len([row for row in manager.conversions() if row["order_id"].startswith("scaled-")]) == 3
    manager.idle()
    manager.close()
    assert command(home, "audit", **shared).returncode == 0
    node_c.stop()
