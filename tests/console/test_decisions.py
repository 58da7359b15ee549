"""The forms that move money or end a suspicion: they write once, and only what was asked."""

import csv
import io

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from commissions.models import Payout, PayoutRun
from fraud.models import FlagDecision
from kernel.outbox import OutboxRow
from network.models import User
from tests.console.world import EMAILS, Browser, World, status_of


def _decisions(engine: Engine) -> list[FlagDecision]:
    with Session(engine) as session:
        return list(session.exec(select(FlagDecision)))


def _runs(engine: Engine) -> list[PayoutRun]:
    with Session(engine) as session:
        return list(session.exec(select(PayoutRun)))


@pytest.mark.parametrize("outcome", ["cleared", "confirmed"])
def test_flag_is_decided_with_a_note(browser: Browser, world: World, outcome: str) -> None:
    browser.sign_in("manager")
    page = f"/flags/{world.flag_id}"

    answer = browser.send(
        f"{page}/decision", on=page, outcome=outcome, note="  asked the <b>publisher</b>  "
    )

    (decision,) = _decisions(world.engine)
    assert answer.headers["location"] == f"{page}?done=flag_{outcome}"
    assert (decision.flag_id, decision.outcome) == (world.flag_id, outcome)
    assert decision.note == "asked the <b>publisher</b>"
    with Session(world.engine) as session:
        manager = session.exec(select(User).where(User.email == EMAILS["manager"])).one()
        follow_up = session.exec(select(OutboxRow).where(OutboxRow.kind == f"flag.{outcome}")).one()
    assert decision.decided_by == manager.id
    assert follow_up.subject_id == world.held.id
    after = browser.open(answer.headers["location"]).text
    assert "asked the &lt;b&gt;publisher&lt;/b&gt;" in after
    assert f"The flag is {outcome}." in after
    assert "/decision" not in after


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"outcome": "cleared", "note": "  "}, "Write a note"),
        ({"outcome": "cleared", "note": "x" * 2_001}, "Write a note"),
        ({"note": "why"}, "Choose whether"),
        ({"outcome": "maybe", "note": "why"}, "outcome"),
    ],
)
def test_incomplete_decision_is_shown_again(
    browser: Browser, world: World, fields: dict[str, str], message: str
) -> None:
    browser.sign_in("manager")
    page = f"/flags/{world.flag_id}"

    answer = browser.send(f"{page}/decision", on=page, headers=None, **fields)

    assert answer.status_code == 400
    assert message in answer.text
    assert fields["note"].strip() in answer.text
    assert _decisions(world.engine) == []


def test_flag_is_decided_once(browser: Browser, world: World) -> None:
    browser.sign_in("manager")
    page = f"/flags/{world.flag_id}"
    browser.send(f"{page}/decision", on=page, outcome="cleared", note="first")

    again = browser.send(f"{page}/decision", on=page, outcome="confirmed", note="second")

    assert again.status_code == 409
    assert "decided meanwhile" in again.text
    assert [decision.note for decision in _decisions(world.engine)] == ["first"]


def test_decision_on_an_unknown_flag_is_a_404(browser: Browser, world: World) -> None:
    browser.sign_in("manager")

    answer = browser.send("/flags/flg_none/decision", on="/flags", outcome="cleared", note="why")

    assert answer.status_code == 404
    assert _decisions(world.engine) == []


def test_no_get_changes_anything(browser: Browser, world: World) -> None:
    browser.sign_in("manager")

    assert browser.open(f"/flags/{world.flag_id}/decision").status_code == 405
    assert browser.open("/sign-out").status_code == 405
    assert _decisions(world.engine) == []
    assert browser.open("/").status_code == 200


def test_payout_from_proposal_to_settlement(browser: Browser, world: World) -> None:
    browser.sign_in("manager")
    proposed = browser.send("/payouts", on="/payouts", minimum_minor="100")
    run = proposed.headers["location"].partition("?")[0]

    own_eyes = browser.send(f"{run}/approve", on=run)
    assert own_eyes.status_code == 422
    assert "other than the person who proposed" in own_eyes.text
    browser.send("/sign-out", on="/")
    browser.sign_in("second")

    approved = browser.send(f"{run}/approve", on=run)
    exported = browser.send(f"{run}/export", on=run)
    without = browser.send(f"{run}/settle", on=run, reference=" ")
    settled = browser.send(f"{run}/settle", on=run, reference="SEPA-77")

    assert approved.status_code == 303
    assert exported.headers["content-type"].startswith("text/csv")
    assert "attachment" in exported.headers["content-disposition"]
    (row,) = csv.DictReader(io.StringIO(exported.text))
    assert (row["amount"], row["currency"]) == ("123.46", "EUR")
    assert without.status_code == 400
    assert settled.status_code == 303
    with Session(world.engine) as session:
        payout = session.exec(select(Payout)).one()
    assert (payout.amount_minor, payout.status) == (12_346, "settled")
    assert payout.reference == "SEPA-77"
    assert status_of(world.engine, world.payable) == "paid"
    page = browser.open(run).text
    assert "SEPA-77" in page
    assert "by Manager" in page
    assert "by Second" in page


def test_one_manager_alone_may_approve(browser: Browser, world: World) -> None:
    with world.engine.begin() as connection:
        connection.execute(
            sa.update(User)
            .where(col(User.email) == EMAILS["second"])
            .values(disabled_at=world.pending.received_at)
        )
    browser.sign_in("manager")
    run = browser.send("/payouts", on="/payouts").headers["location"].partition("?")[0]

    assert browser.send(f"{run}/approve", on=run).status_code == 303
    assert [one.status for one in _runs(world.engine)] == ["approved"]


def test_publishers_below_the_minimum_are_listed_with_the_reason(
    browser: Browser, world: World
) -> None:
    browser.sign_in("manager")

    run = browser.send("/payouts", on="/payouts", minimum_minor="50000").headers["location"]

    page = browser.open(run).text
    assert "The amount is below the minimum for a payout." in page
    assert "Nobody is paid by this run." in page
    assert status_of(world.engine, world.payable) == "payable"


@pytest.mark.parametrize("minimum", ["-1", "1.5", "ten", "1e3"])
def test_minimum_must_be_minor_units(browser: Browser, world: World, minimum: str) -> None:
    browser.sign_in("manager")

    answer = browser.send("/payouts", on="/payouts", minimum_minor=minimum)

    assert answer.status_code == 400
    assert "whole number of minor units" in answer.text
    assert _runs(world.engine) == []


def test_run_is_cancelled_with_a_note(browser: Browser, world: World) -> None:
    browser.sign_in("manager")
    run = browser.send("/payouts", on="/payouts").headers["location"].partition("?")[0]

    silent = browser.send(f"{run}/cancel", on=run, note="")
    cancelled = browser.send(f"{run}/cancel", on=run, note="wrong month")
    late = browser.send(f"{run}/export", on=run)

    assert silent.status_code == 400
    assert cancelled.status_code == 303
    assert late.status_code == 409
    assert [one.status for one in _runs(world.engine)] == ["cancelled"]
    assert "wrong month" in browser.open(run).text
