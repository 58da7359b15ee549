"""What a request for a link is answered, and what is recorded of it. Nothing is waited for.

One core behind every front: the raw ASGI application and the protocol below it translate a request
into a `ClickRequest`, journal the `payload` of the decision, and send one of its answers. So both
give the same answer to the same bytes, and the whole of it can be tested without a server.
"""

import ipaddress
import json
import re
from collections.abc import Collection, Iterable, Mapping
from functools import lru_cache, partial
from html import escape
from typing import Any, Final
from urllib.parse import unquote_to_bytes, urlencode

import msgspec

from kernel import clock, i18n, problems
from kernel.errors import InvalidInput
from kernel.settings import Settings
from tracker.agents import MAX_USER_AGENT_CHARS, is_preview
from tracker.click_ids import FLAG_NOT_BILLABLE, ClickIdSigner
from tracker.clicks import (
    NOTE_FOREIGN_URL,
    NOTE_UNSIGNED_URL,
    WITHOUT_CONSENT,
    LinkQuery,
    Unbillable,
    read_query,
    unbillable_reason,
)
from tracker.consent import tcf_refuses
from tracker.deep_links import SIGNATURE, DeepLinkSigner
from tracker.events import ClickSeen, encode
from tracker.routing import ProgramRoute, PublisherRoute, RoutingTable
from tracker.targets import Landing, read_destination, to_ascii, with_click

PREFIX: Final = "/c/"
SHORT_PREFIX: Final = "/l/"
_PICTURES: Final = (".svg", ".png")
_METHODS: Final = ("GET", "HEAD")
_REFERRER_CHARS_MAX: Final = 2048
_HEADER_CHARS_MAX: Final = 256
_QUERIES_KEPT: Final = 4096
_KEPT_QUERY_CHARS_MAX: Final = 512
_PREFETCH_HEADERS: Final = frozenset({"sec-purpose", "purpose", "x-purpose", "x-moz"})
_PREFETCH_WORDS: Final = ("prefetch", "prerender", "preview")
_WANTED: Final = {
    name: name.decode("ascii")
    for name in (
        b"user-agent",
        b"referer",
        b"accept-language",
        b"sec-fetch-dest",
        b"sec-fetch-mode",
        b"sec-fetch-user",
        b"sec-purpose",
        b"purpose",
        b"x-purpose",
        b"x-moz",
        b"x-forwarded-for",
        b"sec-gpc",
    )
}
# A link is never kept, never listed by search engines, and shows the shop where the visitor was
# as the origin only.
_COMMON_HEADERS: Final = [
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"strict-origin-when-cross-origin"),
    (b"x-robots-tag", b"noindex"),
]
_REDIRECT_HEADERS: Final = [*_COMMON_HEADERS, (b"content-length", b"0")]
_BODY_HEADERS: Final = [
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
]
_QUERY_AND_FRAGMENT: Final = re.compile(r"[?#].*", re.DOTALL)
_PAGE: Final = (
    '<!doctype html><html lang="{language}"><head><meta charset="utf-8">'
    '<meta name="robots" content="noindex"><meta name="viewport" content="width=device-width">'
    "<title>{title}</title></head><body><h1>{title}</h1><p>{text}</p></body></html>"
)


class ClickRequest(msgspec.Struct, frozen=True):
    """A request for a link as it came: the path percent-encoded, header names in lower case."""

    method: str
    path: bytes
    query: bytes
    headers: Iterable[tuple[bytes, bytes]]
    peer: str


class Answer(msgspec.Struct, frozen=True):
    """An HTTP answer. A front leaves the body out when the method is HEAD."""

    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""


class Decision(msgspec.Struct, frozen=True):
    """The answer, and what must be on stable storage before it may leave.

    Without a `payload` the answer leaves at once. When the payload cannot be recorded, `untracked`
    leaves instead: the same place, without a click id. `outcome` is the metrics' word for it.
    """

    answer: Answer
    outcome: str
    payload: bytes | None = None
    untracked: Answer | None = None


