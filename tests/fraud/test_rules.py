import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fraud.logs import score_lines
from fraud.rules import (
    Action,
    Evidence,
    Finding,
    Group,
    IvtClass,
    assess,
    score_click,
    score_of,
    total_points,
)
from tracker.agents import AgentClass
from tracker.geo import GeoResolver

CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/141.0.0.0 Safari/537.36"
)
ORDER = Evidence(
    is_conversion=True,
    agent_class=AgentClass.BROWSER,
    user_agent_empty=False,
    sec_fetch_dest="document",
    is_hosting=False,
    click_country="DE",
    order_country="DE",
    seconds_click_to_order=900,
    duplicate_clicks=1,
    visitor_clicks_hour=1,
)


def verdict(**changes: object) -> tuple[int, str, list[str]]:
    found = assess(replace(ORDER, **changes))  # type: ignore[arg-type]  # names are checked by replace
    return found.score, found.action.value, [reason.code for reason in found.reasons]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({}, (3, "allow", [])),
        ({"agent_class": AgentClass.BOT}, (73, "hold", ["bot_user_agent"])),
        ({"agent_class": AgentClass.TOOL}, (38, "tag", ["tool_user_agent"])),
        ({"agent_class": AgentClass.UNKNOWN}, (3, "allow", [])),
        ({"user_agent_empty": True}, (38, "tag", ["empty_user_agent"])),
        ({"is_hosting": True}, (38, "tag", ["hosting_network"])),
        ({"sec_fetch_dest": "image"}, (73, "hold", ["embedded_click"])),
        ({"sec_purpose": "prefetch"}, (3, "tag", ["prefetch"])),
        ({"duplicate_clicks": 3}, (9, "tag", ["duplicate_clicks"])),
        ({"duplicate_clicks": 10}, (38, "tag", ["duplicate_clicks"])),
        ({"seconds_click_to_order": 1}, (73, "hold", ["fast_order"])),
        ({"seconds_click_to_order": 2}, (18, "tag", ["fast_order"])),
        ({"order_country": "US"}, (12, "allow", ["country_flip"])),
    ],
)
def test_each_signal_alone(
    changes: dict[str, object], expected: tuple[int, str, list[str]]
) -> None:
    assert verdict(**changes) == expected


@pytest.mark.parametrize(
    ("changes", "score"),
    [
        ({"duplicate_clicks": 3}, 67),
        ({"duplicate_clicks": 10}, 92),
        ({"seconds_click_to_order": 3}, 82),
        ({"agent_class": AgentClass.TOOL}, 92),
        ({"user_agent_empty": True}, 92),
        ({"visitor_clicks_hour": 50}, 73),
    ],
)
def test_hosting_with_any_second_signal_holds(changes: dict[str, object], score: int) -> None:
    assert verdict(is_hosting=True, **changes)[:2] == (score, "hold")


def test_many_duplicates_hold_with_another_signal() -> None:
    assert verdict(duplicate_clicks=10, order_country="US")[:2] == (73, "hold")
    assert verdict(duplicate_clicks=3, order_country="US")[:2] == (31, "tag")


def test_reasons_come_strongest_first_and_name_their_facts() -> None:
    found = assess(replace(ORDER, is_hosting=True, duplicate_clicks=4))
    assert [(reason.code, reason.points, reason.value) for reason in found.reasons] == [
        ("hosting_network", 300, "hosting"),
        ("duplicate_clicks", 120, 4),
    ]
    assert found.log_odds_points == -350 + 300 + 120


def test_rejection_needs_hard_evidence_and_a_click() -> None:
    hard = Evidence(agent_class=AgentClass.BOT, is_hosting=True)
    soft = Evidence(agent_class=AgentClass.TOOL, is_hosting=True)
    assert (assess(hard).score, assess(hard).action) == (98, Action.REJECT)
    assert (assess(soft).score, assess(soft).action) == (92, Action.HOLD)
    order = assess(replace(hard, is_conversion=True))
    assert (order.score, order.action) == (98, Action.HOLD)


def test_what_is_held_or_fetched_in_advance_is_not_billable() -> None:
    assert assess(Evidence()).billable is True
    assert assess(Evidence(is_hosting=True)).billable is True
    assert assess(Evidence(sec_purpose="prefetch")).billable is False
    assert assess(Evidence(sec_fetch_dest="iframe")).billable is False


