"""The demo network's own shop, which this server serves: a page that really can be bought at.

It has what the invented programs do not: a landing page that answers, short links, coupons, rules
of attribution beyond the last click, a signing secret, and a file of orders.
"""

import hashlib
from datetime import datetime
from typing import Any, Final

from sqlmodel import Session, select

from commissions import plans
from kernel.keys import Keys
from kernel.settings import Settings
from network import access, programs, publishers, reporting_terms
from network.access import Actor
from network.models import MembershipStatus, Program, Publisher, Role, TagOrders
from server import demo_logins
from server.demo_logins import ACTOR
from tracker import attribution_terms, coupons, links, order_files, uploads
from tracker.order_files import Reading

CODE: Final = "demo-shop"
PATH: Final = "/demo/shop"
CURRENCY: Final = "EUR"
EMAIL: Final = "shop@advertisers.example"
# (publisher, code of its short link to the shop)
SHORT_LINKS: Final = (("teatime-blog", "teatime-jug"), ("slow-home", "slow-home-jug"))
MEMBERS: Final = ("teatime-blog", "slow-home", "coupon-cove")
COUPON: Final = "COVE10"
COUPON_OWNER: Final = "coupon-cove"
_RULES: Final[dict[str, Any]] = {
    "model": "position",
    "params": {"first_percent": "40", "last_percent": "40"},
    "window_hours": 720,
    "stand_down_seconds": 5,
}
_LOOPBACK: Final = ("127.0.0.1", "localhost")
_FILE: Final = f"""\
order_id;amount;currency;coupon
FILE-1;18,00;EUR;{COUPON}
FILE-2;24,50;EUR;
FILE-1;19,00;EUR;{COUPON}
FILE-3;twelve;EUR;
"""


def ensure(
    session: Session, keys: Keys, settings: Settings, *, terms_from: datetime, now: datetime
) -> Program:
    """The shop's program, added when it is missing; its page follows the server's address."""
    # A port that is not chosen yet (0) is set right when the server starts.
    landing_url = f"{settings.public_url.removesuffix(':0')}{PATH}"
    existing = session.exec(select(Program).where(Program.code == CODE)).one_or_none()
    if existing is not None:
        programs.set_landing(session, existing, landing_url=landing_url, actor=ACTOR, now=now)
        return existing
    program = _program(session, keys, landing_url, now)
    members = {code: _member(session, program, code, now) for code in MEMBERS}
    plans.publish(
        session,
        program_id=program.id,
        document=_plan(),
        effective_from=terms_from,
        actor=ACTOR,
        now=now,
    )
    attribution_terms.publish(
        session,
        program_id=program.id,
        document=_RULES,
        effective_from=terms_from,
        actor=ACTOR,
        now=now,
    )
    coupons.add(
        session,
        [
            {"code": COUPON, "publisher": COUPON_OWNER, "effect": "exclusive"},
            {"code": "STAFF", "operator": "STARTS_WITH", "effect": "suppressed"},
        ],
        program_id=program.id,
        actor=ACTOR,
        now=now,
    )
    reporting_terms.add_secret(session, program, actor=ACTOR, now=now)
    _links(session, program, members, settings, now)
    _upload(session, program, settings, now)
    return program


def _program(session: Session, keys: Keys, landing_url: str, now: datetime) -> Program:
    advertiser = programs.add_advertiser(session, name="Jug & Kettle", now=now)
    host = programs.check_page("landing_url", landing_url)
    program = programs.add(
        session,
        advertiser_id=advertiser.id,
        code=CODE,
        name="Jug & Kettle (demo shop)",
        currency=CURRENCY,
        landing_url=landing_url,
        # Whoever runs this on one machine may call it by either name.
        allowed_domains=_LOOPBACK if host in _LOOPBACK else (),
        tag_orders=TagOrders.PENDING,
        now=now,
    )
    token = demo_logins.postback_token(keys, program)
    access.add_postback_token(session, program=program, actor=ACTOR, now=now, token=token)
    demo_logins.add(
        session,
        keys,
        email=EMAIL,
        name=advertiser.name,
        role=Role.ADVERTISER,
        party_id=advertiser.id,
        now=now,
    )
    return program


def _member(session: Session, program: Program, code: str, now: datetime) -> Publisher:
    publisher = session.exec(select(Publisher).where(Publisher.code == code)).one()
    publishers.set_membership(
        session,
        program=program,
        publisher=publisher,
        status=MembershipStatus.APPROVED,
        actor=ACTOR,
        now=now,
    )
    return publisher


def _plan() -> dict[str, Any]:
    return {
        "currency": CURRENCY,
        "timezone": "UTC",
        "rounding": "half_up",
        "round_at": "line",
        "country_basis": ["country"],
        "regions": {},
        "rules": [{"id": "every-order", "kind": "base", "when": {}, "pay": {"percent": "10"}}],
    }


def _links(
    session: Session,
    program: Program,
    members: dict[str, Publisher],
    settings: Settings,
    now: datetime,
) -> None:
    for code, short in SHORT_LINKS:
        who = Actor(id=ACTOR, role=Role.PUBLISHER, party_id=members[code].id, name="Demo")
        # Without a page of its own it leads to the landing page, wherever that is.
        wanted = {"program": program.code, "code": short, "s1": "demo", "name": "The enamel jug"}
        drafts = [
            links.draft(
                session,
                who,
                links.parse(wanted, sub_id_chars_max=settings.sub_id_chars_max, is_short=True),
            )
        ]
        links.create(
            session,
            drafts,
            actor=who,
            publisher_links_max=settings.publisher_links_max,
            now=now,
        )


def _upload(session: Session, program: Program, settings: Settings, now: datetime) -> None:
    """A file with good, contradicting and wrong rows; the server works on it when it runs."""
    content = _FILE.encode()
    uploads.add(
        session,
        program_id=program.id,
        actor=Actor(id=ACTOR, role=Role.ADVERTISER, party_id=program.advertiser_id, name="Demo"),
        file_name="demo-orders.csv",
        content=content,
        content_hash=hashlib.sha256(content).hexdigest(),
        file=order_files.read(
            content,
            Reading(
                decimal=",",
                zone=program.timezone,
                rows_max=settings.upload_rows_max,
                decoded_bytes_max=settings.upload_decoded_bytes_max,
            ),
        ),
        now=now,
    )


def document(session: Session, keys: Keys) -> dict[str, Any]:
    """What `demo.json` says of the shop, but for its login."""
    program = session.exec(select(Program).where(Program.code == CODE)).one()
    return {
        "id": program.advertiser_id,
        "name": program.name,
        "postback_token": demo_logins.postback_token(keys, program),
        "program": program.code,
        "program_id": program.id,
        "currency": program.currency,
        "landing_url": program.landing_url,
        "short_links": [code for _, code in SHORT_LINKS],
        "coupon": COUPON,
    }
