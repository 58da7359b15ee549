import datetime as dt
import gzip
import io
import socket
import ssl
import threading
import time
import zlib
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from kernel import outbound
from kernel.addresses import is_public
from kernel.outbound import BoundedGunzip, OutboundPolicy, OutboundRefused

Answer = Callable[[BaseHTTPRequestHandler], None]


class Site:
    """A loopback server: answers by path, and a record of what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.requests: list[tuple[str, str, dict[str, str], bytes]] = []
        self.connections = 0
        site = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                site.connections += 1
                super().setup()

            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length", "0"))
                headers = {name.lower(): text for name, text in self.headers.items()}
                site.requests.append((self.command, self.path, headers, self.rfile.read(length)))
                try:
                    site.answers[self.path](self)
                except OSError:
                    self.close_connection = True

            do_POST = do_GET  # noqa: N815 - the name http.server looks for

            def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - stdlib's name
                pass

        class Server(ThreadingHTTPServer):
            def handle_error(self, request: object, client_address: object) -> None:
                """A client that hangs up is what many of these tests are about."""

        self.server = Server(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.port = int(self.server.server_address[1])
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self.thread.start()

    def url(self, path: str, host: str = "127.0.0.1", scheme: str = "http") -> str:
        return f"{scheme}://{host}:{self.port}{path}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
        self.thread.join(5)


@pytest.fixture
def site() -> Iterator[Site]:
    made = Site()
    yield made
    made.close()


def policy(site: Site, **facts: object) -> OutboundPolicy:
    known: dict[str, object] = {
        "ports": frozenset({site.port}),
        "allow_private_hosts": frozenset({"127.0.0.1"}),
        "total_seconds": 5.0,
        "read_seconds": 2.0,
        "connect_seconds": 1.0,
    }
    return OutboundPolicy(**(known | facts))  # type: ignore[arg-type]  # test facts are loose


def reply(status: int, body: bytes = b"", **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        known = {"Content-Length": str(len(body))}
        for name, text in (known | {n.replace("_", "-"): t for n, t in headers.items()}).items():
            handler.send_header(name, text)
        handler.end_headers()
        handler.wfile.write(body)

    return answer


def refused(url: str, directory: Path, allowed: OutboundPolicy) -> OutboundRefused:
    """The refusal of a fetch, which must not leave a file behind."""
    with pytest.raises(OutboundRefused) as caught:
        outbound.fetch(url, policy=allowed, directory=directory)
    assert list(directory.iterdir()) == []
    return caught.value


def test_document_arrives_with_its_validators(site: Site, tmp_path: Path) -> None:
    site.answers["/feed"] = reply(200, b"id\tprice\n", ETag='"v1"', Last_Modified="Sun, 01 Nov")
    result = outbound.fetch(
        site.url("/feed"), policy=policy(site), headers={"X-Key": "k"}, directory=tmp_path
    )
    assert result.path is not None
    assert result.path.read_bytes() == b"id\tprice\n"
    assert (result.status, result.etag, result.last_modified) == (200, '"v1"', "Sun, 01 Nov")
    assert (result.not_modified, result.decoded_bytes, result.length_known) == (False, 9, True)
    (_, _, headers, _) = site.requests[0]
    assert headers["host"] == f"127.0.0.1:{site.port}"
    assert headers["accept-encoding"] == "gzip"
    assert headers["x-key"] == "k"


def test_unchanged_document_is_no_file(site: Site, tmp_path: Path) -> None:
    site.answers["/feed"] = reply(304, ETag='"v1"')
    result = outbound.fetch(
        site.url("/feed"),
        policy=policy(site),
        headers={"If-None-Match": '"v1"'},
        directory=tmp_path,
    )
    assert (result.not_modified, result.path, result.status) == (True, None, 304)
    assert site.requests[0][2]["if-none-match"] == '"v1"'
    assert list(tmp_path.iterdir()) == []


def test_unasked_304_is_refused(site: Site, tmp_path: Path) -> None:
    site.answers["/feed"] = reply(304)
    refusal = refused(site.url("/feed"), tmp_path, policy(site))
    assert (refusal.code, refusal.status) == ("outbound_status", 304)


def test_error_says_the_status_and_nothing_of_the_body(site: Site, tmp_path: Path) -> None:
    site.answers["/feed"] = reply(500, b"root password is hunter2", Server="secretd/9")
    refusal = refused(site.url("/feed"), tmp_path, policy(site))
    assert str(refusal) == "The server answered with status 500."


def test_gzip_is_decoded(site: Site, tmp_path: Path) -> None:
    text = b"".join(b"%d\tname\n" % n for n in range(50_000))
    site.answers["/feed"] = reply(200, gzip.compress(text), Content_Encoding="gzip")
    result = outbound.fetch(site.url("/feed"), policy=policy(site), directory=tmp_path)
    assert result.path is not None
    assert result.path.read_bytes() == text
    assert result.decoded_bytes == len(text)
    assert result.wire_bytes < len(text)


def test_gzip_bomb_stops_at_the_ratio(site: Site, tmp_path: Path) -> None:
    bomb = gzip.compress(bytes(50 * 1_048_576))
    site.answers["/feed"] = reply(200, bomb, Content_Encoding="gzip")
    refusal = refused(site.url("/feed"), tmp_path, policy(site))
    assert (refusal.code, refusal.limit) == ("outbound_limit", "ratio_max")


def test_decoded_bytes_are_capped(site: Site, tmp_path: Path) -> None:
    site.answers["/z"] = reply(200, gzip.compress(b"x" * 5000), Content_Encoding="gzip")
    site.answers["/p"] = reply(200, b"x" * 5000)
    capped = policy(site, decoded_bytes_max=4999)
    assert refused(site.url("/z"), tmp_path, capped).limit == "decoded_bytes_max"
    assert refused(site.url("/p"), tmp_path, capped).limit == "decoded_bytes_max"


def test_bytes_on_the_wire_are_capped_headers_included(site: Site, tmp_path: Path) -> None:
    site.answers["/feed"] = reply(200, b"x", X_Long="y" * 9000)
    refusal = refused(site.url("/feed"), tmp_path, policy(site, wire_bytes_max=4000))
    assert refusal.limit == "wire_bytes_max"


@pytest.mark.parametrize("coding", ["gzip, gzip", "br", "deflate", "zstd", "gzip,identity"])
def test_only_the_coding_asked_for_is_read(site: Site, tmp_path: Path, coding: str) -> None:
    twice = gzip.compress(gzip.compress(b"x"))
    site.answers["/feed"] = reply(200, twice, Content_Encoding=coding)
    refusal = refused(site.url("/feed"), tmp_path, policy(site))
    assert (refusal.code, refusal.reason) == ("outbound_answer_refused", "content_coding")


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (gzip.compress(b"abc" * 999, mtime=0)[:-3], "gzip_truncated"),
        (b"", "gzip_truncated"),
        (b"not gzip at all", "gzip_damaged"),
        (gzip.compress(b"abc", mtime=0) + b"trailing", "gzip_damaged"),
    ],
)
def test_damaged_gzip_is_refused(site: Site, tmp_path: Path, body: bytes, reason: str) -> None:
    site.answers["/feed"] = reply(200, body, Content_Encoding="gzip")
    refusal = refused(site.url("/feed"), tmp_path, policy(site))
    assert (refusal.code, refusal.reason) == ("outbound_answer_refused", reason)


def test_short_body_is_refused(site: Site, tmp_path: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        reply(200, b"half", Content_Length="8")(handler)
        handler.close_connection = True

    site.answers["/feed"] = answer
    refusal = refused(site.url("/feed"), tmp_path, policy(site))
    assert refusal.code == "outbound_answer_refused"


def test_body_without_a_length_is_marked(site: Site, tmp_path: Path) -> None:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(b"HTTP/1.0 200 OK\r\n\r\nsome rows")
        handler.close_connection = True

    site.answers["/feed"] = answer
    result = outbound.fetch(site.url("/feed"), policy=policy(site), directory=tmp_path)
    assert (result.decoded_bytes, result.length_known) == (9, False)


@pytest.mark.parametrize("lead", [b"HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n", b""])
def test_dripping_answer_ends_at_the_deadline(site: Site, tmp_path: Path, lead: bytes) -> None:
    """A byte now and then keeps every single read fast; only the total can end it."""

    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.wfile.write(lead)
        for _ in range(99):
            handler.wfile.write(b"H")
            time.sleep(0.1)

    site.answers["/feed"] = answer
    began = time.monotonic()
    refusal = refused(site.url("/feed"), tmp_path, policy(site, total_seconds=0.6))
    assert (refusal.code, refusal.limit) == ("outbound_limit", "total_seconds")
    assert time.monotonic() - began < 2.5


def test_silent_server_ends_at_the_read_limit(site: Site, tmp_path: Path) -> None:
    site.answers["/feed"] = lambda _: time.sleep(1.5)
    refusal = refused(site.url("/feed"), tmp_path, policy(site, read_seconds=0.2))
    assert refusal.limit == "read_seconds"


def test_slow_name_server_does_not_hold_the_caller(site: Site, tmp_path: Path) -> None:
    def slow(_host: str, _port: int) -> list[str]:
        time.sleep(1.0)
        return ["127.0.0.1"]

    began = time.monotonic()
    allowed = policy(site, resolver=slow, connect_seconds=0.1)
    assert refused(site.url("/feed"), tmp_path, allowed).reason == "name_not_resolved"
    assert time.monotonic() - began < 0.8
    assert site.connections == 0


def test_redirects_are_followed_to_the_limit(site: Site, tmp_path: Path) -> None:
    for hop in range(4):
        site.answers[f"/{hop}"] = reply(302, Location=f"/{hop + 1}")
    site.answers["/4"] = reply(200, b"end")
    result = outbound.fetch(site.url("/1"), policy=policy(site), directory=tmp_path)
    assert result.final_url == site.url("/4")
    assert result.path is not None
    result.path.unlink()
    assert refused(site.url("/0"), tmp_path, policy(site)).limit == "redirects_max"


@pytest.mark.parametrize(
    ("location", "code"),
    [
        ("http://127.0.0.2:{port}/in", "outbound_unreachable"),
        ("http://localhost:{port}/in", "outbound_unreachable"),
        ("http://[::ffff:127.0.0.1]:{port}/in", "outbound_unreachable"),
        ("http://169.254.169.254:{port}/latest", "outbound_unreachable"),
        ("http://127.0.0.1:22/", "outbound_url_refused"),
        ("http://user:pass@127.0.0.1:{port}/in", "outbound_url_refused"),
        ("file:///etc/passwd", "outbound_url_refused"),
        ("gopher://127.0.0.1:{port}/", "outbound_url_refused"),
        ("", "outbound_answer_refused"),
    ],
)
def test_redirect_is_judged_again(site: Site, tmp_path: Path, location: str, code: str) -> None:
    site.answers["/out"] = reply(302, Location=location.format(port=site.port))
    site.answers["/in"] = reply(200, b"secret")
    assert refused(site.url("/out"), tmp_path, policy(site)).code == code
    assert [path for _, path, _, _ in site.requests] == ["/out"]


def test_credentials_and_cookies_stay_with_their_origin(site: Site, tmp_path: Path) -> None:
    site.answers["/out"] = reply(302, Location=site.url("/in", "b.test"), Set_Cookie="s=1; Path=/")
    site.answers["/in"] = reply(200, b"x")
    allowed = policy(
        site,
        resolver=lambda _host, _port: ["127.0.0.1"],
        allow_private_hosts=frozenset({"a.test", "b.test"}),
    )
    sent = {"Authorization": "Bearer t", "X-Api-Key": "k", "If-None-Match": '"v1"'}
    outbound.fetch(site.url("/out", "a.test"), policy=allowed, headers=sent, directory=tmp_path)
    first, second = (headers for _, _, headers, _ in site.requests)
    assert first["authorization"] == "Bearer t"
    assert second["host"] == f"b.test:{site.port}"
    assert second["if-none-match"] == '"v1"'
    assert not {"authorization", "x-api-key", "cookie"} & second.keys()


def test_environment_is_not_consulted(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password secret\n")
    monkeypatch.setenv("NETRC", str(netrc))
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    site.answers["/feed"] = reply(200, b"x")
    folder = tmp_path / "files"
    folder.mkdir()
    outbound.fetch(site.url("/feed"), policy=policy(site), directory=folder)
    assert "authorization" not in site.requests[0][2]


@pytest.mark.parametrize(
    "url",
    [
        "ftp://a.test/",
        "file:///etc/passwd",
        "//a.test/",
        "a.test/feed",
        "http://",
        "http:///feed",
        "http://user@a.test/",
        "http://user:pass@a.test/",
        "http://@a.test/",
        "http://a.test:22/",
        "http://a.test:99999/",
        "http://a.test:x/",
        "http://a.test\\@b.test/",
        "http://a.test/\r\nX: y",
        " http://a.test/",
        "http://a.test/a b",
        "http://[::1/",
        "http://" + "a" * 254 + "/",
        "http://①②⑦.⓪.⓪.①/",  # digits that some resolvers fold to 127.0.0.1
    ],
)
def test_bad_urls_never_reach_a_resolver(tmp_path: Path, url: str) -> None:
    asked: list[str] = []

    def resolver(host: str, _port: int) -> list[str]:
        asked.append(host)
        return ["127.0.0.1"]

    assert refused(url, tmp_path, OutboundPolicy(resolver=resolver)).code in {
        "outbound_url_refused",
        "outbound_unreachable",
    }
    assert asked in ([], ["127.0.0.1"])


def test_long_url_names_its_limit(tmp_path: Path) -> None:
    refusal = refused("http://a.test/" + "a" * 2048, tmp_path, OutboundPolicy())
    assert refusal.limit == "url_chars_max"


BAD_ADDRESSES = """
0.0.0.0 0.1.2.3 10.0.0.1 10.255.255.255 100.64.0.1 100.100.100.200 100.127.255.255 127.0.0.1
127.1.2.3 168.63.129.16 169.254.169.254 169.254.170.2 172.16.0.1 172.31.255.255 192.0.0.1
192.0.0.192 192.0.2.1 192.88.99.1 192.168.0.1 198.18.0.1 198.19.255.255 198.51.100.7 203.0.113.9
224.0.0.1 239.255.255.255 240.0.0.1 255.255.255.255 :: ::1 ::127.0.0.1 ::ffff:127.0.0.1
::ffff:8.8.8.8 ::ffff:0:7f00:1 64:ff9b::7f00:1 64:ff9b:1::1 100::1 2001::1 2001:2::1 2001:10::1
2001:20::1 2001:db8::1 2002:7f00:1::1 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1 fe80::1%eth0
febf::1 fec0::1 ff02::1 ff0e::1 2606:4700::1%eth0 localhost 2130706433 0x7f.1
""".split()  # noqa: SIM905 - eight lines to read instead of sixty


@pytest.mark.parametrize("address", BAD_ADDRESSES)
def test_bad_address_is_never_dialled(site: Site, tmp_path: Path, address: str) -> None:
    """The listener behind the resolver's answer counts connects: there must be none."""
    assert not is_public(address)
    allowed = policy(site, resolver=lambda _host, _port: [address], allow_private_hosts=frozenset())
    refusal = refused(site.url("/feed", "shop.test"), tmp_path, allowed)
    assert (refusal.code, refusal.reason) == ("outbound_unreachable", "address_not_public")
    assert site.connections == 0


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "127.1", "2130706433", "0x7f.1", "017700000001", "0", "localhost", "[::1]",
     "[::ffff:127.0.0.1]", "[::127.0.0.1]", "LOCALHOST", "127.0.0.1."],
)  # fmt: skip
def test_loopback_in_disguise_is_never_dialled(site: Site, tmp_path: Path, host: str) -> None:
    """Through the system's resolver, which folds most of these to 127.0.0.1."""
    allowed = policy(site, allow_private_hosts=frozenset())
    assert refused(site.url("/feed", host), tmp_path, allowed).code == "outbound_unreachable"
    assert site.connections == 0


