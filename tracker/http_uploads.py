"""Files of orders over HTTP: take one in, say how far it is, hand out what became of its rows."""

import csv
import hashlib
import io
from collections.abc import AsyncIterator, Sequence
from typing import Annotated, Any, Final, cast
from urllib.parse import quote
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PlainSerializer
from starlette.concurrency import run_in_threadpool
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request
from starlette.responses import Response

from kernel import http
from kernel.clock import to_rfc3339
from kernel.database import unit_of_work
from kernel.errors import Forbidden, NotFound, TooLarge, invalid
from kernel.http import Call, Endpoint
from kernel.settings import Settings
from network import programs
from network.access import Actor, require
from network.models import Role
from tracker import order_files, uploads
from tracker.models import OrderUpload, OrderUploadRow
from tracker.order_files import Reading, TooManyFileRows
from tracker.uploads import RowStatus

_ROLES: Final = (Role.ADVERTISER, Role.MANAGER)
_ROWS_MAX: Final = 1_000
_UPLOADS_SHOWN: Final = 100
_ROW_FIELDS: Final = (
    "row",
    "status",
    "order_id",
    "field",
    "rule",
    "message",
    "conversion_id",
    "receipt",
)
# A spreadsheet runs what begins like this.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")


def _zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        msg = "must be an IANA time zone"
        raise ValueError(msg) from error
    return name


class UploadQuery(BaseModel):
    """Which program the file is for, and how its numbers and times are written."""

    model_config = ConfigDict(extra="forbid")

    program: str = Field("", max_length=128, description="Code or id; the only one if left out.")
    file_name: str = Field("", max_length=256, description="Shown with the upload.")
    decimal: str = Field(".", pattern=r"^[.,]$", description="Decimal mark of amounts.")
    zone: Annotated[str, AfterValidator(_zone)] = Field(
        "UTC", max_length=64, description="IANA zone of times and Excel dates without an offset."
    )


class UploadsQuery(BaseModel):
    """Where the list goes on."""

    model_config = ConfigDict(extra="forbid")

    before: str = Field("", max_length=64, description="Uploads made before this one.")


class RowsQuery(BaseModel):
    """Which rows."""

    model_config = ConfigDict(extra="forbid")

    status: RowStatus | None = Field(None, description="Rows with this result only.")
    after: int = Field(0, ge=0, le=2**31 - 1, description="Rows after this row of the file.")
    limit: int = Field(100, ge=1, le=_ROWS_MAX, description="Rows of the answer.")


_Time = Annotated[Any, PlainSerializer(lambda at: at and to_rfc3339(at), return_type=str | None)]


class UploadView(BaseModel):
    """A file of orders and how far it is."""

    id: str
    program_id: str
    file_name: str
    format: str
    status: str
    detail: str
    unused_columns: str
    rows_total: int
    rows_done: int
    accepted: int
    duplicates: int
    conflicts: int
    invalid: int
    created_at: _Time
    finished_at: _Time


class UploadList(BaseModel):
    """Files of orders, newest first. `next_before` goes on, null at the end."""

    data: list[UploadView]
    next_before: str | None


class RowView(BaseModel):
    """What became of one row; the header is row 1."""

    row: int
    status: RowStatus
    order_id: str
    field: str
    rule: str
    message: str
    conversion_id: str | None
    receipt: str | None


class RowList(BaseModel):
    """Rows in the order of the file. `next_after` goes on, null at the end."""

    data: list[RowView]
    next_after: int | None


async def upload(call: Call) -> UploadView:
    """Take in a file of orders, CSV or XLSX: as it is, or as `multipart/form-data` in `file`.

    The header row names the columns. The answer comes when the file can be read and is stored; its
    rows are worked afterwards, each with a result of its own.
    """
    raw = await http.read_body(call.request)
    content, name = await read_part(call.request, raw)
    return await run_in_threadpool(_add, call, content, call.query.file_name or name)


def _add(call: Call, content: bytes, file_name: str) -> UploadView:
    with unit_of_work(call.context.engine) as session:
        program_id = programs.one_of(session, call.actor, call.query.program).id
    row = take_in(
        call.context,
        call.actor,
        content,
        program_id=program_id,
        file_name=file_name,
        decimal=call.query.decimal,
        zone=call.query.zone,
        now=call.now,
    )
    return _view(row)


def take_in(
    shared: http.Context,
    actor: Actor,
    content: bytes,
    *,
    program_id: str,
    file_name: str,
    decimal: str,
    zone: str,
    now: Any,
) -> OrderUpload:
    """Read the file as a whole and store it as a job; nothing is stored when that fails."""
    _check_size(content, shared.settings)
    # Outside the transaction: a large workbook takes its time, and SQLite has one writer.
    file = order_files.read(
        content,
        Reading(
            decimal=decimal,
            zone=zone,
            rows_max=shared.settings.upload_rows_max,
            decoded_bytes_max=shared.settings.upload_decoded_bytes_max,
        ),
    )
    with unit_of_work(shared.engine) as session:
        return uploads.add(
            session,
            program_id=program_id,
            actor=actor,
            file_name=file_name,
            content=content,
            content_hash=hashlib.sha256(content).hexdigest(),
            file=file,
            now=now,
        )


