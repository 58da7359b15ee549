"""Double entry: every posting has one debit, one credit, one currency and more than zero.

Accounts come into being when they are first used. An entry's key makes a repeat harmless; the
same key with other content is refused. Balances move in the same transaction as their postings.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache, lru_cache
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, select

from commissions.models import Account, Balance, Posting, Transaction
from kernel import bulk
from kernel.errors import Conflict, invalid
from kernel.money import EXPONENTS, MAX_MINOR

MAX_POSTINGS = 1000
_CHUNK = 500
_CACHE = "ledger_accounts"
# The first prefix that fits decides; `{}` stands for the id of a party.
_KINDS = (
    ("adv:{}:deposit", "liability"),
    ("adv:{}:promo", "liability"),
    ("adv:{}:unbilled", "asset"),
    ("adv:{}:receivable", "asset"),
    ("pub:{}:pending", "liability"),
    ("pub:{}:approved", "liability"),
    ("pub:{}:held", "liability"),
    ("pub:{}:payable", "liability"),
    ("pub:{}:in_transit", "liability"),
    ("bank:{}", "asset"),
    ("revenue:{}", "revenue"),
    ("expense:{}", "expense"),
)

# Asked for every order that comes in; built once, because building costs more than asking.
_account = Account.metadata.tables["account"]
_ACCOUNTS = sa.select(_account.c.path, _account.c.currency, _account.c.id).where(
    _account.c.path.in_(sa.bindparam("paths", expanding=True))
)

_transaction = Transaction.metadata.tables["ledger_transaction"]
_TRANSACTIONS = bulk.Insert(
    _transaction,
    *("id", "key", "request_hash", "kind", "correlation", "actor", "reason"),
    *("effective_at", "recorded_at"),
    unless="key",
)
_POSTINGS = bulk.Insert(
    Posting.metadata.tables["posting"],
    *("transaction_id", "line", "debit_id", "credit_id", "currency", "amount_minor"),
)

Leg = tuple[str, str, str, int]
"""(debit path, credit path, currency, amount in minor units)."""


class KeyReused(Conflict):
    """The key of an earlier ledger transaction, with other content."""

    code = "ledger_key_reused"


class Entry(NamedTuple):
    """One ledger transaction to be posted. `correlation` is the conversion or payout it is for.

    `actor` is empty where it is that of all entries posted together.
    """

    key: str
    kind: str
    correlation: str
    effective_at: datetime
    postings: tuple[Leg, ...]
    reason: str = ""
    actor: str = ""


@dataclass(frozen=True, slots=True)
class AccountBalance:
    """An account with its balance on its own side: what is owed, or what is there."""

    path: str
    kind: str
    currency: str
    balance_minor: int


def post(
    session: Session,
    *,
    key: str,
    kind: str,
    correlation: str,
    actor: str,
    effective_at: datetime,
    now: datetime,
    postings: Sequence[Leg],
    reason: str = "",
) -> int:
    """Post one transaction and return its id; a repeat returns the first one's and posts nothing.

    InvalidInput for postings that could not balance; KeyReused for the key with other content.
    """
    entry = Entry(key, kind, correlation, effective_at, tuple(postings), reason)
    return post_many(session, [entry], actor=actor, now=now)[key]


def post_many(
    session: Session, entries: Sequence[Entry], *, actor: str, now: datetime
) -> dict[str, int]:
    """Post several transactions in few statements; their ids by key. Otherwise as `post`."""
    for entry in entries:
        _check(entry)
    ids: dict[str, int] = {}
    for start in range(0, len(entries), _CHUNK):
        ids |= _post_chunk(session, entries[start : start + _CHUNK], actor=actor, now=now)
    return ids


def balance(session: Session, path: str, currency: str) -> int:
    """The balance of one account on its own side; 0 for an account nobody used yet."""
    rows = list(_balances(session, Account.path == path, Account.currency == currency))
    return rows[0].balance_minor if rows else 0


def balances(session: Session, *, prefix: str = "") -> list[AccountBalance]:
    """Every account whose path starts with `prefix`, by path and currency."""
    return list(_balances(session, col(Account.path).startswith(prefix, autoescape=True)))


@dataclass(frozen=True, slots=True)
class _Statements:
    """What every posting writes, built once: building costs more than executing."""

    balance: Any
    account: Any


@cache
def _statements(dialect: str) -> _Statements:
    insert: Any = sqlite.insert if dialect == "sqlite" else postgresql.insert
    balance, account = (
        model.metadata.tables[str(model.__tablename__)] for model in (Balance, Account)
    )
    moved, added = balance.c, insert(balance)
    return _Statements(
        balance=added.on_conflict_do_update(
            index_elements=["account_id"],
            set_={
                "debits_minor": moved.debits_minor + added.excluded.debits_minor,
                "credits_minor": moved.credits_minor + added.excluded.credits_minor,
            },
        ),
        account=insert(account).on_conflict_do_nothing(index_elements=["path", "currency"]),
    )


def _balances(session: Session, *where: Any) -> Iterator[AccountBalance]:
    query = (
        select(Account, Balance)
        .join(Balance, col(Balance.account_id) == col(Account.id))
        .where(*where)
        .order_by(col(Account.path), col(Account.currency))
        .execution_options(populate_existing=True)
    )
    for account, sums in session.exec(query):
        side = 1 if account.kind in {"asset", "expense"} else -1
        signed = side * (sums.debits_minor - sums.credits_minor)
        yield AccountBalance(account.path, account.kind, account.currency, signed)


def _check(entry: Entry) -> None:
    if not 1 <= len(entry.postings) <= MAX_POSTINGS:
        raise invalid("postings", "length", f"must hold 1 to {MAX_POSTINGS} postings")
    for at, (debit, credit, currency, amount_minor) in enumerate(entry.postings):
        if debit == credit:
            raise invalid(f"postings[{at}]", "two_accounts", "debit and credit must differ")
        if currency not in EXPONENTS:
            raise invalid(f"postings[{at}].currency", "iso_4217", "is not an ISO 4217 currency")
        if type(amount_minor) is not int or not 0 < amount_minor <= MAX_MINOR:
            raise invalid(f"postings[{at}].amount_minor", "range", f"must be 1 to {MAX_MINOR}")
        _kind_of(debit)
        _kind_of(credit)


@lru_cache(maxsize=10_000)
def _kind_of(path: str) -> str:
    parts = path.split(":")
    for pattern, kind in _KINDS:
        wanted = pattern.split(":")
        if len(parts) == len(wanted) and all(
            part == want or (want == "{}" and part)
            for part, want in zip(parts, wanted, strict=True)
        ):
            return kind
    raise invalid("postings", "path", f"{path!r} is not an account of the chart")


def _request_hash(entry: Entry) -> str:
    # The time and the actor are left out: a repeat comes later and perhaps from another worker.
    return hashlib.sha256(content(entry).encode()).hexdigest()


def content(entry: Entry) -> str:
    """`[kind, correlation, reason, postings]` as JSON, to the letter as `json.dumps` writes it.

    Written out here where nothing has to be escaped, which is nearly always.
    """
    texts = [entry.kind, entry.correlation, entry.reason]
    for debit, credit, currency, _ in entry.postings:
        texts += (debit, credit, currency)
    all_of_it = "".join(texts)
    if _is_plain(all_of_it):
        postings = ", ".join(
            [
                f'["{debit}", "{credit}", "{currency}", {amount_minor}]'
                for debit, credit, currency, amount_minor in entry.postings
            ]
        )
        return f'["{entry.kind}", "{entry.correlation}", "{entry.reason}", [{postings}]]'
    return json.dumps([entry.kind, entry.correlation, entry.reason, entry.postings])


def _is_plain(text: str) -> bool:
    return text.isascii() and text.isprintable() and '"' not in text and "\\" not in text


def _post_chunk(
    session: Session, entries: Sequence[Entry], *, actor: str, now: datetime
) -> dict[str, int]:
    hashes = {entry.key: _request_hash(entry) for entry in entries}
    if len(hashes) != len(entries):
        raise invalid("key", "unique", "each transaction has a key of its own")
    accounts = _account_ids(
        session,
        {
            (path, currency)
            for entry in entries
            for debit, credit, currency, _ in entry.postings
            for path in (debit, credit)
        },
    )
    # Numbered before they are there, so that the statement has nothing to give back.
    numbers = bulk.numbers(session, _transaction.c.id, len(entries))
    ids = {entry.key: number for entry, number in zip(entries, numbers, strict=True)}
    rows = [
        (
            ids[entry.key],
            entry.key,
            hashes[entry.key],
            entry.kind,
            entry.correlation,
            entry.actor or actor,
            entry.reason,
            entry.effective_at,
            now,
        )
        for entry in entries
    ]
    repeated: dict[str, int] = {}
    if _TRANSACTIONS.rows(session, rows) != len(rows):
        found = _found(session, hashes)
        repeated = {key: number for key, number in found.items() if ids[key] != number}
    fresh = [entry for entry in entries if entry.key not in repeated] if repeated else entries
    _write_postings(session, fresh, ids, accounts)
    return ids | repeated


def _found(session: Session, hashes: Mapping[str, str]) -> dict[str, int]:
    """The numbers of the transactions with these keys; KeyReused for one with other content."""
    found = session.execute(
        sa.select(col(Transaction.key), col(Transaction.request_hash), col(Transaction.id)).where(
            col(Transaction.key).in_(hashes)
        )
    )
    ids = {}
    for key, stored, transaction_id in found:
        if stored != hashes[key]:
            raise KeyReused(f"the key {key!r} was posted with other content", key=key)
        ids[key] = int(transaction_id or 0)
    return ids


def _write_postings(
    session: Session,
    entries: Sequence[Entry],
    ids: Mapping[str, int],
    accounts: Mapping[tuple[str, str], int],
) -> None:
    rows: list[tuple[int, int, int, int, str, int]] = []
    sums: dict[int, list[int]] = {}
    for entry in entries:
        for line, (debit, credit, currency, amount_minor) in enumerate(entry.postings):
            debit_id, credit_id = accounts[debit, currency], accounts[credit, currency]
            rows.append((ids[entry.key], line, debit_id, credit_id, currency, amount_minor))
            sums.setdefault(debit_id, [0, 0])[0] += amount_minor
            sums.setdefault(credit_id, [0, 0])[1] += amount_minor
    if not rows:
        return
    _POSTINGS.rows(session, rows)
    # In the order of the accounts, so that two transactions never wait for each other.
    session.execute(
        _statements(session.get_bind().dialect.name).balance,
        [
            {"account_id": account_id, "debits_minor": debited, "credits_minor": credited}
            for account_id, (debited, credited) in sorted(sums.items())
        ],
    )


def _account_ids(session: Session, wanted: Iterable[tuple[str, str]]) -> dict[tuple[str, str], int]:
    known = _cache(session)
    missing = sorted(key for key in wanted if key not in known)
    if missing:
        found = _read_accounts(session, missing)
        absent = [key for key in missing if key not in found]
        if absent:
            session.execute(
                _statements(session.get_bind().dialect.name).account,
                [
                    {"path": path, "currency": currency, "kind": _kind_of(path)}
                    for path, currency in absent
                ],
            )
            found |= _read_accounts(session, absent)
        known |= found
    return known


def _read_accounts(session: Session, keys: Sequence[tuple[str, str]]) -> dict[tuple[str, str], int]:
    paths = sorted({path for path, _ in keys})
    ids: dict[tuple[str, str], int] = {}
    for start in range(0, len(paths), _CHUNK):
        found = session.execute(_ACCOUNTS, {"paths": paths[start : start + _CHUNK]})
        ids |= {(path, currency): number for path, currency, number in found}
    return ids


def _cache(session: Session) -> dict[tuple[str, str], int]:
    if _CACHE not in session.info:
        session.info[_CACHE] = {}
        # An account made inside a savepoint is gone when that is rolled back, and its number may
        # be given to another: after any rollback nothing remembered can be trusted.
        event.listen(session, "after_soft_rollback", _forget)
    known: dict[tuple[str, str], int] = session.info[_CACHE]
    return known


def _forget(session: Session, _transaction: object) -> None:
    session.info[_CACHE].clear()
