from datetime import timedelta

import pytest

from kernel import clock
from kernel.database import unit_of_work
from tests.console.world import Browser, World
from tracker.rollup_models import LinkTarget


@pytest.fixture
def broken(world: World) -> World:
    """The world with one broken page behind the links of its publisher, and one of another."""
    now = clock.now()
    with unit_of_work(world.engine) as session:
        for program, who, failures in (
            (world.program, world.publisher, 2),
            (world.other_program, world.other_publisher, 1),
        ):
            session.add(
                LinkTarget(
                    program_id=program.id,
                    url_hash=program.id,
                    url=f"https://{program.code}.example/<gone>",
                    host=f"{program.code}.example",
                    publisher_id=who.id,
                    seen_day=int(now.timestamp()) // 86_400,
                    next_check_at=now + timedelta(days=1),
                    checked_at=now,
                    outcome="gone",
                    status=404,
                    failures=failures,
                )
            )
    return world


@pytest.mark.parametrize("role", ["publisher", "advertiser"])
def test_each_party_is_told_of_its_own_pages(browser: Browser, broken: World, role: str) -> None:
    browser.sign_in(role)

    page = browser.open("/health").text

    assert "https://lumen.example/&lt;gone&gt; (404)" in page
    assert "Act now" in page
    assert "kori.example" not in page
    assert browser.open(f"/health?program={broken.other_program.id}").status_code == 400


def test_a_manager_sees_all_and_narrows_it(browser: Browser, broken: World) -> None:
    browser.sign_in("manager")

    page = browser.open("/health").text
    assert page.index("lumen.example") < page.index("kori.example")
    narrowed = browser.open(f"/health?program={broken.other_program.id}").text
    assert "kori.example" in narrowed
    assert "lumen.example" not in narrowed
    assert "kori.example" not in browser.open("/health?status=red").text
    assert browser.open("/health?status=blue").status_code == 400


def test_reasons_come_in_chinese(browser: Browser, broken: World) -> None:
    del broken
    browser.sign_in("publisher")

    page = browser.open("/health", **{"accept-language": "zh-CN"}).text

    assert "链接指向的 1 个页面中有 1 个失效" in page
    assert "立即处理" in page


def test_nothing_to_judge_is_said(browser: Browser, world: World) -> None:
    del world
    browser.sign_in("publisher")

    assert "Nothing to judge yet." in browser.open("/health").text
