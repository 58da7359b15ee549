from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from commissions import schedules
from commissions.schedules import ScheduleError


def dates(rule: dict[str, Any], **start: str) -> dict[str, str]:
    found = schedules.read_terms(rule).dates(schedules.read_start(start))
    return {name: day.isoformat() for name, day in found.items()}


MONTHLY = {
    "lock": {"after": "month_end", "days": 27, "at": "end_of_day"},
    "pay": {"after": "lock_month_end", "days": 20},
}


@pytest.mark.parametrize(
    ("month", "locked_from", "invoice", "paid"),
    [
        ("2026-01", "2026-02-28", "2026-03-01", "2026-03-20"),
        # 28 February and 27 days are 27 March, closed at the end of that day.
        ("2026-02", "2026-03-28", "2026-04-01", "2026-04-20"),
        ("2028-01", "2028-02-28", "2028-03-01", "2028-03-20"),
    ],
)
def test_locked_after_the_month_and_paid_after_the_month_of_the_lock(
    month: str, locked_from: str, invoice: str, paid: str
) -> None:
    assert dates(MONTHLY, action_month=month) == {
        "locked_from": locked_from,
        "invoice": invoice,
        "paid": paid,
    }


def test_months_go_before_days() -> None:
    rule = {"lock": {"after": "month_end", "months": 1, "days": 5}, "pay": {"days": 2}}
    assert dates(rule, month="2026-01") == {
        "locked_from": "2026-03-05",
        "invoice": "2026-04-01",
        "paid": "2026-03-07",
    }


@pytest.mark.parametrize(
    ("month", "by"),
    [("2026-01", "2026-03-31"), ("2026-02", "2026-04-30"), ("2026-12", "2027-02-28")],
)
def test_about_sixty_days_after_a_month_is_the_end_of_a_month(month: str, by: str) -> None:
    rule = {"pay": {"after": "month_end", "days": 60, "by": "month_end"}}
    assert dates(rule, earning_month=month) == {"paid": by, "paid_by": by}


def test_approval_and_net_days() -> None:
    rule = {"approve_after_days": 30, "net_days": 15}
    assert dates(rule, created="2026-01-01") == {"approved": "2026-01-31", "paid": "2026-02-15"}
    assert dates({"net_days": 15}, created="2026-01-01") == {"paid": "2026-01-16"}


def test_the_tenth_of_the_month_after_the_next() -> None:
    rule = {"pay": {"after": "month_end", "months": 2, "day": 10}}
    assert dates(rule, earning_month="2026-01") == {"paid": "2026-03-10"}
    alike = {"pay": {"months_after": 2, "day_of_month": 10}}
    assert dates(alike, earning_month="2026-01") == {"paid": "2026-03-10"}
    assert dates({"roll": "following", "calendar": "TARGET"}, due="2026-04-03") == {
        "paid": "2026-04-07"
    }
    assert dates({"pay": {"months": 1, "day": 31}}, earning_month="2026-01") == {
        "paid": "2026-02-28"
    }


@pytest.mark.parametrize(
    ("created", "paid"),
    [
        ("2026-03-20", "2026-04-01"),
        # The first of May, the weekend after it.
        ("2026-04-16", "2026-05-04"),
        ("2026-05-01", "2026-05-04"),
        ("2026-05-02", "2026-05-15"),
    ],
)
def test_paid_on_two_days_of_a_month_rolled_to_a_business_day(created: str, paid: str) -> None:
    rule = {"pay": {"days": [1, 15], "roll": "following", "calendar": "TARGET"}}
    assert dates(rule, created=created) == {"paid": paid}
    alike = {"pay_days": [15, 1], "roll": "following", "calendar": "ECB"}
    assert dates(alike, created=created) == {"paid": paid}


def test_held_for_days_and_paid_business_days_later() -> None:
    rule = {"hold_days": 30, "pay": {"business_days": 2, "calendar": "target"}}
    assert dates(rule, created="2026-03-03T10:00:00Z") == {
        "locked_from": "2026-04-02",
        "invoice": "2026-05-01",
        "paid": "2026-04-08",
    }


@pytest.mark.parametrize(
    ("window", "at", "zone", "frozen"),
    [
        ("calendar_month", "2026-03", "UTC", "2026-05-01T00:00:00"),
        ("calendar_quarter", "2026-Q1", "UTC", "2026-05-01T00:00:00"),
        ("calendar_year", "2026", "UTC", "2027-01-31T00:00:00"),
        ("calendar_day", "2026-03-10", "Europe/Berlin", "2026-04-10T00:00:00"),
        ("calendar_week", "2026-W10", "UTC", "2026-04-08T00:00:00"),
    ],
)
def test_levels_freeze_days_after_their_window(
    window: str, at: str, zone: str, frozen: str
) -> None:
    local = schedules.read_window(at)
    assert local is not None
    found = schedules.frozen_from(window, local.replace(tzinfo=ZoneInfo(zone)), ZoneInfo(zone), 30)
    assert found is not None
    assert found.astimezone(ZoneInfo(zone)).replace(tzinfo=None).isoformat() == frozen


def test_a_lifetime_never_freezes() -> None:
    assert (
        schedules.frozen_from("lifetime", datetime(2026, 1, 1, tzinfo=UTC), ZoneInfo("UTC"), 30)
        is None
    )


@pytest.mark.parametrize(
    ("rule", "problem"),
    [
        ({}, "names no term"),
        (5, "must be an object"),
        ({"net_days": -1}, "rule.net_days: must not be negative"),
        ({"net_days": 1, "moon": 1}, "rule.moon: unknown field"),
        ({"pay": {"after": "new_moon"}}, "rule.pay.after: not supported"),
        ({"pay": {"day": 0}}, "rule.pay.day: must be at least 1"),
        ({"pay": {"day": 32}}, "rule.pay.day: must be at most 31"),
        ({"pay": {"days": [0]}}, "rule.pay.days: must hold days from 1 to 31"),
        ({"pay": {"by": "friday"}}, "rule.pay.by: not supported"),
        ({"net_days": 1, "calendar": "moon"}, "rule.calendar: must be one of"),
        ({"freeze_days": 3}, "rule.window: missing"),
        ({"window": "lifetime"}, "rule.window: not supported"),
    ],
)
def test_terms_that_cannot_be_kept_are_refused(rule: Any, problem: str) -> None:
    with pytest.raises(ScheduleError, match=problem.replace("[", r"\[")):
        schedules.read_terms(rule)


@pytest.mark.parametrize(
    ("start", "problem"),
    [
        ({}, "input.action_month: missing"),
        ({"created": "soon"}, "input.created: must be a date or a month"),
        ({"created": "2026-02-30"}, "input.created: must be a date or a month"),
        ({"created": "2026-02-01", "month": "2026-01"}, "names more than one start"),
        ({"moon": "2026-01"}, "input.moon: unknown field"),
        ("2026", "must be an object"),
    ],
)
def test_a_start_that_is_no_day_is_refused(start: Any, problem: str) -> None:
    with pytest.raises(ScheduleError, match=problem):
        schedules.read_start(start)


def test_what_terms_only_carry_comes_back() -> None:
    terms = schedules.read_terms({"net_days": 1, "min_payout_minor": 1000})
    assert schedules.carried(terms) == {"min_payout_minor": 1000}
