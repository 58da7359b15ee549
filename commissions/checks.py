"""Proves the books: every invariant about money, from the facts, naming whatever broke.

Sums are made by the database, along its indexes where that is possible, and replays keep sums and
no orders, so that memory does not depend on how many there are.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import sqlalchemy as sa
from sqlmodel import Session, SQLModel, col

from commissions import replay_checks, replay_reading
from commissions.models import (
    Account,
    Balance,
    Booking,
    Commission,
    CommissionStatus,
    Payout,
    PayoutLine,
    PayoutStatus,
    PlanVersion,
    Posting,
    RateWanted,
    Transaction,
)
from commissions.problems import Problem
from commissions.reasons import Reason
from network import documents
from network.models import Program
from tracker.models import AttributionShare, Conversion

_ROWS_AT_ONCE = 500
_PLANS_AT_ONCE = 10
_ASIDE = (CommissionStatus.HELD, CommissionStatus.DECLINED, CommissionStatus.REVERSED)


def _rows(session: Session, query: Any) -> Iterator[Any]:
    yield from session.execute(query.execution_options(yield_per=_ROWS_AT_ONCE))


def _postings(session: Session) -> Iterator[Problem]:
    debit, credit = sa.orm.aliased(Account), sa.orm.aliased(Account)
    query = (
        sa.select(col(Posting.transaction_id), col(Posting.line))
        .outerjoin(debit, col(debit.id) == col(Posting.debit_id))
        .outerjoin(credit, col(credit.id) == col(Posting.credit_id))
        .where(
            sa.or_(
                sa.func.coalesce(col(debit.currency), "") != col(Posting.currency),
                sa.func.coalesce(col(credit.currency), "") != col(Posting.currency),
                col(Posting.debit_id) == col(Posting.credit_id),
                col(Posting.amount_minor) <= 0,
            )
        )
    )
    for number, line in _rows(session, query):
        yield Problem(
            2, f"posting {number}/{line}", "is not one debit and one credit in one currency"
        )
    empty = (
        sa.select(col(Transaction.id))
        .outerjoin(Posting, col(Posting.transaction_id) == col(Transaction.id))
        .where(col(Posting.line).is_(None))
    )
    for (number,) in _rows(session, empty):
        yield Problem(2, f"transaction {number}", "has no posting")


def _balances(session: Session) -> Iterator[Problem]:
    debits, credited = (_sums(column) for column in (Posting.debit_id, Posting.credit_id))
    summed = (sa.func.coalesce(debits.c.minor, 0), sa.func.coalesce(credited.c.minor, 0))
    cached = (
        sa.func.coalesce(col(Balance.debits_minor), 0),
        sa.func.coalesce(col(Balance.credits_minor), 0),
    )
    query = (
        sa.select(col(Account.path), col(Account.currency), *summed, *cached)
        .outerjoin(Balance, col(Balance.account_id) == col(Account.id))
        .outerjoin(debits, debits.c.account_id == col(Account.id))
        .outerjoin(credited, credited.c.account_id == col(Account.id))
        .where(sa.or_(summed[0] != cached[0], summed[1] != cached[1]))
    )
    for path, currency, *sums in _rows(session, query):
        detail = "postings sum to {}/{}, the balance says {}/{}".format(*sums)
        yield Problem(2, f"account {path} {currency}", detail)


def _sums(account: Any) -> Any:
    return (
        sa.select(
            col(account).label("account_id"), sa.func.sum(col(Posting.amount_minor)).label("minor")
        )
        .group_by(col(account))
        .subquery()
    )


def _bookings(session: Session) -> Iterator[Problem]:
    of_it = sa.and_(
        col(Booking.conversion_id) == col(Commission.conversion_id),
        col(Booking.part) == col(Commission.part),
    )
    # Looked up for each: sums of all of them side by side would be held until the end.
    summed = sa.select(sa.func.sum(col(Booking.delta_minor))).where(of_it).scalar_subquery()
    sums = sa.select(
        col(Commission.conversion_id), col(Commission.amount_minor), summed.label("minor")
    ).subquery()
    query = sa.select(sums).where(sa.func.coalesce(sums.c.minor != sums.c.amount_minor, sa.true()))
    for conversion_id, amount_minor, minor in _rows(session, query):
        detail = f"its bookings sum to {minor or 0}, the commission says {amount_minor}"
        yield Problem(3, f"conversion {conversion_id}", detail)
    lost = (
        sa.select(col(Booking.conversion_id))
        .outerjoin(Commission, of_it)
        .where(col(Commission.conversion_id).is_(None))
        .distinct()
    )
    for (conversion_id,) in _rows(session, lost):
        yield Problem(3, f"conversion {conversion_id}", "has bookings and no commission")


def _posted_commissions(session: Session) -> Iterator[Problem]:
    debit, credit = sa.orm.aliased(Account), sa.orm.aliased(Account)
    amount = col(Posting.amount_minor)
    signed = sa.case((col(credit.path).startswith("pub:"), amount), else_=0) - sa.case(
        (col(debit.path).startswith("pub:"), amount), else_=0
    )
    posted = (
        sa.select(sa.func.coalesce(sa.func.sum(signed), 0))
        .select_from(Transaction)
        .join(Posting, col(Posting.transaction_id) == col(Transaction.id))
        .join(debit, col(debit.id) == col(Posting.debit_id))
        .join(credit, col(credit.id) == col(Posting.credit_id))
        .where(col(Transaction.correlation) == col(Commission.conversion_id))
        .scalar_subquery()
    )
    # All parts of a conversion together; `_accounts_by_status` tells whose they are.
    owed_minor = sa.func.sum(col(Commission.amount_minor)).label("owed_minor")
    sums = (
        sa.select(col(Commission.conversion_id), owed_minor, posted.label("minor"))
        .group_by(col(Commission.conversion_id))
        .subquery()
    )
    query = sa.select(sums).where(sums.c.minor != sums.c.owed_minor)
    for conversion_id, amount_minor, minor in _rows(session, query):
        detail = f"the ledger owes {minor} for it, the commission says {amount_minor}"
        yield Problem(2, f"conversion {conversion_id}", detail)


def _accounts_by_status(session: Session) -> Iterator[Problem]:
    """What stands on each publisher's accounts is what its commissions of that status say."""
    names = {
        "pending": (CommissionStatus.PENDING,),
        "approved": (CommissionStatus.APPROVED,),
        "held": (CommissionStatus.HELD,),
        "payable": (CommissionStatus.PAYABLE, CommissionStatus.PAID),
    }
    left = (PayoutStatus.APPROVED, PayoutStatus.EXPORTED, PayoutStatus.SETTLED)
    for name, statuses in names.items():
        owed = _by_account(
            name, Commission, col(Commission.status).in_(statuses), col(Commission.amount_minor)
        )
        parts = [owed]
        if name == "payable":
            parts.append(
                _by_account(name, Payout, col(Payout.status).in_(left), -col(Payout.amount_minor))
            )
        yield from _compare(session, 2, name, parts)


