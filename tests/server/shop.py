"""A program whose orders run through the whole pipeline, drained."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.engine import Engine
from sqlmodel import col, select

from kernel.database import unit_of_work
from kernel.keys import Keys
from kernel.outbox import Limits, OutboxRow, append, drain
from kernel.settings import Settings
from network.models import Program, Publisher
from server import audit, pipeline
from tests import make
from tracker import coupons, orders, recording
from tracker.changes import CHANGED
from tracker.events import Order, OrderReported
from tracker.node import click_id_signer

NOW = make.NOW
KEYS = Keys(b"a secret of the tests, long enough to be one")
LIMITS = Limits(batch_milliseconds=5_000, attempts_max=3, lease_seconds=60)


class Shop:
    """A program with a plan and a member, whose orders run through the whole pipeline."""

    def __init__(self, engine: Engine) -> None:
        self.engine, self.minutes = engine, 0
        with unit_of_work(engine) as session:
            self.program: Program = make.program(session, hold_score=65)
            self.owner: Publisher = make.publisher(session, member_of=self.program, code="owner")
            make.plan(session, self.program)

    @property
    def now(self) -> datetime:
        return NOW + timedelta(minutes=self.minutes)

    def order(self, order_id: str, **facts: Any) -> str:
        given: dict[str, Any] = {
            "event": "sale",
            "currency": "EUR",
            "amount_minor": 10_000,
            "occurred_at": NOW,
        }
        order = Order(order_id=order_id, **(given | facts))
        report = OrderReported(
            conversion_id=f"cnv_{order_id}",
            program_id=self.program.id,
            content_hash=orders.content_hash(self.program.id, order),
            received_at=NOW,
            channel="api",
            imported=False,
            order=order,
        )
        with unit_of_work(self.engine) as session:
            recording.record(session, [report], now=self.now)
        self.work()
        return report.conversion_id

    def work(self) -> None:
        self.minutes += 1
        drain(
            self.engine,
            pipeline.handlers(KEYS),
            owner="t",
            limits=LIMITS,
            clock=lambda: self.now,
        )
        assert self.rows(OutboxRow, col(OutboxRow.done_at).is_(None)) == []

    def changed(self, conversion_id: str) -> None:
        """Have it booked what the advertiser said about an order since."""
        with unit_of_work(self.engine) as session:
            append(session, CHANGED, conversion_id, lane=self.program.id, now=self.now)
        self.work()

    def rows(self, model: Any, *conditions: Any) -> Sequence[Any]:
        with unit_of_work(self.engine) as session:
            return session.exec(select(model).where(*conditions)).all()

    def coupon(self, **row: Any) -> None:
        with unit_of_work(self.engine) as session:
            coupons.add(
                session,
                [{"publisher": "owner", **row}],
                program_id=self.program.id,
                actor="t",
                now=self.now,
            )
        self.work()

    def click(self, before: timedelta = timedelta(hours=2), *, by: Publisher | None = None) -> str:
        return click_id_signer(KEYS).mint(
            at=NOW - before,
            program_number=self.program.number,
            publisher_number=(by or self.owner).number,
        )


def problems(shop: Shop, settings: Settings) -> list[audit.Finding]:
    # Nothing came through a journal here, so what was shipped cannot equal what is stored.
    return [
        one
        for one in audit.run(shop.engine, settings)
        if one.subject not in ("conversions", "clicks")
    ]
