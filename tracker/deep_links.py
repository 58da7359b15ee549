"""Tracking links as they are handed out, and the signature that keeps a deep link as it was.

A program may require signed deep links. The signature is a keyed hash over program, publisher and
page, so nobody but us can say where a publisher's visitors go. It stands in the link as `sig`.
"""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote, urlencode

from kernel.keys import Keys

SIGNATURE: Final = "sig"
_DIGEST_BYTES: Final = 16


class DeepLinkSigner:
    """Signs and checks deep links; equal on every node with the same secret."""

    def __init__(self, keys: Keys) -> None:
        self._key = keys.derive("deep-link-1")

    def sign(self, *, program: str, publisher: str, page: str) -> str:
        """The signature of a page for a program and a publisher, both by code: 22 characters."""
        digest = hashlib.blake2b(digest_size=_DIGEST_BYTES, key=self._key)
        for part in (program, publisher, page):
            encoded = part.encode("utf-8", "surrogatepass")
            # The length goes first, so that no two links are the same run of bytes.
            digest.update(len(encoded).to_bytes(4, "big"))
            digest.update(encoded)
        return base64.urlsafe_b64encode(digest.digest()).rstrip(b"=").decode("ascii")

    def is_signed(self, signature: str, *, program: str, publisher: str, page: str) -> bool:
        """Whether the signature is ours, for just this link."""
        expected = self.sign(program=program, publisher=publisher, page=page)
        return hmac.compare_digest(signature.encode("utf-8", "replace"), expected.encode())


def query(page: str, sub_ids: Mapping[str, str], *, signature: str = "") -> str:
    """The query of a link to a page (empty: the landing page) with these sub-ids."""
    pairs = {"url": page} if page else {}
    pairs |= {name: value for name, value in sub_ids.items() if value}
    if signature:
        pairs[SIGNATURE] = signature
    return urlencode(pairs, safe="", quote_via=quote)


def build(
    public_url: str,
    *,
    program: str,
    publisher: str,
    page: str = "",
    sub_ids: Mapping[str, str] | None = None,
    signer: DeepLinkSigner | None = None,
) -> str:
    """The tracking link of a publisher to a program, both by code, or to one page of it.

    With a `signer` a link to a page is signed; a link to the landing page needs no signature.
    """
    signature = ""
    if signer is not None and page:
        signature = signer.sign(program=program, publisher=publisher, page=page)
    link = f"{public_url}/c/{program}/{publisher}"
    said = query(page, sub_ids or {}, signature=signature)
    return f"{link}?{said}" if said else link
