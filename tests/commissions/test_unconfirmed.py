from datetime import timedelta

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import Session, select

from commissions import accruals, explanations
from commissions.explanations import words
from commissions.models import Commission
from network.access import Actor
from network.models import Role, TagOrders
from tests import make
from tests.make import NOW
from tracker.models import Arrival, ChangeKind

MANAGER = Actor(id="usr_1", role=Role.MANAGER, party_id="", name="Manager")
WAITING = "Only a browser reported the order: the advertiser has to approve it."
LOCKED = NOW + timedelta(days=31)


def _statuses(session: Session) -> dict[str, str]:
    return {row.conversion_id: row.status for row in session.exec(select(Commission))}


@pytest.mark.parametrize(
    ("channel", "result", "status"),
    [
        ("postback", "duplicate", "payable"),
        ("api", "duplicate", "payable"),
        ("postback", "conflict", "pending"),
        ("tag", "duplicate", "pending"),
        ("pixel", "duplicate", "pending"),
    ],
)
def test_a_server_that_says_the_same_confirms_it(
    sqlite_engine: Engine, channel: str, result: str, status: str
) -> None:
    with Session(sqlite_engine) as session:
        program = make.program(session, tag_orders=TagOrders.PENDING)
        who = make.publisher(session, member_of=program)
        make.plan(session, program)
        told = make.conversion(session, program, who, channel="tag")
        accruals.accrue(session, told.id, hold_reason=None, now=NOW)
        session.add(
            Arrival(
                conversion_id=told.id,
                channel=channel,
                result=result,
                content_hash=told.content_hash,
                at=NOW,
                last_at=NOW,
            )
        )
        accruals.sweep(session, now=LOCKED, rows_max=10)
        assert _statuses(session) == {told.id: status}


@pytest.mark.parametrize(
    ("tag_orders", "status"),
    [
        (TagOrders.PENDING, "pending"),
        (TagOrders.REFUSED, "pending"),
        (TagOrders.ACCEPTED, "payable"),
    ],
)
def test_no_date_approves_what_only_a_browser_said(
    engine: Engine, tag_orders: TagOrders, status: str
) -> None:
    with Session(engine) as session:
        program = make.program(session, tag_orders=tag_orders)
        who = make.publisher(session, member_of=program)
        make.plan(session, program)
        told = make.conversion(session, program, who, channel="tag")
        reported = make.conversion(session, program, who)
        for one in (told, reported):
            accruals.accrue(session, one.id, hold_reason=None, now=NOW)

        while accruals.sweep(session, now=LOCKED, rows_max=1):
            pass
        assert _statuses(session) == {told.id: status, reported.id: "payable"}
        waits = status == "pending"
        said = explanations.explain(session, MANAGER, told.id)
        assert said.commission is not None
        assert said.commission["waits_for_approval"] == waits
        assert (words(said, "en")[-1] == WAITING) == waits
        assert words(said, "zh-Hans")[-1].startswith("该订单仅由浏览器上报") == waits

        # A person's word is what it waits for.
        approval = make.change(session, told, ChangeKind.APPROVE, received_at=LOCKED)
        accruals.apply_changes(session, approval.conversion_id, now=LOCKED)
        while accruals.sweep(session, now=LOCKED, rows_max=1):
            pass
        assert set(_statuses(session).values()) == {"payable"}
