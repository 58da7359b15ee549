"""Who is asking, and which rows that lets them see. The only place that scopes queries to a party.

Passwords and client secrets are kept as argon2id hashes; postback tokens and session ids, which
are long and random, as SHA-256.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeVar

import sqlalchemy as sa
from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from sqlmodel import Session, col, select
from starlette.requests import Request

from kernel import audit, http
from kernel.database import reading
from kernel.errors import Conflict, Forbidden, Unauthenticated, invalid
from kernel.ids import new_id
from kernel.tokens import TokenError
from network.models import (
    ApiClient,
    ConsoleSession,
    PostbackToken,
    Program,
    Role,
    User,
)

_PASSWORD_CHARS_MIN = 12
_SECRET_CHARS_MAX = 512
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1)
# Verified when the account does not exist, so that an unknown name costs the time of a known one.
_NOBODY = _hasher.hash(secrets.token_urlsafe(16))
_Query = TypeVar("_Query", bound=sa.Select[Any])


class EmailTaken(Conflict):
    """Another user has this e-mail address."""

    code = "email_taken"


@dataclass(frozen=True, slots=True)
class Actor:
    """A user or API client at work. `party_id` is empty for managers only."""

    id: str
    role: Role
    party_id: str
    name: str

    def __str__(self) -> str:
        return self.id

    @property
    def is_manager(self) -> bool:
        """Whether the actor runs the network."""
        return self.role is Role.MANAGER


def add_user(
    session: Session,
    *,
    email: str,
    name: str,
    password: str,
    role: Role,
    party_id: str | None,
    actor: str,
    now: datetime,
) -> User:
    """A person who may sign in."""
    address = email.strip().lower()
    if "@" not in address:
        raise invalid("email", "email", "must be an e-mail address")
    if len(password) < _PASSWORD_CHARS_MIN:
        raise invalid("password", "length", f"must have at least {_PASSWORD_CHARS_MIN} characters")
    _check_party(role, party_id)
    if session.exec(select(User.id).where(User.email == address)).first() is not None:
        raise EmailTaken("a user with this e-mail address exists", field="email")
    user = User(
        id=new_id("usr", at=now),
        email=address,
        name=name,
        password_hash=_hasher.hash(password),
        role=role,
        party_id=party_id,
        created_at=now,
    )
    session.add(user)
    audit.record(session, actor=actor, action="user.add", subject_id=user.id, now=now, role=role)
    session.flush()
    return user


def add_client(
    session: Session,
    *,
    name: str,
    role: Role,
    party_id: str | None,
    actor: str,
    now: datetime,
    secret: str = "",
) -> tuple[ApiClient, str]:
    """An API client and its secret, which is shown this once; a random one unless given."""
    _check_party(role, party_id)
    secret = secret or f"tss_{secrets.token_urlsafe(32)}"
    client = ApiClient(
        id=new_id("cli", at=now),
        name=name,
        secret_hash=_hasher.hash(secret),
        role=role,
        party_id=party_id,
        created_at=now,
    )
    session.add(client)
    audit.record(session, actor=actor, action="key.create", subject_id=client.id, now=now)
    session.flush()
    return client, secret


def add_postback_token(
    session: Session, *, program: Program, actor: str, now: datetime, token: str = ""
) -> str:
    """A token that reports sales of this program, shown this once; random unless given."""
    token = token or f"pbt_{secrets.token_urlsafe(24)}"
    row = PostbackToken(
        id=new_id("pbk", at=now),
        program_id=program.id,
        token_hash=token_hash(token),
        created_at=now,
    )
    session.add(row)
    audit.record(session, actor=actor, action="postback_token.create", subject_id=row.id, now=now)
    session.flush()
    return token


def token_hash(token: str) -> str:
    """What is stored of a long random token."""
    return hashlib.sha256(token.encode()).hexdigest()


def check_password(session: Session, *, email: str, password: str) -> User:
    """The user with these credentials; the same Unauthenticated for every way of being wrong."""
    user = session.exec(select(User).where(User.email == email.strip().lower())).one_or_none()
    stored = user.password_hash if user is not None else _NOBODY
    if not _matches(stored, password) or user is None or user.disabled_at is not None:
        raise Unauthenticated("the e-mail address or the password is wrong")
    return user


def check_client(session: Session, *, client_id: str, client_secret: str) -> ApiClient:
    """The API client with these credentials; the same Unauthenticated for every wrong way."""
    client = session.get(ApiClient, client_id)
    stored = client.secret_hash if client is not None else _NOBODY
    if not _matches(stored, client_secret) or client is None or client.disabled_at is not None:
        raise Unauthenticated("the client id or the client secret is wrong")
    return client


def open_session(session: Session, user: User, *, hours: int, now: datetime) -> tuple[str, str]:
    """A console session: (cookie value, CSRF token). A new one at every sign-in."""
    cookie, csrf_token = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    session.execute(sa.delete(ConsoleSession).where(col(ConsoleSession.expires_at) < now))
    session.add(
        ConsoleSession(
            id_hash=token_hash(cookie),
            user_id=user.id,
            csrf_token=csrf_token,
            expires_at=now + timedelta(hours=hours),
            created_at=now,
        )
    )
    audit.record(session, actor=user.id, action="sign_in", subject_id=user.id, now=now)
    return cookie, csrf_token


def read_session(session: Session, *, cookie: str, now: datetime) -> tuple[User, str] | None:
    """(user, CSRF token) of a live session, or None."""
    row = session.get(ConsoleSession, token_hash(cookie))
    if row is None or row.expires_at <= now:
        return None
    user = session.get(User, row.user_id)
    if user is None or user.disabled_at is not None:
        return None
    return user, row.csrf_token


def close_session(session: Session, *, cookie: str) -> None:
    """End a session; a repeat changes nothing."""
    session.execute(
        sa.delete(ConsoleSession).where(col(ConsoleSession.id_hash) == token_hash(cookie))
    )


def actor_of_user(user: User) -> Actor:
    """The actor a signed-in user is."""
    return Actor(id=user.id, role=Role(user.role), party_id=user.party_id or "", name=user.name)


def claims_of_client(client: ApiClient) -> dict[str, str]:
    """What a client's token says beside its subject."""
    return {
        "client_id": client.id,
        "scope": client.role,
        "party": client.party_id or "",
        "name": client.name,
    }