def _check_size(content: bytes, settings: Settings) -> None:
    if len(content) > settings.upload_bytes_max:
        raise TooLarge(
            f"a file has at most {settings.upload_bytes_max} bytes",
            limit="upload_bytes_max",
            limit_bytes=settings.upload_bytes_max,
        )


async def read_part(request: Request, raw: bytes) -> tuple[bytes, str]:
    """The file in a body and its name: the part `file` of a form, or the body itself."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "multipart/form-data":
        return raw, ""
    fields, content, name = await read_form(request, raw)
    if content is None:
        raise invalid("file", "missing", "is required")
    del fields
    return content, name


async def read_form(request: Request, raw: bytes) -> tuple[dict[str, str], bytes | None, str]:
    """A multipart form that was read whole: its fields, the file in `file` and that file's name."""

    async def stream() -> AsyncIterator[bytes]:
        yield raw

    parser = MultiPartParser(
        request.headers, cast("Any", stream()), max_files=1, max_fields=20, max_part_size=64 * 1024
    )
    try:
        form = await parser.parse()
    except (MultiPartException, KeyError, ValueError) as error:
        raise invalid("body", "multipart", "is no form that can be read") from error
    fields = {name: value for name, value in form.items() if isinstance(value, str)}
    found = form.get("file")
    if found is None or isinstance(found, str):
        return fields, None, ""
    content = await found.read()
    await form.close()
    return fields, content, found.filename or ""


def list_uploads(call: Call) -> UploadList:
    """Files of orders of the caller's programs, newest first."""
    found = uploads.page(
        call.session, call.actor, before_id=call.query.before or None, limit=_UPLOADS_SHOWN + 1
    )
    shown = found[:_UPLOADS_SHOWN]
    return UploadList(
        data=[_view(row) for row in shown],
        next_before=shown[-1].id if len(found) > _UPLOADS_SHOWN else None,
    )


def read_upload(call: Call) -> UploadView:
    """How far a file is, and what became of its rows so far."""
    return _view(uploads.get(call.session, call.actor, call.path["upload_id"]))


def list_rows(call: Call) -> RowList:
    """What became of the rows of a file, in its order."""
    row = uploads.get(call.session, call.actor, call.path["upload_id"])
    limit = call.query.limit
    found = uploads.rows(
        call.session,
        row.id,
        statuses=(call.query.status,) if call.query.status else (),
        after_row=call.query.after,
        limit=limit + 1,
    )
    return RowList(
        data=[RowView.model_validate(one, from_attributes=True) for one in found[:limit]],
        next_after=found[limit - 1].row if len(found) > limit else None,
    )


def download_result(call: Call) -> Response:
    """What became of every row so far, as CSV: a row of the file each."""
    row = uploads.get(call.session, call.actor, call.path["upload_id"])
    found = uploads.rows(call.session, row.id, limit=call.context.settings.upload_rows_max + 1)
    return result_file(row, found)


def result_file(upload_row: OrderUpload, rows: Sequence[OrderUploadRow]) -> Response:
    """The results as a CSV to save; nothing in it is run by a spreadsheet."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(_ROW_FIELDS)
    writer.writerows([_plain(getattr(one, name)) for name in _ROW_FIELDS] for one in rows)
    name = quote(f"{upload_row.file_name}-result.csv", safe="")
    return Response(
        # The mark tells Excel that the file is UTF-8.
        text.getvalue().encode("utf-8-sig"),
        media_type="text/csv; charset=utf-8",
        headers={
            "Content-Disposition": f"attachment; filename*=UTF-8''{name}",
            "Cache-Control": "no-store",
        },
    )


def _plain(value: Any) -> str:
    text = "" if value is None else str(value)
    return f"'{text}" if text.startswith(_FORMULA) else text


def _view(row: OrderUpload) -> UploadView:
    facts = {name: getattr(row, name, None) for name in UploadView.model_fields}
    return UploadView(**facts | {"unused_columns": row.options.get("unused_columns", "")})


def _endpoint(method: str, path: str, handler: Any, summary: str, **more: Any) -> Endpoint:
    return Endpoint(
        method=method,
        path=f"/v1/conversions/uploads{path}",
        handler=handler,
        summary=summary,
        tag="Orders",
        guard=require(*_ROLES),
        roles=_ROLES,
        **more,
    )


ENDPOINTS: Final = (
    _endpoint(
        "POST",
        "",
        upload,
        "Upload a file of orders",
        query=UploadQuery,
        reply=UploadView,
        status=202,
        errors=(Forbidden, NotFound, TooLarge, TooManyFileRows),
    ),
    _endpoint(
        "GET",
        "",
        list_uploads,
        "List uploads of orders",
        query=UploadsQuery,
        reply=UploadList,
        errors=(Forbidden,),
    ),
    _endpoint(
        "GET",
        "/{upload_id}",
        read_upload,
        "Read an upload of orders",
        reply=UploadView,
        errors=(Forbidden, NotFound),
    ),
    _endpoint(
        "GET",
        "/{upload_id}/rows",
        list_rows,
        "List the rows of an upload",
        query=RowsQuery,
        reply=RowList,
        errors=(Forbidden, NotFound),
    ),
    _endpoint(
        "GET",
        "/{upload_id}/result.csv",
        download_result,
        "Download the result of an upload",
        errors=(Forbidden, NotFound),
    ),
)
