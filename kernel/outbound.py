"""The one door for HTTP requests to addresses that somebody else chose.

Feed sources, webhooks and key sets are URLs typed in by advertisers and partners, so each request
is an offer to let a stranger use this machine's place in the network. Four rules hold for all:

* The address is judged when the connection is made, on the numbers the socket will use. A name that
  resolves to even one address outside the public internet is refused, and the address judged is the
  one dialled, so a name server that changes its answer gains nothing.
* Nothing of this machine goes along: no proxy settings, no ``.netrc``, no cookies, no credentials
  carried to another origin by a redirect.
* Everything has a limit: seconds, bytes on the wire, bytes once decompressed, ratio, redirects.
* An error says what the caller may know. What lies behind an address that is not public reads like
  an address where nobody answers; the detail for the operator's log is in ``reason``.
"""

import contextlib
import functools
import re
import ssl
import tempfile
import time
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

import httpcore
import httpx

from kernel.addresses import Resolver, is_public, resolve_by_system, resolve_within

URL_REFUSED: Final = "outbound_url_refused"
UNREACHABLE: Final = "outbound_unreachable"
OVER_LIMIT: Final = "outbound_limit"
STATUS_REFUSED: Final = "outbound_status"
ANSWER_REFUSED: Final = "outbound_answer_refused"

_SENTENCES: Final = {
    URL_REFUSED: "The URL must be http or https, on a permitted port, without user or password.",
    UNREACHABLE: "No public web server answered at this address.",
    OVER_LIMIT: "The exchange went over the limit {limit}.",
    STATUS_REFUSED: "The server answered with status {status}.",
    ANSWER_REFUSED: "The answer was incomplete or not in a form that can be read.",
}

_REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})
_OK: Final = 200
_NOT_MODIFIED: Final = 304
_HOST_CHARS_MAX: Final = 253
_ADDRESSES_TRIED_MAX: Final = 4
_CHUNK_BYTES: Final = 65_536
# Small answers may compress as well as they like; only a ratio that costs memory or disk is a bomb.
_RATIO_FLOOR_BYTES: Final = 1_048_576
# A redirect to another origin takes only these along: any other header may be a credential.
_HEADERS_FOR_ANY_ORIGIN: Final = frozenset({"accept", "if-none-match", "if-modified-since"})
_HEADERS_OURS: Final = frozenset(
    {"accept-encoding", "connection", "content-length", "host", "transfer-encoding", "user-agent"}
)
_HEADERS_KEPT: Final = ("content-type", "content-length", "etag", "last-modified", "retry-after")

SocketOption = (
    tuple[int, int, int] | tuple[int, int, bytes | bytearray] | tuple[int, int, None, int]
)


class OutboundRefused(Exception):
    """A request that was not made, or whose answer was not taken.

    ``code`` is stable and may be shown; ``limit`` names the policy's limit if one was met;
    ``status`` is the HTTP status if that is why. ``reason`` is for the operator's log only: it
    tells an internal address from a dead one, which whoever typed the URL must not learn.
    """

    def __init__(self, code: str, *, reason: str, limit: str = "", status: int = 0) -> None:
        super().__init__(_SENTENCES[code].format(limit=limit, status=status))
        self.code = code
        self.reason = reason
        self.limit = limit
        self.status = status


@dataclass(frozen=True, kw_only=True)
class OutboundPolicy:
    """What one kind of request may do and cost. The defaults suit a small document.

    ``allow_private_hosts`` are hosts as written in a URL, in lower case, for which the address
    check is skipped: an operator's own internal source, or a test's loopback server.
    """

    total_seconds: float = 60.0
    connect_seconds: float = 5.0
    read_seconds: float = 15.0
    wire_bytes_max: int = 16 * 1_048_576
    decoded_bytes_max: int = 64 * 1_048_576
    ratio_max: int = 200
    redirects_max: int = 3
    url_chars_max: int = 2_048
    ports: frozenset[int] = frozenset({80, 443})
    allow_private_hosts: frozenset[str] = frozenset()
    user_agent: str = "Tallystick/1"
    resolver: Resolver = resolve_by_system
    tls: ssl.SSLContext | None = field(default=None, repr=False)


