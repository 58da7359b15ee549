"""Tokens: what we signed, for us, of this kind, within its time; everything else is refused."""

import base64
import hmac
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kernel import clock
from kernel.keys import Keys
from kernel.tokens import TokenError, Tokens

ISSUER = "https://net.example"
KEYS = Keys(b"k" * 32)
TOKENS = Tokens(KEYS, issuer=ISSUER)
ACCESS_KEY = KEYS.signing_key("access-token-1")
RECEIPT_KEY = KEYS.signing_key("receipt-1")


def b64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def signed(header: dict[str, Any], claims: Any, *, key: Ed25519PrivateKey = ACCESS_KEY) -> str:
    """A JWS put together by hand: what a library would refuse to sign is what we want to send."""
    start = f"{b64(json.dumps(header).encode())}.{b64(json.dumps(claims).encode())}"
    return f"{start}.{b64(key.sign(start.encode()))}"


def claims(**changes: Any) -> dict[str, Any]:
    seconds = int(clock.now().timestamp())
    whole = {"iss": ISSUER, "aud": ISSUER, "sub": "cli_1", "iat": seconds, "exp": seconds + 60}
    return {name: value for name, value in (whole | changes).items() if value is not ...}


HEADER = {"typ": "at+jwt", "alg": "EdDSA", "kid": "access-1"}


def test_what_was_signed_is_read_back() -> None:
    now = clock.now()

    token = TOKENS.sign_access(subject="cli_1", claims={"scope": "manager"}, now=now, seconds=60)

    assert TOKENS.read_access(token) == {
        "iss": ISSUER,
        "aud": ISSUER,
        "sub": "cli_1",
        "iat": int(now.timestamp()),
        "exp": int(now.timestamp()) + 60,
        "scope": "manager",
    }
    assert jwt.get_unverified_header(token) == HEADER
    assert TOKENS.read_access(signed(HEADER, claims()))["sub"] == "cli_1"


@pytest.mark.parametrize(
    "changes",
    [
        {"exp": int(datetime(2020, 1, 1, tzinfo=UTC).timestamp())},
        {"exp": ...},
        {"exp": None},
        {"exp": True},
        {"exp": "soon"},
        {"exp": float("inf")},
        {"exp": -(10**400)},
        {"iat": ...},
        {"iat": int(datetime(2100, 1, 1, tzinfo=UTC).timestamp())},
        {"nbf": int(datetime(2100, 1, 1, tzinfo=UTC).timestamp())},
        {"iss": "https://other.example"},
        {"iss": ...},
        {"aud": "https://other.example"},
        {"aud": ...},
        {"aud": []},
        {"sub": ...},
        {"sub": 7},
    ],
)
def test_claims_of_another_time_or_place_are_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(TokenError):
        TOKENS.read_access(signed(HEADER, claims(**changes)))


@pytest.mark.parametrize("name", ["exp", "iat", "nbf"])
def test_bug_a_time_written_as_text_was_taken_for_a_time(name: str) -> None:
    seconds = int(clock.now().timestamp()) + (60 if name == "exp" else -60)

    with pytest.raises(TokenError):
        TOKENS.read_access(signed(HEADER, claims(**{name: str(seconds)})))

    assert TOKENS.read_access(signed(HEADER, claims(**{name: seconds})))["sub"] == "cli_1"


def test_half_a_minute_of_difference_between_clocks_is_forgiven_and_no_more() -> None:
    now = clock.now()

    def expired(seconds: int) -> str:
        then = now - timedelta(seconds=60 + seconds)
        return TOKENS.sign_access(subject="cli_1", claims={}, now=then, seconds=60)

    assert TOKENS.read_access(expired(20))["sub"] == "cli_1"
    with pytest.raises(TokenError) as refused:
        TOKENS.read_access(expired(31))
    assert refused.value.reason == "ExpiredSignatureError"


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "JWT", "alg": "EdDSA"},
        {"typ": "AT+JWT", "alg": "EdDSA"},
        {"typ": ["at+jwt"], "alg": "EdDSA"},
        {"alg": "EdDSA"},
        {"typ": "receipt+jws", "alg": "EdDSA"},
        {"typ": "at+jwt"},
        {"typ": "at+jwt", "alg": "none"},
        {"typ": "at+jwt", "alg": "ES256"},
        {"typ": "at+jwt", "alg": "EdDSA", "crit": ["exp"]},
        {"typ": "at+jwt", "alg": "EdDSA", "crit": []},
        {"typ": "at+jwt", "alg": "EdDSA", "b64": False},
        {"typ": "at+jwt", "alg": "EdDSA", "kid": 7},
    ],
)
def test_a_header_we_would_not_write_is_refused(header: dict[str, Any]) -> None:
    with pytest.raises(TokenError):
        TOKENS.read_access(signed(header, claims()))


@pytest.mark.parametrize("algorithm", ["none", "None", "NONE", ""])
def test_a_token_without_signature_is_refused(algorithm: str) -> None:
    header = b64(json.dumps({"typ": "at+jwt", "alg": algorithm}).encode())

    for signature in ("", "AA"):
        with pytest.raises(TokenError):
            TOKENS.read_access(f"{header}.{b64(json.dumps(claims()).encode())}.{signature}")


