"""Reading what can be promoted, and what came of the looks at its sources."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

import sqlalchemy as sa
from sqlmodel import Session, col, select

from feeds.models import FeedImport, FeedSource, Product, Rejection
from kernel.errors import Forbidden, NotFound, invalid
from network.access import Actor, scope_to_party
from network.models import Program, Role

AVAILABILITIES = (
    "in_stock",
    "limited",
    "preorder",
    "backorder",
    "out_of_stock",
    "discontinued",
)
PAGE_ROWS_MAX = 1_000
QUERY_CHARS_MAX = 200
QUERY_WORDS_MAX = 8
_GTIN_LENGTHS = (8, 12, 13, 14)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProductQuery:
    """What to look for; what is empty does not narrow the search.

    `q`: every word occurs in title, brand or description, in capitals or not (on SQLite only the
    letters a to z know both forms). `category` is how the item's category path begins. Prices are
    minor units of each program's currency and are compared with the regular price.
    """

    q: str = ""
    brand: str = ""
    gtin: str = ""
    availability: str = ""
    price_min_minor: int | None = None
    price_max_minor: int | None = None
    category: str = ""
    updated_since: datetime | None = None


def page(
    session: Session,
    *,
    program_ids: Sequence[str],
    query: ProductQuery,
    after_seq: int = 0,
    limit: int = 100,
) -> list[Product]:
    """Items on offer in these programs, ascending by `seq`, from after `after_seq`.

    An item that changes meanwhile moves to the end, so a reader that goes on misses nothing. At
    most PAGE_ROWS_MAX. Raises InvalidInput naming the field of the query that breaks a rule.
    """
    _check(query)
    if not program_ids:
        return []
    found = (
        select(Product)
        .where(
            col(Product.program_id).in_(program_ids),
            col(Product.removed_at).is_(None),
            col(Product.seq) > after_seq,
            *_words(query.q),
            *_exact(query),
            *_ranges(query),
        )
        .order_by(col(Product.seq))
        .limit(max(1, min(limit, PAGE_ROWS_MAX)))
    )
    return list(session.exec(found))


def count(session: Session, program_ids: Sequence[str]) -> int:
    """How many items these programs offer now."""
    if not program_ids:
        return 0
    query = (
        select(sa.func.count())
        .select_from(Product)
        .where(col(Product.program_id).in_(program_ids), col(Product.removed_at).is_(None))
    )
    return session.exec(query).one()


def effective_price_minor(product: Product, *, now: datetime) -> int:
    """What a shopper pays at an instant: the sale price inside its window, else the price."""
    if product.sale_price_minor is None:
        return product.price_minor
    begins, ends = product.extra.get("sale_from", ""), product.extra.get("sale_to", "")
    begun = not begins or datetime.fromisoformat(begins) <= now
    ended = bool(ends) and datetime.fromisoformat(ends) <= now
    return product.sale_price_minor if begun and not ended else product.price_minor


def sources(session: Session, actor: Actor) -> list[FeedSource]:
    """The feed sources this actor runs: all for a manager, an advertiser's own; oldest first.

    Raises Forbidden for publishers: the URL of a feed may hold a key of the shop.
    """
    return list(session.execute(_visible_sources(actor)).scalars())


def source(session: Session, actor: Actor, source_id: str) -> FeedSource:
    """One feed source of this actor's; NotFound for any other. Forbidden as in `sources`."""
    found: FeedSource | None = session.execute(
        _visible_sources(actor).where(col(FeedSource.id) == source_id)
    ).scalar_one_or_none()
    if found is None:
        raise NotFound("no such feed source", kind="feed_source")
    return found


def last_imports(session: Session, source_id: str, limit: int = 20) -> list[FeedImport]:
    """The latest looks at a source, newest first. The caller has asked `source` for it before."""
    query = (
        select(FeedImport)
        .where(FeedImport.source_id == source_id)
        .order_by(col(FeedImport.at).desc(), col(FeedImport.id).desc())
        .limit(max(1, min(limit, PAGE_ROWS_MAX)))
    )
    return list(session.exec(query))


def rejections(
    session: Session,
    import_id: str,
    *,
    severity: str = "",
    after_seq: int = 0,
    limit: int = 100,
) -> list[Rejection]:
    """The kept problems of an import in the order of its file; `error` or `warning`, if given.

    Empty for an import whose details were dropped for younger ones.
    """
    query = select(Rejection).where(
        Rejection.import_id == import_id, col(Rejection.seq) > after_seq
    )
    if severity:
        query = query.where(Rejection.severity == severity)
    ordered = query.order_by(col(Rejection.seq)).limit(max(1, min(limit, PAGE_ROWS_MAX)))
    return list(session.exec(ordered))


def _visible_sources(actor: Actor) -> sa.Select[FeedSource]:
    if actor.role is Role.PUBLISHER:
        raise Forbidden("feed sources are for managers and advertisers")
    query = (
        sa.select(FeedSource)
        .join(Program, col(Program.id) == col(FeedSource.program_id))
        .order_by(col(FeedSource.created_at), col(FeedSource.id))
    )
    return scope_to_party(query, actor, publisher=sa.null(), advertiser=col(Program.advertiser_id))


def _check(query: ProductQuery) -> None:
    for name in ("q", "brand", "category"):
        if len(getattr(query, name)) > QUERY_CHARS_MAX:
            raise invalid(name, "length", f"must have at most {QUERY_CHARS_MAX} characters")
    if len(query.q.split()) > QUERY_WORDS_MAX:
        raise invalid("q", "words", f"must have at most {QUERY_WORDS_MAX} words")
    if query.gtin and not _is_gtin(query.gtin):
        raise invalid("gtin", "gtin", "must be 8, 12, 13 or 14 digits")
    if query.availability and query.availability not in AVAILABILITIES:
        raise invalid("availability", "enum", "must be one of " + ", ".join(AVAILABILITIES))


def _is_gtin(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) in _GTIN_LENGTHS


def _words(q: str) -> list[sa.ColumnElement[bool]]:
    return [
        sa.or_(
            *(
                column.icontains(word, autoescape=True)
                for column in (col(Product.title), col(Product.brand), col(Product.description))
            )
        )
        for word in q.split()
    ]


def _exact(query: ProductQuery) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if query.brand:
        # Both sides by the database: it and Python disagree about letters beyond a to z.
        found.append(sa.func.lower(col(Product.brand)) == sa.func.lower(query.brand))
    if query.gtin:
        found.append(col(Product.gtin14) == query.gtin.zfill(14))
    if query.availability:
        found.append(col(Product.availability) == query.availability)
    if query.category:
        found.append(col(Product.category).istartswith(query.category, autoescape=True))
    return found


def _ranges(query: ProductQuery) -> list[sa.ColumnElement[bool]]:
    found: list[sa.ColumnElement[bool]] = []
    if query.price_min_minor is not None:
        found.append(col(Product.price_minor) >= query.price_min_minor)
    if query.price_max_minor is not None:
        found.append(col(Product.price_minor) <= query.price_max_minor)
    if query.updated_since is not None:
        found.append(col(Product.updated_at) >= query.updated_since)
    return found
