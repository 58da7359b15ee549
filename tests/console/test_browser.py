"""A real Chromium at the console over a loopback port: no script, no overflow, every scheme."""

import shutil
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import uvicorn
from playwright.sync_api import Page, sync_playwright
from sqlalchemy.engine import Engine
from sqlmodel import Session, select

from fraud.models import FlagDecision
from kernel.settings import Settings
from tests.conftest import REQUIRE_SERVICES
from tests.console.world import EMAILS, PASSWORD, World, application

ARGUMENTS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
START_SECONDS_MAX = 20

pytestmark = pytest.mark.browser


@pytest.fixture
def chromium() -> str:
    found = shutil.which("chromium")
    if found is None:
        if REQUIRE_SERVICES:
            pytest.fail("no chromium on the path")
        pytest.skip("no chromium on the path")
    return found


@pytest.fixture
def address(settings: Settings, sqlite_engine: Engine) -> Iterator[str]:
    """The address of a server that runs as long as the test."""
    listening = socket.socket()
    listening.bind(("127.0.0.1", 0))
    port = listening.getsockname()[1]
    at_port = settings.model_copy(update={"port": port})
    server = uvicorn.Server(
        uvicorn.Config(application(at_port, sqlite_engine), log_level="error", lifespan="off")
    )
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    deadline = time.monotonic() + START_SECONDS_MAX
    while not server.started and time.monotonic() < deadline:
        time.sleep(0.02)
    yield f"http://127.0.0.1:{port}"
    server.should_exit = True
    thread.join()
    listening.close()


def _sign_in(page: Page, address: str, name: str = "manager") -> None:
    page.goto(f"{address}/conversions")
    page.fill("#email", EMAILS[name])
    page.fill("#password", PASSWORD)
    page.press("#password", "Enter")
    page.wait_for_selector("nav.nav")


def _look(page: Page, address: str, world: World, *, to: Path) -> None:
    paths = {
        "overview": "/",
        "conversions": "/conversions",
        "conversion": f"/conversions/{world.pending.id}",
        "flags": "/flags?status=all",
        "payouts": "/payouts",
        "program": f"/programs/{world.program.id}",
        "rules": f"/programs/{world.program.id}/attribution",
        "coupons": f"/programs/{world.program.id}/coupons",
        "tracking": f"/programs/{world.program.id}/tracking",
        "reports": "/reports",
        "health": "/health",
        "links": "/links",
    }
    for name, path in paths.items():
        page.goto(address + path)
        page.screenshot(path=f"{to}-{name}.png", full_page=True)
        wider = page.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert wider <= 0, f"{to.name} {name} is {wider} pixels too wide"


def test_a_manager_clears_a_flag(chromium: str, address: str, world: World, tmp_path: Path) -> None:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        # Without JavaScript, as the console promises.
        context = browser.new_context(java_script_enabled=False)
        page = context.new_page()
        refused: list[str] = []
        page.on("console", lambda message: refused.append(message.text))
        _sign_in(page, address)
        page.goto(f"{address}/flags")
        page.click("tbody th a")
        page.fill("#note", "Spoke with the publisher")
        page.click("text=Clear and release")
        page.wait_for_selector(".notice")
        assert "The flag is cleared." in page.inner_text(".notice")
        assert refused == []
        for scheme in ("light", "dark"):
            for width in (1280, 390, 360):
                look = browser.new_context(
                    color_scheme="dark" if scheme == "dark" else "light",
                    viewport={"width": width, "height": 900},
                )
                look_page = look.new_page()
                _sign_in(look_page, address)
                _look(look_page, address, world, to=tmp_path / f"{width}-{scheme}")
                look.close()
        browser.close()

    with Session(world.engine) as session:
        decision = session.exec(select(FlagDecision)).one()
    assert (decision.outcome, decision.note) == ("cleared", "Spoke with the publisher")
    assert len(list(tmp_path.glob("*-*-*.png"))) == 72


def test_an_advertiser_sends_a_file(
    chromium: str, address: str, world: World, tmp_path: Path
) -> None:
    file = tmp_path / "march.csv"
    file.write_text("order_id;amount;currency\n1;1,50;EUR\n2;no;EUR\n", encoding="utf-8")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=list(ARGUMENTS))
        context = browser.new_context(java_script_enabled=False)
        page = context.new_page()
        _sign_in(page, address, "advertiser")
        page.goto(f"{address}/uploads")
        page.set_input_files("#file", file)
        page.select_option("#decimal", ",")
        page.click("form.filters button.button")
        page.wait_for_selector("progress")
        sent = page.url.partition("?")[0]
        for language in ("en", "zh-Hans"):
            for width in (1280, 360):
                look = browser.new_context(
                    viewport={"width": width, "height": 900}, locale=language
                )
                look_page = look.new_page()
                _sign_in(look_page, address, "advertiser")
                for name, path in (
                    ("files", f"{address}/uploads"),
                    ("file", sent),
                    ("order", f"{address}/conversions/{world.pending.id}"),
                ):
                    look_page.goto(path)
                    look_page.screenshot(
                        path=str(tmp_path / f"{name}-{language}-{width}.png"), full_page=True
                    )
                    wider = look_page.evaluate(
                        "document.documentElement.scrollWidth"
                        " - document.documentElement.clientWidth"
                    )
                    assert wider <= 0, f"{name} {language} {width} is {wider} pixels too wide"
                look.close()
        browser.close()
    assert len(list(tmp_path.glob("*.png"))) == 12
