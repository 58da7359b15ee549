"""Tokens: who gets one, and which ones are believed."""

import base64
import json
from datetime import timedelta
from typing import Any
from urllib.parse import quote_plus

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlmodel import Session

from kernel import clock
from kernel.database import unit_of_work
from kernel.keys import load as load_keys
from kernel.tokens import Tokens
from network.models import ApiClient
from tests.partner_api.world import Api, World


def ask(api: Api, **fields: str) -> Any:
    return api.http.post("/oauth/token", data=fields)


def credentials(world: World, **changes: str) -> dict[str, str]:
    side = world.publishers[0]
    return {
        "grant_type": "client_credentials",
        "client_id": side.client_id,
        "client_secret": side.secret,
    } | changes


def try_token(api: Api, token: str) -> Any:
    return api.http.get("/v1/programs", headers={"Authorization": f"Bearer {token}"})


def claims_of(api: Api, world: World, **changes: Any) -> dict[str, Any]:
    now = clock.now()
    return {
        "iss": api.context.settings.public_url,
        "aud": api.context.settings.public_url,
        "sub": world.publishers[0].client_id,
        "scope": "publisher",
        "party": world.publishers[0].id,
        "name": "forged",
        "iat": int(now.timestamp()),
        "exp": int((now + timedelta(minutes=10)).timestamp()),
    } | changes


def test_client_credentials_give_a_token_that_opens_the_api(api: Api, world: World) -> None:
    answer = ask(api, **credentials(world))

    assert answer.status_code == 200
    assert answer.headers["cache-control"] == "no-store"
    document = answer.json()
    token = document.pop("access_token")
    assert document == {"token_type": "Bearer", "expires_in": 900, "scope": "publisher"}
    listed = try_token(api, token)
    assert listed.status_code == 200
    assert [row["code"] for row in listed.json()["data"]] == ["shop-1"]


def test_basic_authentication_and_json_are_taken_too(api: Api, world: World) -> None:
    side = world.advertisers[0]
    pair = f"{quote_plus(side.client_id)}:{quote_plus(side.secret)}".encode()
    by_header = api.http.post(
        "/oauth/token",
        data={"grant_type": "client_credentials", "scope": "advertiser"},
        headers={"Authorization": f"Basic {base64.b64encode(pair).decode()}"},
    )
    by_json = api.http.post("/oauth/token", json=credentials(world))

    assert (by_header.status_code, by_header.json()["scope"]) == (200, "advertiser")
    assert (by_json.status_code, by_json.json()["scope"]) == (200, "publisher")


@pytest.mark.parametrize(
    "changes",
    [{"client_secret": "wrong"}, {"client_id": "cli_nobody"}, {"client_secret": "x" * 512}],
)
def test_wrong_credentials_are_one_and_the_same_refusal(
    api: Api, world: World, changes: dict[str, str]
) -> None:
    answer = ask(api, **credentials(world, **changes))

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith("Basic ")
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["content-type"] == "application/json"
    document = answer.json()
    assert document["error"] == document["code"] == "invalid_client"
    assert document["detail"] == "the client id or the client secret is wrong"
    assert "access_token" not in document


NO_REQUESTS: tuple[tuple[dict[str, str], str], ...] = (
    ({"grant_type": "password"}, "unsupported_grant_type"),
    ({"grant_type": "authorization_code"}, "unsupported_grant_type"),
    ({"grant_type": ""}, "invalid_request"),
    ({"client_id": ""}, "invalid_request"),
    ({"client_secret": ""}, "invalid_request"),
    ({"scope": "manager"}, "invalid_scope"),
)


def test_requests_that_are_none(api: Api, world: World) -> None:
    for fields, code in NO_REQUESTS:
        answer = ask(api, **credentials(world, **fields))
        assert answer.status_code == 400, fields
        assert answer.json()["error"] == answer.json()["code"] == code
        assert "access_token" not in answer.json()


UNREADABLE = (
    (b"grant_type=client_credentials&grant_type=client_credentials", "x-www-form-urlencoded"),
    (b"\xff\xfe=1", "x-www-form-urlencoded"),
    (b"&".join(b"a%d=1" % number for number in range(50)), "x-www-form-urlencoded"),
    (b"[1]", "json"),
    (b'{"grant_type": 1}', "json"),
    (b'{"grant_type": "a", "grant_type": "b"}', "json"),
    (b"{" * 100_000, "json"),
    (b'{"client_id": "a\\u0000b"}', "json"),
)


def test_bodies_that_cannot_be_read(api: Api) -> None:
    for body, media_type in UNREADABLE:
        answer = api.http.post(
            "/oauth/token", content=body, headers={"Content-Type": f"application/{media_type}"}
        )
        assert answer.status_code == 400, body[:40]
        assert answer.json()["error"] == "invalid_request"


def test_a_secret_in_two_places_is_refused(api: Api, world: World) -> None:
    pair = base64.b64encode(b"a:b").decode()
    answer = api.http.post(
        "/oauth/token", data=credentials(world), headers={"Authorization": f"Basic {pair}"}
    )

    assert (answer.status_code, answer.json()["error"]) == (400, "invalid_request")


