"""What follows what, in one table. Siblings meet here and nowhere else.

Every handler takes (session, subject_id, now), runs inside the transaction of its outbox row, and
tolerates a second delivery.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime

from sqlmodel import Session

from commissions import accruals
from commissions.reasons import Reason
from fraud import assessments, flags
from kernel.keys import Keys
from kernel.outbox import Handler
from tracker import attribution
from tracker.node import click_id_signer

ACTOR = "pipeline"


def handlers(keys: Keys) -> Mapping[str, Sequence[Handler]]:
    """The pipeline of an installation."""
    signer = click_id_signer(keys)

    def attribute(session: Session, conversion_id: str, now: datetime) -> None:
        attribution.attribute(session, conversion_id, signer=signer, now=now)

    return {
        "conversion.recorded": (attribute, assess, accrue),
        "conversion.changed": (apply_changes,),
        "flag.cleared": (release,),
        "flag.confirmed": (void,),
    }


def assess(session: Session, conversion_id: str, now: datetime) -> None:
    """Score the conversion; opens a flag when it must wait for a person."""
    assessments.assess(session, conversion_id, now=now)


def accrue(session: Session, conversion_id: str, now: datetime) -> None:
    """Book the commission; commissions is told to hold, it never asks fraud why."""
    flag = flags.find_open(session, conversion_id)
    accruals.accrue(
        session, conversion_id, hold_reason=Reason.FRAUD_SUSPECTED if flag else None, now=now
    )


def apply_changes(session: Session, conversion_id: str, now: datetime) -> None:
    """Book the refunds, cancellations, approvals and refusals that are not booked yet."""
    accruals.apply_changes(session, conversion_id, now=now)


def release(session: Session, conversion_id: str, now: datetime) -> None:
    """A cleared flag lets the commission go on."""
    accruals.release(session, conversion_id, actor=ACTOR, now=now)


def void(session: Session, conversion_id: str, now: datetime) -> None:
    """A confirmed flag takes the commission back."""
    accruals.void(session, conversion_id, reason=Reason.FRAUD_CONFIRMED, actor=ACTOR, now=now)
