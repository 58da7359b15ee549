"""A program's coupons: whose they are and until when; add them, end them."""

from datetime import datetime
from typing import Any, Final
from urllib.parse import urlencode

from starlette.responses import Response

from console import forms, programs, reads
from console.pages import View, Visit, redirect
from kernel import pages as cursors
from kernel.clock import to_rfc3339
from network.models import Program
from tracker import coupons
from tracker.coupons import Effect, Operator
from tracker.models import Coupon

PAGE_ROWS: Final = 50


def _show(visit: Visit) -> Response:
    program = programs.own(visit)
    cursor = visit.query.get("cursor", "")
    kept = {name: visit.query[name] for name in ("code", "publisher") if visit.query.get(name)}
    found = coupons.page(
        visit.session,
        program.id,
        code=forms.text(visit.query, "code") or None,
        publisher_id=visit.query.get("publisher") or None,
        after_seq=cursors.decode(cursor, int)[0] if cursor else 0,
        limit=PAGE_ROWS + 1,
    )
    shown = found[:PAGE_ROWS]
    path = f"/programs/{program.id}/coupons"
    following = {**kept, "cursor": cursors.encode(shown[-1].seq or 0)} if shown else kept
    return visit.page(
        "programs/coupons.html",
        program=program,
        coupons=[(one, _state(one, visit.now)) for one in shown],
        owners=reads.publisher_names(visit.session, [one.publisher_id for one in shown]),
        members=reads.members(visit.session, program.id),
        kept=kept,
        form=visit.form,
        operators=tuple(Operator),
        effects=tuple(Effect),
        first_url=f"{path}?{urlencode(kept)}",
        next_url=f"{path}?{urlencode(following)}" if len(found) > PAGE_ROWS else "",
        is_first_page=not cursor,
    )


def _state(one: Coupon, now: datetime) -> str:
    if one.ends_at is not None and one.ends_at <= now:
        return "ended"
    return "coming" if one.starts_at is not None and one.starts_at > now else "in_force"


def _add(visit: Visit) -> Response:
    program = programs.own(visit)
    codes = [line.strip() for line in visit.form.get("codes", "").splitlines() if line.strip()]
    coupons.check_count(len(codes), rows_max=visit.context.settings.coupon_rows_max)
    coupons.add(
        visit.session,
        [_row(visit, program, code) for code in codes or [""]],
        program_id=program.id,
        actor=str(visit.actor),
        now=visit.now,
    )
    return redirect(f"/programs/{program.id}/coupons", done="coupons_added")


def _row(visit: Visit, program: Program, code: str) -> dict[str, Any]:
    names = ("operator", "effect", "publisher")
    row = {name: visit.form[name] for name in names if visit.form.get(name)}
    zone = program.timezone
    starts_at = forms.start_of(forms.day(visit.form, "from"), zone=zone)
    # The last day is meant whole.
    ends_at = forms.start_of(forms.day(visit.form, "to"), zone=zone, days_later=1)
    dates = {"starts_at": starts_at, "ends_at": ends_at}
    return row | {"code": code} | {name: to_rfc3339(at) for name, at in dates.items() if at}


def _end(visit: Visit) -> Response:
    program = programs.own(visit)
    coupons.end(
        visit.session,
        [visit.path["coupon_id"]],
        program_id=program.id,
        actor=str(visit.actor),
        at=visit.now,
        now=visit.now,
    )
    return redirect(f"/programs/{program.id}/coupons", done="coupon_ended")


_PATH = "/programs/{program_id}/coupons"
VIEWS = (
    View(method="GET", path=_PATH, handler=_show, roles=programs.WHO),
    View(method="POST", path=_PATH, handler=_add, roles=programs.WHO, retry=_show),
    View(method="POST", path=f"{_PATH}/{{coupon_id}}/end", handler=_end, roles=programs.WHO),
)
