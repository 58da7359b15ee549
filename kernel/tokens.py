"""The one door to PyJWT: access tokens and receipts, both Ed25519, each with a key of its own.

PyJWT's defaults accept tokens without expiry, with any `typ`, and of any size; the wrapper here
pins algorithm, type, issuer, audience and lifetime, and refuses everything it did not expect.
"""

import base64
import json
from datetime import datetime, timedelta
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kernel.keys import Keys

_ALGORITHM = "EdDSA"
_ACCESS_TYPE = "at+jwt"  # RFC 9068
_RECEIPT_TYPE = "receipt+jws"
_TOKEN_BYTES_MAX = 4096
_TIMES = ("exp", "iat", "nbf")
_LEEWAY = timedelta(seconds=30)


class TokenError(Exception):
    """The token is not one of ours, or no longer valid. `reason` is for logs, never for answers."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class Tokens:
    """Signs and verifies with the keys of one installation. Holds no state."""

    def __init__(self, keys: Keys, *, issuer: str) -> None:
        self._issuer = issuer
        self._access = keys.signing_key("access-token-1")
        self._receipt = keys.signing_key("receipt-1")

    def sign_access(
        self, *, subject: str, claims: dict[str, Any], now: datetime, seconds: int
    ) -> str:
        """A bearer token for `subject`, good for `seconds` from `now`."""
        return jwt.encode(
            {
                "iss": self._issuer,
                "aud": self._issuer,
                "sub": subject,
                "iat": now,
                "exp": now + timedelta(seconds=seconds),
                **claims,
            },
            self._access,
            algorithm=_ALGORITHM,
            headers={"typ": _ACCESS_TYPE, "kid": "access-1"},
        )

    def read_access(self, token: str) -> dict[str, Any]:
        """The claims of a valid access token; anything else raises TokenError."""
        return _decode(
            token,
            self._access.public_key(),
            kind=_ACCESS_TYPE,
            audience=self._issuer,
            issuer=self._issuer,
            options={"require": ["exp", "iat", "iss", "aud", "sub"]},
        )

    def sign_receipt(self, claims: dict[str, Any]) -> str:
        """A compact JWS over `claims`. Equal claims give the equal text: no time, no randomness."""
        # Sorted at every depth: equal dictionaries may list their keys in another order.
        ordered = json.loads(json.dumps(claims, sort_keys=True))
        return jwt.encode(
            ordered,
            self._receipt,
            algorithm=_ALGORITHM,
            headers={"typ": _RECEIPT_TYPE, "kid": "receipt-1"},
            sort_headers=True,
        )

    def read_receipt(self, receipt: str) -> dict[str, Any]:
        """The claims of a receipt of ours; anything else raises TokenError."""
        return _decode(receipt, self._receipt.public_key(), kind=_RECEIPT_TYPE)

    def jwks(self) -> dict[str, Any]:
        """The public keys, for anyone who wants to verify (RFC 7517, RFC 8037)."""
        return {
            "keys": [_jwk("access-1", self._access), _jwk("receipt-1", self._receipt)],
        }


def _decode(token: str, key: Ed25519PublicKey, *, kind: str, **checks: Any) -> dict[str, Any]:
    if len(token) > _TOKEN_BYTES_MAX:
        raise TokenError("too long")
    try:
        header = jwt.get_unverified_header(token)
        if header.get("typ") != kind or "crit" in header:
            raise TokenError("wrong type")
        claims: dict[str, Any] = jwt.decode(
            token, key, algorithms=[_ALGORITHM], leeway=_LEEWAY, **checks
        )
    except (jwt.PyJWTError, ValueError) as error:
        raise TokenError(type(error).__name__) from error
    # PyJWT takes the text "1700000000" for a time as well; RFC 7519 does not, and we write numbers.
    if any(type(claims.get(name, 0)) is not int for name in _TIMES):
        raise TokenError("a time that is not a number")
    return claims


def _jwk(kid: str, key: Ed25519PrivateKey) -> dict[str, str]:
    public = key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    return {
        "kty": "OKP",
        "crv": "Ed25519",
        "use": "sig",
        "alg": _ALGORITHM,
        "kid": kid,
        "x": base64.urlsafe_b64encode(public).rstrip(b"=").decode(),
    }
