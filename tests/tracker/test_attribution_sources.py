"""Who brought an order, by each source: tracker.attribution over the real tables."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from kernel import clock
from kernel.audit import AuditEntry
from kernel.database import connect, unit_of_work
from kernel.errors import InvalidInput
from kernel.keys import Keys
from kernel.outbox import OutboxRow
from network import programs, publishers
from network.models import MembershipStatus
from tracker import (
    attribution,
    attribution_checks,
    attribution_facts,
    attribution_terms,
    coupons,
    orders,
    recording,
)
from tracker.attribution import AlreadyAttributed, Attributed, NotAssignable, NotAttributed
from tracker.click_ids import ClickIdSigner
from tracker.coupons import CouponTaken
from tracker.customers import CustomerKeys
from tracker.events import Order, OrderReported
from tracker.models import (
    Attribution,
    AttributionShare,
    AttributionSuperseded,
    Coupon,
    KnownCustomer,
    MatchWanted,
)
from tracker.node import click_id_signer

NOW = clock.now()
KEYS = CustomerKeys(b"k" * 32)
SOON = timedelta(minutes=5)


class House:
    """A shop with three members, and orders that come in and are decided."""

    def __init__(self, session: Session, world: Any, signer: ClickIdSigner) -> None:
        self.session, self.world, self.signer = session, world, signer
        self.program = programs.get(session, world.shop_id)
        self.ids = {"blog": world.blog_id}
        self.numbers = {"blog": world.blog_number, "stranger": world.stranger_number}
        for code in ("deals", "video"):
            made = publishers.add(session, code=code, name=code, now=NOW)
            self.ids[code], self.numbers[code] = made.id, made.number
            self.member(code)
        self.ids["stranger"] = world.stranger_id
        self.count = 0

    def member(self, code: str, status: MembershipStatus = MembershipStatus.APPROVED) -> None:
        publishers.set_membership(
            self.session,
            program=self.program,
            publisher=publishers.get(self.session, self.ids[code]),
            status=status,
            actor="t",
            now=NOW,
        )

    def click(self, publisher: str, before: timedelta = timedelta(days=1)) -> str:
        return self.signer.mint(
            at=NOW - before,
            program_number=self.world.shop_number,
            publisher_number=self.numbers[publisher],
        )

    def report(self, *, at: datetime = NOW, **facts: Any) -> str:
        self.count += 1
        given: dict[str, Any] = {
            "order_id": f"o{self.count}",
            "event": "sale",
            "currency": "EUR",
            "amount_minor": 100,
            "occurred_at": at,
        }
        order = Order(**(given | facts))
        event = OrderReported(
            conversion_id=f"cnv_{self.count}",
            program_id=self.world.shop_id,
            content_hash=orders.content_hash(self.world.shop_id, order),
            received_at=NOW,
            channel="api",
            imported=False,
            order=order,
        )
        recording.record(self.session, [event], now=NOW)
        return event.conversion_id

    def decide(self, *conversion_ids: str, now: datetime = NOW) -> dict[str, Attributed]:
        return attribution.attribute_many(
            self.session, conversion_ids, signer=self.signer, keys=KEYS, now=now
        )

    def order(self, **facts: Any) -> Attribution:
        conversion_id = self.report(**facts)
        self.decide(conversion_id)
        return self.session.get_one(Attribution, conversion_id)

    def match(self, conversion_id: str) -> bool:
        return attribution.match(
            self.session, conversion_id, signer=self.signer, keys=KEYS, now=NOW + SOON
        )

    def publish(self, document: dict[str, Any], since: datetime = NOW - timedelta(90)) -> str:
        version = attribution_terms.publish(
            self.session,
            program_id=self.world.shop_id,
            document=document,
            effective_from=since,
            actor="t",
            now=NOW,
        )
        return version.id

    def coupon(self, **row: Any) -> Coupon:
        [made] = coupons.add(
            self.session, [row], program_id=self.world.shop_id, actor="usr_1", now=NOW
        )
        return made

    def shares(self, conversion_id: str) -> list[tuple[str, str, str]]:
        names = {one: name for name, one in self.ids.items()}
        return [
            (names[one.publisher_id], f"{one.numerator}/{one.denominator}", one.role)
            for one in attribution.shares(self.session, [conversion_id]).get(conversion_id, [])
        ]

    def queued(self, kind: str) -> list[str]:
        query = select(OutboxRow.subject_id).where(OutboxRow.kind == kind)
        return list(self.session.exec(query.order_by(col(OutboxRow.seq))))


@pytest.fixture
def house(engine: Engine, make_world: Callable[[Engine], Any], keys: Keys) -> Any:
    world = make_world(engine)
    with unit_of_work(engine) as session:
        yield House(session, world, click_id_signer(keys))


def facts(found: Attribution) -> tuple[str | None, str, str]:
    return found.publisher_id, found.source, found.reason


def test_earlier_clicks_of_the_order_share_it(house: House) -> None:
    version = house.publish({"model": "linear"})
    clicks = [house.click("blog", timedelta(days=3)), house.click("deals", timedelta(days=2))]
    last = house.click("video")
    found = house.order(click_ids=tuple(clicks), click_id=last)
    assert facts(found) == (house.ids["video"], "click", "linear")
    assert (found.click_id, found.terms_id) == (last, version)
    assert house.shares("cnv_1") == [
        ("blog", "1/3", "initiator"),
        ("deals", "1/3", "contributor"),
        ("video", "1/3", "converter"),
    ]
    assert [row["reason"] for row in found.trace["touches"]] == ["linear"] * 3


def test_the_trace_says_what_became_of_every_click(house: House) -> None:
    found = house.order(
        click_ids=(house.click("stranger", timedelta(hours=2)), house.click("blog"), "nonsense"),
        click_id=house.click("deals", timedelta(hours=3)),
    )
    assert facts(found) == (house.ids["deals"], "click", "last_click")
    assert [row["reason"] for row in found.trace["touches"]] == [
        "click_id_malformed",
        "later_touch",
        "last_click",
        "not_a_member",
    ]
    assert house.shares("cnv_1") == [("deals", "1/1", "converter")]


def test_the_terms_in_force_when_the_order_occurred_decide(house: House) -> None:
    first = house.publish({"model": "first_click"}, since=NOW - timedelta(days=60))
    house.publish({"model": "last_click"}, since=NOW - timedelta(days=2))
    said = {
        "click_ids": (house.click("blog", timedelta(days=9)),),
        "click_id": house.click("deals", timedelta(days=8)),
    }
    early = house.order(at=NOW - timedelta(days=3), **said)
    late = house.order(**said)
    assert (early.publisher_id, early.terms_id) == (house.ids["blog"], first)
    assert late.publisher_id == house.ids["deals"]


def test_rules_set_windows_by_event_customer_and_publisher(house: House) -> None:
    house.publish(
        {
            "window_hours": 240,
            "groups": {"cashback": [house.ids["deals"]]},
            "rules": [
                {"id": "leads", "when": {"event": ["lead"]}, "window_hours": 48},
                {"id": "cash", "when": {"publisher_group": ["cashback"]}, "window_hours": 24},
                {
                    "id": "fresh",
                    "when": {"customer": ["new"], "coupon": ["Hello"]},
                    "model": "first_click",
                },
            ],
        }
    )
    old = house.click("blog", timedelta(hours=100))
    cash = house.click("deals", timedelta(hours=30))
    assert house.order(click_ids=(old,), click_id=cash).publisher_id == house.ids["blog"]
    lead = house.order(event="lead", click_id=old)
    assert facts(lead) == (None, "none", "outside_window")
    assert lead.trace["rules"] == ["leads", "cash"]
    video = house.click("video", timedelta(hours=1))
    fresh = house.order(click_ids=(old,), click_id=video, customer="new", coupon="HELLO")
    assert (fresh.publisher_id, fresh.reason) == (house.ids["blog"], "first_click")


def test_stand_down_and_in_cart(house: House) -> None:
    house.publish({"stand_down_seconds": 60, "in_cart_seconds": 600})
    late = house.click("deals", timedelta(seconds=30))
    early = house.click("blog", timedelta(hours=5))
    assert house.order(click_ids=(early,), click_id=late).publisher_id == house.ids["blog"]
    in_cart = house.order(
        click_ids=(early,),
        click_id=house.click("video", timedelta(minutes=5)),
        cart_at=NOW - timedelta(minutes=6),
    )
    assert in_cart.publisher_id == house.ids["blog"]
    assert in_cart.trace["touches"][-1]["reason"] == "in_cart"


def test_a_preferred_partner_wins_while_it_is_preferred(house: House) -> None:
    until = (NOW + timedelta(days=1)).isoformat()
    house.publish({"preferred": [{"publisher": house.ids["blog"], "to": until}]})
    both = {
        "click_ids": (house.click("blog", timedelta(days=2)),),
        "click_id": house.click("deals"),
    }
    assert facts(house.order(**both)) == (house.ids["blog"], "preferred", "preferred_partner")
    alone = house.order(click_id=house.click("deals"))
    assert facts(alone) == (house.ids["deals"], "click", "last_click")


@pytest.mark.parametrize(
    ("channel", "expected"), [("AW", "last_click"), ("ppc", "other_channel"), (None, "last_click")]
)
def test_an_order_of_another_channel_earns_nothing(
    house: House, channel: str | None, expected: str
) -> None:
    found = house.order(click_id=house.click("blog"), paid_channel=channel)
    assert found.reason == expected
    assert (found.publisher_id is None) is (expected == "other_channel")


def test_a_test_order_shows_who_would_have_earned(house: House) -> None:
    found = house.order(click_id=house.click("blog"), is_test=True, customer_id="c1")
    assert facts(found) == (None, "none", "test_order")
    assert found.trace["would_be"] == [[house.ids["blog"], "1"]]
    assert house.shares("cnv_1") == []
    assert house.session.exec(select(KnownCustomer)).all() == []


def test_the_owner_of_a_coupon_earns_what_no_click_does(house: House) -> None:
    house.coupon(code="ANNA10", publisher="deals")
    assert facts(house.order(coupon="anna10")) == (house.ids["deals"], "coupon", "coupon_owner")
    clicked = house.order(coupon="anna10", click_id=house.click("blog"))
    assert facts(clicked) == (house.ids["blog"], "click", "last_click")


@pytest.mark.parametrize(
    ("operator", "matches"),
    [
        ("EQUALS", ["save"]),
        ("STARTS_WITH", ["save", "save10"]),
        ("ENDS_WITH", ["save", "bigsave"]),
        ("CONTAINS", ["save", "save10", "bigsave", "bigsave10"]),
    ],
)
def test_exclusive_codes_win_against_clicks(
    house: House, operator: str, matches: list[str]
) -> None:
    house.coupon(code="SAVE", publisher="deals", operator=operator, effect="exclusive")
    click_id = house.click("blog")
    codes = ["save", "save10", "bigsave", "bigsave10", "sav"]
    found = {code: house.order(coupon=code, click_id=click_id).reason for code in codes}
    assert found == dict.fromkeys(codes, "last_click") | dict.fromkeys(matches, "coupon_exclusive")


def test_suppressed_and_dated_codes(house: House) -> None:
    house.coupon(code="LEAK", effect="suppressed", ends_at=(NOW - timedelta(hours=1)).isoformat())
    click_id = house.click("blog", timedelta(days=3))
    before = house.order(coupon="leak", click_id=click_id, at=NOW - timedelta(hours=2))
    after = house.order(coupon="leak", click_id=click_id)
    assert (before.reason, after.reason) == ("coupon_suppressed", "last_click")


def test_the_more_exact_coupon_decides(house: House) -> None:
    house.coupon(code="VIP", publisher="blog", operator="STARTS_WITH")
    house.coupon(code="VIPX", publisher="video", operator="STARTS_WITH")
    house.coupon(code="VIPX1", publisher="deals")
    found = {code: house.order(coupon=code).publisher_id for code in ("VIP1", "VIPX2", "VIPX1")}
    assert found == {
        "VIP1": house.ids["blog"],
        "VIPX2": house.ids["video"],
        "VIPX1": house.ids["deals"],
    }


def test_a_coupon_of_somebody_who_left_pays_nobody(house: House) -> None:
    house.coupon(code="ANNA10", publisher="deals")
    house.member("deals", MembershipStatus.SUSPENDED)
    assert facts(house.order(coupon="ANNA10")) == (None, "none", "not_a_member")


def test_coupons_are_added_all_or_none_and_ended(house: House) -> None:
    one = house.coupon(code="ONE", publisher="deals")
    with pytest.raises(CouponTaken):
        house.coupon(code="one", publisher="blog")
    with pytest.raises(InvalidInput) as refused:
        coupons.add(
            house.session,
            [
                {"code": "TWO", "publisher": "nobody"},
                {"code": "AB", "publisher": "deals", "operator": "CONTAINS"},
                {"code": "X", "effect": "suppressed", "publisher": "deals", "color": 1},
                {"code": "Y", "starts_at": "2026-01-02T00:00:00Z", "ends_at": "yesterday"},
            ],
            program_id=house.world.shop_id,
            actor="t",
            now=NOW,
        )
    assert [(one.field, one.rule) for one in refused.value.problems] == [
        ("coupons[0].publisher", "unknown"),
        ("coupons[1].code", "length"),
        ("coupons[2].color", "unknown"),
        ("coupons[2].publisher", "effect"),
        ("coupons[3].publisher", "missing"),
        ("coupons[3].ends_at", "rfc_3339"),
    ]
    ended = coupons.end(
        house.session, [one.id], program_id=house.world.shop_id, actor="t", at=NOW, now=NOW
    )
    assert [each.ends_at for each in ended] == [NOW]
    again = house.coupon(code="one", publisher="blog", starts_at=NOW.isoformat())
    listed = coupons.page(house.session, house.world.shop_id, limit=10)
    assert [each.id for each in listed] == [one.id, again.id]
    actions = [entry.action for entry in house.session.exec(select(AuditEntry))]
    assert [each for each in actions if each.startswith("coupon")] == [
        "coupon.add",
        "coupon.end",
        "coupon.add",
    ]


def test_a_lead_s_customer_is_known_when_the_sale_comes(house: House) -> None:
    click_id = house.click("blog", timedelta(days=20))
    lead = house.order(
        event="lead", click_id=click_id, customer_id="customer no. 1", at=NOW - timedelta(days=10)
    )
    by_id = house.order(customer_id="customer no. 1")
    other = house.order(customer_id="customer no. 2")
    assert lead.publisher_id == house.ids["blog"]
    assert facts(by_id) == (house.ids["blog"], "customer", "same_customer")
    assert (by_id.click_id, by_id.trace["from"]) == (click_id, "cnv_1")
    assert facts(other) == (None, "none", "no_click_id")
    [known] = house.session.exec(select(KnownCustomer)).all()
    assert "customer no. 1" not in known.key
    assert known.conversion_id == "cnv_1"


def test_an_email_hash_joins_devices_within_the_days_that_count(house: House) -> None:
    house.publish({"customer_days": 7})
    for days, email in ((8, "aa"), (7, "bb")):
        house.order(
            click_id=house.click("blog", timedelta(days=9)),
            email_hash=email,
            at=NOW - timedelta(days=days),
        )
    assert house.order(email_hash="aa").publisher_id is None
    assert house.order(email_hash="BB").publisher_id == house.ids["blog"]


def test_a_carried_order_does_not_carry_on(house: House) -> None:
    house.publish({"customer_days": 7})
    house.order(
        click_id=house.click("blog", timedelta(days=9)),
        customer_id="c",
        at=NOW - timedelta(days=8),
    )
    renewed = house.order(customer_id="c", at=NOW - timedelta(days=2))
    assert renewed.reason == "same_customer"
    assert house.order(customer_id="c").publisher_id is None


def test_the_latest_or_the_first_order_of_a_customer_decides(house: House) -> None:
    for days, name in ((5, "blog"), (3, "deals")):
        house.order(
            click_id=house.click(name, timedelta(days=6)),
            customer_id="c",
            at=NOW - timedelta(days=days),
        )
    assert house.order(customer_id="c").publisher_id == house.ids["deals"]
    house.publish({"customer_choice": "first"})
    assert house.order(customer_id="c").publisher_id == house.ids["blog"]


def test_a_customer_with_the_orders_of_many_is_no_person(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracker.customers.ORDERS_OF_A_PERSON_MAX", 2)
    for _ in range(3):
        house.order(click_id=house.click("blog"), customer_id="guest")
    assert facts(house.order(customer_id="guest")) == (None, "none", "customer_ambiguous")


def test_an_order_inherits_from_the_order_that_it_refers_to(house: House) -> None:
    house.publish({"model": "linear"})
    clicks = (house.click("blog", timedelta(days=3)), house.click("deals", timedelta(days=2)))
    house.order(order_id="first", click_ids=clicks)
    renewal = house.order(parent_order_id="first")
    assert facts(renewal) == (house.ids["deals"], "order", "parent_order")
    assert house.shares("cnv_2") == [
        ("blog", "1/2", "initiator"),
        ("deals", "1/2", "converter"),
    ]
    assert (renewal.click_id, renewal.clicked_at is not None) == (clicks[1], True)
    house.member("deals", MembershipStatus.SUSPENDED)
    house.order(parent_order_id="first")
    assert house.shares("cnv_3") == [("blog", "1/1", "initiator")]


def test_shares_that_are_not_one_whole_are_found(house: House) -> None:
    house.publish({"model": "position", "params": {"first_percent": 50, "last_percent": 30}})
    clicks = [
        house.click(one, timedelta(days=days))
        for one, days in (("blog", 3), ("deals", 2), ("video", 1))
    ]
    house.order(click_ids=tuple(clicks), click_id=clicks[-1])
    # Not alike: 1/2, 1/5 and 3/10.
    assert len({weight.partition("/")[2] for _, weight, _ in house.shares("cnv_1")}) == 3
    house.order()
    assert list(attribution_checks.check(house.session)) == []

    house.session.add(
        AttributionShare(
            conversion_id="cnv_1",
            position=3,
            publisher_id=house.ids["blog"],
            numerator=1,
            denominator=7,
            role="contributor",
        )
    )
    house.session.add(
        AttributionShare(
            conversion_id="cnv_2",
            position=0,
            publisher_id=house.ids["blog"],
            numerator=1,
            denominator=1,
            role="converter",
        )
    )
    house.session.flush()
    assert list(attribution_checks.check(house.session)) == [
        ("cnv_1", "its shares sum to 8/7"),
        ("cnv_2", "has shares, and nobody is paid"),
    ]


def test_a_named_publisher_counts_only_where_the_program_says_so(house: House) -> None:
    assert house.order(publisher="deals").reason == "no_click_id"
    house.publish({"sources": ["click", "publisher"]})
    assert facts(house.order(publisher="deals")) == (
        house.ids["deals"],
        "publisher",
        "named_publisher",
    )
    by_id = house.order(publisher=house.ids["video"])
    assert by_id.publisher_id == house.ids["video"]
    assert house.order(publisher="stranger").reason == "not_a_member"
    assert house.order(publisher="who").reason == "publisher_unknown"


def test_a_batch_is_decided_as_its_orders_one_by_one(house: House) -> None:
    """What comes first in a batch is known to what comes after it."""
    lead = house.report(event="lead", click_id=house.click("blog"), customer_id="c")
    sale = house.report(customer_id="c", order_id="o-sale")
    renewal = house.report(parent_order_id="o-sale")
    stranger = house.report(customer_id="d")
    found = house.decide(renewal, stranger, lead, sale)
    assert {one: each.reason for one, each in found.items()} == {
        lead: "last_click",
        sale: "same_customer",
        renewal: "parent_order",
        stranger: "no_click_id",
    }
    assert house.decide(renewal, stranger, lead, sale, now=NOW + SOON) == found
    assert len(house.session.exec(select(AttributionShare)).all()) == 3


@pytest.mark.parametrize("orders_count", [1, 40])
def test_a_batch_takes_few_statements_whatever_its_size(house: House, orders_count: int) -> None:
    made = [house.report(click_id=house.click("blog")) for _ in range(orders_count)]
    house.session.flush()
    said: list[str] = []
    connection = house.session.connection()
    sa.event.listen(
        connection, "before_cursor_execute", lambda *sent: said.append(sent[2].split()[0])
    )
    house.decide(*made)
    assert said == ["SELECT"] * 5 + ["INSERT"] * 2 + ["SELECT"]


def test_an_order_is_matched_when_the_customer_s_lead_arrives(house: House) -> None:
    sale = house.order(customer_id="c")
    assert facts(sale) == (None, "none", "no_click_id")
    assert [one.kind for one in house.session.exec(select(MatchWanted))] == ["customer"]
    assert house.match("cnv_1") is False
    house.order(
        event="lead",
        click_id=house.click("blog"),
        customer_id="c",
        at=NOW - timedelta(hours=1),
    )
    assert house.queued("conversion.matchable") == ["cnv_1"]
    assert house.match("cnv_1") is True
    house.session.expire_all()
    now_it_is = house.session.get_one(Attribution, "cnv_1")
    assert facts(now_it_is) == (house.ids["blog"], "customer", "same_customer")
    [before] = house.session.exec(select(AttributionSuperseded)).all()
    assert (before.reason, before.decided_at, before.superseded_at) == (
        "no_click_id",
        NOW,
        NOW + SOON,
    )
    assert house.session.exec(select(MatchWanted)).all() == []
    assert house.match("cnv_1") is False
    assert house.queued("conversion.matched") == ["cnv_1"]


def test_an_order_is_matched_when_its_coupon_gets_an_owner(house: House) -> None:
    house.order(coupon="ANNA10")
    house.order(coupon="OTTO")
    made = house.coupon(code="anna", operator="STARTS_WITH", publisher="deals")
    assert house.queued("coupon.added") == [made.id]
    assert coupons.announce(house.session, made.id, now=NOW) == 1
    assert house.queued("conversion.matchable") == ["cnv_1"]
    assert house.match("cnv_1") is True
    assert house.session.get_one(Attribution, "cnv_1").reason == "coupon_owner"


def test_an_order_is_matched_when_the_order_it_refers_to_arrives(house: House) -> None:
    house.order(parent_order_id="later")
    house.order(order_id="later", click_id=house.click("blog"))
    assert house.queued("conversion.matchable") == ["cnv_1"]
    assert house.match("cnv_1") is True


def test_what_nobody_may_earn_is_not_matched(house: House) -> None:
    house.order(paid_channel="ppc", customer_id="c")
    house.order(is_test=True, customer_id="c")
    house.order(click_id=house.click("blog"), customer_id="c", at=NOW - timedelta(hours=1))
    assert house.queued("conversion.matchable") == []
    assert (house.match("cnv_1"), house.match("cnv_2"), house.match("cnv_9")) == (False,) * 3


def assign(house: House, conversion_id: str, publisher: str, note: str = "called us") -> None:
    attribution.assign(
        house.session,
        conversion_id,
        publisher_id=house.ids[publisher],
        note=note,
        keys=KEYS,
        actor="usr_1",
        now=NOW + SOON,
    )


def test_a_manager_assigns_what_is_nobody_s(house: House) -> None:
    house.order(customer_id="c")
    assign(house, "cnv_1", "deals")
    assign(house, "cnv_1", "deals")
    house.session.expire_all()
    found = house.session.get_one(Attribution, "cnv_1")
    assert facts(found) == (house.ids["deals"], "manual", "assigned")
    assert found.trace == {"note": "called us"}
    assert house.shares("cnv_1") == [("deals", "1/1", "converter")]
    assert house.queued("conversion.matched") == ["cnv_1"]
    assert house.order(customer_id="c").publisher_id == house.ids["deals"]
    with pytest.raises(AlreadyAttributed):
        assign(house, "cnv_1", "blog")
    entries = house.session.exec(select(AuditEntry)).all()
    assert [one.facts["note"] for one in entries if one.action == "conversion.assign"] == [
        "called us"
    ]


def test_what_a_manager_may_not_assign(house: House) -> None:
    waiting = house.report()
    with pytest.raises(NotAttributed):
        assign(house, waiting, "deals")
    house.order(is_test=True)
    with pytest.raises(NotAssignable):
        assign(house, "cnv_2", "deals")
    house.order()
    with pytest.raises(NotAssignable):
        assign(house, "cnv_3", "stranger")
    with pytest.raises(InvalidInput):
        assign(house, "cnv_3", "deals", note="")
    assert house.session.get_one(Attribution, "cnv_3").publisher_id is None


def refused(engine: Engine, statement: str) -> bool:
    with Session(engine) as session, pytest.raises(sa.exc.DBAPIError, match="append-only"):
        session.execute(sa.text(statement))
    return True


def test_the_database_keeps_decisions(
    engine: Engine, make_world: Callable[[Engine], Any], keys: Keys
) -> None:
    world = make_world(engine)
    with unit_of_work(engine) as session:
        house = House(session, world, click_id_signer(keys))
        house.order(click_id=house.click("blog"))
        house.order()
    assert refused(engine, "UPDATE attribution SET reason = 'x' WHERE conversion_id = 'cnv_1'")
    assert refused(engine, "UPDATE attribution SET reason = 'x' WHERE conversion_id = 'cnv_2'")
    assert refused(engine, "DELETE FROM attribution WHERE conversion_id = 'cnv_2'")
    # Without a copy of the decision that it replaces, no publisher can be put in its place.
    assert refused(
        engine,
        "UPDATE attribution SET publisher_id = (SELECT publisher_id FROM attribution "
        "WHERE conversion_id = 'cnv_1') WHERE conversion_id = 'cnv_2'",
    )


@pytest.mark.services
def test_of_two_who_match_at_once_one_wins(
    postgres_url: str, make_world: Callable[[Engine], Any], keys: Keys
) -> None:
    engine = connect(postgres_url)
    world = make_world(engine)
    with unit_of_work(engine) as session:
        house = House(session, world, click_id_signer(keys))
        house.order()
        rows = attribution_facts.rows(session, ["cnv_1"])

    def give(publisher: str) -> None:
        with unit_of_work(engine) as session:
            house.session = session
            assign(house, "cnv_1", publisher)

    with unit_of_work(engine) as late, ThreadPoolExecutor(1) as pool:
        # Read before, decided after: the row that was nobody's is somebody's by now.
        late.exec(select(Attribution)).all()
        pool.submit(give, "deals").result(timeout=30)
        with pytest.raises(AlreadyAttributed):
            attribution._supersede(
                late,
                rows[0],
                attribution_facts.Batch(keys={"cnv_1": ()}, terms_ids={"cnv_1": None}),
                attribution._manual(world.blog_id, "late"),
                now=NOW,
            )
    with unit_of_work(engine) as session:
        assert session.get_one(Attribution, "cnv_1").publisher_id == house.ids["deals"]
    engine.dispose()
