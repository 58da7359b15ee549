"""Plans over the API: checked, published with notice, read with their intervals, corrected."""

from datetime import timedelta
from typing import Any

from sqlmodel import Session, select

from commissions import plan_jobs
from commissions.models import Booking, PlanVersion
from kernel import clock
from kernel.clock import to_rfc3339
from tests.partner_api.world import Api, Side, World, plan_document

LOWER = plan_document(rules=[{"id": "all", "pay": {"percent": "4"}}])
HIGHER = plan_document(rules=[{"id": "all", "pay": {"percent": "12"}}])


def post(api: Api, side: Side, path: str, body: Any = None, **headers: str) -> Any:
    return api.http.post(path, json=body or {}, headers={**api.as_(side), **headers})


def base(world: World) -> str:
    return f"/v1/programs/{world.programs[0].id}"


def versions(api: Api) -> int:
    with Session(api.context.engine) as session:
        return len(session.exec(select(PlanVersion)).all())


def test_a_draft_is_checked_and_nothing_is_published(api: Api, world: World) -> None:
    before = versions(api)
    advertiser = world.advertisers[0]
    body = {"document": LOWER, "dry_run": True}

    dry = post(api, advertiser, f"{base(world)}/plans", body)
    checked = post(api, advertiser, f"{base(world)}/plans/check", {"document": LOWER})
    bad = post(
        api,
        advertiser,
        f"{base(world)}/plans/check",
        {"document": {"currency": "EUR", "rules": [*LOWER["rules"], {"id": "b"}]}},
    )

    assert (dry.status_code, checked.status_code, bad.status_code) == (200, 200, 200)
    assert dry.json()["publishable"] is True
    assert checked.json()["changes"] == [
        {
            "verdict": "lowered",
            "before": "all",
            "after": "all",
            "where": {},
            "path": "",
            "reason": "lower_rate",
        }
    ]
    assert checked.json()["replaces"] == 1
    assert bad.json()["publishable"] is False
    assert bad.json()["problems"][0]["field"] == "rules[1].pay"
    assert versions(api) == before


def test_an_advertiser_publishes_with_notice(api: Api, world: World) -> None:
    advertiser, path = world.advertisers[0], f"{base(world)}/plans"
    assert (
        api.http.put(
            f"{base(world)}/plan-notice",
            json={"notice_days": 14},
            headers=api.as_(world.manager),
        ).json()["notice_days"]
        == 14
    )
    before = versions(api)
    refused = post(api, advertiser, path, {"document": LOWER})
    waived = post(
        api, advertiser, path, {"document": LOWER, "notice_waiver": "It must be sooner, alas."}
    )
    past = to_rfc3339(clock.now() - timedelta(days=1))
    too_late = post(api, advertiser, path, {"document": HIGHER, "effective_from": past})

    assert refused.status_code == 422
    assert refused.json()["code"] == "notice_too_short"
    assert refused.json()["lowered"][0]["before"] == "all"
    assert waived.status_code == 403
    assert too_late.json()["errors"][0]["field"] == "effective_from"
    assert versions(api) == before

    later = to_rfc3339(clock.now() + timedelta(days=15))
    body = {"document": LOWER, "effective_from": later}
    scheduled = post(api, advertiser, path, body, **{"Idempotency-Key": "one"})
    repeated = post(api, advertiser, path, body, **{"Idempotency-Key": "one"})
    assert scheduled.status_code == 201
    assert repeated.json() == scheduled.json()
    assert versions(api) == before + 1

    listed = api.get(advertiser, path).json()["data"]
    assert [one["version"] for one in listed] == [2, 1]
    assert (
        listed[1]["effective_to"]
        == listed[0]["effective_from"]
        == scheduled.json()["effective_from"]
    )
    one = api.get(advertiser, f"{path}/2").json()
    assert (one["content_hash"], one["document"]) == (scheduled.json()["content_hash"], LOWER)
    assert api.get(advertiser, f"{path}/9").status_code == 404
    assert api.get(advertiser, f"{path}/x").status_code == 404


