"""Each check of tracking health, from rows as a network leaves them, and who sees it."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import Session

from kernel.database import reading, unit_of_work
from kernel.settings import Settings
from network.access import Actor
from network.models import Program, Publisher, Role
from tests import make
from tracker import health, rollup_orders
from tracker.health import Finding
from tracker.models import Arrival, IntakeRefusal
from tracker.rollup_checks import day_number
from tracker.rollup_models import LinkTarget

NOW = datetime.fromisoformat("2026-03-10T12:30:00+00:00")
MANAGER = Actor(id="m", role=Role.MANAGER, party_id="", name="m")


class Network:
    def __init__(self, engine: Engine, settings: Settings) -> None:
        self.engine, self.settings = engine, settings
        with unit_of_work(engine) as session:
            self.program: Program = make.program(session)
            self.other_program: Program = make.program(session)
            self.who: Publisher = make.publisher(session, member_of=self.program)
            self.stranger: Publisher = make.publisher(session, member_of=self.other_program)

    def actor(self, party: Program | Publisher) -> Actor:
        if isinstance(party, Program):
            return Actor(id="a", role=Role.ADVERTISER, party_id=party.advertiser_id, name="a")
        return Actor(id="p", role=Role.PUBLISHER, party_id=party.id, name="p")

    def visits(self, session: Session, days_ago: float, count: int, visitors: int = 0) -> None:
        row = {
            "program_id": self.program.id,
            "publisher_id": self.who.id,
            "at": NOW - timedelta(days=days_ago),
            "unbillable_reason": "",
            "user_agent": "",
            "sub_ids": {},
        }
        rows = [row | {"visitor_key": f"v{n}" if n < visitors else ""} for n in range(count)]
        make.count_clicks(session, rows, values_max=10)

    def order(self, session: Session, at: datetime, *, who: bool = True, **facts: Any) -> None:
        made = make.conversion(
            session, self.program, self.who if who else None, occurred_at=at, **facts
        )
        rollup_orders.refresh(session, [made.id])

    def history(self, session: Session, per_day: int = 2, clicks: int = 40) -> None:
        for day in range(4, 31):
            self.visits(session, day, clicks)
            for number in range(per_day):
                self.order(session, NOW - timedelta(days=day, hours=number * 24 // per_day))

    def read(self, actor: Actor = MANAGER, **facts: Any) -> list[Finding]:
        with reading(self.engine) as session:
            return health.read(session, actor, self.settings, now=NOW, **facts)

    def named(self, actor: Actor = MANAGER) -> dict[tuple[str, bool], Finding]:
        """Findings by check and whether they are about one publisher."""
        return {
            (one.judgement.check.value, one.publisher_id is not None): one
            for one in self.read(actor)
        }


@pytest.fixture
def network(engine: Engine, settings: Settings) -> Network:
    return Network(engine, settings)


Work = Callable[[Session], None]


def test_nothing_recorded_is_nothing_to_judge(network: Network) -> None:
    assert network.read() == []


def test_clicks_without_their_usual_orders_are_red_for_everybody_concerned(
    network: Network,
) -> None:
    with unit_of_work(network.engine) as session:
        network.history(session, per_day=3)
        network.visits(session, 1, 400)
        network.order(session, NOW - timedelta(hours=2))

    found = network.named(MANAGER)["conversions", True]
    for actor in (network.actor(network.program), network.actor(network.who)):
        assert network.named(actor)["conversions", True] == found
    assert found.judgement.status == "red"
    assert (found.program_id, found.publisher_id) == (network.program.id, network.who.id)
    assert found.judgement.numbers["orders"] == 1
    assert found.judgement.numbers["clicks"] == 400
    assert found.judgement.numbers["orders_before"] == 80
    english = health.sentence(found.judgement, "en")
    assert english.startswith("Only 1 orders from 400 clicks in the last 3 days; expected were")
    assert health.sentence(found.judgement, "zh-Hans").startswith("最近 3 天 400 次点击只带来")
    for actor in (network.actor(network.other_program), network.actor(network.stranger)):
        assert network.read(actor) == []


def test_silence_is_told_for_the_publisher_and_the_program(network: Network) -> None:
    with unit_of_work(network.engine) as session:
        for hour in range(20, 24 * 30):
            network.order(session, NOW - timedelta(hours=hour))

    found = network.named()
    for about_publisher in (True, False):
        judged = found["silence", about_publisher].judgement
        assert (judged.status, judged.numbers["hours"]) == ("red", 19)
    assert ("silence", False) not in network.named(network.actor(network.who))


def test_orders_without_click_unmatched_and_late(network: Network) -> None:
    with unit_of_work(network.engine) as session:
        for number in range(20):
            at = NOW - timedelta(hours=number + 1)
            delay = timedelta(hours=2) if number < 5 else timedelta(seconds=30)
            network.order(session, at, who=number >= 8, received_at=at + delay)
        network.order(session, NOW, is_test=True, received_at=NOW + timedelta(days=9))
        network.order(session, NOW, imported=True, received_at=NOW + timedelta(days=9))

    found = network.named()
    clickless = found["no_click", False].judgement
    assert (clickless.status, clickless.numbers["count"]) == ("red", 8)
    assert clickless.numbers["percent"] == 40
    late = found["late", False].judgement
    assert (late.status, late.numbers["count"], late.numbers["orders"]) == ("amber", 5, 20)
    assert (late.numbers["median"], late.numbers["slowest"]) == (1, 120)
    assert found["unmatched", False].judgement.status == "green"
    mine = network.named(network.actor(network.who))
    assert {check for check, _ in mine} == {"late"}
    assert mine["late", True].judgement.numbers["orders"] == 12


def test_conflicts_and_refusals_are_for_the_advertiser(network: Network) -> None:
    with unit_of_work(network.engine) as session:
        for number in range(10):
            network.order(session, NOW - timedelta(hours=number))
        for number, code in enumerate(["order_conflict"] * 4 + ["order_unknown"] * 6):
            session.add(
                IntakeRefusal(
                    id=f"rfs_{number}",
                    program_id=network.program.id,
                    order_id="x",
                    code=code,
                    detail="d",
                    payload={},
                    at=NOW - timedelta(days=2),
                )
            )

    found = network.named(network.actor(network.program))
    assert found["conflicts", False].judgement.numbers["count"] == 4
    assert found["conflicts", False].judgement.status == "amber"
    refused = found["refused", False].judgement
    assert (refused.numbers["count"], refused.numbers["reasons"]) == (6, "order_unknown 6")
    assert not {"conflicts", "refused"} & {
        check for check, _ in network.named(network.actor(network.who))
    }
    assert network.read(network.actor(network.other_program)) == []


def test_the_same_order_again_and_again_is_told_by_the_way_it_comes(network: Network) -> None:
    def again(session: Session, order: str, channel: str, times: int, **facts: Any) -> None:
        known = facts | {"order_id": order, "occurred_at": NOW - timedelta(days=60)}
        made = make.conversion(session, network.program, network.who, **known)
        for result, count, hours in (("accepted", 1, 1440), ("duplicate", times, 2)):
            session.add(
                Arrival(
                    conversion_id=made.id,
                    channel=channel,
                    result=result,
                    content_hash="h",
                    count=count,
                    at=NOW - timedelta(hours=hours),
                    last_at=NOW - timedelta(hours=hours),
                )
            )

    with unit_of_work(network.engine) as session:
        again(session, "A-1", "tag", 7)
        again(session, "A-2", "tag", 12)
        again(session, "A-3", "postback", 100)
        again(session, "A-4", "api", 9)
        again(session, "A-5", "pixel", 5_000, is_test=True)

    found = {
        str(one.judgement.numbers["channel"]): one
        for one in network.read(network.actor(network.program))
        if one.judgement.check == "repeat_orders"
    }
    assert {name: one.judgement.status for name, one in found.items()} == {
        "tag": "amber",
        "postback": "red",
    }
    by_tag = found["tag"]
    assert (by_tag.program_id, by_tag.publisher_id) == (network.program.id, None)
    assert by_tag.judgement.numbers == {
        "channel": "tag",
        "count": 19,
        "orders": 2,
        "times": 12,
        "example": "A-2",
        "days": 3,
    }
    assert health.sentence(by_tag.judgement, "en").startswith(
        "19 reports by tag in the last 3 days repeat 2 orders that were known; A-2 alone came 12"
    )
    assert health.sentence(by_tag.judgement, "zh-Hans").startswith("最近 3 天经 tag 的 19 次上报")
    for actor in (network.actor(network.who), network.actor(network.other_program)):
        assert "repeat_orders" not in {check for check, _ in network.named(actor)}


def test_repeats_of_long_ago_are_no_news(network: Network) -> None:
    with unit_of_work(network.engine) as session:
        made = make.conversion(session, network.program, network.who)
        session.add(
            Arrival(
                conversion_id=made.id,
                channel="tag",
                result="duplicate",
                content_hash="h",
                count=500,
                at=NOW - timedelta(days=9),
                last_at=NOW - timedelta(days=4),
            )
        )

    assert "repeat_orders" not in {check for check, _ in network.named()}


def test_repeated_clicks_of_few_visitors(network: Network) -> None:
    with unit_of_work(network.engine) as session:
        network.visits(session, 10, 5, visitors=5)
        network.visits(session, 1, 200, visitors=20)

    judged = network.named()["repeat_clicks", True].judgement
    assert (judged.numbers["clicks"], judged.numbers["unique_clicks"]) == (200, 20)


def test_broken_pages_are_for_those_whose_clicks_lead_there(network: Network) -> None:
    def page(program: Program, who: Publisher, url: str, outcome: str, failures: int) -> LinkTarget:
        return LinkTarget(
            program_id=program.id,
            url_hash=url,
            url=url,
            host="shop.example",
            publisher_id=who.id,
            seen_day=day_number(NOW.date()),
            next_check_at=NOW,
            checked_at=NOW,
            outcome=outcome,
            status=404 if failures else 200,
            failures=failures,
        )

    with unit_of_work(network.engine) as session:
        other = make.publisher(session, member_of=network.program)
        session.add(page(network.program, network.who, "https://shop.example/mine", "gone", 2))
        session.add(page(network.program, other, "https://shop.example/other", "gone", 1))
        session.add(page(network.program, other, network.program.landing_url, "ok", 0))

    judged = network.named()["links", False].judgement
    assert (judged.status, judged.numbers["broken"], judged.numbers["pages"]) == ("red", 2, 3)
    mine = network.named(network.actor(network.who))["links", True].judgement
    assert (mine.numbers["broken"], mine.numbers["pages"]) == (1, 2)
    assert mine.numbers["examples"] == "https://shop.example/mine (404)"
    assert network.named(network.actor(other))["links", True].judgement.status == "amber"
    assert network.read(network.actor(network.stranger)) == []


def test_the_worst_comes_first_and_filters_narrow(network: Network) -> None:
    with unit_of_work(network.engine) as session:
        network.history(session)
        network.visits(session, 1, 2_000)
        for number in range(12):
            network.order(session, NOW - timedelta(hours=number))

    found = network.read()
    order = ["red", "amber", "green"]
    ranks = [order.index(one.judgement.status) for one in found]
    assert ranks == sorted(ranks)
    assert ranks[0] == 0
    assert {one.program_id for one in found} == {network.program.id}
    assert network.read(program_id=network.other_program.id) == []
    assert network.read(publisher_id=network.stranger.id) == []
    assert {one.publisher_id for one in network.read(publisher_id=network.who.id)} == {
        network.who.id
    }
