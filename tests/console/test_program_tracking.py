"""How a program is tracked: links, orders from the tag, signing secrets."""

import base64
import re
from typing import Any

import pytest
from sqlmodel import Session, select

from kernel import keys
from kernel.audit import AuditEntry
from kernel.settings import Settings
from network.models import Program, RoutingVersion, SigningSecret
from network.reporting_terms import signing_key
from tests.console.world import Browser, World


def path(world: World) -> str:
    return f"/programs/{world.program.id}/tracking"


def program_of(world: World) -> Program:
    with Session(world.engine) as session:
        return session.exec(select(Program).where(Program.id == world.program.id)).one()


def routing_version(world: World) -> int:
    with Session(world.engine) as session:
        return sum(one.version for one in session.exec(select(RoutingVersion)))


def secrets_of(world: World) -> list[SigningSecret]:
    with Session(world.engine) as session:
        return sorted(session.exec(select(SigningSecret)), key=lambda one: one.id)


def test_how_links_are_followed(browser: Browser, world: World) -> None:
    browser.sign_in("advertiser")
    before = routing_version(world)

    answer = browser.send(
        path(world),
        on=path(world),
        fallback_url="https://shop.example/closed",
        click_parameter="cid",
        requires_signed_links="yes",
    )

    assert answer.status_code == 303
    program = program_of(world)
    assert (program.fallback_url, program.click_parameter) == ("https://shop.example/closed", "cid")
    assert program.requires_signed_links is True
    assert routing_version(world) == before + 1
    page = browser.open(answer.headers["location"]).text
    assert "Trackers follow within seconds." in page
    assert 'name="requires_signed_links" value="yes" checked' in page

    # A box that is not ticked is not sent, and an empty page takes it away.
    browser.send(path(world), on=path(world), fallback_url="", click_parameter="cid")
    program = program_of(world)
    assert (program.fallback_url, program.requires_signed_links) == ("", False)


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"fallback_url": "javascript:alert(1)"}, "The fallback page is a plain address"),
        ({"click_parameter": "a b"}, "A parameter is 1 to 32"),
        ({"click_parameter": ""}, "A parameter is 1 to 32"),
    ],
)
def test_what_is_wrong_is_said_and_changes_nothing(
    browser: Browser, world: World, fields: dict[str, Any], sentence: str
) -> None:
    browser.sign_in("manager")
    before = routing_version(world)

    answer = browser.send(
        path(world),
        on=path(world),
        **{"fallback_url": "https://shop.example/x", "click_parameter": "c", **fields},
    )

    assert answer.status_code == 400
    assert sentence in answer.text
    program = program_of(world)
    assert (program.fallback_url, program.click_parameter) == ("", "ts_click")
    assert routing_version(world) == before


def test_orders_from_the_tag_are_switched(browser: Browser, world: World) -> None:
    browser.sign_in("manager")
    target = f"/programs/{world.program.id}/tag-orders"

    for wanted in ("pending", "accepted", "refused"):
        answer = browser.send(target, on=path(world), tag_orders=wanted)
        assert answer.status_code == 303
        assert program_of(world).tag_orders == wanted
        assert f'value="{wanted}" checked' in browser.open(path(world)).text
    assert browser.send(target, on=path(world), tag_orders="perhaps").status_code == 400
    assert program_of(world).tag_orders == "refused"


def test_a_secret_is_shown_once_and_rotated(
    browser: Browser, world: World, settings: Settings
) -> None:
    browser.sign_in("advertiser")
    made = browser.send(f"/programs/{world.program.id}/signing-secrets", on=path(world))

    assert made.status_code == 200
    assert made.headers["cache-control"] == "no-store"
    [row] = secrets_of(world)
    shown = re.search(r'id="secret" readonly value="(whsec_[^"]+)"', made.text)
    assert shown is not None
    key = signing_key(keys.load(settings), row.id)
    assert base64.b64decode(shown[1].removeprefix("whsec_")) == key
    again = browser.open(path(world)).text
    assert row.id in again
    assert "whsec_" not in again
    with Session(world.engine) as session:
        assert all(
            "whsec_" not in str(one.model_dump()) for one in session.exec(select(AuditEntry))
        )

    browser.send(f"/programs/{world.program.id}/signing-secrets", on=path(world))
    first, second = secrets_of(world)
    retire = f"/programs/{world.program.id}/signing-secrets/{first.id}/retire"
    answer = browser.send(retire, on=path(world))

    assert answer.status_code == 303
    first, second = secrets_of(world)
    assert first.retired_at is not None
    assert second.retired_at is None
    assert "1 of 5 in force" in browser.open(path(world)).text


def test_only_so_many_secrets_are_in_force(browser: Browser, world: World) -> None:
    browser.sign_in("manager")
    target = f"/programs/{world.program.id}/signing-secrets"
    for _ in range(5):
        assert browser.send(target, on=path(world)).status_code == 200

    answer = browser.send(target, on=path(world))

    assert answer.status_code == 422
    assert "Retire one first." in answer.text
    assert "whsec_" not in answer.text
    assert len(secrets_of(world)) == 5


def test_a_secret_of_another_program_is_not_retired(browser: Browser, world: World) -> None:
    browser.sign_in("manager")
    other = f"/programs/{world.other_program.id}"
    browser.send(f"{other}/signing-secrets", on=path(world))
    [row] = secrets_of(world)

    answer = browser.send(
        f"/programs/{world.program.id}/signing-secrets/{row.id}/retire", on=path(world)
    )

    assert answer.status_code == 404
    assert secrets_of(world)[0].retired_at is None