class _Route(msgspec.Struct, frozen=True):
    """Whose link it is. `query` is the whole query that is acted on, `link` a short link's code."""

    program: ProgramRoute
    publisher: PublisherRoute
    query: str
    link: str = ""
    is_retired: bool = False
    # A page that we keep ourselves needs no signature.
    is_trusted: bool = False


class _Visit(msgspec.Struct, frozen=True):
    """Who sent a visitor where. `page` is the deep link; None: the program's landing page.

    `fallback` is the page for visitors of what is dead, and empty for everything else.
    """

    route: _Route
    landing: Landing
    query: LinkQuery
    page: str | None
    note: str
    reason: str
    fallback: str


def is_link(path: str) -> bool:
    """Whether a request for this path is decided by `ClickCore`: a link, and not its picture."""
    if path.startswith(SHORT_PREFIX):
        return not path.endswith(_PICTURES)
    return path.startswith(PREFIX)


class ClickCore:
    """Decides about requests for links of one node."""

    def __init__(
        self, settings: Settings, signer: ClickIdSigner, deep_links: DeepLinkSigner
    ) -> None:
        self._settings = settings
        self._signer = signer
        self._deep_links = deep_links
        read = partial(read_query, sub_id_chars_max=settings.sub_id_chars_max)
        self._read_any_query = read
        # A publisher's links are few and their clicks are many.
        self._read_known_query = lru_cache(_QUERIES_KEPT)(read)

    def decide(self, request: ClickRequest, table: RoutingTable) -> Decision:
        """The decision about one request, by one state of the network. Never raises."""
        if request.method not in _METHODS:
            return _refused(405, [(b"allow", b"GET, HEAD")])
        if len(request.path) + 1 + len(request.query) > self._settings.url_bytes_max:
            return _refused(414, [])
        raw = unquote_to_bytes(request.path) if b"%" in request.path else request.path
        path = raw.decode("utf-8", "replace")
        headers = read_headers(request.headers)
        route = _find(table, path, request)
        if route is None:
            return Decision(_not_found(headers.get("accept-language")), "404")
        try:
            visit = self._visit(request, headers, table, route)
        except InvalidInput as error:
            return Decision(_problem(error, path), "400")
        return self._redirect(request, headers, visit)

    def _visit(
        self,
        request: ClickRequest,
        headers: Mapping[str, str],
        table: RoutingTable,
        route: _Route,
    ) -> _Visit:
        program = route.program
        is_short = len(route.query) <= _KEPT_QUERY_CHARS_MAX
        query = (self._read_known_query if is_short else self._read_any_query)(route.query)
        page, note = self._page(route, query)
        is_member = table.is_member(program, route.publisher)
        is_dead = route.is_retired or not (program.is_active and is_member)
        return _Visit(
            route=route,
            landing=table.landings[program.code],
            query=query,
            page=page,
            note=note,
            reason=unbillable_reason(
                without_consent=without_consent(query.consent, headers, self._settings),
                is_head=request.method == "HEAD",
                is_prefetch=is_prefetch(headers),
                is_preview=is_preview(headers.get("user-agent", "")[:MAX_USER_AGENT_CHARS]),
                is_retired=route.is_retired,
                is_active=program.is_active,
                is_member=is_member,
            ),
            fallback=self._fallback(route, is_member=is_member) if is_dead else "",
        )

    def _page(self, route: _Route, query: LinkQuery) -> tuple[str | None, str]:
        """The page of a deep link that may be followed, else None and why not."""
        if query.destination is None:
            return None, ""
        program = route.program
        if program.requires_signed_links and not route.is_trusted:
            signature = query.parameters.get(SIGNATURE, "")
            if not self._deep_links.is_signed(
                signature,
                program=program.code,
                publisher=route.publisher.code,
                page=query.destination,
            ):
                return None, NOTE_UNSIGNED_URL
        page = read_destination(query.destination, program.allowed_domains)
        return page, "" if page is not None else NOTE_FOREIGN_URL

    def _fallback(self, route: _Route, *, is_member: bool) -> str:
        # A publisher that was put out of the program does not say where its old links lead.
        own = route.publisher.fallback_url if is_member else ""
        url = own or route.program.fallback_url or self._settings.fallback_url
        return to_ascii(url) if url else ""

    def _redirect(
        self, request: ClickRequest, headers: Mapping[str, str], visit: _Visit
    ) -> Decision:
        click = self._see(request, headers, visit)
        untracked = _to(visit, "")
        return Decision(
            answer=untracked if visit.reason else _to(visit, click.id),
            outcome=click.reason or "billable",
            payload=encode(click),
            untracked=untracked,
        )

    def _see(self, request: ClickRequest, headers: Mapping[str, str], visit: _Visit) -> ClickSeen:
        now = clock.now()
        route = visit.route
        page = visit.fallback or visit.page or route.program.landing_url
        query = route.query
        evidence: dict[str, Any] = {}
        if visit.reason in WITHOUT_CONSENT:
            # The query of a page, too, may say who the visitor is.
            page = _QUERY_AND_FRAGMENT.sub("", page)
            query = urlencode(visit.query.sub_ids)
        else:
            evidence = {
                "address": client_address(request.peer, headers, self._settings.proxies),
                "user_agent": headers.get("user-agent", "")[:MAX_USER_AGENT_CHARS],
                "referrer": headers.get("referer", "")[:_REFERRER_CHARS_MAX],
                "accept_language": headers.get("accept-language", "")[:_HEADER_CHARS_MAX],
                "sec_fetch_dest": _bounded(headers.get("sec-fetch-dest")),
                "sec_fetch_mode": _bounded(headers.get("sec-fetch-mode")),
                "sec_fetch_user": _bounded(headers.get("sec-fetch-user")),
                "sec_purpose": _bounded(headers.get("sec-purpose") or headers.get("purpose")),
            }
        return ClickSeen(
            id=self._signer.mint(
                at=now,
                program_number=route.program.number,
                publisher_number=route.publisher.number,
                flags=FLAG_NOT_BILLABLE if visit.reason else 0,
            ),
            at=now,
            program_number=route.program.number,
            publisher_number=route.publisher.number,
            page=page,
            query=query,
            reason=visit.reason,
            note=visit.note,
            link=route.link,
            **evidence,
        )


