from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from commissions import accruals, ledger, payouts
from commissions.checks import check
from commissions.models import Booking, Commission, CommissionStep, Transaction
from commissions.reasons import Reason
from kernel.database import unit_of_work
from kernel.errors import InvalidInput, NotFound
from network.models import Program, Publisher
from tests import make
from tests.make import NOW
from tracker.attribution import NotAttributed
from tracker.models import Attribution, ChangeKind, Conversion

LATER = NOW + timedelta(days=2)
LOCKED = NOW + timedelta(days=31)

GRADUATED = {
    "id": "ladder",
    "tiers": {
        "mode": "graduated",
        "measure": "sales",
        "window": "calendar_month",
        "levels": [{"from": 0, "percent": "5"}, {"from": 15_000, "percent": "10"}],
    },
}
VOLUME = {
    "id": "volume",
    "tiers": {
        "mode": "volume",
        "measure": "count",
        "window": "calendar_month",
        "levels": [{"from": 1, "percent": "5"}, {"from": 3, "percent": "10"}],
    },
}


def _setting(session: Session, *rules: dict[str, Any]) -> tuple[Program, Publisher]:
    program = make.program(session)
    who = make.publisher(session, member_of=program)
    make.plan(session, program, *rules)
    return program, who


def _all(session: Session) -> list[Commission]:
    query = select(Commission).order_by(col(Commission.seq), col(Commission.part))
    return list(session.exec(query.execution_options(populate_existing=True)))


def _accrue(session: Session, sale: Conversion, **facts: Any) -> Commission:
    commission = accruals.accrue(session, sale.id, **{"hold_reason": None, "now": NOW} | facts)
    assert commission is not None
    return commission


def _amounts(session: Session) -> list[int]:
    query = sa.select(col(Commission.amount_minor)).order_by(col(Commission.seq))
    return list(session.execute(query).scalars())


def _path(who: Publisher, name: str) -> str:
    return f"pub:{who.id}:{name}"


