"""Files of orders as jobs: kept in the database, worked chunk by chunk by any node.

A chunk's rows go through the same intake as every other order (journal, receipts); then their
results and the progress are committed together. What a crash leaves between the two is taken in
again, recognised as its own, and said once.
"""

import zlib
from collections.abc import Sequence
from datetime import datetime
from enum import StrEnum
from typing import Any, Final

import msgspec
import sqlalchemy as sa
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from kernel.errors import NotFound
from kernel.ids import new_id
from network.access import Actor, scope_to_party
from network.models import Program
from tracker.models import OrderUpload, OrderUploadRow
from tracker.order_files import OrderFile

_NAME_CHARS_MAX: Final = 128
_COLUMNS_SHOWN: Final = 20
_FILES_MAX: Final = 100


class UploadStatus(StrEnum):
    """Where a file stands."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class RowStatus(StrEnum):
    """What became of a row."""

    ACCEPTED = "accepted"
    DUPLICATE = "duplicate"
    CONFLICT = "conflict"
    INVALID = "invalid"


_CONTENT: Final[Any] = col(OrderUpload.content)
OPEN: Final = (UploadStatus.QUEUED, UploadStatus.RUNNING)


def add(
    session: Session,
    *,
    program_id: str,
    actor: Actor,
    file_name: str,
    content: bytes,
    content_hash: str,
    file: OrderFile,
    now: datetime,
) -> OrderUpload:
    """A file to be worked. The same file again is another job, whose rows are duplicates."""
    unused = ", ".join(file.unused_columns[:_COLUMNS_SHOWN])
    upload = OrderUpload(
        id=new_id("upl", at=now),
        program_id=program_id,
        actor_id=actor.id,
        is_manager=actor.is_manager,
        file_name=_shown(file_name),
        format=file.format,
        options={"unused_columns": unused},
        content=pack(file.rows),
        content_bytes=len(content),
        content_hash=content_hash,
        status=UploadStatus.QUEUED,
        rows_total=len(file.rows),
        created_at=now,
        updated_at=now,
    )
    session.add(upload)
    session.flush()
    return upload


def _shown(file_name: str) -> str:
    kept = "".join(one for one in file_name if one.isprintable())
    return kept[-_NAME_CHARS_MAX:] or "orders"


def pack(rows: Sequence[tuple[int, dict[str, Any]]]) -> bytes:
    """Rows as they wait in the database."""
    return zlib.compress(msgspec.msgpack.encode(rows))


def unpack(content: bytes) -> list[tuple[int, dict[str, Any]]]:
    """The rows that `pack` was given."""
    return msgspec.msgpack.decode(zlib.decompress(content), type=list[tuple[int, dict[str, Any]]])


def page(
    session: Session, actor: Actor, *, before_id: str | None = None, limit: int
) -> list[OrderUpload]:
    """Uploads that the actor may see, newest first. Their files are not loaded."""
    query = _visible(actor).order_by(col(OrderUpload.id).desc()).limit(limit)
    if before_id is not None:
        query = query.where(col(OrderUpload.id) < before_id)
    return list(session.exec(query))


def get(session: Session, actor: Actor, upload_id: str) -> OrderUpload:
    """The upload, if it is the actor's; NotFound otherwise."""
    found = session.exec(_visible(actor).where(OrderUpload.id == upload_id)).one_or_none()
    if found is None:
        raise NotFound("no such upload", kind="upload")
    return found


def _visible(actor: Actor) -> SelectOfScalar[OrderUpload]:
    query = (
        select(OrderUpload)
        .join(Program, col(Program.id) == col(OrderUpload.program_id))
        .options(sa.orm.defer(_CONTENT))
    )
    return scope_to_party(query, actor, publisher=None, advertiser=col(Program.advertiser_id))


def rows(
    session: Session,
    upload_id: str,
    *,
    statuses: Sequence[str] = (),
    after_row: int = 0,
    limit: int,
) -> list[OrderUploadRow]:
    """Results by row, from `after_row` on; of these statuses only, when any is named."""
    query = select(OrderUploadRow).where(
        OrderUploadRow.upload_id == upload_id, col(OrderUploadRow.row) > after_row
    )
    if statuses:
        query = query.where(col(OrderUploadRow.status).in_(statuses))
    return list(session.exec(query.order_by(col(OrderUploadRow.row)).limit(limit)))


def open_ids(session: Session) -> list[str]:
    """Files that are not worked to their end, oldest first."""
    query = select(OrderUpload.id).where(col(OrderUpload.status).in_(OPEN))
    return list(session.exec(query.order_by(col(OrderUpload.id))))


def note(
    session: Session, upload_id: str, results: Sequence[OrderUploadRow], *, now: datetime
) -> None:
    """Add the results of the next rows, and count them."""
    upload = session.exec(
        select(OrderUpload).where(OrderUpload.id == upload_id).with_for_update()
    ).one()
    counts = {status: sum(one.status == status for one in results) for status in RowStatus}
    session.add_all(results)
    upload.status = UploadStatus.RUNNING
    upload.rows_done += len(results)
    upload.accepted += counts[RowStatus.ACCEPTED]
    upload.duplicates += counts[RowStatus.DUPLICATE]
    upload.conflicts += counts[RowStatus.CONFLICT]
    upload.invalid += counts[RowStatus.INVALID]
    upload.updated_at = now
    if upload.rows_done >= upload.rows_total:
        upload.status = UploadStatus.DONE
        upload.finished_at = now
        # The shop has its file; what it held is recorded.
        upload.content = b""
    session.add(upload)


def forget(session: Session, *, done_before: datetime, rows_max: int) -> int:
    """Let go of up to `rows_max` results of files done before then, and of files without any left.

    How many results and files went. What is not done is never let go, and the orders stay.
    """
    old = select(OrderUpload.id).where(
        col(OrderUpload.status).not_in(OPEN), col(OrderUpload.finished_at) < done_before
    )
    ids = list(session.exec(old.order_by(col(OrderUpload.id)).limit(_FILES_MAX)))
    key = (col(OrderUploadRow.upload_id), col(OrderUploadRow.row))
    doomed = (
        sa.select(*key).where(col(OrderUploadRow.upload_id).in_(ids)).order_by(*key).limit(rows_max)
    )
    gone: Any = session.execute(sa.delete(OrderUploadRow).where(sa.tuple_(*key).in_(doomed)))
    if gone.rowcount == rows_max:
        return int(gone.rowcount)
    files: Any = session.execute(sa.delete(OrderUpload).where(col(OrderUpload.id).in_(ids)))
    return int(gone.rowcount) + int(files.rowcount)


def fail(session: Session, upload_id: str, detail: str, *, now: datetime) -> None:
    """End a file that cannot be worked on; the results of its rows so far stay."""
    upload = session.get_one(OrderUpload, upload_id)
    upload.status, upload.detail = UploadStatus.FAILED, detail
    upload.updated_at = upload.finished_at = now
    session.add(upload)
