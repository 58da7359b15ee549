from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy.engine import Engine
from sqlmodel import Session, col, select

from feeds import imports
from feeds.models import FeedSource, Product
from kernel.database import reading, unit_of_work
from network import programs
from network.models import Program

COLUMNS = ("id", "title", "description", "link", "image_link", "availability", "price")
Row = dict[str, str]
WriteTable = Callable[..., Path]


def item(item_id: str, **changes: str) -> Row:
    return {
        "id": item_id,
        "title": f"Shirt {item_id}",
        "description": "A shirt",
        "link": f"https://shop.example/{item_id}",
        "image_link": "https://cdn.example/1.png",
        "availability": "in stock",
        "price": "15.00 EUR",
    } | changes


def table(*rows: Row, extra: tuple[str, ...] = ()) -> bytes:
    columns = COLUMNS + extra
    lines = ["\t".join(columns)]
    lines += ["\t".join(row.get(column, "") for column in columns) for row in rows]
    return ("\n".join(lines) + "\n").encode()


@pytest.fixture
def write_table(tmp_path: Path) -> WriteTable:
    def made(*rows: Row, extra: tuple[str, ...] = ()) -> Path:
        path = tmp_path / "feed.tsv"
        path.write_bytes(table(*rows, extra=extra))
        return path

    return made


@pytest.fixture
def make_source(now: datetime) -> Callable[..., FeedSource]:
    def made(engine: Engine, *, code: str = "shop", url: str = "") -> FeedSource:
        with unit_of_work(engine) as session:
            advertiser = programs.add_advertiser(session, name=code, now=now)
            program = programs.add(
                session,
                advertiser_id=advertiser.id,
                code=code,
                name=code,
                currency="EUR",
                landing_url="https://shop.example/",
                now=now,
            )
            return imports.add_source(
                session, program_id=program.id, name="Main", url=url, actor="usr_m", now=now
            )

    return made


def products(engine: Engine) -> list[Product]:
    with reading(engine) as session:
        return list(session.exec(select(Product).order_by(col(Product.seq))))


def program_of(session: Session, source: FeedSource) -> Program:
    return session.get_one(Program, source.program_id)
