"""Product feeds of an advertiser: sources, uploads and the rows that were refused."""

import tempfile
from collections.abc import Iterable
from pathlib import Path

import sqlalchemy as sa
from pydantic import BaseModel
from sqlmodel import Session, col, select

from feeds import catalog, imports
from feeds.models import FeedImport, FeedSource, ImportStatus
from kernel import pages
from kernel.errors import Forbidden, NotFound
from kernel.http import Call, Endpoint
from network.access import require, scope_to_party
from network.models import Program, Role
from partner_api import lookups
from partner_api.bodies import raw_body
from partner_api.schemas import (
    PageQuery,
    ProgramRef,
    Time,
    after_id,
    after_number,
    cut,
    path_id,
    rows_to_fetch,
    rows_wanted,
)

_ROLES = (Role.ADVERTISER, Role.MANAGER)


class FeedImportView(BaseModel):
    """One look at a source. A failed or unchanged one left the catalogue as it was."""

    id: str
    status: str
    detail: str
    format: str
    rows: int
    added: int
    changed: int
    unchanged: int
    removed: int
    rejected: int
    at: Time


class FeedView(BaseModel):
    """A source of products: pulled from `url`, or uploads only when that is empty."""

    id: str
    program: ProgramRef
    name: str
    url: str
    next_pull_at: Time | None
    last_import: FeedImportView | None


class FeedPage(BaseModel):
    """Sources in the order in which they were added."""

    data: list[FeedView]
    next_cursor: str | None


class RejectionView(BaseModel):
    """A row that was not taken (`error`), or taken with a `warning`, and the rule that it broke."""

    row: int
    item_id: str
    column: str
    rule: str
    severity: str
    message: str


class RejectionPage(BaseModel):
    """Problems of rows in the order of the file."""

    data: list[RejectionView]
    next_cursor: str | None


def list_feeds(call: Call) -> FeedPage:
    """The feed sources of an advertiser's programs, all for a manager, with their last look."""
    limit = rows_wanted(call)
    query = select(FeedSource).join(Program, col(Program.id) == col(FeedSource.program_id))
    query = scope_to_party(query, call.actor, publisher=None, advertiser=col(Program.advertiser_id))
    query = query.where(col(FeedSource.id) > after_id(call))
    rows = call.session.exec(query.order_by(col(FeedSource.id)).limit(limit + 1)).all()
    shown, last = cut(rows, limit)
    programs = lookups.program_refs(call.session, (row.program_id for row in shown))
    looks = _last_imports(call.session, (row.id for row in shown))
    return FeedPage(
        data=[
            FeedView(
                id=row.id,
                program=programs[row.program_id],
                name=row.name,
                url=row.url,
                next_pull_at=row.next_pull_at,
                last_import=_view(looks[row.id]) if row.id in looks else None,
            )
            for row in shown
        ],
        next_cursor=pages.encode(last.id) if last else None,
    )


def list_rejections(call: Call) -> RejectionPage:
    """The rows that the last file of a source lost, and those taken with a warning.

    Looks that found nothing new are passed over.
    """
    ceiling = catalog.PAGE_ROWS_MAX
    limit, after = rows_wanted(call, ceiling=ceiling), after_number(call)
    source = catalog.source(call.session, call.actor, path_id(call, "id"))
    look = _last_file(call.session, source.id)
    found = (
        catalog.rejections(
            call.session,
            look.id,
            after_seq=after,
            limit=rows_to_fetch(limit, ceiling),
        )
        if look is not None
        else []
    )
    shown, last = cut(found, limit, ceiling=ceiling)
    return RejectionPage(
        data=[RejectionView.model_validate(row, from_attributes=True) for row in shown],
        next_cursor=pages.encode(last.seq or 0) if last else None,
    )


def upload_file(call: Call) -> FeedImportView:
    """Replace the products of a source by those of the file in the body.

    The body is the file as it is, plain or gzip: Google Merchant TSV, CSV or RSS 2.0. Products
    that it leaves out are removed. A file that cannot be read as a whole changes nothing and
    answers with the status `failed`; single rows that break a rule are left out and listed under
    the source's rejections. The same file again changes nothing.
    """
    source = catalog.source(call.session, call.actor, path_id(call, "id"))
    settings = call.context.settings
    folder = settings.data_dir / "feeds"
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=folder, prefix="upload-") as file:
        file.write(raw_body(call.request))
        file.flush()
        # Short transactions of its own: other writers do not wait while a feed is read.
        look = imports.run(
            call.context.engine, source.id, Path(file.name), settings=settings, now=call.now
        )
    return _view(look)


def _last_file(session: Session, source_id: str) -> FeedImport | None:
    looks = catalog.last_imports(session, source_id, limit=catalog.PAGE_ROWS_MAX)
    read = (look for look in looks if look.rows or look.status == ImportStatus.FAILED)
    return next(read, None)


def _last_imports(session: Session, source_ids: Iterable[str]) -> dict[str, FeedImport]:
    # Ids of imports sort by their time.
    newest = (
        select(sa.func.max(col(FeedImport.id)))
        .where(col(FeedImport.source_id).in_(set(source_ids)))
        .group_by(col(FeedImport.source_id))
    )
    found = session.exec(select(FeedImport).where(col(FeedImport.id).in_(newest)))
    return {look.source_id: look for look in found}


def _view(look: FeedImport) -> FeedImportView:
    return FeedImportView.model_validate(look, from_attributes=True)


UPLOAD = Endpoint(
    method="PUT",
    path="/v1/feeds/{id}/file",
    handler=upload_file,
    summary="Upload a feed file",
    tag="Products",
    guard=require(*_ROLES),
    roles=_ROLES,
    reply=FeedImportView,
    errors=(Forbidden, NotFound),
)

ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/v1/feeds",
        handler=list_feeds,
        summary="List feed sources",
        tag="Products",
        guard=require(*_ROLES),
        roles=_ROLES,
        query=PageQuery,
        reply=FeedPage,
        errors=(Forbidden,),
    ),
    Endpoint(
        method="GET",
        path="/v1/feeds/{id}/rejections",
        handler=list_rejections,
        summary="List refused rows of a feed",
        tag="Products",
        guard=require(*_ROLES),
        roles=_ROLES,
        query=PageQuery,
        reply=RejectionPage,
        errors=(Forbidden, NotFound),
    ),
)
