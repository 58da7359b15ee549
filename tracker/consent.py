"""Whether a visitor agreed to be tracked, as the link and the browser say it.

Three voices are heard, and any one of them can say no: `cons=0` on the link, an IAB TCF string on
the link, and Global Privacy Control from the browser. Of a TCF string the core segment is read, as
the published format of version 2 lays it out: bit by bit, most significant first, in web-safe
base64 without padding.
"""

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

TCF_CHARS_MAX: Final = 4096
_TCF_NAMES: Final = ("gdpr_consent", "tcf", "euconsent", "euconsent-v2")
NAMES: Final = frozenset({"cons", "gdpr", *_TCF_NAMES})
_BASE64: Final = re.compile(r"[A-Za-z0-9_-]+")
_TCF_VERSION: Final = 2
_VERSION_BITS: Final = 6
# Where the consents to the 24 purposes begin, and where the vendors': everything before has a
# fixed width.
_PURPOSES_AT: Final = 152
_VENDORS_AT: Final = 213
_VENDOR_BITS: Final = 16
_ENTRY_COUNT_BITS: Final = 12


@dataclass(frozen=True, slots=True)
class TcfConsent:
    """What a TCF string says of storing things on the visitor's device, and of one vendor."""

    version: int
    purpose_one: bool
    vendor: bool


class MalformedTcf(Exception):
    """The text is no TCF string of the version we read."""


class _Bits:
    """A run of bits, read from the front; past the end MalformedTcf."""

    def __init__(self, content: bytes) -> None:
        self._number = int.from_bytes(content, "big")
        self._length = 8 * len(content)
        self.at = 0

    def take(self, count: int) -> int:
        """The next bits as an unsigned number."""
        end = self.at + count
        if end > self._length:
            raise MalformedTcf("the text ends early")
        self.at = end
        return (self._number >> (self._length - end)) & ((1 << count) - 1)


def read_tcf(text: str, *, vendor_id: int = 0) -> TcfConsent:
    """Read the core segment. MalformedTcf when it is not one of version 2, or ends early.

    `vendor` is about `vendor_id`; with 0 nobody is asked for, and it is false.
    """
    bits = _Bits(_core(text))
    version = bits.take(_VERSION_BITS)
    if version != _TCF_VERSION:
        raise MalformedTcf(f"version {version} is not read")
    bits.at = _PURPOSES_AT
    purpose_one = bool(bits.take(1))
    bits.at = _VENDORS_AT
    return TcfConsent(version, purpose_one, _has_vendor(bits, vendor_id))


def _core(text: str) -> bytes:
    core = text.partition(".")[0]
    if len(text) > TCF_CHARS_MAX or not _BASE64.fullmatch(core):
        raise MalformedTcf("is no web-safe base64, or too long")
    try:
        return base64.urlsafe_b64decode(core + "=" * (-len(core) % 4))
    except binascii.Error as error:
        raise MalformedTcf("is no whole base64") from error


def _has_vendor(bits: _Bits, vendor_id: int) -> bool:
    """Read the whole section, so that a text that was cut short is noticed for every vendor."""
    highest = bits.take(_VENDOR_BITS)
    if not bits.take(1):
        consents = bits.take(highest)
        return 0 < vendor_id <= highest and bool((consents >> (highest - vendor_id)) & 1)
    found = False
    for _ in range(bits.take(_ENTRY_COUNT_BITS)):
        is_range = bits.take(1)
        first = bits.take(_VENDOR_BITS)
        last = bits.take(_VENDOR_BITS) if is_range else first
        if not 0 < first <= last <= highest:
            raise MalformedTcf("a range of vendors is out of order")
        found = found or first <= vendor_id <= last
    return found


def tcf_refuses(parameters: Mapping[str, str], *, vendor_id: int) -> bool:
    """Whether the TCF parameters of a link amount to no consent.

    `gdpr=0` says that the rules do not apply. Otherwise a string that is there must be readable
    and say yes, and `gdpr=1` needs one: a consent that cannot be read was not given.
    """
    applies = parameters.get("gdpr", "")
    text = next((parameters[name] for name in _TCF_NAMES if parameters.get(name)), "")
    if applies == "0" or not (text or applies == "1"):
        return False
    try:
        said = read_tcf(text, vendor_id=vendor_id)
    except MalformedTcf:
        return True
    return not said.purpose_one or (vendor_id > 0 and not said.vendor)
