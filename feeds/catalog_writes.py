"""Writing the catalogue: one writer at a time, and a number that rises with every change."""

from collections.abc import Iterable, Iterator
from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Session, col, select

from feeds.models import Product
from feeds.staging import Change, Stored
from kernel.ids import new_id

_STORED_ROWS_A_FETCH = 5_000
# PostgreSQL's writers take turns under this number; SQLite has one writer anyway.
_TURN = 0x7461_6C6C_7966_6565


def take_turn(session: Session) -> None:
    """Wait until no other transaction writes the catalogue; to be done before every write."""
    # Until the commit, so that numbers become visible in their order: a reader that goes on after
    # the highest one it saw must never find a lower one later.
    if session.get_bind().dialect.name == "postgresql":
        session.execute(sa.select(sa.func.pg_advisory_xact_lock(_TURN)))


def stored(session: Session, source_id: str) -> Iterator[Stored]:
    """Everything kept of a source, tombstones too, a batch in memory at a time."""
    query = (
        sa.select(
            col(Product.item_id),
            col(Product.id),
            col(Product.fingerprint),
            col(Product.removed_at).is_not(None),
        )
        .where(col(Product.source_id) == source_id)
        .execution_options(yield_per=_STORED_ROWS_A_FETCH)
    )
    for row in session.execute(query):
        yield Stored(*row)


def _last_seq(session: Session) -> int:
    return session.exec(select(sa.func.coalesce(sa.func.max(col(Product.seq)), 0))).one()


def write(
    session: Session, source_id: str, program_id: str, chunk: list[Change], *, now: datetime
) -> None:
    """Add the new items, replace the changed ones, bring back the removed ones."""
    new, known = [], []
    for seq, change in enumerate(chunk, start=_last_seq(session) + 1):
        row = change.columns | {"seq": seq, "updated_at": now, "removed_at": None}
        if change.product_id:
            known.append(row | {"id": change.product_id})
        else:
            made = {"id": new_id("prd", at=now), "source_id": source_id, "program_id": program_id}
            new.append(row | made)
    if new:
        # Without this, rows with and without a sale price would go in as separate statements.
        session.execute(sa.insert(Product), new, execution_options={"render_nulls": True})
    if known:
        session.execute(sa.update(Product), known)


def remove(session: Session, product_ids: Iterable[str], *, now: datetime) -> None:
    """Turn items into tombstones: no longer on offer, still known."""
    rows = [
        {"id": product_id, "seq": seq, "updated_at": now, "removed_at": now}
        for seq, product_id in enumerate(product_ids, start=_last_seq(session) + 1)
    ]
    session.execute(sa.update(Product), rows)
