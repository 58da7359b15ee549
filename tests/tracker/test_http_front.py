"""Which front is used, and that the uvicorn in use is what the fast one was written for."""

import inspect
import tomllib
from pathlib import Path

import pytest
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from tracker import http_front
from tracker.http_front import UVICORN_END, UVICORN_MIN, Front, choose, why_not
from tracker.http_protocol import ClickProtocol

PROJECT = tomllib.loads((Path(__file__).resolve().parents[2] / "pyproject.toml").read_text())


def test_the_uvicorn_in_use_takes_the_fast_front() -> None:
    assert why_not() == ""
    assert choose("auto") == Front("fast")
    assert choose("auto").protocol is ClickProtocol


def test_the_range_is_the_one_that_is_installed() -> None:
    (required,) = [one for one in PROJECT["project"]["dependencies"] if one.startswith("uvicorn")]
    low, end = (".".join(map(str, bound)) for bound in (UVICORN_MIN, UVICORN_END))
    assert required == f"uvicorn>={low},<{end}"


def test_asgi_when_it_is_asked_for() -> None:
    front = choose("asgi")
    assert (front.name, front.protocol) == ("asgi", "httptools")


@pytest.mark.parametrize("version", ["0.53.9", "0.60.0", "1.0.0", "nonsense", ""])
def test_another_uvicorn_means_asgi_and_says_so(version: str) -> None:
    front = choose("auto", version)
    assert front.name == "asgi"
    assert front.why_not_fast == f"uvicorn {version} is not in the range 0.54 to below 0.60"


@pytest.mark.parametrize("version", ["0.54", "0.54.1", "0.59.12"])
def test_the_versions_of_the_range_are_tried(version: str) -> None:
    assert why_not(version) == ""


def test_a_method_that_is_gone_means_asgi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(HttpToolsProtocol, "on_response_complete")
    assert why_not() == f"uvicorn {uvicorn.__version__} has no on_response_complete"


def test_a_protocol_that_answers_otherwise_means_asgi(monkeypatch: pytest.MonkeyPatch) -> None:
    def silent(_self: object) -> None:
        """Starts nothing that waits."""

    monkeypatch.setattr(HttpToolsProtocol, "on_response_complete", silent)
    monkeypatch.setattr(http_front, "_REHEARSAL_SECONDS", 0.1)
    assert why_not().startswith("the self-check failed: TimeoutError")


def test_a_protocol_that_says_something_else_means_asgi(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_front, "_REHEARSED", b"something else")
    assert why_not().startswith("the self-check gave b'HTTP/1.1 302 Found")


def test_what_the_fast_front_takes_for_granted() -> None:
    """Names of uvicorn that the subclass reads or writes; a release may change any of them."""
    source = inspect.getsource(HttpToolsProtocol)
    for name in (
        "self.cycle",
        "self.pipeline",
        "self.flow",
        "self.headers",
        "self.url",
        "self.expect_100_continue",
        "self.client",
        "self.transport",
        "self.parser",
        "self.access_log",
        "self.root_path",
        "self.limit_concurrency",
        "self.server_state.default_headers",
        "self.server_state.total_requests",
    ):
        assert name in source, name
    # A click under way stands in for a cycle: nothing else of a cycle may be asked for.
    cycle = set(RequestResponseCycle.__init__.__annotations__)
    assert {"keep_alive", "message_event", "on_response"} <= cycle
    used = {
        word.split("(")[0].split(")")[0].rstrip(":,.")
        for word in source.replace("\n", " ").split()
        if word.startswith(("self.cycle.", "existing_cycle."))
    }
    names = {word.split(".")[2 if word.startswith("self") else 1] for word in used}
    assert names <= {
        "response_complete",
        "disconnected",
        "message_event",
        "keep_alive",
        "body",
        "more_body",
    }
