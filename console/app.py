"""All pages of the console in one table, and the pages anyone may see."""

from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import BaseRoute, Route

from console import (
    advertisers,
    conversions,
    demo_shop,
    health,
    links,
    pages,
    plan_jobs,
    plans,
    program_coupons,
    program_rules,
    program_tracking,
    programs,
    publisher_terms,
    publishers,
    rendering,
    reports,
    sessions,
    uploads,
)
from console.managers import dashboard, flags, groups, payouts
from console.pages import LANGUAGE_COOKIE, View, Visit, redirect
from kernel import i18n
from kernel.database import reading, unit_of_work
from kernel.errors import TooMany, Unauthenticated, invalid
from network import access
from network.models import Role

_YEAR_SECONDS = 365 * 24 * 3600
_HOMES = {
    Role.MANAGER: dashboard.show,
    Role.PUBLISHER: publishers.overview,
    Role.ADVERTISER: advertisers.overview,
}


def routes() -> list[BaseRoute]:
    """The console's routes, from `/` on. They need `app.state.context`.

    Wrong passwords are counted for as long as the list lives.
    """
    return [
        Route("/static/console.css", _stylesheet, methods=["GET"], name="GET /static/console.css"),
        *pages.routes(_views(sessions.Throttle())),
    ]


def _views(throttle: sessions.Throttle) -> list[View]:
    def sign_in(visit: Visit) -> Response:
        return _sign_in(visit, throttle)

    return [
        View(method="GET", path="/", handler=_home),
        View(method="GET", path="/sign-in", handler=_sign_in_form, public=True, session=False),
        View(method="POST", path="/sign-in", handler=sign_in, public=True, session=False),
        View(method="POST", path="/sign-out", handler=_sign_out, public=True),
        View(method="POST", path="/language", handler=_language, public=True, session=False),
        *conversions.VIEWS,
        *reports.VIEWS,
        *health.VIEWS,
        *links.VIEWS,
        *flags.VIEWS,
        *payouts.VIEWS,
        *groups.VIEWS,
        *programs.VIEWS,
        *plans.VIEWS,
        *plan_jobs.VIEWS,
        *publisher_terms.VIEWS,
        *program_rules.VIEWS,
        *program_coupons.VIEWS,
        *program_tracking.VIEWS,
        *advertisers.VIEWS,
        *uploads.VIEWS,
        *demo_shop.VIEWS,
        View(method="GET", path="/console", handler=_to_home, session=False),
    ]


def _home(visit: Visit) -> Response:
    return _HOMES[visit.actor.role](visit)


def _to_home(_visit: Visit) -> Response:
    return redirect("/")


async def _stylesheet(_request: Request) -> Response:
    # The pages name it with a hash of its content, so a browser never needs to ask again.
    return FileResponse(
        rendering.HERE / "static" / "console.css",
        media_type="text/css",
        headers={
            "Cache-Control": f"public, max-age={_YEAR_SECONDS}, immutable",
            "X-Content-Type-Options": "nosniff",
        },
    )


def _sign_in_form(visit: Visit) -> Response:
    if visit.signed_in is not None:
        return redirect("/")
    return _show_sign_in(visit)


def _show_sign_in(visit: Visit) -> Response:
    wanted = visit.form.get("next") or visit.query.get("next") or "/"
    return visit.page(
        "sign_in.html", next=sessions.local_path(wanted), email=visit.form.get("email", "")
    )


def _sign_in(visit: Visit, throttle: sessions.Throttle) -> Response:
    settings, engine = visit.context.settings, visit.context.engine
    facts = {
        "email": visit.form.get("email", ""),
        "address": sessions.address_of(visit.request),
    }
    try:
        throttle.spend(**facts, attempts_max=settings.sign_in_attempts_max)
        # The slow hash is checked outside the writing transaction: on SQLite everyone shares it.
        with reading(engine) as session:
            user = access.check_password(
                session, email=facts["email"], password=visit.form.get("password", "")
            )
    except (Unauthenticated, TooMany) as error:
        visit.problem = error
        response = _show_sign_in(visit)
        if isinstance(error, TooMany):
            response.headers["Retry-After"] = str(error.retry_after_seconds)
        return response
    throttle.give_back(**facts, attempts_max=settings.sign_in_attempts_max)
    with unit_of_work(engine) as session:
        # An older session of this browser ends, so that nobody can have planted it.
        access.close_session(session, cookie=sessions.session_cookie(visit.request))
        cookie, _ = access.open_session(session, user, hours=settings.session_hours, now=visit.now)
    response = redirect(sessions.local_path(visit.form.get("next", "/")))
    sessions.remember(visit.request, response, cookie)
    return response


def _sign_out(visit: Visit) -> Response:
    access.close_session(visit.session, cookie=sessions.session_cookie(visit.request))
    response = redirect("/sign-in", done="signed_out")
    sessions.forget(visit.request, response)
    return response


def _language(visit: Visit) -> Response:
    language = visit.form.get("language", "")
    if language not in i18n.LANGUAGES:
        raise invalid("language", "choice", "is not a language of this console")
    response = redirect(sessions.local_path(visit.form.get("next", "/")))
    response.set_cookie(
        LANGUAGE_COOKIE,
        language,
        max_age=_YEAR_SECONDS,
        secure=sessions.is_secure(visit.request),
        httponly=True,
        samesite="lax",
    )
    return response
