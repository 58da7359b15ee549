"""Links of publishers: built on the spot, or kept under a short code with its own QR picture.

A short link stands for a long one that we keep: nobody can change where it leads, and it can be
retired. Its code is never given to another link.
"""

import re
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlmodel import Session, col, select
from sqlmodel.sql.expression import SelectOfScalar

from kernel import audit
from kernel.errors import AppError, Conflict, NotFound, Refused, invalid
from kernel.ids import new_id
from network.access import Actor, scope_to_party
from network.models import (
    Membership,
    MembershipStatus,
    Program,
    Publisher,
    Role,
    RoutingVersion,
)
from tracker.fields import Fields
from tracker.models import Link, LinkStatus
from tracker.targets import read_destination

SUB_IDS: Final = ("s1", "s2", "s3", "s4", "s5")
PAGE_CHARS_MAX: Final = 2048
NAME_CHARS_MAX: Final = 128
_REF_CHARS_MAX: Final = 128
_VANITY_CHARS_MAX: Final = 64
_FIELDS: Final = ("program", "publisher", "url", *SUB_IDS)
_SHORT_FIELDS: Final = (*_FIELDS, "name", "code")
_VANITY: Final = re.compile(r"[a-z0-9][a-z0-9-]{1,62}[a-z0-9]")
# No 0, O, o, 1, l or I: codes are also typed in from print. 56^8 is 9.7e13.
_LETTERS: Final = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz"
_RANDOM_CHARS: Final = 8
_RESERVED_WORDS: Final = (
    "about account admin api app billing click console contact docs health help home index legal "
    "link links login logout network new oauth pay payment pixel postback privacy qr register "
    "robots root security settings sign-in sign-out signup static status support system tag terms "
    "test unsubscribe www"
)
RESERVED: Final = frozenset(_RESERVED_WORDS.split())


class LinkCodeTaken(Conflict):
    """Another short link has this code, or had it."""

    code = "link_code_taken"


class NotJoined(Refused):
    """The publisher is not an approved member of the program; its links would earn nothing."""

    code = "not_joined"


