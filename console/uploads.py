"""Files of orders: send one, watch it, see which rows were refused and why."""

from typing import Final
from zoneinfo import ZoneInfo

from starlette.responses import Response

from console import forms, reads
from console.pages import View, Visit, redirect
from kernel.database import reading
from kernel.errors import AppError, invalid
from network import programs
from network.models import Role
from tracker import http_uploads, uploads
from tracker.models import OrderUpload
from tracker.uploads import OPEN, RowStatus

_ROLES: Final = (Role.ADVERTISER, Role.MANAGER)
PAGE_ROWS: Final = 50
REFUSED_SHOWN: Final = 200
_REFUSED: Final = (RowStatus.INVALID, RowStatus.CONFLICT)
_DECIMALS: Final = frozenset((".", ","))
_REFRESH_SECONDS: Final = "3"


def _list(visit: Visit) -> Response:
    before = visit.query.get("before") or None
    found = uploads.page(visit.session, visit.actor, before_id=before, limit=PAGE_ROWS + 1)
    shown = found[:PAGE_ROWS]
    return visit.page(
        "advertisers/uploads.html",
        uploads=shown,
        program_choices=reads.programs(visit.session, visit.actor),
        programs=reads.programs_by_id(visit.session, [one.program_id for one in shown]),
        form=visit.form,
        next_url=f"/uploads?before={shown[-1].id}" if len(found) > PAGE_ROWS else "",
        is_first_page=before is None,
        bytes_max=visit.context.settings.upload_bytes_max,
        rows_max=visit.context.settings.upload_rows_max,
    )


def _take_in(visit: Visit) -> Response:
    try:
        upload = _store(visit)
    except AppError as error:
        visit.problem = error
        with reading(visit.context.engine) as session:
            visit.opened = session
            return _list(visit)
    return redirect(f"/uploads/{upload.id}", done="uploaded")


def _store(visit: Visit) -> OrderUpload:
    content, name = forms.file_of(visit.request)
    if not content:
        raise invalid("file", "missing", "is required")
    with reading(visit.context.engine) as session:
        program = programs.one_of(session, visit.actor, forms.text(visit.form, "program"))
    return http_uploads.take_in(
        visit.context,
        visit.actor,
        content,
        program_id=program.id,
        file_name=name,
        decimal=forms.choice(visit.form, "decimal", _DECIMALS) or ".",
        # A shop writes its times as its program's day runs; what has an offset keeps it.
        zone=ZoneInfo(program.timezone).key,
        now=visit.now,
    )


def _show(visit: Visit) -> Response:
    upload = uploads.get(visit.session, visit.actor, visit.path["upload_id"])
    refused = uploads.rows(visit.session, upload.id, statuses=_REFUSED, limit=REFUSED_SHOWN + 1)
    is_open = upload.status in OPEN
    response = visit.page(
        "advertisers/upload.html",
        upload=upload,
        program=programs.get(visit.session, upload.program_id),
        refused=refused[:REFUSED_SHOWN],
        has_more=len(refused) > REFUSED_SHOWN,
        is_open=is_open,
    )
    if is_open:
        response.headers["Refresh"] = f"{_REFRESH_SECONDS}; url=/uploads/{upload.id}"
    return response


def _result(visit: Visit) -> Response:
    upload = uploads.get(visit.session, visit.actor, visit.path["upload_id"])
    rows = uploads.rows(visit.session, upload.id, limit=visit.context.settings.upload_rows_max + 1)
    return http_uploads.result_file(upload, rows)


VIEWS = (
    View(method="GET", path="/uploads", handler=_list, roles=_ROLES),
    View(
        method="POST",
        path="/uploads",
        handler=_take_in,
        roles=_ROLES,
        session=False,
        takes_file=True,
    ),
    View(method="GET", path="/uploads/{upload_id}", handler=_show, roles=_ROLES),
    View(method="GET", path="/uploads/{upload_id}/result.csv", handler=_result, roles=_ROLES),
)
