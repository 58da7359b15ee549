"""Links of publishers: built in a batch, or kept under a short code with a QR picture."""

from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetJsonSchemaHandler,
    RootModel,
    StringConstraints,
    TypeAdapter,
)
from pydantic_core import core_schema

from kernel import pages, problems
from kernel.errors import AppError, Conflict, NotFound, invalid
from kernel.http import Call, Endpoint
from network.access import require
from network.models import Role
from partner_api import lookups
from partner_api.schemas import (
    OneOf,
    PageQuery,
    ProgramRef,
    PublisherRef,
    Text,
    Time,
    after_id,
    cut,
    path_id,
    rows_wanted,
)
from tracker import deep_links, links
from tracker.deep_links import DeepLinkSigner
from tracker.http import TooManyRows
from tracker.links import Draft, LinkCodeTaken, NotJoined, TooManyLinks
from tracker.models import Link, LinkStatus

_WHO = (Role.PUBLISHER, Role.MANAGER)
_SubId = Annotated[str, StringConstraints(min_length=1)]


class LongLinkBody(BaseModel):
    """A link to build: to the page `url` of a program, or to its landing page without one."""

    model_config = ConfigDict(extra="forbid")

    program: str = Field(description="Code or id.")
    publisher: str | None = Field(None, description="Code or id; managers must say it.")
    url: str | None = Field(None, description="A page on the program's domains.")
    s1: _SubId | None = None
    s2: _SubId | None = None
    s3: _SubId | None = None
    s4: _SubId | None = None
    s5: _SubId | None = None


class ShortLinkBody(LongLinkBody):
    """A short link to make."""

    name: str | None = Field(None, description="For your own lists; visitors do not see it.")
    code: str | None = Field(
        None, description="3 to 64 of a-z, 0-9 and inner hyphens; a random one when left out."
    )


class LongLinksBody(BaseModel):
    """Several links to build."""

    links: list[LongLinkBody]


class ShortLinksBody(BaseModel):
    """Several short links to make."""

    links: list[ShortLinkBody]


