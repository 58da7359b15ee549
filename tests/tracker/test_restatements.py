"""Restated, added and test orders through the whole pipeline, to what is booked."""

from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import Session, select

from commissions.models import Booking, Commission
from kernel.database import reading, unit_of_work
from kernel.keys import Keys
from kernel.outbox import Limits, OutboxRow, drain
from server import pipeline
from tests import make
from tracker import conversions, orders, recording
from tracker.events import Order, OrderReported
from tracker.models import Attribution, Conversion
from tracker.node import click_id_signer
from tracker.repeats import FURTHER

MASTER = Keys(b"m" * 32)
LIMITS = Limits(batch_milliseconds=10_000, attempts_max=5, lease_seconds=60)


def report(
    program_id: str, mode: str, amount: int, minute: int, click_id: str | None, **more: Any
) -> OrderReported:
    order = Order(
        order_id="1",
        event="sale",
        currency="EUR",
        amount_minor=amount,
        click_id=click_id,
        **more,
    )
    hashed = orders.content_hash(program_id, order)
    return OrderReported(
        conversion_id=conversions.id_of(
            MASTER.derive("conversion-id"),
            program_id=program_id,
            order_id="1",
            event="sale",
            content_hash=hashed if mode in FURTHER else "",
        ),
        program_id=program_id,
        content_hash=hashed,
        received_at=make.NOW + timedelta(minutes=minute),
        channel="postback",
        imported=False,
        order=order,
        mode=mode,
    )


def network(session: Session) -> tuple[str, str]:
    """A program that pays 10 %, and the id of a click on it."""
    program = make.program(session)
    publisher = make.publisher(session, member_of=program)
    make.plan(session, program)
    click_id = click_id_signer(MASTER).mint(
        at=make.NOW - timedelta(hours=1),
        program_number=program.number,
        publisher_number=publisher.number,
    )
    return program.id, click_id


def run(engine: Engine) -> None:
    now = make.NOW + timedelta(hours=1)
    drain(engine, pipeline.handlers(MASTER), owner="t", limits=LIMITS, clock=lambda: now)
    with reading(engine) as session:
        assert [row.last_error for row in session.exec(select(OutboxRow)) if not row.done_at] == []


@pytest.mark.parametrize("together", [True, False], ids=["one_batch", "two_batches"])
def test_a_restated_order_is_booked_as_its_difference(engine: Engine, *, together: bool) -> None:
    with unit_of_work(engine) as session:
        program_id, click_id = network(session)
    first = report(program_id, "edit", 10_000, 1, click_id)
    # The later report does not even name the click.
    second = report(program_id, "edit", 4_000, 2, None)
    for batch in [[first, second]] if together else [[first], [second]]:
        with unit_of_work(engine) as session:
            recording.record(session, batch, now=make.NOW)
        run(engine)
    with reading(engine) as session:
        found = {one.conversion_id: one for one in session.exec(select(Commission))}
        old, new = found[first.conversion_id], found[second.conversion_id]
        assert (old.amount_minor, old.status, old.reason) == (0, "reversed", "restated")
        assert (new.amount_minor, new.status) == (400, "pending")
        assert new.occurred_at == old.occurred_at
        deltas = [one.delta_minor for one in session.exec(select(Booking))]
        assert sum(deltas) == 400
        sources = {one.publisher_id for one in session.exec(select(Attribution))}
        assert len(sources) == 1
        assert None not in sources


def test_additions_inherit_and_new_ones_do_not(engine: Engine) -> None:
    for mode, expected in (("add", [300, 500]), ("new", [500])):
        with unit_of_work(engine) as session:
            program_id, click_id = network(session)
            reports = [
                report(program_id, mode, 5_000, 1, click_id),
                report(program_id, mode, 3_000, 2, None),
            ]
            recording.record(session, reports, now=make.NOW)
        run(engine)
        with reading(engine) as session:
            query = select(Commission).where(Commission.program_id == program_id)
            assert sorted(one.amount_minor for one in session.exec(query)) == expected


def test_tests_are_attributed_for_show_and_never_booked(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program_id, click_id = network(session)
        recording.record(
            session,
            [report(program_id, "refuse", 5_000, 1, click_id, is_test=True)],
            now=make.NOW,
        )
    run(engine)
    with reading(engine) as session:
        assert session.exec(select(Conversion.is_test)).all() == [True]
        assert session.exec(select(Attribution.conversion_id)).all() != []
        assert session.exec(select(Commission)).all() == []
