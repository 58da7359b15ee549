"""Restated, added and test orders through the whole pipeline, to what is booked."""

from collections.abc import Sequence
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
from tracker import conversions, orders, recording, restatements
from tracker.attribution import NotAttributed
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


def _orders(session: Session, *relations: tuple[str, str]) -> list[str]:
    """Conversions `a`, `b`, ... of one order; each (relation, related) names what it goes on from.

    None of them is attributed yet.
    """
    program = make.program(session)
    make.publisher(session, member_of=program, id="pub_1")
    ids = []
    for number, (relation, related) in enumerate(relations):
        name = "abcdefgh"[number]
        make.conversion(
            session,
            program,
            id=name,
            order_id="1" if relation else name,
            number=number + 1,
            relation=relation,
            related_id=related or None,
            decided=False,
        )
        ids.append(name)
    return ids


class _Deciding:
    """Decides what it is asked for, in favour of one publisher, and remembers the questions."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.asked: list[list[str]] = []

    def __call__(self, ids: Sequence[str]) -> None:
        self.asked.append(list(ids))
        for one in ids:
            self.session.add(
                Attribution(
                    conversion_id=one,
                    publisher_id="pub_1",
                    source="click",
                    reason="last_click",
                    decided_at=make.NOW,
                )
            )
        self.session.flush()


def test_attribution_keeps_the_order_in_which_conversions_come(engine: Engine) -> None:
    """Who brought one may be carried over to those after it, also to one that inherits."""
    with unit_of_work(engine) as session:
        ids = _orders(session, ("", ""), ("", ""), ("edit", "a"), ("", ""), ("add", "c"), ("", ""))
        decide = _Deciding(session)

        restatements.attribute(session, ids, by=decide, now=make.NOW)
        before = len(session.exec(select(Attribution)).all())
        restatements.attribute(session, ["c", "e"], by=decide, now=make.NOW)

        # What inherits is asked of nobody, and stands between the others where it came.
        assert decide.asked == [["a", "b"], ["d"], ["f"]]
        found = {one.conversion_id: one.publisher_id for one in session.exec(select(Attribution))}
        assert found == dict.fromkeys(ids, "pub_1")
        assert before == len(found)


def test_what_goes_on_from_something_undecided_waits_and_what_came_before_is_kept(
    engine: Engine,
) -> None:
    with unit_of_work(engine) as session:
        first, second, third = _orders(session, ("", ""), ("", ""), ("edit", "a"))
        decide = _Deciding(session)

        with pytest.raises(NotAttributed):
            restatements.attribute(session, [second, third, first], by=decide, now=make.NOW)

        # Asked in the order that was given: `a` comes after what goes on from it.
        assert decide.asked == [[second]]
        assert session.get(Attribution, third) is None


def test_a_restatement_of_nobody_s_order_is_decided_in_its_place(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        ids = _orders(session, ("", ""), ("edit", "a"), ("", ""))
        session.add(
            Attribution(conversion_id="a", source="none", reason="no_click", decided_at=make.NOW)
        )
        session.flush()
        decide = _Deciding(session)

        restatements.attribute(session, ids[1:], by=decide, now=make.NOW)

        assert decide.asked == [["b"], ["c"]]
