from datetime import date, timedelta

import pytest

from commissions import calendars


def day(text: str) -> date:
    return date.fromisoformat(text)


@pytest.mark.parametrize(
    ("year", "sunday"),
    [
        (1961, "1961-04-02"),
        (2024, "2024-03-31"),
        (2025, "2025-04-20"),
        (2026, "2026-04-05"),
        (2038, "2038-04-25"),
    ],
)
def test_easter(year: int, sunday: str) -> None:
    assert calendars.easter(year) == day(sunday)


def test_target_is_closed_on_six_days() -> None:
    assert sorted(one.isoformat() for one in calendars.target_holidays(2026)) == [
        "2026-01-01",
        "2026-04-03",
        "2026-04-06",
        "2026-05-01",
        "2026-12-25",
        "2026-12-26",
    ]


def test_american_banks_keep_eleven_days_and_move_sundays_only() -> None:
    assert sorted(one.isoformat() for one in calendars.us_holidays(2027)) == [
        "2027-01-01",
        "2027-01-18",
        "2027-02-15",
        "2027-05-31",
        "2027-06-19",
        "2027-07-05",
        "2027-09-06",
        "2027-10-11",
        "2027-11-11",
        "2027-11-25",
        "2027-12-25",
    ]
    assert day("2021-06-19") not in calendars.us_holidays(2021)


@pytest.mark.parametrize(
    ("start", "how", "calendar", "found"),
    [
        ("2026-04-03", "following", "target", "2026-04-07"),
        ("2026-04-03", "preceding", "target", "2026-04-02"),
        ("2026-04-03", "following", "weekdays", "2026-04-03"),
        ("2026-05-30", "following", "target", "2026-06-01"),
        ("2026-05-30", "modified_following", "target", "2026-05-29"),
        ("2026-05-16", "modified_following", "target", "2026-05-18"),
        ("2026-07-04", "following", "us", "2026-07-06"),
        ("2026-04-04", "none", "target", "2026-04-04"),
    ],
)
def test_rolls(start: str, how: str, calendar: str, found: str) -> None:
    assert calendars.roll(day(start), how, calendar) == day(found)


def test_business_days_are_counted_without_the_first() -> None:
    assert calendars.add_business_days(day("2026-04-02"), 1, "target") == day("2026-04-07")
    assert calendars.add_business_days(day("2026-04-04"), 0, "target") == day("2026-04-04")
    assert calendars.add_business_days(day("2026-04-02"), 3, "weekdays") == day("2026-04-07")


@pytest.mark.parametrize(
    ("start", "months", "found"),
    [
        ("2026-01-31", 1, "2026-02-28"),
        ("2024-01-31", 1, "2024-02-29"),
        ("2026-11-15", 3, "2027-02-15"),
        ("2026-01-31", 0, "2026-01-31"),
    ],
)
def test_months(start: str, months: int, found: str) -> None:
    assert calendars.add_months(day(start), months) == day(found)


def test_the_nearest_month_end() -> None:
    assert calendars.nearest_month_end(day("2026-04-01")) == day("2026-03-31")
    assert calendars.nearest_month_end(day("2026-04-29")) == day("2026-04-30")
    assert calendars.nearest_month_end(day("2026-02-28")) == day("2026-02-28")
    every = (day("2026-01-01") + timedelta(at) for at in range(400))
    assert all(abs(calendars.nearest_month_end(one) - one).days <= 15 for one in every)
