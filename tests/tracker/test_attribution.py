"""Who brought an order: the id on the order decides, and the same answer comes ever after."""

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import Session, select

from kernel import clock
from kernel.database import unit_of_work
from kernel.errors import NotFound
from kernel.keys import Keys
from network import programs, publishers
from network.models import MembershipStatus
from tests import make
from tracker import attribution, orders, recording
from tracker.click_ids import FLAG_NOT_BILLABLE, ClickIdSigner
from tracker.customers import CustomerKeys
from tracker.events import Order, OrderReported
from tracker.models import Attribution, Click
from tracker.node import click_id_signer

NOW = clock.now()
CUSTOMERS = CustomerKeys(b"k" * 32)


@pytest.fixture
def world(engine: Engine, make_world: Callable[[Engine], Any]) -> Any:
    return make_world(engine)


@pytest.fixture
def signer(keys: Keys) -> ClickIdSigner:
    return click_id_signer(keys)


def report(session: Session, world: Any, click_id: str | None, at: datetime = NOW) -> str:
    order = Order(
        order_id="1",
        event="sale",
        currency="EUR",
        amount_minor=1,
        click_id=click_id,
        occurred_at=at,
    )
    event = OrderReported(
        conversion_id="cnv_1",
        program_id=world.shop_id,
        content_hash=orders.content_hash(world.shop_id, order),
        received_at=NOW,
        channel="api",
        imported=False,
        order=order,
    )
    recording.record(session, [event], now=NOW)
    return "cnv_1"


def decide(engine: Engine, world: Any, signer: ClickIdSigner, click_id: str | None) -> Attribution:
    with unit_of_work(engine) as session:
        conversion_id = report(session, world, click_id)
        return attribution.attribute(session, conversion_id, signer=signer, keys=CUSTOMERS, now=NOW)


def mint(signer: ClickIdSigner, world: Any, **changes: Any) -> str:
    facts = {
        "at": NOW - timedelta(days=1),
        "program_number": world.shop_number,
        "publisher_number": world.blog_number,
    }
    return signer.mint(**(facts | changes))


def test_a_genuine_click_id_is_enough_without_its_row(engine: Any, world: Any, signer: Any) -> None:
    click_id = mint(signer, world)
    found = decide(engine, world, signer, click_id)
    assert (found.publisher_id, found.click_id) == (world.blog_id, click_id)
    assert found.clicked_at == signer.read(click_id).at
    assert (found.source, found.reason, found.decided_at) == ("click", "last_click", NOW)
    later = NOW + timedelta(days=1)
    with unit_of_work(engine) as session:
        again = attribution.attribute(session, "cnv_1", signer=signer, keys=CUSTOMERS, now=later)
        assert again.decided_at == NOW
        assert len(session.exec(select(Attribution)).all()) == 1


def altered(click_id: str) -> str:
    return click_id[:20] + ("A" if click_id[20] != "A" else "B") + click_id[21:]


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda _s, _w: None, "no_click_id"),
        (lambda _s, _w: "hello", "click_id_malformed"),
        (lambda s, w: altered(mint(s, w)), "click_id_forged"),
        (
            lambda _s, w: mint(ClickIdSigner({9: bytes(32)}, 9), w),
            "click_id_unknown_key",
        ),
        (lambda s, w: mint(s, w, program_number=w.other_number), "click_of_other_program"),
        (lambda s, w: mint(s, w, publisher_number=777), "publisher_unknown"),
        (lambda s, w: mint(s, w, publisher_number=w.stranger_number), "not_a_member"),
        (lambda s, w: mint(s, w, flags=FLAG_NOT_BILLABLE), "click_not_billable"),
        (lambda s, w: mint(s, w, at=NOW + timedelta(seconds=61)), "click_after_order"),
        (lambda s, w: mint(s, w, at=NOW - timedelta(days=30, seconds=1)), "outside_window"),
    ],
)
def test_why_nobody_earns(engine: Any, world: Any, signer: Any, make: Any, reason: str) -> None:
    found = decide(engine, world, signer, make(signer, world))
    assert (found.publisher_id, found.click_id, found.clicked_at) == (None, None, None)
    assert (found.source, found.reason) == ("none", reason)


def test_the_row_of_a_click_can_say_that_it_may_not_earn(
    engine: Any, world: Any, signer: Any
) -> None:
    click_id = mint(signer, world)
    with unit_of_work(engine) as session:
        make.keep_click(
            session,
            Click(
                id=click_id,
                at=signer.read(click_id).at,
                program_id=world.shop_id,
                publisher_id=world.blog_id,
                unbillable_reason="prefetch",
                sub_ids={},
                parameters={},
            ),
        )
    assert decide(engine, world, signer, click_id).reason == "prefetch"


def test_a_suspended_publisher_earns_nothing_new(engine: Any, world: Any, signer: Any) -> None:
    with unit_of_work(engine) as session:
        publishers.set_membership(
            session,
            program=programs.find(session, "shop"),
            publisher=publishers.get(session, world.blog_id),
            status=MembershipStatus.SUSPENDED,
            actor="t",
            now=NOW,
        )
    assert decide(engine, world, signer, mint(signer, world)).reason == "not_a_member"


def test_an_unknown_conversion_is_not_found(engine: Any, signer: Any) -> None:
    with unit_of_work(engine) as session, pytest.raises(NotFound):
        attribution.attribute(session, "cnv_none", signer=signer, keys=CUSTOMERS, now=NOW)
