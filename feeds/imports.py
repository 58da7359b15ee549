"""Looks at feed sources, and what each look changed in the catalogue.

A file is judged as a whole before anything is written. Then the differences go in by short
transactions, removals last. Each transaction first makes sure that no later import of the source
has begun; so an import that was killed half-way, or overtaken, leaves a catalogue that the next one
puts right, and two at once never mix.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from feeds.catalog_writes import remove, stored, take_turn, write
from feeds.fetch import feed_policy, fetch_source
from feeds.formats import FeedError, FeedLimits
from feeds.models import FeedImport, FeedSource, ImportStatus, Rejection
from feeds.staging import Staging, rejection_columns
from kernel import audit, log
from kernel.database import reading, unit_of_work
from kernel.errors import NotFound, Refused, invalid
from kernel.ids import new_id
from kernel.outbound import FetchResult, OutboundPolicy, OutboundRefused, check_url
from kernel.settings import Settings
from network.models import Program

NAME_CHARS_MAX = 100
SOURCES_MAX = 100  # of one program
ROWS_A_TRANSACTION = 500
IMPORTS_DETAILED_MAX = 10  # of one source keep their rejections

_UNFINISHED = "unfinished: the import was interrupted or is still at work"
_OVERTAKEN = "overtaken: a later import of this source has begun"
_CUT = "maybe_cut: the server did not say where the file ends; items missing from it were kept"
_LEFT_BEHIND_AFTER = timedelta(days=1)
_log = log.get(__name__)

Opener = Callable[[], AbstractContextManager[Session]]


class TooManySources(Refused):
    """The program has as many feed sources as it may have."""

    code = "too_many_sources"


class NothingToPull(Refused):
    """The source has no URL: its files are uploaded."""

    code = "source_without_url"


class _Overtaken(Exception):
    """A later import of the same source has begun."""


@dataclass(slots=True)
class _Counts:
    added: int = 0
    changed: int = 0
    removed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class _Terms:
    """What a file is judged by, and what is to be remembered of where it came from."""

    program_id: str
    currency: str
    allowed_domains: frozenset[str]
    limits: FeedLimits
    validators: tuple[str, str] = ("", "")
    maybe_cut: bool = False


def add_source(
    session: Session, *, program_id: str, name: str, url: str, actor: str, now: datetime
) -> FeedSource:
    """A source that is pulled from `url`, the first time at once; without one, uploads only.

    Raises NotFound for the program, InvalidInput on `name` or `url`, and TooManySources.
    """
    if session.get(Program, program_id) is None:
        raise NotFound("no such program", kind="program")
    name = name.strip()
    if not 1 <= len(name) <= NAME_CHARS_MAX:
        raise invalid("name", "length", f"must have 1 to {NAME_CHARS_MAX} characters")
    url = url.strip()
    if url:
        _check_url(url)
    count = session.exec(
        select(sa.func.count()).select_from(FeedSource).where(FeedSource.program_id == program_id)
    ).one()
    if count >= SOURCES_MAX:
        raise TooManySources(f"a program has at most {SOURCES_MAX} feed sources", limit=SOURCES_MAX)
    source = FeedSource(
        id=new_id("src", at=now),
        program_id=program_id,
        name=name,
        url=url,
        next_pull_at=now if url else None,
        created_at=now,
    )
    session.add(source)
    audit.record(
        session,
        actor=actor,
        action="feed_source.add",
        subject_id=source.id,
        now=now,
        program_id=program_id,
        # The whole URL may hold a key of the shop.
        host=_host(url),
    )
    session.flush()
    return source


def import_file(
    session: Session,
    source: FeedSource,
    path: Path,
    *,
    currency: str,
    allowed_domains: frozenset[str],
    limits: FeedLimits,
    now: datetime,
) -> FeedImport:
    """Take a file into the catalogue within the caller's transaction, which writes all the while.

    For small files; `run` does the same without keeping other writers waiting. A file that cannot
    be taken is a FeedImport that failed, and the catalogue stays as it was. A repeat is unchanged.
    """
    terms = _Terms(
        program_id=source.program_id,
        currency=currency,
        allowed_domains=allowed_domains,
        limits=limits,
    )

    def here() -> AbstractContextManager[Session]:
        return nullcontext(session)

    return _import(here, here, source.id, path, terms, now=now)


def run(
    engine: Engine, source_id: str, path: Path, *, settings: Settings, now: datetime
) -> FeedImport:
    """Take an uploaded file into the catalogue in short transactions of its own.

    Ends like `import_file`. A run that is killed can be repeated. Raises NotFound.
    """
    with reading(engine) as session:
        _, program = _source(session, source_id)
    # What was uploaded is no version of the URL: its next pull starts without validators.
    terms = _terms(program, settings)
    return _import(
        partial(reading, engine), partial(unit_of_work, engine), source_id, path, terms, now=now
    )


def pull(engine: Engine, source_id: str, *, settings: Settings, now: datetime) -> FeedImport:
    """Fetch the source's file if it changed, and take it in as `run` does.

    Whatever is wrong with the source or its file is a FeedImport that failed. Raises NotFound, and
    NothingToPull for a source without URL.
    """
    with reading(engine) as session:
        source, program = _source(session, source_id)
    if not source.url:
        raise NothingToPull("this source has no URL; its files are uploaded")
    try:
        fetched = _fetch(source, settings, now=now)
    except OutboundRefused as refusal:
        _log.warning(
            "feed_not_fetched", source_id=source_id, code=refusal.code, reason=refusal.reason
        )
        detail = f"{refusal.code}: {refusal}"
        return _record_look(engine, source_id, ImportStatus.FAILED, detail, now=now)
    if fetched.path is None:
        return _record_look(engine, source_id, ImportStatus.UNCHANGED, "not_modified", now=now)
    terms = _terms(
        program,
        settings,
        validators=(fetched.etag, fetched.last_modified),
        maybe_cut=not fetched.length_known,
    )
    reader, writer = partial(reading, engine), partial(unit_of_work, engine)
    try:
        return _import(reader, writer, source_id, fetched.path, terms, now=now)
    finally:
        fetched.path.unlink(missing_ok=True)


def limits_of(settings: Settings) -> FeedLimits:
    """How large a feed this installation takes."""
    return FeedLimits(decoded_bytes_max=settings.feed_bytes_max, rows_max=settings.feed_rows_max)


def _check_url(url: str) -> None:
    try:
        check_url(url, policy=OutboundPolicy(ports=frozenset({_port(url)})))
    except OutboundRefused as refusal:
        raise invalid("url", refusal.code, str(refusal)) from refusal


def _host(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


def _port(url: str) -> int:
    try:
        return urlsplit(url).port or (443 if url.startswith("https:") else 80)
    except ValueError:
        return 80


def _source(session: Session, source_id: str) -> tuple[FeedSource, Program]:
    source = session.get(FeedSource, source_id)
    if source is None:
        raise NotFound("no such feed source", kind="feed_source")
    return source, session.get_one(Program, source.program_id)


def _terms(
    program: Program,
    settings: Settings,
    *,
    validators: tuple[str, str] = ("", ""),
    maybe_cut: bool = False,
) -> _Terms:
    return _Terms(
        program_id=program.id,
        currency=program.currency,
        allowed_domains=frozenset(program.allowed_domains),
        limits=limits_of(settings),
        validators=validators,
        maybe_cut=maybe_cut,
    )


def _fetch(source: FeedSource, settings: Settings, *, now: datetime) -> FetchResult:
    folder = settings.data_dir / "feeds"
    folder.mkdir(parents=True, exist_ok=True)
    for left in folder.glob("outbound-*"):
        # Only a pull that was killed leaves its download behind.
        with suppress(FileNotFoundError):
            if left.stat().st_mtime < (now - _LEFT_BEHIND_AFTER).timestamp():
                left.unlink()
    return fetch_source(
        source.url,
        etag=source.etag,
        last_modified=source.last_modified,
        policy=_policy(source.url, settings),
        directory=folder,
    )


def _policy(url: str, settings: Settings) -> OutboundPolicy:
    policy = feed_policy(
        limits_of(settings),
        total_seconds=settings.feed_seconds_max,
        allow_private_hosts=settings.private_feed_hosts,
    )
    # A host that the operator named may answer on any port; strangers on the usual ones only.
    if _host(url) in settings.private_feed_hosts:
        return replace(policy, ports=policy.ports | {_port(url)})
    return policy


def _import(
    reader: Opener, writer: Opener, source_id: str, path: Path, terms: _Terms, *, now: datetime
) -> FeedImport:
    with writer() as session:
        import_id = _begin(session, source_id, now=now)
    with Staging() as staging:
        with reader() as session:
            staging.load(stored(session, source_id))
        failure = _judge(staging, path, terms, now=now)
        counts = _Counts()
        try:
            if not failure:
                _carry_out(writer, import_id, staging, terms, counts, now=now)
            with writer() as session:
                return _finish(session, import_id, staging, terms, counts=counts, failure=failure)
        except _Overtaken:
            with writer() as session:
                return session.get_one(FeedImport, import_id)


def _judge(staging: Staging, path: Path, terms: _Terms, *, now: datetime) -> str:
    """Read the file; why the catalogue must stay as it is, or nothing."""
    try:
        staging.read(
            path,
            currency=terms.currency,
            allowed_domains=terms.allowed_domains,
            limits=terms.limits,
            today=now.date(),
        )
    except FeedError as error:
        return f"{error.code}: {error}"
    if staging.stored_live and not staging.taken:
        # A shop whose whole catalogue breaks at once has broken its feed, not closed.
        return f"no_items: none of {staging.rows} rows can be taken"
    return ""


def _carry_out(
    writer: Opener,
    import_id: str,
    staging: Staging,
    terms: _Terms,
    counts: _Counts,
    *,
    now: datetime,
) -> None:
    for chunk in staging.changes(ROWS_A_TRANSACTION):
        with writer() as session:
            source_id = _resume_writing(session, import_id)
            write(session, source_id, terms.program_id, chunk, now=now)
        added = sum(not change.product_id or change.is_back for change in chunk)
        counts.added += added
        counts.changed += len(chunk) - added
    if _keeps_missing(staging, terms):
        return
    for gone in staging.gone(ROWS_A_TRANSACTION):
        with writer() as session:
            _resume_writing(session, import_id)
            remove(session, gone, now=now)
        counts.removed += len(gone)


def _keeps_missing(staging: Staging, terms: _Terms) -> bool:
    # A table cut between two rows looks complete; XML ends with the tag it began with.
    return terms.maybe_cut and staging.format != "google_rss"


def _begin(session: Session, source_id: str, *, now: datetime) -> str:
    take_turn(session)
    unfinished = (
        sa.update(FeedImport)
        .where(col(FeedImport.source_id) == source_id, col(FeedImport.detail) == _UNFINISHED)
        .values(detail=_OVERTAKEN)
    )
    session.execute(unfinished)
    return _add_look(session, source_id, ImportStatus.FAILED, _UNFINISHED, now=now).id


def _resume(session: Session, import_id: str) -> FeedImport:
    """The row of this import, with the turn to write; _Overtaken if a later one has begun."""
    take_turn(session)
    look = session.get_one(FeedImport, import_id, populate_existing=True)
    if look.detail != _UNFINISHED:
        raise _Overtaken
    return look


def _resume_writing(session: Session, import_id: str) -> str:
    """The source's id. From the first row on, the catalogue is no version that the URL had.

    Without the validators, the pull after an import that was killed is a full one.
    """
    source = session.get_one(FeedSource, _resume(session, import_id).source_id)
    source.etag = source.last_modified = ""
    return source.id


def _finish(
    session: Session,
    import_id: str,
    staging: Staging,
    terms: _Terms,
    *,
    counts: _Counts,
    failure: str,
) -> FeedImport:
    look = _resume(session, import_id)
    look.format, look.rows = staging.format, staging.rows
    look.unchanged, look.rejected = staging.unchanged, staging.rejected
    look.added, look.changed, look.removed = counts.added, counts.changed, counts.removed
    look.detail = failure
    if not failure:
        moved = counts.added + counts.changed + counts.removed
        look.status = ImportStatus.IMPORTED if moved else ImportStatus.UNCHANGED
        look.detail = _CUT if _keeps_missing(staging, terms) else ""
        source = session.get_one(FeedSource, look.source_id)
        source.etag, source.last_modified = terms.validators
    session.flush()
    if staging.problems:
        rejections = [
            {"import_id": import_id} | rejection_columns(item_id, problem)
            for item_id, problem in staging.problems
        ]
        session.execute(sa.insert(Rejection), rejections)
        _forget_old_rejections(session, look.source_id)
    return look


def _forget_old_rejections(session: Session, source_id: str) -> None:
    old = (
        sa.select(col(FeedImport.id))
        .where(col(FeedImport.source_id) == source_id)
        .where(sa.exists().where(col(Rejection.import_id) == col(FeedImport.id)))
        .order_by(col(FeedImport.at).desc(), col(FeedImport.id).desc())
        .offset(IMPORTS_DETAILED_MAX)
    )
    forgotten = list(session.execute(old).scalars())
    if forgotten:
        session.execute(sa.delete(Rejection).where(col(Rejection.import_id).in_(forgotten)))


def _record_look(
    engine: Engine, source_id: str, status: ImportStatus, detail: str, *, now: datetime
) -> FeedImport:
    with unit_of_work(engine) as session:
        return _add_look(session, source_id, status, detail, now=now)


def _add_look(
    session: Session, source_id: str, status: ImportStatus, detail: str, *, now: datetime
) -> FeedImport:
    look = FeedImport(
        id=new_id("imp", at=now), source_id=source_id, status=status, detail=detail, at=now
    )
    session.add(look)
    session.flush()
    return look
