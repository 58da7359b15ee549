import threading
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import Session, select

from fraud import flags
from fraud.assessments import assess
from fraud.checks import check
from fraud.flags import FlagDecided, FlagStatus
from fraud.models import Assessment, Flag, FlagDecision
from fraud.signals import SIGNALS
from kernel.audit import AuditEntry
from kernel.database import reading, unit_of_work
from kernel.errors import Forbidden, InvalidInput, NotFound
from kernel.i18n import catalogue
from kernel.outbox import OutboxRow
from network.access import Actor
from network.models import Role

Make = Callable[[Session], Any]
MANAGER = Actor(id="usr_m", role=Role.MANAGER, party_id="", name="M")
OTHERS = [Actor(id="x", role=role, party_id="p", name="X") for role in Role if role != "manager"]


@pytest.fixture
def flagged(engine: Engine, network: Make, now: datetime) -> list[str]:
    """Ids of three open flags, of the conversions c0 to c2."""
    with unit_of_work(engine) as session:
        made = network(session)
        made.click(agent_class="bot")
        for number in range(3):
            assess(session, made.order(f"c{number}"), now=now)
        return [view.flag.id for view in flags.page(session, MANAGER)]


def traces(session: Session) -> tuple[int, int, int]:
    decided = session.exec(select(FlagDecision)).all()
    audited = session.exec(select(AuditEntry)).all()
    return len(decided), len(audited), len(session.exec(select(OutboxRow)).all())


def test_decisions_are_kept_audited_and_passed_on(
    engine: Engine, flagged: list[str], now: datetime
) -> None:
    with unit_of_work(engine) as session:
        flags.clear(session, flagged[0], note="  a known customer ", actor="usr_m", now=now)
        flags.confirm(session, flagged[1], note="bot", actor="usr_n", now=now)
    with reading(engine) as session:
        first, second, third = flags.page(session, MANAGER)
        assert [first.status, second.status, third.status] == ["cleared", "confirmed", "open"]
        assert first.decision is not None
        assert (first.decision.note, first.decision.decided_by) == ("a known customer", "usr_m")
        assert first.decision.decided_at == now
        assert first.assessment.reasons[0]["code"] == "bot_user_agent"
        assert [
            (entry.action, entry.actor, entry.subject_id, entry.facts["conversion_id"])
            for entry in session.exec(select(AuditEntry))
        ] == [
            ("flag.cleared", "usr_m", flagged[0], "c0"),
            ("flag.confirmed", "usr_n", flagged[1], "c1"),
        ]
        assert [
            (row.kind, row.subject_id, row.lane) for row in session.exec(select(OutboxRow))
        ] == [
            ("flag.cleared", "c0", first.flag.program_id),
            ("flag.confirmed", "c1", first.flag.program_id),
        ]
        assert flags.find_open(session, "c0") is None
        assert flags.find_open(session, "c1") is None
        found = flags.find_open(session, "c2")
        assert found is not None
        assert found.id == flagged[2]
        assert flags.count_open(session, MANAGER) == 1
        assert list(check(session)) == []


def test_flag_is_decided_once_whichever_way(
    engine: Engine, flagged: list[str], now: datetime
) -> None:
    with unit_of_work(engine) as session:
        flags.confirm(session, flagged[0], note="bot", actor="usr_m", now=now)
    for decide in (flags.clear, flags.confirm):
        with pytest.raises(FlagDecided) as caught, unit_of_work(engine) as session:
            decide(session, flagged[0], note="again", actor="usr_n", now=now)
        assert caught.value.code == "flag_decided"
        assert caught.value.facts == {"flag_id": flagged[0], "outcome": "confirmed"}
    with reading(engine) as session:
        assert traces(session) == (1, 1, 1)