class TooManyLinks(Refused):
    """The publisher has as many short links as `publisher_links_max` allows."""

    code = "too_many_links"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A link that somebody asks for, as far as it can be judged without looking anything up."""

    program: str
    publisher: str
    url: str
    sub_ids: dict[str, str]
    name: str = ""
    code: str = ""


@dataclass(frozen=True, slots=True)
class Draft:
    """A link that may be made: whose it is, and the page it leads to (empty: the landing page)."""

    program: Program
    publisher: Publisher
    page: str
    wanted: Wanted


def parse(values: Mapping[str, Any], *, sub_id_chars_max: int, is_short: bool) -> Wanted:
    """The link asked for; InvalidInput names every wrong field. A short link has more fields."""
    fields = Fields(values)
    fields.only(*(_SHORT_FIELDS if is_short else _FIELDS))
    program = fields.required_text("program", chars_max=_REF_CHARS_MAX)
    publisher = fields.text("publisher", chars_max=_REF_CHARS_MAX) or ""
    # `read_destination` has the rules of an address; here only its size is looked at.
    url = fields.value("url")
    if url is not None and (not isinstance(url, str) or len(url) > PAGE_CHARS_MAX):
        fields.problem("url", "length", f"must be an address of at most {PAGE_CHARS_MAX} letters")
    sub_ids = {name: fields.text(name, chars_max=sub_id_chars_max) for name in SUB_IDS}
    name = (fields.text("name", chars_max=NAME_CHARS_MAX) or "") if is_short else ""
    code = (fields.text("code", chars_max=_VANITY_CHARS_MAX) or "") if is_short else ""
    if code and not _VANITY.fullmatch(code):
        fields.problem("code", "format", "must be 3 to 64 of a-z, 0-9 and inner hyphens")
    elif code in RESERVED:
        fields.problem("code", "reserved", "is kept for the network itself")
    fields.finish()
    given = {slot: value for slot, value in sub_ids.items() if value}
    return Wanted(program, publisher, url or "", given, name, code)


Places = dict[tuple[str, str], tuple[Program, Publisher]]
"""Whose links were looked up already, by the names of program and publisher."""


def draft(session: Session, actor: Actor, wanted: Wanted, *, places: Places | None = None) -> Draft:
    """Look up whose link it is and judge its page.

    A publisher makes links of its own; a manager names the publisher. NotFound for a program that
    the publisher has no place in, NotJoined where the place is not approved, InvalidInput on `url`
    for a page that is not the program's. `places` spares the rows of a batch looking it up again.
    """
    named = (wanted.program, wanted.publisher)
    place = places.get(named) if places is not None else None
    if place is None:
        place = _place(session, actor, wanted)
        if places is not None:
            places[named] = place
    program, publisher = place
    page = ""
    if wanted.url:
        found = read_destination(wanted.url, program.allowed_domains)
        if found is None:
            raise invalid("url", "foreign", "is not on one of the program's domains")
        page = found
    return Draft(program, publisher, page, wanted)


def _place(session: Session, actor: Actor, wanted: Wanted) -> tuple[Program, Publisher]:
    publisher = _publisher(session, actor, wanted.publisher)
    program = session.exec(
        select(Program)
        .where(sa.or_(col(Program.code) == wanted.program, col(Program.id) == wanted.program))
        .order_by(col(Program.number))
    ).first()
    membership = None
    if program is not None:
        membership = session.exec(
            select(Membership).where(
                Membership.program_id == program.id, Membership.publisher_id == publisher.id
            )
        ).first()
    if program is None or (membership is None and not actor.is_manager):
        raise NotFound("no such program", kind="program")
    if membership is None or membership.status != MembershipStatus.APPROVED:
        raise NotJoined("the publisher is not an approved member of the program")
    return program, publisher


def _publisher(session: Session, actor: Actor, named: str) -> Publisher:
    if not named and actor.role is not Role.PUBLISHER:
        raise invalid("publisher", "missing", "is required")
    query = select(Publisher).where(
        sa.or_(col(Publisher.code) == named, col(Publisher.id) == named)
        if named
        else col(Publisher.id) == actor.party_id
    )
    if actor.role is Role.PUBLISHER:
        query = query.where(col(Publisher.id) == actor.party_id)
    found = session.exec(query.order_by(col(Publisher.number))).first()
    if found is None:
        raise NotFound("no such publisher", kind="publisher")
    return found


def create(
    session: Session,
    drafts: Sequence[Draft],
    *,
    actor: Actor,
    publisher_links_max: int,
    now: datetime,
) -> list[Link | AppError]:
    """Make short links; for each, in their order, the new link or why it was not made.

    LinkCodeTaken for a code that is in use or was once, TooManyLinks past the publisher's limit.
    Trackers know them within their refresh time.
    """
    if not drafts:
        return []
    # The counter's lock is held to the commit: changes become visible in the order of their
    # numbers, and no other link is made while we look whether a code is free.
    counter = _lock_counter(session)
    codes = [one.wanted.code or _random_code() for one in drafts]
    taken = set(session.exec(select(Link.code).where(col(Link.code).in_(codes))))
    counts = _active_counts(session, {one.publisher.id for one in drafts})
    made: list[Link | AppError] = []
    for one, code in zip(drafts, codes, strict=True):
        if counts.get(one.publisher.id, 0) >= publisher_links_max:
            made.append(TooManyLinks(f"a publisher has at most {publisher_links_max} short links"))
        elif code in taken:
            made.append(LinkCodeTaken(f"the code {code!r} is taken", field="code"))
        else:
            taken.add(code)
            counts[one.publisher.id] = counts.get(one.publisher.id, 0) + 1
            counter.links += 1
            made.append(_add(session, one, code, change=counter.links, actor=actor, now=now))
    session.flush()
    return made


def _lock_counter(session: Session) -> RoutingVersion:
    row = session.get(RoutingVersion, 1, with_for_update=True)
    if row is None:
        row = RoutingVersion(version=0)
        session.add(row)
    return row


def _random_code() -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(_RANDOM_CHARS))


def _active_counts(session: Session, publisher_ids: Iterable[str]) -> dict[str, int]:
    query = (
        sa.select(col(Link.publisher_id), sa.func.count().label("links"))
        .where(col(Link.publisher_id).in_(publisher_ids), col(Link.status) == LinkStatus.ACTIVE)
        .group_by(col(Link.publisher_id))
    )
    return {row.publisher_id: row.links for row in session.execute(query)}


def _add(
    session: Session, made: Draft, code: str, *, change: int, actor: Actor, now: datetime
) -> Link:
    link = Link(
        id=new_id("lnk", at=now),
        code=code,
        program_id=made.program.id,
        publisher_id=made.publisher.id,
        destination=made.page,
        sub_ids=made.wanted.sub_ids,
        name=made.wanted.name,
        change=change,
        created_at=now,
    )
    session.add(link)
    audit.record(
        session,
        actor=str(actor),
        action="link.create",
        subject_id=link.id,
        now=now,
        code=code,
        program_id=made.program.id,
        publisher_id=made.publisher.id,
        destination=made.page,
    )
    return link


def retire(session: Session, link: Link, *, actor: Actor, now: datetime) -> None:
    """Let visitors of the link go to the fallback page from now on; a repeat changes nothing."""
    if link.status == LinkStatus.RETIRED:
        return
    counter = _lock_counter(session)
    counter.links += 1
    link.status = LinkStatus.RETIRED
    link.change = counter.links
    session.add(link)
    audit.record(
        session, actor=str(actor), action="link.retire", subject_id=link.id, now=now, code=link.code
    )
    session.flush()


def find(session: Session, actor: Actor, link_id: str) -> Link:
    """The link with this id, if it is the actor's; NotFound otherwise."""
    query = _scoped(actor).where(col(Link.id) == link_id)
    link = session.exec(query).first()
    if link is None:
        raise NotFound("no such link", kind="link")
    return link


def page(
    session: Session,
    actor: Actor,
    *,
    limit: int,
    position: str = "",
    newest_first: bool = False,
    program_id: str = "",
    publisher_id: str = "",
    status: str = "",
) -> list[Link]:
    """Links of the actor, or all for a manager, in the order in which they were made.

    Only those beyond the id in `position`, and of the program, publisher and status given.
    """
    query = _scoped(actor)
    for column, wanted in (
        (col(Link.program_id), program_id),
        (col(Link.publisher_id), publisher_id),
        (col(Link.status), status),
    ):
        if wanted:
            query = query.where(column == wanted)
    if position:
        beyond = col(Link.id) < position if newest_first else col(Link.id) > position
        query = query.where(beyond)
    order = col(Link.id).desc() if newest_first else col(Link.id)
    return list(session.exec(query.order_by(order).limit(limit)))


def _scoped(actor: Actor) -> SelectOfScalar[Link]:
    query = select(Link).join(Program, col(Program.id) == col(Link.program_id))
    return scope_to_party(
        query, actor, publisher=col(Link.publisher_id), advertiser=col(Program.advertiser_id)
    )


def short_url(public_url: str, code: str) -> str:
    """Where the short link with this code is."""
    return f"{public_url}/l/{code}"
