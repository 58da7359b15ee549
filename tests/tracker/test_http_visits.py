"""A merchant's server tells of visits; the examples of the guide are run as they stand there."""

import http.server
import json
import re
import shutil
import subprocess
import threading
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.engine import Engine

from kernel import clock
from kernel.clock import to_rfc3339
from tests.conftest import REPOSITORY
from tracker.models import Click

GUIDE = (REPOSITORY / "docs/how-to/track-without-redirects.md").read_text(encoding="utf-8")
VISIT: dict[str, Any] = {
    "publisher": "blog",
    "s1": "newsletter",
    "landing_url": "https://shop.test/p/3?x=1",
    "address": "91.0.0.77",
    "user_agent": "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
    "referrer": "https://blog.test/post",
    "accept_language": "de",
}


def visit(tracker: Any, token: str, changes: dict[str, Any] | None = None) -> Any:
    return tracker.api(token, "/v1/visits", VISIT | (changes or {}))


def fields_of(answer: Any) -> list[str]:
    assert answer.status_code == 400, answer.text
    return [problem["field"] for problem in answer.json()["errors"]]


@pytest.mark.parametrize("who", ["advertiser", "token"])
def test_a_visit_is_a_click_of_its_publisher(tracker: Any, world: Any, who: str) -> None:
    answer = visit(tracker, getattr(world, who))

    assert answer.status_code == 201, answer.text
    told = answer.json()
    assert told["reason"] == ""
    facts = tracker.node.signer.read(told["click_id"])
    assert (facts.program_number, facts.publisher_number) == (world.shop_number, world.blog_number)
    assert tracker.ship().clicks == 1
    (row,) = tracker.rows(Click)
    assert (row.id, row.program_id, row.publisher_id) == (
        told["click_id"],
        world.shop_id,
        world.blog_id,
    )
    assert row.landing_url == "https://shop.test/p/3?x=1"
    assert row.sub_ids == {"s1": "newsletter"}
    assert row.parameters == {"s1": "newsletter", "ts_note": "server"}
    # The visitor's, not the server's that called.
    assert (row.address, row.country, row.agent_class) == ("91.0.0.0/24", "DE", "browser")
    assert (row.referrer, row.accept_language) == ("https://blog.test/post", "de")


def test_the_same_reference_is_one_click(tracker: Any, world: Any) -> None:
    at = clock.now() - timedelta(minutes=10)
    named = {"ref": "visit-1", "visited_at": to_rfc3339(at)}
    first = visit(tracker, world.token, named).json()["click_id"]
    tracker.ship()
    again = visit(tracker, world.advertiser, named | {"user_agent": "other"}).json()["click_id"]
    other = visit(tracker, world.token, named | {"ref": "visit-2"}).json()["click_id"]
    later = visit(tracker, world.token, named | {"visited_at": to_rfc3339(clock.now())}).json()

    assert first == again
    assert len({first, other, later["click_id"]}) == 3
    assert tracker.node.signer.read(first).at == at.replace(
        microsecond=at.microsecond // 1000 * 1000
    )
    tracker.ship()
    rows = {row.id: row for row in tracker.rows(Click)}
    assert len(rows) == 3
    assert rows[first].user_agent == VISIT["user_agent"]


def test_a_visit_of_a_moment_ago_by_a_fast_clock_is_now(tracker: Any, world: Any) -> None:
    soon = clock.now() + timedelta(minutes=2)
    click_id = visit(tracker, world.token, {"visited_at": to_rfc3339(soon)}).json()["click_id"]
    assert tracker.node.signer.read(click_id).at <= clock.now()


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"publisher": "stranger"}, "not_a_member"),
        ({"consent": False}, "no_consent"),
        ({"sec_purpose": "prefetch"}, "prefetch"),
        ({"gdpr": "1"}, "no_consent_tcf"),
        ({"gdpr": "1", "gdpr_consent": "nonsense"}, "no_consent_tcf"),
    ],
)
def test_a_visit_that_cannot_earn_is_recorded_and_gets_no_id(
    tracker: Any, world: Any, changes: dict[str, Any], reason: str
) -> None:
    assert visit(tracker, world.token, changes).json() == {"click_id": None, "reason": reason}
    tracker.ship()
    (row,) = tracker.rows(Click)
    assert row.unbillable_reason == reason
    if reason.startswith("no_consent"):
        assert row.landing_url == "https://shop.test/p/3"
        assert (row.address, row.visitor_key, row.user_agent, row.referrer) == ("", "", "", "")


@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        ({"address": "1.2.3"}, ["address"]),
        ({"landing_url": "javascript:1"}, ["landing_url"]),
        ({"ref": "x"}, ["visited_at"]),
        ({"visited_at": "yesterday"}, ["visited_at"]),
        ({"visited_at": "2020-01-01T00:00:00Z", "address": "x"}, ["visited_at", "address"]),
        ({"visited_at": "2100-01-01T00:00:00Z"}, ["visited_at"]),
        ({"publisher": None}, ["publisher"]),
        ({"user_agent": 7}, ["user_agent"]),
        ({"unknown": "x"}, ["unknown"]),
        ({"consent": "maybe"}, ["consent"]),
    ],
)
def test_a_malformed_visit_names_its_field(
    tracker: Any, world: Any, changes: dict[str, Any], fields: list[str]
) -> None:
    assert fields_of(visit(tracker, world.token, changes)) == fields
    assert not tracker.ship()


