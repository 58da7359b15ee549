"""Named groups of publishers, which rules of commission plans may name.

Who is in a group is a history: rows that say from when on a publisher is in it, or no longer. So
the groups of a publisher at any time are known, and they are half-open intervals. What an order was
decided by is kept with it; what is said later of a time before is for orders that come in later.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

import sqlalchemy as sa
from sqlmodel import Session, col, select

from kernel import audit
from kernel.database import take_turns
from kernel.errors import Conflict, NotFound, TooLarge, invalid
from kernel.ids import new_id
from network import programs
from network.models import Publisher, PublisherGroup, PublisherGroupChange

NAME_CHARS_MAX: Final = 100
_IDS_PER_QUERY: Final = 500
_change, _group = (
    PublisherGroup.metadata.tables[name] for name in ("publisher_group_change", "publisher_group")
)
# Asked for every batch of orders that somebody brought; built once.
_OF_PUBLISHERS: Final = (
    sa.select(
        _change.c.publisher_id,
        _group.c.code,
        _group.c.program_id,
        _change.c.at,
        _change.c.is_member,
    )
    .join(_group, _group.c.id == _change.c.group_id)
    .where(_change.c.publisher_id.in_(sa.bindparam("publisher_ids", expanding=True)))
    .order_by(_change.c.at, _change.c.seq)
)


class GroupOfOtherProgram(Conflict):
    """The code belongs to a group of other publishers' orders: of another program, or of all."""

    code = "group_of_other_program"
    title = "The group belongs to something else"


class History:
    """When which publishers were in which groups."""

    def __init__(self, rows: Iterable[tuple[str, str, str | None, datetime, bool]]) -> None:
        self._rows: dict[str, list[tuple[str, str | None, datetime, bool]]] = {}
        for publisher_id, code, program_id, at, is_member in rows:
            of_publisher = self._rows.setdefault(publisher_id, [])
            of_publisher.append((code, program_id, at, is_member))

    def at(self, publisher_id: str, program_id: str, at: datetime) -> list[str]:
        """The codes of the groups a publisher is in for orders of a program, sorted."""
        # In the order of their times, so that what was said last of one stays.
        held = {
            code: is_member
            for code, of_program, since, is_member in self._rows.get(publisher_id, ())
            if since <= at and of_program in (None, program_id)
        }
        return sorted(code for code, is_member in held.items() if is_member)


def history(session: Session, publisher_ids: Collection[str]) -> History:
    """What is recorded of these publishers; nothing is asked for nobody."""
    rows: list[Any] = []
    asked = sorted(publisher_ids)
    for start in range(0, len(asked), _IDS_PER_QUERY):
        part = asked[start : start + _IDS_PER_QUERY]
        rows += session.execute(_OF_PUBLISHERS, {"publisher_ids": part})
    return History(rows)


def put(
    session: Session,
    code: str,
    *,
    name: str,
    program_id: str | None,
    actor: str,
    now: datetime,
) -> PublisherGroup:
    """The group with this code, made or renamed; a repeat changes nothing.

    GroupOfOtherProgram when it is there for other orders: what plans mean by it never moves.
    """
    programs.check_code(code)
    if not 0 < len(name) <= NAME_CHARS_MAX or not name.isprintable():
        raise invalid("name", "length", f"must be 1 to {NAME_CHARS_MAX} printable characters")
    take_turns(session, "publisher_group.code")
    group = session.exec(select(PublisherGroup).where(PublisherGroup.code == code)).one_or_none()
    before: dict[str, Any] | None = None
    if group is None:
        group = PublisherGroup(
            id=new_id("grp", at=now), code=code, name=name, program_id=program_id, created_at=now
        )
    elif group.program_id != program_id:
        raise GroupOfOtherProgram(f"the group {code!r} is there for other programs", field="code")
    elif group.name == name:
        return group
    else:
        before = {"name": group.name}
        group.name = name
    session.add(group)
    audit.record(
        session,
        actor=actor,
        action="publisher_group.put",
        subject_id=group.id,
        now=now,
        code=code,
        before=before,
        after={"name": name, "program_id": program_id},
    )
    session.flush()
    return group


def find(session: Session, code: str) -> PublisherGroup:
    """The group with this code; NotFound when there is none."""
    group = session.exec(select(PublisherGroup).where(PublisherGroup.code == code)).one_or_none()
    if group is None:
        raise NotFound("no such publisher group", kind="publisher_group")
    return group


