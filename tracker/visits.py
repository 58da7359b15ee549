"""Visits that no redirect of ours saw: pages linked to directly, told by the tag or by a server.

They become clicks by the rules of links: the same reasons, the same evidence, the same journal. A
visit that may not earn is recorded and gets no click id.
"""

import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import blake2b
from typing import Any, Final
from urllib.parse import urlencode

from kernel.errors import InvalidInput, invalid
from tracker import events, metrics
from tracker.agents import MAX_USER_AGENT_CHARS, is_preview
from tracker.click_ids import FLAG_NOT_BILLABLE, RANDOM_BYTES
from tracker.clicks import NOTE_FOREIGN_URL, unbillable_reason
from tracker.events import ClickSeen
from tracker.fields import Fields
from tracker.node import TrackerNode
from tracker.routing import ProgramRoute, PublisherRoute
from tracker.targets import read_destination

NOTE_TAG: Final = "tag"
NOTE_SERVER: Final = "server"
FETCH_METADATA: Final = ("sec_fetch_dest", "sec_fetch_mode", "sec_fetch_user", "sec_purpose")
SUB_IDS: Final = ("s1", "s2", "s3", "s4", "s5")
_CODE_CHARS_MAX: Final = 64
_REFERRER_CHARS_MAX: Final = 2048
_HEADER_CHARS_MAX: Final = 256
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")
_CUT: Final = "\u2026"


@dataclass(frozen=True, slots=True, kw_only=True)
class Visit:
    """A visitor on a program's page, sent by a publisher. Texts are bounded when it is recorded.

    `page` is None when it is not on the program's domains. `note` says who told of the visit,
    `without_consent` why the visitor may not be tracked. With a `ref` the same visit (program,
    publisher, time, ref) has the same click id again, on every node.
    """

    program: ProgramRoute
    publisher: PublisherRoute
    at: datetime
    note: str
    page: str | None = None
    sub_ids: Mapping[str, str] = field(default_factory=dict)
    without_consent: str = ""
    is_prefetch: bool = False
    address: str = ""
    user_agent: str = ""
    referrer: str = ""
    accept_language: str = ""
    sec_fetch_dest: str | None = None
    sec_fetch_mode: str | None = None
    sec_fetch_user: str | None = None
    sec_purpose: str | None = None
    ref: str = ""


@dataclass(frozen=True, slots=True)
class Told:
    """What the caller gets: the click id, or None and the reason why the click cannot earn."""

    click_id: str | None
    reason: str


async def record(node: TrackerNode, visit: Visit) -> Told:
    """Journal the visit as a click, then say its id. JournalUnavailable when it cannot be kept."""
    click = _seen(node, visit)
    await node.journal.append(events.encode(click))
    metrics.CLICKS.labels(click.reason or "billable").inc()
    return Told(click.id if not click.reason else None, click.reason)


def _seen(node: TrackerNode, visit: Visit) -> ClickSeen:
    program, publisher = visit.program, visit.publisher
    agent = visit.user_agent[:MAX_USER_AGENT_CHARS]
    page = visit.page or program.landing_url
    reason = unbillable_reason(
        without_consent=visit.without_consent,
        is_head=False,
        is_prefetch=visit.is_prefetch,
        is_preview=is_preview(agent),
        is_retired=False,
        is_active=program.is_active,
        is_member=node.routing.table.is_member(program, publisher),
    )
    evidence: dict[str, Any] = {}
    if visit.without_consent:
        # The query of a page, too, may say who the visitor is.
        page = page.partition("#")[0].partition("?")[0]
    else:
        evidence = {
            "address": visit.address,
            "user_agent": agent,
            "referrer": visit.referrer[:_REFERRER_CHARS_MAX],
            "accept_language": visit.accept_language[:_HEADER_CHARS_MAX],
            **{name: _bounded(getattr(visit, name)) for name in FETCH_METADATA},
        }
    return ClickSeen(
        id=node.signer.mint(
            at=visit.at,
            program_number=program.number,
            publisher_number=publisher.number,
            flags=FLAG_NOT_BILLABLE if reason else 0,
            random_bytes=_named(node, visit) if visit.ref else None,
        ),
        at=visit.at,
        program_number=program.number,
        publisher_number=publisher.number,
        page=page,
        query=urlencode(visit.sub_ids),
        reason=reason,
        note=visit.note if visit.page else f"{visit.note} {NOTE_FOREIGN_URL}",
        **evidence,
    )


def _bounded(header: str | None) -> str | None:
    return header[:_HEADER_CHARS_MAX] if header else None


def _named(node: TrackerNode, visit: Visit) -> bytes:
    identity = json.dumps(
        [visit.program.id, visit.publisher.id, visit.at.isoformat(), visit.ref]
    ).encode()
    key = node.keys.derive("visit")
    return blake2b(identity, digest_size=RANDOM_BYTES, key=key).digest()


def read_sub_ids(fields: Fields, *, chars_max: int) -> dict[str, str]:
    """The sub-ids of a reported visit; what is too long is cut and marked, as on links."""
    found = {}
    for name in SUB_IDS:
        value = fields.value(name)
        if value is not None and not isinstance(value, str):
            fields.problem(name, "type", "must be text")
        elif value:
            found[name] = value if len(value) <= chars_max else value[: chars_max - 1] + _CUT
    return found


def read_evidence(fields: Fields, name: str) -> str:
    """A header of the visitor's as it is told; whatever a browser sent, the visit is not lost."""
    value = fields.value(name)
    if value is None:
        return ""
    if not isinstance(value, str):
        fields.problem(name, "type", "must be text")
        return ""
    return _CONTROL.sub("\ufffd", value)


def read_page(text: str | None, program: ProgramRoute, *, name: str) -> str | None:
    """The visited page: the program's landing page when none is named, None for a foreign one.

    InvalidInput on `name` for what is no plain http or https address.
    """
    if text is None:
        return program.landing_url
    try:
        return read_destination(text, program.allowed_domains)
    except InvalidInput as error:
        first = error.problems[0]
        raise invalid(name, first.rule, first.message) from error


def read_address(fields: Fields, name: str) -> str:
    """An IP address, or the empty text."""
    found = fields.text(name, chars_max=_CODE_CHARS_MAX)
    if found is None:
        return ""
    try:
        return str(ipaddress.ip_address(found))
    except ValueError:
        fields.problem(name, "ip_address", "must be an IPv4 or IPv6 address")
        return ""