def test_the_evidence_of_the_visitor_s_request_is_kept(tracker: Any, world: Any) -> None:
    headers = {"sec_fetch_dest": "document", "sec_fetch_mode": "navigate", "sec_fetch_user": "?1"}
    assert visit(tracker, world.token, headers).status_code == 201
    tracker.ship()
    (row,) = tracker.rows(Click)
    kept = (row.sec_fetch_dest, row.sec_fetch_mode, row.sec_fetch_user, row.sec_purpose)
    assert kept == ("document", "navigate", "?1", None)


def test_odd_evidence_is_kept_as_harmless_text(tracker: Any, world: Any) -> None:
    odd = {"user_agent": "a\r\nb\x01" + "c" * 5000, "referrer": "https://x.test/" + "y" * 5000}
    assert visit(tracker, world.token, odd).status_code == 201
    tracker.ship()
    (row,) = tracker.rows(Click)
    assert row.user_agent == "a\ufffd\ufffdb\ufffd" + "c" * 2043
    assert len(row.referrer) == 2048


def test_nobody_speaks_for_another_s_program(tracker: Any, world: Any) -> None:
    for token, program in (
        (world.token, "other"),
        (world.other_token, "paused"),
        (world.advertiser, "other"),
        (world.token, "none"),
    ):
        answer = visit(tracker, token, {"program": program, "landing_url": None})
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    for token in ("", "pbt_wrong", world.token + "x"):
        assert visit(tracker, token).status_code == 401
    assert visit(tracker, world.publisher).status_code == 403
    assert not tracker.ship()


def test_a_caller_with_several_programs_names_one(tracker: Any, world: Any) -> None:
    for token in (world.twin_advertiser, world.manager):
        assert fields_of(visit(tracker, token)) == ["program"]
        named = {"program": "other", "landing_url": "https://other.test/x"}
        assert visit(tracker, token, named).json()["click_id"] is not None


@pytest.mark.usefixtures("world")
def test_a_token_works_without_a_database(
    tracker: Any, world: Any, serve: Any, dead_engine: Engine
) -> None:
    tracker.run(tracker.node.journal.close)
    assert visit(serve(dead_engine), world.token).status_code == 201


# The examples --------------------------------------------------------------------------------


@pytest.fixture
def address(tracker: Any) -> Iterator[str]:
    """A real port in front of the tracker, for programs that are not ours."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            content = self.rfile.read(int(self.headers["Content-Length"]))
            answer = tracker.http.post(self.path, content=content, headers=dict(self.headers))
            self.send_response(answer.status_code)
            self.send_header("Content-Type", answer.headers["content-type"])
            self.send_header("Content-Length", str(len(answer.content)))
            self.end_headers()
            self.wfile.write(answer.content)

        def log_message(self, *_arguments: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def example(language: str) -> str:
    found = re.findall(rf"^```{language}\n(.*?)^```", GUIDE, flags=re.DOTALL | re.MULTILINE)
    return str(found[0])


def check(tracker: Any, click_id: str) -> None:
    assert tracker.node.signer.read(click_id).billable
    tracker.ship()
    assert click_id in {row.id for row in tracker.rows(Click)}


def test_the_python_example(tracker: Any, world: Any, address: str) -> None:
    names: dict[str, Any] = {}
    exec(compile(example("python"), "guide", "exec"), names)  # noqa: S102 - the guide's own words

    click_id = names["click_of"](address, world.token, VISIT)
    check(tracker, click_id)
    assert names["click_of"](address, "pbt_wrong", VISIT) is None
    assert names["click_of"]("http://127.0.0.1:1", world.token, VISIT) is None
    cookie_of = names["cookie_of"]
    assert cookie_of("c", "a~b") == "a~b~c"
    assert cookie_of("a", "a~b") == "b~a"
    assert cookie_of("a", None) == "a"
    assert cookie_of("z", "~".join("abcdefghij")) == "~".join("bcdefghijz")


def test_the_node_example(tracker: Any, world: Any, address: str, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node on the path")
    program = tmp_path / "example.mjs"
    program.write_text(
        example("js")
        + f"const base = {json.dumps(address)}, visit = {json.dumps(VISIT)};\n"
        + f"console.log(JSON.stringify([await clickOf(base, {json.dumps(world.token)}, visit), "
        "await clickOf(base, 'pbt_wrong', visit), cookieOf('c', 'a~b'), cookieOf('a', 'a~b')]));\n",
        encoding="utf-8",
    )
    done = subprocess.run([node, program], capture_output=True, check=True, timeout=60)  # noqa: S603 - the guide's own words
    click_id, refused, added, moved = json.loads(done.stdout)
    check(tracker, click_id)
    assert (refused, added, moved) == (None, "a~b~c", "b~a")


def test_the_curl_example(tracker: Any, world: Any, address: str) -> None:
    curl = shutil.which("curl")
    if curl is None:
        pytest.skip("no curl on the path")
    command = (
        example("sh").replace("teatime-blog", "blog").replace("www.hearth.example", "shop.test")
    )
    done = subprocess.run(  # noqa: S603 - the guide's own words
        ["/bin/sh", "-c", command],
        env={"PATH": str(Path(curl).parent), "BASE": address, "POSTBACK_TOKEN": world.token},
        capture_output=True,
        check=True,
        timeout=60,
    )
    told = json.loads(done.stdout)
    assert told["reason"] == ""
    check(tracker, told["click_id"])
