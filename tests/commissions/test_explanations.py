# ruff: noqa: RUF001 - Chinese has its own punctuation
import ast
import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from sqlalchemy.engine import Engine

import commissions
from commissions import (
    accruals,
    explanation_words,
    explanations,
    fact_words,
    fx_rates,
    losers,
    tier_standing,
)
from commissions.accruals import Task
from commissions.fx_rates import Quote
from commissions.plan_document import DIMENSIONS
from commissions.reasons import Reason
from kernel.database import unit_of_work
from kernel.errors import NotFound
from kernel.i18n import catalogue
from network import groups
from network.access import Actor
from network.models import Role
from tests import make
from tests.make import NOW
from tracker.models import ChangeKind

MANAGER = Actor("usr_m", Role.MANAGER, "", "Manager")
VOLUME = {
    "id": "volume",
    "tiers": {
        "mode": "volume",
        "measure": "count",
        "window": "calendar_month",
        "levels": [{"from": 1, "percent": "5"}, {"from": 2, "percent": "12.345"}],
    },
}


def test_every_booking_of_a_commission_is_told_in_words(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program = make.program(session)
        who = make.publisher(session)
        make.plan(session, program, VOLUME)
        first = make.conversion(session, program, who)
        second = make.conversion(session, program, who)
        for sale in (first, second):
            accruals.accrue(session, sale.id, hold_reason=None, now=NOW)
        make.change(session, first, ChangeKind.REFUND, amount_minor=3333, reason="Too small")
        accruals.apply_changes(session, first.id, now=NOW)
        actor = Actor("usr_p", Role.PUBLISHER, who.id, "Publisher")

        told = explanations.explain(session, actor, first.id)

        assert json.loads(json.dumps(asdict(told))) == asdict(told)
        assert [(one["kind"], one["delta_minor"]) for one in told.bookings] == [
            ("accrue", 500),
            ("tier_true_up", 735),
            ("refund", -412),
        ]
        assert told.bookings[1]["event"]["because_of"] == second.id
        assert explanations.words(told, "en") == [
            "Version 1 of the commission plan applies, in force since 2025-03-10.",
            "2026-03-10: booked 5.00 EUR.",
            "Line 1: rule volume pays it; it matches every order.",
            "Line 1: the counter of count goes from 0 to 1.",
            "Line 1: the level is decided by 1.",
            "Line 1: 5 % of 100.00 EUR.",
            "Line 1: that is 5.00 EUR, exactly.",
            "2026-03-10: another order moved the tier: 7.35 EUR, 12.35 EUR in total.",
            "Line 1: rule volume pays it; it matches every order.",
            "Line 1: the counter of count goes from 0 to 1.",
            "Line 1: the level is decided by 2.",
            "Line 1: 12.345 % of 100.00 EUR.",
            "Line 1: exactly 12.345 EUR, rounded half up to 12.35 EUR.",
            "2026-03-10: after a refund -4.12 EUR, 8.23 EUR remain.",
            "The advertiser said: Too small",
            "Refunded: 33.33 EUR.",
            "Line 1: rule volume pays it; it matches every order.",
            "Line 1: the counter of count goes from 0 to 1.",
            "Line 1: the level is decided by 2.",
            "Line 1: 12.345 % of 66.67 EUR.",
            "Line 1: exactly 8.2304115 EUR, rounded half up to 8.23 EUR.",
            "The commission is 8.23 EUR; its status is pending.",
            "Reason partly_refunded: Part of the order was refunded.",
            "It becomes payable on 2026-04-09.",
        ]
        chinese = explanations.words(told, "zh-Hans")
        assert chinese[1] == "2026-03-10：入账 5.00 EUR。"
        assert chinese[-3:] == [
            "佣金为 8.23 EUR，状态为待确认。",
            "原因 partly_refunded：订单已部分退款。",
            "将于 2026-04-09 变为可支付。",
        ]


def test_steps_name_the_actor_to_managers_only(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session)
        who, other = make.publisher(session), make.publisher(session)
        make.plan(session, program)
        sale = make.conversion(session, program, who)
        accruals.accrue(session, sale.id, hold_reason="fraud_suspected", now=NOW)
        accruals.void(session, sale.id, reason="fraud_confirmed", actor="usr_7", now=NOW)
        mine = Actor("usr_p", Role.PUBLISHER, who.id, "Publisher")

        by_manager = explanations.explain(session, MANAGER, sale.id)
        by_publisher = explanations.explain(session, mine, sale.id)

        assert [one["to"] for one in by_publisher.steps] == ["pending", "held", "declined"]
        assert "actor" not in by_publisher.steps[-1]
        assert by_manager.steps[-1]["actor"] == "usr_7"
        assert by_publisher.reason == "fraud_confirmed"
        assert "A manager confirmed" in explanations.words(by_publisher, "en")[-1]
        with pytest.raises(NotFound):
            explanations.explain(
                session, Actor("usr_q", Role.PUBLISHER, other.id, "Other"), sale.id
            )


def test_an_order_of_nobody_is_explained_too(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        sale = make.conversion(session, make.program(session), None)

        told = explanations.explain(session, MANAGER, sale.id)

        assert (told.commission, told.plan, told.status) == (None, None, "unattributed")
        assert explanations.words(told, "en") == [
            "No commission: this order is not attributed to a publisher."
        ]


def test_another_publishers_order_is_not_named(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session)
        mine, theirs = make.publisher(session), make.publisher(session)
        tiers = {**VOLUME["tiers"], "scope": ["program"]}  # type: ignore[dict-item]  # tests write plans as JSON
        make.plan(session, program, {**VOLUME, "tiers": tiers})
        first = make.conversion(session, program, mine)
        for sale in (first, make.conversion(session, program, theirs)):
            accruals.accrue(session, sale.id, hold_reason=None, now=NOW)

        actor = Actor("usr_p", Role.PUBLISHER, mine.id, "Publisher")
        told = explanations.explain(session, actor, first.id)

        assert told.bookings[1]["kind"] == "tier_true_up"
        assert told.bookings[1]["event"]["because_of"] is None


def test_every_sentence_and_reason_is_translated() -> None:
    nodes = [
        node
        for module in (explanation_words, fact_words, losers, tier_standing)
        for node in ast.walk(ast.parse(Path(str(module.__file__)).read_text(encoding="utf-8")))
    ]
    docstrings = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    messages = {
        node.value
        for node in nodes
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
        and re.match(r"[A-Z1][a-z]*[ :].|\{(date|missing)\} ?", node.value)
    }
    messages |= {reason.sentence for reason in Reason}
    messages |= {*fact_words.BASES.values(), *fact_words.WORDS, *DIMENSIONS}
    chinese = catalogue(commissions.__name__, "zh-Hans")

    untranslated = [message for message in messages if chinese.gettext(message) == message]

    assert len(messages) > 35
    assert untranslated == []


def test_fixed_amounts_and_slices_are_told_as_people_reckon(sqlite_engine: Engine) -> None:
    tiers = {
        "mode": "graduated",
        "measure": "sales",
        "window": "calendar_month",
        "boundary": "split",
        "levels": [{"from": 0, "percent": "5"}, {"from": 6000, "percent": "7.5"}],
    }
    with unit_of_work(sqlite_engine) as session:
        program, who = make.program(session), make.publisher(session)
        make.plan(
            session,
            program,
            {"id": "tiered", "tiers": tiers},
            {
                "id": "fixed",
                "when": {"country": ["BR"]},
                "pay": {"fixed_minor": 350, "per": "order"},
            },
        )
        sliced = make.conversion(session, program, who, country="DE")
        fixed = make.conversion(session, program, who, country="BR")
        for sale in (sliced, fixed):
            accruals.accrue(session, sale.id, hold_reason=None, now=NOW)

        told = explanations.words(explanations.explain(session, MANAGER, sliced.id), "en")

        assert told[4:8] == [
            "Line 1: 5 % of 60.00 EUR.",
            "Line 1: 7.5 % of 40.00 EUR.",
            "Line 1: that is 6.00 EUR, exactly.",
            "Line 1: rule fixed does not match: country is DE.",
        ]
        for_brazil = explanations.explain(session, MANAGER, fixed.id)
        assert "Line 1: 3.50 EUR, fixed." in explanations.words(for_brazil, "en")
        assert "第 1 行：固定金额 3.50 EUR。" in explanations.words(for_brazil, "zh-Hans")


def test_the_facts_that_decided_are_told(sqlite_engine: Engine) -> None:
    when = {
        "country": ["AT"],
        "device": ["mobile"],
        "site": ["at-store"],
        "customer": ["reactivated"],
        "within_months_of_first": 6,
    }
    rule = {"id": "named", "when": when, "base": "revenue", "pay": {"percent": "50"}}
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session)
        who = make.publisher(session)
        quote = Quote(NOW.date(), "EUR", "USD", "1.5")
        fx_rates.record(session, "ecb", [quote], actor="t", now=NOW)
        make.plan(session, program, rule, country_basis=["country", "country_billing"])
        sale = make.conversion(
            session,
            program,
            who,
            currency="USD",
            amount_minor=11_900,
            site="at-store",
            customer="reactivated",
            country_billing="AT",
            items=[{"amount_minor": 11_900, "vat_percent": "19", "revenue_minor": 3_000}],
            facts={"click_device": "mobile", "months_since_first": 5, "publisher_groups": ["x"]},
        )
        accruals.accrue(session, sale.id, hold_reason=None, now=NOW)

        told = explanations.explain(session, MANAGER, sale.id)

        assert explanations.words(told, "en")[1:12] == [
            "2026-03-10: booked 10.00 EUR.",
            "Converted at the rate of 2026-03-10 (ecb): 1 USD is 0.666666… EUR.",
            "The country is AT, by the billing address.",
            "The kind of device of the click is mobile.",
            "The order came in by the site at-store.",
            "The customer is reactivated.",
            "Whole months since the customer's first order: 5.",
            (
                "Line 1: rule named pays it; it matches customer, country, device, site, "
                "within_months_of_first."
            ),
            "Line 1: 119.00 USD with 19 % tax are 100.00 USD without it.",
            "Line 1: the rule pays on what the shop itself earns by it.",
            "Line 1: 50 % of 20.00 EUR.",
        ]
        chinese = explanations.words(told, "zh-Hans")
        assert chinese[2:8] == [
            "按 2026-03-10 的汇率（ecb）换算：1 USD = 0.666666… EUR。",
            "国家/地区为 AT，依据账单地址。",
            "点击所用设备为手机。",
            "订单来自站点 at-store。",
            "顾客类型为回流客户。",
            "距该顾客首单的整月数：5。",
        ]
        assert chinese[9] == "第 1 行：含 19% 税的 119.00 USD，不含税为 100.00 USD。"


def test_groups_and_a_rate_that_came_later_are_told(sqlite_engine: Engine) -> None:
    rule = {"id": "named", "when": {"publisher_group": ["gold"]}, "pay": {"percent": "5"}}
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session)
        who = make.publisher(session)
        groups.put(session, "gold", name="Gold", program_id=None, actor="t", now=NOW)
        make.plan(session, program, rule)
        kept = {"publisher_groups": ["gold", "silver"]}
        sale = make.conversion(session, program, who, currency="USD", facts=kept)
        accruals.accrue(session, sale.id, hold_reason=None, now=NOW)
        waiting = explanations.words(explanations.explain(session, MANAGER, sale.id), "en")
        assert waiting[-2].startswith("Reason no_rate: There is no exchange rate")
        quote = Quote(NOW.date(), "EUR", "USD", "0.5")
        fx_rates.record(session, "ecb", [quote], actor="t", now=NOW)
        accruals.book(session, [Task(accruals.RATED, sale.id)], now=NOW)

        told = explanations.explain(session, MANAGER, sale.id)

        words = explanations.words(told, "en")
        assert words[2:5] == [
            "2026-03-10: there is an exchange rate now: booked 10.00 EUR.",
            "Converted at the rate of 2026-03-10 (ecb): 1 USD is 2 EUR.",
            "When the order occurred, the publisher was in gold, silver.",
        ]