def test_the_eleventh_wrong_secret_waits_and_others_do_not(api: Api, world: World) -> None:
    wrong = credentials(world, client_secret="wrong")
    statuses = [ask(api, **wrong).status_code for _ in range(10)]
    blocked = ask(api, **wrong)
    right_one = ask(api, **credentials(world))
    other = world.publishers[1]
    other_client = ask(
        api, **credentials(world, client_id=other.client_id, client_secret=other.secret)
    )

    assert statuses == [401] * 10
    assert blocked.status_code == 429
    assert blocked.json()["code"] == "too_many_requests"
    assert blocked.headers["retry-after"] == "900"
    # Even the right secret, or guessing would go on and only its answers be late.
    assert right_one.status_code == 429
    assert other_client.status_code == 200


def test_right_secrets_are_not_counted(api: Api, world: World) -> None:
    assert {ask(api, **credentials(world)).status_code for _ in range(12)} == {200}


def test_a_token_lives_until_it_expires(api: Api, world: World) -> None:
    side = world.publishers[0]
    with Session(api.context.engine) as session:
        client = session.get_one(ApiClient, side.client_id)
    facts = {"scope": client.role, "party": client.party_id, "name": "x", "client_id": client.id}

    def signed(seconds_ago: int) -> str:
        return api.context.tokens.sign_access(
            subject=client.id,
            claims=facts,
            now=clock.now() - timedelta(seconds=seconds_ago),
            seconds=900,
        )

    assert try_token(api, signed(800)).status_code == 200
    expired = try_token(api, signed(900 + 60))
    assert expired.status_code == 401
    assert expired.json()["code"] == "unauthenticated"
    assert expired.headers["www-authenticate"] == 'Bearer realm="tallystick"'


@pytest.mark.parametrize(
    "changes",
    [
        {"aud": "https://elsewhere.example"},
        {"iss": "https://elsewhere.example"},
        {"exp": 1},
        {"exp": None},
    ],
)
def test_signed_by_us_for_something_else(api: Api, world: World, changes: dict[str, Any]) -> None:
    key = load_keys(api.context.settings).signing_key("access-token-1")
    claims = {k: v for k, v in claims_of(api, world, **changes).items() if v is not None}
    token = jwt.encode(claims, key, algorithm="EdDSA", headers={"typ": "at+jwt"})
    unchanged = jwt.encode(claims_of(api, world), key, algorithm="EdDSA", headers={"typ": "at+jwt"})

    assert try_token(api, unchanged).status_code == 200
    assert try_token(api, token).status_code == 401


def _part(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


def test_tokens_without_a_real_signature(api: Api, world: World) -> None:
    claims = claims_of(api, world)
    public = load_keys(api.context.settings).signing_key("access-token-1").public_key()
    header = _part(json.dumps({"alg": "none", "typ": "at+jwt"}).encode())
    unsigned = f"{header}.{_part(json.dumps(claims).encode())}."
    # The classic confusion: our public key, which anyone has, used as an HMAC secret.
    confused = jwt.encode(
        claims, public.public_bytes_raw(), algorithm="HS256", headers={"typ": "at+jwt"}
    )
    strangers = jwt.encode(
        claims, Ed25519PrivateKey.generate(), algorithm="EdDSA", headers={"typ": "at+jwt"}
    )
    receipt = api.context.tokens.sign_receipt(claims)

    for token in (unsigned, confused, strangers, receipt, "", "x", "a.b.c"):
        assert try_token(api, token).status_code == 401, token


def test_another_installations_token_is_not_ours(api: Api, world: World) -> None:
    other = Tokens(load_keys(api.context.settings), issuer="https://other.example")
    token = other.sign_access(
        subject=world.publishers[0].client_id,
        claims={"scope": "manager", "party": "", "name": "x"},
        now=clock.now(),
        seconds=900,
    )

    assert try_token(api, token).status_code == 401


def test_a_disabled_client_is_refused_at_once(api: Api, world: World) -> None:
    token = api.token(world.publishers[0])
    assert try_token(api, token).status_code == 200

    with unit_of_work(api.context.engine) as session:
        client = session.get_one(ApiClient, world.publishers[0].client_id)
        client.disabled_at = clock.now()
        session.add(client)

    assert try_token(api, token).status_code == 401
    assert ask(api, **credentials(world)).json()["error"] == "invalid_client"


def test_the_published_keys_verify_a_token(api: Api, world: World) -> None:
    answer = api.http.get("/.well-known/jwks.json")
    keys = {key["kid"]: key for key in answer.json()["keys"]}
    token = api.token(world.publishers[0])

    kid = jwt.get_unverified_header(token)["kid"]
    claims = jwt.decode(
        token,
        jwt.PyJWK.from_dict(keys[kid]),
        algorithms=["EdDSA"],
        audience="http://127.0.0.1:8000",
    )
    assert claims["party"] == world.publishers[0].id
    assert all("d" not in key for key in keys.values())


def test_the_metadata_names_what_is_there(api: Api) -> None:
    metadata = api.http.get("/.well-known/oauth-authorization-server").json()

    assert metadata == {
        "issuer": "http://127.0.0.1:8000",
        "token_endpoint": "http://127.0.0.1:8000/oauth/token",
        "jwks_uri": "http://127.0.0.1:8000/.well-known/jwks.json",
        "scopes_supported": ["manager", "advertiser", "publisher"],
        "response_types_supported": [],
        "grant_types_supported": ["client_credentials"],
        "token_endpoint_auth_methods_supported": ["client_secret_basic", "client_secret_post"],
        "service_documentation": "http://127.0.0.1:8000/docs",
    }