def page(session: Session, *, after_id: str = "", limit: int) -> list[PublisherGroup]:
    """Groups in the order in which they were made."""
    query = select(PublisherGroup).where(col(PublisherGroup.id) > after_id)
    return list(session.exec(query.order_by(col(PublisherGroup.id)).limit(limit)))


def known_codes(session: Session, codes: Collection[str], *, program_id: str) -> set[str]:
    """Which of these codes are groups that orders of the program can be in."""
    if not codes:
        return set()
    query = select(PublisherGroup.code).where(
        col(PublisherGroup.code).in_(sorted(codes)),
        sa.or_(
            col(PublisherGroup.program_id).is_(None), col(PublisherGroup.program_id) == program_id
        ),
    )
    return set(session.exec(query))


def members(session: Session, group: PublisherGroup, *, at: datetime) -> list[Publisher]:
    """The publishers that are in the group at that time, by code."""
    held = _held(session, group, at)
    found = [one for one, is_member in held.items() if is_member]
    publishers: list[Publisher] = []
    for start in range(0, len(found), _IDS_PER_QUERY):
        part = found[start : start + _IDS_PER_QUERY]
        publishers += session.exec(select(Publisher).where(col(Publisher.id).in_(part)))
    return sorted(publishers, key=lambda one: one.code)


def changes(
    session: Session, group: PublisherGroup, *, after_seq: int = 0, limit: int
) -> list[PublisherGroupChange]:
    """What was said about the group's members, in the order in which it was recorded."""
    query = select(PublisherGroupChange).where(
        PublisherGroupChange.group_id == group.id, col(PublisherGroupChange.seq) > after_seq
    )
    return list(session.exec(query.order_by(col(PublisherGroupChange.seq)).limit(limit)))


def newest_changes(
    session: Session, group: PublisherGroup, *, limit: int
) -> list[PublisherGroupChange]:
    """The last of them, the newest first."""
    query = select(PublisherGroupChange).where(PublisherGroupChange.group_id == group.id)
    return list(session.exec(query.order_by(col(PublisherGroupChange.seq).desc()).limit(limit)))


def set_members(
    session: Session,
    group: PublisherGroup,
    named: Sequence[str],
    *,
    at: datetime,
    members_max: int,
    actor: str,
    now: datetime,
) -> int:
    """Have exactly these publishers (codes or ids) in the group from `at` on; how many changed.

    Orders that are decided already keep their groups, and what was said for a later time than `at`
    stays. TooLarge over `members_max`, InvalidInput naming a publisher that does not exist; then
    nothing changes. A repeat changes nothing.
    """
    if len(named) > members_max:
        raise TooLarge(f"a group has at most {members_max} publishers", limit="group_members_max")
    take_turns(session, "publisher_group.code")
    wanted = _publisher_ids(session, named)
    held = _held(session, group, at)
    before = {one for one, is_member in held.items() if is_member}
    moved = [(one, True) for one in sorted(wanted - before)]
    moved += [(one, False) for one in sorted(before - wanted)]
    for publisher_id, is_member in moved:
        session.add(
            PublisherGroupChange(
                group_id=group.id,
                publisher_id=publisher_id,
                is_member=is_member,
                at=at,
                actor=actor,
                recorded_at=now,
            )
        )
    if moved:
        audit.record(
            session,
            actor=actor,
            action="publisher_group.members",
            subject_id=group.id,
            now=now,
            joined=[one for one, is_member in moved if is_member],
            left=[one for one, is_member in moved if not is_member],
        )
    session.flush()
    return len(moved)


def _held(session: Session, group: PublisherGroup, at: datetime) -> Mapping[str, bool]:
    query = (
        select(PublisherGroupChange.publisher_id, PublisherGroupChange.is_member)
        .where(PublisherGroupChange.group_id == group.id, col(PublisherGroupChange.at) <= at)
        .order_by(col(PublisherGroupChange.at), col(PublisherGroupChange.seq))
    )
    return dict(session.exec(query).all())


def _publisher_ids(session: Session, named: Sequence[str]) -> set[str]:
    found: dict[str, str] = {}
    for start in range(0, len(named), _IDS_PER_QUERY):
        part = named[start : start + _IDS_PER_QUERY]
        query = select(Publisher.id, Publisher.code).where(
            sa.or_(col(Publisher.id).in_(part), col(Publisher.code).in_(part))
        )
        for publisher_id, code in session.exec(query):
            found |= {publisher_id: publisher_id, code: publisher_id}
    for at, one in enumerate(named):
        if one not in found:
            raise invalid(f"publishers[{at}]", "publisher", "is no code or id of a publisher")
    return {found[one] for one in named}