def test_of_two_managers_at_once_one_decides(
    engine: Engine, flagged: list[str], now: datetime
) -> None:
    start = threading.Barrier(2)
    results: list[str] = []

    def decide(decision: Callable[..., FlagDecision]) -> None:
        start.wait(5)
        try:
            with unit_of_work(engine) as session:
                results.append(
                    decision(session, flagged[0], note="seen", actor="usr", now=now).outcome
                )
        except FlagDecided:
            results.append("refused")

    threads = [threading.Thread(target=decide, args=(way,)) for way in (flags.clear, flags.confirm)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert sorted(results)[1:] == ["refused"]
    assert results[0] != "refused" or results[1] != "refused"
    with reading(engine) as session:
        assert traces(session) == (1, 1, 1)
        assert list(check(session)) == []


@pytest.mark.parametrize("note", ["", " \n ", "x" * 2_001])
def test_note_is_required_and_bounded(
    engine: Engine, flagged: list[str], now: datetime, note: str
) -> None:
    with unit_of_work(engine) as session:
        with pytest.raises(InvalidInput) as caught:
            flags.clear(session, flagged[0], note=note, actor="usr_m", now=now)
        assert [(problem.field, problem.rule) for problem in caught.value.problems] == [
            ("note", "length")
        ]
        assert traces(session) == (0, 0, 0)
        flags.clear(session, flagged[0], note="x" * 2_000, actor="usr_m", now=now)
        assert traces(session) == (1, 1, 1)


def test_pages_go_on_where_they_stopped_and_keep_to_a_status(
    engine: Engine, flagged: list[str], now: datetime
) -> None:
    with unit_of_work(engine) as session:
        flags.clear(session, flagged[1], note="fine", actor="usr_m", now=now)
        opened = flags.page(session, MANAGER, status=FlagStatus.OPEN, limit=1)
        assert [view.flag.id for view in opened] == [flagged[0]]
        after = opened[0].flag.seq or 0
        rest = flags.page(session, MANAGER, status=FlagStatus.OPEN, after_seq=after)
        assert [view.flag.id for view in rest] == [flagged[2]]
        cleared = flags.page(session, MANAGER, status=FlagStatus.CLEARED)
        assert [view.flag.id for view in cleared] == [flagged[1]]
        assert flags.page(session, MANAGER, status=FlagStatus.CONFIRMED) == []
        assert flags.get(session, MANAGER, flagged[1]).status == "cleared"


@pytest.mark.parametrize("actor", OTHERS, ids=lambda actor: actor.role)
def test_parties_see_no_flags(engine: Engine, flagged: list[str], actor: Actor) -> None:
    with reading(engine) as session:
        with pytest.raises(Forbidden):
            flags.page(session, actor)
        with pytest.raises(Forbidden):
            flags.get(session, actor, flagged[0])
        with pytest.raises(Forbidden):
            flags.count_open(session, actor)


def test_unknown_flag(sqlite_engine: Engine, now: datetime) -> None:
    with unit_of_work(sqlite_engine) as session:
        with pytest.raises(NotFound):
            flags.get(session, MANAGER, "flg_none")
        with pytest.raises(NotFound):
            flags.confirm(session, "flg_none", note="x", actor="usr_m", now=now)
        assert traces(session) == (0, 0, 0)


def test_checks_find_a_decision_that_nobody_took(
    engine: Engine, flagged: list[str], now: datetime
) -> None:
    with unit_of_work(engine) as session:
        session.add(
            FlagDecision(
                flag_id=flagged[0], outcome="cleared", note="x", decided_by="x", decided_at=now
            )
        )
        session.add(
            AuditEntry(
                id="aud_x",
                at=now,
                actor="x",
                action="flag.confirmed",
                subject_id=flagged[1],
                facts={},
            )
        )
        session.flush()
        assert [(problem.code, problem.subject_id) for problem in check(session)] == [
            ("decision_unlike_audit", flagged[0]),
            ("decision_missing", flagged[1]),
        ]


def test_checks_find_flags_and_holds_that_do_not_belong_together(
    engine: Engine, network: Make, now: datetime
) -> None:
    with unit_of_work(engine) as session:
        made = network(session)
        made.click()
        innocent = assess(session, made.order("innocent"), now=now)
        made.order("unseen")
        session.add(
            Assessment(
                id="asm_hold",
                conversion_id="unseen",
                score=90,
                action="hold",
                reasons=[],
                at=now,
            )
        )
        session.flush()
        session.add(
            Flag(
                id="flg_groundless",
                conversion_id="innocent",
                assessment_id=innocent.id,
                program_id=made.program.id,
                publisher_id=made.publisher.id,
                score=3,
                at=now,
            )
        )
        session.flush()
        assert [str(problem) for problem in check(session)] == [
            "flag_without_grounds flg_groundless: no assessment holds its conversion",
            "hold_without_flag asm_hold: holds a commission that nobody reviews",
        ]


REASONS: list[dict[str, object]] = [
    {"code": "bot_user_agent", "value": "bot", "baseline": None, "text": "t"},
    {"code": "duplicate_clicks", "value": 12, "baseline": 3, "text": "t"},
    {"code": "retired_signal", "value": 1, "baseline": None, "text": "What it said."},
]


def test_reasons_in_english() -> None:
    bot, duplicates, retired = flags.words(REASONS, "en")
    assert bot == (
        "Declared bot: The user agent of the click names a crawler, monitor, preview fetcher or "
        "another robot."
    )
    assert duplicates == (
        "Duplicate clicks: The same visitor clicked links of the same program several times "
        "within 60 seconds. Seen: 12; compared with: 3."
    )
    assert retired == "What it said."


def test_reasons_in_chinese() -> None:
    colon, semicolon = "\N{FULLWIDTH COLON}", "\N{FULLWIDTH SEMICOLON}"
    bot, duplicates, retired = flags.words(REASONS, "zh-Hans")
    assert bot.startswith(f"自报的机器人{colon}该点击的用户代理")
    assert duplicates == (
        f"重复点击{colon}同一访客在 60 秒内多次点击了同一推广计划的链接。"
        f"实际值{colon}12{semicolon}参照值{colon}3。"
    )
    assert retired == "What it said."


def test_every_signal_speaks_chinese() -> None:
    chinese = catalogue("fraud", "zh-Hans")
    for signal in SIGNALS:
        for message in (signal.NAME, signal.DESCRIPTION):
            assert chinese.gettext(message) != message, signal.CODE
