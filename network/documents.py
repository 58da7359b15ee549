"""Documents of a program that are published in versions: immutable, dated, each a row.

A change is a later version. What was decided by one keeps its id, whatever is published after.
"""

import hashlib
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlmodel import Field, Session, SQLModel, col, select

from kernel import audit
from kernel.database import json_column
from kernel.errors import TooLarge
from kernel.ids import new_id


class DocumentVersion(SQLModel):
    """What the tables of such documents have in common. They are append-only.

    In force for what occurred at a time is the version with the latest start not after it; of
    equal starts the later version.
    """

    id: str = Field(primary_key=True)
    program_id: str = Field(foreign_key="program.id")
    version: int
    effective_from: datetime
    document: dict[str, Any] = json_column()
    content_hash: str
    published_by: str
    published_at: datetime


V = TypeVar("V", bound=DocumentVersion)


def check_size(document: Mapping[str, Any], *, bytes_max: int, what: str) -> None:
    """TooLarge when the document has more bytes, written canonically."""
    if len(_canonical(document)) > bytes_max:
        raise TooLarge(f"{what} has at most {bytes_max} bytes")


def publish(
    session: Session,
    model: type[V],
    *,
    prefix: str,
    action: str,
    program_id: str,
    document: Mapping[str, Any],
    effective_from: datetime,
    actor: str,
    now: datetime,
) -> V:
    """Add the program's next version, which has been checked, and note it in the audit log.

    The caller holds the program's lock, which keeps the numbers without gaps and repeats.
    """
    last = session.exec(
        select(sa.func.coalesce(sa.func.max(col(model.version)), 0)).where(
            model.program_id == program_id
        )
    ).one()
    version = model(
        id=new_id(prefix, at=now),
        program_id=program_id,
        version=last + 1,
        effective_from=effective_from,
        document=dict(document),
        content_hash=_hash(document),
        published_by=actor,
        published_at=now,
    )
    session.add(version)
    audit.record(
        session,
        actor=actor,
        action=action,
        subject_id=version.id,
        now=now,
        program_id=program_id,
        version=version.version,
        content_hash=version.content_hash,
    )
    session.flush()
    return version


def is_intact(version: DocumentVersion) -> bool:
    """Whether the document is the one that was published, by the hash taken then."""
    return version.content_hash == _hash(version.document)


def version_at(session: Session, model: type[V], program_id: str, at: datetime) -> V | None:
    """The version for what occurred at `at`; None before the first."""
    query = (
        select(model)
        .where(model.program_id == program_id, model.effective_from <= at)
        .order_by(col(model.effective_from).desc(), col(model.version).desc())
        .limit(1)
    )
    return session.exec(query).first()


def versions(
    session: Session,
    model: type[V],
    program_id: str,
    *,
    before_version: int | None = None,
    limit: int | None = None,
) -> list[V]:
    """The program's versions, newest first."""
    query = select(model).where(model.program_id == program_id)
    if before_version is not None:
        query = query.where(model.version < before_version)
    return list(session.exec(query.order_by(col(model.version).desc()).limit(limit)))


def _hash(document: Mapping[str, Any]) -> str:
    return hashlib.sha256(_canonical(document)).hexdigest()


def _canonical(document: Mapping[str, Any]) -> bytes:
    text = json.dumps(document, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return text.encode()
