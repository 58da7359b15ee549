from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import Session, select

from commissions import accruals, statements
from commissions.models import Commission
from commissions.statements import Filters
from kernel.database import unit_of_work
from kernel.errors import InvalidInput, NotFound
from network.access import Actor
from network.models import Program, Publisher, Role
from tests import make
from tests.make import NOW
from tracker.models import ChangeKind, Conversion

MANAGER = Actor("usr_m", Role.MANAGER, "", "Manager")


@dataclass
class World:
    program: Program
    mine: Publisher
    theirs: Publisher
    sales: list[Conversion]

    @property
    def publisher(self) -> Actor:
        return Actor("usr_p", Role.PUBLISHER, self.mine.id, "Publisher")

    @property
    def advertiser(self) -> Actor:
        return Actor("usr_a", Role.ADVERTISER, self.program.advertiser_id, "Advertiser")


def _world(session: Session, **facts: Any) -> World:
    """My sale, their sale, nobody's sale, mine again (held); one sale elsewhere."""
    program, elsewhere = make.program(session, **facts), make.program(session)
    mine, theirs = make.publisher(session), make.publisher(session)
    make.plan(session, program)
    sales = [
        make.conversion(session, program, mine),
        make.conversion(session, program, theirs),
        make.conversion(session, program, None),
        make.conversion(session, program, mine, event="lead", occurred_at=NOW + timedelta(days=1)),
        make.conversion(session, elsewhere, theirs),
    ]
    for at, sale in enumerate(sales):
        hold = "fraud_suspected" if at == 3 else None
        accruals.accrue(session, sale.id, hold_reason=hold, now=NOW)
    return World(program, mine, theirs, sales)


def _seen(session: Session, actor: Actor, **filters: Any) -> list[str]:
    found = statements.page(session, actor, filters=Filters(**filters), limit=100)
    return [line.conversion.id for line in found]


def test_each_party_sees_its_own_and_nothing_else(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        world = _world(session)
        ids = [sale.id for sale in world.sales]

        assert _seen(session, MANAGER) == ids
        assert _seen(session, world.advertiser) == ids[:4]
        assert _seen(session, world.publisher) == [ids[0], ids[3]]
        stranger = Actor("usr_x", Role.PUBLISHER, "pub_other", "Stranger")
        assert _seen(session, stranger) == []
        assert _seen(session, world.publisher, publisher_id=world.theirs.id) == []
        for hidden in (ids[1], ids[2], ids[4]):
            with pytest.raises(NotFound):
                statements.get(session, world.publisher, hidden)


def test_filters_narrow_and_cursors_go_on(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        world = _world(session)
        ids = [sale.id for sale in world.sales]

        assert _seen(session, MANAGER, program_id=world.program.id) == ids[:4]
        assert _seen(session, MANAGER, publisher_id=world.mine.id) == [ids[0], ids[3]]
        assert _seen(session, MANAGER, order_id=world.sales[1].order_id) == [ids[1]]
        assert _seen(session, MANAGER, event="lead") == [ids[3]]
        assert _seen(session, MANAGER, status="held") == [ids[3]]
        assert _seen(session, MANAGER, status="unattributed") == [ids[2]]
        assert _seen(session, MANAGER, status="recorded") == []
        later = NOW + timedelta(days=1)
        assert _seen(session, MANAGER, occurred_from=later) == [ids[3]]
        assert _seen(session, MANAGER, occurred_to=later) == [*ids[:3], ids[4]]
        first = statements.page(session, MANAGER, filters=Filters(), limit=2)
        after = first[-1].conversion.seq or 0
        rest = statements.page(session, MANAGER, filters=Filters(), after_seq=after, limit=9)
        assert [line.conversion.id for line in (*first, *rest)] == ids
        newest = statements.newest(session, MANAGER, filters=Filters(), limit=2)
        assert [line.conversion.id for line in newest] == [ids[4], ids[3]]
        with pytest.raises(InvalidInput, match="limit"):
            statements.page(session, MANAGER, filters=Filters(), limit=1001)


def test_a_line_says_status_reason_and_refunds(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        world = _world(session)
        make.change(session, world.sales[0], ChangeKind.REFUND, amount_minor=4000)
        make.change(session, world.sales[0], ChangeKind.REFUND, amount_minor=1000)
        accruals.apply_changes(session, world.sales[0].id, now=NOW)
        commission_id = session.exec(
            select(Commission.id).where(Commission.conversion_id == world.sales[0].id)
        ).one()

        line = statements.get(session, world.publisher, commission_id)
        held = statements.get(session, world.publisher, world.sales[3].id)
        nobody = statements.get(session, MANAGER, world.sales[2].id)

        assert (line.status, line.reason, line.refunded_minor) == (
            "pending",
            "partly_refunded",
            5000,
        )
        assert line.commission is not None
        assert line.commission.amount_minor == 500
        assert (held.status, held.reason) == ("held", "fraud_suspected")
        assert (nobody.status, nobody.reason, nobody.commission) == (
            "unattributed",
            "no_click",
            None,
        )


def test_a_masked_program_shows_publishers_no_order_id_and_confirms_no_guess(
    sqlite_engine: Engine,
) -> None:
    with unit_of_work(sqlite_engine) as session:
        world = _world(session, masks_order_ids=True)
        sale = world.sales[0]

        line = statements.get(session, world.publisher, sale.id)
        masked = line.conversion.order_id

        assert masked == sale.id[:16]
        assert statements.get(session, world.advertiser, sale.id).conversion.order_id == (
            sale.order_id
        )
        assert _seen(session, world.publisher, order_id=sale.order_id) == []
        assert _seen(session, world.publisher, order_id=masked) == [sale.id]
        assert sale.order_id != masked
        session.refresh(sale)
        assert sale.order_id.startswith("order-")