@pytest.mark.parametrize(
    "address", ["8.8.8.8", "1.1.1.1", "100.63.255.255", "172.32.0.1", "2606:4700::1", "2a00::1"]
)
def test_public_addresses_are_public(address: str) -> None:
    assert is_public(address)


def test_one_bad_address_among_good_ones_condemns_the_name(site: Site, tmp_path: Path) -> None:
    allowed = policy(
        site,
        resolver=lambda _host, _port: ["127.0.0.1", "8.8.8.8"],
        allow_private_hosts=frozenset(),
    )
    refusal = refused(site.url("/feed", "shop.test"), tmp_path, allowed)
    assert refusal.reason == "address_not_public"
    assert site.connections == 0


def test_name_is_looked_up_once_a_connection(site: Site, tmp_path: Path) -> None:
    """What was judged is what is dialled: there is no second look-up to answer differently."""
    answers = iter([["127.0.0.1"], ["127.0.0.2"]])
    allowed = policy(
        site,
        resolver=lambda _host, _port: next(answers),
        allow_private_hosts=frozenset({"shop.test"}),
    )
    site.answers["/feed"] = reply(200, b"x")
    outbound.fetch(site.url("/feed", "shop.test"), policy=allowed, directory=tmp_path)
    assert next(answers) == ["127.0.0.2"]


