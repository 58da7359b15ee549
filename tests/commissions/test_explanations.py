# ruff: noqa: RUF001 - Chinese has its own punctuation
import ast
import json
import re
from dataclasses import asdict
from pathlib import Path

import pytest
from sqlalchemy.engine import Engine

import commissions
from commissions import accruals, explanations
from commissions.reasons import Reason
from kernel.database import unit_of_work
from kernel.errors import NotFound
from kernel.i18n import catalogue
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
            "Line 1: 5 % of 100.00 EUR.",
            "Line 1: that is 5.00 EUR, exactly.",
            "2026-03-10: another order moved the tier: 7.35 EUR, 12.35 EUR in total.",
            "Line 1: rule volume pays it; it matches every order.",
            "Line 1: the counter of count goes from 0 to 1.",
            "Line 1: 12.345 % of 100.00 EUR.",
            "Line 1: exactly 12.345 EUR, rounded half up to 12.35 EUR.",
            "2026-03-10: after a refund -4.12 EUR, 8.23 EUR remain.",
            "The advertiser said: Too small",
            "Refunded: 33.33 EUR.",
            "Line 1: rule volume pays it; it matches every order.",
            "Line 1: the counter of count goes from 0 to 1.",
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
    tree = ast.parse(Path(explanations.__file__).read_text(encoding="utf-8"))
    docstrings = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    messages = {
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str)
        and id(node) not in docstrings
        and re.match(r"[A-Z][a-z]+[ :].|\{date\}", node.value)
    }
    messages |= {reason.sentence for reason in Reason}
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

        assert told[4:7] == [
            "Line 1: 5 % of 60.00 EUR.",
            "Line 1: 7.5 % of 40.00 EUR.",
            "Line 1: that is 6.00 EUR, exactly.",
        ]
        for_brazil = explanations.explain(session, MANAGER, fixed.id)
        assert "Line 1: 3.50 EUR, fixed." in explanations.words(for_brazil, "en")
        assert "第 1 行：固定金额 3.50 EUR。" in explanations.words(for_brazil, "zh-Hans")
