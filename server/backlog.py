"""How much work is under way: what the journals hold and what the outbox still has to do."""

from pathlib import Path
from typing import Any

import sqlalchemy as sa
from prometheus_client import Gauge
from sqlmodel import Session, col, select

from kernel import clock, outbox
from kernel.database import reading
from kernel.http import Context
from kernel.outbox import OutboxRow
from server import journal_gauges
from tracker import shipper, uploads
from tracker.models import JournalPosition

_OUTBOX = Gauge("tallystick_outbox_pending", "Follow-ups not done yet")
_PARKED = Gauge(
    "tallystick_outbox_parked", "Follow-ups that failed too often and wait for a person"
)
_AGE = Gauge("tallystick_outbox_oldest_seconds", "Age of the oldest follow-up not done yet")
_SHIPPED = Gauge("tallystick_events_shipped", "Events in the database, by kind", ["kind"])
_DATABASE = Gauge("tallystick_database_reachable", "1 when the database answers")


def measure(context: Context) -> None:
    """Set the gauges; an unreachable database is a gauge, not an error."""
    journals, now = context.settings.data_dir / "journal", clock.now()
    try:
        with reading(context.engine) as session:
            _measure_database(session)
            journal_gauges.measure(session, journals, now=now)
        _DATABASE.set(1)
    except sa.exc.SQLAlchemyError:
        _DATABASE.set(0)
        journal_gauges.measure(None, journals, now=now)


def status(session: Session, data_dir: Path) -> dict[str, Any]:
    """What is under way, as numbers: all 0 means that everything acknowledged is booked."""
    # In the order in which work moves on, so that nothing is between two looks.
    return {
        "uploads_open": len(uploads.open_ids(session)),
        "journal_bytes": journal_bytes(session, data_dir),
        "outbox_pending": outbox.pending(session),
        "outbox_parked": _parked(session),
    }


def journal_bytes(session: Session, data_dir: Path) -> int:
    """Bytes of this node's journals that are not in the database yet."""
    return shipper.backlog_bytes(session, data_dir / "journal")


def _measure_database(session: Session) -> None:
    _OUTBOX.set(outbox.pending(session))
    _PARKED.set(_parked(session))
    clicks, conversions = session.exec(
        select(
            sa.func.coalesce(sa.func.sum(JournalPosition.clicks), 0),
            sa.func.coalesce(sa.func.sum(JournalPosition.conversions), 0),
        )
    ).one()
    _SHIPPED.labels("click").set(clicks)
    _SHIPPED.labels("conversion").set(conversions)
    oldest = session.exec(
        select(sa.func.min(col(OutboxRow.recorded_at))).where(
            col(OutboxRow.done_at).is_(None), col(OutboxRow.parked_at).is_(None)
        )
    ).one()
    _AGE.set(_age_seconds(oldest))


def _parked(session: Session) -> int:
    query = select(sa.func.count()).select_from(OutboxRow)
    return session.exec(query.where(col(OutboxRow.parked_at).is_not(None))).one()


def _age_seconds(oldest: Any) -> float:
    return (clock.now() - oldest).total_seconds() if oldest is not None else 0.0
