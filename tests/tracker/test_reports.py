"""Reports against sums made the slow way: click by click, order by order."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import Session

from kernel.database import reading, unit_of_work
from kernel.errors import Forbidden, InvalidInput
from network.access import Actor
from network.models import Program, Publisher, Role
from tests import make
from tracker import reports, rollup_orders
from tracker.reports import Line, Question

PHONE = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) AppleWebKit/605 Mobile/15E148"
MANAGER = Actor(id="m", role=Role.MANAGER, party_id="", name="m")
MIDNIGHT = datetime(2026, 3, 10, tzinfo=UTC)


class Network:
    """Two programs in two currencies, three publishers, clicks and orders of ten days."""

    def __init__(self, session: Session) -> None:
        self.random = random.Random(7)  # noqa: S311 - a test's dice
        self.programs = [make.program(session), make.program(session, currency="USD")]
        self.publishers = [make.publisher(session) for _ in range(3)]
        self.clicks = [self._click(number) for number in range(600)]
        make.count_clicks(session, self.clicks, values_max=1000)
        self.orders = [self._order(session) for _ in range(40)]

    def _click(self, number: int) -> dict[str, Any]:
        pick = self.random
        return {
            "program_id": pick.choice(self.programs).id,
            "publisher_id": pick.choice(self.publishers).id,
            "at": MIDNIGHT - timedelta(minutes=pick.randrange(10 * 24 * 60)),
            "unbillable_reason": pick.choice(["", "", "", "head", "no_consent_tcf"]),
            "visitor_key": f"v{number}" if number % 3 else "",
            "user_agent": pick.choice([PHONE, ""]),
            "country": pick.choice(["DE", "FR", None]),
            "sub_ids": pick.choice([{}, {"s1": "blue"}, {"s1": "red", "s2": "top"}]),
        }

    def _order(self, session: Session) -> dict[str, Any]:
        pick = self.random
        program = pick.choice(self.programs)
        who: Publisher | None = pick.choice([*self.publishers, None])
        made = make.conversion(
            session,
            program,
            who,
            occurred_at=MIDNIGHT - timedelta(minutes=pick.randrange(10 * 24 * 60)),
            amount_minor=pick.randrange(1, 50_000),
        )
        earned = pick.randrange(5_000) if who else 0
        rollup_orders.refresh(session, [made.id])
        if who:
            rollup_orders.earn(session, {made.id: rollup_orders.Earned(program.currency, earned)})
        return {
            "program_id": program.id,
            "publisher_id": who.id if who else None,
            "at": made.occurred_at,
            "amount": made.amount_minor,
            "earned": earned,
            "currency": program.currency,
        }

    def actor(self, party: Program | Publisher) -> Actor:
        if isinstance(party, Program):
            return Actor(id="a", role=Role.ADVERTISER, party_id=party.advertiser_id, name="a")
        return Actor(id="p", role=Role.PUBLISHER, party_id=party.id, name="p")


@pytest.fixture
def network(engine: Engine) -> Network:
    with unit_of_work(engine) as session:
        return Network(session)


Ask = Callable[..., reports.Report]


@pytest.fixture
def ask(engine: Engine, network: Network) -> Ask:
    del network

    def run(group_by: str, actor: Actor = MANAGER, rows_max: int = 1000, **facts: Any) -> Any:
        span = {"start": MIDNIGHT - timedelta(days=10), "end": MIDNIGHT}
        question = Question(
            groups=reports.parse_groups(group_by, role=actor.role), **(span | facts)
        )
        reports.check_span(question, hours_days=100, now=MIDNIGHT)
        with reading(engine) as session:
            return reports.run(session, actor, question, rows_max=rows_max)

    return run


def is_click(row: dict[str, Any]) -> bool:
    return row["unbillable_reason"] in ("", "no_consent_tcf")


def clicks_by(lines: list[Line]) -> dict[Any, int]:
    return {line.keys: line.clicks for line in lines if line.clicks}


def days(at: datetime) -> int:
    return (at - datetime(1970, 1, 1, tzinfo=UTC)).days


def test_by_day_it_is_the_sum_of_the_clicks_and_orders(network: Network, ask: Ask) -> None:
    report = ask("day")

    expected = Counter((days(row["at"]),) for row in network.clicks if is_click(row))
    assert clicks_by(report.lines) == expected
    assert {line.keys: line.conversions for line in report.lines if line.conversions} == Counter(
        (days(order["at"]),) for order in network.orders
    )
    sales: defaultdict[str, int] = defaultdict(int)
    earned: defaultdict[str, int] = defaultdict(int)
    for order in network.orders:
        sales[order["currency"]] += order["amount"]
        earned[order["currency"]] += order["earned"]
    assert {one.currency: one.sales_minor for one in report.total.amounts} == sales
    assert {one.currency: one.commission_minor for one in report.total.amounts} == earned
    orders = Counter(order["currency"] for order in network.orders)
    assert {one.currency: one.conversions for one in report.total.amounts} == orders
    assert report.total.conversions == sum(orders.values()) == 40
    assert report.total.filtered_clicks == sum(not is_click(row) for row in network.clicks)
    assert [line.keys for line in report.lines] == sorted(line.keys for line in report.lines)


@pytest.mark.parametrize("group", ["hour", "week", "month"])
def test_other_times_hold_the_same_clicks(network: Network, ask: Ask, group: str) -> None:
    report = ask(group)

    def begin(at: datetime) -> datetime:
        day = at.replace(hour=0, minute=0)
        return {
            "hour": at.replace(minute=0),
            "week": day - timedelta(days=day.weekday()),
            "month": day.replace(day=1),
        }[group]

    found = {
        reports.start_of(group, int(line.keys[0])): line.clicks
        for line in report.lines
        if line.clicks
    }
    assert found == Counter(begin(row["at"]) for row in network.clicks if is_click(row))


def test_epc_is_exact_for_each_currency_on_its_own_clicks(network: Network, ask: Ask) -> None:
    total = ask("program").total

    for amount in total.amounts:
        [program] = [one for one in network.programs if one.currency == amount.currency]
        clicks = sum(is_click(row) for row in network.clicks if row["program_id"] == program.id)
        assert amount.clicks == clicks
        # Half up: the whole part of x + 1/2.
        assert amount.epc_minor == (200 * amount.commission_minor + clicks) // (2 * clicks)


def test_orders_of_one_currency_are_not_counted_beside_another(network: Network, ask: Ask) -> None:
    for program in network.programs:
        [amount] = ask("program", program_id=program.id).total.amounts
        orders = [order for order in network.orders if order["program_id"] == program.id]
        assert amount.conversions == len(orders) < len(network.orders)
    for group in ("country", "s1", "reason"):
        assert ask(group).total.amounts == ask("day").total.amounts


def test_without_clicks_there_is_no_epc() -> None:
    assert reports.Amount("EUR", clicks=0, commission_minor=100).epc_minor is None
    assert reports.Amount("EUR", clicks=3, commission_minor=-1).epc_minor == -33


@pytest.mark.parametrize("group", ["country", "device", "s1", "s2", "reason"])
def test_values_and_their_rest_sum_to_the_whole(network: Network, ask: Ask, group: str) -> None:
    def value_of(row: dict[str, Any]) -> str:
        values: dict[str, str] = {
            "country": row["country"] or "",
            "device": "mobile" if row["user_agent"] else "unknown",
            "s1": row["sub_ids"].get("s1", ""),
            "s2": row["sub_ids"].get("s2", ""),
            "reason": row["unbillable_reason"],
        }
        return values[group]

    report = ask(f"day,{group}")

    assert clicks_by(report.lines) == Counter(
        (days(row["at"]), value_of(row)) for row in network.clicks if is_click(row)
    )
    whole = ask("day").total
    for name in ("clicks", "filtered_clicks", "unique_clicks", "conversions"):
        assert getattr(report.total, name) == getattr(whole, name)
    assert report.total.amounts == whole.amounts


def test_two_parties_and_filters(network: Network, ask: Ask) -> None:
    report = ask("publisher,program")
    numbers = {one.id: one.number for one in network.programs}
    numbers |= {one.id: one.number for one in network.publishers}
    assert clicks_by(report.lines) == Counter(
        (numbers[row["publisher_id"]], numbers[row["program_id"]])
        for row in network.clicks
        if is_click(row)
    )
    assert {line.keys[0] for line in report.lines if not line.clicks} <= {0}

    program, who = network.programs[1], network.publishers[2]
    one = ask("country", program_id=program.id, publisher_id=who.id)
    assert one.total.clicks == sum(
        is_click(row)
        for row in network.clicks
        if (row["program_id"], row["publisher_id"]) == (program.id, who.id)
    )
    assert [amount.currency for amount in one.total.amounts] == ["USD"]


def test_a_span_within_days_is_answered_by_the_hours(network: Network, ask: Ask) -> None:
    start, end = MIDNIGHT - timedelta(hours=30), MIDNIGHT - timedelta(hours=5)

    report = ask("program", start=start, end=end)

    assert report.total.clicks == sum(
        is_click(row) and start <= row["at"] < end for row in network.clicks
    )


def test_each_party_sees_its_own_and_nothing_else(network: Network, ask: Ask) -> None:
    for who in network.publishers:
        report = ask("day,publisher", actor=network.actor(who))
        assert {line.keys[1] for line in report.lines} == {who.number}
        assert report.total.clicks == sum(
            is_click(row) for row in network.clicks if row["publisher_id"] == who.id
        )
        others = next(one for one in network.publishers if one.id != who.id)
        assert ask("day", actor=network.actor(who), publisher_id=others.id).lines == []
    for program in network.programs:
        report = ask("program,country", actor=network.actor(program))
        assert {line.keys[0] for line in report.lines} == {program.number}
        assert report.total.conversions == sum(
            order["program_id"] == program.id for order in network.orders
        )


def test_sub_ids_are_nothing_for_advertisers(network: Network, ask: Ask) -> None:
    with pytest.raises(Forbidden):
        ask("s1", actor=network.actor(network.programs[0]))


@pytest.mark.parametrize(
    ("group_by", "rule"),
    [
        ("", "count"),
        ("day,country,device", "count"),
        ("day,day", "count"),
        ("colour", "choice"),
        ("day,week", "combination"),
        ("country,device", "combination"),
        ("hour,country", "combination"),
    ],
)
def test_groups_that_cannot_be_answered_are_refused(group_by: str, rule: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        reports.parse_groups(group_by, role=Role.MANAGER)

    assert [(problem.field, problem.rule) for problem in caught.value.problems] == [
        ("group_by", rule)
    ]


@pytest.mark.parametrize(
    ("groups", "hours", "problem"),
    [
        (("day",), (-24, -24), ("to", "order")),
        (("day",), (-24 * 402, 0), ("to", "range")),
        (("hour",), (-24 * 32, 0), ("to", "range")),
        (("country",), (-25, 0), ("from", "day")),
        (("country",), (-24, -1), ("to", "day")),
        (("day",), (-24.5, 0), ("from", "hour")),
        (("day",), (-24, -0.5), ("to", "hour")),
        (("hour",), (-24 * 120, -24 * 119), ("from", "range")),
    ],
)
def test_spans_that_cannot_be_answered_are_refused(
    groups: tuple[str, ...], hours: tuple[float, float], problem: tuple[str, str]
) -> None:
    start, end = (MIDNIGHT + timedelta(hours=one) for one in hours)
    with pytest.raises(InvalidInput) as caught:
        reports.check_span(
            Question(groups=groups, start=start, end=end), hours_days=100, now=MIDNIGHT
        )

    assert [(one.field, one.rule) for one in caught.value.problems] == [problem]


def test_a_report_past_its_rows_is_refused(ask: Ask) -> None:
    with pytest.raises(reports.ReportTooLarge):
        ask("hour", rows_max=20)
