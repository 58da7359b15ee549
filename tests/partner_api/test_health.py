from datetime import datetime

from kernel.database import unit_of_work
from network.models import Program
from tests.partner_api.world import Api, World
from tracker.rollup_models import LinkTarget


def _page(program: Program, publisher_id: str, now: datetime) -> LinkTarget:
    return LinkTarget(
        program_id=program.id,
        url_hash="x",
        url=f"{program.landing_url}gone",
        host="h",
        publisher_id=publisher_id,
        seen_day=1,
        next_check_at=now,
        checked_at=now,
        outcome="gone",
        status=404,
        failures=2,
    )


def test_health_is_of_the_own_party_and_in_the_language_asked_for(api: Api, world: World) -> None:
    now = world.ordered_at
    with unit_of_work(api.context.engine) as session:
        for number, program in enumerate(world.programs):
            session.add(_page(program, world.publishers[number].id, now))

    path = "/v1/health/tracking"
    for number in (0, 1):
        for side in (world.publishers[number], world.advertisers[number]):
            [found] = api.rows(side, path)
            assert found["program"]["code"] == f"shop-{number + 1}"
            assert (found["check"], found["status"]) == ("links", "red")
            assert f"https://shop{number + 1}.example/gone (404)" in found["reason"]
    assert len(api.rows(world.manager, path, limit=1)) == 2
    assert api.rows(world.manager, path, status="green") == []
    assert api.rows(world.manager, path, check="late") == []
    [chinese] = api.rows(world.publishers[0], path, language="zh-Hans")
    assert chinese["reason"].startswith("链接指向的 1 个页面中有 1 个失效")
    assert chinese["numbers"]["broken"] == 1
    assert api.get(world.publishers[0], path, program="shop-2").status_code == 404
    assert api.get(world.manager, path, status="blue").status_code == 400
