"""Orders that were nobody's and what follows when they are somebody's: the pipeline, drained."""

from datetime import timedelta

import pytest
from sqlalchemy.engine import Engine

from commissions.models import Booking, Commission
from fraud.models import Assessment, Flag
from kernel.database import unit_of_work
from kernel.outbox import append
from kernel.settings import Settings
from server import chores
from tests import make
from tests.server.shop import KEYS, NOW, Shop, problems
from tracker import attribution, changes
from tracker.customers import customer_keys
from tracker.events import ChangeReported
from tracker.models import Attribution, KnownCustomer, MatchWanted


@pytest.fixture
def shop(engine: Engine) -> Shop:
    return Shop(engine)


def test_a_coupon_s_new_owner_is_paid_once(shop: Shop, settings: Settings) -> None:
    matched = shop.order("1", coupon="ANNA10")
    shop.order("2", coupon="OTHER")
    assert shop.rows(Commission) == []
    shop.coupon(code="ANNA10")
    [commission] = shop.rows(Commission)
    assert (commission.conversion_id, commission.publisher_id, commission.amount_minor) == (
        matched,
        shop.owner.id,
        1_000,
    )
    with unit_of_work(shop.engine) as session:
        for kind in ("conversion.matchable", "conversion.matched"):
            append(session, kind, matched, lane=shop.program.id, now=shop.now)
    shop.work()
    assert len(shop.rows(Booking)) == 1
    assert len(shop.rows(Commission)) == 1
    assert problems(shop, settings) == []


def test_a_refund_from_before_the_match_is_booked_after_it(shop: Shop, settings: Settings) -> None:
    conversion_id = shop.order("1", coupon="ANNA10")
    refund = ChangeReported(
        id="chg_1",
        key="k",
        conversion_id=conversion_id,
        program_id=shop.program.id,
        order_id="1",
        kind="refund",
        content_hash="h",
        occurred_at=NOW,
        received_at=NOW,
        amount_minor=4_000,
    )
    with unit_of_work(shop.engine) as session:
        changes.record(session, [refund], now=shop.now)
    shop.work()
    shop.coupon(code="ANNA10")
    [commission] = shop.rows(Commission)
    assert commission.amount_minor == 600
    assert problems(shop, settings) == []


def test_a_match_is_judged_and_can_be_held(shop: Shop, settings: Settings) -> None:
    """A declared bot's click earns the lead; the sale that follows it is held like the lead."""
    click_id = shop.click()
    with unit_of_work(shop.engine) as session:
        make.click(
            session,
            shop.program,
            shop.owner,
            id=click_id,
            at=NOW - timedelta(hours=2),
            user_agent="Googlebot/2.1",
            agent_class="bot",
        )
    sale = shop.order("sale", customer_id="c")
    assert len(shop.rows(Assessment, Assessment.conversion_id == sale)) == 1
    shop.order("lead", event="lead", customer_id="c", click_id=click_id)
    found = {one.conversion_id: one.status for one in shop.rows(Commission)}
    assert found == {sale: "held", "cnv_lead": "held"}
    assert len(shop.rows(Assessment, Assessment.conversion_id == sale)) == 2
    assert {one.conversion_id for one in shop.rows(Flag)} == {sale, "cnv_lead"}
    assert problems(shop, settings) == []


def test_what_a_plan_pays_is_not_moved(engine: Engine, settings: Settings) -> None:
    """The plan pays a coupon's owner; an owner of the same code elsewhere changes nothing."""
    shop = Shop(engine)
    with unit_of_work(engine) as session:
        other = make.publisher(session, member_of=shop.program, code="other")
        make.plan(
            session,
            shop.program,
            exclusive_coupons={"ANNA10": other.id},
            effective_from=NOW - timedelta(days=2),
        )
    conversion_id = shop.order("1", coupon="ANNA10")
    assert [one.publisher_id for one in shop.rows(Commission)] == [other.id]
    shop.coupon(code="ANNA10")
    assert [one.publisher_id for one in shop.rows(Commission)] == [other.id]
    [found] = shop.rows(Attribution)
    assert (found.conversion_id, found.publisher_id) == (conversion_id, None)
    assert problems(shop, settings) == []


def test_a_test_order_costs_nothing(shop: Shop, settings: Settings) -> None:
    shop.order("1", click_id=shop.click(), is_test=True)
    [found] = shop.rows(Attribution)
    assert (found.publisher_id, found.reason) == (None, "test_order")
    assert shop.rows(Commission) == []
    assert problems(shop, settings) == []


def test_an_assigned_order_is_paid(shop: Shop, settings: Settings) -> None:
    conversion_id = shop.order("1")
    with unit_of_work(shop.engine) as session:
        attribution.assign(
            session,
            conversion_id,
            publisher_id=shop.owner.id,
            note="seen in the shop",
            keys=customer_keys(KEYS),
            actor="usr",
            now=shop.now,
        )
    shop.work()
    [commission] = shop.rows(Commission)
    assert (commission.publisher_id, commission.amount_minor) == (shop.owner.id, 1_000)
    assert problems(shop, settings) == []


def test_what_is_remembered_is_forgotten_in_time(shop: Shop, settings: Settings) -> None:
    shop.order("1", customer_id="a", click_id=shop.click())
    shop.order("2", customer_id="b")
    chores.forget(shop.engine, settings, now=NOW + timedelta(days=90))
    assert (len(shop.rows(KnownCustomer)), len(shop.rows(MatchWanted))) == (1, 1)
    chores.forget(shop.engine, settings, now=NOW + timedelta(days=91))
    assert (len(shop.rows(KnownCustomer)), len(shop.rows(MatchWanted))) == (1, 0)
    chores.forget(shop.engine, settings, now=NOW + timedelta(days=401))
    assert len(shop.rows(KnownCustomer)) == 0
