"""Advertisers and their programs."""

import re
from collections.abc import Sequence
from datetime import datetime
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlmodel import Session, col, select

from kernel import audit
from kernel.database import take_turns
from kernel.errors import Conflict, InvalidInput, NotFound, invalid
from kernel.ids import new_id
from kernel.money import MoneyError, exponent_of
from network.access import Actor
from network.models import Advertiser, Program, ProgramStatus, RoutingVersion, TagOrders

_CODE = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,62}[a-z0-9])?")
_PARAMETER = re.compile(r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,30}[A-Za-z0-9_])?")
_URL_CHARS_MAX = 2048
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
    insert = sqlite.insert if session.get_bind().dialect.name == "sqlite" else postgresql.insert
    # One statement, because a row that is not there yet cannot be locked: two first changes at once
    # would both find none.
    statement = insert(RoutingVersion).values(id=1, version=1)
    session.execute(
        statement.on_conflict_do_update(
            index_elements=["id"], set_={"version": col(RoutingVersion.version) + 1}
        )
    )


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
    tag_orders: TagOrders = TagOrders.REFUSED,
) -> Program:
    """A new program. `allowed_domains` always holds the landing page's own host."""
    check_code(code)
    _check_currency(currency)
    _check_timezone(timezone)
    host = _landing_host(landing_url)
    # Its number is the next one only while nobody else takes one.
    take_turns(session, "program.number")
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
        tag_orders=tag_orders,
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


def one_of(session: Session, actor: Actor, code_or_id: str = "") -> Program:
    """The program meant: the one named if it is the actor's, or an advertiser's only one.

    NotFound for another party's, InvalidInput when none is named and several are meant.
    """
    if code_or_id:
        found = find(session, code_or_id)
        if not actor.is_manager and found.advertiser_id != actor.party_id:
            raise NotFound("no such program", kind="program")
        return found
    query = select(Program).where(Program.advertiser_id == actor.party_id).limit(2)
    own = [] if actor.is_manager else list(session.exec(query))
    if len(own) != 1:
        raise invalid("program", "missing", "is required: it is not clear which one is meant")
    return own[0]


def set_landing(
    session: Session, program: Program, *, landing_url: str, actor: str, now: datetime
) -> None:
    """Move the landing page; its host is allowed from now on, as those before it stay.

    Trackers know within their refresh time; a repeat changes nothing.
    """
    host = _landing_host(landing_url)
    if program.landing_url == landing_url:
        return
    audit.record(
        session,
        actor=actor,
        action="program.landing",
        subject_id=program.id,
        now=now,
        before=program.landing_url,
        after=landing_url,
    )
    program.landing_url = landing_url
    program.allowed_domains = sorted({host, *program.allowed_domains})
    session.add(program)
    touch_routing(session)


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


def set_tag_orders(
    session: Session, program: Program, *, tag_orders: TagOrders, actor: str, now: datetime
) -> None:
    """What becomes of orders that browsers report from now on; a repeat changes nothing."""
    if program.tag_orders == tag_orders:
        return
    audit.record(
        session,
        actor=actor,
        action="program.tag_orders",
        subject_id=program.id,
        now=now,
        before=program.tag_orders,
        after=tag_orders,
    )
    program.tag_orders = tag_orders
    session.add(program)
    touch_routing(session)


def set_tracking(
    session: Session,
    program: Program,
    *,
    fallback_url: str | None = None,
    click_parameter: str | None = None,
    requires_signed_links: bool | None = None,
    actor: str,
    now: datetime,
) -> None:
    """Change how links of the program are followed; None leaves a setting as it is.

    An empty `fallback_url` takes the page away. Trackers know within their refresh time; what
    changes nothing leaves no trace.
    """
    if fallback_url:
        check_page("fallback_url", fallback_url)
    if click_parameter is not None and not _PARAMETER.fullmatch(click_parameter):
        raise invalid(
            "click_parameter", "format", "must be 1 to 32 of letters, digits, _ and inner - or ."
        )
    wanted = {
        "fallback_url": fallback_url,
        "click_parameter": click_parameter,
        "requires_signed_links": requires_signed_links,
    }
    changes = {
        name: value
        for name, value in wanted.items()
        if value is not None and value != getattr(program, name)
    }
    if not changes:
        return
    audit.record(
        session,
        actor=actor,
        action="program.tracking",
        subject_id=program.id,
        now=now,
        before={name: getattr(program, name) for name in changes},
        after=changes,
    )
    for name, value in changes.items():
        setattr(program, name, value)
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
    return check_page("landing_url", landing_url)


def check_page(field: str, url: str) -> str:
    """The host of an address that visitors may be sent to; InvalidInput on `field` otherwise."""
    # urlsplit drops line breaks without a word and finds a host in almost anything.
    if len(url) > _URL_CHARS_MAX or not _URL.fullmatch(url):
        raise _not_plain(field)
    try:
        parts = urlsplit(url)
        host = (parts.hostname or "").lower()
        is_plain = bool(host) and "@" not in parts.netloc and parts.port != 0
        host.encode("idna")
    except ValueError as error:
        raise _not_plain(field) from error
    if not is_plain:
        raise _not_plain(field)
    return host


def _not_plain(field: str) -> InvalidInput:
    return invalid(field, "url", "must be a plain http or https address")
