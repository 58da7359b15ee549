"""What a request for a link is answered, and what is recorded of it. Nothing is waited for.

One core behind every front: the raw ASGI application and the protocol below it translate a request
into a `ClickRequest`, journal the `payload` of the decision, and send one of its answers. So both
give the same answer to the same bytes, and the whole of it can be tested without a server.
"""

import re
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Final
from urllib.parse import unquote_to_bytes, urlencode

import msgspec

from kernel import clock
from kernel.errors import InvalidInput
from kernel.settings import Settings
from tracker import click_answers
from tracker.agents import is_preview
from tracker.click_answers import REDIRECT, Answer
from tracker.click_headers import client_address, is_prefetch, without_consent
from tracker.click_ids import FLAG_NOT_BILLABLE, ClickIdSigner
from tracker.clicks import (
    NOTE_FOREIGN_URL,
    NOTE_UNSIGNED_URL,
    WITHOUT_CONSENT,
    LinkQuery,
    read_query,
    reason_of_link,
    reason_of_visitor,
)
from tracker.deep_links import SIGNATURE, DeepLinkSigner
from tracker.events import ClickSeen, encode
from tracker.routing import ProgramRoute, PublisherRoute, RoutingTable
from tracker.targets import around_click, read_destination, to_ascii

PREFIX: Final = "/c/"
SHORT_PREFIX: Final = "/l/"
_PICTURES: Final = (".svg", ".png")
_METHODS: Final = ("GET", "HEAD")
_WAYS_KEPT: Final = 4096
_KEPT_WAY_BYTES_MAX: Final = 512
_QUERY_AND_FRAGMENT: Final = re.compile(r"[?#].*", re.DOTALL)


class ClickRequest(msgspec.Struct, frozen=True, gc=False):
    """A request for a link: the path percent-encoded, headers as `read_headers` gives them."""

    method: str
    path: bytes
    query: bytes
    headers: Mapping[str, str]
    peer: str


class Decision(msgspec.Struct, frozen=True, gc=False):
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


class _Way(msgspec.Struct, frozen=True):
    """Where a link leads: all that its address says, by one state of the network.

    The click id stands between the pieces of `around`; `untracked` is the answer without one.
    `page` is what is recorded as the page, `said` the query that is, and `reason` why no click by
    this link can earn.
    """

    program_number: int
    publisher_number: int
    link: str
    said: str
    query: LinkQuery
    page: str
    note: str
    reason: str
    around: tuple[bytes, ...]
    untracked: Answer


def is_link(path: str) -> bool:
    """Whether a request for this path is decided by `ClickCore`: a link, and not its picture."""
    if path.startswith(SHORT_PREFIX):
        return not path.endswith(_PICTURES)
    return path.startswith(PREFIX)


