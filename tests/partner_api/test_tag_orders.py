from sqlmodel import Session, select

from kernel.audit import AuditEntry
from network.models import Program, TagOrders
from tests.partner_api.world import Api, World


def in_force(api: Api, program_id: str) -> str:
    with Session(api.context.engine) as session:
        return session.exec(select(Program.tag_orders).where(Program.id == program_id)).one()


def test_an_advertiser_decides_for_its_own_program(api: Api, world: World) -> None:
    own, other = world.programs
    path = f"/v1/programs/{own.code}/tag-orders"
    caller = api.as_(world.advertisers[0])
    assert in_force(api, own.id) == TagOrders.REFUSED

    for mode in ("pending", "pending", "accepted", "refused"):
        answer = api.http.put(path, json={"tag_orders": mode}, headers=caller)
        assert answer.json() == {"program_id": own.id, "tag_orders": mode}
        assert in_force(api, own.id) == mode
    with Session(api.context.engine) as session:
        entries = session.exec(
            select(AuditEntry).where(AuditEntry.action == "program.tag_orders")
        ).all()
    assert [entry.subject_id for entry in entries] == [own.id] * 3

    for side, program, status in (
        (world.advertisers[0], other, 404),
        (world.publishers[0], own, 403),
    ):
        answer = api.http.put(
            f"/v1/programs/{program.id}/tag-orders",
            json={"tag_orders": "accepted"},
            headers=api.as_(side),
        )
        assert answer.status_code == status
    wrong = api.http.put(path, json={"tag_orders": "yes"}, headers=caller)
    assert (wrong.status_code, wrong.json()["errors"][0]["field"]) == (400, "tag_orders")
    assert {in_force(api, own.id), in_force(api, other.id)} == {TagOrders.REFUSED}
