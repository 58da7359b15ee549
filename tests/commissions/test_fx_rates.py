from datetime import date, timedelta
from fractions import Fraction

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from commissions import fx_rates
from commissions.fx_rates import Book, Quote, Stored
from commissions.models import FxRate
from kernel.audit import AuditEntry
from kernel.database import unit_of_work
from kernel.errors import InvalidInput
from kernel.money import round_fraction
from kernel.outbox import OutboxRow
from tests.make import NOW

DAY = date(2026, 3, 6)


def stored(
    currency: str,
    rate: str,
    day: date = DAY,
    *,
    base: str = "EUR",
    source: str = "ecb",
    version: int = 1,
) -> Stored:
    return Stored(f"{source}:{currency}:{version}", source, day, base, currency, rate, version)


def test_the_last_publication_before_the_day_counts() -> None:
    """Over Easter 2024 every day has the rate of the Thursday."""
    thursday = date(2024, 3, 28)
    book = Book([stored("USD", "1.0811", thursday), stored("USD", "1.0749", date(2024, 4, 2))])
    for days in range(5):
        found = book.find("USD", "EUR", thursday + timedelta(days=days))
        assert found is not None
        assert (found.value, found.day) == (1 / Fraction("1.0811"), thursday)
    after = book.find("USD", "EUR", date(2024, 4, 2))
    assert after is not None
    assert after.value == 1 / Fraction("1.0749")
    assert book.find("USD", "EUR", thursday - timedelta(days=1)) is None
    assert book.find("EUR", "USD", thursday) is not None


def test_a_cross_rate_is_exact() -> None:
    """10.37 GBP are 1982 JPY; rounding the euros between gives 1983."""
    book = Book([stored("GBP", "0.85510"), stored("JPY", "163.45")])
    cross = book.find("GBP", "JPY", DAY)
    assert cross is not None
    assert round_fraction(Fraction("10.37") * cross.value) == 1982
    assert (cross.of.id, cross.to.id) == ("ecb:GBP:1", "ecb:JPY:1")


def test_rates_that_are_too_old_say_nothing() -> None:
    book = Book([stored("USD", "1.1")])
    last = DAY + timedelta(days=fx_rates.AGE_DAYS_MAX)
    assert book.find("USD", "EUR", last) is not None
    assert book.find("USD", "EUR", last + timedelta(days=1)) is None


def test_by_hand_before_any_source_and_later_versions_before_earlier_ones() -> None:
    rows = [
        stored("USD", "1.1"),
        stored("USD", "1.3", version=2),
        stored("USD", "1.2", version=1, source="another"),
    ]
    found = Book(rows).find("USD", "EUR", DAY)
    assert found is not None
    assert (found.of.rate, found.source) == ("1.3", "ecb")
    found = Book([*rows, stored("USD", "1.5", source="manual")]).find("USD", "EUR", DAY)
    assert found is not None
    assert (found.of.rate, found.source) == ("1.5", "manual")
    # The day comes first, whoever says it.
    newer = stored("USD", "1.6", DAY + timedelta(days=1))
    found = Book([*rows, stored("USD", "1.5", source="manual"), newer]).find(
        "USD", "EUR", DAY + timedelta(days=1)
    )
    assert found is not None
    assert found.of.rate == "1.6"


def test_the_base_with_the_newer_rates_is_the_way() -> None:
    direct = stored("EUR", "0.25", DAY - timedelta(days=3), base="AED", source="manual")
    by_euro = stored("AED", "4.01", DAY)
    found = Book([direct, by_euro]).find("AED", "EUR", DAY)
    assert found is not None
    assert found.value == 1 / Fraction("4.01")
    found = Book([direct]).find("AED", "EUR", DAY)
    assert found is not None
    assert (found.value, found.day) == (Fraction("0.25"), DAY - timedelta(days=3))
    assert Book([stored("USD", "1.1")]).find("AED", "EUR", DAY) is None


def quotes(session: Session) -> list[tuple[str, str, int]]:
    query = select(FxRate).order_by(col(FxRate.version), col(FxRate.currency))
    return [(one.currency, one.rate, one.version) for one in session.exec(query)]


def test_a_repeat_is_nothing_new_and_a_correction_is_a_version(engine: Engine) -> None:
    first = [Quote(DAY, "EUR", "USD", "1.10"), Quote(DAY, "EUR", "GBP", "0.8551")]
    with unit_of_work(engine) as session:
        assert fx_rates.record(session, "ecb", first, actor="t", now=NOW) == 2
        # Another spelling of the same number, and a repeat in one call.
        again = [Quote(DAY, "EUR", "USD", "1.1"), *first]
        assert fx_rates.record(session, "ecb", again, actor="t", now=NOW) == 0
        other = [Quote(DAY, "EUR", "USD", "1.11")]
        assert fx_rates.record(session, "ecb", other, actor="t", now=NOW) == 1
        assert fx_rates.record(session, "ecb", other, actor="t", now=NOW) == 0
        assert fx_rates.record(session, "manual", other, actor="t", now=NOW) == 1
        assert quotes(session) == [
            ("GBP", "0.8551", 1),
            ("USD", "1.10", 1),
            ("USD", "1.11", 1),
            ("USD", "1.11", 2),
        ]
        assert len(session.exec(select(AuditEntry)).all()) == 3
        # Nobody waits for a rate.
        assert session.exec(select(OutboxRow)).all() == []
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), unit_of_work(engine) as session:
        session.execute(sa.update(FxRate).values(rate="2"))


@pytest.mark.parametrize(
    ("quote", "field"),
    [
        (Quote(DAY, "EUR", "USX", "1"), "rates[0].currency"),
        (Quote(DAY, "eur", "USD", "1"), "rates[0].base"),
        (Quote(DAY, "EUR", "EUR", "1"), "rates[0].currency"),
        (Quote(DAY, "EUR", "USD", "0"), "rates[0].rate"),
        (Quote(DAY, "EUR", "USD", "-1"), "rates[0].rate"),
        (Quote(DAY, "EUR", "USD", "1e3"), "rates[0].rate"),
        (Quote(DAY, "EUR", "USD", "1.1234567890123"), "rates[0].rate"),
        (Quote(NOW.date() + timedelta(days=1), "EUR", "USD", "1"), "rates[0].day"),
        (Quote(date(1989, 12, 31), "EUR", "USD", "1"), "rates[0].day"),
    ],
)
def test_what_is_no_rate_is_refused_and_nothing_kept(
    sqlite_engine: Engine, quote: Quote, field: str
) -> None:
    with unit_of_work(sqlite_engine) as session:
        good = Quote(DAY, "EUR", "USD", "1.1")
        with pytest.raises(InvalidInput) as refused:
            fx_rates.record(session, "ecb", [quote, good], actor="t", now=NOW)
        assert [one.field for one in refused.value.problems] == [field]
        with pytest.raises(InvalidInput, match="source"):
            fx_rates.record(session, "The ECB", [good], actor="t", now=NOW)
        assert quotes(session) == []
