"""Links: a publisher builds them here and copies what it needs; managers see everybody's."""

import base64

from starlette.responses import Response

from console import forms, reads
from console.pages import View, Visit, redirect
from kernel import pages as cursors
from network import programs, publishers
from network.models import Program, Publisher, Role
from tracker import deep_links, links, qr
from tracker.deep_links import DeepLinkSigner
from tracker.models import Link

PAGE_ROWS = 50
_WHO = (Role.PUBLISHER, Role.MANAGER)
_FIELDS = ("program", "url", *links.SUB_IDS, "name", "code")


def _list(visit: Visit) -> Response:
    return _show(visit)


def _show(visit: Visit, *, built: str = "") -> Response:
    cursor = visit.query.get("cursor", "")
    found = links.page(
        visit.session,
        visit.actor,
        limit=PAGE_ROWS + 1,
        position=cursors.decode(cursor, str)[0] if cursor else "",
        newest_first=True,
    )
    shown = found[:PAGE_ROWS]
    return visit.page(
        "links.html",
        links=shown,
        programs=reads.programs_by_id(visit.session, [link.program_id for link in shown]),
        publishers=reads.publisher_names(visit.session, [link.publisher_id for link in shown]),
        choices=reads.programs(visit.session, visit.actor),
        kept={name: visit.form.get(name, "") for name in _FIELDS},
        built=built,
        public_url=visit.context.settings.public_url,
        sub_ids=links.SUB_IDS,
        next_cursor=cursors.encode(shown[-1].id) if len(found) > PAGE_ROWS else None,
        is_first_page=not cursor,
    )


def _make(visit: Visit) -> Response:
    """Build the long link, or make a short one of it: the button decides."""
    is_short = visit.form.get("do") != "build"
    names = _FIELDS if is_short else ("program", "url", *links.SUB_IDS)
    draft = links.draft(
        visit.session,
        visit.actor,
        links.parse(
            {name: forms.text(visit.form, name) for name in names},
            sub_id_chars_max=visit.context.settings.sub_id_chars_max,
            is_short=is_short,
        ),
    )
    if not is_short:
        long = _long(visit, draft.program, draft.publisher, draft.page, draft.wanted.sub_ids)
        return _show(visit, built=long)
    [made] = links.create(
        visit.session,
        [draft],
        actor=visit.actor,
        publisher_links_max=visit.context.settings.publisher_links_max,
        now=visit.now,
    )
    if not isinstance(made, Link):
        raise made
    return redirect(f"/links/{made.id}", done="link_made")


def _detail(visit: Visit) -> Response:
    link = links.find(visit.session, visit.actor, visit.path["link_id"])
    program = programs.get(visit.session, link.program_id)
    publisher = publishers.get(visit.session, link.publisher_id)
    short = links.short_url(visit.context.settings.public_url, link.code)
    picture = base64.b64encode(qr.svg(short)).decode()
    return visit.page(
        "link.html",
        link=link,
        program=program,
        publisher=publisher,
        short=short,
        long=_long(visit, program, publisher, link.destination, link.sub_ids),
        picture=f"data:{qr.SVG};base64,{picture}",
    )


def _retire(visit: Visit) -> Response:
    link = links.find(visit.session, visit.actor, visit.path["link_id"])
    links.retire(visit.session, link, actor=visit.actor, now=visit.now)
    return redirect(f"/links/{link.id}", done="link_retired")


def _long(
    visit: Visit, program: Program, publisher: Publisher, page: str, sub_ids: dict[str, str]
) -> str:
    signer = DeepLinkSigner(visit.context.keys) if program.requires_signed_links else None
    return deep_links.build(
        visit.context.settings.public_url,
        program=program.code,
        publisher=publisher.code,
        page=page,
        sub_ids=sub_ids,
        signer=signer,
    )


VIEWS = (
    View(method="GET", path="/links", handler=_list, roles=_WHO),
    View(method="POST", path="/links", handler=_make, roles=(Role.PUBLISHER,), retry=_list),
    View(method="GET", path="/links/{link_id}", handler=_detail, roles=_WHO),
    View(method="POST", path="/links/{link_id}/retire", handler=_retire, roles=_WHO),
)
