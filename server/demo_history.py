"""The demo network's history: clicks, orders, refunds and some bad traffic, out of one seed.

Pure but for reading the parties: the same installation gives the same events for the same span,
however often it is asked. Addresses are from the ranges reserved for documentation, apart from
one cloud provider's, which the bad traffic comes from.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlmodel import Session, select

from kernel.keys import Keys
from network.models import Membership, MembershipStatus, Program, Publisher
from server.demo_network import PROGRAMS, PUBLISHERS, DemoProgram
from tracker import changes, conversions, events, orders
from tracker.click_ids import RANDOM_BYTES, ClickIdSigner
from tracker.models import ChangeKind
from tracker.node import click_id_signer

_CLICKS_A_DAY = 9
_SALE_SHARE = 0.13
_REFUND_SHARE = 0.05
_NEW_SHARE = 0.45
_BOT_SHARE = 0.03
_STUFFED_SHARE = 0.02
_HOUR = timedelta(hours=1)
_BROWSERS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64; rv:143.0) Gecko/20100101 Firefox/143.0",
    "Mozilla/5.0 (Macintosh; Intel Mac OS X 14.5; rv:143.0) Gecko/20100101 Firefox/143.0",
    "Mozilla/5.0 (Android 15; Mobile; rv:143.0) Gecko/143.0 Firefox/143.0",
)
_BOT = "Mozilla/5.0 (compatible; PriceSpider/2.1; +https://bot.example/about)"
_NETWORKS = ("192.0.2", "198.51.100", "203.0.113")
_CLOUD_ADDRESS = "3.120.0.{}"


@dataclass(frozen=True, slots=True)
class Place:
    """A program with its approved publishers, by weight."""

    program: Program
    entry: DemoProgram
    publishers: tuple[Publisher, ...]
    weights: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Scene:
    """Where the history plays, and the keys its ids are made with."""

    places: tuple[Place, ...]
    signer: ClickIdSigner
    conversion_key: bytes


@dataclass(frozen=True, slots=True)
class _Visit:
    kind: str
    click: events.ClickSeen


def scene(session: Session, keys: Keys) -> Scene:
    """The parties as they are in the database."""
    publishers = {publisher.id: publisher for publisher in session.exec(select(Publisher))}
    weights = {entry.code: entry.weight for entry in PUBLISHERS}
    places = []
    for entry in PROGRAMS:
        program = session.exec(select(Program).where(Program.code == entry.code)).one()
        members = session.exec(
            select(Membership.publisher_id).where(
                Membership.program_id == program.id,
                Membership.status == MembershipStatus.APPROVED,
            )
        )
        approved = sorted((publishers[one] for one in members), key=lambda one: one.code)
        places.append(
            Place(
                program=program,
                entry=entry,
                publishers=tuple(approved),
                weights=tuple(weights[publisher.code] for publisher in approved),
            )
        )
    return Scene(
        places=tuple(places),
        signer=click_id_signer(keys),
        conversion_key=keys.derive("conversion-id"),
    )


def events_between(
    scene: Scene, start: datetime, end: datetime, *, clicks_a_day: int | None = None
) -> list[bytes]:
    """The journal records of a span, by time. `start` and `end` are whole days apart."""
    clicks = _CLICKS_A_DAY if clicks_a_day is None else clicks_a_day
    found: list[tuple[datetime, bytes]] = []
    day = start
    while day < end:
        for place in scene.places:
            chance = random.Random(f"{place.program.code} {day:%Y-%m-%d}")  # noqa: S311 - a story
            found.extend(_day(scene, place, day, chance, clicks))
        day += timedelta(days=1)
    return [record for _, record in sorted(found, key=lambda pair: pair[0])]


def _day(
    scene: Scene, place: Place, day: datetime, chance: random.Random, clicks: int
) -> Iterator[tuple[datetime, bytes]]:
    busy = 1.3 if day.weekday() in {5, 6} else 1.0
    for number in range(int(max(2, chance.gauss(clicks, 3)) * busy)):
        visit = _visit(scene, place, day + chance.random() * 22 * _HOUR, chance)
        yield visit.click.at, events.encode(visit.click)
        share = 0.5 if visit.kind != "shopper" else _SALE_SHARE
        if chance.random() < share:
            yield from _order(scene, place, visit, f"{day:%y%m%d}-{number:03d}", chance)


def _visit(scene: Scene, place: Place, at: datetime, chance: random.Random) -> _Visit:
    publisher = chance.choices(place.publishers, place.weights)[0]
    roll = chance.random()
    kind = "shopper"
    if roll < _BOT_SHARE:
        kind = "bot"
    elif roll < _BOT_SHARE + _STUFFED_SHARE and publisher.code == "coupon-cove":
        kind = "stuffed"
    cloud = kind == "bot"
    address = (
        _CLOUD_ADDRESS.format(chance.randrange(1, 250))
        if cloud
        else f"{chance.choice(_NETWORKS)}.{chance.randrange(1, 255)}"
    )
    click = events.ClickSeen(
        id=scene.signer.mint(
            at=at,
            program_number=place.program.number,
            publisher_number=publisher.number,
            random_bytes=chance.randbytes(RANDOM_BYTES),
        ),
        at=at,
        program_number=place.program.number,
        publisher_number=publisher.number,
        page=place.program.landing_url,
        query=f"s1={chance.choice(('top', 'sidebar', 'review', 'mail'))}",
        address=address,
        user_agent=_BOT if kind == "bot" else chance.choice(_BROWSERS),
        referrer=f"https://{publisher.code}.example/",
        accept_language="en;q=0.8",
        sec_fetch_dest="image" if kind == "stuffed" else "document",
        sec_fetch_mode="no-cors" if kind == "stuffed" else "navigate",
        sec_fetch_user=None if kind == "stuffed" else "?1",
    )
    return _Visit(kind=kind, click=click)


def _order(
    scene: Scene, place: Place, visit: _Visit, number: str, chance: random.Random
) -> Iterator[tuple[datetime, bytes]]:
    at = visit.click.at + timedelta(minutes=chance.uniform(2, 90))
    countries, weights = zip(*place.entry.countries, strict=True)
    order = events.Order(
        order_id=f"{place.entry.login.upper()}-{number}",
        event="sale",
        currency=place.program.currency,
        amount_minor=0,
        click_id=visit.click.id,
        country=chance.choices(countries, weights)[0],
        customer="new" if chance.random() < _NEW_SHARE else "returning",
        occurred_at=at,
        items=_items(place.entry, chance),
    )
    order = _totalled(order)
    report = events.OrderReported(
        conversion_id=conversions.id_of(
            scene.conversion_key,
            program_id=place.program.id,
            order_id=order.order_id,
            event=order.event,
        ),
        program_id=place.program.id,
        content_hash=orders.content_hash(place.program.id, order),
        received_at=at,
        channel=events.CHANNEL_POSTBACK,
        imported=False,
        order=order,
    )
    yield at, events.encode(report)
    if chance.random() < _REFUND_SHARE:
        yield _refund(scene, report, at + timedelta(minutes=20))


def _items(entry: DemoProgram, chance: random.Random) -> tuple[events.Item, ...]:
    low, high = entry.basket_minor
    found = []
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        category, _name = chance.choice(entry.goods)
        quantity = chance.choice((1, 1, 1, 2))
        each_minor = int(low * (high / low) ** chance.betavariate(2, 3))
        found.append(
            events.Item(
                f"{entry.login}-{chance.randrange(24):03d}",
                category,
                quantity,
                each_minor * quantity,
            )
        )
    return tuple(found)


def _totalled(order: events.Order) -> events.Order:
    fields = {name: getattr(order, name) for name in order.__struct_fields__}
    return events.Order(**{**fields, "amount_minor": sum(i.amount_minor for i in order.items)})


def _refund(scene: Scene, report: events.OrderReported, at: datetime) -> tuple[datetime, bytes]:
    order = report.order
    change = changes.parse_change(
        ChangeKind.REFUND,
        {
            "amount": {"minor": order.items[0].amount_minor, "currency": order.currency},
            "line": 0,
            "reason": "returned",
        },
        changes.Subject(
            conversion_id=report.conversion_id,
            program_id=report.program_id,
            order_id=order.order_id,
            currency=order.currency,
        ),
        key=scene.conversion_key,
        now=at,
    )
    return at, events.encode(change)
