"""HTTP answers of links: a redirect, and the pages for what is no link or a wrong one.

Most answers differ in their location only, so the lines of all other headers are written once.
"""

import json
from collections.abc import Iterable
from html import escape
from typing import Final

import msgspec

from kernel import i18n, problems
from kernel.errors import InvalidInput

_BREAKS: Final = (b"\r", b"\n", b"\0")
# A link is never kept, never listed by search engines, and shows the shop where the visitor was
# as the origin only.
_COMMON_HEADERS: Final = (
    (b"cache-control", b"no-store"),
    (b"referrer-policy", b"strict-origin-when-cross-origin"),
    (b"x-robots-tag", b"noindex"),
)
_BODY_HEADERS: Final = (
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
    (b"x-content-type-options", b"nosniff"),
)
_NO_BODY: Final = (b"content-length", b"0")
_PAGE: Final = (
    '<!doctype html><html lang="{language}"><head><meta charset="utf-8">'
    '<meta name="robots" content="noindex"><meta name="viewport" content="width=device-width">'
    "<title>{title}</title></head><body><h1>{title}</h1><p>{text}</p></body></html>"
)


class HeaderBlock(msgspec.Struct, frozen=True, gc=False):
    """Headers as pairs, and as the lines that they are on the wire."""

    pairs: tuple[tuple[bytes, bytes], ...]
    lines: bytes

    @classmethod
    def of(cls, *pairs: tuple[bytes, bytes]) -> "HeaderBlock":
        """The block of these headers; ValueError when one of them would break out of its line."""
        if not all(is_whole(name) and is_whole(value) for name, value in pairs):
            raise ValueError("a header may not hold a line end or a NUL")
        return cls(pairs, lines_of(pairs))


class Answer(msgspec.Struct, frozen=True, gc=False):
    """An HTTP answer. A front leaves the body out when the method is HEAD.

    The `location`, where there is one, comes before the headers of the block. Whether it is whole
    is for a front to see to that writes lines.
    """

    status: int
    block: HeaderBlock
    location: bytes = b""
    body: bytes = b""

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """All headers in their order."""
        first = [(b"location", self.location)] if self.location else []
        return [*first, *self.block.pairs]


def lines_of(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """Headers as they are on the wire, each with its line end."""
    return b"".join([b"%b: %b\r\n" % header for header in headers])


def is_whole(value: bytes) -> bool:
    """Whether a header's value stays in its line."""
    return not (b"\n" in value or b"\r" in value or b"\0" in value)


REDIRECT: Final = HeaderBlock.of(*_COMMON_HEADERS, _NO_BODY)
"""What every redirect says besides its location."""


def refused(status: int, *headers: tuple[bytes, bytes]) -> Answer:
    """An answer without a body for a request that is none for a link."""
    return Answer(status, HeaderBlock.of(*headers, *_COMMON_HEADERS, _NO_BODY))


def problem(error: InvalidInput, path: str) -> Answer:
    """The problem document about a link that is wrong."""
    body = json.dumps(problems.document(error, instance=path)).encode()
    return _with_body(problems.status_of(type(error)), problems.MEDIA_TYPE.encode(), body)


def not_found(accept_language: str | None) -> Answer:
    """The page for what is no link, in the visitor's language."""
    language = i18n.choose(accept_language)
    title = i18n.translate("tracker", language, "This link leads nowhere")
    text = i18n.translate(
        "tracker",
        language,
        "The program or the publisher in it does not exist. Please tell whoever gave you the link.",
    )
    body = _PAGE.format(language=language, title=escape(title), text=escape(text)).encode()
    return _with_body(404, b"text/html; charset=utf-8", body, (b"vary", b"Accept-Language"))


def _with_body(status: int, media_type: bytes, body: bytes, *more: tuple[bytes, bytes]) -> Answer:
    block = HeaderBlock.of(
        (b"content-type", media_type),
        *_COMMON_HEADERS,
        *_BODY_HEADERS,
        *more,
        (b"content-length", str(len(body)).encode()),
    )
    return Answer(status, block, body=body)
