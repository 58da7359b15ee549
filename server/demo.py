"""Loads the demo network once: parties, plans, catalogues, seventy-five days of history, logins.

History takes the road of real events: a journal, the shipper, the pipeline, the sweep, payout
runs; only the clock is led through the past. Everything comes from one seed, so a load that was
interrupted is finished by the next one.
"""

import json
import os
import shutil
from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from commissions import payouts, plans
from feeds import imports
from feeds.models import FeedSource
from fraud import flags
from kernel import clock, log, outbox
from kernel.database import connect, reading, unit_of_work
from kernel.keys import Keys
from kernel.keys import load as load_keys
from kernel.settings import Settings
from network import access, programs, publishers
from network.models import MembershipStatus, Program, Publisher, Role, TagOrders, User
from server import chores, demo_catalogue, demo_history, demo_logins, demo_shop, pipeline
from server.demo_logins import ACTOR
from server.demo_network import (
    NOT_APPROVED,
    PROGRAMS,
    PUBLISHERS,
    DemoProgram,
    DemoPublisher,
    plans_of,
)
from tracker import journal, shipper
from tracker.geo import GeoResolver
from tracker.models import Conversion

_log = log.get(__name__)
HISTORY_DAYS = 75
_STEP_DAYS = 5
_MANAGER_EMAIL = "manager@tallystick.example"
_MINIMUM_PAYOUT_MINOR = 1_000
_LIMITS = outbox.Limits(batch_milliseconds=500, attempts_max=1, lease_seconds=60)
_OWNER = "demo"
# Terms begin long before the history, so that orders of the past can be imported and priced.
_TERMS_FROM = "2009-01-01T00:00:00+00:00"


def load(settings: Settings) -> Path:
    """The path of `demo.json`, after loading what is missing. A repeat changes nothing."""
    target = settings.data_dir / "demo.json"
    keys = load_keys(settings)
    engine = connect(settings.database)
    try:
        with unit_of_work(engine) as session:
            loaded_at = _parties(session, keys)
            demo_shop.ensure(
                session,
                keys,
                settings,
                terms_from=datetime.fromisoformat(_TERMS_FROM),
                now=loaded_at,
            )
        if not target.exists():
            _load_catalogues(engine, settings, now=loaded_at)
            _load_history(engine, settings, keys, loaded_at=loaded_at)
        with reading(engine) as session:
            document = _document(session, settings, keys)
    finally:
        engine.dispose()
    _write(target, document)
    return target


def _parties(session: Session, keys: Keys) -> datetime:
    """When the parties were added, now or at an earlier load."""
    existing = session.exec(select(User).where(User.email == _MANAGER_EMAIL)).one_or_none()
    if existing is not None:
        return existing.created_at
    now = clock.now()
    demo_logins.add(
        session,
        keys,
        email=_MANAGER_EMAIL,
        name="Mina Manager",
        role=Role.MANAGER,
        party_id=None,
        now=now,
    )
    members = [_add_publisher(session, keys, entry, now) for entry in PUBLISHERS]
    for entry in PROGRAMS:
        program = _add_program(session, keys, entry, now)
        for publisher in members:
            publishers.set_membership(
                session,
                program=program,
                publisher=publisher,
                status=MembershipStatus(
                    NOT_APPROVED.get((program.code, publisher.code), "approved")
                ),
                actor=ACTOR,
                now=now,
            )
    return now


def _add_publisher(session: Session, keys: Keys, entry: DemoPublisher, now: datetime) -> Publisher:
    publisher = publishers.add(session, code=entry.code, name=entry.name, now=now)
    demo_logins.add(
        session,
        keys,
        email=_publisher_email(entry),
        name=entry.name,
        role=Role.PUBLISHER,
        party_id=publisher.id,
        now=now,
    )
    return publisher


def _add_program(session: Session, keys: Keys, entry: DemoProgram, now: datetime) -> Program:
    advertiser = programs.add_advertiser(session, name=entry.advertiser, now=now)
    program = programs.add(
        session,
        advertiser_id=advertiser.id,
        code=entry.code,
        name=entry.name,
        currency=entry.currency,
        timezone=entry.timezone,
        landing_url=f"https://www.{entry.domain}/welcome",
        allowed_domains=[entry.domain],
        hold_days=30,
        tag_orders=TagOrders.PENDING,
        now=now,
    )
    access.add_postback_token(
        session,
        program=program,
        actor=ACTOR,
        now=now,
        token=demo_logins.postback_token(keys, program),
    )
    demo_logins.add(
        session,
        keys,
        email=_advertiser_email(entry),
        name=entry.advertiser,
        role=Role.ADVERTISER,
        party_id=advertiser.id,
        now=now,
    )
    for since, document in plans_of(entry, first_from=_TERMS_FROM):
        plans.publish(
            session,
            program_id=program.id,
            document=document,
            effective_from=datetime.fromisoformat(since),
            actor=ACTOR,
            now=now,
        )
    imports.add_source(
        session, program_id=program.id, name=f"{entry.name} catalogue", url="", actor=ACTOR, now=now
    )
    return program


def _publisher_email(entry: DemoPublisher) -> str:
    return f"{entry.code}@publishers.example"


def _advertiser_email(entry: DemoProgram) -> str:
    return f"{entry.login}@advertisers.example"


# History -------------------------------------------------------------------------------------


def _load_catalogues(engine: Engine, settings: Settings, *, now: datetime) -> None:
    folder = settings.data_dir / "demo-feeds"
    folder.mkdir(parents=True, exist_ok=True)
    with reading(engine) as session:
        sources = {
            programs.get(session, source.program_id).code: source.id
            for source in session.exec(select(FeedSource))
        }
    for entry in PROGRAMS:
        path = demo_catalogue.write(folder, entry)
        imports.run(engine, sources[entry.code], path, settings=settings, now=now)


