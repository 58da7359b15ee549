"""Where a click is sent: the program's landing page or a deep link on the program's own domains.

A deep link is judged by what a browser would do with it, so only addresses that every parser reads
alike are taken: an ASCII host name straight after `http://` or `https://`, no user name, no
backslash, blank or control character anywhere. What a browser would repair is refused instead.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from urllib.parse import quote, unquote_plus, urlsplit

from kernel.errors import InvalidInput, invalid

_PORT_MAX: Final = 65_535
_PAGE: Final = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*)"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<rest>[/?#].*)?",
    re.ASCII | re.IGNORECASE,
)
# C0, blank, DEL, C1, backslash and the Unicode blanks and line ends that some parsers strip.
_FORBIDDEN: Final = re.compile(
    r"[\x00-\x20\x7f-\xa0\\\u1680\u2000-\u200f\u2028-\u202f\u205f-\u2064\u3000\ufeff]"
)
_NUMERIC: Final = re.compile(r"[0-9]+|0x[0-9a-f]*", re.ASCII)
_MACRO: Final = re.compile(r"\{(click_?id|transaction_id|s[1-5]|sub[1-5]|program|publisher)\}")
# What the landing pages of programs that move in from elsewhere call the same things.
_CLICK_ID: Final = ("click_id", "clickid", "transaction_id")
_URL_CHARACTERS: Final = "%/:?#[]@!$&'()*+,;=~"


def read_destination(text: str, allowed_domains: Sequence[str]) -> str | None:
    """The deep link as it may stand in a `Location` header; None when its host is foreign.

    InvalidInput on `url` for what is no plain http or https address.
    """
    if _FORBIDDEN.search(text) is not None:
        raise _malformed("holds a blank, a backslash or a control character")
    match = _PAGE.fullmatch(text)
    if match is None:
        raise _malformed("must be http:// or https:// with an ASCII host name and no user name")
    host = match["host"].lower()
    port = match["port"]
    if port is not None and not 1 <= int(port) <= _PORT_MAX:
        raise _malformed("names a port that does not exist")
    if not is_allowed(host, allowed_domains):
        return None
    rest = match["rest"] or "/"
    if not rest.startswith("/"):
        rest = f"/{rest}"
    authority = host if port is None else f"{host}:{port}"
    return f"{match['scheme'].lower()}://{authority}{quote(rest, safe=_URL_CHARACTERS)}"


def is_allowed(host: str, allowed_domains: Sequence[str]) -> bool:
    """Whether the lower-case host is one of the domains or lies under one of them.

    Nothing lies under a numeric address: to a browser `a.127.0.0.1` is no name at all.
    """
    if host in allowed_domains:
        return True
    if _NUMERIC.fullmatch(host.rpartition(".")[2]):
        return False
    return any(host.endswith(f".{domain}") for domain in allowed_domains)


def _malformed(message: str) -> InvalidInput:
    return invalid("url", "url", message)


Around = tuple[tuple[str, ...], str]
"""The pieces of an address between which a click id stands, and the address without one."""


def around_click(page: str, parameter: str) -> Around:
    """Around a click id at the end of the page's query, as `parameter`; the fragment stays last.

    A parameter of that name that is there already goes: it is the click of someone who copied the
    address, and may not earn again.
    """
    front, hash_mark, fragment = page.partition("#")
    path, _, query = front.partition("?")
    pairs = [pair for pair in query.split("&") if _name(pair) != parameter] if query else []
    while pairs and not pairs[-1]:
        pairs.pop()
    after = f"{hash_mark}{fragment}"
    without = f"{path}?{'&'.join(pairs)}{after}" if pairs else f"{path}{after}"
    pairs.append(f"{quote(parameter, safe='')}=")
    return (f"{path}?{'&'.join(pairs)}", after), without


def _name(pair: str) -> str:
    return unquote_plus(pair.partition("=")[0])


@dataclass(frozen=True, slots=True)
class Landing:
    """A program's landing page, ready to be filled in.

    Macros `{click_id}`, `{s1}` to `{s5}`, `{program}` and `{publisher}` stand for their values,
    percent-encoded once; `{clickid}` and `{transaction_id}` mean `{click_id}`, `{sub1}` means
    `{s1}`. Where the click id stands, no click parameter is added.
    """

    page: str
    parameter: str
    has_macros: bool
    places_click: bool

    @classmethod
    def of(cls, landing_url: str, parameter: str) -> "Landing":
        """The landing page of a program; letters outside ASCII are encoded."""
        macros = set(_MACRO.findall(landing_url))
        places_click = not macros.isdisjoint(_CLICK_ID)
        return cls(to_ascii(landing_url), parameter, bool(macros), places_click)

    def around(self, values: Mapping[str, str]) -> Around:
        """The address for these values around the click id; a missing value is empty."""
        pieces = [self.page]
        if self.has_macros:
            pieces, rest = [""], 0
            for macro in _MACRO.finditer(self.page):
                pieces[-1] += self.page[rest : macro.start()]
                if macro[1] in _CLICK_ID:
                    pieces.append("")
                else:
                    pieces[-1] += quote(_value(values, macro[1]), safe="")
                rest = macro.end()
            pieces[-1] += self.page[rest:]
        if self.places_click:
            return tuple(pieces), "".join(pieces)
        return around_click("".join(pieces), self.parameter)


def _value(known: Mapping[str, str], macro: str) -> str:
    return known.get(macro.replace("sub", "s", 1), "")


@lru_cache(maxsize=4096)
def to_ascii(page: str) -> str:
    """An address that somebody entered, as it may stand in a `Location` header."""
    host = urlsplit(page).hostname or ""
    if not host.isascii():
        page = page.replace(host, host.encode("idna").decode("ascii"), 1)
    return quote(page, safe=_URL_CHARACTERS + "{}")
