"""From evidence to a score, an action and reasons. Pure: the same facts give the same verdict."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from math import exp

from fraud.evidence import Evidence, Finding, Group, IvtClass
from fraud.signals import SIGNALS
from tracker.agents import classify

__all__ = [
    "Action",
    "Assessment",
    "Evidence",
    "Finding",
    "Group",
    "IvtClass",
    "assess",
    "click_evidence",
    "reason_facts",
    "score_click",
    "score_of",
    "total_points",
]

HOLD_SCORE = 65
TAG_SCORE = 40
REJECT_SCORE = 85
# About 3 in 100 events are bad before anything is known about this one.
PRIOR_LOG_ODDS = -3.5
# Signals of a group are correlated. Added up freely they outvote everything else: a free sum of 118
# correlated features ranked the publishers of FDMA 2012 with an average precision of 0.08 only.
GROUP_CAP_POINTS = 300
# Beyond this the score is 0 or 100 anyway, and exp() stays in range.
_MAX_POINTS = 2_000


class Action(StrEnum):
    """What to do with the event; the redirect of a click happens in every case."""

    ALLOW = "allow"
    TAG = "tag"
    HOLD = "hold"
    REJECT = "reject"


@dataclass(frozen=True, slots=True)
class Assessment:
    """`log_odds_points` is what `score` was made of, in hundredths; reasons are strongest first.

    `billable` False: the event is not to be counted or paid as a click.
    """

    score: int
    action: Action
    billable: bool
    log_odds_points: int
    reasons: tuple[Finding, ...]


def assess(
    evidence: Evidence,
    *,
    hold_score: int = HOLD_SCORE,
    prior_log_odds: float = PRIOR_LOG_ODDS,
) -> Assessment:
    """Judge one click or conversion. `hold_score` is the program's threshold, 1 to 100.

    Rejection needs both a score of REJECT_SCORE and hard evidence, and only ever meets clicks: for
    a conversion it is a hold, because a person decides about money that someone has earned.
    """
    found = [finding for signal in SIGNALS if (finding := signal.find(evidence)) is not None]
    reasons = tuple(sorted(found, key=lambda finding: (-finding.points, finding.code)))
    points = round(prior_log_odds * 100) + total_points(reasons)
    score = score_of(points)
    action = _action(score, reasons, hold_score=hold_score)
    if evidence.is_conversion and action is Action.REJECT:
        action = Action.HOLD
    return Assessment(
        score=score,
        action=action,
        billable=action in (Action.ALLOW, Action.TAG) and all(r.billable for r in reasons),
        log_odds_points=points,
        reasons=reasons,
    )


def total_points(findings: Iterable[Finding]) -> int:
    """Sum of all points, the soft ones of each group capped at GROUP_CAP_POINTS either way."""
    soft: defaultdict[Group, int] = defaultdict(int)
    hard = 0
    for finding in findings:
        if finding.hard:
            hard += finding.points
        else:
            soft[finding.group] += finding.points
    capped = (max(-GROUP_CAP_POINTS, min(GROUP_CAP_POINTS, points)) for points in soft.values())
    return hard + sum(capped)


def score_of(points: int) -> int:
    """Probability in percent for log-odds given in hundredths."""
    bounded = max(-_MAX_POINTS, min(_MAX_POINTS, points))
    return round(100 / (1 + exp(-bounded / 100)))


def _action(score: int, reasons: tuple[Finding, ...], *, hold_score: int) -> Action:
    if score >= max(REJECT_SCORE, hold_score) and any(reason.hard for reason in reasons):
        return Action.REJECT
    if score >= hold_score:
        return Action.HOLD
    if score >= TAG_SCORE or any(reason.tags for reason in reasons):
        return Action.TAG
    return Action.ALLOW


def click_evidence(
    row: Mapping[str, str | None],
    *,
    is_hosting: bool | None = None,
    duplicate_clicks: int | None = None,
    visitor_clicks_hour: int | None = None,
) -> Evidence:
    """Evidence from a logged click. A key that is missing or null is unknown, "" is empty."""
    agent = row.get("user_agent")
    return Evidence(
        agent_class=None if agent is None else classify(agent),
        user_agent_empty=None if agent is None else not agent.strip(),
        sec_fetch_dest=row.get("sec_fetch_dest"),
        sec_fetch_mode=row.get("sec_fetch_mode"),
        sec_fetch_user=row.get("sec_fetch_user"),
        sec_purpose=row.get("sec_purpose"),
        is_hosting=is_hosting,
        duplicate_clicks=duplicate_clicks,
        visitor_clicks_hour=visitor_clicks_hour,
    )


def score_click(
    row: Mapping[str, str | None],
    *,
    is_hosting: bool | None = None,
    duplicate_clicks: int | None = None,
    visitor_clicks_hour: int | None = None,
) -> dict[str, object]:
    """Score a logged click: `{score, action, reasons}`, ready for JSON."""
    verdict = assess(
        click_evidence(
            row,
            is_hosting=is_hosting,
            duplicate_clicks=duplicate_clicks,
            visitor_clicks_hour=visitor_clicks_hour,
        )
    )
    return {
        "score": verdict.score,
        "action": verdict.action.value,
        "reasons": [reason_facts(reason) for reason in verdict.reasons],
    }


def reason_facts(finding: Finding) -> dict[str, object]:
    """The finding as JSON values; `points` are hundredths of log-odds."""
    return {
        "code": finding.code,
        "group": finding.group.value,
        "points": finding.points,
        "hard": finding.hard,
        "billable": finding.billable,
        "ivt_class": finding.ivt_class.value,
        "value": finding.value,
        "baseline": finding.baseline,
        "text": finding.text,
        **({"facts": dict(finding.facts)} if finding.facts else {}),
    }
