"""The click: a raw ASGI application, because this is the path everyone waits on.

`GET /c/{program}/{publisher}` answers 302 after the click is on stable storage. It looks at the
routing table in memory and never at the database. When the journal cannot record, the visitor is
sent on without a click id: a link never stops working because of us.
"""

import ipaddress
import json
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from html import escape
from typing import Any, Final

from starlette.types import Receive, Scope, Send

from kernel import clock, i18n, problems
from kernel.errors import InvalidInput, TooLarge, Unavailable
from tracker import metrics
from tracker.agents import MAX_USER_AGENT_CHARS
from tracker.click_ids import FLAG_NOT_BILLABLE
from tracker.clicks import NOTE_FOREIGN_URL, LinkQuery, Unbillable, read_query, unbillable_reason
from tracker.events import ClickSeen, encode
from tracker.node import TrackerNode
from tracker.routing import ProgramRoute, PublisherRoute, RoutingTable
from tracker.targets import Landing, read_destination, with_click

PREFIX: Final = "/c/"
_METHODS: Final = ("GET", "HEAD")
_REFERRER_CHARS_MAX: Final = 2048
_HEADER_CHARS_MAX: Final = 256
_PREFETCH_HEADERS: Final = ("sec-purpose", "purpose", "x-purpose", "x-moz")
_PREFETCH_WORDS: Final = ("prefetch", "prerender", "preview")
_WANTED: Final = frozenset(
    {
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
    }
)
_REDIRECT_HEADERS: Final = [
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"strict-origin-when-cross-origin"),
    (b"x-robots-tag", b"noindex"),
    (b"content-length", b"0"),
]
_PAGE: Final = (
    '<!doctype html><html lang="{language}"><head><meta charset="utf-8">'
    '<meta name="robots" content="noindex"><meta name="viewport" content="width=device-width">'
    "<title>{title}</title></head><body><h1>{title}</h1><p>{text}</p></body></html>"
)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    headers: list[tuple[bytes, bytes]]
    body: bytes = b""


@dataclass(frozen=True, slots=True)
class _Visit:
    """Who sent a visitor where. `page` is the deep link; None: the program's landing page."""

    program: ProgramRoute
    publisher: PublisherRoute
    landing: Landing
    query: LinkQuery
    page: str | None
    reason: str

    @property
    def is_foreign(self) -> bool:
        """Whether a deep link was asked for that leads out of the program's domains."""
        return self.query.destination is not None and self.page is None


class ClickApp:
    """Answers every request under `/c/`. Stateless but for its node."""

    def __init__(self, node: TrackerNode) -> None:
        self._node = node

    async def __call__(self, scope: Scope, _receive: Receive, send: Send) -> None:
        """Answer one HTTP request; its body is not read."""
        answer = await self._answer(scope)
        await send(
            {"type": "http.response.start", "status": answer.status, "headers": answer.headers}
        )
        body = b"" if scope["method"] == "HEAD" else answer.body
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope) -> _Answer:
        if scope["method"] not in _METHODS:
            return _problem_less(405, [(b"allow", b"GET, HEAD")])
        raw_query: bytes = scope["query_string"]
        if (
            len(scope.get("raw_path") or b"") + 1 + len(raw_query)
            > self._node.settings.url_bytes_max
        ):
            return _problem_less(414, [])
        # One table for the whole request: a refresh may put another in its place meanwhile.
        table = self._node.routing.table
        link = _find(table, scope["path"])
        headers = read_headers(scope["headers"])
        if link is None:
            metrics.CLICKS_REFUSED.labels("404").inc()
            return _not_found(headers.get("accept-language"))
        try:
            visit = self._visit(scope, headers, table, *link)
        except InvalidInput as error:
            metrics.CLICKS_REFUSED.labels("400").inc()
            return _problem(error, scope["path"])
        return await self._redirect(scope, headers, visit)

    def _visit(
        self,
        scope: Scope,
        headers: Mapping[str, str],
        table: RoutingTable,
        program: ProgramRoute,
        publisher: PublisherRoute,
    ) -> _Visit:
        query = read_query(
            scope["query_string"].decode("latin-1"),
            sub_id_chars_max=self._node.settings.sub_id_chars_max,
        )
        page = None
        if query.destination is not None:
            page = read_destination(query.destination, program.allowed_domains)
        reason = unbillable_reason(
            is_active=program.is_active,
            is_member=table.is_member(program, publisher),
            is_head=scope["method"] == "HEAD",
            is_prefetch=is_prefetch(headers),
            has_consent=query.has_consent,
        )
        return _Visit(program, publisher, table.landings[program.code], query, page, reason)

    async def _redirect(self, scope: Scope, headers: Mapping[str, str], visit: _Visit) -> _Answer:
        click = self._see(scope, headers, visit)
        recorded = await self._record(click)
        click_id = click.id if recorded and not visit.reason else ""
        program = visit.program
        if visit.page is not None:
            location = with_click(visit.page, program.click_parameter, click_id)
        else:
            values = {"program": program.code, "publisher": visit.publisher.code}
            location = visit.landing.fill(click_id, {**values, **visit.query.sub_ids})
        return _Answer(302, [(b"location", location.encode("latin-1")), *_REDIRECT_HEADERS])

    def _see(self, scope: Scope, headers: Mapping[str, str], visit: _Visit) -> ClickSeen:
        now = clock.now()
        evidence: dict[str, Any] = {}
        if visit.reason != Unbillable.NO_CONSENT:
            evidence = {
                "address": client_address(scope, headers, self._node.settings.proxies),
                "user_agent": headers.get("user-agent", "")[:MAX_USER_AGENT_CHARS],
                "referrer": headers.get("referer", "")[:_REFERRER_CHARS_MAX],
                "accept_language": headers.get("accept-language", "")[:_HEADER_CHARS_MAX],
                "sec_fetch_dest": _bounded(headers.get("sec-fetch-dest")),
                "sec_fetch_mode": _bounded(headers.get("sec-fetch-mode")),
                "sec_fetch_user": _bounded(headers.get("sec-fetch-user")),
                "sec_purpose": _bounded(headers.get("sec-purpose") or headers.get("purpose")),
            }
        return ClickSeen(
            id=self._node.signer.mint(
                at=now,
                program_number=visit.program.number,
                publisher_number=visit.publisher.number,
                flags=FLAG_NOT_BILLABLE if visit.reason else 0,
            ),
            at=now,
            program_number=visit.program.number,
            publisher_number=visit.publisher.number,
            page=visit.page or visit.program.landing_url,
            query=scope["query_string"].decode("latin-1"),
            reason=visit.reason,
            note=NOTE_FOREIGN_URL if visit.is_foreign else "",
            **evidence,
        )

    async def _record(self, click: ClickSeen) -> bool:
        try:
            await self._node.journal.append(encode(click))
        except (Unavailable, TooLarge):
            metrics.CLICKS_UNTRACKED.inc()
            return False
        metrics.CLICKS.labels(click.reason or "billable").inc()
        return True


