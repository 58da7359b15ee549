"""A whole server as its user has it: processes of its own, a folder of its own, HTTP only."""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from html import unescape
from json import loads
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qs, urlsplit

import httpx

REPOSITORY = Path(__file__).resolve().parents[2]
READY_SECONDS = 60
STOP_SECONDS = 40
COMMAND_SECONDS = 120
BROWSER = "Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0"
BOT = "Mozilla/5.0 (compatible; Googlebot/2.1; +http://www.google.com/bot.html)"
_BANNER_END = "Ctrl-C stops everything."
_T = TypeVar("_T")


def environment(data_dir: Path, **settings: str) -> dict[str, str]:
    """What an operator's shell holds: settings by their names without the prefix."""
    given = {"data_dir": str(data_dir), "port": "0", **settings}
    return os.environ | {f"TALLYSTICK_{name.upper()}": text for name, text in given.items()}


def command(data_dir: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run `tallystick ...` to its end."""
    return subprocess.run(  # noqa: S603 - our own interpreter and module
        [sys.executable, "-m", "server", *arguments],
        cwd=REPOSITORY,
        env=environment(data_dir, **settings),
        capture_output=True,
        text=True,
        timeout=COMMAND_SECONDS,
        check=False,
    )


def eventually(look: Callable[[], _T | None], *, seconds: float = 30) -> _T:
    """What `look` finds; it is asked again while it finds nothing."""
    deadline = time.monotonic() + seconds
    while True:
        found = look()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"nothing within {seconds} s: {look}; last: {found!r}")
        time.sleep(0.05)


class House:
    """`tallystick serve` (or `worker`) on one folder; may be stopped, killed and started again."""

    def __init__(self, data_dir: Path, *arguments: str, **settings: str) -> None:
        self.data_dir = data_dir
        self._arguments = arguments or ("serve", "--demo")
        self._settings = settings
        self._process: subprocess.Popen[str] | None = None
        self._said: list[str] = []
        self._listener = threading.Thread()
        self.base_url = ""

    def start(self) -> "House":
        """Start, and wait until the banner says where."""
        self._said = []
        self._process = subprocess.Popen(  # noqa: S603 - our own interpreter and module
            [sys.executable, "-m", "server", *self._arguments],
            cwd=REPOSITORY,
            env=environment(self.data_dir, **self._settings),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )
        self._listener = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
        self._listener.start()
        if self._arguments[0] == "serve":
            eventually(self._has_said_where, seconds=READY_SECONDS)
            (where,) = re.findall(r"serves on (\S+)", self.said)
            self.base_url = where
        return self

    def _listen(self, process: "subprocess.Popen[str]") -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._said.append(line)

    def _has_said_where(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, self.said
        return _BANNER_END in self.said

    @property
    def said(self) -> str:
        return "".join(self._said)

    def stop(self) -> None:
        """Ctrl-C: it must say that it stopped, and nothing of it may be left."""
        assert self._process is not None
        self._process.send_signal(signal.SIGINT)
        code = self._process.wait(timeout=STOP_SECONDS)
        left = self.processes()
        self.end()
        assert (code, left) == (0, {}), self.said
        if self._arguments[0] == "serve":
            assert self.said.endswith("stopped\n"), self.said

    def kill(self) -> None:
        """SIGKILL for the first process; nobody tells the others."""
        assert self._process is not None
        self._process.kill()
        self._process.wait(timeout=STOP_SECONDS)

    def end(self) -> None:
        """Leave nothing behind, whatever happened."""
        for number in self.processes():
            try:
                os.kill(number, signal.SIGKILL)
            except ProcessLookupError:
                continue
        if self._process is not None:
            self._process.wait(timeout=STOP_SECONDS)
            # It ends when the last process that holds the output has ended.
            self._listener.join(timeout=STOP_SECONDS)

    def processes(self) -> dict[int, str]:
        """Every living process that was started for this folder: pid and role.

        Told by its environment, so that one whose parent is gone is found, too.
        """
        mark = f"TALLYSTICK_DATA_DIR={self.data_dir}".encode()
        found = {}
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                if mark in (entry / "environ").read_bytes().split(b"\0"):
                    words = (entry / "cmdline").read_bytes().decode().split("\0")
                    if "tracker.journal_writer" in words:
                        found[int(entry.name)] = "writer"
                    elif "server" in words:
                        found[int(entry.name)] = " ".join(words[words.index("server") + 1 :])
            except (OSError, ValueError):
                continue  # it ended meanwhile, or is somebody else's
        return found

    def children(self, role: str) -> list[int]:
        return [
            number
            for number, words in self.processes().items()
            if words.startswith(f"child {role}")
        ]

    # Those who use it -----------------------------------------------------------------------

    @property
    def demo(self) -> dict[str, Any]:
        document: dict[str, Any] = loads((self.data_dir / "demo.json").read_text())
        return document

    def advertiser(self, program: str) -> dict[str, Any]:
        return next(one for one in self.demo["advertisers"] if one["program"] == program)

    def publisher(self, code: str) -> dict[str, Any]:
        return next(one for one in self.demo["publishers"] if one["code"] == code)

    def api(self, credentials: Mapping[str, Any]) -> "Api":
        return Api(self.base_url, credentials)

    def console(self, credentials: Mapping[str, Any]) -> "Console":
        return Console(self.base_url, credentials)

    def click(self, program: str, publisher: str, *, address: str, agent: str = BROWSER) -> str:
        """Follow a link as a browser does; the click id on the landing page's address."""
        answer = httpx.get(
            f"{self.base_url}/c/{program}/{publisher}",
            headers={"User-Agent": agent, "X-Forwarded-For": address},
            trust_env=False,
        )
        assert answer.status_code == 302, answer.text
        (found,) = parse_qs(urlsplit(answer.headers["location"]).query)["ts_click"]
        return found

    def postback(self, fields: Mapping[str, Any]) -> httpx.Response:
        return httpx.post(f"{self.base_url}/postback", json=fields, trust_env=False, timeout=20)

    def audit(self) -> "subprocess.CompletedProcess[str]":
        return command(self.data_dir, "audit", **self._settings)


class Api:
    """One API client."""

    def __init__(self, base_url: str, credentials: Mapping[str, Any]) -> None:
        answer = httpx.post(
            f"{base_url}/oauth/token",
            data={"grant_type": "client_credentials"},
            auth=(credentials["client_id"], credentials["client_secret"]),
            trust_env=False,
        )
        assert answer.status_code == 200, answer.text
        self._client = httpx.Client(
            base_url=base_url,
            headers={"Authorization": f"Bearer {answer.json()['access_token']}"},
            trust_env=False,
            timeout=30,
        )

    def close(self) -> None:
        self._client.close()

    def get(self, path: str, **query: str) -> Any:
        answer = self._client.get(path, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def post(self, path: str, document: Any) -> httpx.Response:
        return self._client.post(path, json=document)

    def conversions(self, **query: str) -> list[dict[str, Any]]:
        """All of them, page by page."""
        rows: list[dict[str, Any]] = []
        page = self.get("/v1/conversions", limit="1000", **query)
        rows += page["data"]
        while page["next_cursor"]:
            page = self.get("/v1/conversions", limit="1000", cursor=page["next_cursor"], **query)
            rows += page["data"]
        return rows

    def conversion(self, order_id: str) -> dict[str, Any]:
        (row,) = self.conversions(order_id=order_id)
        return row

    def booked(
        self, order_id: str, *, status: str | None = None, seconds: float = 30
    ) -> dict[str, Any]:
        """The order once it has a commission (of that status)."""

        def look() -> dict[str, Any] | None:
            for row in self.conversions(order_id=order_id):
                if row["commission"] and status in (None, row["status"]):
                    return row
            return None

        return eventually(look, seconds=seconds)

    def idle(self) -> None:
        """Wait until everything acknowledged is booked."""
        eventually(lambda: not any(self.get("/v1/status").values()), seconds=60)


class Console:
    """A person at the console, signed in."""

    def __init__(self, base_url: str, credentials: Mapping[str, Any]) -> None:
        self.client = httpx.Client(base_url=base_url, trust_env=False, timeout=30)
        answer = self.send(
            "/sign-in",
            on="/sign-in",
            email=credentials["email"],
            password=credentials["password"],
        )
        assert (answer.status_code, answer.headers["location"]) == (303, "/")

    def close(self) -> None:
        self.client.close()

    def open(self, path: str) -> str:
        answer = self.client.get(path)
        assert answer.status_code == 200, answer.text
        return answer.text

    def send(self, path: str, *, on: str, **fields: str) -> httpx.Response:
        """Send a form with the token of the page it is on."""
        found = re.search(r'name="csrf_token" value="([^"]+)"', self.open(on))
        assert found is not None
        return self.client.post(path, data={"csrf_token": unescape(found[1]), **fields})
