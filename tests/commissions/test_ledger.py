import json
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import given
from hypothesis import strategies as st
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from commissions import ledger
from commissions.models import Account, Balance, Posting, Transaction
from kernel.database import unit_of_work
from kernel.errors import InvalidInput
from tests.make import NOW

ACCRUAL = ("adv:a:unbilled", "pub:p:pending", "EUR", 500)


def _post(session: Session, **facts: Any) -> int:
    given: dict[str, Any] = {
        "key": "k1",
        "kind": "accrue",
        "correlation": "cnv_1",
        "actor": "system",
        "effective_at": NOW,
        "now": NOW,
        "postings": [ACCRUAL],
    }
    return ledger.post(session, **given | facts)


def test_a_posting_moves_both_balances_and_makes_the_accounts(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        _post(session)
        _post(session, key="k2", postings=[ACCRUAL, ("pub:p:pending", "pub:p:held", "EUR", 200)])

    with unit_of_work(engine) as session:
        assert ledger.balance(session, "adv:a:unbilled", "EUR") == 1000
        assert ledger.balance(session, "pub:p:pending", "EUR") == 800
        assert ledger.balance(session, "pub:p:held", "EUR") == 200
        assert ledger.balance(session, "pub:p:held", "USD") == 0
        assert [one.path for one in ledger.balances(session, prefix="pub:p:")] == [
            "pub:p:held",
            "pub:p:pending",
        ]
        kinds: dict[str, str] = dict(
            session.execute(sa.select(col(Account.path), col(Account.kind))).all()
        )
        assert kinds == {
            "adv:a:unbilled": "asset",
            "pub:p:pending": "liability",
            "pub:p:held": "liability",
        }


def test_a_repeat_posts_nothing_and_other_content_is_refused(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        first = _post(session)
        again = _post(session, now=NOW + timedelta(days=1), actor="another worker")
        assert first == again
        with pytest.raises(ledger.KeyReused) as refused:
            _post(session, postings=[("adv:a:unbilled", "pub:p:pending", "EUR", 501)])

        assert refused.value.code == "ledger_key_reused"
        assert len(session.exec(select(Posting)).all()) == 1
        assert ledger.balance(session, "pub:p:pending", "EUR") == 500


@pytest.mark.parametrize(
    ("_case", "postings", "field"),
    [
        ("none at all", [], "postings"),
        ("nothing moved", [("adv:a:unbilled", "pub:p:pending", "EUR", 0)], "amount_minor"),
        ("backwards", [("adv:a:unbilled", "pub:p:pending", "EUR", -1)], "amount_minor"),
        ("a float", [("adv:a:unbilled", "pub:p:pending", "EUR", 1.5)], "amount_minor"),
        ("over the limit", [("adv:a:unbilled", "pub:p:pending", "EUR", 10**16)], "amount_minor"),
        ("one account", [("pub:p:held", "pub:p:held", "EUR", 1)], "postings[0]"),
        ("no currency", [("adv:a:unbilled", "pub:p:pending", "EURO", 1)], "currency"),
        ("not in the chart", [("adv:a:unbilled", "pub:p:pocket", "EUR", 1)], "postings"),
        ("nobody's", [("adv::unbilled", "pub:p:pending", "EUR", 1)], "postings"),
    ],
)
def test_what_could_not_balance_is_refused_and_leaves_nothing(
    sqlite_engine: Engine, _case: str, postings: Any, field: str
) -> None:
    with unit_of_work(sqlite_engine) as session:
        with pytest.raises(InvalidInput) as refused:
            _post(session, postings=postings)

        assert field in refused.value.problems[0].field
        for table in (Account, Transaction, Posting, Balance):
            assert session.exec(select(table)).all() == []


def test_many_are_posted_together_and_keep_their_order_of_lines(sqlite_engine: Engine) -> None:
    entries = [
        ledger.Entry(f"k{at}", "accrue", f"cnv_{at}", NOW, (ACCRUAL, ACCRUAL)) for at in range(600)
    ]
    with unit_of_work(sqlite_engine) as session:
        ids = ledger.post_many(session, entries, actor="system", now=NOW)
        again = ledger.post_many(session, entries, actor="system", now=NOW)

        assert ids == again
        assert len(set(ids.values())) == 600
        correlations: dict[int | None, str] = dict(
            session.execute(sa.select(col(Transaction.id), col(Transaction.correlation))).all()
        )
        assert all(correlations[ids[one.key]] == one.correlation for one in entries)
        assert ledger.balance(session, "pub:p:pending", "EUR") == 600 * 2 * 500


def test_accounts_of_a_rolled_back_savepoint_are_made_again(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        savepoint = session.begin_nested()
        _post(session)
        savepoint.rollback()
        other = ("adv:b:unbilled", "pub:q:pending", "EUR", 7)
        _post(session, key="k2", postings=[other])
        _post(session)

    with unit_of_work(engine) as session:
        assert ledger.balance(session, "pub:p:pending", "EUR") == 500
        assert ledger.balance(session, "pub:q:pending", "EUR") == 7


@given(st.text(max_size=8), st.text(max_size=8))
def test_the_content_of_a_transaction_is_written_as_it_always_was(text: str, other: str) -> None:
    """What was posted by earlier versions must be known again by its hash."""
    legs = (("adv:1:unbilled", f"pub:{other}:pending", "EUR", 5), ("a", "b", "JPY", 10**18))
    entry = ledger.Entry("k", "accrue", text, NOW, legs, other)

    assert ledger.content(entry) == json.dumps(["accrue", text, other, legs])