def client_ids_by_name(session: Session) -> dict[str, str]:
    """Ids of the API clients by their names; of equal names, the newest."""
    query = select(ApiClient.name, ApiClient.id).order_by(col(ApiClient.created_at))
    return dict(session.exec(query).all())


def require(*roles: Role) -> http.Guard:
    """A guard for endpoints: a valid bearer token of one of these roles, of a live client."""

    def guard(request: Request) -> Actor:
        actor = authenticate(request)
        if actor.role not in roles:
            raise Forbidden("this needs the scope " + " or ".join(roles), scopes=list(roles))
        return actor

    return guard


def authenticate(request: Request) -> Actor:
    """The actor of a bearer token.

    The token is enough while the database is away; when it answers, a client that was disabled
    is refused at once.
    """
    scheme, _, token = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Unauthenticated("a bearer token is needed")
    shared = http.context(request)
    try:
        claims = shared.tokens.read_access(token.strip())
    except TokenError as error:
        raise Unauthenticated("the token is not valid") from error
    if _is_disabled(request, claims["sub"]):
        raise Unauthenticated("the token is not valid")
    return Actor(
        id=claims["sub"],
        role=Role(claims["scope"]),
        party_id=claims["party"],
        name=claims["name"],
    )


def _is_disabled(request: Request, client_id: str) -> bool:
    try:
        with reading(http.context(request).engine) as session:
            client = session.get(ApiClient, client_id)
    except sa.exc.SQLAlchemyError:
        return False
    return client is None or client.disabled_at is not None


def scope_to_party(
    query: _Query,
    actor: Actor,
    *,
    publisher: sa.ColumnElement[Any] | Any,
    advertiser: sa.ColumnElement[Any] | Any,
) -> _Query:
    """The query, narrowed to the rows this actor may see: a manager's all, a party's own."""
    if actor.role is Role.MANAGER:
        return query
    column = publisher if actor.role is Role.PUBLISHER else advertiser
    return query.where(column == actor.party_id)


def _check_party(role: Role, party_id: str | None) -> None:
    if (role is Role.MANAGER) == (party_id is not None):
        raise invalid("party_id", "role", "is for advertisers and publishers, and they need one")


def _matches(stored: str, secret: str) -> bool:
    try:
        return len(secret) <= _SECRET_CHARS_MAX and _hasher.verify(stored, secret)
    except (VerificationError, InvalidHashError):
        return False