def test_a_sale_is_booked_once_with_ledger_step_and_explanation(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program, who = _setting(session)
        sale = make.conversion(session, program, who)

        first = _accrue(session, sale)
        again = _accrue(session, sale, now=LATER)

        assert again.id == first.id
        assert (first.amount_minor, first.status, first.reason) == (1000, "pending", "")
        assert (first.base_minor, first.units) == (10_000, 1)
        assert first.lock_at == NOW + timedelta(days=30)
        booking = session.exec(select(Booking)).one()
        assert (booking.kind, booking.delta_minor, booking.total_minor) == ("accrue", 1000, 1000)
        assert booking.explanation["lines"][0]["rule_id"] == "all"
        step = session.exec(select(CommissionStep)).one()
        assert (step.from_status, step.to_status, step.actor) == ("", "pending", "system")
        assert ledger.balance(session, _path(who, "pending"), "EUR") == 1000
        assert ledger.balance(session, f"adv:{program.advertiser_id}:unbilled", "EUR") == 1000
        assert list(check(session)) == []


def test_a_booking_that_a_savepoint_took_back_can_be_made_again(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program, who = _setting(session)
        sale = make.conversion(session, program, who)
        savepoint = session.begin_nested()
        taken_back = _accrue(session, sale).id
        savepoint.rollback()
        assert _amounts(session) == []

        again = _accrue(session, sale)

        assert again.id != taken_back
        assert _amounts(session) == [1000]
        session.refresh(again)
        assert (again.amount_minor, again.status) == (1000, "pending")
        assert list(check(session)) == []


def test_items_are_priced_line_by_line(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        program, who = _setting(
            session,
            {"id": "books", "when": {"category": ["books"]}, "pay": {"percent": "4.5"}},
            {"id": "rest", "pay": {"percent": "1"}},
        )
        items = [
            {"category": "books", "amount_minor": 999, "quantity": 2},
            {"category": "toys", "amount_minor": 5050},
        ]
        sale = make.conversion(session, program, who, items=items, amount_minor=6049)

        commission = _accrue(session, sale)

        assert commission.amount_minor == 45 + 51
        assert commission.units == 3


def test_nobody_is_owed_for_an_order_nobody_brought(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program, _ = _setting(session)
        sale = make.conversion(session, program, None)
        make.change(session, sale, ChangeKind.REFUND, amount_minor=100)

        assert accruals.accrue(session, sale.id, hold_reason=None, now=NOW) is None
        assert accruals.apply_changes(session, sale.id, now=LATER) == 0
        assert session.exec(select(Commission)).all() == []
        assert session.exec(select(Transaction)).all() == []


def test_unknown_and_unattributed_conversions_are_refused(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        program, who = _setting(session)
        with pytest.raises(NotFound):
            accruals.accrue(session, "cnv_unknown", hold_reason=None, now=NOW)
        fresh = Conversion(
            **make.conversion(session, program, who).model_dump()
            | {"seq": None, "id": "cnv_fresh", "order_id": "fresh"}
        )
        session.add(fresh)
        with pytest.raises(NotAttributed):
            accruals.accrue(session, "cnv_fresh", hold_reason=None, now=NOW)
        with pytest.raises(InvalidInput, match="hold_reason"):
            accruals.accrue(session, fresh.id, hold_reason="Not a code", now=NOW)
        assert session.exec(select(Commission)).all() == []


@pytest.mark.parametrize(
    ("_case", "rules", "facts", "reason"),
    [
        ("no plan yet", None, {}, Reason.NO_PLAN),
        (
            "no rule",
            [{"id": "de", "when": {"country": ["DE"]}, "pay": {"percent": "5"}}],
            {"country": "FR"},
            Reason.NO_RULE,
        ),
        ("rate of zero", [{"id": "z", "pay": {"percent": "0"}}], {}, Reason.ZERO_RATE),
        (
            "no exchange rate",
            [{"id": "all", "pay": {"percent": "5"}}],
            {"currency": "USD"},
            Reason.NO_RATE,
        ),
    ],
)
def test_what_earns_nothing_is_booked_at_zero_with_its_reason(
    sqlite_engine: Engine,
    _case: str,
    rules: list[dict[str, Any]] | None,
    facts: dict[str, Any],
    reason: Reason,
) -> None:
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session)
        who = make.publisher(session)
        if rules is not None:
            make.plan(session, program, *rules)
        sale = make.conversion(session, program, who, **facts)

        commission = _accrue(session, sale)

        assert (commission.amount_minor, commission.reason) == (0, reason)
        assert session.exec(select(Booking.delta_minor)).all() == [0]
        assert session.exec(select(Transaction)).all() == []
        assert list(check(session)) == []


def test_a_suppressed_coupon_earns_nothing_and_an_exclusive_one_pays_its_owner(
    sqlite_engine: Engine,
) -> None:
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session)
        clicker, owner = make.publisher(session), make.publisher(session)
        make.plan(
            session,
            program,
            suppressed_coupons=["STAFF"],
            exclusive_coupons={"STAR": owner.id},
        )
        staff = make.conversion(session, program, clicker, coupon="STAFF")
        star = make.conversion(session, program, clicker, coupon="STAR")
        clickless = make.conversion(session, program, None, coupon="STAR")

        assert _accrue(session, staff).reason == Reason.COUPON_SUPPRESSED
        assert _accrue(session, star).publisher_id == owner.id
        assert _accrue(session, clickless).publisher_id == owner.id
        assert _amounts(session) == [0, 1000, 1000]
        assert list(check(session)) == []


def test_the_country_of_the_click_stands_in_where_the_plan_says_so(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session)
        who = make.publisher(session)
        make.plan(
            session,
            program,
            {"id": "de", "when": {"country": ["DE"]}, "pay": {"percent": "7"}},
            {"id": "rest", "pay": {"percent": "1"}},
            country_basis=["country", "country_click"],
        )
        clicked = make.click(session, program, who, country="DE")
        silent = make.conversion(session, program, who, clicked=clicked)
        told = make.conversion(session, program, who, clicked=clicked, country="FR")

        assert _accrue(session, silent).amount_minor == 700
        assert _accrue(session, told).amount_minor == 100


def test_reported_status_is_booked_and_then_decided(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program, who = _setting(session)
        approved = make.conversion(session, program, who, reported_status="approved")
        declined = make.conversion(session, program, who, reported_status="declined")

        assert _accrue(session, approved).status == "approved"
        refused = _accrue(session, declined)

        assert (refused.status, refused.amount_minor) == ("declined", 0)
        assert refused.reason == Reason.DECLINED_BY_ADVERTISER
        deltas = session.exec(
            select(Booking.delta_minor).where(Booking.conversion_id == declined.id)
        ).all()
        assert deltas == [1000, -1000]
        assert ledger.balance(session, _path(who, "approved"), "EUR") == 1000
        assert ledger.balance(session, _path(who, "pending"), "EUR") == 0
        assert list(check(session)) == []


def test_the_fast_path_counts_exactly_what_a_replay_counts(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        program, who = _setting(session, GRADUATED)
        for _ in range(3):
            _accrue(session, make.conversion(session, program, who))

        # 150.00 at 5 %, the rest at 10 %.
        assert _amounts(session) == [500, 500 - 250 + 500, 1000]
        kinds = session.exec(select(Booking.kind)).all()
        assert kinds == ["accrue"] * 3
        assert list(check(session)) == []


def test_counters_are_kept_apart_by_publisher_and_month(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        program, who = _setting(session, GRADUATED)
        other = make.publisher(session, member_of=program)
        _accrue(session, make.conversion(session, program, who, amount_minor=20_000))
        _accrue(session, make.conversion(session, program, other))
        april = make.conversion(session, program, who, occurred_at=NOW + timedelta(days=30))
        _accrue(session, april)

        assert _amounts(session) == [750 + 500, 500, 500]
        assert list(check(session)) == []


def test_a_volume_tier_trues_up_earlier_orders_and_back_down(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program, who = _setting(session, VOLUME)
        sales = [make.conversion(session, program, who) for _ in range(3)]
        for sale in sales:
            _accrue(session, sale)
        assert _amounts(session) == [1000, 1000, 1000]
        make.change(session, sales[0], ChangeKind.CANCEL, reason="test_order")

        applied = accruals.apply_changes(session, sales[0].id, now=LATER)
        again = accruals.apply_changes(session, sales[0].id, now=LATER)

        assert (applied, again) == (1, 0)
        assert _amounts(session) == [0, 500, 500]
        commissions = session.exec(select(Commission).order_by(col(Commission.seq))).all()
        assert [one.status for one in commissions] == ["reversed", "pending", "pending"]
        assert [one.reason for one in commissions] == ["test_order"] + ["tier_changed"] * 2
        kinds = session.exec(select(Booking.kind).order_by(col(Booking.seq))).all()
        assert kinds == ["accrue"] * 3 + ["tier_true_up"] * 2 + ["cancel"] + ["tier_true_up"] * 2
        assert ledger.balance(session, _path(who, "pending"), "EUR") == 1000
        assert list(check(session)) == []


def test_a_plan_change_in_the_middle_of_the_month_keeps_the_counters(
    sqlite_engine: Engine,
) -> None:
    with unit_of_work(sqlite_engine) as session:
        program, who = _setting(session, VOLUME)
        flat = {"id": "flat", "pay": {"percent": "1"}}
        make.plan(session, program, flat, effective_from=NOW + timedelta(days=1))
        early = [make.conversion(session, program, who) for _ in range(2)]
        for sale in early:
            _accrue(session, sale)
        assert _amounts(session) == [500, 500]

        late = make.conversion(session, program, who, occurred_at=NOW + timedelta(days=2))
        _accrue(session, late, now=LATER)

        # The third order of the month is paid by the new plan, and lifts those of the old one.
        assert _amounts(session) == [1000, 1000, 100]
        assert list(check(session)) == []


def test_a_counter_shared_by_publishers_moves_them_all(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        everyone = {**VOLUME, "tiers": {**VOLUME["tiers"], "scope": ["program"]}}  # type: ignore[dict-item]  # tests write plans as JSON
        program, who = _setting(session, everyone)
        other = make.publisher(session, member_of=program)
        for one in (who, other, other):
            _accrue(session, make.conversion(session, program, one))

        assert _amounts(session) == [1000, 1000, 1000]
        assert list(check(session)) == []


def test_a_budget_is_spent_in_booking_order(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        program = make.program(session)
        make.plan(session, program, caps={"budget_minor": 1500})
        sales = [make.conversion(session, program, make.publisher(session)) for _ in range(3)]
        capped = [_accrue(session, sale) for sale in sales]

        assert [one.amount_minor for one in capped] == [1000, 500, 0]
        assert [one.reason for one in capped] == ["", "program_budget", "program_budget"]
        assert [one.uncapped_minor for one in capped] == [1000, 1000, 1000]
        assert [one.status for one in capped] == ["pending", "pending", "capped"]
        make.change(session, sales[0], ChangeKind.CANCEL)
        accruals.apply_changes(session, sales[0].id, now=LATER)
        assert _amounts(session) == [0, 1000, 500]
        # The room that became free went to the orders that a cap had cut, in their order.
        assert [(one.status, one.reason) for one in _all(session)] == [
            ("reversed", "cancelled"),
            ("pending", ""),
            ("pending", "program_budget"),
        ]
        assert list(check(session)) == []


def test_room_freed_in_a_window_goes_to_its_own_orders_only(engine: Engine) -> None:
    caps = {"per_publisher_window_minor": 1500, "window": "calendar_month"}
    with unit_of_work(engine) as session:
        program, who = make.program(session), make.publisher(session)
        make.plan(session, program, caps=caps)
        earlier = NOW - timedelta(days=31)
        times = [earlier, earlier, NOW, NOW, NOW]
        sales = [make.conversion(session, program, who, occurred_at=at) for at in times]
        for sale in sales:
            _accrue(session, sale)
        assert _amounts(session) == [1000, 500, 1000, 500, 0]
        assert [one.status for one in _all(session)][-2:] == ["pending", "capped"]
        assert _all(session)[-1].reason == "publisher_cap"

        make.change(session, sales[2], ChangeKind.REFUND, amount_minor=5_000)
        accruals.apply_changes(session, sales[2].id, now=LATER)

        # 500 fewer of the third order: the fourth has its whole thousand, nothing is left for the
        # fifth, and the month before keeps what it had.
        assert _amounts(session) == [1000, 500, 500, 1000, 0]
        assert [one.status for one in _all(session)][-2:] == ["pending", "capped"]
        assert list(check(session)) == []


def test_an_order_that_is_cut_off_is_never_payable_and_stands_again_with_room(
    engine: Engine,
) -> None:
    with unit_of_work(engine) as session:
        program, who = make.program(session), make.publisher(session)
        make.plan(session, program, caps={"budget_minor": 1000})
        first, second = (make.conversion(session, program, who) for _ in range(2))
        _accrue(session, first)
        assert _accrue(session, second).status == "capped"
        locked = NOW + timedelta(days=60)
        assert accruals.sweep(session, now=locked, rows_max=10) == 1
        assert [one.status for one in _all(session)] == ["payable", "capped"]

        make.change(session, first, ChangeKind.CANCEL)
        accruals.apply_changes(session, first.id, now=locked)
        assert [one.status for one in _all(session)] == ["reversed", "pending"]
        assert accruals.sweep(session, now=locked, rows_max=10) == 1
        assert [(one.status, one.amount_minor) for one in _all(session)] == [
            ("reversed", 0),
            ("payable", 1000),
        ]
        assert list(check(session)) == []


def test_a_held_order_stays_held_however_much_is_cut_and_is_capped_when_released(
    sqlite_engine: Engine,
) -> None:
    with unit_of_work(sqlite_engine) as session:
        program, who = make.program(session), make.publisher(session)
        make.plan(session, program, caps={"budget_minor": 1000})
        first, second = (make.conversion(session, program, who) for _ in range(2))
        _accrue(session, first)
        assert _accrue(session, second, hold_reason=Reason.FRAUD_SUSPECTED).status == "held"

        accruals.release(session, second.id, actor="usr_1", now=LATER)

        found = _all(session)[1]
        assert (found.status, found.reason, found.amount_minor) == ("capped", "program_budget", 0)
        make.change(session, second, ChangeKind.DECLINE)
        accruals.apply_changes(session, second.id, now=LATER)
        assert _all(session)[1].status == "declined"
        assert list(check(session)) == []


@pytest.mark.parametrize(
    ("_case", "refund", "left", "status"),
    [
        ("part of a line", {"line": 1, "amount_minor": 1000}, 900, "pending"),
        ("part of the order", {"amount_minor": 3333}, 667, "pending"),
        ("all of it", {"amount_minor": 10_000}, 0, "reversed"),
        ("more than there is", {"amount_minor": 99_999}, 0, "reversed"),
    ],
)
def test_a_refund_books_the_difference(
    sqlite_engine: Engine, _case: str, refund: dict[str, Any], left: int, status: str
) -> None:
    with unit_of_work(sqlite_engine) as session:
        program, who = _setting(session)
        items = [{"amount_minor": 4000, "quantity": 2}, {"amount_minor": 6000}]
        sale = make.conversion(session, program, who, items=items)
        commission = _accrue(session, sale)
        make.change(session, sale, ChangeKind.REFUND, **refund)

        accruals.apply_changes(session, sale.id, now=LATER)

        session.refresh(commission)
        assert (commission.amount_minor, commission.status) == (left, status)
        expected = Reason.REFUNDED if left == 0 else Reason.PARTLY_REFUNDED
        assert commission.reason == expected
        assert list(check(session)) == []


def test_a_hold_keeps_the_order_from_the_tiers_until_it_is_released(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program, who = _setting(session, VOLUME)
        sales = [make.conversion(session, program, who) for _ in range(3)]
        held = _accrue(session, sales[0], hold_reason=Reason.FRAUD_SUSPECTED)
        for sale in sales[1:]:
            _accrue(session, sale)
        assert (held.status, held.reason) == ("held", "fraud_suspected")
        assert _amounts(session) == [500, 500, 500]
        assert ledger.balance(session, _path(who, "held"), "EUR") == 500
        assert accruals.sweep(session, now=LOCKED, rows_max=100) == 2

        for _ in range(2):
            accruals.release(session, sales[0].id, actor="usr_1", now=LATER)

        assert _amounts(session) == [1000, 1000, 1000]
        session.refresh(held)
        assert (held.status, held.reason) == ("pending", "")
        assert ledger.balance(session, _path(who, "held"), "EUR") == 0
        assert ledger.balance(session, _path(who, "payable"), "EUR") == 2000
        assert list(check(session)) == []


def test_what_was_voided_is_never_revived(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program, who = _setting(session)
        sale = make.conversion(session, program, who)
        commission = _accrue(session, sale, hold_reason="fraud_suspected")
        for _ in range(2):
            accruals.void(session, sale.id, reason="fraud_confirmed", actor="usr_1", now=LATER)
        make.change(session, sale, ChangeKind.APPROVE)
        accruals.apply_changes(session, sale.id, now=LATER)

        session.refresh(commission)
        assert (commission.status, commission.amount_minor) == ("declined", 0)
        assert commission.reason == "fraud_confirmed"
        assert ledger.balance(session, _path(who, "held"), "EUR") == 0
        assert list(check(session)) == []


def test_a_decline_can_be_taken_back_and_a_hold_outlives_it(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        program, who = _setting(session)
        sale = make.conversion(session, program, who)
        commission = _accrue(session, sale, hold_reason="fraud_suspected")
        make.change(session, sale, ChangeKind.DECLINE, reason="Never paid for it")
        accruals.apply_changes(session, sale.id, now=LATER)
        session.refresh(commission)
        assert (commission.status, commission.reason) == ("declined", "declined_by_advertiser")

        make.change(session, sale, ChangeKind.APPROVE)
        accruals.apply_changes(session, sale.id, now=LATER)
        session.refresh(commission)
        assert (commission.status, commission.reason) == ("held", "fraud_suspected")
        assert commission.amount_minor == 1000

        accruals.release(session, sale.id, actor="usr_1", now=LATER)
        session.refresh(commission)
        assert commission.status == "approved"
        assert list(check(session)) == []


def test_the_sweep_takes_what_is_due_and_leaves_the_rest(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program, who = _setting(session)
        sales = [
            make.conversion(session, program, who, occurred_at=NOW + timedelta(hours=hour))
            for hour in range(3)
        ]
        for sale in sales:
            _accrue(session, sale)
        due = NOW + timedelta(days=30, hours=1)

        assert accruals.sweep(session, now=due - timedelta(hours=2), rows_max=10) == 0
        assert accruals.sweep(session, now=due, rows_max=1) == 1
        assert accruals.sweep(session, now=due, rows_max=10) == 1
        assert accruals.sweep(session, now=due, rows_max=10) == 0
        query = select(Commission.status).order_by(col(Commission.seq))
        assert session.exec(query).all() == ["payable", "payable", "pending"]
        assert ledger.balance(session, _path(who, "payable"), "EUR") == 2000
        steps = session.exec(
            select(CommissionStep.to_status).where(CommissionStep.conversion_id == sales[0].id)
        ).all()
        assert steps == ["pending", "approved", "payable"]
        assert list(check(session)) == []


def test_tiers_of_approved_orders_move_when_the_lock_date_approves(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        approved = {**VOLUME, "tiers": {**VOLUME["tiers"], "counts": "approved"}}  # type: ignore[dict-item]  # tests write plans as JSON
        program, who = _setting(session, approved)
        for _ in range(3):
            _accrue(session, make.conversion(session, program, who))
        assert _amounts(session) == [500, 500, 500]

        accruals.sweep(session, now=LOCKED, rows_max=10)

        assert _amounts(session) == [1000, 1000, 1000]
        assert list(check(session)) == []


def test_imported_history_counts_in_its_own_months(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        program, who = _setting(session, VOLUME)
        long_ago = NOW - timedelta(days=200)
        for _ in range(3):
            sale = make.conversion(
                session, program, who, occurred_at=long_ago, received_at=NOW, imported=True
            )
            _accrue(session, sale)

        assert _amounts(session) == [1000, 1000, 1000]
        assert list(check(session)) == []


def test_attribution_row_is_what_decides(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        program, who = _setting(session)
        sale = make.conversion(session, program, who)
        decided = session.exec(select(Attribution)).one()

        assert _accrue(session, sale).publisher_id == decided.publisher_id


PLANS: list[list[dict[str, Any]]] = [
    [{"id": "flat", "pay": {"percent": "3.33"}}],
    [GRADUATED],
    [VOLUME],
    [
        GRADUATED,
        {"id": "first", "kind": "bonus", "pay": {"fixed_minor": 77, "once_per_publisher": True}},
    ],
]
NAMES = (
    *("sale", "sale", "held", "refund", "cancel", "decline", "approve"),
    *("release", "void", "sweep", "sweep", "propose", "settle", "settle", "cancel_run"),
)
STEPS = st.lists(
    st.tuples(
        st.sampled_from(NAMES),
        st.integers(0, 7),
        st.integers(1, 12_000),
    ),
    min_size=1,
    max_size=16,
)


class _Story:
    """Plays steps against real tables; every handler runs twice, as the outbox may."""

    def __init__(self, session: Session, rules: list[dict[str, Any]]) -> None:
        self.session = session
        # Five days a step and a hold of five, so that money gets as far as the bank.
        self.program, self.who = _setting(session, *rules)
        self.program.hold_days = 5
        self.others = [self.who, make.publisher(session)]
        self.sales: list[Conversion] = []

    def play(self, step: str, which: int, amount_minor: int, at: int) -> None:
        now = NOW + timedelta(days=5 * at)
        if step in {"sale", "held"}:
            self._sell(which, amount_minor, "fraud_suspected" if step == "held" else None, now)
        elif step in {"refund", "cancel", "decline", "approve"} and self.sales:
            sale = self.sales[which % len(self.sales)]
            facts = {"amount_minor": amount_minor} if step == "refund" else {}
            make.change(self.session, sale, ChangeKind(step), received_at=now, **facts)
            for _ in range(2):
                accruals.apply_changes(self.session, sale.id, now=now)
        elif step in {"release", "void"} and self.sales:
            self._decide(step, self.sales[which % len(self.sales)], now)
        elif step == "sweep":
            accruals.sweep(self.session, now=now, rows_max=3)
        elif step in {"propose", "settle", "cancel_run"}:
            self._pay(step, now)

    def _sell(self, which: int, amount_minor: int, hold: str | None, now: Any) -> None:
        items = [{"amount_minor": amount_minor}, {"amount_minor": which}] if which % 2 else []
        total = amount_minor + (which if items else 0)
        sale = make.conversion(
            self.session,
            self.program,
            self.others[which % 2],
            items=items,
            amount_minor=total,
            occurred_at=now,
        )
        self.sales.append(sale)
        for _ in range(2):
            accruals.accrue(self.session, sale.id, hold_reason=hold, now=now)

    def _decide(self, step: str, sale: Conversion, now: Any) -> None:
        for _ in range(2):
            if step == "release":
                accruals.release(self.session, sale.id, actor="usr_1", now=now)
            else:
                accruals.void(
                    self.session, sale.id, reason="fraud_confirmed", actor="usr_1", now=now
                )

    def _pay(self, step: str, now: Any) -> None:
        run = payouts.propose(self.session, actor="usr_1", now=now)
        if step == "propose":
            return
        payouts.approve(self.session, run.id, actor="usr_2", now=now)
        if step == "cancel_run":
            payouts.cancel(self.session, run.id, actor="usr_2", note="again", now=now)
            return
        payouts.export_csv(self.session, run.id, actor="usr_2", now=now)
        payouts.settle(self.session, run.id, reference="bank 1", actor="usr_2", now=now)


@pytest.mark.parametrize("rules", PLANS, ids=["flat", "graduated", "volume", "bonus"])
@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(steps=STEPS)
def test_any_order_of_events_leaves_sound_books_and_cancelling_all_leaves_nothing(
    sqlite_engine: Engine, rules: list[dict[str, Any]], steps: list[tuple[str, int, int]]
) -> None:
    with Session(sqlite_engine, expire_on_commit=False) as session:
        story = _Story(session, rules)
        for at, (step, which, amount_minor) in enumerate(steps):
            story.play(step, which, amount_minor, at)
        assert list(check(session)) == []

        end = NOW + timedelta(days=5 * len(steps))
        for sale in story.sales:
            make.change(session, sale, ChangeKind.CANCEL, received_at=end)
            accruals.apply_changes(session, sale.id, now=end)

        assert set(_amounts(session)) <= {0}
        assert list(check(session)) == []
        unbilled = f"adv:{story.program.advertiser_id}:unbilled"
        assert ledger.balance(session, unbilled, "EUR") == 0
        session.rollback()
