import threading
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from feeds.fetch import feed_policy, fetch_source
from feeds.formats import FeedLimits
from kernel.outbound import OutboundPolicy, OutboundRefused

BODY = b"id\ttitle\n1\tx\n"
seen: list[dict[str, str]] = []


class Source(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        seen.append({name.lower(): text for name, text in self.headers.items()})
        unchanged = self.headers.get("If-None-Match") == '"v2"'
        self.send_response(304 if unchanged else 200)
        if not unchanged:
            self.send_header("Content-Length", str(len(BODY)))
            self.send_header("ETag", '"v2"' if self.path == "/feed" else '"' + "x" * 600 + '"')
            self.send_header("Last-Modified", "Sun, 01 Nov 2026 00:00:00 GMT")
        self.end_headers()
        if not unchanged:
            self.wfile.write(BODY)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - stdlib's name
        pass


@pytest.fixture
def port() -> Iterator[int]:
    seen.clear()
    server = ThreadingHTTPServer(("127.0.0.1", 0), Source)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield int(server.server_address[1])
    server.shutdown()
    server.server_close()
    thread.join(5)


def policy(port: int, limits: FeedLimits | None = None) -> OutboundPolicy:
    made = feed_policy(
        limits or FeedLimits(), total_seconds=5, allow_private_hosts=frozenset({"127.0.0.1"})
    )
    return replace(made, ports=frozenset({port}))


def test_changed_then_unchanged_source(port: int, tmp_path: Path) -> None:
    url = f"http://127.0.0.1:{port}/feed"
    first = fetch_source(url, etag="", last_modified="", policy=policy(port), directory=tmp_path)
    assert first.path is not None
    assert first.path.read_bytes() == BODY
    assert "if-none-match" not in seen[0]
    first.path.unlink()
    again = fetch_source(
        url,
        etag=first.etag,
        last_modified=first.last_modified,
        policy=policy(port),
        directory=tmp_path,
    )
    assert (again.not_modified, again.path) == (True, None)
    # The 304 named no validators, so those of the file that was imported go on.
    assert (again.etag, again.last_modified) == ('"v2"', "Sun, 01 Nov 2026 00:00:00 GMT")
    assert seen[1]["if-modified-since"] == "Sun, 01 Nov 2026 00:00:00 GMT"
    assert list(tmp_path.iterdir()) == []


def test_overlong_validator_is_not_kept(port: int, tmp_path: Path) -> None:
    result = fetch_source(
        f"http://127.0.0.1:{port}/long",
        etag='"old"',
        last_modified="",
        policy=policy(port),
        directory=tmp_path,
    )
    assert (result.etag, result.last_modified) == ("", "Sun, 01 Nov 2026 00:00:00 GMT")


def test_feed_limits_bound_the_download(port: int, tmp_path: Path) -> None:
    small = policy(port, FeedLimits(decoded_bytes_max=5))
    with pytest.raises(OutboundRefused) as caught:
        fetch_source(
            f"http://127.0.0.1:{port}/feed",
            etag="",
            last_modified="",
            policy=small,
            directory=tmp_path,
        )
    assert caught.value.limit in {"decoded_bytes_max", "wire_bytes_max"}
    assert list(tmp_path.iterdir()) == []


def test_private_source_is_not_asked(port: int, tmp_path: Path) -> None:
    closed = replace(policy(port), allow_private_hosts=frozenset())
    with pytest.raises(OutboundRefused):
        fetch_source(
            f"http://127.0.0.1:{port}/feed",
            etag="",
            last_modified="",
            policy=closed,
            directory=tmp_path,
        )
    assert seen == []