def test_what_decided_besides_the_rates_is_told(sqlite_engine: Engine) -> None:
    rates = {"pivot": "EUR", "rates": {"2026-03-09": {"USD": "1.25"}, "2026-03-11": {"USD": "2"}}}
    with unit_of_work(sqlite_engine) as session:
        program, who = make.program(session), make.publisher(session)
        make.plan(
            session,
            program,
            {"id": "all", "pay": {"percent": "10"}},
            {"id": "books", "pay": {"percent": "9"}, "when": {"category": ["books"]}},
            {"id": "first", "pay": {"percent": "8"}, "priority": 1},
            fx=rates,
            exclusive_coupons={"MINE": who.id},
        )
        items = [{"category": "books", "amount_minor": 10_000}]
        sale = make.conversion(
            session, program, who, currency="USD", coupon="MINE", items=items, country="US"
        )
        accruals.accrue(session, sale.id, hold_reason=None, now=NOW)

        told = explanations.explain(session, MANAGER, sale.id)

        rate = {"value": "4/5", "day": "2026-03-09", "source": "plan"}
        assert told.bookings[0]["rate"] == rate
        assert explanations.words(told, "en")[2:9] == [
            "Converted at the rate of 2026-03-09 (plan): 1 USD is 0.8 EUR.",
            "The coupon MINE belongs to the publisher who is paid.",
            "Line 1: rule first pays it; it matches every order.",
            "Line 1: 8 % of 80.00 EUR.",
            "Line 1: that is 6.40 EUR, exactly.",
            "Line 1: rule books loses to first: priority 1 over 0.",
            "Line 1: rule all loses to first: priority 1 over 0.",
        ]
        assert "第 1 行：规则 all 让位于 first：优先级 1 高于 0。" in explanations.words(
            told, "zh-Hans"
        )