def test_the_program_sets_the_threshold_and_the_publisher_the_prior() -> None:
    bot = replace(ORDER, agent_class=AgentClass.BOT)
    assert assess(bot, hold_score=73).action is Action.HOLD
    assert assess(bot, hold_score=74).action is Action.TAG
    assert assess(ORDER, prior_log_odds=-6.0).score == 0
    assert assess(ORDER, prior_log_odds=0.0).score == 50
    assert assess(ORDER, prior_log_odds=1e6).score == 100


def finding(points: int, group: Group, *, hard: bool = False) -> Finding:
    return Finding(
        code="x", group=group, points=points, ivt_class=IvtClass.GENERAL, text="x", hard=hard
    )


def test_soft_points_of_a_group_are_capped_and_hard_ones_are_not() -> None:
    client = Group.CLIENT
    assert total_points([finding(200, client), finding(200, client)]) == 300
    assert total_points([finding(200, client), finding(200, Group.NETWORK)]) == 400
    assert total_points([finding(-200, client), finding(-200, client)]) == -300
    assert total_points([finding(450, client, hard=True), finding(400, client)]) == 750


def test_score_is_the_logistic_in_percent() -> None:
    assert [score_of(points) for points in (-350, -43, -42, 0, 60, 100, 173, 10**9)] == [
        3,
        39,
        40,
        50,
        65,
        73,
        85,
        100,
    ]
    assert score_of(-(10**9)) == 0


evidences = st.builds(
    Evidence,
    is_conversion=st.booleans(),
    imported=st.booleans(),
    agent_class=st.none() | st.sampled_from(AgentClass),
    user_agent_empty=st.none() | st.booleans(),
    sec_fetch_dest=st.none() | st.sampled_from(["document", "image", "empty", "", "x"]),
    sec_purpose=st.none() | st.sampled_from(["prefetch", ""]),
    is_hosting=st.none() | st.booleans(),
    click_country=st.none() | st.sampled_from(["DE", "US"]),
    order_country=st.none() | st.sampled_from(["DE", "US"]),
    seconds_click_to_order=st.none() | st.integers(-10, 100_000),
    duplicate_clicks=st.none() | st.integers(0, 100),
    visitor_clicks_hour=st.none() | st.integers(0, 100),
)


@given(evidences)
def test_one_soft_group_never_holds_and_a_conversion_is_never_rejected(evidence: Evidence) -> None:
    found = assess(evidence)
    assert 0 <= found.score <= 100
    assert (found.action is Action.ALLOW) <= (found.score < 40)
    if evidence.is_conversion:
        assert found.action is not Action.REJECT
    if len({reason.group for reason in found.reasons}) <= 1 and not any(
        reason.hard for reason in found.reasons
    ):
        assert found.score < 65
    assert sum(reason.points for reason in found.reasons) >= found.log_odds_points + 350


# Honest traffic that looks odd. None of it may cost anybody a commission.


@pytest.mark.parametrize(
    "evidence",
    [
        pytest.param(replace(ORDER, duplicate_clicks=14, visitor_clicks_hour=60), id="office NAT"),
        pytest.param(
            replace(ORDER, click_country="US", order_country="DE", seconds_click_to_order=300),
            id="private relay leaves in another country",
        ),
        pytest.param(
            replace(
                ORDER,
                referrer_class="none",
                sec_fetch_user=None,
                duplicate_clicks=9,
                visitor_clicks_hour=9,
                seconds_click_to_order=45,
            ),
            id="newsletter blast",
        ),
        pytest.param(replace(ORDER, seconds_click_to_order=3), id="coupon extension at checkout"),
        pytest.param(replace(ORDER, is_hosting=True), id="company network in a cloud"),
        pytest.param(
            Evidence(
                is_conversion=True,
                imported=True,
                agent_class=AgentClass.EMPTY,
                user_agent_empty=True,
                order_country="DE",
                seconds_click_to_order=90,
            ),
            id="imported click without headers",
        ),
        pytest.param(
            Evidence(is_conversion=True, has_click=False, order_country="DE"), id="coupon, no click"
        ),
    ],
)
def test_innocent_traffic_is_not_held(evidence: Evidence) -> None:
    found = assess(evidence)
    assert found.score < 65
    assert found.action in (Action.ALLOW, Action.TAG)