class LongLinks(RootModel[Any]):
    """One link to build, a list of links, or an object with a list of them in `links`.

    Rows are read one by one, so that one that is wrong does not stop the others.
    """

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The schema of what `tracker.links` reads."""
        shapes: TypeAdapter[Any] = TypeAdapter(LongLinkBody | LongLinksBody | list[LongLinkBody])
        return handler(shapes.core_schema)


class ShortLinks(RootModel[Any]):
    """One short link to make, a list of them, or an object with a list of them in `links`."""

    @classmethod
    def __get_pydantic_json_schema__(
        cls, _schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        """The schema of what `tracker.links` reads."""
        shapes: TypeAdapter[Any] = TypeAdapter(ShortLinkBody | ShortLinksBody | list[ShortLinkBody])
        return handler(shapes.core_schema)


class BuiltLink(BaseModel):
    """A link that was built; `signed` when its program requires that of links to pages."""

    program: str
    publisher: str
    link: str
    signed: bool


class BuiltRow(BaseModel):
    """What became of one link of a batch."""

    index: int
    status: Literal["built", "invalid"]
    link: BuiltLink | None
    problem: dict[str, Any] | None


class BuiltRows(BaseModel):
    """What became of each link of a batch, in its order."""

    results: list[BuiltRow]


class BuiltReply(RootModel[BuiltLink | BuiltRows]):
    """One link, or a result for each row."""


class LinkView(BaseModel):
    """A short link. `qr_svg` and `qr_png` are pictures of `short_url`; `link` is the long form."""

    id: str
    code: str
    program: ProgramRef
    publisher: PublisherRef
    url: str | None
    sub_ids: dict[str, str]
    name: str
    status: str
    short_url: str
    qr_svg: str
    qr_png: str
    link: str
    created_at: Time


class LinkRow(BaseModel):
    """What became of one short link of a batch."""

    index: int
    status: Literal["created", "conflict", "invalid"]
    link: LinkView | None
    problem: dict[str, Any] | None


class LinkRows(BaseModel):
    """What became of each short link of a batch, in its order."""

    results: list[LinkRow]


class LinksReply(RootModel[LinkView | LinkRows]):
    """One short link, or a result for each row."""


class LinkPage(BaseModel):
    """Short links in the order in which they were made."""

    data: list[LinkView]
    next_cursor: str | None


class LinksQuery(PageQuery):
    """Which short links."""

    program: Text | None = Field(None, description="Code or id.")
    publisher: Text | None = Field(None, description="Code or id; for managers.")
    status: Annotated[str, OneOf(tuple(LinkStatus))] | None = None


def build_links(call: Call) -> BuiltReply:
    """Build tracking links without keeping anything: one, or several at once.

    Every page is checked against its program's domains, and signed where the program asks for it.
    A batch answers with a result for each row; rows that are refused do not stop the others.
    """
    rows, is_batch = _rows(call)
    signer = DeepLinkSigner(call.context.keys)
    built = [
        _built(call, made, signer) if isinstance(made, Draft) else made
        for made in _drafts(call, rows, is_short=False)
    ]
    if not is_batch:
        return BuiltReply(_only(built))
    return BuiltReply(
        BuiltRows(
            results=[
                BuiltRow(
                    index=index,
                    status="invalid" if isinstance(one, AppError) else "built",
                    link=None if isinstance(one, AppError) else one,
                    problem=_problem(call, one),
                )
                for index, one in enumerate(built)
            ]
        )
    )


def make_links(call: Call) -> LinksReply:
    """Make short links: one, or several at once. Trackers know them within seconds.

    A batch answers with a result for each row; rows that are refused do not stop the others.
    """
    rows, is_batch = _rows(call)
    drafts = _drafts(call, rows, is_short=True)
    made = iter(
        links.create(
            call.session,
            [one for one in drafts if isinstance(one, Draft)],
            actor=call.actor,
            publisher_links_max=call.context.settings.publisher_links_max,
            now=call.now,
        )
    )
    outcomes = [next(made) if isinstance(one, Draft) else one for one in drafts]
    views = iter(_views(call, [one for one in outcomes if isinstance(one, Link)]))
    shown = [next(views) if isinstance(one, Link) else one for one in outcomes]
    if not is_batch:
        return LinksReply(_only(shown))
    return LinksReply(
        LinkRows(
            results=[
                LinkRow(
                    index=index,
                    status=_status(one),
                    link=None if isinstance(one, AppError) else one,
                    problem=_problem(call, one),
                )
                for index, one in enumerate(shown)
            ]
        )
    )


def list_links(call: Call) -> LinkPage:
    """A publisher's short links, or all of them for a manager."""
    query, limit = call.query, rows_wanted(call)
    program = publisher = None
    if query.program is not None:
        program = lookups.visible_program(call.session, call.actor, query.program)
    if query.publisher is not None:
        publisher = lookups.visible_publisher(call.session, call.actor, query.publisher)
    found = links.page(
        call.session,
        call.actor,
        limit=limit + 1,
        position=after_id(call),
        program_id=program.id if program else "",
        publisher_id=publisher.id if publisher else "",
        status=query.status or "",
    )
    shown, last = cut(found, limit)
    return LinkPage(data=_views(call, shown), next_cursor=pages.encode(last.id) if last else None)


def read_link(call: Call) -> LinkView:
    """One short link."""
    return _views(call, [links.find(call.session, call.actor, path_id(call, "id"))])[0]


def retire_link(call: Call) -> LinkView:
    """Retire a short link: its visitors go to the fallback page, and it earns nothing any more.

    A repeat changes nothing. The code is not given to another link.
    """
    link = links.find(call.session, call.actor, path_id(call, "id"))
    links.retire(call.session, link, actor=call.actor, now=call.now)
    return _views(call, [link])[0]


def _rows(call: Call) -> tuple[Sequence[Any], bool]:
    """The rows of the body, and whether it was a batch."""
    document = call.body.root
    if isinstance(document, Mapping) and "links" in document:
        if len(document) > 1:
            raise invalid("links", "unknown", "stands alone in its object")
        document = document["links"]
        if not isinstance(document, list):
            raise invalid("links", "type", "must be a list")
    if not isinstance(document, list):
        return [document], False
    limit = call.context.settings.link_rows_max
    if len(document) > limit:
        raise TooManyRows(
            f"a batch has at most {limit} links", limit="link_rows_max", limit_rows=limit
        )
    return document, True


