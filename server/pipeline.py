"""What follows what, in one table. Siblings meet here and nowhere else.

Every handler takes (session, rows, now), runs inside the transaction of the outbox rows, and
tolerates a second delivery. All kinds that book end in `book`, so that rows of those kinds are
worked together and booked in the order in which they came.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime

from sqlmodel import Session

from commissions import accruals, conversion_rates, fx_rates, statements
from commissions.accruals import Task
from commissions.reasons import Reason
from fraud import assessments, flags
from kernel.keys import Keys
from kernel.outbox import FollowUp, Handler
from tracker import attribution, coupons, restatements
from tracker.attribution import MATCHED
from tracker.changes import CHANGED
from tracker.conversions import RECORDED
from tracker.customers import MATCHABLE, customer_keys
from tracker.node import click_id_signer

ACTOR = "pipeline"
_ORDERS = (RECORDED, MATCHED)
_COUNTED = (RECORDED, MATCHED, CHANGED)


def handlers(keys: Keys) -> Mapping[str, Sequence[Handler]]:
    """The pipeline of an installation."""
    signer, customers = click_id_signer(keys), customer_keys(keys)

    def attribute(session: Session, rows: Sequence[FollowUp], now: datetime) -> None:
        def decide(ids: Sequence[str]) -> None:
            attribution.attribute_many(session, ids, signer=signer, keys=customers, now=now)

        restatements.attribute(session, _ids(rows), by=decide, now=now)

    def match(session: Session, rows: Sequence[FollowUp], now: datetime) -> None:
        for one in _ids(rows):
            # The owner of a plan's exclusive coupon is paid for an order that nobody brought; what
            # is booked is never moved to somebody else.
            if not statements.has_commission(session, one):
                attribution.match(session, one, signer=signer, keys=customers, now=now)

    return {
        RECORDED: (attribute, assess, book),
        MATCHABLE: (match,),
        MATCHED: (assess, book),
        CHANGED: (book,),
        conversion_rates.RATABLE: (book,),
        fx_rates.PUBLISHED: (try_rates,),
        coupons.ADDED: (announce,),
        "flag.cleared": (book,),
        "flag.confirmed": (book,),
    }


def assess(session: Session, rows: Sequence[FollowUp], now: datetime) -> None:
    """Score the conversions; opens a flag for each that must wait for a person."""
    assessments.assess_many(session, _ids(rows), now=now)


def announce(session: Session, rows: Sequence[FollowUp], now: datetime) -> None:
    """Have the orders tried again that are nobody's and carry a new coupon."""
    for one in _ids(rows):
        coupons.announce(session, one, now=now)


def try_rates(session: Session, rows: Sequence[FollowUp], now: datetime) -> None:
    """Have the orders tried again that wait for an exchange rate and can have one now."""
    for one in _ids(rows):
        conversion_rates.announce(session, one, now=now)


def book(session: Session, rows: Sequence[FollowUp], now: datetime) -> None:
    """Book commissions, what advertisers said about orders later, and what people decided.

    The roll-ups hold the orders as they stand after it, with what they earn.
    """
    held = flags.find_held(session, _ids(row for row in rows if row.kind in _ORDERS))
    tasks = [task for row in rows for task in _tasks(row, held)]
    accruals.book(
        session, tasks, counted=_ids(row for row in rows if row.kind in _COUNTED), now=now
    )


def _tasks(row: FollowUp, held: set[str]) -> Iterator[Task]:
    if row.kind in _ORDERS:
        # Commissions is told to hold, it never asks fraud why.
        reason = Reason.FRAUD_SUSPECTED if row.subject_id in held else ""
        yield Task(accruals.ACCRUE, row.subject_id, reason)
    if row.kind in (CHANGED, MATCHED):
        # Of an order that was nobody's until now, nothing was booked that changed it before.
        yield Task(accruals.CHANGES, row.subject_id)
    if row.kind == conversion_rates.RATABLE:
        yield Task(accruals.RATED, row.subject_id)
    if row.kind == "flag.cleared":
        yield Task(accruals.RELEASE, row.subject_id, actor=ACTOR)
    if row.kind == "flag.confirmed":
        yield Task(accruals.VOID, row.subject_id, Reason.FRAUD_CONFIRMED, ACTOR)


def _ids(rows: Iterable[FollowUp]) -> list[str]:
    return list(dict.fromkeys(row.subject_id for row in rows))