def _in_transit(session: Session) -> Iterator[Problem]:
    under_way = col(Payout.status).in_((PayoutStatus.APPROVED, PayoutStatus.EXPORTED))
    owed = _by_account("in_transit", Payout, under_way, col(Payout.amount_minor))
    yield from _compare(session, 5, "in_transit", [owed])


def _by_account(name: str, model: Any, where: Any, minor: Any) -> Any:
    path = sa.literal("pub:") + col(model.publisher_id) + sa.literal(f":{name}")
    return sa.select(
        path.label("path"), col(model.currency).label("currency"), minor.label("minor")
    ).where(where)


def _compare(session: Session, invariant: int, name: str, parts: list[Any]) -> Iterator[Problem]:
    balance: Any = sa.select(
        col(Account.path).label("path"),
        col(Account.currency).label("currency"),
        (col(Balance.debits_minor) - col(Balance.credits_minor)).label("minor"),
    ).join(Balance, col(Balance.account_id) == col(Account.id))
    mine = col(Account.path).startswith("pub:") & col(Account.path).endswith(f":{name}")
    every = sa.union_all(balance.where(mine), *parts).subquery()
    difference = sa.func.sum(every.c.minor)
    query = (
        sa.select(every.c.path, every.c.currency, difference)
        .group_by(every.c.path, every.c.currency)
        .having(difference != 0)
    )
    for path, currency, minor in _rows(session, query):
        detail = f"differs by {minor} from what it is made of"
        yield Problem(invariant, f"account {path} {currency}", detail)


def _triggers(session: Session) -> Iterator[Problem]:
    if session.get_bind().dialect.name == "sqlite":
        query = "SELECT name FROM sqlite_master WHERE type = 'trigger'"
        wanted = ["{}_no_update", "{}_no_delete"]
    else:
        query = "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgenabled <> 'D'"
        wanted = ["{}_append_only"]
    found = set(session.execute(sa.text(query)).scalars())
    for table in SQLModel.metadata.sorted_tables:
        if not table.info.get("append_only", False):
            continue
        missing = [name.format(table.name) for name in wanted]
        for name in missing:
            if name not in found:
                yield Problem(4, f"table {table.name}", f"the trigger {name} is missing")


def _payouts(session: Session) -> Iterator[Problem]:
    summed = sa.func.coalesce(sa.func.sum(col(PayoutLine.amount_minor)), 0)
    query = (
        sa.select(col(Payout.id), col(Payout.amount_minor), summed)
        .outerjoin(PayoutLine, col(PayoutLine.payout_id) == col(Payout.id))
        .group_by(col(Payout.id), col(Payout.amount_minor))
        .having(summed != col(Payout.amount_minor))
    )
    for payout_id, amount_minor, minor in _rows(session, query):
        yield Problem(5, f"payout {payout_id}", f"its lines sum to {minor}, it pays {amount_minor}")


