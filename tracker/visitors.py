"""Visitor keys: equal for the clicks of one visitor while a salt lasts, and for nobody afterwards.

A key is a keyed hash of the whole address and the agent. Its key is made of the installation's
secret and of a random salt that lives in the main database for one period and a day of grace: when
the salt is gone, nobody can say which visitor a key was, with the secret or without.
"""

import secrets
from collections.abc import Collection
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from hashlib import blake2b
from typing import Any, Final

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from kernel.database import reading, unit_of_work
from tracker.models import VisitorSalt

KEY_BYTES: Final = 16
SALT_BYTES: Final = 32
CARRY: Final = timedelta(hours=1)
"""So long after a salt changed, clicks under the one before are still counted."""
# A node may have been away for a while; its clicks of yesterday still get yesterday's salt.
_GRACE: Final = timedelta(days=1)
_DAY: Final = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Period:
    """The days of one salt: from `starts_on` to before `ends_on`."""

    starts_on: date
    ends_on: date


def period_of(day: date, salt_days: int) -> Period:
    """The period of a day; periods of one length never overlap."""
    start = date.fromordinal(day.toordinal() - day.toordinal() % salt_days)
    return Period(start, start + salt_days * _DAY)


class Salts:
    """The salts of some periods, ready to hash with. `secret` is the installation's key."""

    def __init__(self, secret: bytes, *, salt_days: int) -> None:
        self.salt_days = salt_days
        self._secret = secret
        self._hashes: dict[date, Any] = {}

    def prepare(self, engine: Engine, days: Collection[date]) -> None:
        """Fetch, or make, the salts that clicks of these days need."""
        periods = {period_of(day, self.salt_days) for day in days}
        periods |= {period_of(one.starts_on - _DAY, self.salt_days) for one in periods}
        missing = {one for one in periods if one.starts_on not in self._hashes}
        if not missing:
            return
        self._load(engine, missing)
        absent = {one for one in missing if one.starts_on not in self._hashes}
        if absent:
            with unit_of_work(engine) as session:
                for period in absent:
                    _make(session, period)
            self._load(engine, absent)

    def hash_of(self, day: date) -> Any:
        """A keyed hash to copy and feed; `prepare` was called with the day."""
        return self._hashes[period_of(day, self.salt_days).starts_on]

    def hash_before(self, day: date) -> Any:
        """The same under the salt of the period before."""
        return self.hash_of(period_of(day, self.salt_days).starts_on - _DAY)

    def _load(self, engine: Engine, periods: Collection[Period]) -> None:
        starts = [period.starts_on for period in periods]
        with reading(engine) as session:
            query = select(VisitorSalt).where(col(VisitorSalt.starts_on).in_(starts))
            for row in session.exec(query):
                key = self._secret + bytes.fromhex(row.salt)
                self._hashes[row.starts_on] = blake2b(key=key, digest_size=KEY_BYTES)


def _make(session: Session, period: Period) -> None:
    # Two shippers may meet here: the salt of the first is the salt of both.
    session.execute(
        sa.text(
            "INSERT INTO visitor_salt (starts_on, ends_on, salt) VALUES (:start, :end, :salt) "
            "ON CONFLICT (starts_on) DO NOTHING"
        ).bindparams(
            sa.bindparam("start", period.starts_on, sa.Date),
            sa.bindparam("end", period.ends_on, sa.Date),
            salt=secrets.token_hex(SALT_BYTES),
        )
    )


def key_of(prepared: Any, address: str, user_agent: str) -> str:
    """The key of a visitor; empty when neither address nor agent is known."""
    if not address and not user_agent:
        return ""
    made = prepared.copy()
    made.update(f"{address}\n{user_agent}".encode())
    key: str = made.hexdigest()
    return key


def forget(engine: Engine, *, now: datetime) -> int:
    """Delete the salts that no click needs any more; how many."""
    over = (now - _GRACE).date()
    with reading(engine) as session:
        query = select(VisitorSalt).where(col(VisitorSalt.ends_on) <= over)
        if session.exec(query.limit(1)).first() is None:
            return 0
    with unit_of_work(engine) as session:
        if engine.dialect.name == "sqlite":
            # Or its bytes would stay in the file, in a page that is free.
            session.connection().exec_driver_sql("PRAGMA secure_delete = ON")
        gone = session.execute(sa.delete(VisitorSalt).where(col(VisitorSalt.ends_on) <= over))
        return int(gone.rowcount)  # type: ignore[attr-defined]  # what a DELETE gives has it
