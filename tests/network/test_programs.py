"""Programs: facts that links and money depend on are checked before anything is written."""

from typing import Any

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from kernel.audit import AuditEntry
from kernel.database import unit_of_work
from kernel.errors import InvalidInput, NotFound
from network import programs
from network.models import Program, ProgramStatus, RoutingVersion
from network.programs import CodeTaken
from tests.conftest import NOW


def version(session: Session) -> int:
    row = session.get(RoutingVersion, 1)
    return row.version if row else 0


def add(session: Session, **changes: Any) -> Program:
    facts: dict[str, Any] = {
        "code": "shop",
        "name": "Shop",
        "currency": "EUR",
        "landing_url": "https://shop.example/",
        "now": NOW,
    } | changes
    if "advertiser_id" not in facts:
        facts["advertiser_id"] = programs.add_advertiser(session, name="Shop Ltd", now=NOW).id
    return programs.add(session, **facts)


def test_a_program_is_added_with_its_defaults(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        made = add(session, landing_url="https://WWW.Shop.example:8443/a?b=c")
        other = add(session, code="other")

    assert made.id.startswith("prg_")
    assert (made.number, other.number) == (1, 2)
    assert (made.status, made.timezone, made.currency) == ("active", "UTC", "EUR")
    assert made.allowed_domains == ["www.shop.example"]
    assert made.landing_url == "https://WWW.Shop.example:8443/a?b=c"
    with unit_of_work(engine) as session:
        assert programs.find(session, "shop").id == made.id
        assert programs.find(session, made.id).id == made.id
        assert programs.get(session, made.id).code == "shop"
        assert version(session) == 2


def test_the_landing_host_is_always_an_allowed_domain(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        made = add(session, allowed_domains=["M.shop.example", "shop.example"])

    assert made.allowed_domains == ["m.shop.example", "shop.example"]


@pytest.mark.parametrize(
    ("changes", "field", "rule"),
    [
        ({"code": ""}, "code", "format"),
        ({"code": "Shop"}, "code", "format"),
        ({"code": "-shop"}, "code", "format"),
        ({"code": "shop-"}, "code", "format"),
        ({"code": "a/b"}, "code", "format"),
        ({"code": "shop\n"}, "code", "format"),
        ({"code": "\u0441hop"}, "code", "format"),
        ({"code": "a" * 65}, "code", "format"),
        ({"currency": "eur"}, "currency", "iso_4217"),
        ({"currency": "BTC"}, "currency", "iso_4217"),
        ({"currency": ""}, "currency", "iso_4217"),
        ({"timezone": "Mars/Olympus"}, "timezone", "iana"),
        ({"timezone": ""}, "timezone", "iana"),
        ({"timezone": "../../etc/passwd"}, "timezone", "iana"),
        ({"timezone": "Europe"}, "timezone", "iana"),
        ({"timezone": "a" * 500}, "timezone", "iana"),
        ({"timezone": "UTC\0"}, "timezone", "iana"),
        ({"landing_url": ""}, "landing_url", "url"),
        ({"landing_url": "shop.example"}, "landing_url", "url"),
        ({"landing_url": "//shop.example/"}, "landing_url", "url"),
        ({"landing_url": "javascript:alert(1)"}, "landing_url", "url"),
        ({"landing_url": "ftp://shop.example/"}, "landing_url", "url"),
        ({"landing_url": "https:///path"}, "landing_url", "url"),
        ({"landing_url": "https://user@shop.example/"}, "landing_url", "url"),
    ],
)
def test_a_wrong_fact_is_named_and_nothing_is_added(
    sqlite_engine: Engine, changes: dict[str, Any], field: str, rule: str
) -> None:
    with unit_of_work(sqlite_engine) as session:
        with pytest.raises(InvalidInput) as refused:
            add(session, **changes)

        assert [(each.field, each.rule) for each in refused.value.problems] == [(field, rule)]
        assert session.exec(select(Program)).all() == []
        assert version(session) == 0


@pytest.mark.parametrize(
    "landing_url",
    [
        "http://[::1",
        "https://shop.example:99999/",
        "https://:secret@shop.example/",
        "https://shop.example/\r\nSet-Cookie: a=b",
        "https://shop.example/\nx",
        "https://shop .example/",
        "https://evil.example\\@shop.example/",
        "https://shop.example/\0",
    ],
)
def test_bug_a_landing_page_that_is_no_plain_address_was_taken_or_crashed(
    sqlite_engine: Engine, landing_url: str
) -> None:
    with unit_of_work(sqlite_engine) as session:
        with pytest.raises(InvalidInput, match="landing_url: must be a plain http or https"):
            add(session, landing_url=landing_url)

        assert session.exec(select(Program)).all() == []


@pytest.mark.parametrize("code", ["a", "7", "a-b--c", "a" * 64])
def test_codes_that_may_stand_in_a_link(code: str) -> None:
    assert programs.check_code(code) == code


def test_a_code_is_given_once(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        add(session)
    with unit_of_work(engine) as session:
        with pytest.raises(CodeTaken) as refused:
            add(session, name="Another")

        assert refused.value.facts == {"field": "code"}
        assert [each.name for each in session.exec(select(Program))] == ["Shop"]
        assert version(session) == 1


def test_what_does_not_exist_is_not_found(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        for look in (programs.get, programs.find):
            with pytest.raises(NotFound) as refused:
                look(session, "nothing")
            assert refused.value.facts == {"kind": "program"}


def test_pausing_is_audited_once_and_trackers_are_told_once(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        made = add(session)
    with unit_of_work(engine) as session:
        found = programs.get(session, made.id)
        for status in (ProgramStatus.PAUSED, ProgramStatus.PAUSED, ProgramStatus.ACTIVE):
            programs.set_status(session, found, status=status, actor="usr_1", now=NOW)

    with unit_of_work(engine) as session:
        entries = session.exec(select(AuditEntry).order_by(col(AuditEntry.seq))).all()
        assert [(each.actor, each.action, each.subject_id) for each in entries] == [
            ("usr_1", "program.status", made.id)
        ] * 2
        assert [each.facts for each in entries] == [
            {"before": "active", "after": "paused"},
            {"before": "paused", "after": "active"},
        ]
        assert version(session) == 3
        assert programs.get(session, made.id).status == "active"


def test_a_landing_page_moves_and_its_domains_stay(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        made = add(session, landing_url="https://shop.example/")
        before = version(session)
        for _ in range(2):
            programs.set_landing(
                session, made, landing_url="https://new.example:8443/x", actor="t", now=NOW
            )
        assert made.landing_url == "https://new.example:8443/x"
        assert made.allowed_domains == ["new.example", "shop.example"]
        assert version(session) == before + 1
        with pytest.raises(InvalidInput, match="landing_url"):
            programs.set_landing(session, made, landing_url="javascript:x", actor="t", now=NOW)
        entries = session.exec(
            select(AuditEntry).where(col(AuditEntry.action) == "program.landing")
        ).all()

    assert len(entries) == 1
