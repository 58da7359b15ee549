"""Reported orders become conversions, changes of conversions or refusals, when they are shipped.

One report after the other, in the order of the journal, each judged as intake judges it
(`tracker.repeats`) against what is recorded by then.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

import msgspec
from sqlmodel import Session, col, select

from kernel import outbox
from network.models import Program
from tracker import arrivals, changes, conversions
from tracker.conversions import RECORDED, Place
from tracker.events import ChangeReported, Order, OrderKey, OrderReported
from tracker.models import ChangeKind
from tracker.refusals import refuse
from tracker.repeats import (
    ADD,
    EDIT,
    Earlier,
    Judgement,
    Result,
    is_browsers,
    judge,
    over_browsers,
    takes_place,
)

# An order reported as taken back from the beginning is recorded, and then taken back.
_TAKEN_BACK: Final = frozenset({"cancelled", "refunded"})


@dataclass(slots=True)
class Recorded:
    """What became of reported orders: new rows, repeats that were one already, refusals."""

    added: int = 0
    repeated: int = 0
    refused: int = 0
    ids: set[str] = field(default_factory=set)


_Step = OrderReported | ChangeReported
"""What is to be followed up: a conversion that was added, a change that is to be booked."""


@dataclass(slots=True)
class _Recording:
    """The orders of one batch, while they are judged."""

    session: Session
    now: datetime
    known: dict[OrderKey, list[Earlier]]
    outcome: Recorded = field(default_factory=Recorded)
    rows: list[tuple[OrderReported, Place]] = field(default_factory=list)
    steps: list[_Step] = field(default_factory=list)
    arrived: list[dict[str, object]] = field(default_factory=list)
    _orders: dict[str, Order] = field(default_factory=dict)

    def take(self, report: OrderReported) -> None:
        """Judge the next report and note what follows from it."""
        earlier = self.known.setdefault(report.key, [])
        report = over_browsers(report, earlier)
        judgement = judge(report, earlier, self._order_of)
        of = judgement.of
        if judgement.result is Result.ACCEPTED:
            self._add(report, earlier, of)
            return
        if of is None:
            return
        self.arrived.append(arrivals.row_of(report, of.conversion_id, judgement.result))
        if judgement.result is Result.CONFLICT:
            self._refuse(report, judgement)
        elif judgement.result is Result.STATUS:
            self.steps.append(changes.of_status(report, of.conversion_id))
        else:
            self.outcome.repeated += 1

    def _order_of(self, earlier: Earlier) -> Order:
        order = self._orders.get(earlier.conversion_id)
        if order is None:
            conversion = conversions.get(self.session, earlier.conversion_id)
            order = conversions.reported_order(self.session, conversion)
            self._orders[earlier.conversion_id] = order
        return order

    def _add(self, report: OrderReported, earlier: list[Earlier], of: Earlier | None) -> None:
        place = Place()
        is_late = False
        if of is not None:
            standing = [one for one in earlier if one.standing]
            if report.mode == EDIT:
                is_late = not all(takes_place(report, one) for one in standing)
            # The order occurred once, however its later reports are dated.
            shares_time = report.mode in {ADD, EDIT} and not of.by_browser
            place = Place(
                number=earlier[-1].number + 1,
                relation=report.mode,
                related_id=of.conversion_id,
                occurred_at=self._occurred_at(earlier[0]) if shares_time else None,
            )
            if report.mode == EDIT and not is_late:
                for one in standing:
                    self._end(report, earlier, one)
        added = Earlier(
            conversion_id=report.conversion_id,
            content_hash=report.content_hash,
            number=place.number,
            received_at=report.received_at,
            by_browser=is_browsers(report),
        )
        earlier.append(added)
        self._orders[report.conversion_id] = report.order
        self.rows.append((report, place))
        self.steps.append(report)
        self.arrived.append(arrivals.row_of(report, report.conversion_id, Result.ACCEPTED))
        if is_late:
            self._end(report, earlier, added)
        elif report.order.status in _TAKEN_BACK:
            self.steps.append(changes.of_status(report, report.conversion_id))
        self.outcome.added += 1
        self.outcome.ids.add(report.conversion_id)

    def _occurred_at(self, first: Earlier) -> datetime:
        for report, place in self.rows:
            if report.conversion_id == first.conversion_id:
                return place.occurred_at or report.order.occurred_at or report.received_at
        return conversions.get(self.session, first.conversion_id).occurred_at

    def _end(self, report: OrderReported, earlier: list[Earlier], one: Earlier) -> None:
        """Note that the place of a conversion is taken."""
        self.steps.append(changes.of_restatement(report, one.conversion_id))
        earlier[earlier.index(one)] = replace(one, standing=False)

    def _refuse(self, report: OrderReported, judgement: Judgement) -> None:
        if judgement.of is None:
            return
        error = conversions.conflict(
            self._order_of(judgement.of),
            report.order,
            conversion_id=judgement.of.conversion_id,
        )
        self.refuse(report, error.code, error.message)

    def refuse(self, report: OrderReported, code: str, detail: str) -> None:
        """List the report for its advertiser instead of recording it."""
        refuse(
            self.session,
            program_id=report.program_id,
            order_id=report.order.order_id,
            code=code,
            detail=detail,
            payload=conversions.facts(report),
            now=self.now,
        )
        self.outcome.refused += 1

    def finish(self) -> Recorded:
        """Write down what was noted: rows first, then what follows from them, in its order."""
        conversions.insert(self.session, self.rows)
        arrivals.record(self.session, self.arrived)
        for step in self.steps:
            if isinstance(step, OrderReported):
                outbox.append(
                    self.session,
                    RECORDED,
                    step.conversion_id,
                    lane=step.program_id,
                    now=self.now,
                )
            else:
                self._change(step)
        return self.outcome

    def _change(self, change: ChangeReported) -> None:
        if change.kind == ChangeKind.REFUND:
            left_minor = changes.remaining_minor(self.session, change.conversion_id)
            if left_minor <= 0:
                self.outcome.repeated += 1
                return
            change = msgspec.structs.replace(change, amount_minor=left_minor)
        booked = changes.record(self.session, [change], now=self.now)
        self.outcome.repeated += booked.repeated
        self.outcome.refused += booked.refused


def record(session: Session, reports: Sequence[OrderReported], *, now: datetime) -> Recorded:
    """Add the conversions that are new, each with its follow-up, in the order of the reports.

    A report equal to a recorded one changes nothing; one that differs in its status alone becomes
    a change; one that contradicts does what its mode says. What may not be, or names a program
    that does not exist, becomes an IntakeRefusal.
    """
    recording = _Recording(
        session, now, conversions.known(session, {report.key for report in reports})
    )
    programs = _existing_programs(session, reports)
    for report in reports:
        if report.program_id not in programs:
            recording.refuse(report, "unknown_program", "no such program")
        else:
            recording.take(report)
    return recording.finish()


def _existing_programs(session: Session, reports: Sequence[OrderReported]) -> set[str]:
    named = {report.program_id for report in reports}
    return set(session.exec(select(Program.id).where(col(Program.id).in_(named))))