def test_a_logged_click_is_scored_from_what_is_there() -> None:
    assert score_click({}) == {"score": 3, "action": "allow", "reasons": []}
    assert score_click({"user_agent": None, "sec_fetch_dest": None})["reasons"] == []
    bot = score_click({"user_agent": "Googlebot/2.1"})
    assert (bot["score"], bot["action"]) == (73, "hold")
    assert bot["reasons"] == [
        {
            "code": "bot_user_agent",
            "group": "client",
            "points": 450,
            "hard": True,
            "billable": False,
            "ivt_class": "givt",
            "value": "bot",
            "baseline": None,
            "text": "The click came from software that declares itself a robot.",
        }
    ]


def scored(*rows: object, max_visitors: int = 100) -> list[dict[str, object]]:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    return list(score_lines(lines, GeoResolver(None), max_visitors=max_visitors))


def codes(answer: dict[str, object]) -> list[str]:
    reasons = answer["reasons"]
    assert isinstance(reasons, list)
    return [reason["code"] for reason in reasons]


def test_lines_are_answered_in_order_and_a_bad_one_stops_nothing() -> None:
    good = {"at": "2026-03-01T10:00:00Z", "ip": "3.120.0.1", "user_agent": "Googlebot/2.1"}
    assert [
        answer.get("error") or (answer["score"], answer["action"], codes(answer))
        for answer in scored(
            good,
            "",
            {"ip": "1.1.1.1"},
            {"at": "2026-03-01T10:00:00"},
            {"at": "2026-03-01T10:00:00Z", "ip": 5},
            [],
            "[" * 50_000,
            " " * 70_000,
            {"at": "2026-03-01T10:00:00+01:00", "user_agent": "", "unknown": [1]},
            {"at": "2026-03-01T10:00:00Z", "user_agent": CHROME, "ip": "nonsense"},
        )
    ] == [
        (98, "reject", ["bot_user_agent", "hosting_network"]),
        {"line": 2, "field": "$", "reason": "not a JSON document"},
        {"line": 3, "field": "at", "reason": "is required"},
        {"line": 4, "field": "at", "reason": "must be an RFC 3339 time with an offset"},
        {"line": 5, "field": "ip", "reason": "must be a string"},
        {"line": 6, "field": "$", "reason": "not a JSON object"},
        {"line": 7, "field": "$", "reason": "not a JSON document"},
        {"line": 8, "field": "$", "reason": "longer than 65536 characters"},
        (38, "tag", ["empty_user_agent"]),
        (3, "allow", []),
    ]


def click(second: int, **changes: str) -> dict[str, str]:
    at = f"2026-03-01T10:{second // 60:02}:{second % 60:02}Z"
    return {"at": at, "ip": "91.0.0.1", "user_agent": CHROME, "program": "shoes", **changes}


def test_repeats_are_counted_per_visitor_and_program_within_a_minute() -> None:
    answers = scored(click(0), click(10), click(20), click(75), click(79), click(80, program="b"))
    assert [codes(answer) for answer in answers] == [
        [],
        [],
        ["duplicate_clicks"],
        [],
        ["duplicate_clicks"],
        [],
    ]
    other = scored(click(0), click(1, ip="91.0.0.2"), click(2, user_agent="Mozilla/5.0 Gecko/1"))
    assert [codes(answer) for answer in other] == [[], [], []]


def test_a_flood_within_the_hour_is_found_and_lines_without_address_are_not_counted() -> None:
    answers = scored(*(click(number * 60 + number) for number in range(50)))
    assert [codes(answer) for answer in answers[48:]] == [[], ["click_flood"]]
    nobody = {"at": "2026-03-01T10:00:00Z", "user_agent": CHROME}
    assert [codes(answer) for answer in scored(*[nobody] * 20)] == [[]] * 20


def test_the_visitor_not_seen_for_longest_is_forgotten() -> None:
    rows = [click(0), click(1), click(2, ip="91.0.0.2"), click(3, ip="91.0.0.3"), click(4)]
    assert codes(scored(*rows, max_visitors=2)[-1]) == []
    assert codes(scored(*rows, max_visitors=3)[-1]) == ["duplicate_clicks"]
