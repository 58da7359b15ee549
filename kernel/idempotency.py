"""`Idempotency-Key`: the first answer to a key is kept, and given again to a repeat.

Business keys (an order id, a payout id) stay unique for ever; this table only spares a caller whose
connection broke the question of what became of the request. A key is bound to its actor and to
the hash of method, path and body.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Field, Session, SQLModel, col

from kernel.database import unit_of_work
from kernel.errors import Conflict, Refused, invalid

_KEY_CHARS_MAX = 255
_IN_FLIGHT_SECONDS = 60


class IdempotencyRecord(SQLModel, table=True):
    """What was answered to a key; `status` 0 while the first request is still running."""

    __tablename__ = "idempotency_record"

    actor: str = Field(primary_key=True)
    key: str = Field(primary_key=True)
    request_hash: str
    status: int = 0
    media_type: str = ""
    body: str = ""
    recorded_at: datetime = Field(index=True)


class KeyReused(Refused):
    """The key came before, with another request."""

    code = "idempotency_key_reused"


class KeyInFlight(Conflict):
    """The first request with this key is still running."""

    code = "idempotency_key_in_flight"


@dataclass(frozen=True, slots=True)
class Seen:
    """A key as one actor sent it, with the hash of what came with it."""

    actor: str
    key: str
    request_hash: str


def parse_key(header: str) -> str:
    """The key, quoted (the standard's form) or bare (the common form)."""
    key = header.strip()
    if len(key) > 1 and key.startswith('"') and key.endswith('"'):
        key = key[1:-1]
    if not key or len(key) > _KEY_CHARS_MAX or not key.isprintable():
        raise invalid("Idempotency-Key", "format", f"must be 1 to {_KEY_CHARS_MAX} characters")
    return key


def begin(engine: Engine, seen: Seen, *, now: datetime, hours: int) -> IdempotencyRecord | None:
    """None: go on, the key is claimed. A record: answer with it. Reuse and overlap raise."""
    with unit_of_work(engine) as session:
        _forget_old(session, now=now, hours=hours)
        record = session.get(IdempotencyRecord, (seen.actor, seen.key), with_for_update=True)
        if record is None:
            session.add(
                IdempotencyRecord(
                    actor=seen.actor,
                    key=seen.key,
                    request_hash=seen.request_hash,
                    recorded_at=now,
                )
            )
            _flush_claim(session)
            return None
        if record.request_hash != seen.request_hash:
            raise KeyReused("this Idempotency-Key came before with another request")
        if record.status:
            return record
        if record.recorded_at > now - timedelta(seconds=_IN_FLIGHT_SECONDS):
            raise _in_flight()
        # Whoever claimed the key died before answering; business keys make a repeat safe.
        record.recorded_at = now
        return None


def finish(engine: Engine, seen: Seen, *, status: int, media_type: str, body: str) -> None:
    """Keep the answer."""
    with unit_of_work(engine) as session:
        record = session.get(IdempotencyRecord, (seen.actor, seen.key))
        if record is not None:
            record.status, record.media_type, record.body = status, media_type, body


def forget(engine: Engine, seen: Seen) -> None:
    """Free a key whose request took no effect."""
    with unit_of_work(engine) as session:
        session.execute(
            sa.delete(IdempotencyRecord).where(
                col(IdempotencyRecord.actor) == seen.actor, col(IdempotencyRecord.key) == seen.key
            )
        )


def _flush_claim(session: Session) -> None:
    # On PostgreSQL no row could be locked, so two requests can get this far at once; the second
    # waits for the first one's claim and then meets its primary key.
    try:
        session.flush()
    except sa.exc.IntegrityError as error:
        raise _in_flight() from error


def _in_flight() -> KeyInFlight:
    return KeyInFlight("the first request with this Idempotency-Key is still running")


def _forget_old(session: Session, *, now: datetime, hours: int) -> None:
    session.execute(
        sa.delete(IdempotencyRecord).where(
            col(IdempotencyRecord.recorded_at) < now - timedelta(hours=hours)
        )
    )