def test_private_dead_and_unknown_read_alike(site: Site, tmp_path: Path) -> None:
    def nobody(_host: str, _port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "unknown")

    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        dead = unused.getsockname()[1]
    private = policy(site, allow_private_hosts=frozenset())
    refusals = [
        refused(site.url("/feed"), tmp_path, private),
        refused(f"http://127.0.0.1:{dead}/", tmp_path, policy(site, ports=frozenset({dead}))),
        refused(site.url("/feed", "x.test"), tmp_path, policy(site, resolver=nobody)),
    ]
    assert len({(r.code, str(r), r.limit, r.status) for r in refusals}) == 1
    assert len({r.reason for r in refusals}) == 3


def test_reserved_headers_are_a_mistake_of_the_caller(site: Site) -> None:
    with pytest.raises(ValueError, match="host"):
        outbound.fetch(site.url("/"), policy=policy(site), headers={"Host": "other"})
    assert site.connections == 0


def test_post_sends_the_body_and_tells_the_status(site: Site) -> None:
    site.answers["/hook"] = reply(429, b"later", Retry_After="7")
    result = outbound.post(
        site.url("/hook"),
        body=b'{"a":1}',
        headers={"Content-Type": "application/json"},
        policy=policy(site),
    )
    assert (result.status, result.headers["retry-after"]) == (429, "7")
    ((method, path, headers, body),) = site.requests
    assert (method, path, body) == ("POST", "/hook", b'{"a":1}')
    assert headers["content-type"] == "application/json"


