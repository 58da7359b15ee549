"""English and Simplified Chinese: chosen by cookie or browser, and nothing left untranslated."""

import re
from pathlib import Path

import pytest
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

import console
from fraud.signals import SIGNALS
from tests.console.world import Browser, World

PACKAGE = Path(console.__file__).parent
KEYWORDS = {"_": None, "N_": None, "gettext": None, "ngettext": (1, 2)}
METHODS = [("**.py", "python"), ("templates/**.html", "jinja2.ext:babel_extract")]


def _used() -> set[str]:
    found = extract_from_dir(PACKAGE, METHODS, keywords=KEYWORDS)
    # The singular of a plural pair is the key of both.
    return {message if isinstance(message, str) else message[0] for _, _, message, *_ in found}


def _translated() -> dict[str, list[str]]:
    with (PACKAGE / "locale" / "zh-Hans.po").open("rb") as file:
        catalogue = read_po(file)
    translated: dict[str, list[str]] = {}
    for entry in catalogue:
        key = entry.id if isinstance(entry.id, str) else entry.id[0]
        texts = [entry.string] if isinstance(entry.string, str) else entry.string or [""]
        if key:
            translated[key] = list(texts)
    return translated


def test_every_message_has_its_chinese() -> None:
    translated = _translated()

    used = _used() | {signal.INNOCENT for signal in SIGNALS}

    assert len(used) > 200
    assert sorted(used - set(translated)) == []
    assert [key for key, texts in translated.items() if not all(texts)] == []
    assert sorted(set(translated) - used) == []


def test_chinese_keeps_every_placeholder() -> None:
    marks = re.compile(r"%\(\w+\)s|\{\w+\}")
    for key, texts in _translated().items():
        for text in texts:
            assert set(marks.findall(text)) == set(marks.findall(key)), key


@pytest.mark.parametrize(
    "pattern",
    [
        "/",
        "/conversions",
        "/conversions/{held}",
        "/flags",
        "/flags/{flag}",
        "/payouts",
        "/programs",
        "/programs/{program}",
        "/refusals",
        "/flags/flg_none",
    ],
)
def test_pages_are_chinese_for_a_chinese_browser(
    browser: Browser, world: World, pattern: str
) -> None:
    browser.sign_in("manager")
    path = pattern.format(held=world.held.id, flag=world.flag_id, program=world.program.id)

    page = browser.open(path, **{"accept-language": "zh-CN,zh;q=0.9,en;q=0.5"}).text

    assert '<html lang="zh-Hans">' in page
    assert "概览" in page
    assert "退出登录" in page
    assert "Overview" not in page


def test_cookie_wins_over_the_browser(browser: Browser, world: World) -> None:
    del world
    answer = browser.send("/language", on="/sign-in", language="zh-Hans", next="/sign-in")

    assert answer.status_code == 303
    assert answer.headers["location"] == "/sign-in"
    page = browser.open("/sign-in", **{"accept-language": "en"}).text
    assert "登录" in page
    browser.send("/language", on="/sign-in", language="en", next="/sign-in")
    assert "登录" not in browser.open("/sign-in", **{"accept-language": "zh-CN"}).text


def test_unknown_language_is_refused(browser: Browser) -> None:
    answer = browser.send("/language", on="/sign-in", language="tlh")

    assert answer.status_code == 400
    assert "tallystick_language" not in answer.headers.get("set-cookie", "")


def test_wrong_password_is_said_in_chinese(browser: Browser, world: World) -> None:
    del world
    browser.send("/language", on="/sign-in", language="zh-Hans")

    assert "邮箱地址或密码不正确" in browser.sign_in("manager", password="wrong").text