def _drafts(call: Call, rows: Sequence[Any], *, is_short: bool) -> list[Draft | AppError]:
    drafts: list[Draft | AppError] = []
    places: links.Places = {}
    for row in rows:
        try:
            if not isinstance(row, Mapping):
                raise invalid("body", "type", "must be an object")
            wanted = links.parse(
                row,
                sub_id_chars_max=call.context.settings.sub_id_chars_max,
                is_short=is_short,
            )
            drafts.append(links.draft(call.session, call.actor, wanted, places=places))
        except AppError as error:
            drafts.append(error)
    return drafts


def _only(outcomes: Sequence[Any]) -> Any:
    [outcome] = outcomes
    if isinstance(outcome, AppError):
        raise outcome
    return outcome


def _problem(call: Call, outcome: object) -> dict[str, Any] | None:
    if not isinstance(outcome, AppError):
        return None
    return problems.document(outcome, instance=call.request.url.path)


def _status(outcome: object) -> Literal["created", "conflict", "invalid"]:
    if isinstance(outcome, Conflict):
        return "conflict"
    return "invalid" if isinstance(outcome, AppError) else "created"


def _built(call: Call, made: Draft, signer: DeepLinkSigner) -> BuiltLink:
    is_signed = made.program.requires_signed_links
    return BuiltLink(
        program=made.program.code,
        publisher=made.publisher.code,
        link=deep_links.build(
            call.context.settings.public_url,
            program=made.program.code,
            publisher=made.publisher.code,
            page=made.page,
            sub_ids=made.wanted.sub_ids,
            signer=signer if is_signed else None,
        ),
        signed=is_signed and bool(made.page),
    )


def _views(call: Call, found: Sequence[Link]) -> list[LinkView]:
    signer = DeepLinkSigner(call.context.keys)
    programs = lookups.program_refs(call.session, (link.program_id for link in found))
    publishers = lookups.publisher_refs(call.session, (link.publisher_id for link in found))
    signing = lookups.signing_program_ids(call.session, programs)
    public_url = call.context.settings.public_url
    views = []
    for link in found:
        program, publisher = programs[link.program_id], publishers[link.publisher_id]
        short_url = links.short_url(public_url, link.code)
        views.append(
            LinkView(
                id=link.id,
                code=link.code,
                program=program,
                publisher=publisher,
                url=link.destination or None,
                sub_ids=link.sub_ids,
                name=link.name,
                status=link.status,
                short_url=short_url,
                qr_svg=f"{short_url}.svg",
                qr_png=f"{short_url}.png",
                link=deep_links.build(
                    public_url,
                    program=program.code,
                    publisher=publisher.code,
                    page=link.destination,
                    sub_ids=link.sub_ids,
                    signer=signer if link.program_id in signing else None,
                ),
                created_at=link.created_at,
            )
        )
    return views


def _endpoint(
    method: str, path: str, handler: Callable[[Call], Any], summary: str, **facts: Any
) -> Endpoint:
    return Endpoint(
        method=method,
        path=path,
        handler=handler,
        summary=summary,
        tag="Links",
        guard=require(*_WHO),
        roles=_WHO,
        **facts,
    )


_MAKING = (NotFound, NotJoined, TooManyRows)
ENDPOINTS = (
    _endpoint(
        "POST",
        "/v1/links",
        make_links,
        "Make short links",
        body=ShortLinks,
        reply=LinksReply,
        status=201,
        writes=True,
        errors=(*_MAKING, LinkCodeTaken, TooManyLinks),
    ),
    _endpoint(
        "GET",
        "/v1/links",
        list_links,
        "List short links",
        query=LinksQuery,
        reply=LinkPage,
        errors=(NotFound,),
    ),
    _endpoint(
        "POST",
        "/v1/links/generate",
        build_links,
        "Build tracking links",
        body=LongLinks,
        reply=BuiltReply,
        errors=_MAKING,
    ),
    _endpoint(
        "GET",
        "/v1/links/{id}",
        read_link,
        "Read a short link",
        reply=LinkView,
        errors=(NotFound,),
    ),
    _endpoint(
        "POST",
        "/v1/links/{id}/retire",
        retire_link,
        "Retire a short link",
        reply=LinkView,
        writes=True,
        errors=(NotFound,),
    ),
)