@dataclass(frozen=True, kw_only=True)
class FetchResult:
    """An answer of 200 with its body in a file, or of 304 with none.

    The file at ``path`` belongs to the caller, who removes it. ``length_known`` is False when the
    body just ended with the connection: it may have been cut short without anyone noticing.
    """

    status: int
    headers: Mapping[str, str]
    etag: str
    last_modified: str
    path: Path | None
    not_modified: bool
    wire_bytes: int
    decoded_bytes: int
    length_known: bool
    final_url: str


@dataclass(frozen=True, kw_only=True)
class PostResult:
    """The status of a POST, whatever it was, and the headers that matter for trying again."""

    status: int
    headers: Mapping[str, str]


def check_url(url: str, *, policy: OutboundPolicy) -> httpx.URL:
    """The parsed URL, or OutboundRefused. Judges the text alone: no name is looked up."""
    if len(url) > policy.url_chars_max:
        raise OutboundRefused(OVER_LIMIT, reason="url_too_long", limit="url_chars_max")
    # Parsers disagree on what these mean inside an authority, and none has a place in a URL.
    if "\\" in url or any(char <= " " or char == "\x7f" for char in url):
        raise OutboundRefused(URL_REFUSED, reason="url_characters")
    try:
        parsed = httpx.URL(url)
        host = parsed.raw_host
    except (httpx.InvalidURL, UnicodeError, ValueError):
        raise OutboundRefused(URL_REFUSED, reason="url_malformed") from None
    if parsed.scheme not in {"http", "https"} or not 0 < len(host) <= _HOST_CHARS_MAX:
        raise OutboundRefused(URL_REFUSED, reason="url_scheme_or_host")
    # In the text, not in the parsed form, which forgets an empty user name.
    if "@" in re.split(r"[/?#]", url.partition("//")[2], maxsplit=1)[0]:
        raise OutboundRefused(URL_REFUSED, reason="url_userinfo")
    if (parsed.port or (443 if parsed.scheme == "https" else 80)) not in policy.ports:
        raise OutboundRefused(URL_REFUSED, reason="url_port")
    return parsed


class _Budget:
    """What is left of one request's time and bytes, shared by all its redirects."""

    def __init__(self, policy: OutboundPolicy) -> None:
        self.policy = policy
        self.wire_bytes = 0
        self._deadline = time.monotonic() + policy.total_seconds

    @property
    def expired(self) -> bool:
        return time.monotonic() >= self._deadline

    def seconds(self, wanted: float | None) -> float:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise OutboundRefused(OVER_LIMIT, reason="deadline", limit="total_seconds")
        return left if wanted is None else min(left, wanted)

    def received(self, count: int) -> None:
        self.wire_bytes += count
        if self.wire_bytes > self.policy.wire_bytes_max:
            raise OutboundRefused(OVER_LIMIT, reason="wire_bytes", limit="wire_bytes_max")


class _MeteredStream(httpcore.NetworkStream):
    """A connection whose every read and write is charged to the budget.

    Metering here, below HTTP, also ends what a check between body chunks would never see: a header
    sent one byte a second, or informational answers without end.
    """

    def __init__(self, inner: httpcore.NetworkStream, budget: _Budget) -> None:
        self._inner = inner
        self._budget = budget

    def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        data = self._inner.read(max_bytes, self._budget.seconds(timeout))
        self._budget.received(len(data))
        return data

    def write(self, buffer: bytes, timeout: float | None = None) -> None:
        self._inner.write(buffer, self._budget.seconds(timeout))

    def close(self) -> None:
        self._inner.close()

    def start_tls(
        self,
        ssl_context: ssl.SSLContext,
        server_hostname: str | None = None,
        timeout: float | None = None,
    ) -> httpcore.NetworkStream:
        seconds = self._budget.seconds(timeout)
        inner = self._inner.start_tls(ssl_context, server_hostname, seconds)
        return _MeteredStream(inner, self._budget)

    def get_extra_info(self, info: str) -> Any:
        return self._inner.get_extra_info(info)


