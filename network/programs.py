"""Advertisers and their programs."""

import re
from collections.abc import Sequence
from datetime import datetime
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import sqlalchemy as sa
from sqlmodel import Session, col, select

from kernel import audit
from kernel.errors import Conflict, InvalidInput, NotFound, invalid
from kernel.ids import new_id
from kernel.money import MoneyError, exponent_of
from network.models import Advertiser, Program, ProgramStatus, RoutingVersion

_CODE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
_URL = re.compile(r"https?://[^\s\\\x00-\x20\x7f-\x9f]+", re.IGNORECASE)


class CodeTaken(Conflict):
    """Another program or publisher has this code."""

    code = "code_taken"


def check_code(code: str) -> str:
    """The code, when it may stand in a link: lower case letters, digits, inner hyphens, 1 to 64."""
    if not _CODE.fullmatch(code):
        raise invalid("code", "format", "must be 1 to 64 of a-z, 0-9 and inner hyphens")
    return code


def touch_routing(session: Session) -> None:
    """Tell every tracker, in this transaction, that its routing table is out of date."""
    row = session.get(RoutingVersion, 1, with_for_update=True)
    if row is None:
        session.add(RoutingVersion(version=1))
    else:
        row.version += 1


def add_advertiser(session: Session, *, name: str, now: datetime) -> Advertiser:
    """A new advertiser."""
    advertiser = Advertiser(id=new_id("adv", at=now), name=name, created_at=now)
    session.add(advertiser)
    session.flush()
    return advertiser


def add(
    session: Session,
    *,
    advertiser_id: str,
    code: str,
    name: str,
    currency: str,
    landing_url: str,
    now: datetime,
    timezone: str = "UTC",
    allowed_domains: Sequence[str] = (),
    hold_days: int = 30,
    attribution_window_hours: int = 30 * 24,
    order_age_days_max: int = 30,
) -> Program:
    """A new program. `allowed_domains` always holds the landing page's own host."""
    check_code(code)
    _check_currency(currency)
    _check_timezone(timezone)
    host = _landing_host(landing_url)
    if session.exec(select(Program.id).where(Program.code == code)).first() is not None:
        raise CodeTaken(f"a program with the code {code!r} exists", field="code")
    number = session.exec(select(sa.func.coalesce(sa.func.max(col(Program.number)), 0))).one()
    program = Program(
        id=new_id("prg", at=now),
        number=number + 1,
        advertiser_id=advertiser_id,
        code=code,
        name=name,
        currency=currency,
        timezone=timezone,
        landing_url=landing_url,
        allowed_domains=sorted({host, *(domain.lower() for domain in allowed_domains)}),
        hold_days=hold_days,
        attribution_window_hours=attribution_window_hours,
        order_age_days_max=order_age_days_max,
        created_at=now,
    )
    session.add(program)
    touch_routing(session)
    session.flush()
    return program


def get(session: Session, program_id: str) -> Program:
    """The program; NotFound when there is none."""
    program = session.get(Program, program_id)
    if program is None:
        raise NotFound("no such program", kind="program")
    return program


def find(session: Session, code_or_id: str) -> Program:
    """The program with this code or id; NotFound when there is none."""
    program = session.exec(
        select(Program).where(
            sa.or_(col(Program.code) == code_or_id, col(Program.id) == code_or_id)
        )
    ).one_or_none()
    if program is None:
        raise NotFound("no such program", kind="program")
    return program


def set_status(
    session: Session, program: Program, *, status: ProgramStatus, actor: str, now: datetime
) -> None:
    """Pause or resume. Trackers know within their refresh time; a repeat changes nothing."""
    if program.status == status:
        return
    audit.record(
        session,
        actor=actor,
        action="program.status",
        subject_id=program.id,
        now=now,
        before=program.status,
        after=status,
    )
    program.status = status
    session.add(program)
    touch_routing(session)


def _check_currency(currency: str) -> None:
    try:
        exponent_of(currency)
    except MoneyError as error:
        raise invalid("currency", "iso_4217", "is not an ISO 4217 currency") from error


def _check_timezone(timezone: str) -> None:
    try:
        ZoneInfo(timezone)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise invalid("timezone", "iana", "is not an IANA time zone") from error


def _landing_host(landing_url: str) -> str:
    # urlsplit drops line breaks without a word and finds a host in almost anything.
    if not _URL.fullmatch(landing_url):
        raise _not_plain()
    try:
        parts = urlsplit(landing_url)
        is_plain = bool(parts.hostname) and "@" not in parts.netloc and parts.port != 0
    except ValueError as error:
        raise _not_plain() from error
    if not is_plain:
        raise _not_plain()
    return (parts.hostname or "").lower()


def _not_plain() -> InvalidInput:
    return invalid("landing_url", "url", "must be a plain http or https address")