def _claims(session: Session) -> Iterator[Problem]:
    live = (
        sa.select(
            col(PayoutLine.conversion_id).label("id"),
            col(Payout.publisher_id).label("publisher_id"),
            sa.func.sum(col(PayoutLine.amount_minor)).label("minor"),
        )
        .join(Payout, col(Payout.id) == col(PayoutLine.payout_id))
        .where(col(Payout.status) != PayoutStatus.CANCELLED)
        .group_by(col(PayoutLine.conversion_id), col(Payout.publisher_id))
        .subquery()
    )
    summed = sa.func.coalesce(live.c.minor, 0)
    own = sa.and_(
        live.c.id == col(Commission.conversion_id),
        live.c.publisher_id == col(Commission.publisher_id),
    )
    query = (
        sa.select(col(Commission.conversion_id), col(Commission.claimed_minor), summed)
        .outerjoin(live, own)
        .where(summed != col(Commission.claimed_minor))
    )
    for conversion_id, claimed_minor, minor in _rows(session, query):
        detail = f"payouts claim {minor} of it, the commission says {claimed_minor}"
        yield Problem(5, f"conversion {conversion_id}", detail)


def _reasons(session: Session) -> Iterator[Problem]:
    query = sa.select(col(Commission.conversion_id), col(Commission.status)).where(
        col(Commission.reason) == "",
        sa.or_(col(Commission.status).in_(_ASIDE), col(Commission.amount_minor) == 0),
    )
    for conversion_id, status in _rows(session, query):
        yield Problem(6, f"conversion {conversion_id}", f"is {status} without a reason")


def _waiting(session: Session) -> Iterator[Problem]:
    """What is booked at nothing for want of a rate is tried again when there is one."""
    query = (
        sa.select(col(Commission.conversion_id))
        .outerjoin(RateWanted, col(RateWanted.conversion_id) == col(Commission.conversion_id))
        .where(col(Commission.reason) == Reason.NO_RATE, col(RateWanted.conversion_id).is_(None))
    )
    for (conversion_id,) in _rows(session, query):
        yield Problem(6, f"conversion {conversion_id}", "has no rate and waits for none")


def _plans(session: Session) -> Iterator[Problem]:
    for version in session.scalars(
        sa.select(PlanVersion).execution_options(yield_per=_PLANS_AT_ONCE)
    ):
        if not documents.is_intact(version):
            detail = "its document is not the one that was published"
            yield Problem(4, f"plan version {version.id}", detail)


def _owners(session: Session) -> Iterator[Problem]:
    """What a commission says of its order, so that it can be found, is what the order says."""
    one = col(Commission.conversion_id) == col(Conversion.id)
    shared = (
        sa.select(sa.literal(1))
        .where(
            col(AttributionShare.conversion_id) == col(Commission.conversion_id),
            col(AttributionShare.publisher_id) == col(Commission.publisher_id),
        )
        .exists()
    )
    query = (
        sa.select(col(Commission.conversion_id))
        .join(Conversion, one)
        .join(Program, col(Program.id) == col(Conversion.program_id))
        .where(
            sa.or_(
                col(Commission.program_id) != col(Conversion.program_id),
                col(Commission.advertiser_id) != col(Program.advertiser_id),
                col(Commission.occurred_at) != col(Conversion.occurred_at),
                # Whose exclusive coupon it is, is paid whoever brought the order.
                sa.and_(col(Conversion.coupon).is_(None), sa.not_(shared)),
            )
        )
    )
    for (conversion_id,) in _rows(session, query):
        detail = "its commission is another party's, program's or day's than its order"
        yield Problem(7, f"conversion {conversion_id}", detail)


Check = Callable[[Session], Iterator[Problem]]

BEFORE_REPLAY: Mapping[str, Check] = {
    "postings": _postings,
    "balances": _balances,
    "bookings": _bookings,
    "posted commissions": _posted_commissions,
    "accounts by status": _accounts_by_status,
}
AFTER_REPLAY: Mapping[str, Check] = {
    "triggers": _triggers,
    "plans": _plans,
    "payouts": _payouts,
    "claims": _claims,
    "in transit": _in_transit,
    "reasons": _reasons,
    "waiting": _waiting,
    "owners": _owners,
}
"""What is looked up in the database, by name; `replay_checks` does the rest, part by part."""


def check(session: Session) -> Iterator[Problem]:
    """Every problem found; nothing when the books are sound. Reads only."""
    for one in BEFORE_REPLAY.values():
        yield from one(session)
    for part in replay_reading.parts(session):
        yield from replay_checks.check(session, part)
    for one in AFTER_REPLAY.values():
        yield from one(session)
