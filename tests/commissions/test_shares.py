"""Orders that several publishers share: what each is paid, may see, and keeps after a refund."""

import json
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from commissions import accruals, earnings, explanations, payouts, shares, statements
from commissions.checks import check
from commissions.models import Booking, Commission, CommissionStatus
from commissions.reasons import Reason
from commissions.statements import Filters
from kernel.database import unit_of_work
from kernel.errors import NotFound
from network.access import Actor
from network.models import Program, Publisher, Role
from tests import make
from tests.commissions.test_vectors import DOCUMENT
from tests.make import NOW
from tracker.models import ChangeKind, Conversion
from tracker.rollup_models import RollupDay

MANAGER = Actor(id="usr_m", role=Role.MANAGER, party_id="", name="M")


def actor_of(publisher: Publisher) -> Actor:
    return Actor(id="usr_p", role=Role.PUBLISHER, party_id=publisher.id, name="P")


class Shared:
    """A sale of 10.01 that A shares with B and C by 3 : 2 : 2, and that counts for B."""

    def __init__(self, session: Session, **facts: Any) -> None:
        self.session = session
        self.program: Program = make.program(session)
        make.plan(session, self.program, **facts.pop("plan", {}))
        self.a, self.b, self.c = (make.publisher(session) for _ in range(3))
        self.sale = self.sell(amount_minor=1_001, **facts)

    def sell(self, **facts: Any) -> Conversion:
        parts = [(self.a, 2, 7), (self.b, 3, 7), (self.c, 2, 7)]
        return make.conversion(self.session, self.program, self.b, shares=parts, **facts)

    def amounts(self, sale: Conversion | None = None) -> dict[str, int]:
        query = select(Commission).where(Commission.conversion_id == (sale or self.sale).id)
        names = {self.a.id: "a", self.b.id: "b", self.c.id: "c"}
        rows = self.session.exec(query.execution_options(populate_existing=True))
        return {names[one.publisher_id]: one.amount_minor for one in rows}

    def of(self, publisher: Publisher) -> Commission:
        query = select(Commission).where(
            Commission.conversion_id == self.sale.id, Commission.publisher_id == publisher.id
        )
        return self.session.exec(query.execution_options(populate_existing=True)).one()

    def accrue(self, **facts: Any) -> None:
        accruals.accrue(self.session, self.sale.id, hold_reason=facts.get("held"), now=NOW)

    def change(self, kind: ChangeKind, **facts: Any) -> None:
        make.change(self.session, self.sale, kind, **facts)
        accruals.apply_changes(self.session, self.sale.id, now=NOW)


