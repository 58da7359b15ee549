"""The plan of a program on the console: checked, compared, simulated, scheduled, published."""

import json
from datetime import timedelta
from typing import Any

import pytest
from sqlmodel import Session, col, select

from commissions import plan_jobs, plans
from commissions.models import Booking, PlanVersion
from commissions.plan_models import PlanJob, PlanWaiver
from kernel import clock
from kernel.database import unit_of_work
from tests.console.world import Browser, World


def path(world: World) -> str:
    return f"/programs/{world.program.id}/plan"


def document(percent: str, **more: Any) -> str:
    return json.dumps(
        {"currency": "EUR", "rules": [{"id": "all", "pay": {"percent": percent}}]} | more
    )


def published(world: World) -> list[PlanVersion]:
    with Session(world.engine) as session:
        return plans.versions(session, world.program.id)


def send(browser: Browser, world: World, action: str, **fields: str) -> Any:
    token = browser.token(path(world))
    given = {"csrf_token": token, "action": action, **fields}
    return browser.client.post(
        path(world), files={name: (None, value) for name, value in given.items()}
    )


def work(world: World) -> PlanJob:
    with Session(world.engine) as session:
        job = session.exec(select(PlanJob).order_by(col(PlanJob.id).desc())).first()
    assert job is not None
    assert plan_jobs.work(world.engine, job.id, owner="test", clock=clock.now)
    return job


def test_versions_are_shown_with_a_draft_to_edit(browser: Browser, world: World) -> None:
    browser.sign_in("advertiser")

    page = browser.open(path(world)).text

    assert "In force" in page
    assert "all: 10 % for every order" in page
    assert "&#34;percent&#34;: &#34;10&#34;" in page
    assert "Lower rates are published 0 days ahead." in page
    assert "Promise this" not in page
    assert browser.open(f"/programs/{world.other_program.id}/plan").status_code == 404


def test_a_draft_is_checked_at_its_paths(browser: Browser, world: World) -> None:
    browser.sign_in("advertiser")
    bad = document("5", rules=[{"id": "a", "pay": {"percent": 5}}, {"id": "b", "what": 1}])

    refused = send(browser, world, "check", document=bad)
    no_json = send(browser, world, "publish", document="{")
    checked = send(browser, world, "check", document=document("8"))

    assert refused.status_code == no_json.status_code == 400
    assert "<code>rules[0].pay.percent</code>" in refused.text
    assert "<code>rules[1].what</code>" in refused.text
    assert "&#34;what&#34;: 1" in refused.text
    assert checked.status_code == 200
    assert "Lower, or maybe lower" in checked.text
    assert "pays less" in checked.text
    assert len(published(world)) == 1
    tie = document("5", rules=[{"id": one, "pay": {"percent": "5"}} for one in ("a", "b")])
    tied = send(browser, world, "publish", document=tie)
    assert "ambiguous: rules" in tied.text
    assert tied.text.count("<pre") == 2


def test_an_advertiser_publishes_and_a_manager_may_waive_notice(
    browser: Browser, world: World
) -> None:
    browser.sign_in("manager")
    notice = browser.send(f"{path(world)}/notice", on=path(world), notice_days="14")
    assert notice.headers["location"].endswith("done=notice_set")

    refused = send(browser, world, "publish", document=document("8"))
    assert refused.status_code == 422
    assert "Nothing was published." in refused.text
    assert "Rules that it lowers: all." in refused.text
    assert len(published(world)) == 1

    raised = send(browser, world, "publish", document=document("12"))
    assert raised.status_code == 303
    waived = send(
        browser, world, "publish", document=document("8"), waiver="Eight percent were agreed."
    )
    assert waived.status_code == 303
    assert [one.version for one in published(world)] == [3, 2, 1]
    with Session(world.engine) as session:
        assert len(session.exec(select(PlanWaiver)).all()) == 1
    assert "Notice was waived: Eight percent were agreed." in browser.open(path(world)).text

    browser.client.cookies.clear()
    browser.sign_in("publisher")
    terms = browser.open("/terms").text
    assert "all: 8 % for every order" in terms
    assert "Notice was waived: Eight percent were agreed." in terms


def test_a_simulation_leads_to_publishing_that_very_draft(browser: Browser, world: World) -> None:
    browser.sign_in("advertiser")
    today = clock.now().date()
    days = {"from": str(today - timedelta(days=60)), "to": str(today)}
    started = send(browser, world, "simulate", document=document("20"), **days)
    assert started.status_code == 303
    target = started.headers["location"]
    assert browser.open(target).headers["refresh"].endswith(target)

    job = work(world)

    page = browser.open(target)
    assert "refresh" not in page.headers
    for text in ("158.51", "317.01", "boots", "DE", "Publish this very draft"):
        assert text in page.text, text
    answer = send(browser, world, "publish", simulation=job.id)
    assert answer.status_code == 303
    assert published(world)[0].document == json.loads(document("20"))
    assert send(browser, world, "simulate", document=document("20")).status_code == 400


def test_a_re_rate_is_previewed_and_booked(browser: Browser, world: World) -> None:
    browser.sign_in("manager")
    today = clock.now().date()
    with unit_of_work(world.engine) as session:
        plans.publish(
            session,
            program_id=world.program.id,
            document=json.loads(document("11")),
            effective_from=clock.now() - timedelta(days=100),
            actor="usr_1",
            now=clock.now(),
        )
    base = f"/programs/{world.program.id}/rerates"
    facts: dict[str, Any] = {"from": str(today - timedelta(days=60)), "to": str(today)}
    short = browser.send(base, on=base, reason="typo", **facts)
    assert short.status_code == 400
    assert "Write 10 to 500 characters" in short.text
    started = browser.send(base, on=base, reason="Eleven percent were agreed.", **facts)
    target = started.headers["location"]
    work(world)
    page = browser.open(target).text
    assert "Book it?" in page
    assert "Eleven percent were agreed." in page

    assert browser.send(target, on=target, decision="confirm").status_code == 303
    work(world)

    assert "Orders rated again" in browser.open(target).text
    with Session(world.engine) as session:
        booked = session.exec(select(Booking.kind).where(Booking.kind == "rerate")).all()
    assert len(booked) == 3
    browser.client.cookies.clear()
    browser.sign_in("advertiser")
    assert browser.open(base).status_code == 403


@pytest.mark.parametrize("role", ["publisher", "advertiser"])
def test_plans_are_for_those_who_make_them(browser: Browser, world: World, role: str) -> None:
    browser.sign_in(role)

    assert browser.open(path(world)).status_code == (403 if role == "publisher" else 200)
    assert browser.open("/terms").status_code == (200 if role == "publisher" else 403)
