from datetime import date, timedelta

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import Session

from commissions import accruals, earnings
from commissions.earnings import CountryRow, DayRow, EarningsRow
from commissions.statements import Filters
from kernel.database import unit_of_work
from kernel.errors import InvalidInput
from network.access import Actor
from network.models import Program, Publisher, Role
from tests import make
from tests.make import NOW
from tracker.models import ChangeKind

MANAGER = Actor("usr_m", Role.MANAGER, "", "Manager")
RATES = {"pivot": "EUR", "rates": {"2026-03-01": {"USD": "2"}}}


def _world(session: Session) -> tuple[Program, Publisher, Publisher]:
    program = make.program(session)
    make.plan(session, program, fx=RATES)
    mine, theirs = make.publisher(session), make.publisher(session)
    yesterday = NOW - timedelta(days=1)
    sales = [
        make.conversion(session, program, mine, country="DE"),
        make.conversion(session, program, mine, country="DE", occurred_at=yesterday),
        make.conversion(session, program, mine, currency="USD"),
        make.conversion(session, program, theirs, country="FR", reported_status="declined"),
        make.conversion(session, program, None),
    ]
    make.change(session, sales[0], ChangeKind.REFUND, amount_minor=5000)
    for sale in sales:
        accruals.accrue(session, sale.id, hold_reason=None, now=NOW)
        accruals.apply_changes(session, sale.id, now=NOW)
    return program, mine, theirs


def test_sums_by_status_never_add_two_currencies(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program, mine, _ = _world(session)

        rows = earnings.by_status(session, MANAGER, filters=Filters())

        # 100 USD are 50 EUR at the rate of the day, so they earn 5.00 EUR.
        assert rows == [
            EarningsRow(program.id, "EUR", "declined", 1, 10_000, 0),
            EarningsRow(program.id, "EUR", "pending", 2, 20_000, 500 + 1000 + 500),
            EarningsRow(program.id, "USD", "pending", 1, 10_000, 0),
        ]
        publisher = Actor("usr_p", Role.PUBLISHER, mine.id, "Publisher")
        assert earnings.by_status(session, publisher, filters=Filters()) == rows[1:]
        assert earnings.by_status(session, publisher, filters=Filters(status="paid")) == []


def test_sums_by_day(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program, mine, _ = _world(session)
        publisher = Actor("usr_p", Role.PUBLISHER, mine.id, "Publisher")

        rows = earnings.by_day(session, publisher, days=2, now=NOW, program_id=program.id)
        today = earnings.by_day(session, publisher, days=1, now=NOW)

        assert rows == [
            DayRow(date(2026, 3, 9), "EUR", 1, 10_000, 1000),
            DayRow(date(2026, 3, 10), "EUR", 1, 10_000, 500 + 500),
            DayRow(date(2026, 3, 10), "USD", 1, 10_000, 0),
        ]
        assert today == rows[1:]
        with pytest.raises(InvalidInput, match="days"):
            earnings.by_day(session, publisher, days=0, now=NOW)


def test_sums_by_country_count_refunds_and_the_unknown(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        program, _, _ = _world(session)
        advertiser = Actor("usr_a", Role.ADVERTISER, program.advertiser_id, "Advertiser")
        stranger = Actor("usr_s", Role.ADVERTISER, "adv_other", "Stranger")

        rows = earnings.by_country(session, advertiser, program_id=program.id)

        assert rows == [
            CountryRow("DE", "EUR", 2, 20_000, 5000, 1500),
            CountryRow("", "USD", 1, 10_000, 0, 0),
            CountryRow("FR", "EUR", 1, 10_000, 0, 0),
            CountryRow("", "EUR", 0, 0, 0, 500),
        ]
        assert earnings.by_country(session, stranger, program_id=program.id) == []
