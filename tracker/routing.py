"""What a tracker must know to redirect and to take orders in, kept in memory and on disk.

The table is immutable and replaced as a whole, so a request sees one state of the network from
beginning to end. A copy lies in a file: a node starts from it when the database is away.
"""

import os
import threading
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

import msgspec
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from kernel.database import scanning
from kernel.errors import NotFound, Unavailable
from network.models import (
    Membership,
    MembershipStatus,
    PostbackToken,
    Program,
    ProgramStatus,
    Publisher,
    RoutingVersion,
    SigningSecret,
    TagOrders,
)
from tracker import link_routes
from tracker.events import MODE_REFUSE
from tracker.link_routes import LinkTable, SavedLinks
from tracker.targets import Landing

LINKS_SUFFIX: Final = ".links"


class RoutingUnavailable(Unavailable):
    """Neither the database nor a saved copy says where links lead."""

    code = "routing_unavailable"


class ProgramRoute(msgspec.Struct, frozen=True):
    """A program as trackers need it."""

    id: str
    number: int
    code: str
    advertiser_id: str
    currency: str
    landing_url: str
    allowed_domains: tuple[str, ...]
    click_parameter: str
    is_active: bool
    order_age_days_max: int
    tag_orders: str = TagOrders.REFUSED
    fallback_url: str = ""
    requires_signed_links: bool = False
    duplicate_modes: dict[str, str] = msgspec.field(default_factory=dict)
    status_words: dict[str, str] = msgspec.field(default_factory=dict)
    other_currencies: tuple[str, ...] = ()

    def duplicate_mode(self, event: str) -> str:
        """What becomes of another report of an order with this event."""
        return self.duplicate_modes.get(event, MODE_REFUSE)


class PublisherRoute(msgspec.Struct, frozen=True):
    """A publisher as trackers need it."""

    id: str
    number: int
    code: str
    fallback_url: str = ""


class Snapshot(msgspec.Struct, frozen=True):
    """The plain content of a table, as it is read from the database and saved to disk.

    `stamp` differs whenever something may have changed. `members` are the approved pairs of
    program and publisher numbers; `tokens` maps hashes of postback tokens to program codes.
    """

    version: int
    stamp: tuple[int, ...]
    programs: tuple[ProgramRoute, ...]
    publishers: tuple[PublisherRoute, ...]
    members: tuple[tuple[int, int], ...]
    tokens: dict[str, str]
    # Ids of the signing secrets in force, by program code; absent in copies of older versions.
    signing_ids: dict[str, list[str]] = msgspec.field(default_factory=dict)


class RoutingTable:
    """A snapshot with the indexes that requests need. Never changed after it is made.

    `links` alone is handed on from table to table and follows the database in place.
    """

    def __init__(self, snapshot: Snapshot, links: LinkTable) -> None:
        self.snapshot = snapshot
        self.version = snapshot.version
        self.links = links
        self.programs = {program.code: program for program in snapshot.programs}
        self.publishers = {publisher.code: publisher for publisher in snapshot.publishers}
        self.programs_by_number = {program.number: program for program in snapshot.programs}
        self.publishers_by_number = {one.number: one for one in snapshot.publishers}
        self.landings = {
            program.code: Landing.of(program.landing_url, program.click_parameter)
            for program in snapshot.programs
        }
        self.domains = frozenset(
            domain for program in snapshot.programs for domain in program.allowed_domains
        )
        self._programs_by_id = {program.id: program for program in snapshot.programs}
        self._publishers_by_id = {publisher.id: publisher for publisher in snapshot.publishers}
        self._members = frozenset(snapshot.members)

    def is_member(self, program: ProgramRoute, publisher: PublisherRoute) -> bool:
        """Whether the publisher's place in the program is approved."""
        return (program.number, publisher.number) in self._members

    def program_of_token(self, hashed: str) -> ProgramRoute | None:
        """The program that a postback token, given as its hash, reports sales of."""
        code = self.snapshot.tokens.get(hashed)
        return self.programs.get(code) if code is not None else None

    def signing_ids_of(self, program: ProgramRoute) -> list[str]:
        """The signing secrets of a program that are in force."""
        return self.snapshot.signing_ids.get(program.code, [])

    def programs_of(self, advertiser_id: str) -> Iterator[ProgramRoute]:
        """The programs of an advertiser."""
        return (one for one in self.snapshot.programs if one.advertiser_id == advertiser_id)

    def find_program(self, code_or_id: str) -> ProgramRoute:
        """The program with this code or id; NotFound when there is none."""
        found = self.programs.get(code_or_id) or self._programs_by_id.get(code_or_id)
        if found is None:
            raise NotFound("no such program", kind="program")
        return found

    def find_publisher(self, code_or_id: str) -> PublisherRoute:
        """The publisher with this code or id; NotFound when there is none."""
        found = self.publishers.get(code_or_id) or self._publishers_by_id.get(code_or_id)
        if found is None:
            raise NotFound("no such publisher", kind="publisher")
        return found


