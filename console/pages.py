"""A page is declared once (`View`): where it is, who may see it, whether it writes.

The declaration makes the route and all checks, in this order: known path, signed in, right role,
and for a form its origin and its token. A handler therefore never checks any of them.
"""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import ClassVar
from urllib.parse import urlencode

import sqlalchemy as sa
from sqlmodel import Session
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route

from console import forms, rendering, sessions, words
from kernel import clock, http, i18n, log, problems
from kernel.database import reading, unit_of_work
from kernel.errors import AppError, Forbidden, NotFound, Unauthenticated, Unavailable
from network.access import Actor
from network.models import Role

_log = log.get(__name__)
EVERYONE = tuple(Role)
MANAGERS = (Role.MANAGER,)
LANGUAGE_COOKIE = "tallystick_language"


@dataclass(slots=True, kw_only=True)
class Visit:
    """One request for a page. `signed_in` is None on public pages only."""

    request: Request
    context: http.Context
    signed_in: sessions.SignedIn | None
    language: str
    now: datetime
    path: dict[str, str]
    query: dict[str, str]
    form: dict[str, str] = field(default_factory=dict)
    opened: Session | None = None
    problem: AppError | None = None

    @property
    def session(self) -> Session:
        """The database session: a writing one where the view writes."""
        if self.opened is None:
            msg = "this view has no session"
            raise RuntimeError(msg)
        return self.opened

    @property
    def actor(self) -> Actor:
        """Who is signed in."""
        if self.signed_in is None:
            raise Unauthenticated("nobody is signed in")
        return self.signed_in.actor

    def gettext(self, message: str) -> str:
        """The sentence in the language of this visit."""
        return rendering.gettext_of(self.language)(message)

    def page(self, template: str, *, status: int = 200, **values: object) -> Response:
        """Render a template with what every page needs."""
        token = self.signed_in.csrf_token if self.signed_in else sessions.guest_token(self.request)
        response = rendering.render(
            template,
            language=self.language,
            status=problems.status_of(type(self.problem)) if self.problem else status,
            values={
                "visit": self,
                "actor": self.signed_in.actor if self.signed_in else None,
                "csrf_token": token,
                "here": self.request.url.path,
                "here_query": self.request.url.query,
                "problem": words.problem(self.problem, gettext=self.gettext),
                "done": words.done(self.query.get("done", ""), gettext=self.gettext),
                **values,
            },
        )
        sessions.keep_guest(self.request, response)
        return response


Handler = Callable[[Visit], Response]


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """One page or form. `retry` shows the page of a form again, with what was wrong with it."""

    method: str
    path: str
    handler: Handler
    roles: tuple[Role, ...] = EVERYONE
    public: bool = False
    session: bool = True
    takes_file: bool = False
    retry: Handler | None = None

    @property
    def writes(self) -> bool:
        """Nothing but a form changes anything."""
        return self.method == "POST"


class WrongForm(Forbidden):
    """The form was not sent by a page of ours, or its page is older than the session."""

    code: ClassVar[str] = "wrong_form"
    title: ClassVar[str] = "The form could not be trusted"


def redirect(path: str, **query: str) -> Response:
    """To a page of ours after a form; a reload there repeats nothing."""
    target = f"{path}?{urlencode(query)}" if query else path
    return RedirectResponse(target, status_code=303, headers=dict(rendering.SECURITY_HEADERS))


def routes(views: Iterable[View]) -> list[Route]:
    """The Starlette routes of the views."""
    return [_route(view) for view in views]


def _route(view: View) -> Route:
    async def answer(request: Request) -> Response:
        form: dict[str, str] | AppError = {}
        if view.writes:
            try:
                read = forms.read_with_file if view.takes_file else forms.read
                form = await read(request)
            except AppError as error:
                form = error
        return await run_in_threadpool(_answer, view, request, form)

    return Route(view.path, answer, methods=[view.method], name=f"{view.method} {view.path}")


def _answer(view: View, request: Request, form: dict[str, str] | AppError) -> Response:
    visit = Visit(
        request=request,
        context=http.context(request),
        signed_in=None,
        language=language_of(request),
        now=clock.now(),
        path=dict(request.path_params),
        query=dict(request.query_params),
    )
    try:
        visit.signed_in = sessions.identify(request, now=visit.now)
        if visit.signed_in is None and not view.public:
            return _to_sign_in(request)
        if isinstance(form, AppError):
            raise form
        visit.form = form
        _admit(view, visit)
        return _run(view, visit)
    except AppError as error:
        return error_page(visit, error)
    except sa.exc.OperationalError as error:
        _log.exception("console_database_unavailable", path=request.url.path, exc_info=error)
        return error_page(visit, Unavailable("the database does not answer"))


def _admit(view: View, visit: Visit) -> None:
    if visit.signed_in is not None and visit.signed_in.actor.role not in view.roles:
        raise Forbidden("this page is for another role")
    if view.writes and not sessions.is_own_form(visit.request, visit.form, visit.signed_in):
        raise WrongForm("the form did not come from a page of this session")


def _run(view: View, visit: Visit) -> Response:
    if not view.session:
        return view.handler(visit)
    try:
        with _session(visit, writes=view.writes) as session:
            visit.opened = session
            return view.handler(visit)
    except AppError as error:
        if view.retry is None:
            raise
        visit.problem = error
    with _session(visit, writes=False) as session:
        visit.opened = session
        return view.retry(visit)


def _session(visit: Visit, *, writes: bool) -> AbstractContextManager[Session]:
    return unit_of_work(visit.context.engine) if writes else reading(visit.context.engine)


def language_of(request: Request) -> str:
    """The cookie's language, else the first of ours the browser asks for."""
    return i18n.choose(request.cookies.get(LANGUAGE_COOKIE), request.headers.get("accept-language"))


def error_page(visit: Visit, error: AppError) -> Response:
    """The refusal as a page with its status."""
    response = visit.page(
        "error.html",
        status=problems.status_of(type(error)),
        refusal=words.refusal(error, gettext=visit.gettext),
        code=error.code,
    )
    if problems.status_of(type(error)) == problems.status_of(Unavailable):
        response.headers["Retry-After"] = "5"
    return response


def not_found(request: Request) -> Response:
    """The page for an address at which nothing is; the same for everyone, signed in or not."""
    visit = Visit(
        request=request,
        context=http.context(request),
        signed_in=None,
        language=language_of(request),
        now=clock.now(),
        path={},
        query={},
    )
    return error_page(visit, NotFound("nothing is at this address"))


def _to_sign_in(request: Request) -> Response:
    if request.method != "GET" or request.url.path == "/":
        return redirect("/sign-in")
    target = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return redirect("/sign-in", next=target)
