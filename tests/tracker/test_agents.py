import os
import re
from pathlib import Path

import pytest

from tracker.agents import AgentClass, Device, classify, device_of

DATA = Path(os.environ.get("TALLYSTICK_SHARED_DATA", Path(__file__).parents[3] / "shared" / "data"))
CHROME = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko)"
    " Chrome/141.0.0.0 Safari/537.36"
)
MAINSTREAM = re.compile(
    r"^Mozilla/5\.0 \((?:Windows NT|Macintosh|X11|iPhone|iPad|Linux; Android|Android)[^)]*\)"
    r".*(?:Chrome|Firefox|Safari|Edge?|OPR)/\d"
)


def lines(name: str) -> list[str]:
    path = DATA / "ua" / name
    if not path.exists():
        pytest.skip(f"shared data ua/{name} is absent")
    return path.read_text(encoding="utf-8", errors="replace").splitlines()


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        (CHROME, AgentClass.BROWSER),
        (
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15"
                " (KHTML, like Gecko) Mobile/21F79 Instagram 330.0.3.29.91 (iPhone14,3; iOS 17_5)"
            ),
            AgentClass.BROWSER,
        ),
        (
            "Mozilla/5.0 (Linux; Android 10; CUBOT NOTE 20) AppleWebKit/537.36 Chrome/90.0 Mobile",
            AgentClass.BROWSER,
        ),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0", "browser"),
        ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "bot"),
        (f"{CHROME} HeadlessChrome/141", "bot"),
        (f"{CHROME} (contact: ops@example.com)", "bot"),
        ("facebookexternalhit/1.1", "bot"),
        ("curl/8.5.0", "tool"),
        ("python-requests/2.32", "tool"),
        ("okhttp/4.12.0", "tool"),
        ("Go-http-client/2.0", "tool"),
        ("", "empty"),
        (" \t", "empty"),
        ("-", "empty"),
        ("Something Else", "unknown"),
        (
            (
                "UCWEB/2.0 (Java; U; MIDP-2.0; Nokia203/20.37) U2/1.0.0 UCMini/10.9"
                " (SpeedMode; Proxy; Android 9; SM-J7) U2/1.0.0 Mobile"
            ),
            "unknown",
        ),
    ],
)
def test_classes(agent: str, expected: str) -> None:
    assert classify(agent) == expected


def test_only_the_head_of_a_long_agent_is_read() -> None:
    assert classify(CHROME + " " * 2000 + "Googlebot") is AgentClass.BROWSER
    assert classify(CHROME + " Googlebot", max_chars=len(CHROME)) is AgentClass.BROWSER
    assert classify(CHROME + " Googlebot") is AgentClass.BOT


def test_a_hostile_agent_costs_no_more_than_its_length() -> None:
    for unit in ("a@", "a.", "bo", "<", "feed", "-google "):
        assert classify(unit * 100_000) in AgentClass


def test_recall_on_the_public_bot_list() -> None:
    """The list holds 168 CUBOT phones too, which stay browsers; they count as missed here."""
    bots = lines("bots_half.txt")
    caught = sum(classify(line) is not AgentClass.BROWSER for line in bots)
    assert caught / len(bots) >= 0.978


def test_false_positives_on_the_public_browser_list() -> None:
    browsers = lines("browsers_half.txt")
    wrong = [line for line in browsers if classify(line) is not AgentClass.BROWSER]
    mainstream = [line for line in browsers if MAINSTREAM.match(line)]
    assert len(mainstream) > 100
    assert [line for line in wrong if MAINSTREAM.match(line)] == []
    assert len(wrong) / len(browsers) <= 0.05
    accused = [line for line in wrong if classify(line) is not AgentClass.UNKNOWN]
    assert len(accused) / len(browsers) <= 0.016


@pytest.mark.parametrize(
    ("agent", "expected"),
    [
        (CHROME, Device.DESKTOP),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:128.0) Gecko/20100101 Firefox/128.0", "desktop"),
        # A recent iPad says that it is a Mac, and is believed.
        (
            (
                "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15"
                " (KHTML, like Gecko) Version/17.5 Safari/605.1.15"
            ),
            "desktop",
        ),
        (
            (
                "Mozilla/5.0 (iPad; CPU OS 12_5 like Mac OS X) AppleWebKit/605.1.15"
                " (KHTML, like Gecko) Version/12.1 Mobile/15E148 Safari/604.1"
            ),
            "tablet",
        ),
        (
            (
                "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15"
                " (KHTML, like Gecko) Version/17.5 Mobile/15E148 Safari/604.1"
            ),
            "mobile",
        ),
        (
            "Mozilla/5.0 (Linux; Android 14; Pixel 8) AppleWebKit/537.36 Chrome/126 Mobile Safari",
            "mobile",
        ),
        # Android without "Mobile" is how its tablets name themselves.
        (
            "Mozilla/5.0 (Linux; Android 14; Pixel Tablet) AppleWebKit/537.36 Chrome/126 Safari",
            "tablet",
        ),
        ("Mozilla/5.0 (Linux; Android 9; SM-T510) AppleWebKit/537.36 Chrome/126 Mobile", "tablet"),
        ("Mozilla/5.0 (Linux; U; KFTT Build) AppleWebKit/535.19 Silk/3.4 Safari", "tablet"),
        (
            "Mozilla/5.0 (SMART-TV; Linux; Tizen 7.0) AppleWebKit/537.36 Chrome/94 TV Safari",
            "tv",
        ),
        ("Mozilla/5.0 (Web0S; Linux/SmartTV) AppleWebKit/537.36 Chrome/94 Safari/537.36", "tv"),
        ("Mozilla/5.0 (Linux; Android 9; AFTMM) AppleWebKit/537.36 Chrome/100 Safari", "tv"),
        ("Mozilla/5.0 (PlayStation 5 3.00) AppleWebKit/605.1.15 Safari/605.1.15", "tv"),
        ("Opera/9.80 (J2ME/MIDP; Opera Mini/7.1; U; en) Presto/2.12 Version/12.16", "mobile"),
        ("Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)", "bot"),
        ("curl/8.5.0", "bot"),
        ("", "unknown"),
        (" - ", "unknown"),
        ("Something Else", "unknown"),
    ],
)
def test_devices(agent: str, expected: str) -> None:
    assert device_of(agent) == expected


def test_the_device_is_read_from_the_head_of_a_long_agent_and_never_kept_longer() -> None:
    phone = "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605 Mobile"

    assert device_of(phone + " x" * 100_000) == Device.MOBILE
    assert device_of("x" * 2048 + phone) == Device.UNKNOWN
    assert device_of(phone, max_chars=12) == Device.UNKNOWN


def test_every_agent_has_a_device_and_robots_have_that_of_robots() -> None:
    agents = lines("crawlers.txt") if (DATA / "ua" / "crawlers.txt").exists() else []
    for agent in [*agents, CHROME, "", "okhttp/4.12.0"]:
        kind = classify(agent)
        is_robot = kind in (AgentClass.BOT, AgentClass.TOOL)
        assert (device_of(agent) is Device.BOT) is is_robot, agent
        if kind in (AgentClass.EMPTY, AgentClass.UNKNOWN):
            assert device_of(agent) is Device.UNKNOWN, agent