def _to(visit: _Visit, click_id: str) -> Answer:
    program = visit.route.program
    if visit.fallback:
        location = visit.fallback
    elif visit.page is not None:
        location = with_click(visit.page, program.click_parameter, click_id)
    else:
        values = {"program": program.code, "publisher": visit.route.publisher.code}
        location = visit.landing.fill(click_id, {**values, **visit.query.sub_ids})
    return Answer(302, [(b"location", location.encode("latin-1")), *_REDIRECT_HEADERS])


def _find(table: RoutingTable, path: str, request: ClickRequest) -> _Route | None:
    query = request.query.decode("latin-1")
    if path.startswith(SHORT_PREFIX):
        return _find_short(table, path.removeprefix(SHORT_PREFIX), query)
    program_code, _, publisher_code = path.removeprefix(PREFIX).partition("/")
    program = table.programs.get(program_code)
    if program is None:
        return None
    publisher = table.publishers.get(publisher_code)
    if publisher is not None:
        return _Route(program, publisher, query)
    publisher = table.publishers.get(publisher_code.partition("/")[0])
    said = _said_in_path(request.path) if publisher is not None else ""
    return _Route(program, publisher, _joined(said, query)) if publisher and said else None


def _find_short(table: RoutingTable, code: str, query: str) -> _Route | None:
    link = table.links.find(code)
    if link is None:
        return None
    program = table.programs_by_number.get(link.program_number)
    publisher = table.publishers_by_number.get(link.publisher_number)
    if program is None or publisher is None:
        return None
    # What the link says comes first, and of a name the first counts: nobody changes its meaning.
    return _Route(
        program,
        publisher,
        _joined(link.query, query),
        link=code,
        is_retired=not link.is_active,
        is_trusted=link.has_page,
    )


