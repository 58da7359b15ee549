"""What the headers of a visitor's request say: consent, prefetching, the address, the evidence."""

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from kernel.settings import Settings
from tracker.agents import MAX_USER_AGENT_CHARS
from tracker.clicks import Unbillable
from tracker.consent import tcf_refuses

# With any of these a request is more than a head, or wants more than an answer.
NOT_PLAIN: Final = (b"content-length", b"transfer-encoding", b"upgrade", b"expect")
_WANTED: Final = {
    name: name.decode("ascii")
    for name in (
        b"user-agent",
        b"referer",
        b"accept-language",
        b"sec-fetch-dest",
        b"sec-fetch-mode",
        b"sec-fetch-user",
        b"sec-purpose",
        b"purpose",
        b"x-purpose",
        b"x-moz",
        b"x-forwarded-for",
        b"sec-gpc",
        *NOT_PLAIN,
    )
}
_CHARS_MAX: Final = 256
# Proxies are read from the end, so nothing of them is cut; a server bounds the head as a whole.
_LONGER: Final = {
    "user-agent": MAX_USER_AGENT_CHARS,
    "referer": 2048,
    "x-forwarded-for": None,
}
_PREFETCH_HEADERS: Final = frozenset({"sec-purpose", "purpose", "x-purpose", "x-moz"})
_PREFETCH_WORDS: Final = ("prefetch", "prerender", "preview")


def read_headers(raw: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
    """The headers a click is judged by, each bounded; what came several times is joined by commas.

    Takes names in lower case. Cheap for the usual request: everything else is the rare case.
    """
    found: dict[str, str] = {}
    for name, value in raw:
        key = _WANTED.get(name)
        if key is None:
            continue
        text = value.decode("latin-1")
        if key in found:
            text = f"{found[key]},{text}"
        found[key] = text if len(text) <= _CHARS_MAX else text[: _LONGER.get(key, _CHARS_MAX)]
    return found


def without_consent(
    consent: Mapping[str, str], headers: Mapping[str, str], settings: Settings
) -> str:
    """Why the visitor may not be tracked, by what was said and by the browser; empty: may be."""
    if consent:
        if consent.get("cons") == "0":
            return Unbillable.NO_CONSENT
        if tcf_refuses(consent, vendor_id=settings.tcf_vendor_id):
            return Unbillable.NO_CONSENT_TCF
    if headers.get("sec-gpc") == "1" and settings.honours_global_privacy_control:
        return Unbillable.GLOBAL_PRIVACY_CONTROL
    return ""


def is_prefetch(headers: Mapping[str, str]) -> bool:
    """Whether a browser says that it only fetches ahead, for a visit that may never come."""
    if _PREFETCH_HEADERS.isdisjoint(headers):
        return False
    said = " ".join(headers[name] for name in _PREFETCH_HEADERS if name in headers).lower()
    return any(word in said for word in _PREFETCH_WORDS)


def client_address(peer: str, headers: Mapping[str, str], proxies: Collection[str]) -> str:
    """The visitor's address: the peer, or what the nearest trusted proxies say is behind them.

    `X-Forwarded-For` is read from the right for as long as its speaker is trusted; the first
    address that is no proxy of ours is the visitor. What is no address ends the reading.
    """
    if peer not in proxies or "x-forwarded-for" not in headers:
        return peer
    address = peer
    for hop in reversed(headers["x-forwarded-for"].split(",")):
        if address not in proxies:
            break
        named = _address(hop.strip())
        if named is None:
            break
        address = named
    return address


def _address(hop: str) -> str | None:
    if hop.startswith("["):
        hop = hop[1:].partition("]")[0]
    elif hop.count(":") == 1:
        hop = hop.partition(":")[0]
    try:
        return str(ipaddress.ip_address(hop))
    except ValueError:
        return None