@pytest.mark.parametrize("encoding", [Encoding.Raw, Encoding.PEM, Encoding.DER])
def test_a_token_signed_with_the_public_key_as_hmac_secret_is_refused(encoding: Encoding) -> None:
    form = PublicFormat.Raw if encoding is Encoding.Raw else PublicFormat.SubjectPublicKeyInfo
    public = ACCESS_KEY.public_key().public_bytes(encoding, form)
    start = ".".join(
        b64(json.dumps(part).encode()) for part in ({"typ": "at+jwt", "alg": "HS256"}, claims())
    )
    forged = f"{start}.{b64(hmac.digest(public, start.encode(), 'sha256'))}"

    with pytest.raises(TokenError):
        TOKENS.read_access(forged)


@pytest.mark.parametrize("payload", [[], "text", 7, None])
def test_a_payload_that_is_no_object_is_refused(payload: Any) -> None:
    with pytest.raises(TokenError):
        TOKENS.read_access(signed(HEADER, payload))


@pytest.mark.parametrize(
    "token",
    [
        "",
        ".",
        "..",
        "...",
        "a.b.c",
        "\u00e9.\u00e9.\u00e9",
        "\ud800.a.b",
        "\0",
        b64(b"[" * 2500) + ".e30.AA",
        b64(b"7") + ".e30.AA",
        b64(b"\xff") + ".e30.AA",
    ],
)
def test_what_is_no_token_at_all_is_refused(token: str) -> None:
    for read in (TOKENS.read_access, TOKENS.read_receipt):
        with pytest.raises(TokenError):
            read(token)


def test_a_token_of_5_megabytes_is_refused_unread() -> None:
    token = signed(HEADER, claims(padding="x" * 5 * 2**20))

    with pytest.raises(TokenError) as refused:
        TOKENS.read_access(token)

    assert refused.value.reason == "too long"


def test_every_changed_character_is_noticed() -> None:
    token = signed(HEADER, claims())
    head, payload, signature = token.split(".")
    # The last character of 64 bytes in base64 has four bits that mean nothing.
    for place in range(len(signature) - 1):
        other = "A" if signature[place] != "A" else "B"
        with pytest.raises(TokenError):
            TOKENS.read_access(
                f"{head}.{payload}.{signature[:place]}{other}{signature[place + 1 :]}"
            )


def test_a_token_of_another_installation_is_refused() -> None:
    other = Tokens(Keys(b"o" * 32), issuer=ISSUER)

    with pytest.raises(TokenError):
        TOKENS.read_access(other.sign_access(subject="a", claims={}, now=clock.now(), seconds=60))


def test_receipts_and_access_tokens_do_not_stand_in_for_one_another() -> None:
    access = TOKENS.sign_access(subject="cli_1", claims={}, now=clock.now(), seconds=60)
    receipt = TOKENS.sign_receipt(claims())

    with pytest.raises(TokenError):
        TOKENS.read_receipt(access)
    with pytest.raises(TokenError):
        TOKENS.read_access(receipt)
    # Nor when the type is right and the key is the other one.
    with pytest.raises(TokenError):
        TOKENS.read_access(signed(HEADER, claims(), key=RECEIPT_KEY))
    with pytest.raises(TokenError):
        TOKENS.read_receipt(signed({"typ": "receipt+jws", "alg": "EdDSA"}, {"order": "1"}))


def test_the_same_order_gives_the_same_receipt_at_any_time() -> None:
    facts = {"program": "shop", "conversion": "cnv_1", "hash": "abc"}

    receipt = TOKENS.sign_receipt(facts)

    assert (
        Tokens(Keys(b"k" * 32), issuer="https://elsewhere.example").sign_receipt(facts) == receipt
    )
    assert TOKENS.sign_receipt(facts | {"hash": "abd"}) != receipt
    assert TOKENS.read_receipt(receipt) == facts
    assert unb64(receipt.split(".")[0]) == b'{"alg":"EdDSA","kid":"receipt-1","typ":"receipt+jws"}'


def test_bug_equal_claims_in_another_order_gave_another_receipt() -> None:
    one = TOKENS.sign_receipt({"a": 1, "b": {"c": 2, "d": 3}})

    assert TOKENS.sign_receipt({"b": {"d": 3, "c": 2}, "a": 1}) == one


def test_anyone_can_verify_with_the_published_keys() -> None:
    published = {key["kid"]: key for key in TOKENS.jwks()["keys"]}
    receipt = TOKENS.sign_receipt({"order": "1"})
    header, payload, signature = receipt.split(".")
    found = published[json.loads(unb64(header))["kid"]]
    key = Ed25519PublicKey.from_public_bytes(unb64(found["x"]))

    key.verify(unb64(signature), f"{header}.{payload}".encode())
    with pytest.raises(InvalidSignature):
        key.verify(unb64(signature), f"{header}.{payload}x".encode())
    assert set(published) == {"access-1", "receipt-1"}
    assert published["access-1"]["x"] != published["receipt-1"]["x"]
    assert {(each["kty"], each["crv"], each["alg"]) for each in published.values()} == {
        ("OKP", "Ed25519", "EdDSA")
    }
    assert not any("d" in each for each in published.values())


def test_no_token_of_the_published_attacks_is_ours(shared_data: Path) -> None:
    path = shared_data / "attacks" / "jwt" / "wycheproof_json_web_signature_test.json"
    if not path.is_file():
        pytest.skip(f"no Wycheproof signatures at {path}")
    groups = json.loads(path.read_text())["testGroups"]
    texts = [str(test["jws"]) for group in groups for test in group["tests"]]

    for text in texts:
        for read in (TOKENS.read_access, TOKENS.read_receipt):
            with pytest.raises(TokenError):
                read(text)

    assert len(texts) > 300