def test_empty_post_says_its_length(site: Site) -> None:
    site.answers["/hook"] = reply(204)
    assert outbound.post(site.url("/hook"), body=b"", headers={}, policy=policy(site)).status == 204
    assert site.requests[0][2]["content-length"] == "0"


def test_post_follows_no_redirect(site: Site) -> None:
    site.answers["/hook"] = reply(307, Location="/other")
    result = outbound.post(site.url("/hook"), body=b"x", headers={}, policy=policy(site))
    assert result.status == 307
    assert len(site.requests) == 1


def test_post_to_a_private_address_is_not_made(site: Site) -> None:
    private = policy(site, allow_private_hosts=frozenset())
    with pytest.raises(OutboundRefused):
        outbound.post(site.url("/hook"), body=b"x", headers={}, policy=private)
    assert site.connections == 0


def tls_contexts(folder: Path, name: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """A server's context with a fresh certificate for a name, and a client's that trusts it."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))
        .not_valid_after(now + dt.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = folder / "pair.pem"
    pem.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        + certificate.public_bytes(serialization.Encoding.PEM)
    )
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(pem)
    client = ssl.create_default_context(cafile=str(pem))
    return server, client


def test_tls_checks_the_name_that_was_asked_for(site: Site, tmp_path: Path) -> None:
    """The dialled address is pinned; server name, certificate and Host keep the URL's name."""
    server_tls, client_tls = tls_contexts(tmp_path, "shop.test")
    names: list[str | None] = []
    server_tls.sni_callback = lambda _socket, name, _context: names.append(name)
    site.server.socket = server_tls.wrap_socket(site.server.socket, server_side=True)
    site.answers["/feed"] = reply(200, b"x")
    site.answers["/down"] = reply(302, Location=site.url("/feed", "shop.test"))
    folder = tmp_path / "files"
    folder.mkdir()
    allowed = policy(
        site,
        tls=client_tls,
        resolver=lambda _host, _port: ["127.0.0.1"],
        allow_private_hosts=frozenset({"shop.test", "other.test"}),
    )
    result = outbound.fetch(
        site.url("/feed", "shop.test", "https"), policy=allowed, directory=folder
    )
    assert result.path is not None
    result.path.unlink()
    assert names == ["shop.test"]
    assert site.requests[0][2]["host"] == f"shop.test:{site.port}"
    wrong = refused(site.url("/feed", "other.test", "https"), folder, allowed)
    assert (wrong.code, len(site.requests)) == ("outbound_unreachable", 1)
    down = refused(site.url("/down", "shop.test", "https"), folder, allowed)
    assert (down.code, down.reason) == ("outbound_url_refused", "redirect_downgrade")


@pytest.mark.parametrize("step", [1, 7, 65_536, 10_000_000])
def test_gunzip_gives_the_same_bytes_in_any_steps(step: int) -> None:
    text = b"".join(b"%d," % n for n in range(9_000)) + bytes(200_000)
    packed = gzip.compress(text) + gzip.compress(b"second member")
    gunzip = BoundedGunzip(decoded_bytes_max=10**7, ratio_max=200)
    source = io.BytesIO(packed)
    pieces: list[bytes] = []
    while data := source.read(step):
        pieces.extend(gunzip.feed(data))
    gunzip.finish()
    assert b"".join(pieces) == text + b"second member"
    assert max(map(len, pieces)) <= 65_536
    assert zlib.crc32(b"".join(pieces)) == zlib.crc32(text + b"second member")
