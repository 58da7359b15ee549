"""What the parties of the demo network sign in and call the API with: derived, never invented."""

from dataclasses import dataclass
from datetime import datetime

from sqlmodel import Session

from kernel.ids import derived_id
from kernel.keys import Keys
from network import access
from network.models import Program, Role

ACTOR = "demo"


@dataclass(frozen=True, slots=True)
class Login:
    """The secrets of one party; equal at every load of an installation."""

    email: str
    password: str
    client_secret: str


def of(keys: Keys, email: str) -> Login:
    """The login of a party."""
    key = keys.derive("demo-logins")
    return Login(
        email=email,
        password=derived_id("demo", key, "password", email)[:21],
        client_secret=derived_id("tss", key, "client-secret", email),
    )


def postback_token(keys: Keys, program: Program) -> str:
    """The token that reports a program's orders."""
    return derived_id("pbt", keys.derive("demo-logins"), "postback", program.code)


def add(
    session: Session,
    keys: Keys,
    *,
    email: str,
    name: str,
    role: Role,
    party_id: str | None,
    now: datetime,
) -> None:
    """A user and an API client of one party."""
    login = of(keys, email)
    access.add_user(
        session,
        email=email,
        name=name,
        password=login.password,
        role=role,
        party_id=party_id,
        actor=ACTOR,
        now=now,
    )
    access.add_client(
        session,
        name=email,
        role=role,
        party_id=party_id,
        actor=ACTOR,
        now=now,
        secret=login.client_secret,
    )