class _GuardedBackend(httpcore.NetworkBackend):
    """Makes connections, and only to addresses it has looked up and judged itself."""

    def __init__(self, budget: _Budget) -> None:
        self._budget = budget
        self._dialler = httpcore.SyncBackend()

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> httpcore.NetworkStream:
        failure: httpcore.NetworkError | httpcore.TimeoutException | None = None
        for address in self._vetted(host, port)[:_ADDRESSES_TRIED_MAX]:
            try:
                inner = self._dialler.connect_tcp(
                    address, port, self._budget.seconds(timeout), local_address, socket_options
                )
            except (httpcore.NetworkError, httpcore.TimeoutException) as error:
                failure = error
            else:
                return _MeteredStream(inner, self._budget)
        raise OutboundRefused(UNREACHABLE, reason="connect_failed") from failure

    def connect_unix_socket(
        self,
        path: str,
        timeout: float | None = None,
        socket_options: Iterable[SocketOption] | None = None,
    ) -> NoReturn:
        del path, timeout, socket_options
        raise OutboundRefused(URL_REFUSED, reason="unix_socket")

    def _vetted(self, host: str, port: int) -> Sequence[str]:
        policy = self._budget.policy
        seconds = self._budget.seconds(policy.connect_seconds)
        addresses = resolve_within(seconds, policy.resolver, host, port)
        if not addresses:
            raise OutboundRefused(UNREACHABLE, reason="name_not_resolved")
        # One bad address condemns the name: its owner does not pick which one is dialled.
        if host not in policy.allow_private_hosts and not all(map(is_public, addresses)):
            raise OutboundRefused(UNREACHABLE, reason="address_not_public")
        return addresses