def _load_history(engine: Engine, settings: Settings, keys: Keys, *, loaded_at: datetime) -> None:
    start = loaded_at - timedelta(days=HISTORY_DAYS)
    with reading(engine) as session:
        scene = demo_history.scene(session, keys)
    folder = settings.data_dir / "demo-journal"
    shutil.rmtree(folder, ignore_errors=True)
    opened = journal.open_journal(
        folder,
        segment_bytes_max=settings.journal_segment_bytes_max,
        journal_bytes_max=settings.journal_bytes_max,
        record_bytes_max=settings.journal_record_bytes_max,
    )
    geo = GeoResolver(settings.geoip_dir)
    handlers = pipeline.handlers(keys)
    for day in _steps(start, loaded_at):
        opened.sync_append_many(
            demo_history.events_between(scene, day, day + timedelta(days=_STEP_DAYS))
        )
        later = min(day + timedelta(days=_STEP_DAYS), loaded_at)
        while shipper.ship_once(engine, folder, keys=keys, geo=geo, settings=settings, now=later):
            pass
        outbox.drain(engine, handlers, owner=_OWNER, limits=_LIMITS, clock=lambda at=later: at)  # type: ignore[misc]  # mypy cannot infer a lambda's default
        chores.sweep(engine, owner=_OWNER, now=later)
    opened.sync_close()
    shutil.rmtree(folder, ignore_errors=True)
    _decide(engine, now=loaded_at)
    outbox.drain(engine, handlers, owner=_OWNER, limits=_LIMITS, clock=lambda: loaded_at)
    chores.sweep(engine, owner=_OWNER, now=loaded_at)


def _steps(start: datetime, end: datetime) -> Iterator[datetime]:
    day = start
    while day < end:
        yield day
        day += timedelta(days=_STEP_DAYS)


def _decide(engine: Engine, *, now: datetime) -> None:
    """A settled payout run, one to approve, and a few flags decided: pages show every state."""
    manager = access.Actor(id=ACTOR, role=Role.MANAGER, party_id="", name="Demo")
    with unit_of_work(engine) as session:
        waiting = _by_order(
            session, flags.page(session, manager, status=flags.FlagStatus.OPEN, limit=200)
        )
        for view in waiting[: len(waiting) // 3]:
            flags.clear(
                session, view.flag.id, note="Known newsletter traffic", actor=ACTOR, now=now
            )
        for view in waiting[len(waiting) // 3 : len(waiting) // 2]:
            flags.confirm(
                session, view.flag.id, note="Clicks came from image tags", actor=ACTOR, now=now
            )
    with unit_of_work(engine) as session:
        if payouts.runs(session, limit=1):
            return
        run = payouts.propose(session, actor=ACTOR, now=now, minimum_minor=_MINIMUM_PAYOUT_MINOR)
        payouts.approve(session, run.id, actor=ACTOR, now=now)
        payouts.export_csv(session, run.id, actor=ACTOR, now=now)
        payouts.settle(session, run.id, reference="DEMO-BANK-0001", actor=ACTOR, now=now)


def _by_order(session: Session, views: Sequence[flags.FlagView]) -> list[flags.FlagView]:
    # Programs are worked in the order of their ids, and the ids of programs added at once say
    # nothing else: the same flags are raised in another order at every load.
    wanted = [view.flag.conversion_id for view in views]
    found = session.exec(
        select(Conversion.id, Conversion.order_id).where(col(Conversion.id).in_(wanted))
    )
    orders = dict(found.all())
    return sorted(views, key=lambda view: orders[view.flag.conversion_id])


# demo.json -----------------------------------------------------------------------------------


def _document(session: Session, settings: Settings, keys: Keys) -> dict[str, Any]:
    clients = access.client_ids_by_name(session)
    found_programs = {program.code: program for program in session.exec(select(Program))}
    found_publishers = {publisher.code: publisher for publisher in session.exec(select(Publisher))}

    def credentials(email: str) -> dict[str, str]:
        login = demo_logins.of(keys, email)
        return {
            "email": email,
            "password": login.password,
            "client_id": clients[email],
            "client_secret": login.client_secret,
        }

    return {
        "base_url": settings.public_url,
        "manager": credentials(_MANAGER_EMAIL),
        "advertisers": [
            {
                "id": found_programs[entry.code].advertiser_id,
                "name": entry.advertiser,
                **credentials(_advertiser_email(entry)),
                "postback_token": demo_logins.postback_token(keys, found_programs[entry.code]),
                "program": entry.code,
                "program_id": found_programs[entry.code].id,
                "currency": entry.currency,
                "landing_url": found_programs[entry.code].landing_url,
            }
            for entry in PROGRAMS
        ],
        "publishers": [
            {
                "id": found_publishers[entry.code].id,
                "name": entry.name,
                **credentials(_publisher_email(entry)),
                "code": entry.code,
            }
            for entry in PUBLISHERS
        ],
        "shop": {**demo_shop.document(session, keys), **credentials(demo_shop.EMAIL)},
    }


def _write(target: Path, document: dict[str, Any]) -> None:
    # Holds logins: readable by its owner only, and never half written.
    partial = target.with_suffix(".partial")
    partial.unlink(missing_ok=True)
    descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        json.dump(document, file, indent=2, ensure_ascii=False)
        file.write("\n")
        file.flush()
        os.fsync(file.fileno())
    partial.replace(target)
