"""How a program is tracked: its links, orders from the tag, and the secrets that sign reports."""

from starlette.responses import Response

from console import forms, programs
from console.pages import View, Visit, redirect
from network import programs as parties
from network import reporting_terms
from network.models import Program, TagOrders
from network.reporting_terms import SECRETS_MAX
from tracker.signatures import secret_text


def _show(visit: Visit) -> Response:
    return _page(visit, programs.own(visit))


def _page(visit: Visit, program: Program, *, secret_id: str = "", secret: str = "") -> Response:
    secrets = reporting_terms.secrets_of(visit.session, program)
    return visit.page(
        "programs/tracking.html",
        program=program,
        form=visit.form,
        tag_orders=tuple(TagOrders),
        secrets=secrets,
        in_force=sum(one.retired_at is None for one in secrets),
        secrets_max=SECRETS_MAX,
        secret_id=secret_id,
        secret=secret,
        public_url=visit.context.settings.public_url,
    )


def _set_links(visit: Visit) -> Response:
    program = programs.own(visit)
    parties.set_tracking(
        visit.session,
        program,
        fallback_url=forms.text(visit.form, "fallback_url"),
        click_parameter=forms.text(visit.form, "click_parameter"),
        requires_signed_links=bool(visit.form.get("requires_signed_links")),
        actor=str(visit.actor),
        now=visit.now,
    )
    return _back(program, "tracking_set")


def _set_tag_orders(visit: Visit) -> Response:
    program = programs.own(visit)
    wanted = forms.choice(visit.form, "tag_orders", frozenset(TagOrders))
    parties.set_tag_orders(
        visit.session,
        program,
        tag_orders=TagOrders(wanted or program.tag_orders),
        actor=str(visit.actor),
        now=visit.now,
    )
    return _back(program, "tag_orders_set")


def _make_secret(visit: Visit) -> Response:
    """The only page that ever shows this secret: it is nowhere else, and no address leads back."""
    program = programs.own(visit)
    row = reporting_terms.add_secret(visit.session, program, actor=str(visit.actor), now=visit.now)
    key = reporting_terms.signing_key(visit.context.keys, row.id)
    return _page(visit, program, secret_id=row.id, secret=secret_text(key))


def _retire_secret(visit: Visit) -> Response:
    program = programs.own(visit)
    reporting_terms.retire_secret(
        visit.session,
        program,
        visit.path["secret_id"],
        actor=str(visit.actor),
        now=visit.now,
    )
    return _back(program, "secret_retired")


def _back(program: Program, done: str) -> Response:
    return redirect(f"/programs/{program.id}/tracking", done=done)


_PATH = "/programs/{program_id}"
VIEWS = (
    View(method="GET", path=f"{_PATH}/tracking", handler=_show, roles=programs.WHO),
    *(
        View(
            method="POST",
            path=f"{_PATH}/{verb}",
            handler=handler,
            roles=programs.WHO,
            retry=_show,
        )
        for verb, handler in (
            ("tracking", _set_links),
            ("tag-orders", _set_tag_orders),
            ("signing-secrets", _make_secret),
            ("signing-secrets/{secret_id}/retire", _retire_secret),
        )
    ),
)
