"""Access tokens for API clients (OAuth 2.0 client credentials) and what is needed to check them.

RFC 6749 prescribes how refusals of the token endpoint look; they carry our stable `code` as well.
"""

import base64
import binascii
from collections.abc import Sequence
from typing import Any, ClassVar
from urllib.parse import parse_qsl, unquote_plus

from limits import RateLimitItemPerMinute
from limits.storage import storage_from_string
from limits.strategies import MovingWindowRateLimiter
from pydantic import BaseModel
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from kernel import problems
from kernel.errors import AppError, InvalidInput, TooMany, Unauthenticated, invalid
from kernel.http import Call, Context, Endpoint, load_json
from network import access
from network.models import ApiClient, Role
from partner_api.bodies import raw_body

GRANT = "client_credentials"
SCOPES = {
    Role.MANAGER.value: "Runs the network and sees all of it.",
    Role.ADVERTISER.value: "Sees its own programs and reports their orders.",
    Role.PUBLISHER.value: "Sees the conversions, earnings and products that concern it.",
}
_FIELDS = ("grant_type", "client_id", "client_secret", "scope")
_FORM = "application/x-www-form-urlencoded"
_WINDOW_MINUTES = 15
# An office behind one address has many clients, so the address may fail more often than each.
_CLIENTS_PER_ADDRESS = 10
_NO_STORE = {"Cache-Control": "no-store", "Pragma": "no-cache"}


class InvalidClient(Unauthenticated):
    """Unknown client, wrong secret or disabled client of `/oauth/token`, never told apart."""

    code = "invalid_client"


class InvalidTokenRequest(InvalidInput):
    """A token request that is not one: a field is missing, twice, or credentials came two ways."""

    code = "invalid_request"


class UnsupportedGrantType(InvalidInput):
    """`grant_type` is something else than `client_credentials`."""

    code = "unsupported_grant_type"


class InvalidScope(InvalidInput):
    """The scope asked for is not the one that this client has."""

    code = "invalid_scope"


class TokenRequest(BaseModel):
    """Client credentials; client id and secret may come as HTTP Basic instead."""

    grant_type: str
    client_id: str | None = None
    client_secret: str | None = None
    scope: str | None = None


class TokenReply(BaseModel):
    """A bearer token and the seconds it lives."""

    access_token: str
    token_type: str
    expires_in: int
    scope: str


class FailureCount:
    """Wrong client secrets of the last 15 minutes, for each client at an address and each address.

    Not for a client alone: anyone who knows its id could then lock it out.
    """

    _failures: ClassVar[str] = "token-failure"

    def __init__(self, *, attempts_max: int, storage_url: str) -> None:
        self._window = MovingWindowRateLimiter(storage_from_string(storage_url))
        self._client = RateLimitItemPerMinute(attempts_max, _WINDOW_MINUTES)
        self._address = RateLimitItemPerMinute(attempts_max * _CLIENTS_PER_ADDRESS, _WINDOW_MINUTES)

    def check(self, client_id: str, address: str) -> None:
        """TooMany when either has used up its failures."""
        if not (
            self._window.test(self._client, self._failures, client_id, address)
            and self._window.test(self._address, self._failures, address)
        ):
            raise TooMany("too many wrong client secrets", retry_after_seconds=_WINDOW_MINUTES * 60)

    def add(self, client_id: str, address: str) -> None:
        """Count a failure."""
        self._window.hit(self._client, self._failures, client_id, address)
        self._window.hit(self._address, self._failures, address)


def issue_token(call: Call) -> Response:
    """Exchange client credentials for a bearer token.

    Form fields as RFC 6749 has them, or the same names as JSON; the client's id and secret in the
    body or as HTTP Basic. `scope` may be left out: a client has one.
    """
    try:
        return _issue(call)
    except (Unauthenticated, InvalidInput) as error:
        return _refusal(error, call.request)


def _issue(call: Call) -> Response:
    fields = _fields(call.request)
    client_id, client_secret = _credentials(call.request, fields)
    grant = fields.get("grant_type")
    if grant is None:
        raise _missing("grant_type")
    if grant != GRANT:
        raise UnsupportedGrantType(invalid("grant_type", "grant", f"must be {GRANT}").problems)
    client = _client(call, client_id, client_secret)
    if fields.get("scope", client.role) != client.role:
        raise InvalidScope(invalid("scope", "scope", "is not a scope of this client").problems)
    seconds = call.context.settings.token_seconds
    token = call.context.tokens.sign_access(
        subject=client.id, claims=access.claims_of_client(client), now=call.now, seconds=seconds
    )
    reply = TokenReply(
        access_token=token,
        token_type="Bearer",  # noqa: S106 - the name of a scheme, no password
        expires_in=seconds,
        scope=client.role,
    )
    return JSONResponse(reply.model_dump(), headers=_NO_STORE)


def _client(call: Call, client_id: str, client_secret: str) -> ApiClient:
    address = call.request.client.host if call.request.client else "unknown"
    failures = _failures(call.request, call.context)
    failures.check(client_id, address)
    try:
        return access.check_client(call.session, client_id=client_id, client_secret=client_secret)
    except Unauthenticated as error:
        failures.add(client_id, address)
        raise InvalidClient(error.message) from error


