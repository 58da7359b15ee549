import csv
import io
from datetime import timedelta

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from commissions import accruals, ledger, payouts
from commissions.checks import check
from commissions.models import Commission, Payout, PayoutLine, PayoutRun
from kernel.audit import AuditEntry
from kernel.database import unit_of_work
from kernel.errors import InvalidInput, NotFound
from network.models import Program, Publisher
from tests import make
from tests.make import NOW
from tracker.models import ChangeKind, Conversion

DUE = NOW + timedelta(days=40)


def _earn(session: Session, program: Program, who: Publisher, *amounts: int) -> list[Conversion]:
    """Payable commissions of a tenth of these amounts."""
    sales = [make.conversion(session, program, who, amount_minor=minor) for minor in amounts]
    for sale in sales:
        accruals.accrue(session, sale.id, hold_reason=None, now=NOW)
    accruals.sweep(session, now=DUE, rows_max=1000)
    return sales


def _program(session: Session) -> Program:
    program = make.program(session)
    make.plan(session, program)
    return program


def _refund(session: Session, sale: Conversion, amount_minor: int) -> None:
    make.change(session, sale, ChangeKind.REFUND, amount_minor=amount_minor)
    accruals.apply_changes(session, sale.id, now=DUE)


def _pay(session: Session) -> PayoutRun:
    run = payouts.propose(session, actor="usr_1", now=DUE)
    payouts.approve(session, run.id, actor="usr_2", now=DUE)
    payouts.export_csv(session, run.id, actor="usr_2", now=DUE)
    return payouts.settle(session, run.id, reference="BANK-7", actor="usr_2", now=DUE)


