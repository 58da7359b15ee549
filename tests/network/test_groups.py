from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.engine import Engine
from sqlmodel import Session, select

from kernel.audit import AuditEntry
from kernel.database import unit_of_work
from kernel.errors import InvalidInput, NotFound, TooLarge
from network import groups
from network.models import PublisherGroup, PublisherGroupChange
from tests import make
from tests.make import NOW

FACTS: dict[str, Any] = {"actor": "usr_1", "now": NOW}


def put(session: Session, code: str = "gold", **facts: Any) -> PublisherGroup:
    return groups.put(session, code, **({"name": "Gold", "program_id": None} | FACTS | facts))


def members(session: Session, group: PublisherGroup, days: int) -> list[str]:
    found = groups.members(session, group, at=NOW + timedelta(days=days))
    return [one.code for one in found]


def set_members(session: Session, group: PublisherGroup, *named: str, days: int) -> int:
    at = NOW + timedelta(days=days)
    return groups.set_members(session, group, named, at=at, members_max=3, **FACTS)


def test_members_come_and_go_in_half_open_intervals(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        group = put(session)
        anna = make.publisher(session, code="anna")
        make.publisher(session, code="ben")
        assert set_members(session, group, "anna", "ben", days=0) == 2
        # A repeat changes nothing, by whichever name.
        assert set_members(session, group, "ben", anna.id, "ben", days=0) == 0
        assert set_members(session, group, "ben", days=5) == 1
        assert [members(session, group, days) for days in (-1, 0, 4, 5)] == [
            [],
            ["anna", "ben"],
            ["anna", "ben"],
            ["ben"],
        ]
        history = groups.history(session, {anna.id})
        for days, expected in ((-1, []), (0, ["gold"]), (4, ["gold"]), (5, [])):
            assert history.at(anna.id, "prg_any", NOW + timedelta(days=days)) == expected
        # What is said later of the same time counts; what is said for later stays.
        assert set_members(session, group, days=0) == 2
        assert [members(session, group, days) for days in (0, 4, 5)] == [[], [], []]
        assert len(groups.changes(session, group, limit=10)) == 5
        assert [one.is_member for one in groups.newest_changes(session, group, limit=3)] == [
            False,
            False,
            False,
        ]
        assert groups.history(session, set()).at(anna.id, "prg_any", NOW) == []
    with pytest.raises(sa.exc.DBAPIError, match="append-only"), unit_of_work(engine) as session:
        session.execute(sa.delete(PublisherGroupChange))


def test_a_group_of_a_program_is_for_its_orders_only(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        program, who = make.program(session), make.publisher(session)
        everywhere, own = put(session), put(session, "own", program_id=program.id)
        for group in (everywhere, own):
            set_members(session, group, who.id, days=-1)
        history = groups.history(session, [who.id])
        assert history.at(who.id, program.id, NOW) == ["gold", "own"]
        assert history.at(who.id, "prg_other", NOW) == ["gold"]
        asked = {"gold", "own", "none"}
        assert groups.known_codes(session, asked, program_id=program.id) == {"gold", "own"}
        assert groups.known_codes(session, asked, program_id="prg_other") == {"gold"}
        assert groups.known_codes(session, set(), program_id=program.id) == set()
        with pytest.raises(groups.GroupOfOtherProgram):
            put(session, "own")


def test_a_group_is_made_renamed_and_found(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        made = put(session)
        assert put(session).id == made.id
        assert put(session, name="Golden").name == "Golden"
        assert groups.find(session, "gold").name == "Golden"
        assert [one.code for one in groups.page(session, limit=5)] == ["gold"]
        assert groups.page(session, after_id=made.id, limit=5) == []
        assert len(session.exec(select(AuditEntry)).all()) == 2
        with pytest.raises(NotFound):
            groups.find(session, "silver")


def test_what_is_refused_changes_nothing(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        for bad in ({"code": "Gold!"}, {"name": ""}, {"name": "x" * 101}, {"name": "a\n"}):
            code = bad.pop("code", "gold")
            with pytest.raises(InvalidInput):
                put(session, code, **bad)
        assert session.exec(select(PublisherGroup)).all() == []
        group = put(session)
        make.publisher(session, code="anna")
        with pytest.raises(InvalidInput, match=r"publishers\[1\]"):
            set_members(session, group, "anna", "nobody", days=0)
        with pytest.raises(TooLarge):
            set_members(session, group, "a", "b", "c", "d", days=0)
        assert session.exec(select(PublisherGroupChange)).all() == []