class BoundedGunzip:
    """Decompresses gzip in steps, never holding more than one step and never passing its caps.

    Raises OutboundRefused: ``decoded_bytes_max`` or ``ratio_max`` when a cap is met, and
    ``outbound_answer_refused`` when the data is not gzip or stops early. Several members in a row
    are one document, as the format has it.
    """

    def __init__(self, *, decoded_bytes_max: int, ratio_max: int) -> None:
        self.decoded_bytes = 0
        self._decoded_bytes_max = decoded_bytes_max
        self._ratio_max = ratio_max
        self._encoded_bytes = 0
        self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The decoded pieces of the next encoded bytes, each of a bounded size."""
        self._encoded_bytes += len(data)
        piece = b""
        # A full step may leave output inside the decompressor although all input is consumed.
        while data or (len(piece) == _CHUNK_BYTES and not self._member.eof):
            if self._member.eof:
                self._member = zlib.decompressobj(16 + zlib.MAX_WBITS)
            try:
                piece = self._member.decompress(data, _CHUNK_BYTES)
            except zlib.error:
                raise OutboundRefused(ANSWER_REFUSED, reason="gzip_damaged") from None
            self._charge(len(piece))
            yield piece
            data = self._member.unused_data if self._member.eof else self._member.unconsumed_tail

    def finish(self) -> None:
        """To be called after the last data: a document that stops inside a member is refused."""
        if not self._member.eof:
            raise OutboundRefused(ANSWER_REFUSED, reason="gzip_truncated")

    def _charge(self, count: int) -> None:
        self.decoded_bytes += count
        if self.decoded_bytes > self._decoded_bytes_max:
            raise OutboundRefused(OVER_LIMIT, reason="decoded_bytes", limit="decoded_bytes_max")
        allowed = max(_RATIO_FLOOR_BYTES, self._encoded_bytes * self._ratio_max)
        if self.decoded_bytes > allowed:
            raise OutboundRefused(OVER_LIMIT, reason="ratio", limit="ratio_max")


def fetch(
    url: str,
    *,
    policy: OutboundPolicy,
    headers: Mapping[str, str] | None = None,
    directory: Path | None = None,
) -> FetchResult:
    """GET a document into a new file in ``directory`` (default: the system's temporary folder).

    Takes 200, and 304 when the headers asked for it; follows redirects within the policy, each
    judged like the first URL, never from https to http. Any other outcome raises OutboundRefused
    and leaves no file. A repeat is a new request; nothing is cached here.
    """
    budget = _Budget(policy)
    with _followed("GET", url, _checked_headers(headers), budget) as (response, target, sent):
        _check_status(response.status, sent)
        return _received(response, target, budget, directory)


def probe(url: str, *, policy: OutboundPolicy, method: str = "HEAD") -> int:
    """The status at the end of the redirects, whatever it is; no body is read."""
    with _followed(method, url, {}, _Budget(policy)) as (response, _, _):
        return response.status


@contextlib.contextmanager
def _followed(
    method: str, url: str, sent: dict[str, str], budget: _Budget
) -> Iterator[tuple[httpcore.Response, httpx.URL, dict[str, str]]]:
    target = check_url(url, policy=budget.policy)
    for _ in range(budget.policy.redirects_max + 1):
        with _exchange(method, target, sent, None, budget) as response:
            if response.status not in _REDIRECTS:
                yield response, target, sent
                return
            location = httpx.Headers(response.headers).get("location", "")
            following = _redirect_target(target, location, budget.policy)
        if _origin(following) != _origin(target):
            sent = {name: text for name, text in sent.items() if name in _HEADERS_FOR_ANY_ORIGIN}
        target = following
    raise OutboundRefused(OVER_LIMIT, reason="redirects", limit="redirects_max")


def post(
    url: str, *, body: bytes, headers: Mapping[str, str], policy: OutboundPolicy
) -> PostResult:
    """POST a body; the status that came back. Follows no redirect and reads no answer body."""
    budget = _Budget(policy)
    target = check_url(url, policy=policy)
    with _exchange("POST", target, _checked_headers(headers), body, budget) as response:
        return PostResult(
            status=response.status, headers=_kept_headers(httpx.Headers(response.headers))
        )


@contextlib.contextmanager
def _exchange(
    method: str, target: httpx.URL, headers: Mapping[str, str], body: bytes | None, budget: _Budget
) -> Iterator[httpcore.Response]:
    policy = budget.policy
    fields: list[tuple[str, str]] = [
        *headers.items(),
        ("user-agent", policy.user_agent),
        ("accept-encoding", "gzip"),
    ]
    timeouts = {
        "connect": policy.connect_seconds,
        "read": policy.read_seconds,
        "write": policy.read_seconds,
        "pool": policy.connect_seconds,
    }
    address = httpcore.URL(
        scheme=target.raw_scheme, host=target.raw_host, port=target.port, target=target.raw_path
    )
    try:
        with (
            httpcore.ConnectionPool(
                ssl_context=policy.tls or _tls_default(),
                max_connections=1,
                max_keepalive_connections=0,
                network_backend=_GuardedBackend(budget),
            ) as pool,
            pool.stream(
                method,
                address,
                headers=fields,
                content=body,
                extensions={"timeout": timeouts},
            ) as response,
        ):
            yield response
    except httpcore.TimeoutException:
        limit = "total_seconds" if budget.expired else "read_seconds"
        raise OutboundRefused(OVER_LIMIT, reason="timeout", limit=limit) from None
    except httpcore.ProtocolError:
        raise OutboundRefused(ANSWER_REFUSED, reason="protocol_error") from None
    except httpcore.NetworkError:
        raise OutboundRefused(UNREACHABLE, reason="network_error") from None


@functools.cache
def _tls_default() -> ssl.SSLContext:
    return httpx.create_ssl_context(trust_env=False)


def _checked_headers(headers: Mapping[str, str] | None) -> dict[str, str]:
    sent = {name.lower(): text for name, text in (headers or {}).items()}
    if reserved := sorted(_HEADERS_OURS & sent.keys()):
        raise ValueError(f"Headers set by the outbound client: {', '.join(reserved)}")
    return sent


def _kept_headers(answered: httpx.Headers) -> dict[str, str]:
    return {name: answered[name] for name in _HEADERS_KEPT if name in answered}


def _origin(url: httpx.URL) -> tuple[str, bytes, int | None]:
    return (url.scheme, url.raw_host, url.port)


def _redirect_target(source: httpx.URL, location: str, policy: OutboundPolicy) -> httpx.URL:
    if not location:
        raise OutboundRefused(ANSWER_REFUSED, reason="redirect_without_location")
    try:
        joined = str(source.join(location))
    except (httpx.InvalidURL, UnicodeError, ValueError):
        raise OutboundRefused(URL_REFUSED, reason="redirect_malformed") from None
    following = check_url(joined, policy=policy)
    if source.scheme == "https" and following.scheme == "http":
        raise OutboundRefused(URL_REFUSED, reason="redirect_downgrade")
    return following


def _check_status(status: int, sent: Mapping[str, str]) -> None:
    conditional = "if-none-match" in sent or "if-modified-since" in sent
    if status != _OK and not (status == _NOT_MODIFIED and conditional):
        raise OutboundRefused(STATUS_REFUSED, reason="status", status=status)


def _received(
    response: httpcore.Response, target: httpx.URL, budget: _Budget, directory: Path | None
) -> FetchResult:
    answered = httpx.Headers(response.headers)
    path, decoded_bytes = None, 0
    if response.status == _OK:
        path, decoded_bytes = _stored(response, answered, budget, directory)
    return FetchResult(
        status=response.status,
        headers=_kept_headers(answered),
        etag=answered.get("etag", ""),
        last_modified=answered.get("last-modified", ""),
        path=path,
        not_modified=response.status == _NOT_MODIFIED,
        wire_bytes=budget.wire_bytes,
        decoded_bytes=decoded_bytes,
        length_known="content-length" in answered or "transfer-encoding" in answered,
        final_url=str(target),
    )


def _stored(
    response: httpcore.Response, answered: httpx.Headers, budget: _Budget, directory: Path | None
) -> tuple[Path, int]:
    coding = answered.get("content-encoding", "identity").strip().lower()
    # Only what was asked for, and once: two gzips around each other turn bytes into gigabytes.
    if coding not in {"", "identity", "gzip", "x-gzip"}:
        raise OutboundRefused(ANSWER_REFUSED, reason="content_coding")
    with tempfile.NamedTemporaryFile(prefix="outbound-", dir=directory, delete=False) as file:
        path = Path(file.name)
        try:
            read = _gunzipped if coding.endswith("gzip") else _as_sent
            file.writelines(read(response.iter_stream(), budget.policy))
            return path, file.tell()
        except BaseException:
            path.unlink(missing_ok=True)
            raise


def _as_sent(chunks: Iterable[bytes], policy: OutboundPolicy) -> Iterator[bytes]:
    count = 0
    for chunk in chunks:
        count += len(chunk)
        if count > policy.decoded_bytes_max:
            raise OutboundRefused(OVER_LIMIT, reason="decoded_bytes", limit="decoded_bytes_max")
        yield chunk


def _gunzipped(chunks: Iterable[bytes], policy: OutboundPolicy) -> Iterator[bytes]:
    gunzip = BoundedGunzip(decoded_bytes_max=policy.decoded_bytes_max, ratio_max=policy.ratio_max)
    for chunk in chunks:
        yield from gunzip.feed(chunk)
    gunzip.finish()