def test_a_publisher_reads_what_follows_and_why_notice_was_waived(api: Api, world: World) -> None:
    other = world.publishers[1].id
    rules = [
        {"id": "all", "pay": {"percent": "4"}},
        {"id": "secret", "pay": {"percent": "40"}, "when": {"publisher": [other]}},
    ]
    later = to_rfc3339(clock.now() + timedelta(days=3))
    path = f"{base(world)}/plans"
    for body in (
        {
            "document": LOWER,
            "effective_from": to_rfc3339(clock.now() - timedelta(hours=1)),
            "notice_waiver": "Four percent is what we agreed on.",
        },
        {"document": plan_document(rules=rules), "effective_from": later},
    ):
        assert post(api, world.manager, path, body).status_code == 201

    answer = api.get(world.publishers[0], f"{base(world)}/terms", lang="en")

    terms = answer.json()
    assert (terms["version"], terms["notice_days"], terms["language"]) == (2, 0, "en")
    assert terms["notice_waived"]["reason"] == "Four percent is what we agreed on."
    assert terms["words"] == ["all: 4 % for every order"]
    assert terms["effective_to"] == terms["next"]["effective_from"]
    assert terms["next"]["version"] == 3
    assert "secret" not in answer.text
    assert other not in answer.text
    assert api.get(world.publishers[1], f"{base(world)}/terms").status_code == 404
    assert api.get(world.publishers[0], path).status_code == 403


def test_a_publisher_reads_how_far_the_next_level_is(api: Api, world: World) -> None:
    tiers = {
        "mode": "volume",
        "measure": "count",
        "window": "lifetime",
        "levels": [{"from": 1, "percent": "10"}, {"from": 4, "percent": "15"}],
    }
    document = plan_document(rules=[{"id": "t", "tiers": tiers}])
    assert post(api, world.manager, f"{base(world)}/plans", {"document": document}).is_success
    publisher, path = world.publishers[0], f"{base(world)}/tiers"

    [tier] = api.get(publisher, path, lang="en").json()["data"]

    assert (tier["measured"], tier["missing"]) == ("1", "3")
    assert (tier["level"]["percent"], tier["next_level"]["from"]) == ("10", 4)
    assert "3 more orders to the next level, which pays 15 %." in tier["words"]
    assert api.get(world.manager, path).status_code == 400
    [same] = api.get(world.manager, path, publisher=publisher.code).json()["data"]
    assert same["missing"] == "3"
    assert api.get(publisher, path, publisher=world.publishers[1].code).status_code == 404


def test_a_manager_simulates_and_rates_again(api: Api, world: World) -> None:
    engine, manager = api.context.engine, world.manager
    period = {
        "from": to_rfc3339(clock.now() - timedelta(days=10)),
        "to": to_rfc3339(clock.now()),
    }
    simulation = post(
        api, world.advertisers[0], f"{base(world)}/simulations", {"document": HIGHER, **period}
    )
    assert simulation.status_code == 202
    assert plan_jobs.work(engine, simulation.json()["id"], owner="t", clock=clock.now)
    done = api.get(manager, f"{base(world)}/simulations/{simulation.json()['id']}").json()
    assert (done["status"], done["result"]["all"]["difference_minor"]) == ("done", 246)

    body = {"document": HIGHER, "effective_from": period["from"]}
    assert post(api, manager, f"{base(world)}/plans", body).status_code == 201
    path = f"{base(world)}/rerates"
    assert post(api, world.advertisers[0], path, {}).status_code == 403
    job = post(api, manager, path, {**period, "reason": "It was agreed from March on."}).json()
    early = post(api, manager, f"{path}/{job['id']}/confirm")
    assert (early.status_code, early.json()["code"]) == (409, "not_confirmable")
    assert plan_jobs.work(engine, job["id"], owner="t", clock=clock.now)
    assert api.get(manager, f"{path}/{job['id']}").json()["status"] == "previewed"
    assert post(api, manager, f"{path}/{job['id']}/confirm").status_code == 202
    assert plan_jobs.work(engine, job["id"], owner="t", clock=clock.now)

    [listed] = api.get(manager, path).json()["data"]
    assert (listed["status"], listed["result"]["applied"]["difference_minor"]) == ("done", 246)
    assert listed["from"] == period["from"]
    with Session(engine) as session:
        kinds = session.exec(select(Booking.kind).where(Booking.delta_minor == 246)).all()
    assert kinds == ["rerate"]
    assert api.get(manager, f"{base(world)}/simulations/{job['id']}").status_code == 404
    assert post(api, manager, f"{path}/{job['id']}/dismiss").status_code == 409
