import re
from pathlib import Path

import pytest

from fraud.evidence import Evidence, Finding
from fraud.signals import (
    SIGNALS,
    Signal,
    bot_user_agent,
    click_flood,
    country_flip,
    duplicate_clicks,
    embedded_click,
    empty_user_agent,
    fast_order,
    hosting_network,
    prefetch,
    tool_user_agent,
)
from tracker.agents import AgentClass

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "signals.md"
PACKAGE = Path(__file__).parents[2] / "fraud" / "signals"

FIRES: list[tuple[Signal, Evidence, int, bool]] = [
    (bot_user_agent, Evidence(agent_class=AgentClass.BOT), 450, True),
    (tool_user_agent, Evidence(agent_class=AgentClass.TOOL), 300, False),
    (empty_user_agent, Evidence(user_agent_empty=True), 300, False),
    (empty_user_agent, Evidence(agent_class=AgentClass.EMPTY), 300, False),
    (hosting_network, Evidence(is_hosting=True), 300, False),
    (embedded_click, Evidence(sec_fetch_dest="image"), 450, True),
    (embedded_click, Evidence(sec_fetch_dest=" IFRAME "), 450, True),
    (embedded_click, Evidence(sec_fetch_dest="script"), 450, True),
    (embedded_click, Evidence(sec_fetch_dest="empty"), 250, False),
    (prefetch, Evidence(sec_purpose="prefetch;prerender"), 0, False),
    (duplicate_clicks, Evidence(duplicate_clicks=3), 120, False),
    (duplicate_clicks, Evidence(duplicate_clicks=9), 120, False),
    (duplicate_clicks, Evidence(duplicate_clicks=10), 300, False),
    (click_flood, Evidence(visitor_clicks_hour=50), 150, False),
    (fast_order, Evidence(is_conversion=True, seconds_click_to_order=0), 450, True),
    (fast_order, Evidence(is_conversion=True, seconds_click_to_order=1), 450, True),
    (fast_order, Evidence(is_conversion=True, seconds_click_to_order=2), 200, False),
    (fast_order, Evidence(is_conversion=True, seconds_click_to_order=4), 200, False),
    (
        country_flip,
        Evidence(click_country="DE", order_country="us", seconds_click_to_order=86_399),
        150,
        False,
    ),
]
SILENT: list[tuple[Signal, Evidence]] = [
    (bot_user_agent, Evidence(agent_class=AgentClass.BROWSER)),
    (bot_user_agent, Evidence(agent_class=AgentClass.UNKNOWN)),
    (tool_user_agent, Evidence(agent_class=AgentClass.UNKNOWN)),
    (empty_user_agent, Evidence(user_agent_empty=True, imported=True)),
    (empty_user_agent, Evidence(agent_class=AgentClass.EMPTY, imported=True)),
    (empty_user_agent, Evidence(user_agent_empty=False)),
    (hosting_network, Evidence(is_hosting=False)),
    (embedded_click, Evidence(sec_fetch_dest="document")),
    (embedded_click, Evidence(sec_fetch_dest="")),
    (embedded_click, Evidence(sec_fetch_dest="invented-later")),
    (prefetch, Evidence(sec_purpose="")),
    (duplicate_clicks, Evidence(duplicate_clicks=2)),
    (click_flood, Evidence(visitor_clicks_hour=49)),
    (fast_order, Evidence(is_conversion=True, seconds_click_to_order=5)),
    (fast_order, Evidence(is_conversion=True, seconds_click_to_order=-1)),
    (fast_order, Evidence(seconds_click_to_order=0)),
    (
        country_flip,
        Evidence(click_country="DE", order_country="de", seconds_click_to_order=60),
    ),
    (
        country_flip,
        Evidence(click_country="DE", order_country="US", seconds_click_to_order=86_400),
    ),
    (country_flip, Evidence(click_country="DE", order_country="US")),
    (country_flip, Evidence(order_country="US", seconds_click_to_order=60)),
    (
        country_flip,
        Evidence(
            click_country="DE", order_country="US", seconds_click_to_order=60, is_hosting=True
        ),
    ),
]


@pytest.mark.parametrize(("signal", "evidence", "points", "hard"), FIRES)
def test_fires(*, signal: Signal, evidence: Evidence, points: int, hard: bool) -> None:
    found = signal.find(evidence)
    assert isinstance(found, Finding)
    assert (found.code, found.points, found.hard) == (signal.CODE, points, hard)
    assert found.text


@pytest.mark.parametrize(("signal", "evidence"), SILENT)
def test_stays_silent(signal: Signal, evidence: Evidence) -> None:
    assert signal.find(evidence) is None


@pytest.mark.parametrize("signal", SIGNALS, ids=lambda signal: signal.CODE)
def test_nothing_known_is_nothing_found(signal: Signal) -> None:
    assert signal.find(Evidence()) is None
    assert signal.find(Evidence(is_conversion=True, imported=True)) is None
    assert signal.find(Evidence(is_conversion=True, has_click=False)) is None


def test_every_file_of_the_package_is_registered_under_its_name() -> None:
    files = {path.stem for path in PACKAGE.glob("*.py")} - {"__init__"}
    assert [signal.CODE for signal in SIGNALS if signal.CODE not in files] == []
    assert files == {signal.CODE for signal in SIGNALS}
    assert len(SIGNALS) == len(files)


def test_the_reference_describes_every_signal_in_its_own_words() -> None:
    page = REFERENCE.read_text(encoding="utf-8")
    sections = dict(re.findall(r"^### `(\w+)`\n(.*?)(?=^### |\Z)", page, re.MULTILINE | re.DOTALL))
    assert list(sections) == [signal.CODE for signal in SIGNALS]
    for signal in SIGNALS:
        texts = (signal.NAME, signal.DESCRIPTION, signal.INNOCENT, signal.DEFAULT, signal.SOURCE)
        assert [text for text in texts if text not in sections[signal.CODE]] == []