class ClickCore:
    """Decides about requests for links of one node. To be asked by one thread."""

    def __init__(
        self, settings: Settings, signer: ClickIdSigner, deep_links: DeepLinkSigner
    ) -> None:
        self._settings = settings
        self._signer = signer
        self._deep_links = deep_links
        self._read_query = partial(read_query, sub_id_chars_max=settings.sub_id_chars_max)
        self._table: RoutingTable | None = None
        self._links = 0
        # A publisher's links are few and their clicks are many. What was found out about a link
        # holds for as long as nothing changes in the network.
        self._known_way = lru_cache(_WAYS_KEPT)(self._way)

    def decide(self, request: ClickRequest, table: RoutingTable) -> Decision:
        """The decision about one request, by one state of the network. Never raises."""
        path, query = request.path, request.query
        size = len(path) + 1 + len(query)
        if request.method not in _METHODS:
            return _refused(405, (b"allow", b"GET, HEAD"))
        if size > self._settings.url_bytes_max:
            return _refused(414)
        links = table.links.number
        if table is not self._table or links != self._links:
            # The number of the links rises after what it counts: nothing old is kept under it.
            self._table, self._links = table, links
            self._known_way.cache_clear()
        try:
            find = self._known_way if size <= _KEPT_WAY_BYTES_MAX else self._way
            way = find(path, query)
        except InvalidInput as error:
            return Decision(click_answers.problem(error, _readable(path)), "400")
        if way is None:
            return Decision(click_answers.not_found(request.headers.get("accept-language")), "404")
        return self._redirect(request, way)

    def _redirect(self, request: ClickRequest, way: _Way) -> Decision:
        headers = request.headers
        get = headers.get
        agent = get("user-agent", "")
        reason = (
            reason_of_visitor(
                without_consent=without_consent(way.query.consent, headers, self._settings),
                is_head=request.method == "HEAD",
                is_prefetch=is_prefetch(headers),
                is_preview=is_preview(agent),
            )
            or way.reason
        )
        now = clock.now()
        click_id = self._signer.mint(
            at=now,
            program_number=way.program_number,
            publisher_number=way.publisher_number,
            flags=FLAG_NOT_BILLABLE if reason else 0,
        )
        if reason in WITHOUT_CONSENT:
            # The query of a page, too, may say who the visitor is.
            click = ClickSeen(
                id=click_id,
                at=now,
                program_number=way.program_number,
                publisher_number=way.publisher_number,
                page=_QUERY_AND_FRAGMENT.sub("", way.page),
                query=urlencode(way.query.sub_ids),
                reason=reason,
                note=way.note,
                link=way.link,
            )
        else:
            # By place: with so many fields, naming them costs as much as encoding them.
            click = ClickSeen(
                click_id,
                now,
                way.program_number,
                way.publisher_number,
                way.page,
                way.said,
                reason,
                way.note,
                False,  # noqa: FBT003 - imported
                client_address(request.peer, headers, self._settings.proxies),
                agent,
                get("referer", ""),
                get("accept-language", ""),
                get("sec-fetch-dest"),
                get("sec-fetch-mode"),
                get("sec-fetch-user"),
                get("sec-purpose") or get("purpose"),
                way.link,
            )
        untracked = way.untracked
        return Decision(
            untracked
            if reason
            else Answer(302, REDIRECT, click_id.encode("ascii").join(way.around)),
            reason or "billable",
            encode(click),
            untracked,
        )

    def _way(self, path: bytes, query: bytes) -> _Way | None:
        """Where a link leads by the table in force; None: nowhere. InvalidInput: no such page."""
        table = self._table
        route = _find(table, path, query.decode("latin-1")) if table is not None else None
        if table is None or route is None:
            return None
        program, publisher = route.program, route.publisher
        said = self._read_query(route.query)
        page, note = self._page(route, said)
        is_member = table.is_member(program, publisher)
        reason = reason_of_link(
            is_retired=route.is_retired, is_active=program.is_active, is_member=is_member
        )
        around: tuple[str, ...]
        if reason and (fallback := self._fallback(route, is_member=is_member)):
            page, around, without = fallback, (fallback,), fallback
        elif page is not None:
            around, without = around_click(page, program.click_parameter)
        else:
            values = {"program": program.code, "publisher": publisher.code, **said.sub_ids}
            around, without = table.landings[program.code].around(values)
        return _Way(
            program_number=program.number,
            publisher_number=publisher.number,
            link=route.link,
            said=route.query,
            query=said,
            page=page or program.landing_url,
            note=note,
            reason=reason,
            around=tuple(piece.encode("latin-1") for piece in around),
            untracked=Answer(302, REDIRECT, without.encode("latin-1")),
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


def _readable(path: bytes) -> str:
    raw = unquote_to_bytes(path) if b"%" in path else path
    return raw.decode("utf-8", "replace")


def _find(table: RoutingTable, raw_path: bytes, query: str) -> _Route | None:
    path = _readable(raw_path)
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
    said = _said_in_path(raw_path) if publisher is not None else ""
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


def _refused(status: int, *headers: tuple[bytes, bytes]) -> Decision:
    return Decision(click_answers.refused(status, *headers), str(status))