def test_rules_for_others_are_not_named_to_a_publisher(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session)
        who, other = make.publisher(session), make.publisher(session)
        vip = {"id": "vip", "pay": {"percent": "90"}, "when": {"publisher": [other.id]}}
        make.plan(session, program, vip, {"id": "all", "pay": {"percent": "10"}})
        sale = make.conversion(session, program, who)
        accruals.accrue(session, sale.id, hold_reason=None, now=NOW)
        mine = Actor("usr_p", Role.PUBLISHER, who.id, "Publisher")

        by_manager = explanations.explain(session, MANAGER, sale.id)
        by_publisher = explanations.explain(session, mine, sale.id)

        assert "vip" in json.dumps(by_manager.bookings)
        assert "vip" not in json.dumps(asdict(by_publisher))


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("sku is a, b", "rule r does not match: sku is a, b"),
        ("region is unknown", "rule r does not match: region is unknown"),
        (
            "outranked by x: publisher, category is more specific than every order",
            "rule r loses to x: publisher, category is more specific than every order",
        ),
        ("outranked by x is y: its id comes first", "rule r loses to x is y, whose name"),
        ("order total is over the maximum", "rule r does not match: the order is over its maximum"),
        ("not in force when the order occurred", "rule r was not in force"),
        ("something new", "rule r does not pay it: something new"),
    ],
)
def test_reasons_of_losing_rules_are_sentences(reason: str, words: str) -> None:
    message, values = losers.sentence(reason)
    said = {name: ", ".join(v) if isinstance(v, tuple) else v for name, v in values.items()}

    assert words in message.format(line=1, rule="r", **said)
