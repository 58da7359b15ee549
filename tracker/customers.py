"""Customers who came before: which conversions of theirs were attributed, by a keyed hash.

What an advertiser calls a customer, and the hash of an e-mail address, are never kept here as they
came: a key is a hash under a secret of this installation, another one in every program, so that
the table says nothing to whoever takes it and joins nobody across programs.
"""

import hashlib
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from itertools import groupby
from operator import itemgetter
from typing import Any, Final, NamedTuple

import sqlalchemy as sa
from sqlmodel import Session

from kernel import outbox
from kernel.keys import Keys
from tracker.models import Attribution, AttributionShare, KnownCustomer, MatchWanted

MATCHABLE: Final = "conversion.matchable"
# An "identity" with more attributed orders than a person has is a placeholder such as `guest`.
ORDERS_OF_A_PERSON_MAX: Final = 100
_KEYS_PER_QUERY: Final = 5_000
WANTS_CUSTOMER: Final = "customer"
WANTS_ORDER: Final = "order"
WANTS_COUPON: Final = "coupon"

_TABLES = KnownCustomer.metadata.tables
_attribution, _known, _share, _wanted = (
    _TABLES[str(model.__tablename__)]
    for model in (Attribution, KnownCustomer, AttributionShare, MatchWanted)
)
_RANKED = (
    sa.select(
        _known.c.key,
        _known.c.conversion_id,
        _known.c.occurred_at,
        sa.func.row_number()
        .over(partition_by=_known.c.key, order_by=_known.c.occurred_at.desc())
        .label("rank"),
    )
    .where(_known.c.key.in_(sa.bindparam("keys", expanding=True)))
    .subquery()
)
_LOOK_UP = sa.select(_RANKED.c.key, _RANKED.c.conversion_id, _RANKED.c.occurred_at).where(
    _RANKED.c.rank <= ORDERS_OF_A_PERSON_MAX + 1
)
_WANTING = (
    sa.select(_wanted.c.conversion_id, _wanted.c.program_id)
    .where(
        _wanted.c.kind == sa.bindparam("kind"),
        _wanted.c.key.in_(sa.bindparam("keys", expanding=True)),
    )
    .distinct()
)


class CustomerKeys:
    """Makes the keys of customers under one secret."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def of(
        self, program_id: str, *, customer_id: str | None, email_hash: str | None
    ) -> tuple[str, ...]:
        """The keys of a customer of a program, none when nothing says who it is."""
        named = (("id", customer_id), ("email", email_hash and email_hash.strip().lower()))
        return tuple(self._key(program_id, kind, value) for kind, value in named if value)

    def _key(self, program_id: str, kind: str, value: str) -> str:
        text = f"{program_id}\n{kind}\n{value}".encode()
        return hashlib.blake2b(
            text, digest_size=16, key=self._secret, person=b"customer"
        ).hexdigest()


def customer_keys(keys: Keys) -> CustomerKeys:
    """The keys of this installation, equal on every node with the same secret."""
    return CustomerKeys(keys.derive("customer-key-1"))


class Known(NamedTuple):
    """An attributed conversion of a customer."""

    conversion_id: str
    occurred_at: datetime


def known(session: Session, keys: Collection[str]) -> dict[str, list[Known]]:
    """The attributed conversions of these customers, the newest ORDERS_OF_A_PERSON_MAX + 1."""
    found: dict[str, list[Known]] = defaultdict(list)
    if keys:
        for key, conversion_id, occurred_at in session.execute(_LOOK_UP, {"keys": sorted(keys)}):
            found[key].append(Known(conversion_id, occurred_at))
    return found


def remember(session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep `{key, conversion_id, occurred_at}` of conversions attributed just now."""
    if rows:
        session.execute(sa.insert(_known), list(rows))


def want(session: Session, rows: Sequence[Mapping[str, Any]]) -> None:
    """Keep what would attribute conversions that are nobody's."""
    if rows:
        session.execute(sa.insert(_wanted), list(rows))


def satisfied(session: Session, conversion_ids: Collection[str]) -> None:
    """Forget what these conversions wanted."""
    session.execute(sa.delete(_wanted).where(_wanted.c.conversion_id.in_(conversion_ids)))


def announce(session: Session, found: Iterable[tuple[str, str]], *, now: datetime) -> int:
    """Have every conversion tried again that wants one of these (kind, key); how many they are."""
    wanting: dict[str, str] = {}
    for kind, pairs in groupby(sorted(set(found)), key=itemgetter(0)):
        keys = [key for _, key in pairs]
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            asked = {"kind": kind, "keys": keys[start : start + _KEYS_PER_QUERY]}
            wanting.update(tuple(row) for row in session.execute(_WANTING, asked))
    for conversion_id, program_id in wanting.items():
        outbox.append(session, MATCHABLE, conversion_id, lane=program_id, now=now)
    return len(wanting)


def wanted_coupons(session: Session, program_id: str) -> list[str]:
    """Codes on conversions of the program that are nobody's, in lower case."""
    query = (
        sa.select(_wanted.c.key)
        .where(_wanted.c.kind == WANTS_COUPON, _wanted.c.program_id == program_id)
        .distinct()
    )
    return list(session.execute(query).scalars())


def order_key(program_id: str, order_id: str) -> str:
    """What an order is wanted by."""
    return f"{program_id}:{order_id}"


def coupon_key(program_id: str, code: str) -> str:
    """What a coupon is wanted by."""
    return f"{program_id}:{code.casefold()}"


def forget(session: Session, *, known_before: datetime, wanted_before: datetime) -> None:
    """Drop what is older: customers not seen since, conversions that nothing matched by then."""
    for table, before in ((_known, known_before), (_wanted, wanted_before)):
        session.execute(sa.delete(table).where(table.c.occurred_at < before))