def test_each_publisher_is_paid_its_part_by_largest_remainder(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        shared = Shared(session)
        shared.accrue()
        shared.accrue()

        # 10.01 at 10 % is 1.00, and 100 by 2 : 3 : 2 is 28.57, 42.86 and 28.57.
        assert shared.amounts() == {"a": 29, "b": 43, "c": 28}
        assert list(check(session)) == []


def test_a_refund_reduces_the_shares_and_names_nobody_else(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        shared = Shared(session)
        shared.accrue()
        shared.change(ChangeKind.REFUND, amount_minor=500)

        # 5.01 leaves 0.50: 14.29, 21.43 and 14.29.
        assert shared.amounts() == {"a": 14, "b": 22, "c": 14}
        deltas = session.exec(
            select(Booking.part, Booking.delta_minor)
            .where(Booking.kind == "refund")
            .order_by(col(Booking.part))
        ).all()
        assert list(deltas) == [(0, -21), (1, -15), (2, -14)]
        shared.change(ChangeKind.CANCEL)
        assert shared.amounts() == {"a": 0, "b": 0, "c": 0}
        assert shared.of(shared.a).status == CommissionStatus.REVERSED
        assert list(check(session)) == []


def test_the_order_counts_once_towards_tiers_of_the_publisher_it_counts_for(
    engine: Engine,
) -> None:
    levels = [{"from": 1, "percent": "10"}, {"from": 2, "percent": "20"}]
    rule = {
        "id": "volume",
        "tiers": {
            "mode": "volume",
            "measure": "count",
            "window": "calendar_month",
            "levels": levels,
        },
    }
    with unit_of_work(engine) as session:
        shared = _with_rule(session, rule)
        shared.accrue()
        of_a = make.conversion(session, shared.program, shared.a)
        accruals.accrue(session, of_a.id, hold_reason=None, now=NOW)
        assert shared.amounts() == {"a": 29, "b": 43, "c": 28}

        of_b = make.conversion(session, shared.program, shared.b)
        accruals.accrue(session, of_b.id, hold_reason=None, now=NOW)

        # B's second order lifts what the three of them get for its first: 2.00 by 2 : 3 : 2.
        assert shared.amounts() == {"a": 57, "b": 86, "c": 57}
        assert list(check(session)) == []


def _with_rule(session: Session, rule: dict[str, Any]) -> Shared:
    shared = Shared(session)
    make.plan(session, shared.program, rule, effective_from=NOW - timedelta(days=300))
    return shared


def test_hold_release_and_void_move_every_part(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        shared = Shared(session)
        shared.accrue(held=Reason.FRAUD_SUSPECTED)
        parts = [shared.of(one) for one in (shared.a, shared.b, shared.c)]
        assert {(one.status, one.reason) for one in parts} == {("held", "fraud_suspected")}

        accruals.release(session, shared.sale.id, actor="usr_m", now=NOW)
        assert {shared.of(one).status for one in (shared.a, shared.b, shared.c)} == {"pending"}
        assert shared.amounts() == {"a": 29, "b": 43, "c": 28}

        accruals.void(session, shared.sale.id, reason="fraud_confirmed", actor="usr_m", now=NOW)
        assert {shared.of(one).status for one in (shared.a, shared.b, shared.c)} == {"declined"}
        assert shared.amounts() == {"a": 0, "b": 0, "c": 0}
        assert list(check(session)) == []


def test_payouts_claim_each_part_for_its_publisher(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        shared = Shared(session)
        shared.accrue()
        late = NOW + timedelta(days=40)
        # One at a time, so that a sweep may end between the parts of an order.
        while accruals.sweep(session, now=late, rows_max=1):
            pass
        run = payouts.propose(session, actor="usr_1", now=late, minimum_minor=29)
        assert {one.amount_minor for one in payouts.payouts_of(session, run.id)} == {29, 43}
        assert shared.of(shared.c).claimed_minor == 0
        payouts.approve(session, run.id, actor="usr_2", now=late)
        payouts.export_csv(session, run.id, actor="usr_2", now=late)
        payouts.settle(session, run.id, reference="bank", actor="usr_2", now=late)
        assert [shared.of(one).status for one in (shared.a, shared.b, shared.c)] == [
            "paid",
            "paid",
            "payable",
        ]
        assert list(check(session)) == []

        # What was paid is set off; what was not is gone.
        shared.change(ChangeKind.CANCEL)
        assert shared.of(shared.a).claimed_minor == 29
        again = payouts.propose(session, actor="usr_1", now=late)
        assert {(one["amount_minor"], one["reason"]) for one in again.skipped} == {
            (-29, "not_positive"),
            (-43, "not_positive"),
        }
        assert list(check(session)) == []


def test_a_run_that_is_called_off_frees_its_own_claims_only(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        shared = Shared(session)
        shared.accrue()
        late = NOW + timedelta(days=40)
        accruals.sweep(session, now=late, rows_max=10)
        first = payouts.propose(session, actor="usr_1", now=late, minimum_minor=40)
        second = payouts.propose(session, actor="usr_1", now=late)
        payouts.cancel(session, first.id, actor="usr_1", note="too early", now=late)

        claimed = [shared.of(one).claimed_minor for one in (shared.a, shared.b, shared.c)]
        assert claimed == [29, 0, 28]
        assert second.status == "draft"
        assert list(check(session)) == []


def test_a_publisher_sees_its_part_and_nothing_of_the_others(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        shared = Shared(session)
        shared.accrue()
        stranger = make.publisher(session)

        [line] = statements.page(session, actor_of(shared.a), filters=Filters(), limit=10)
        assert (line.commission_minor, line.is_shared, line.parts) == (29, True, ())
        with pytest.raises(NotFound):
            statements.get(session, actor_of(stranger), shared.sale.id)
        with pytest.raises(NotFound):
            statements.get(session, actor_of(shared.a), shared.of(shared.b).id)
        told = explanations.explain(session, actor_of(shared.a), shared.sale.id)
        assert told.commission is not None
        assert (told.commission["share"], told.commission["parts"]) == ("2/7", [])
        [booked] = told.bookings
        assert (booked["delta_minor"], booked["payees"]) == (29, {shared.a.id: 29})
        assert booked["lines"][0]["rule_id"] == "all"
        text = json.dumps([told.bookings, told.commission, told.attribution, told.steps])
        assert shared.b.id not in text
        assert shared.c.id not in text
        words = explanations.words(told, "en")
        assert "Several publishers share the order; this share is 2/7 of its commission." in words
        [row] = earnings.by_status(session, actor_of(shared.a), filters=Filters())
        assert (row.conversions, row.sales_minor, row.commission_minor) == (1, 1_001, 29)


def test_who_sees_all_parts_sees_one_order(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        shared = Shared(session)
        shared.accrue()
        owner = Actor(
            id="usr_s", role=Role.ADVERTISER, party_id=shared.program.advertiser_id, name="S"
        )
        for who in (MANAGER, owner):
            [line] = statements.page(session, who, filters=Filters(), limit=10)
            assert [one.amount_minor for one in line.parts] == [29, 43, 28]
            assert line.commission_minor == 100
            [row] = earnings.by_status(session, who, filters=Filters())
            assert (row.conversions, row.sales_minor, row.commission_minor) == (1, 1_001, 100)
        told = explanations.explain(session, MANAGER, shared.sale.id)
        assert told.commission is not None
        assert told.commission["amount_minor"] == 100
        assert [one["amount_minor"] for one in told.commission["parts"]] == [29, 43, 28]
        assert [one["delta_minor"] for one in told.bookings] == [100]
        only_c = Filters(publisher_id=shared.c.id)
        [line] = statements.page(session, MANAGER, filters=only_c, limit=10)
        assert line.commission_minor == 28
        assert statements.get(session, MANAGER, shared.of(shared.a).id).commission_minor == 29


def test_reports_give_each_publisher_its_commission_and_count_the_order_once(
    engine: Engine,
) -> None:
    with unit_of_work(engine) as session:
        shared = Shared(session)
        shared.accrue()
        assert _reported(session, shared) == {"a": (0, 29), "b": (1, 43), "c": (0, 28)}
        shared.change(ChangeKind.REFUND, amount_minor=500)
        assert _reported(session, shared) == {"a": (0, 14), "b": (1, 22), "c": (0, 14)}
        shared.change(ChangeKind.CANCEL)
        assert _reported(session, shared) == {"b": (1, 0)}


def _reported(session: Session, shared: Shared) -> dict[str, tuple[int, int]]:
    names = {shared.a.number: "a", shared.b.number: "b", shared.c.number: "c"}
    rows = session.execute(
        sa.select(
            col(RollupDay.publisher_number),
            sa.func.sum(col(RollupDay.conversions)),
            sa.func.sum(col(RollupDay.commission_minor)),
        )
        .where(col(RollupDay.dimension) == "device")
        .group_by(col(RollupDay.publisher_number))
    )
    found = {names[number]: (int(count), int(minor)) for number, count, minor in rows}
    return {name: figures for name, figures in found.items() if any(figures)}


def test_a_share_that_rounds_to_nothing_says_so(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        shared = Shared(session)
        shared.sale = shared.sell(amount_minor=10)
        shared.accrue()

        assert shared.amounts() == {"a": 0, "b": 1, "c": 0}
        assert shared.of(shared.a).reason == Reason.SHARE_TOO_SMALL
        assert shared.of(shared.b).reason == ""
        assert list(check(session)) == []


SHARING = [
    vector
    for vector in DOCUMENT["vectors"]
    if any(event.get("shares") for event in vector["events"])
]


@pytest.mark.skipif(not SHARING, reason="shared commission vectors are not here")
@pytest.mark.parametrize("vector", SHARING, ids=lambda vector: vector["id"])
def test_vectors_with_shares_agree_through_the_database(
    engine: Engine, vector: dict[str, Any]
) -> None:
    with unit_of_work(engine) as session:
        program = make.program(session, currency=vector["program"]["currency"])
        document = {name: one for name, one in vector["program"].items() if name != "currency"}
        make.plan(session, program, *vector["rules"], **document)
        people: dict[str, Publisher] = {}

        def who(name: str) -> Publisher:
            return people.setdefault(name, make.publisher(session))

        found = []
        for event in vector["events"]:
            total = sum(one["weight"] for one in event["shares"])
            sale = make.conversion(
                session,
                program,
                who(event["publisher"]),
                shares=[(who(one["publisher"]), one["weight"], total) for one in event["shares"]],
                amount_minor=sum(line["net_minor"] for line in event["lines"]),
            )
            accruals.accrue(session, sale.id, hold_reason=None, now=NOW)
            found.append(_paid(session, sale.id, people, event["id"]))

        assert found == [one["postings"] for one in vector["expect"]["per_event"]]
        assert list(check(session)) == []


def _paid(
    session: Session, conversion_id: str, people: dict[str, Publisher], name: str
) -> dict[str, int]:
    names = {one.id: name for name, one in people.items()}
    rows = session.exec(select(Commission).where(Commission.conversion_id == conversion_id))
    return {f"{name}>{names[one.publisher_id]}": one.amount_minor for one in rows}


def test_shares_are_weighed_exactly() -> None:
    parts: Sequence[tuple[str, int, int]] = [("a", 1, 3), ("b", 1, 2), ("c", 1, 6)]

    found = shares.weighed(parts)

    assert [(one.publisher, one.weight) for one in found] == [("a", 2), ("b", 3), ("c", 1)]
    assert [str(weight) for _, weight in shares.fractions(found)] == ["1/3", "1/2", "1/6"]
    assert shares.weighed([("a", 1, 1)]) == ()