def _find(table: RoutingTable, path: str) -> tuple[ProgramRoute, PublisherRoute] | None:
    program_code, _, publisher_code = path.removeprefix(PREFIX).partition("/")
    program = table.programs.get(program_code)
    publisher = table.publishers.get(publisher_code)
    return (program, publisher) if program and publisher else None


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers a click is judged by; those that came several times are joined by commas."""
    found: dict[str, str] = {}
    for name, value in raw:
        if name in _WANTED:
            key, text = name.decode("ascii"), value.decode("latin-1")
            found[key] = f"{found[key]},{text}" if key in found else text
    return found


def is_prefetch(headers: Mapping[str, str]) -> bool:
    """Whether a browser says that it only fetches ahead, for a visit that may never come."""
    said = " ".join(headers[name] for name in _PREFETCH_HEADERS if name in headers).lower()
    return any(word in said for word in _PREFETCH_WORDS)


def client_address(scope: Scope, headers: Mapping[str, str], proxies: Collection[str]) -> str:
    """The visitor's address: the peer, or what the nearest trusted proxies say is behind them.

    `X-Forwarded-For` is read from the right for as long as its speaker is trusted; the first
    address that is no proxy of ours is the visitor. What is no address ends the reading.
    """
    peer = scope.get("client")
    address = str(peer[0]) if peer else ""
    for hop in reversed(headers.get("x-forwarded-for", "").split(",")):
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


def _problem_less(status: int, headers: list[tuple[bytes, bytes]]) -> _Answer:
    metrics.CLICKS_REFUSED.labels(str(status)).inc()
    return _Answer(status, [*headers, (b"cache-control", b"no-store"), (b"content-length", b"0")])


def _problem(error: InvalidInput, path: str) -> _Answer:
    body = json.dumps(problems.document(error, instance=path)).encode()
    return _Answer(
        problems.status_of(type(error)),
        [
            (b"content-type", problems.MEDIA_TYPE.encode()),
            (b"cache-control", b"no-store"),
            (b"content-length", str(len(body)).encode()),
        ],
        body,
    )


def _not_found(accept_language: str | None) -> _Answer:
    language = i18n.choose(accept_language)
    title = i18n.translate("tracker", language, "This link leads nowhere")
    text = i18n.translate(
        "tracker",
        language,
        "The program or the publisher in it does not exist. Please tell whoever gave you the link.",
    )
    body = _PAGE.format(language=language, title=escape(title), text=escape(text)).encode()
    return _Answer(
        404,
        [
            (b"content-type", b"text/html; charset=utf-8"),
            (b"cache-control", b"no-store"),
            (b"x-robots-tag", b"noindex"),
            (b"vary", b"Accept-Language"),
            (b"content-length", str(len(body)).encode()),
        ],
        body,
    )