def _said_in_path(path: bytes) -> str:
    """The parameters of a link that has them in its path, `/pubref:a/destination:b`, as a query.

    A destination is the last of them and takes the rest of the path. Empty when it is none.
    """
    _, _, _, _, rest = path.decode("latin-1").split("/", 4)
    pairs = []
    while rest:
        name, colon, value = rest.partition(":")
        if not colon or "/" in name:
            return ""
        rest = ""
        if name != "destination":
            value, _, rest = value.partition("/")
        # A plus is no blank in a path, and an ampersand ends nothing.
        pairs.append(f"{name}={value}".replace("&", "%26").replace("+", "%2B"))
    return "&".join(pairs)


def _joined(first: str, second: str) -> str:
    return f"{first}&{second}" if first and second else first or second


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers a click is judged by; those that came several times are joined by commas."""
    found: dict[str, str] = {}
    for name, value in raw:
        key = _WANTED.get(name)
        if key is not None:
            text = value.decode("latin-1")
            found[key] = f"{found[key]},{text}" if key in found else text
    return found


def without_consent(
    consent: Mapping[str, str], headers: Mapping[str, str], settings: Settings
) -> str:
    """Why the visitor may not be tracked, by what was said and by the browser; empty: may be."""
    if consent:
        if consent.get("cons") == "0":
            return Unbillable.NO_CONSENT
        if tcf_refuses(consent, vendor_id=settings.tcf_vendor_id):
            return Unbillable.NO_CONSENT_TCF
    if headers.get("sec-gpc") == "1" and settings.honours_global_privacy_control:
        return Unbillable.GLOBAL_PRIVACY_CONTROL
    return ""


def is_prefetch(headers: Mapping[str, str]) -> bool:
    """Whether a browser says that it only fetches ahead, for a visit that may never come."""
    if _PREFETCH_HEADERS.isdisjoint(headers):
        return False
    said = " ".join(headers[name] for name in _PREFETCH_HEADERS if name in headers).lower()
    return any(word in said for word in _PREFETCH_WORDS)


def client_address(peer: str, headers: Mapping[str, str], proxies: Collection[str]) -> str:
    """The visitor's address: the peer, or what the nearest trusted proxies say is behind them.

    `X-Forwarded-For` is read from the right for as long as its speaker is trusted; the first
    address that is no proxy of ours is the visitor. What is no address ends the reading.
    """
    if peer not in proxies or "x-forwarded-for" not in headers:
        return peer
    address = peer
    for hop in reversed(headers["x-forwarded-for"].split(",")):
        if address not in proxies:
            break
        named = _address(hop.strip())
        if named is None:
            break
        address = named
    return address


def _address(hop: str) -> str | None:
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    try:
        return str(ipaddress.ip_address(hop))
    except ValueError:
        return None


def _bounded(header: str | None) -> str | None:
    return header[:_HEADER_CHARS_MAX] if header is not None else None


def _refused(status: int, headers: list[tuple[bytes, bytes]]) -> Decision:
    return Decision(Answer(status, [*headers, *_REDIRECT_HEADERS]), str(status))


def _problem(error: InvalidInput, path: str) -> Answer:
    body = json.dumps(problems.document(error, instance=path)).encode()
    return Answer(
        problems.status_of(type(error)),
        [
            (b"content-type", problems.MEDIA_TYPE.encode()),
            *_COMMON_HEADERS,
            *_BODY_HEADERS,
            (b"content-length", str(len(body)).encode()),
        ],
        body,
    )


def _not_found(accept_language: str | None) -> Answer:
    language = i18n.choose(accept_language)
    title = i18n.translate("tracker", language, "This link leads nowhere")
    text = i18n.translate(
        "tracker",
        language,
        "The program or the publisher in it does not exist. Please tell whoever gave you the link.",
    )
    body = _PAGE.format(language=language, title=escape(title), text=escape(text)).encode()
    return Answer(
        404,
        [
            (b"content-type", b"text/html; charset=utf-8"),
            *_COMMON_HEADERS,
            *_BODY_HEADERS,
            (b"vary", b"Accept-Language"),
            (b"content-length", str(len(body)).encode()),
        ],
        body,
    )
