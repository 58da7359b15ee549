"""Publishers and their place in programs."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from kernel.audit import AuditEntry
from kernel.database import unit_of_work
from kernel.errors import InvalidInput, NotFound
from network import publishers
from network.models import Membership, MembershipStatus, Publisher, RoutingVersion
from network.programs import CodeTaken
from tests import make
from tests.conftest import NOW


def version(session: Session) -> int:
    row = session.get(RoutingVersion, 1)
    return row.version if row else 0


def test_a_publisher_is_added_and_found(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        one = publishers.add(session, code="blog", name="Blog", now=NOW)
        two = publishers.add(session, code="deals", name="Deals", now=NOW)

    assert one.id.startswith("pub_")
    assert (one.number, two.number) == (1, 2)
    with unit_of_work(engine) as session:
        assert publishers.get(session, one.id).name == "Blog"
        assert version(session) == 2


def test_a_wrong_code_is_named_and_a_taken_one_refused(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session:
        publishers.add(session, code="blog", name="Blog", now=NOW)
        with pytest.raises(InvalidInput) as refused:
            publishers.add(session, code="My Blog", name="Blog", now=NOW)
        with pytest.raises(CodeTaken):
            publishers.add(session, code="blog", name="Other", now=NOW)

        assert refused.value.problems[0].field == "code"
        assert [each.name for each in session.exec(select(Publisher))] == ["Blog"]
        assert version(session) == 1


def test_a_publisher_that_does_not_exist_is_not_found(sqlite_engine: Engine) -> None:
    with unit_of_work(sqlite_engine) as session, pytest.raises(NotFound) as refused:
        publishers.get(session, "pub_0")

    assert refused.value.facts == {"kind": "publisher"}


def test_a_membership_changes_are_audited_and_told_and_a_repeat_is_neither(
    engine: Engine,
) -> None:
    with unit_of_work(engine) as session:
        program, publisher = make.program(session), make.publisher(session)
        found = [
            publishers.set_membership(
                session, program=program, publisher=publisher, status=status, actor="u", now=NOW
            )
            for status in (
                MembershipStatus.PENDING,
                MembershipStatus.APPROVED,
                MembershipStatus.APPROVED,
                MembershipStatus.SUSPENDED,
            )
        ]

    with unit_of_work(engine) as session:
        [membership] = session.exec(select(Membership)).all()
        assert {each.id for each in found} == {membership.id}
        assert membership.status == "suspended"
        entries = session.exec(select(AuditEntry).order_by(col(AuditEntry.seq))).all()
        assert {(each.actor, each.action, each.subject_id) for each in entries} == {
            ("u", "membership.status", membership.id)
        }
        assert [each.facts for each in entries] == [
            {"before": None, "after": "pending"},
            {"before": "pending", "after": "approved"},
            {"before": "approved", "after": "suspended"},
        ]
        assert version(session) == 3


def test_programs_of_a_publisher_are_those_that_approved_it_by_name(engine: Engine) -> None:
    with unit_of_work(engine) as session:
        publisher, other = make.publisher(session), make.publisher(session)
        for name, status in (
            ("Zoo", MembershipStatus.APPROVED),
            ("Bar", MembershipStatus.APPROVED),
            ("Pen", MembershipStatus.PENDING),
            ("Sus", MembershipStatus.SUSPENDED),
        ):
            program = make.program(session, name=name)
            make.membership(session, program, publisher, status=status)
        make.membership(session, make.program(session, name="Foreign"), other)

        assert [each.name for each in publishers.programs_of(session, publisher.id)] == [
            "Bar",
            "Zoo",
        ]


def test_two_managers_may_add_publishers_at_once(engine: Engine) -> None:
    start = threading.Barrier(4)

    def add(at: int) -> int:
        start.wait()
        with unit_of_work(engine) as session:
            return publishers.add(session, code=f"site-{at}", name="Site", now=NOW).number

    with ThreadPoolExecutor(4) as pool:
        numbers = list(pool.map(add, range(4)))

    assert sorted(numbers) == [1, 2, 3, 4]
    with unit_of_work(engine) as session:
        assert version(session) == 4