class Routing:
    """Holds the table in force; `refresh` replaces it, and keeps the copies on disk."""

    def __init__(self, path: Path, table: RoutingTable) -> None:
        self.table = table
        self._path = path
        self._saved_links = SavedLinks(path.with_suffix(LINKS_SUFFIX))
        self._saved_to = table.links.number
        self._refreshing = threading.Lock()

    def refresh(self, engine: Engine) -> bool:
        """Take in what the database says has changed; whether something has.

        Errors of the database come through, and the table stays. An OSError says that the copies
        on disk are old, and the table is new. Safe to call from any thread.
        """
        with self._refreshing:
            with scanning(engine) as session:
                is_newer = read_stamp(session) != self.table.snapshot.stamp
                snapshot = read_snapshot(session) if is_newer else None
                if snapshot is not None:
                    self.table = RoutingTable(snapshot, self.table.links)
                has_new_links = self._follow_links(session)
            if snapshot is not None:
                save(self._path, snapshot)
            return is_newer or has_new_links

    def _follow_links(self, session: Session) -> bool:
        number = link_routes.number_of(session)
        links = self.table.links
        if number == links.number == self._saved_to:
            return False
        if number < links.number:
            # Another database, or one from a backup: what we know of links is not its.
            links = read_links(session, self._saved_links)
            self.table = RoutingTable(self.table.snapshot, links)
        else:
            changes = list(link_routes.read_changes(session, after=self._saved_to))
            for chunk in changes:
                links.apply(chunk)
            for chunk in changes:
                self._saved_links.add(chunk)
        self._saved_to = links.number
        return True


def open_routing(path: Path, engine: Engine) -> Routing:
    """The routing of a node: from the database, else from the copies in and beside `path`.

    RoutingUnavailable when neither is there: to answer 404 to good links would be worse than not
    to start.
    """
    saved_links = SavedLinks(path.with_suffix(LINKS_SUFFIX))
    try:
        with scanning(engine) as session:
            snapshot = read_snapshot(session)
            links = read_links(session, saved_links)
    except sa.exc.SQLAlchemyError as error:
        saved = load(path)
        if saved is None:
            raise RoutingUnavailable(
                "the database cannot be reached and no routing table was saved here"
            ) from error
        return Routing(path, RoutingTable(saved, saved_links.load()))
    save(path, snapshot)
    return Routing(path, RoutingTable(snapshot, links))


def read_links(session: Session, saved: SavedLinks) -> LinkTable:
    """All short links from the database; the copy on disk is theirs afterwards."""
    links = LinkTable()
    for chunk in saved.replace(link_routes.read_changes(session, after=0)):
        links.apply(chunk)
    return links


def read_stamp(session: Session) -> tuple[int, ...]:
    """A few numbers that differ after every change: the version, and tokens made and retired."""
    version = session.exec(select(RoutingVersion.version)).first() or 0
    tokens, retired = session.execute(
        sa.select(sa.func.count(), sa.func.count(col(PostbackToken.retired_at))).select_from(
            PostbackToken
        )
    ).one()
    return (version, tokens, retired)


def read_snapshot(session: Session) -> Snapshot:
    """Everything trackers need, from the database."""
    # The stamp comes first: what changes while the rest is read makes the table newer than its
    # stamp, and the next refresh reads it again.
    stamp = read_stamp(session)
    programs = list(session.exec(select(Program).order_by(col(Program.number))))
    codes = {program.id: program.code for program in programs}
    return Snapshot(
        version=stamp[0],
        stamp=stamp,
        programs=tuple(_route(program) for program in programs),
        publishers=tuple(
            PublisherRoute(
                id=row.id, number=row.number, code=row.code, fallback_url=row.fallback_url
            )
            for row in session.exec(select(Publisher).order_by(col(Publisher.number)))
        ),
        members=tuple(
            (program, publisher)
            for program, publisher in session.exec(
                select(Program.number, Publisher.number)
                .select_from(Membership)
                .join(Program, col(Program.id) == col(Membership.program_id))
                .join(Publisher, col(Publisher.id) == col(Membership.publisher_id))
                .where(Membership.status == MembershipStatus.APPROVED)
            )
        ),
        tokens={
            token_hash: codes[program_id]
            for token_hash, program_id in session.exec(
                select(PostbackToken.token_hash, PostbackToken.program_id).where(
                    col(PostbackToken.retired_at).is_(None)
                )
            )
            if program_id in codes
        },
        signing_ids=_signing_ids(session, codes),
    )


def _signing_ids(session: Session, codes: Mapping[str, str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    query = select(SigningSecret.program_id, SigningSecret.id)
    query = query.where(col(SigningSecret.retired_at).is_(None)).order_by(col(SigningSecret.id))
    for program_id, secret_id in session.exec(query):
        if program_id in codes:
            found.setdefault(codes[program_id], []).append(secret_id)
    return found


def _route(program: Program) -> ProgramRoute:
    return ProgramRoute(
        id=program.id,
        number=program.number,
        code=program.code,
        advertiser_id=program.advertiser_id,
        currency=program.currency,
        landing_url=program.landing_url,
        allowed_domains=tuple(program.allowed_domains),
        click_parameter=program.click_parameter,
        is_active=program.status == ProgramStatus.ACTIVE,
        order_age_days_max=program.order_age_days_max,
        tag_orders=program.tag_orders,
        fallback_url=program.fallback_url,
        requires_signed_links=program.requires_signed_links,
        duplicate_modes=dict(program.duplicate_modes),
        status_words=dict(program.status_words),
        other_currencies=tuple(program.other_currencies),
    )


def save(path: Path, snapshot: Snapshot) -> None:
    """Put the copy in place as a whole, readable by its owner only."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with suppress(FileNotFoundError):
        temporary.unlink()
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(msgspec.json.encode(snapshot))
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def load(path: Path) -> Snapshot | None:
    """The saved copy, or None when there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=Snapshot)
    except (OSError, msgspec.DecodeError):
        return None