def test_a_run_walks_from_draft_to_the_bank(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program = _program(session)
        who = make.publisher(session)
        sales = _earn(session, program, who, 10_000, 5_000)

        run = payouts.propose(session, actor="usr_1", now=DUE)
        (payout,) = payouts.payouts_of(session, run.id)
        assert (run.status, run.skipped, payout.amount_minor) == ("draft", [], 1500)
        lines = payouts.lines_of(session, payout.id)
        assert [(one.conversion_id, one.amount_minor) for one in lines] == [
            (sales[0].id, 1000),
            (sales[1].id, 500),
        ]
        assert ledger.balance(session, f"pub:{who.id}:payable", "EUR") == 1500
        assert list(check(session)) == []

        payouts.approve(session, run.id, actor="usr_2", now=DUE)
        assert ledger.balance(session, f"pub:{who.id}:in_transit", "EUR") == 1500
        assert list(check(session)) == []

        first = payouts.export_csv(session, run.id, actor="usr_2", now=DUE)
        settled = payouts.settle(session, run.id, reference="BANK-7", actor="usr_2", now=DUE)
        again = payouts.export_csv(session, run.id, actor="usr_3", now=DUE + timedelta(days=1))

        assert first == again
        assert settled.status == "settled"
        assert ledger.balance(session, f"pub:{who.id}:in_transit", "EUR") == 0
        assert ledger.balance(session, "bank:payouts", "EUR") == -1500
        assert session.exec(select(Commission.status).distinct()).all() == ["paid"]
        (mine,) = payouts.of_publisher(session, who.id)
        assert (mine.status, mine.reference) == ("settled", "BANK-7")
        actions = [one.action for one in payouts.decisions(session, run.id)]
        assert actions == ["propose", "approve", "export", "settle"]
        audited = session.exec(
            select(AuditEntry.action).where(AuditEntry.subject_id == run.id)
        ).all()
        assert audited == [f"payout.{action}" for action in actions]
        assert list(check(session)) == []


def test_nothing_is_paid_twice(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program = _program(session)
        _earn(session, program, make.publisher(session), 10_000)
        payouts.propose(session, actor="usr_1", now=DUE)

        second = payouts.propose(session, actor="usr_1", now=DUE)

        assert payouts.payouts_of(session, second.id) == []
        assert second.skipped == []
        assert len(session.exec(select(PayoutLine)).all()) == 1
        assert [one.id for one in payouts.runs(session, limit=1)] == [
            max(session.exec(select(PayoutRun.id)).all())
        ]


def test_two_runs_that_read_the_same_rows_cannot_both_claim_them(postgres_url: str) -> None:
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - for this one race

    from kernel.database import connect  # noqa: PLC0415 - for this one race

    engine = connect(postgres_url)
    with unit_of_work(engine) as session:
        program = _program(session)
        for _ in range(20):
            _earn(session, program, make.publisher(session), 10_000)

    def propose(number: int) -> None:
        with unit_of_work(engine) as session:
            payouts.propose(session, actor=f"usr_{number}", now=DUE)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(propose, range(4)))
    with unit_of_work(engine) as session:
        paid = session.exec(select(sa.func.sum(col(Payout.amount_minor)))).one()
        assert int(paid) == 20 * 1000
        assert list(check(session)) == []
    engine.dispose()


def test_a_refund_after_payment_is_set_off_against_the_next_payout(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program = _program(session)
        who = make.publisher(session)
        (paid,) = _earn(session, program, who, 10_000)
        _pay(session)
        _refund(session, paid, 10_000)
        assert ledger.balance(session, f"pub:{who.id}:payable", "EUR") == -1000

        owing = payouts.propose(session, actor="usr_1", now=DUE)
        assert owing.skipped == [
            {
                "publisher_id": who.id,
                "currency": "EUR",
                "amount_minor": -1000,
                "reason": "not_positive",
            }
        ]
        _earn(session, program, who, 30_000)
        run = _pay(session)

        (payout,) = payouts.payouts_of(session, run.id)
        assert payout.amount_minor == 3000 - 1000
        minors = [one.amount_minor for one in payouts.lines_of(session, payout.id)]
        assert minors == [-1000, 3000]
        assert ledger.balance(session, f"pub:{who.id}:payable", "EUR") == 0
        assert list(check(session)) == []


def test_what_is_below_the_minimum_waits_unclaimed(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program = _program(session)
        small, large = make.publisher(session), make.publisher(session)
        _earn(session, program, small, 999)
        _earn(session, program, large, 10_000)

        run = payouts.propose(session, actor="usr_1", now=DUE, minimum_minor=500)

        assert [one.publisher_id for one in payouts.payouts_of(session, run.id)] == [large.id]
        assert [(one["publisher_id"], one["reason"]) for one in run.skipped] == [
            (small.id, "below_minimum")
        ]
        claimed = session.exec(
            select(Commission.claimed_minor).where(Commission.publisher_id == small.id)
        ).all()
        assert claimed == [0]
        with pytest.raises(InvalidInput, match="minimum_minor"):
            payouts.propose(session, actor="usr_1", now=DUE, minimum_minor=-1)


def test_a_bad_row_stops_its_publisher_only(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        program = _program(session)
        bad, good = make.publisher(session), make.publisher(session)
        _earn(session, program, bad, 10_000)
        _earn(session, program, good, 10_000)
        session.execute(
            sa.text(
                "CREATE TRIGGER broken BEFORE INSERT ON payout "
                f"WHEN NEW.publisher_id = '{bad.id}' BEGIN SELECT RAISE(ABORT, 'disk'); END"
            )
        )

        run = payouts.propose(session, actor="usr_1", now=DUE)

        assert [one.publisher_id for one in payouts.payouts_of(session, run.id)] == [good.id]
        assert [(one["publisher_id"], one["reason"]) for one in run.skipped] == [
            (bad.id, "payout_failed")
        ]
        session.execute(sa.text("DROP TRIGGER broken"))
        assert list(check(session)) == []


@pytest.mark.parametrize("approved", [False, True])
def test_a_cancelled_run_gives_everything_back(engine: Engine, approved: bool) -> None:  # noqa: FBT001 - a pytest parameter
    with unit_of_work(engine) as session:
        program = _program(session)
        who = make.publisher(session)
        _earn(session, program, who, 10_000)
        run = payouts.propose(session, actor="usr_1", now=DUE)
        if approved:
            payouts.approve(session, run.id, actor="usr_2", now=DUE)
        with pytest.raises(InvalidInput, match="note"):
            payouts.cancel(session, run.id, actor="usr_2", note=" ", now=DUE)

        payouts.cancel(session, run.id, actor="usr_2", note="wrong account", now=DUE)

        assert session.exec(select(Commission.claimed_minor)).all() == [0]
        assert ledger.balance(session, f"pub:{who.id}:payable", "EUR") == 1000
        assert ledger.balance(session, f"pub:{who.id}:in_transit", "EUR") == 0
        assert list(check(session)) == []
        again = payouts.propose(session, actor="usr_1", now=DUE)
        assert [one.amount_minor for one in payouts.payouts_of(session, again.id)] == [1000]


def test_steps_out_of_order_are_refused_and_name_the_state(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program = _program(session)
        _earn(session, program, make.publisher(session), 10_000)
        run = payouts.propose(session, actor="usr_1", now=DUE)
        with pytest.raises(payouts.WrongPayoutState, match="draft"):
            payouts.export_csv(session, run.id, actor="usr_2", now=DUE)
        with pytest.raises(payouts.WrongPayoutState, match="draft"):
            payouts.settle(session, run.id, reference="x", actor="usr_2", now=DUE)
        with pytest.raises(payouts.SameEyes):
            payouts.approve(session, run.id, actor="usr_1", now=DUE, four_eyes=True)
        payouts.approve(session, run.id, actor="usr_2", now=DUE, four_eyes=True)
        with pytest.raises(payouts.WrongPayoutState) as refused:
            payouts.approve(session, run.id, actor="usr_2", now=DUE)
        assert refused.value.facts == {"state": "approved"}
        payouts.export_csv(session, run.id, actor="usr_2", now=DUE)
        with pytest.raises(payouts.WrongPayoutState, match="exported"):
            payouts.cancel(session, run.id, note="late", actor="usr_2", now=DUE)
        with pytest.raises(NotFound):
            payouts.get(session, "run_unknown")
        assert list(check(session)) == []


def test_the_payment_file_is_plain_csv_that_no_spreadsheet_runs(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session, currency="JPY")
        make.plan(session, program)
        who = make.publisher(session, name='=HYPERLINK("x"), "Ltd"', code="a-site")
        _earn(session, program, who, 12_340)
        run = payouts.propose(session, actor="usr_1", now=DUE)
        payouts.approve(session, run.id, actor="usr_2", now=DUE)

        text = payouts.export_csv(session, run.id, actor="usr_2", now=DUE)

        (payout,) = payouts.payouts_of(session, run.id)
        assert text.count("\r\n") == 2
        header, row = csv.reader(io.StringIO(text, newline=""))
        assert header == [
            "payout_id",
            "publisher_code",
            "publisher_name",
            "amount",
            "currency",
            "lines",
            "reference",
        ]
        assert row == [
            payout.id,
            "a-site",
            '\'=HYPERLINK("x"), "Ltd"',
            "1234",
            "JPY",
            "1",
            run.id,
        ]
