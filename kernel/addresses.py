"""Which network addresses a stranger may name, and how names become addresses in bounded time."""

import ipaddress
import queue
import socket
import threading
from collections.abc import Callable, Sequence
from typing import Final

# Listed one by one because `ipaddress.is_global` and `is_private` leave out shared space,
# multicast, site-local and translated ranges, and differ from one Python release to the next.
_DENIED_V4: Final = (
    ipaddress.IPv4Network("0.0.0.0/8"),
    ipaddress.IPv4Network("10.0.0.0/8"),
    ipaddress.IPv4Network("100.64.0.0/10"),  # carriers' shared space; also a cloud's metadata
    ipaddress.IPv4Network("127.0.0.0/8"),
    ipaddress.IPv4Network("168.63.129.16/32"),  # a cloud's host agent; it looks public
    ipaddress.IPv4Network("169.254.0.0/16"),
    ipaddress.IPv4Network("172.16.0.0/12"),
    ipaddress.IPv4Network("192.0.0.0/24"),
    ipaddress.IPv4Network("192.0.2.0/24"),
    ipaddress.IPv4Network("192.31.196.0/24"),
    ipaddress.IPv4Network("192.52.193.0/24"),
    ipaddress.IPv4Network("192.88.99.0/24"),
    ipaddress.IPv4Network("192.168.0.0/16"),
    ipaddress.IPv4Network("192.175.48.0/24"),
    ipaddress.IPv4Network("198.18.0.0/15"),
    ipaddress.IPv4Network("198.51.100.0/24"),
    ipaddress.IPv4Network("203.0.113.0/24"),
    ipaddress.IPv4Network("224.0.0.0/4"),
    ipaddress.IPv4Network("240.0.0.0/4"),
)
# Global unicast is 2000::/3 and nothing else. That one rule covers ::/96, ::1, ::ffff:0:0/96,
# 64:ff9b::/96, 100::/64, 5f00::/16, fc00::/7, fe80::/10, fec0::/10 and ff00::/8.
_GLOBAL_V6: Final = ipaddress.IPv6Network("2000::/3")
# These lie inside it: protocol assignments with Teredo, documentation, 6to4, AS112.
_DENIED_V6: Final = (
    ipaddress.IPv6Network("2001::/23"),
    ipaddress.IPv6Network("2001:db8::/32"),
    ipaddress.IPv6Network("2002::/16"),
    ipaddress.IPv6Network("2620:4f:8000::/48"),
    ipaddress.IPv6Network("3fff::/20"),
)

Resolver = Callable[[str, int], Sequence[str]]


def is_public(address: str) -> bool:
    """Whether an address, as text, is on the public internet. What is no address is not."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv4Address):
        return not any(parsed in network for network in _DENIED_V4)
    if parsed.scope_id is not None or parsed not in _GLOBAL_V6:
        return False
    return not any(parsed in network for network in _DENIED_V6)


def resolve_by_system(host: str, port: int) -> Sequence[str]:
    """All addresses the system's resolver knows for a host name; OSError if there are none."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def resolve_within(seconds: float, resolver: Resolver, host: str, port: int) -> Sequence[str]:
    """The resolver's answer, or nothing when it fails or takes longer than that.

    The system's resolver cannot be told to hurry, so it runs in a thread that is left behind when
    time is up; it ends by itself when the resolver's own time-out does.
    """
    answers: queue.SimpleQueue[Sequence[str]] = queue.SimpleQueue()

    def look_up() -> None:
        try:
            answers.put(resolver(host, port))
        except (OSError, UnicodeError):
            answers.put(())

    threading.Thread(target=look_up, name="outbound-resolve", daemon=True).start()
    try:
        return answers.get(timeout=seconds)
    except queue.Empty:
        return ()
