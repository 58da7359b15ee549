"""Reports signed as Standard Webhooks says, instead of carrying a token.

`webhook-id`, `webhook-timestamp` (seconds) and `webhook-signature` (`v1,` and the base64 of
HMAC-SHA256 over `id.timestamp.body`; several, separated by blanks, while secrets change) come with
`tallystick-program`, the code or id of the program whose secret was used. Nothing here is logged,
and an answer never says which part was wrong.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request

from kernel import clock, http
from kernel.errors import NotFound, Unauthenticated
from network.access import Actor
from network.models import Role
from network.reporting_terms import signing_key
from tracker import metrics
from tracker.node import TrackerNode
from tracker.routing import ProgramRoute

ID: Final = "webhook-id"
TIMESTAMP: Final = "webhook-timestamp"
SIGNATURE: Final = "webhook-signature"
PROGRAM: Final = "tallystick-program"
SECRET_PREFIX: Final = "whsec_"  # noqa: S105 - how secrets begin, and none of them
_VERSION: Final = "v1,"
_SIGNATURES_MAX: Final = 20
_HEADER_CHARS_MAX: Final = 2_048
_SECONDS: Final = re.compile(r"[0-9]{1,12}", re.ASCII)


@dataclass(frozen=True, slots=True)
class SigningActor(Actor):
    """Whoever holds a program's secret: its advertiser, for this program alone."""

    program_id: str


def secret_text(key: bytes) -> str:
    """A secret as its holder is shown it."""
    return SECRET_PREFIX + base64.b64encode(key).decode()


def sign(key: bytes, *, message_id: str, timestamp: str, body: bytes) -> str:
    """The signature of a message, as it stands in the header."""
    signed = b".".join((message_id.encode(), timestamp.encode(), body))
    digest = hmac.new(key, signed, hashlib.sha256).digest()
    return _VERSION + base64.b64encode(digest).decode()


def is_signed(headers: Mapping[str, str], keys: Sequence[bytes], body: bytes) -> bool:
    """Whether one of the signatures is right for one of the keys. Every pair is compared, whole."""
    given = headers.get(SIGNATURE, "").split()[:_SIGNATURES_MAX]
    found = False
    for key in keys:
        right = sign(
            key, message_id=headers.get(ID, ""), timestamp=headers.get(TIMESTAMP, ""), body=body
        ).encode()
        for one in given:
            found |= hmac.compare_digest(one.encode(), right)
    return found


def is_timely(timestamp: str, *, now: datetime, tolerance_seconds: int) -> bool:
    """Whether the time of a message is near enough to be no old one, sent again."""
    if _SECONDS.fullmatch(timestamp) is None:
        return False
    return abs(now.timestamp() - int(timestamp)) <= tolerance_seconds


def is_used(request: Request) -> bool:
    """Whether the request proves itself with a signature, and with nothing else."""
    return SIGNATURE in request.headers and "authorization" not in request.headers


async def program_of(request: Request, *, named: str = "") -> ProgramRoute:
    """The program whose secret signed the request; Unauthenticated for everything else.

    `named` is its name where a header cannot be set. A wrong signature is counted, and costs as
    much of its sender's minute as a wrong token.
    """
    node: TrackerNode = request.app.state.node
    program = await _named_program(node, request.headers.get(PROGRAM, "") or named)
    if program is not None and _is_bounded(request.headers):
        timely = is_timely(
            request.headers[TIMESTAMP],
            now=clock.now(),
            tolerance_seconds=node.settings.signature_tolerance_seconds,
        )
        # Only now: whoever is turned away without it has nothing read.
        if timely and is_signed(
            request.headers, _keys(node, program), await http.read_body(request)
        ):
            return program
    metrics.WRONG_SIGNATURES.inc()
    peer = request.client.host if request.client else "unknown"
    http.context(request).limiter.spend(f"wrong-token:{peer}", now=clock.now())
    raise Unauthenticated("the signature is not valid")


def or_signed(guard: http.Guard) -> Callable[[Request], Awaitable[Actor]]:
    """The guard, with a signature as another way to pass it."""

    async def admit(request: Request) -> Actor:
        if not is_used(request):
            actor: Actor = await run_in_threadpool(guard, request)
            return actor
        program = await program_of(request)
        return SigningActor(
            id=f"signed:{program.id}",
            role=Role.ADVERTISER,
            party_id=program.advertiser_id,
            name=program.code,
            program_id=program.id,
        )

    return admit


async def _named_program(node: TrackerNode, named: str) -> ProgramRoute | None:
    program = _find(node, named)
    if program is None or not node.routing.table.signing_ids_of(program):
        # The program or its secret may have been made a moment ago, on another node.
        await node.refresh()
        program = _find(node, named)
    return program


def _find(node: TrackerNode, named: str) -> ProgramRoute | None:
    try:
        return node.routing.table.find_program(named) if named else None
    except NotFound:
        return None


def _is_bounded(headers: Mapping[str, str]) -> bool:
    return all(
        0 < len(headers.get(name, "")) <= _HEADER_CHARS_MAX for name in (ID, TIMESTAMP, SIGNATURE)
    )


def _keys(node: TrackerNode, program: ProgramRoute) -> list[bytes]:
    return [signing_key(node.keys, one) for one in node.routing.table.signing_ids_of(program)]
