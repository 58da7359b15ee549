"""Who sits at the browser: cookie, form tokens, and how often a password may be tried."""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime
from urllib.parse import urlsplit

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from starlette.requests import Request
from starlette.responses import Response

from kernel import http
from kernel.database import reading
from kernel.errors import TooMany
from network import access
from network.access import Actor
from network.models import User

_ATTEMPTS_WINDOW_MINUTES = 15
_LOCAL_PATH = re.compile(r"/(?![/\\])[A-Za-z0-9/_.~%?&=+:-]*", re.ASCII)
_COOKIE_CHARS_MAX = 128


@dataclass(frozen=True, slots=True)
class SignedIn:
    """A signed-in person and the token every form of theirs carries."""

    user: User
    actor: Actor
    csrf_token: str


class Throttle:
    """Counts wrong passwords, for each account and each address, over 15 minutes.

    An attempt is counted before the password is checked and given back when it was right;
    otherwise attempts sent at the same moment would all pass while the count is still low.
    """

    def __init__(self) -> None:
        self._storage = MemoryStorage()
        self._window = FixedWindowRateLimiter(self._storage)

    def spend(self, *, email: str, address: str, attempts_max: int) -> None:
        """Count an attempt; TooMany when the account or the address has used up its own."""
        item = _window(attempts_max)
        allowed = [self._window.hit(item, key) for key in _keys(email, address)]
        if not all(allowed):
            raise TooMany(
                "too many wrong passwords", retry_after_seconds=_ATTEMPTS_WINDOW_MINUTES * 60
            )

    def give_back(self, *, email: str, address: str, attempts_max: int) -> None:
        """Take back the count of an attempt that was right."""
        item = _window(attempts_max)
        for key in _keys(email, address):
            self._storage.decr(item.key_for(key))


def _window(attempts_max: int) -> RateLimitItemPerMinute:
    return RateLimitItemPerMinute(attempts_max, _ATTEMPTS_WINDOW_MINUTES)


def _keys(email: str, address: str) -> tuple[str, str]:
    # Hashed: an address of any length costs the store the same.
    account = hashlib.sha256(email.strip().lower().encode()).hexdigest()
    return f"account:{account}", f"address:{address}"


def is_secure(request: Request) -> bool:
    """Whether browsers reach this server by https."""
    return http.context(request).settings.public_url.startswith("https://")


def _name(request: Request, word: str) -> str:
    # The prefix makes the browser itself refuse the cookie from a sibling domain or over http.
    return f"__Host-{word}" if is_secure(request) else word


def identify(request: Request, *, now: datetime) -> SignedIn | None:
    """Who is signed in, or None."""
    cookie = session_cookie(request)
    if not cookie:
        return None
    with reading(http.context(request).engine) as session:
        found = access.read_session(session, cookie=cookie, now=now)
    if found is None:
        return None
    user, csrf_token = found
    return SignedIn(user=user, actor=access.actor_of_user(user), csrf_token=csrf_token)


def session_cookie(request: Request) -> str:
    """The value of the session cookie, or nothing."""
    return request.cookies.get(_name(request, "tallystick_session"), "")[:_COOKIE_CHARS_MAX]


def remember(request: Request, response: Response, cookie: str) -> None:
    """Give the browser its session."""
    hours = http.context(request).settings.session_hours
    _set(request, response, "tallystick_session", cookie, seconds=hours * 3600)


def forget(request: Request, response: Response) -> None:
    """Take the session away from the browser."""
    response.delete_cookie(
        _name(request, "tallystick_session"),
        secure=is_secure(request),
        httponly=True,
        samesite="lax",
    )


def _set(request: Request, response: Response, word: str, value: str, *, seconds: int) -> None:
    response.set_cookie(
        _name(request, word),
        value,
        max_age=seconds,
        secure=is_secure(request),
        httponly=True,
        samesite="lax",
    )


def guest_token(request: Request) -> str:
    """The form token of somebody not signed in: a MAC of the guest cookie of this browser.

    A page that shows a form calls `keep_guest` on its answer, so that the cookie is there.
    """
    cookie = request.cookies.get(_name(request, "tallystick_guest"), "")[:_COOKIE_CHARS_MAX]
    if not cookie:
        cookie = getattr(request.state, "guest_cookie", "") or secrets.token_urlsafe(24)
        request.state.guest_cookie = cookie
    key = http.context(request).keys.derive("console-guest-form")
    return hmac.new(key, cookie.encode(), "sha256").hexdigest()


def keep_guest(request: Request, response: Response) -> None:
    """Give the browser the guest cookie that `guest_token` made for it, if it did."""
    cookie = getattr(request.state, "guest_cookie", "")
    if cookie:
        _set(request, response, "tallystick_guest", cookie, seconds=24 * 3600)


def is_own_form(request: Request, form: dict[str, str], signed_in: SignedIn | None) -> bool:
    """Whether the form carries this browser's token and comes from a page of this server."""
    expected = signed_in.csrf_token if signed_in else guest_token(request)
    token_fits = hmac.compare_digest(form.get("csrf_token", "").encode(), expected.encode())
    return token_fits and _is_same_origin(request)


def _is_same_origin(request: Request) -> bool:
    # Browsers send at least one of the two with every form; what is absent proves nothing, and
    # the token decides alone.
    if request.headers.get("sec-fetch-site", "same-origin") not in {"same-origin", "none"}:
        return False
    origin = request.headers.get("origin")
    if origin is None:
        return True
    public = urlsplit(http.context(request).settings.public_url)
    return origin == f"{public.scheme}://{public.netloc}" or (
        urlsplit(origin).netloc == request.headers.get("host", "") != ""
    )


def local_path(text: str) -> str:
    """The path to go on to after signing in: one of ours, else the start page."""
    return text if _LOCAL_PATH.fullmatch(text) else "/"


def address_of(request: Request) -> str:
    """The network address the request came from."""
    return request.client.host if request.client else "unknown"