def _failures(request: Request, shared: Context) -> FailureCount:
    # With the application, not the module: two applications of one process count apart.
    state = request.app.state
    if not hasattr(state, "token_failures"):
        state.token_failures = FailureCount(
            attempts_max=shared.settings.sign_in_attempts_max,
            storage_url=shared.settings.rate_limit_url,
        )
    found: FailureCount = state.token_failures
    return found


def _fields(request: Request) -> dict[str, str]:
    raw = raw_body(request)
    media_type = request.headers.get("content-type", _FORM).partition(";")[0].strip().lower()
    try:
        pairs = _json_pairs(raw) if media_type == "application/json" else _form_pairs(raw)
    except (InvalidInput, ValueError) as error:
        raise _wrong("body", "must be form fields or a flat JSON object of texts") from error
    fields = dict(pairs)
    if len(fields) != len(pairs):
        raise _wrong("body", "names a field twice")
    if any(len(value) > 512 or "\0" in value for value in fields.values()):  # noqa: PLR2004 - a bound
        raise _wrong("body", "has a field of more than 512 characters or with a NUL")
    # RFC 6749 asks servers to ignore parameters they do not know.
    return {name: fields[name] for name in _FIELDS if fields.get(name)}


def _json_pairs(raw: bytes) -> Sequence[tuple[str, str]]:
    document = load_json(raw)
    if not isinstance(document, dict) or not all(isinstance(v, str) for v in document.values()):
        raise ValueError("not an object of texts")
    return list(document.items())


def _form_pairs(raw: bytes) -> Sequence[tuple[str, str]]:
    return parse_qsl(
        raw.decode("utf-8"), keep_blank_values=True, errors="strict", max_num_fields=20
    )


def _credentials(request: Request, fields: dict[str, str]) -> tuple[str, str]:
    header = request.headers.get("authorization")
    if header is not None:
        if "client_secret" in fields:
            raise _wrong("client_secret", "came in the header and in the body")
        return _basic(header)
    for name in ("client_id", "client_secret"):
        if name not in fields:
            raise _missing(name)
    return fields["client_id"], fields["client_secret"]


def _basic(header: str) -> tuple[str, str]:
    scheme, _, encoded = header.partition(" ")
    try:
        decoded = base64.b64decode(encoded.strip(), validate=True).decode("utf-8")
    except (binascii.Error, ValueError):
        decoded = ""
    client_id, colon, client_secret = decoded.partition(":")
    if scheme.lower() != "basic" or not colon or "\0" in decoded or len(decoded) > 1024:  # noqa: PLR2004 - a bound
        raise InvalidClient("the client id or the client secret is wrong")
    return unquote_plus(client_id), unquote_plus(client_secret)


def _missing(field: str) -> InvalidTokenRequest:
    return InvalidTokenRequest(invalid(field, "missing", "is missing").problems)


def _wrong(field: str, message: str) -> InvalidTokenRequest:
    return InvalidTokenRequest(invalid(field, "format", message).problems)


def _refusal(error: AppError, request: Request) -> Response:
    headers = dict(_NO_STORE)
    if isinstance(error, Unauthenticated):
        headers["WWW-Authenticate"] = 'Basic realm="tallystick", charset="UTF-8"'
    document: dict[str, Any] = problems.document(error, instance=request.url.path)
    return JSONResponse(
        {"error": error.code, "error_description": error.message, **document},
        status_code=problems.status_of(type(error)),
        headers=headers,
    )


def show_keys(call: Call) -> Response:
    """The public keys of access tokens and receipts, as a JSON Web Key Set (RFC 7517)."""
    return JSONResponse(
        call.context.tokens.jwks(), headers={"Cache-Control": "public, max-age=300"}
    )


def show_metadata(call: Call) -> Response:
    """Where tokens are issued and how clients sign in (RFC 8414)."""
    issuer = call.context.settings.public_url
    return JSONResponse(
        {
            "issuer": issuer,
            "token_endpoint": f"{issuer}/oauth/token",
            "jwks_uri": f"{issuer}/.well-known/jwks.json",
            "scopes_supported": list(SCOPES),
            "response_types_supported": [],
            "grant_types_supported": [GRANT],
            "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
            "service_documentation": f"{issuer}/docs",
        },
        headers={"Cache-Control": "public, max-age=300"},
    )


TOKEN = Endpoint(
    method="POST",
    path="/oauth/token",
    handler=issue_token,
    summary="Get an access token",
    tag="Access",
    reply=TokenReply,
    errors=(InvalidClient, InvalidTokenRequest, UnsupportedGrantType, InvalidScope, TooMany),
)

ENDPOINTS = (
    Endpoint(
        method="GET",
        path="/.well-known/jwks.json",
        handler=show_keys,
        summary="Read the public keys",
        tag="Access",
    ),
    Endpoint(
        method="GET",
        path="/.well-known/oauth-authorization-server",
        handler=show_metadata,
        summary="Read the authorization server's metadata",
        tag="Access",
    ),
)
